"""Search coordinate-wise codes: by a compiled scan for few queries, by BLAS on decoded blocks for many."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numba import njit

from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Metric
from packbench.topk import TopK

FEW = 8  # below this many queries, decoding a block for BLAS costs more than it saves
SCAN_ROWS = 32768  # their scores stay in the second-level cache
BLOCK_BYTES = 1 << 20  # a decoded block: smaller ones cost BLAS more than they save in cache misses


class BlockSearcher(ABC):
    """Score n codes by inner products with decoded blocks and squared norms, which are not kept between queries.

    Norms that were computed once and kept would be four bytes per item that nobody weighed.
    """

    kernel = "decode, blas float32"

    def __init__(self, n: int, d: int, metric: Metric) -> None:
        score_of(metric)
        self._n, self._metric = n, metric
        self._norms = metric != "ip"
        self._rows = max(64, BLOCK_BYTES // (4 * d))

    @abstractmethod
    def _decode(self, part: slice) -> tuple[Array, Array]:
        """Return rows as float32 (rows, d) and, where `_norms` asks for them, their squared norms."""

    def _queries(self, queries: Array) -> Array:
        return queries

    def search(self, queries: Items, k: int) -> Hits:
        q = self._queries(as_vectors(queries, "queries"))
        kept = TopK(len(q), k)
        for part in blocks(self._n, self._rows):
            rows, squares = self._decode(part)
            kept.add(self._score(rows @ q[0] if len(q) == 1 else q @ rows.T, squares), part.start)
        return kept.hits()

    def _score(self, dots: Array, squares: Array) -> Array:
        # The query's own norm shifts or scales all its scores alike, so it is left out.
        dots = np.atleast_2d(dots)
        if self._metric == "cosine":
            return np.asarray(dots / np.sqrt(np.where(squares > 0, squares, 1)))
        return np.asarray(2 * dots - squares) if self._metric == "l2" else dots


class ScanSearcher(BlockSearcher):
    """Scan the codes as they are for single queries, for which a block would be decoded to be read once."""

    kernel = "numba scan, blas float32 for batches"
    _few = FEW

    @abstractmethod
    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        """Return inner products of one query (d,) and, where `_norms` asks for them, squared norms of the rows."""

    def search(self, queries: Items, k: int) -> Hits:
        if not 0 < len(queries) < self._few:
            return super().search(queries, k)
        q = self._queries(as_vectors(queries, "queries"))
        kept = TopK(len(q), k)
        for part in blocks(self._n, SCAN_ROWS):
            kept.add(np.concatenate([self._score(*self._scan(query, part)) for query in q]), part.start)
        return kept.hits()


def squared_norms(rows: Array) -> Array:
    """Return the squared length of each row of a float32 matrix; einsum takes five times as long."""
    found = np.empty(len(rows), np.float32)
    _squared_norms(rows, found)
    return found


@njit(cache=True, nogil=True, fastmath=True)
def _squared_norms(rows, found):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for row in range(n):
        total = np.float32(0)
        for j in range(d):
            total += rows[row, j] * rows[row, j]
        found[row] = total
