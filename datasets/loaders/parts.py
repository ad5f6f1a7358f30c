"""Hold what one file of vectors brings, and turn any numeric matrix into checked float32 rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array, check_finite, left_on_disk
from packbench.method import Metric


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Bundle the matrices (n, d) of one file, in the file's own type; None where the format or the file has none."""

    items: Array
    queries: Array | None = None
    fit: Array | None = None
    metric: Metric | None = None


def float32_rows(array: Array, what: str) -> Array:
    """Return (n, d) float32 with contiguous rows; a large memory-mapped matrix stays in its file, whatever its type.

    A smaller one of float32 stays where it is, too.

    Raises:
        BadInput: no matrix of numbers, no rows, or NaN or infinity in a row, which is named.
    """
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise BadInput(f"{what}: expected a matrix (n, d) of numbers, got shape {array.shape}, type {array.dtype}")
    if 0 in array.shape:
        raise BadInput(f"{what}: it is empty (shape {array.shape}); at least one vector is needed")
    kept = left_on_disk(array)
    if kept is not None:
        check_finite(kept, what)
        return kept
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinity, and the check below names its row
        rows = np.asarray(array, dtype=np.float32)
    if rows.strides[1] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
    check_finite(rows, what)
    return rows
