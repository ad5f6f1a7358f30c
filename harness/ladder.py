"""Cut a data set to nested sizes: the same queries, their judged items, and ever more distractors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from packbench.dataset import Dataset
from packbench.errors import BadInput
from packbench.items import Array, take

LEAST = 300  # below it a hundred neighbours are a third of all items


def rungs(dataset: Dataset, sizes: Sequence[int] | None = None, seed: int = 0) -> list[Dataset]:
    """Return the data set at each size, smallest first; the full size is the data set itself, under its own name.

    Every smaller one is called NAME@n and holds a random part of the next one's items, what is judged and what is a
    query's own row always among them. Queries, judgements and the fit sample stay, so that size alone differs; where
    methods fit on the searched items, a rung's fit sample therefore holds items that the rung leaves out. By default
    the sizes go up in half decades (1, 3, 10...) and end with all items.

    Raises:
        BadInput: a size below what the queries need, or above what there is.
    """
    needed = _needed(dataset)
    chosen = sorted(set(sizes)) if sizes else _half_decades(max(len(needed), LEAST), dataset.n)
    least = max(len(needed), 1)
    if chosen[0] < least or chosen[-1] > dataset.n:
        raise BadInput(
            f"ladder of {dataset.name}: sizes {', '.join(map(str, chosen))}; expected {least} (items that are judged "
            f"or are queries themselves) to {dataset.n} (all)"
        )
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(dataset.n), needed))
    order = np.concatenate([needed, others])
    return [dataset if size == dataset.n else _rung(dataset, np.sort(order[:size])) for size in chosen]


def _needed(dataset: Dataset) -> Array:
    """Return the items (rows, ascending) that no rung can do without."""
    rows = [own[own >= 0] for own in (dataset.self_rows, dataset.validation_self_rows) if own is not None]
    if dataset.qrels is not None:
        places = {name: row for row, name in enumerate(dataset.item_ids or ())}
        rows.append(np.array([places[document] for judged in dataset.qrels.values() for document in judged], np.int64))
    return np.unique(np.concatenate(rows)).astype(np.int64) if rows else np.empty(0, np.int64)


def _half_decades(least: int, most: int) -> list[int]:
    steps = (step * 10**power for power in range(2, 13) for step in (1, 3))
    return [*(size for size in steps if least <= size < most), most]


def _rung(dataset: Dataset, rows: Array) -> Dataset:
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}@{len(rows)}",
        items=take(dataset.items, rows),
        item_ids=None if dataset.item_ids is None else [dataset.item_ids[row] for row in rows],
        self_rows=_moved(dataset.self_rows, rows),
        validation_self_rows=_moved(dataset.validation_self_rows, rows),
        card={**dataset.card, "ladder_of": dataset.name},
    )


def _moved(own: Array | None, rows: Array) -> Array | None:
    """Return where each query's own row has gone."""
    return None if own is None else np.where(own >= 0, np.searchsorted(rows, own), -1)
