"""Write the arrays of a fitted method to disk, weigh them, and read them back where nothing else is known."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from packbench.errors import Disqualified
from packbench.items import Array, blocks, let_go
from packbench.method import BUILD, COLD, Arrays

HASHED_BYTES = 16 << 20  # at a time, for arrays may lie in files larger than memory
Tier = Literal["payload", "shared", "cold"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")


@dataclass(frozen=True, slots=True)
class Entry:
    """Weigh one array: which tier it lies in, what it is, and its bytes."""

    tier: Tier
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Itemise the memory that search needs: payload per item, shared in all, cold (disk) per item."""

    n: int
    entries: tuple[Entry, ...]

    def _sum(self, tier: Tier) -> int:
        return sum(entry.nbytes for entry in self.entries if entry.tier == tier)

    @property
    def payload(self) -> float:
        """Return bytes per item of what encode returned."""
        return self._sum("payload") / self.n

    @property
    def shared(self) -> int:
        """Return bytes, in all, of what fit returned for search."""
        return self._sum("shared")

    @property
    def cold(self) -> float:
        """Return bytes per item of what stays on disk."""
        return self._sum("cold") / self.n

    def total(self, n: int | None = None) -> float:
        """Return bytes of memory per item with the shared arrays spread over n items (default: those coded)."""
        return self.payload + self.shared / (n or self.n)

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as it stands in a result row."""
        return {
            "payload": self.payload,
            "shared": self.shared,
            "cold": self.cold,
            "total": self.total(),
            "n": self.n,
            "arrays": [[e.tier, e.name, e.dtype, list(e.shape), e.nbytes] for e in self.entries],
        }


def checked(arrays: Any, where: str) -> dict[str, Array]:
    """Return plain arrays under plain names, refusing what could not be weighed or read back.

    Raises:
        Disqualified: not a mapping of names to arrays of numbers.
    """
    if not hasattr(arrays, "items"):
        raise Disqualified(f"{where} returned {type(arrays).__name__}, expected a mapping of names to arrays")
    found: dict[str, Array] = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Disqualified(
                f"{where} returned an array named {name!r}; names are letters, digits, '_', '.', '-', '/'"
            )
        array = np.asarray(value)
        if not isinstance(value, np.ndarray) or array.dtype.hasobject or array.dtype.kind not in "biufcVSU":
            kind = f"an array of type {array.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise Disqualified(f"{where} returned {kind} for {name!r}; only arrays of plain numbers can be weighed")
        found[name] = array
    return found


def for_search(arrays: Arrays) -> dict[str, Array]:
    """Leave out the arrays that only encode is given."""
    return {name: array for name, array in arrays.items() if not name.startswith(BUILD)}


def weigh(codes: Arrays, shared: Arrays, n: int) -> Ledger:
    """Weigh what encode and fit returned, by the bytes of the arrays themselves."""
    entries: list[Entry] = []
    groups: tuple[tuple[Tier, Arrays], ...] = (("payload", codes), ("shared", shared))
    for tier, arrays in groups:
        for name, array in for_search(arrays).items():
            kind: Tier = "cold" if name.startswith(COLD) else tier
            entries.append(Entry(kind, name, array.dtype.str, array.shape, array.nbytes))
    return Ledger(max(n, 1), tuple(entries))


def fingerprint(codes: Arrays, shared: Arrays) -> str:
    """Hash what search is given: names, types, shapes and bytes of every array, whatever their order."""
    found = hashlib.sha256()
    for role, arrays in (("codes", codes), ("shared", shared)):
        for name, array in sorted(for_search(arrays).items()):
            found.update(f"{role} {name} {array.dtype.str} {array.shape}\n".encode())
            rows = np.atleast_1d(array)
            for part in blocks(len(rows), max(1, HASHED_BYTES * len(rows) // max(rows.nbytes, 1))):
                found.update(np.ascontiguousarray(rows[part]).data)
                let_go(array)
    return found.hexdigest()[:16]


def save(folder: Path, codes: Arrays, shared: Arrays, **manifest: Any) -> int:
    """Write the arrays that search needs as .npy files and a manifest; return their bytes on disk less the headers."""
    written = 0
    listed: list[list[str]] = []
    for role, arrays in (("codes", codes), ("shared", shared)):
        for position, (name, array) in enumerate(for_search(arrays).items()):
            file = folder / f"{role}-{position}.npy"
            if isinstance(array, np.memmap) and Path(str(array.filename)).parent == folder:
                Path(str(array.filename)).rename(file)  # made block by block, in the file that it is to lie in
            else:
                np.save(file, array, allow_pickle=False)
            with file.open("rb") as stream:
                np.lib.format.read_magic(stream)
                np.lib.format.read_array_header_1_0(stream)
                written += file.stat().st_size - stream.tell()
            listed.append([role, name, file.name])
    (folder / "manifest.json").write_text(json.dumps({"files": listed, **manifest}, indent=1))
    return written


def load(folder: Path) -> tuple[dict[str, Array], dict[str, Array], dict[str, Any]]:
    """Read an artefact: codes, shared arrays, manifest; hot arrays into memory, cold ones memory-mapped."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    found: dict[str, dict[str, Array]] = {"codes": {}, "shared": {}}
    for role, name, file in manifest["files"]:
        mode: Literal["r"] | None = "r" if name.startswith(COLD) else None
        found[role][name] = np.load(folder / file, mmap_mode=mode, allow_pickle=False)
    return found["codes"], found["shared"], manifest
