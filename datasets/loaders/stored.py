"""Take vectors that lie beside the texts of a BEIR folder, in a folder named after the encoder.

FOLDER/all-MiniLM-L6-v2/ holds corpus*.npy with corpus_ids.txt, and queries*.npy with queries_ids.txt (or
test_query_ids.txt): one id a line, in the order of the rows. A query that is not among them is as good as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from packbench.datasets.encode import short_name
from packbench.datasets.npy import read_npy
from packbench.datasets.parts import float32_rows
from packbench.errors import BadInput
from packbench.items import Array


def find_stored(folder: Path, encoder: str | Path | None) -> Path | None:
    """Return the folder of vectors by that encoder; without an encoder, the only such folder there is."""
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and (path / "corpus_ids.txt").is_file()]
    if encoder is None:
        return found[0] if len(found) == 1 else None
    return next((path for path in found if path.name.lower() == short_name(encoder)), None)


class StoredEmbeddings:
    """Look up vectors by id."""

    def __init__(self, folder: Path, card: Mapping[str, Any]) -> None:
        self._folder = folder
        self._vectors = {"document": _read(folder, "corpus*.npy", "corpus_ids.txt"),
                         "query": _read(folder, "quer*.npy", "*quer*_ids.txt")}  # fmt: skip
        stated = {key: card[key] for key in card if key.startswith("encoder")}
        self.card: dict[str, Any] = {"encoder": folder.name, **stated, "vectors": "stored beside the texts"}

    def has(self, identifier: str) -> bool:
        """Tell whether there is a vector for a query."""
        return identifier in self._vectors["query"][0]

    def embed(self, kind: str, texts: Mapping[str, str]) -> Array:
        """Return (n, d) float32 of the given ids; kind is "document" or "query"."""
        rows, vectors = self._vectors[kind]
        missing = [name for name in texts if name not in rows]
        if missing:
            raise BadInput(
                f"{self._folder} has no vector for {len(missing)} of {len(texts)} {kind} ids, {missing[0]!r} first; "
                "vectors and texts do not belong together. Move that folder away to embed anew"
            )
        return np.ascontiguousarray(vectors[[rows[name] for name in texts]])


def _read(folder: Path, pattern: str, ids: str) -> tuple[dict[str, int], Array]:
    arrays, lists = sorted(folder.glob(pattern)), sorted(folder.glob(ids))
    if len(arrays) != 1 or len(lists) != 1:
        raise BadInput(f"{folder}: expected one {pattern} and one {ids}, found {len(arrays)} and {len(lists)}")
    vectors = float32_rows(read_npy(arrays[0]).items, str(arrays[0]))
    names = lists[0].read_text(encoding="utf-8").split("\n")
    names = names[:-1] if names[-1] == "" else names
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names) or len(names) != len(vectors):
        raise BadInput(f"{lists[0]} lists {len(names)} ids, {len(rows)} distinct, for {len(vectors)} vectors")
    return rows, vectors
