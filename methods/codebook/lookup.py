"""Scan byte codes through a table per byte, with the best k selected on the way; many queries go through BLAS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Metric
from packbench.topk import TopK

FEW = 8  # queries up to which a table for each beats decoding a block for all
ROWS = 8192


class LookupSearcher:
    """Search codes (n, nbytes) uint8 whose every axis has a value under each code of its byte.

    codebook is (dim, 256), byte (dim,) names the byte of each axis; queries are mapped to (n_queries, dim). Scores are
    inner products, or negated squared distances in these axes.
    """

    kernel = "numba look-up, blas float32 for batches"

    def __init__(
        self, codes: Array, codebook: Array, byte: Array, metric: Metric, map_queries: Callable[[Array], Array]
    ) -> None:
        self._codes = np.ascontiguousarray(codes)
        self._codebook, self._byte, self._map, self._l2 = codebook, byte.astype(np.int64), map_queries, metric == "l2"

    def search(self, queries: Items, k: int) -> Hits:
        q = np.ascontiguousarray(self._map(as_vectors(queries, "queries")), np.float32)
        kept = TopK(len(q), k)
        if len(q) <= FEW:
            tables = np.zeros((len(q), self._codes.shape[1], 256), np.float32)
            fill_tables(q, self._codebook, self._byte, self._l2, tables)
            for part in blocks(len(self._codes), 65536):
                scores = np.empty((len(q), part.stop - part.start), np.float32)
                scan(self._codes[part], tables, scores)
                kept.add(scores, part.start)
            return kept.hits()
        for part in blocks(len(self._codes), ROWS):
            rows = np.empty((part.stop - part.start, len(self._byte)), np.float32)
            decode(self._codes[part], self._codebook, self._byte, rows)
            scores = q @ rows.T
            if self._l2:
                scores -= np.einsum("ij,ij->i", rows, rows) / 2
            kept.add(scores, part.start)
        return kept.hits()


@njit(cache=True, nogil=True)
def fill_tables(queries, codebook, byte, l2, tables):  # type: ignore[no-untyped-def]
    """Add to tables (q, bytes, 256) what each axis scores under each code of its byte."""
    for row in range(len(queries)):
        for axis in range(len(byte)):
            table, q = tables[row, byte[axis]], queries[row, axis]
            for code in range(256):
                value = codebook[axis, code]
                # Half the squared distance, less what is the same for all items.
                table[code] += q * value - (value * value / 2 if l2 else np.float32(0))


@njit(cache=True, nogil=True, fastmath=True)
def scan(codes, tables, scores):  # type: ignore[no-untyped-def]
    """Write scores (q, n): the sums of table entries over the bytes of codes (n, bytes)."""
    n, nbytes = codes.shape
    for row in range(len(tables)):
        table = tables[row]
        for i in range(n):
            # Four sums, so that one look-up need not wait for the addition of the one before.
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            whole = nbytes // 4 * 4
            for j in range(0, whole, 4):
                a += table[j, codes[i, j]]
                b += table[j + 1, codes[i, j + 1]]
                c += table[j + 2, codes[i, j + 2]]
                d += table[j + 3, codes[i, j + 3]]
            for j in range(whole, nbytes):
                a += table[j, codes[i, j]]
            scores[row, i] = (a + b) + (c + d)


@njit(cache=True, nogil=True)
def decode(codes, codebook, byte, rows):  # type: ignore[no-untyped-def]
    """Write rows (n, axes): the value of each axis under the code of its byte."""
    for i in range(len(codes)):
        for axis in range(len(byte)):
            rows[i, axis] = codebook[axis, codes[i, byte[axis]]]
