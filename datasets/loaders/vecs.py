"""Read the TEXMEX formats, memory-mapped: every row is its length d (int32) and d values, little endian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from packbench.datasets.parts import Parts
from packbench.errors import BadInput
from packbench.items import Array, blocks

VALUES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".ivecs": np.dtype("<i4"), ".bvecs": np.dtype("u1")}
MAX_DIMENSIONS = 1 << 20


def read_vecs(path: Path, column: str | None = None) -> Parts:
    """Read .fvecs, .ivecs or .bvecs as a strided view of the file; every row's length is checked."""
    kind = VALUES[path.suffix.lower()]
    nbytes = path.stat().st_size
    if nbytes < 4:
        raise BadInput(f"{path} holds {nbytes} bytes; a row begins with its length in 4 bytes")
    raw: Array = np.asarray(np.memmap(path, np.uint8, mode="r"))
    d = int(raw[:4].view("<i4")[0])
    if not 0 < d <= MAX_DIMENSIONS:
        raise BadInput(f"{path}: its first row states {d} dimensions, so this is no {path.suffix} file")
    row_bytes = 4 + d * kind.itemsize
    if nbytes % row_bytes:
        raise BadInput(
            f"{path}: {nbytes} bytes are no whole number of rows of {d} dimensions ({row_bytes} bytes each); "
            "it is cut short, or of another format"
        )
    rows = raw.reshape(-1, row_bytes)
    for part in blocks(len(rows), 65536):
        lengths = np.ascontiguousarray(rows[part, :4]).view("<i4")[:, 0]
        if (lengths != d).any():
            row = int(np.argmax(lengths != d))
            raise BadInput(
                f"{path}: row {part.start + row} states {lengths[row]} dimensions, row 0 states {d}; "
                "all rows must be of one length"
            )
    return Parts(rows[:, 4:].view(kind))


def read_folder(folder: Path) -> Parts:
    """Read a TEXMEX folder: NAME_base, NAME_query and, where it is there, NAME_learn; its metric is l2."""
    found = {role: sorted(p for p in folder.glob(f"*_{role}.[fb]vecs")) for role in ("base", "query", "learn")}
    if len(found["base"]) != 1 or len(found["query"]) != 1:
        raise BadInput(f"{folder}: expected one file NAME_base.fvecs (or .bvecs) and one NAME_query.fvecs")
    learn = read_vecs(found["learn"][0]).items if found["learn"] else None
    return Parts(read_vecs(found["base"][0]).items, read_vecs(found["query"][0]).items, learn, "l2")
