"""Find the exact neighbours of each query once, and keep them by content hash."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from packbench.dataset import hash_items
from packbench.exact import scores_of_pairs, search_exact
from packbench.items import Array, Items
from packbench.method import Metric

DEPTH = 100
SPARE = 28  # candidates beyond the depth, so that float32 rounding at the boundary is repaired in float64
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Hold for each query its exact nearest ids, best first, and their float64 scores (negated distances for l2)."""

    ids: Array
    scores: Array


def cache_dir() -> Path:
    """Return the folder for what can be computed again: PACKBENCH_CACHE, or the user's cache."""
    chosen = os.environ.get("PACKBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packbench"


def truth_of(
    queries: Items, items: Items, metric: Metric, self_rows: Array | None = None, cache: Path | None = None
) -> Truth:
    """Return the 100 exact neighbours (and 28 spare ones) of each query, from the cache where they are known.

    Candidates come from blocked float32 BLAS and are ordered anew by float64 scores, ties by id. A query's own row
    (self_rows) is no neighbour of it.
    """
    folder = (cache_dir() if cache is None else cache) / "truth"
    digest = hashlib.sha256(f"{VERSION} {metric} {DEPTH} {SPARE}".encode())
    for what, part in (("queries", queries), ("items", items)):
        hash_items(digest, what, part)
    if self_rows is not None:
        hash_items(digest, "self", self_rows)
    file = folder / f"{digest.hexdigest()}.npz"
    if file.is_file():
        try:
            with np.load(file) as saved:
                return Truth(saved["ids"], saved["scores"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            file.unlink(missing_ok=True)  # torn by a kill: compute it again
    found = _compute(queries, items, metric, self_rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, ids=found.ids, scores=found.scores)
        partial.replace(file)
    except OSError:
        pass  # a cache that cannot be written costs time, not a result
    return found


def _compute(queries: Items, items: Items, metric: Metric, self_rows: Array | None) -> Truth:
    depth = min(len(items), DEPTH + SPARE)
    spare = 0 if self_rows is None else 1
    ids = search_exact(queries, items, metric, min(len(items), depth + spare)).ids
    if self_rows is not None:
        ids = without(ids, self_rows)[:, :depth]
    scores = scores_of_pairs(queries, items, ids, metric)
    order = np.lexsort((ids, -scores), axis=1)
    return Truth(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def without(ids: Array, rows: Array) -> Array:
    """Remove from each row of ids the id given for it (-1: none), closing the gap; the last column becomes -1."""
    hit = (ids == rows[:, None]) & (rows[:, None] >= 0)
    order = np.argsort(hit, axis=1, kind="stable")
    cleaned = np.where(hit, -1, ids)
    return np.take_along_axis(cleaned, order, 1)
