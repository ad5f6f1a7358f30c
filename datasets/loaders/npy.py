"""Read NumPy's own files: .npy memory-mapped, .npz by the names of its arrays. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from packbench.datasets.parts import Parts
from packbench.errors import BadInput
from packbench.items import Array

ITEMS = ("items", "vectors", "embeddings", "train", "base", "corpus")
QUERIES = ("queries", "test", "query")
FIT = ("fit", "learn")


def read_npy(path: Path, column: str | None = None) -> Parts:
    """Read one .npy file."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise BadInput(f"{path} is no .npy file: it does not begin as one. Write it with numpy.save")
    try:
        return Parts(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"{path} cannot be read: {_reason(error)}") from None


def read_npz(path: Path, column: str | None = None) -> Parts:
    """Read one .npz file: items (or its only array, or the one that `column` names), and queries and fit if there."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            if not isinstance(saved, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} is no .npz file; write it with numpy.savez, or give it its own suffix")
            known = list(saved.files)
            name = column or _first(ITEMS, known) or (known[0] if len(known) == 1 else None)
            if name is None or name not in known:
                raise BadInput(
                    f"{path} holds the arrays {', '.join(known) or '(none)'}; expected "
                    + (f"{name!r}, as asked" if name else f"one of {', '.join(ITEMS)}, or one array only")
                )
            found: dict[str, Array | None] = {
                part: saved[of] if (of := _first(among, known)) and of != name else None
                for part, among in (("queries", QUERIES), ("fit", FIT))
            }
            return Parts(saved[name], found["queries"], found["fit"])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if "object" in str(error).lower():
        return "arrays of Python objects are never loaded; save a plain matrix, numpy.asarray(x, 'float32')"
    return f"{error}. It may be cut short: copy or write it again"


def _first(wanted: tuple[str, ...], known: list[str]) -> str | None:
    return next((name for name in wanted if name in known), None)
