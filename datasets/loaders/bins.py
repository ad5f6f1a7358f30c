"""Read the formats of the big-ann benchmarks, memory-mapped: n and d (uint32), then n x d values, little endian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from packbench.datasets.parts import Parts
from packbench.errors import BadInput

VALUES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}


def read_bin(path: Path, column: str | None = None) -> Parts:
    """Read .fbin, .u8bin, .i8bin or .ibin; the header must account for every byte of the file."""
    kind = VALUES[path.suffix.lower()]
    nbytes = path.stat().st_size
    if nbytes < 8:
        raise BadInput(f"{path} holds {nbytes} bytes; its header alone, n and d, takes 8")
    n, d = (int(value) for value in np.fromfile(path, "<u4", 2))
    expected = 8 + n * d * kind.itemsize
    if expected != nbytes:
        raise BadInput(
            f"{path}: the header states {n} x {d} values of {kind.itemsize} bytes, {expected} bytes in all, but the "
            f"file holds {nbytes}; it is cut short, or of another format"
        )
    if n * d == 0:
        raise BadInput(f"{path} is empty: the header states {n} x {d} values")
    return Parts(np.asarray(np.memmap(path, kind, mode="r", offset=8, shape=(n, d))))
