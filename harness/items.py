"""Hold items of any track: a dense array, or a ragged one made of values and offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from packbench.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Store items of unequal length as one array of values and the row at which each item begins.

    Token vectors are values (tokens, d) float32; text is values (bytes,) uint8; a sparse vector is a structured
    value (index, weight). Item i is ``values[offsets[i]:offsets[i + 1]]``; offsets is (n + 1,) int64.
    """

    values: Array
    offsets: Array

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > len(self.values):
            raise BadInput(
                f"ragged items: offsets must be one row of n + 1 positions inside the {len(self.values)} values; "
                f"got shape {offsets.shape}"
            )
        if np.any(np.diff(offsets) < 0):
            raise BadInput("ragged items: offsets must not decrease")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, rows: int) -> Array: ...
    @overload
    def __getitem__(self, rows: slice) -> Ragged: ...
    def __getitem__(self, rows: int | slice) -> Array | Ragged:
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step != 1:
                raise BadInput("ragged items are sliced in steps of one")
            last = max(first, last)
            low, high = int(self.offsets[first]), int(self.offsets[last])
            return Ragged(self.values[low:high], self.offsets[first : last + 1] - low)
        row = range(len(self))[rows]
        found: Array = self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]
        return found

    def __iter__(self) -> Iterator[Array]:
        return (self[row] for row in range(len(self)))


Items = Array | Ragged


def width(items: Items) -> int:
    """Return the number of coordinates of a vector, d; 1 where values have none (text, for one)."""
    values = items.values if isinstance(items, Ragged) else items
    return int(values.shape[1]) if values.ndim == 2 else 1


def blocks(count: int, rows: int) -> Iterator[slice]:
    """Yield slices that cover range(count), each of at most that many rows."""
    return (slice(first, min(first + rows, count)) for first in range(0, count, max(rows, 1)))


def take(items: Items, rows: Array) -> Items:
    """Return a copy of some items, by row."""
    if not isinstance(items, Ragged):
        return np.ascontiguousarray(items[rows])
    picked = [items[int(row)] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in picked])]).astype(np.int64)
    return Ragged(np.concatenate(picked), offsets)


def to_arrays(items: Items) -> dict[str, Array]:
    """Take items apart into named arrays, as they are staged for a worker."""
    if isinstance(items, Ragged):
        return {"values": items.values, "offsets": items.offsets}
    return {"dense": items}


def from_arrays(arrays: Mapping[str, Array]) -> Items:
    """Put staged items together again."""
    return arrays["dense"] if "dense" in arrays else Ragged(arrays["values"], arrays["offsets"])


def check_finite(items: Items, what: str) -> None:
    """Refuse NaN and infinity, naming the first row that holds one."""
    values = items.values if isinstance(items, Ragged) else items
    if values.dtype.kind != "f":
        return
    for rows in blocks(len(values), 65536):
        block = values[rows]
        # A finite sum proves a finite block in one pass; only a suspicious one is looked at closely.
        if not np.isfinite(np.sum(block, dtype=np.float64)):
            bad = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            if bad.any():
                row = rows.start + int(np.argmax(bad))
                raise BadInput(
                    f"{what}: row {row} holds NaN or infinity. Remove or repair that row: no exact neighbour is "
                    "defined for it"
                )


def as_vectors(items: Any, what: str = "vectors") -> Array:
    """Return (n, d) C-contiguous float32 of what a caller gave, refusing what is no matrix of finite numbers."""
    array = np.asarray(items)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise BadInput(f"{what}: expected a matrix (n, d) of numbers, got shape {array.shape}, type {array.dtype}")
    vectors = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(vectors, what)
    return vectors
