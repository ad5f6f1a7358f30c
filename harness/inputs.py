"""Hand items over as callers do: read-only, in other types and layouts, memory-mapped; or with a value that is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from packbench.items import Array, Items, Ragged, width


def values_of(items: Items) -> Array:
    """Return the array that holds the values."""
    return items.values if isinstance(items, Ragged) else items


def with_values(items: Items, values: Array) -> Items:
    """Return items of the same lengths with other values."""
    return Ragged(values, items.offsets) if isinstance(items, Ragged) else values


def variants(items: Items, folder: Path) -> Iterator[tuple[str, Items]]:
    """Yield items as callers hand them in."""
    values = values_of(items)
    locked = values.copy()
    locked.setflags(write=False)
    yield "read-only", with_values(items, locked)
    spread = np.zeros((2 * len(values), *values.shape[1:]), values.dtype)[::2]
    spread[:] = values
    yield "of every other row", with_values(items, spread)
    if values.ndim == 2:
        yield "in Fortran order", with_values(items, np.asfortranarray(values))
    if values.dtype.kind == "f":
        yield "float64", with_values(items, values.astype(np.float64))
        yield "float16", with_values(items, values.astype(np.float16))
    np.save(folder / "mapped.npy", values)
    yield "memory-mapped", with_values(items, np.load(folder / "mapped.npy", mmap_mode="r"))


def plain(items: Items) -> Items:
    """Return a contiguous copy, in float32 where the values are floats."""
    values = values_of(items)
    return with_values(items, np.array(values, np.float32 if values.dtype.kind == "f" else values.dtype, order="C"))


def copy_of(items: Items) -> Items:
    """Return a copy to compare with later."""
    return with_values(items, values_of(items).copy())


def equal(one: Items, other: Items) -> bool:
    """Tell whether two have the same values in the same type."""
    return values_of(one).dtype == values_of(other).dtype and np.array_equal(values_of(one), values_of(other))


def spoiled(items: Items, value: float) -> tuple[Items, int] | None:
    """Return a copy with one value that is no number, and the row that an error is to name; None for other kinds."""
    values = values_of(items)
    if values.dtype.kind != "f" or values.ndim != 2:
        return None
    row = len(values) // 2
    broken = values.copy()
    broken[row, width(items) // 2] = value
    return with_values(items, broken), row
