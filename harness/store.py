"""Keep results: JSON lines under a directory, one object per cell, appended durably and never rewritten."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
Row = dict[str, Any]

# What a figure depends on. Two runs that agree in these are the same cell, and a resumed run does not repeat it.
IDENTITY = (
    "schema", "request", "version", "dataset", "dataset_sha256", "budget", "disk_budget", "deployment_n", "seed",
    "cutoffs", "threads", "tries", "machine", "software",
)  # fmt: skip


def canonical(value: Any) -> str:
    """Write JSON in one way only: sorted keys, no spaces, no NaN."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def row_id(identity: Mapping[str, Any]) -> str:
    """Hash the identity of a cell."""
    return hashlib.sha256(canonical({key: identity[key] for key in IDENTITY}).encode()).hexdigest()[:16]


class Store:
    """Append rows to DIR/results.jsonl and read every .jsonl file of DIR, those that were gzipped since included.

    The ids of a row's answers lie in DIR/hits/<measurement>.npz, so that anyone can judge them again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.place: str | Path = self.folder
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"results {folder}: is a file; expected a directory for .jsonl files")
        self.file = self.folder / "results.jsonl"

    def rows(self) -> Iterator[Row]:
        """Yield every row, in files sorted by name; a torn last line (a kill in mid-write) is passed over.

        Raises:
            BadInput: a line other than the last is no JSON object: the file was damaged by something else.
        """
        for file in sorted([*self.folder.glob("*.jsonl"), *self.folder.glob("*.jsonl.gz")]):
            yield from rows_in(file.read_bytes(), str(file))

    def by_id(self) -> dict[str, Row]:
        """Return the rows by id; where a cell was measured anew, the later one."""
        return {row["id"]: row for row in self.rows()}

    def append(self, row: Row) -> None:
        """Write one row and wait until the disk has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = canonical(row).encode() + b"\n"
        with self.file.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    self._drop_torn(stream, end)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _drop_torn(self, stream: Any, end: int) -> None:
        """Cut off what a killed writer left after the last whole line: nothing complete is lost."""
        stream.seek(0)
        whole = stream.read(end).rfind(b"\n") + 1
        stream.truncate(whole)
        stream.seek(0, os.SEEK_END)

    def save_hits(self, measurement: str, **ids: Array) -> None:
        """Keep the answers of a measurement."""
        folder = self.folder / "hits"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{measurement}.{os.getpid()}.npz"
        # Ids hardly compress, and compressing them took longer than judging them.
        np.savez(partial, allow_pickle=False, **{name: array.astype(np.int32) for name, array in ids.items()})
        partial.replace(folder / f"{measurement}.npz")

    def hits(self, measurement: str) -> dict[str, Array]:
        """Return the answers of a measurement: ids_10, ids_100."""
        with np.load(self.folder / "hits" / f"{measurement}.npz") as saved:
            return {name: saved[name] for name in saved.files}


def rows_in(data: bytes, file: str) -> Iterator[Row]:
    """Yield the rows of a file's bytes, gzipped where its name says so; a torn last line is passed over.

    Raises:
        BadInput: a line other than the last is no result, or the gzip is not whole.
    """
    lines = _unpacked(data, file).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                continue
            raise BadInput(f"{file}: line {number} is not JSON; remove that line and run again") from None
        if not isinstance(row, dict) or "id" not in row:
            raise BadInput(f"{file}: line {number} is not a packbench result; keep such files elsewhere")
        yield row


def _unpacked(data: bytes, file: str) -> bytes:
    if not file.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        raise BadInput(f"{file}: is no whole gzip file; make it again with gzip") from None


def results(folder: str | Path = "results") -> DataFrame:
    """Return the results of a directory, or a URL, as a DataFrame, one row per cell, nested fields as dotted columns.

    Raises:
        BadInput: the directory is missing or holds no results.
    """
    from pandas import DataFrame

    from packbench.places import store_at

    rows = list(store_at(folder).by_id().values())
    if not rows:
        raise BadInput(f"results {folder}: no results there; `packbench run --results {folder}` makes some")
    return DataFrame([_flat(row) for row in rows])


def _flat(row: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and key not in ("per_query", "card"):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
