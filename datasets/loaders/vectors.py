"""Make a data set of matrices: split the queries, draw the fit sample, and find each query's own row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from packbench.dataset import Dataset, from_vectors
from packbench.errors import BadInput
from packbench.items import Array, blocks
from packbench.method import Metric

FIT_ROWS = 100_000
VALIDATION_QUERIES = 500
VALIDATION_DOCUMENTS = 300


def dataset_of(
    items: Array,
    queries: Array | None,
    fit: Array | None,
    *,
    name: str,
    metric: Metric,
    validation: str,
    self_rows: Array | None,
    held_out: int | None,
    seed: int,
    card: Mapping[str, Any],
) -> Dataset:
    """Build the data set; all arrays are float32 rows, self_rows (n_queries,) belongs to the queries."""
    if queries is None and validation != "documents":
        return from_vectors(
            items, name=name, metric=metric, fit=fit, held_out=held_out, seed=seed,
            card={**card, "validation": "held-out items"},
        )  # fmt: skip
    if queries is None:
        raise BadInput(f"data set {name}: validation='documents' needs queries; without any, held-out rows choose")
    if len(queries) < 2 and validation != "documents":
        raise BadInput(f"data set {name}: {len(queries)} query; at least 2 are needed, one to choose and one to test")
    notes = dict(card)
    own: Array | None = self_rows
    chosen_self: Array | None = None
    if validation == "documents":
        rows = draw(len(items), VALIDATION_DOCUMENTS, seed)
        notes["validation"] = f"{len(rows)} items as queries, each without itself"
        test, chosen, chosen_self = np.arange(len(queries)), np.ascontiguousarray(items[rows]), rows
    else:
        test, choosing = split(len(queries), seed)
        notes["validation"] = "a third of the queries"
        chosen = np.ascontiguousarray(queries[choosing])
        if self_rows is not None:
            own, chosen_self = self_rows[test], self_rows[choosing]
    return Dataset(
        name=name, metric=metric, items=items, fit=fit_sample(items, seed) if fit is None else fit,
        fit_on="items" if fit is None else "disjoint", queries=np.ascontiguousarray(queries[test]),
        validation=chosen, self_rows=own, validation_self_rows=chosen_self, card=notes,
    )  # fmt: skip


def split(count: int, seed: int) -> tuple[Array, Array]:
    """Return the rows of queries that test and those that choose: a third, at most 500."""
    order = np.random.default_rng(seed).permutation(count)
    choosing = max(1, min(VALIDATION_QUERIES, count // 3))
    return np.sort(order[choosing:]), np.sort(order[:choosing])


def draw(count: int, at_most: int, seed: int) -> Array:
    """Return rows drawn without replacement, in order; all of them where there are no more."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:at_most])


def fit_sample(items: Array, seed: int) -> Array:
    """Return the items to fit on where a data set has no sample of its own: at most 100,000 of them."""
    return items if len(items) <= FIT_ROWS else np.ascontiguousarray(items[draw(len(items), FIT_ROWS, seed)])


def same_rows(queries: Array, items: Array) -> Array:
    """Return for each query the first item equal to it in every value, -1 where there is none."""
    wanted: dict[bytes, list[int]] = {}
    for row, query in enumerate(queries):
        wanted.setdefault((query + 0.0).tobytes(), []).append(row)  # + 0.0: minus zero equals zero
    found = np.full(len(queries), -1, np.int64)
    for part in blocks(len(items), 16384):
        for row, item in enumerate(items[part] + np.float32(0), part.start):
            for query in wanted.pop(item.tobytes(), ()):
                found[query] = row
    return found
