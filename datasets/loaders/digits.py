"""Load scikit-learn's handwritten digits: 64 grey values each, a class as relevance judgement, no download."""

from __future__ import annotations

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets.catalogue import Card
from packbench.method import Metric

ITEMS, FIT, QUERIES = 1000, 400, 250  # the remaining 147 of 1,797 choose


def load_digits_set(card: Card, metric: Metric = "l2", seed: int = 0) -> Dataset:
    """Split the 1,797 images into items, fit sample, test and validation queries, with no image in two parts.

    An item is relevant to a query when it shows the same digit. The fit sample brings its `labels`.
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(images))
    items, fit, test, choosing = np.split(order, np.cumsum([ITEMS, FIT, QUERIES]))
    alike = {digit: {str(row): 1 for row in items if digits[row] == digit} for digit in range(10)}
    return Dataset(
        name=card["name"], metric=metric, items=images[items], fit=images[fit], queries=images[test],
        validation=images[choosing], fit_extras={"labels": digits[fit].astype(np.int64)},
        item_ids=[str(row) for row in items], query_ids=[str(row) for row in test],
        qrels={str(row): alike[int(digits[row])] for row in test}, card=card,
    )  # fmt: skip
