"""Read vectors from a path, told by its suffix or by what the folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packbench.datasets import bins, hdf5, npy, parquet, vecs
from packbench.datasets.parts import Parts
from packbench.errors import BadInput
from packbench.items import Array

Reader = Callable[[Path, str | None], Parts]
READERS: dict[str, Reader] = {
    ".npy": npy.read_npy,
    ".npz": npy.read_npz,
    **dict.fromkeys(vecs.VALUES, vecs.read_vecs),
    **dict.fromkeys(bins.VALUES, bins.read_bin),
    ".hdf5": hdf5.read_hdf5,
    ".h5": hdf5.read_hdf5,
    ".parquet": parquet.read_parquet,
}


def is_beir(path: Path) -> bool:
    """Tell whether a folder is one of BEIR: a corpus in JSON lines."""
    return (path / "corpus.jsonl").is_file() or (path / "corpus.jsonl.gz").is_file()


def read_parts(path: Path, column: str | None = None) -> Parts:
    """Read what a file or a TEXMEX folder brings: items, and queries, fit sample and metric where it has them."""
    if path.is_dir():
        return vecs.read_folder(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path}: the format is told by the suffix, {path.suffix or 'none'!r} is not one of {formats()}")
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty")
    try:
        return reader(path, column)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from None


def read_vectors(path: str | Path, column: str | None = None, part: str = "items") -> Array:
    """Return the (n, d) matrix of a file in its own type, memory-mapped where the format allows it.

    Where a file holds several matrices (.npz, .hdf5, a TEXMEX folder), `part` says which: items, queries or fit.
    `column` names an array, a data set or a Parquet column, where there are several.
    """
    parts = read_parts(Path(path), column)
    found: Array | None = {"items": parts.items, "queries": parts.queries, "fit": parts.fit}[part]
    if found is None:
        raise BadInput(f"{path} holds no {part}")
    return found


def formats() -> str:
    """List the suffixes that can be read."""
    return " ".join(READERS)
