"""Cut the items into shards: encode and search each on its own, and merge their answers into those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from packbench.items import Array, Items
from packbench.method import Arrays, Hits, Method, Metric, Searcher, parts_of, rows_of

Codes = dict[str, Array]


def cut(n: int, shards: int) -> list[slice]:
    """Return rows 0 to n in at most so many contiguous parts, none empty, whose lengths differ by one at most."""
    ends = [n * shard // shards for shard in range(shards + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends) if stop > start]


def most(method: Method, shards: int) -> int:
    """Return how many shards a method may have: 1 where which items it answers with depends on other items.

    A shortlist of each shard is longer in all than one of the whole, and so would find what the whole leaves out.
    """
    whole = method.answers_whole or any(most(part, 2) == 1 for part in parts_of(method))
    return 1 if whole else shards


def encode(encode: Callable[[Items], Codes], items: Items, shards: int) -> tuple[Codes, int]:
    """Return the codes of all items, made shard by shard by a method's `encode`, and the number of shards.

    That is 1 where the codes have not one row for each item, so that nobody can tell whose they are.
    """
    parts = cut(len(items), shards)
    # An array as long as a shard may be so by chance, but not as long as a single item's too.
    if len(parts) > 1 and _follow(encode(items[:1]), 1):
        pieces = [encode(items[part]) for part in parts]
        if all(_follow(piece, part.stop - part.start) for piece, part in zip(pieces, parts, strict=True)):
            return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}, len(parts)
    return encode(items), 1


def _follow(codes: Codes, n: int) -> bool:
    return all(array.shape[:1] == (n,) for array in codes.values())


def open_shards(method: Method, codes: Arrays, shared: Arrays, metric: Metric, n: int, shards: int) -> Searcher:
    """Make the codes of n items searchable in the number of shards that `encode` returned."""
    if shards == 1:
        return method.open(codes, shared, metric)
    return _ShardSearcher([(part, method.open(rows_of(codes, part), shared, metric)) for part in cut(n, shards)])


class _ShardSearcher:
    """Ask each shard, one after the other, for its k best, and keep the k best of those."""

    def __init__(self, shards: Sequence[tuple[slice, Searcher]]) -> None:
        self._shards = shards
        self.kernel = str(getattr(shards[0][1], "kernel", "unstated"))

    def search(self, queries: Items, k: int) -> Hits:
        found = [searcher.search(queries, min(k, part.stop - part.start)) for part, searcher in self._shards]
        return merge(found, [part.start for part, _ in self._shards], k)

    def cold_bytes_per_query(self, k: int) -> int:
        """Return the bytes of cold rows that a query asks all shards for."""
        told = (getattr(searcher, "cold_bytes_per_query", None) for _, searcher in self._shards)
        return sum(int(of(k)) for of in told if callable(of))


def merge(found: Sequence[Hits], firsts: Sequence[int], k: int) -> Hits:
    """Return the k best of what shards found, their ids counted from `firsts`; equal scores go to the lower id."""
    ids = np.hstack([np.where(hits.ids >= 0, hits.ids + first, -1) for hits, first in zip(found, firsts, strict=True)])
    scores = np.hstack([hits.scores for hits in found])
    best = np.lexsort((ids, -scores, ids < 0), axis=1)[:, :k]
    return Hits(np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1))
