"""Search coordinate-wise codes: by a compiled scan for few queries, by BLAS on decoded blocks for many."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Metric
from packbench.topk import TopK

FEW = 4  # below this many queries, decoding a block for BLAS costs more than it saves
SCAN_ROWS = 65536
BLOCK_BYTES = 1 << 19  # one decoded block stays in the second-level cache


class ScanSearcher(ABC):
    """Score n codes by the metric from inner products and squared norms, neither of which is kept between queries.

    Norms that were computed once and kept would be four bytes per item that nobody weighed.
    """

    kernel = "numba scan, blas float32 for batches"

    def __init__(self, n: int, d: int, metric: Metric) -> None:
        score_of(metric)
        self._n, self._metric = n, metric
        self._norms = metric != "ip"
        self._rows = max(64, BLOCK_BYTES // (4 * d))

    @abstractmethod
    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        """Return inner products of one query (d,) and, where `_norms` asks for them, squared norms of the rows."""

    @abstractmethod
    def _decode(self, part: slice) -> tuple[Array, Array]:
        """Return rows as float32 (rows, d) and, where `_norms` asks for them, their squared norms."""

    def _queries(self, queries: Array) -> Array:
        return queries

    def search(self, queries: Items, k: int) -> Hits:
        q = self._queries(as_vectors(queries, "queries"))
        kept = TopK(len(q), k)
        if len(q) < FEW:
            for part in blocks(self._n, SCAN_ROWS):
                found = [self._scan(query, part) for query in q]
                if found:
                    kept.add(np.stack([self._score(dots, squares) for dots, squares in found]), part.start)
        else:
            for part in blocks(self._n, self._rows):
                rows, squares = self._decode(part)
                kept.add(self._score(q @ rows.T, squares), part.start)
        return kept.hits()

    def _score(self, dots: Array, squares: Array) -> Array:
        # The query's own norm shifts or scales all its scores alike, so it is left out.
        if self._metric == "cosine":
            return np.asarray(dots / np.sqrt(np.where(squares > 0, squares, 1)))
        return np.asarray(2 * dots - squares) if self._metric == "l2" else dots


def squared_norms(rows: Array) -> Array:
    """Return the squared length of each row."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
