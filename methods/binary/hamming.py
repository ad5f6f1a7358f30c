"""Pack signs into bits and search them: by Hamming distance, or with a query that keeps its real coordinates.

Bit order, the same in every method of this folder: coordinate j is bit j % 8, the least significant first, of byte
j // 8, and the bits past the last coordinate are 0. It is the order of faiss's binary indexes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Searcher

SCORERS = ("symmetric", "asymmetric")
QueryMap = Callable[[Array], Array]  # (n_queries, d) to the real coordinates (n_queries, bits) whose signs are the code


def code_bytes(bits: int) -> int:
    """Return the bytes that so many bits occupy."""
    return -(-bits // 8)


def whole_bytes(budget: Budget, shared_per_bit: float, fixed: float = 0.0) -> int:
    """Return the most bits, in whole bytes and at least 8, that a budget holds if each also costs shared bytes."""
    per_byte = 1 + 8 * shared_per_bit / budget.n
    return 8 * max(1, int((budget.bytes_per_item - fixed / budget.n) / per_byte + 1e-9))


def pack_signs(values: Array) -> Array:
    """Pack [value > 0] of (n, bits) numbers into (n, ceil(bits / 8)) uint8."""
    return np.packbits(values > 0, axis=1, bitorder="little")


def unpack_signs(codes: Array, bits: int) -> Array:
    """Return the codes as (n, bits) float32 of -1 and +1."""
    return np.unpackbits(codes, axis=1, count=bits, bitorder="little") * np.float32(2) - np.float32(1)


def open_bits(codes: Array, scorer: str, map_queries: QueryMap) -> Searcher:
    """Make packed codes searchable with the symmetric or the asymmetric scorer."""
    kind = HammingSearcher if scorer == "symmetric" else AsymmetricSearcher
    return kind(codes, map_queries)


def check_scorer(scorer: str) -> None:
    """Refuse a scorer that there is not."""
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r}: expected one of {', '.join(SCORERS)}")


class HammingSearcher:
    """Rank by bits - 2 * Hamming distance between the codes of query and item; equal scores go to the lower id."""

    kernel = "numba popcount"

    def __init__(self, codes: Array, map_queries: QueryMap) -> None:
        self._width, self._words, self._map = codes.shape[1], _words(codes), map_queries

    def search(self, queries: Items, k: int) -> Hits:
        mapped = _mapped(queries, self._map, self._width)
        q = _words(pack_signs(mapped))
        distances = np.full((len(q), 2 * max(k, 1)), np.iinfo(np.int32).max, np.int32)
        ids = np.full(distances.shape, -1, np.int64)
        _scan(self._words, q, distances, ids, 64 * q.shape[1])
        order = np.argsort(distances[:, :k], axis=1, kind="stable")
        ids = np.take_along_axis(ids[:, :k], order, axis=1)
        scores = mapped.shape[1] - 2 * np.take_along_axis(distances[:, :k], order, axis=1).astype(np.float32)
        return Hits(ids, np.where(ids >= 0, scores, np.float32(-np.inf)))


class AsymmetricSearcher:
    """Rank by the sum of q_j * (2 b_j - 1), the query in real coordinates.

    faiss FastScan scans the bits, four to a look-up, with look-up tables rounded to 8 bits; its best k + k / 4 + 16
    are scored again with the float query on the same bits. So scores are never rounded, and ids are those of an exact
    scan unless one coordinate of the query dwarfs the rest (100 times as large: 1 in 50 of the best ten differs).
    Equal scores go to the lower id.
    """

    kernel = "faiss FastScan 4 x 1 bit"

    def __init__(self, codes: Array, map_queries: QueryMap) -> None:
        self._n, self._width, self._map = len(codes), codes.shape[1], map_queries
        self._index: Any = _fast_scan(codes) if len(codes) else None

    def search(self, queries: Items, k: int) -> Hits:
        q = _mapped(queries, self._map, self._width)
        ids = np.full((len(q), k), -1, np.int64)
        scores = np.full((len(q), k), -np.inf, np.float32)
        shortlist, width = min(self._n, k + k // 4 + 16), min(self._n, k)
        if width == 0 or len(q) == 0:
            return Hits(ids, scores)
        # The bits past the last coordinate meet zeros.
        q = np.pad(q, ((0, 0), (0, 8 * self._width - q.shape[1])))
        for part in blocks(len(q), max(1, (4 << 20) // (4 * shortlist * self._width))):
            ids[part, :width], scores[part, :width] = self._best(q[part], shortlist, width)
        return Hits(ids, scores)

    def _best(self, q: Array, shortlist: int, width: int) -> tuple[Array, Array]:
        if shortlist == self._n:
            found = np.tile(np.arange(self._n), (len(q), 1))
        else:
            largest = np.abs(q).max(axis=1, keepdims=True)
            found = self._index.search(q / np.where(largest > 0, largest, 1), shortlist)[1]
            # A query of zeros finds nothing in faiss; here all items are equally far from it.
            found = np.sort(np.where(largest > 0, found, np.arange(shortlist)), axis=1)
        signs = self._index.reconstruct_batch(np.maximum(found, 0).ravel()).reshape(*found.shape, -1)
        # einsum adds up every row in the same order, so that equal codes get equal scores; a matrix product may not.
        scores = np.where(found >= 0, np.einsum("qsd,qd->qs", signs, q), np.float32(-np.inf))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _mapped(queries: Items, map_queries: QueryMap, width: int) -> Array:
    """Map queries to (n_queries, bits), refusing those of another dimension than the items."""
    q = map_queries(as_vectors(queries, "queries"))
    if code_bytes(q.shape[1]) != width:
        raise BadInput(f"queries: {q.shape[1]} coordinates do not match the {8 * width} bits stored for each item")
    return q


def _words(codes: Array) -> Array:
    """View codes as 64-bit words, padded with zero bytes where they are no whole number of words."""
    spare = -codes.shape[1] % 8
    whole = np.pad(codes, ((0, 0), (0, spare))) if spare else np.ascontiguousarray(codes)
    return np.require(np.asarray(whole).view(np.uint64), requirements=["C", "A"])


def _fast_scan(codes: Array) -> Any:
    """Return a faiss index over packed bits: a product quantiser whose codewords are the sixteen corners of ±1^4."""
    n, width = codes.shape
    plain: Any = faiss.IndexPQ(8 * width, 2 * width, 4, faiss.METRIC_INNER_PRODUCT)
    corners = unpack_signs(np.arange(16, dtype=np.uint8)[:, None], 4)
    faiss.copy_array_to_vector(np.tile(corners.ravel(), 2 * width), plain.pq.centroids)
    faiss.copy_array_to_vector(np.ascontiguousarray(codes).ravel(), plain.codes)
    plain.ntotal, plain.is_trained = n, True
    return faiss.IndexPQFastScan(plain)


def _emit_popcount(typing_context: Any, word: Any) -> Any:
    """Emit the processor's population count of a 64-bit word."""
    return types.uint64(types.uint64), lambda context, builder, signature, values: builder.ctpop(values[0])


_popcount: Any = intrinsic(_emit_popcount)


@njit(cache=True, nogil=True)
def _scan(codes, queries, distances, ids, most):  # type: ignore[no-untyped-def]
    """Leave each query's k nearest of all codes, in order of id, in the first k of 2k columns."""
    k = distances.shape[1] // 2
    n, words = codes.shape
    tally = np.zeros(most + 1, np.int64)
    kept = np.zeros(len(queries), np.int64)
    limits = np.full(len(queries), most + 1, np.int64)
    for first in range(0, n, 2048):  # a block of codes stays in cache while every query passes over it
        last = min(n, first + 2048)
        for row in range(len(queries)):
            count, limit, i = kept[row], limits[row], first
            while i < last:
                if i + 4 <= last:
                    # Four items at a time: nearly always none of them is near enough, and one branch says so.
                    a, b, c, d = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
                    for j in range(words):
                        word = queries[row, j]
                        a += np.int64(_popcount(codes[i, j] ^ word))
                        b += np.int64(_popcount(codes[i + 1, j] ^ word))
                        c += np.int64(_popcount(codes[i + 2, j] ^ word))
                        d += np.int64(_popcount(codes[i + 3, j] ^ word))
                    if min(min(a, b), min(c, d)) >= limit:
                        i += 4
                        continue
                distance = np.int64(0)
                for j in range(words):
                    distance += np.int64(_popcount(codes[i, j] ^ queries[row, j]))
                if distance < limit:
                    distances[row, count], ids[row, count] = distance, i
                    count += 1
                    if count == 2 * k:
                        limit, count = _nearest(distances[row], ids[row], count, k, tally), k
                i += 1
            kept[row], limits[row] = count, limit
    for row in range(len(queries)):
        if kept[row] > k:
            _nearest(distances[row], ids[row], kept[row], k, tally)


@njit(cache=True, nogil=True)
def _nearest(distances, ids, count, k, tally):  # type: ignore[no-untyped-def]
    """Move the k nearest to the front, in their order, and return the largest distance kept."""
    tally[:] = 0
    for i in range(count):
        tally[distances[i]] += 1
    left, cut = k, 0
    while tally[cut] < left:
        left -= tally[cut]
        cut += 1
    at = 0
    for i in range(count):
        if distances[i] < cut or (distances[i] == cut and left > 0):
            if distances[i] == cut:
                left -= 1
            distances[at], ids[at] = distances[i], ids[i]
            at += 1
    return cut
