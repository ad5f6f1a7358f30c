"""Hold items of any track: a dense array, the rows of a large file, or a ragged array made of values and offsets."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from packbench.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
APART = 64  # rows far apart that are read at once: the system may map 2 MiB around each
LARGE_BYTES = 256 << 20  # vectors that weigh more, as float32, stay in their file and are never held whole


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


class OnDisk:
    """Give rows of a memory-mapped matrix (n, d), of any type, as the float32 that methods are given.

    It stands where an array of items does: length, shape, slices, rows by number; `numpy.asarray` reads it whole. What
    is asked for is copied and the pages touched are let go, for mapped pages count as resident memory. `chosen` (n,)
    int64 names the rows of the matrix that are items, where not all of them are.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, matrix: Array, chosen: Array | None = None) -> None:
        self.matrix, self.chosen = matrix, chosen
        self.shape = (len(matrix) if chosen is None else len(chosen), matrix.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Array) -> Array:
        wanted = rows if self.chosen is None else self.chosen[rows]
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinity, which check_finite refuses
            if isinstance(wanted, np.ndarray):
                return rows_apart(self.matrix, wanted).astype(np.float32, copy=False)
            found = np.array(self.matrix[wanted], np.float32, order="C")
        let_go(self.matrix)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or np.float32, copy=False)

    def refer(self, file: Path) -> None:
        """Write where the rows lie, for `referred` to read in another process; the rows themselves stay there."""
        root = cast("np.memmap[Any, Any]", mapping_of(self.matrix))
        apart = self.matrix.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        found = {
            "path": np.array(str(root.filename)), "dtype": np.array(self.matrix.dtype.str),
            "offset": np.array(root.offset + apart), "shape": np.array(self.matrix.shape),
            "strides": np.array(self.matrix.strides),
        }  # fmt: skip
        np.savez(file, allow_pickle=False, **found | ({} if self.chosen is None else {"chosen": self.chosen}))


def referred(file: Path) -> OnDisk:
    """Return the rows that `refer` wrote of."""
    with np.load(file, allow_pickle=False) as of:
        matrix: Array = np.ndarray(
            tuple(of["shape"]), str(of["dtype"]), np.memmap(str(of["path"]), np.uint8, mode="r"), int(of["offset"]),
            tuple(of["strides"]),
        )  # fmt: skip
        return OnDisk(matrix, of.get("chosen"))


def mapping_of(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory-mapped file that an array is a view of; None where it lies in memory."""
    found = None
    while isinstance(array, np.ndarray):
        found = array if isinstance(array, np.memmap) else found
        array = array.base
    return found


def let_go(array: Array) -> None:
    """Give back the pages of a memory-mapped file that an array lies in; what they hold is in the file."""
    root = mapping_of(array)
    # Pages of a private copy ("c") are in no file.
    if root is not None and root.mode != "c" and isinstance(root.base, mmap.mmap) and hasattr(root.base, "madvise"):
        root.base.madvise(mmap.MADV_DONTNEED)


def rows_apart(array: Array, rows: Array) -> Array:
    """Return a copy of rows by number; of a memory-mapped file, few pages at a time."""
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part in blocks(len(rows), APART):
        found[part] = array[rows[part]]
        let_go(array)
    return found


def left_on_disk(array: Array) -> Array | None:
    """Return OnDisk rows in place of a memory-mapped matrix that is large; None for any other array."""
    root = mapping_of(array)
    if root is None or root.mode != "r" or root.filename is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        return None
    return cast(Array, OnDisk(array)) if is_large(array.shape) else None


def is_large(shape: tuple[int, ...]) -> bool:
    """Tell whether a matrix of that shape (n, d) weighs more, as float32, than is to be held at once."""
    return 4 * shape[0] * shape[1] > LARGE_BYTES


Items = Array | Ragged  # OnDisk poses as an array, so that nothing but what makes, stages or encodes it need know


def width(items: Items) -> int:
    """Return the number of coordinates of a vector, d; 1 where values have none (text, for one)."""
    values = items.values if isinstance(items, Ragged) else items
    return int(values.shape[1]) if values.ndim == 2 else 1


def blocks(count: int, rows: int) -> Iterator[slice]:
    """Yield slices that cover range(count), each of at most that many rows."""
    return (slice(first, min(first + rows, count)) for first in range(0, count, max(rows, 1)))


def take(items: Items, rows: Array) -> Items:
    """Return a copy of some items, by row; of a large file, where they are many, the numbers of their rows."""
    if isinstance(items, OnDisk):
        chosen = OnDisk(items.matrix, rows if items.chosen is None else items.chosen[rows])
        return cast(Array, chosen) if is_large(chosen.shape) else chosen[:]
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
