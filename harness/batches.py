"""Hold codes made alone against those made with the rest: a code that depends on its batch cannot be served."""

from __future__ import annotations

import numpy as np

from packbench.artefact import for_search
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric

Shape = tuple[int, ...]
ASKED, KEPT = 4, 3  # queries and answers of each by which codes without rows are compared


def differs(whole: Arrays, part: Arrays, rows: slice, n: int) -> str | None:
    """Say how codes of some rows, made alone, differ from the same rows made with the rest; '' where they do not.

    Items may lie along any axis. None where some array has no such axis, as values of varying number have none: then
    `scores_differ` tells.
    """
    told: str | None = ""
    for name, array in part.items():
        same = _rows_along(whole[name], array, rows, n)
        if same is None:
            told = None
        elif share := _share_unlike(array, same):
            return f"{name}: {share:.1%} of the codes of rows {rows.start} to {rows.stop - 1} change"
    return told


def _rows_along(whole: Array, part: Array, rows: slice, n: int) -> Array | None:
    """Return the rows of the whole that part holds, along the one axis in which the two can differ."""
    axis = row_axis(whole.shape, part.shape, n, rows.stop - rows.start)
    return None if axis is None else np.asarray(whole[(slice(None),) * axis + (rows,)])


def row_axis(whole: Shape, part: Shape, n: int, count: int) -> int | None:
    """Return the axis along which the codes of n items and of count of them follow the items; None if there is none."""
    if len(whole) != len(part):
        return None
    for axis in range(len(part)):
        others = whole[:axis] + whole[axis + 1 :] == part[:axis] + part[axis + 1 :]
        if others and whole[axis] == n and part[axis] == count:
            return axis
    return None


def _share_unlike(one: Array, other: Array) -> float:
    """Return the share of codes that differ by more than rounding.

    BLAS rounds a product differently with the number of rows, which can turn a bit whose value lies on a threshold;
    one code in a thousand may therefore differ, and floats in their last digits.
    """
    floats = one.dtype.kind in "fc"
    differ = ~np.isclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True) if floats else one != other
    share = float(np.mean(differ)) if differ.size else 0.0
    return share if share > 1e-3 else 0.0


def scores_differ(method: Method, items: Items, codes: Arrays, shared: Arrays, metric: Metric, queries: Items) -> str:
    """Say which of the first answers scores otherwise when its item is coded and searched alone; '' where none does."""
    asked = queries[: min(ASKED, len(queries))]
    known = for_search(shared)
    found = method.open(for_search(codes), known, metric).search(asked, min(KEPT, len(items)))
    scale = float(np.abs(found.scores[found.ids >= 0]).max(initial=0.0))
    for row in range(len(found.ids)):
        for item, score in zip(found.ids[row].tolist(), found.scores[row].tolist(), strict=True):
            if item < 0:
                continue
            one = method.encode(items[item : item + 1], shared)
            alone = method.open(for_search(one), known, metric).search(asked[row : row + 1], 1)
            if alone.ids[0, 0] != 0 or not np.isclose(alone.scores[0, 0], score, rtol=1e-3, atol=1e-3 * scale):
                return f"item {item} scores {alone.scores[0, 0]:g} when it is encoded alone, {score:g} with all"
    return ""
