"""Encode items block by block into files, so that neither they nor their codes are ever held whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0

from packbench.batches import row_axis
from packbench.items import LARGE_BYTES, Array, Items, OnDisk, Ragged, blocks, left_on_disk, let_go

FEW = 16  # rows encoded beside the first block, to learn along which axis the codes follow the items
ALIGNED = 65_536  # rows at whose multiples blocks begin, where so many fit: BLAS then rounds as it does over all rows
Codes = dict[str, Array]
Encode = Callable[[Items], Codes]


def block_rows(d: int, nbytes: int = LARGE_BYTES) -> int:
    """Return how many vectors of d float32 coordinates make a block of at most that many bytes."""
    rows = max(2, nbytes // (4 * d))
    return rows - rows % ALIGNED or rows


def encode_in_blocks(encode: Encode, items: Items, folder: Path, nbytes: int = LARGE_BYTES) -> tuple[Codes, int]:
    """Return codes and the number of blocks they were made in: one, unless items (n, d) weigh over `nbytes` as float32.

    Codes made in several blocks are memory-mapped files in the folder. A method whose arrays do not all follow the
    items along an axis (an index, values and offsets, fewer rows) is given all items at once, memory-mapped.
    """
    if isinstance(items, Ragged) or items.ndim != 2 or 4 * len(items) * items.shape[1] <= nbytes:
        return encode(np.asarray(items) if isinstance(items, OnDisk) else items), 1
    codes = _by_block(encode, items, folder, block_rows(items.shape[1], nbytes))
    if codes is not None:
        return codes, -(-len(items) // block_rows(items.shape[1], nbytes))
    return encode(_mapped_float32(items, folder)), 1


def _by_block(encode: Encode, items: Array, folder: Path, rows: int) -> Codes | None:
    """Return memory-mapped codes; None where some array does not follow the items."""
    kept = left_on_disk(items)
    source = items if kept is None else kept
    piece, few = encode(source[:rows]), min(FEW, rows - 1)
    axes = _axes(piece, encode(source[:few]), rows, few)
    if axes is None:
        return None
    codes: Codes = {}
    for position, (name, array) in enumerate(piece.items()):
        shape = _resized(array.shape, axes[name], len(items))
        codes[name] = open_memmap(folder / f"block-{position}.npy", "w+", array.dtype, shape)
    for part in blocks(len(items), rows):
        if part.start:
            piece = encode(source[part])
        count = part.stop - part.start
        if {name: (array.dtype, array.shape) for name, array in piece.items()} != {
            name: (array.dtype, _resized(array.shape, axes[name], count)) for name, array in codes.items()
        }:
            for file in folder.glob("block-*.npy"):
                file.unlink()
            return None
        for name, array in piece.items():
            codes[name][(slice(None),) * axes[name] + (part,)] = array
            let_go(codes[name])
    return codes


def _axes(piece: Codes, other: Codes, n: int, count: int) -> dict[str, int] | None:
    """Return the axis of each array along which the codes of n and of count items follow them; None if one has none."""
    found = {name: row_axis(piece[name].shape, other[name].shape, n, count) for name in piece.keys() & other.keys()}
    axes = {name: axis for name, axis in found.items() if axis is not None}
    return axes if axes.keys() == piece.keys() == other.keys() else None


def _resized(shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    return (*shape[:axis], count, *shape[axis + 1 :])


def _mapped_float32(items: Array, folder: Path) -> Array:
    """Return all items as one memory-mapped float32 array, written to a file where they are not that already."""
    if not isinstance(items, OnDisk):
        return items
    matrix: Array = items.matrix
    if items.chosen is None and matrix.dtype == np.float32 and matrix.flags.c_contiguous:
        return matrix
    file = folder / "items.npy"
    save_float32(file, items)
    mapped: Array = np.load(file, mmap_mode="r")
    file.unlink()  # what is mapped stays until the worker ends
    return mapped


def save_float32(file: Path, array: Any) -> None:
    """Write a matrix (n, d) as a .npy file of float32, a block at a time."""
    with file.open("wb") as stream:
        write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": tuple(array.shape)})
        for part in blocks(len(array), block_rows(array.shape[1])):
            stream.write(np.ascontiguousarray(array[part], np.dtype("<f4")).data)
