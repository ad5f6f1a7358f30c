"""Code vectors by product codebooks and search the codes by look-up tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numba import njit

from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Metric, Sample, Searcher
from packbench.methods.codebook.scan import TableSearcher, packed_starts, packed_tables
from packbench.methods.projection.linear import unit

ROWS = 16384  # coded at a time
TABLE_BYTES = 16 << 20  # look-up tables of a batch stay in the last-level cache
FEW = 4  # queries
MOST_TIED = 1024  # items behind the k-th that are asked for where their scores are equal
WIDTHS = (2, 4, 8, 16)  # of sub-vectors, for which faiss has fast kernels
NARROW = 4  # coordinates of a sub-vector: matrix products of so few are slow


@contextmanager
def blas_distances(wanted: bool = True) -> Iterator[None]:
    """Let faiss compute distances by matrix products, whatever their number.

    faiss 1.15 does so only where n_queries * d >= 128,000. k-means on sub-vectors of a few coordinates stays below
    and runs 4 to 14 times slower for it.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    if wanted:
        faiss.cvar.distance_compute_blas_threshold = 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def fit_vectors(sample: Sample, who: object) -> tuple[Array, Array]:
    """Return the fit sample (n, d), of length one under cosine, and the byte that tells encode to do the same."""
    score_of(sample.metric)
    vectors = as_vectors(sample.items, "fit sample")
    if not len(vectors):
        raise BadInput(f"{who}: the fit sample is empty, so there is no codebook to learn")
    cosine = sample.metric == "cosine"
    return (unit(vectors) if cosine else vectors), np.array([cosine], np.uint8)


def item_vectors(items: Items, d: int, is_unit: Array) -> Array:
    """Return items (n, d) as they are coded, refusing those of another width than the fit sample."""
    vectors = as_vectors(items)
    if vectors.shape[1] != d:
        raise BadInput(f"vectors: {vectors.shape[1]} coordinates do not match the {d} of the fit sample")
    return unit(vectors) if is_unit[0] else vectors


def check_metric(who: object, is_unit: Array, metric: Metric) -> None:
    """Refuse to search unit vectors by a metric that asks for lengths, and the other way round."""
    score_of(metric)
    if bool(is_unit[0]) != (metric == "cosine"):
        fitted = "cosine" if is_unit[0] else "ip or l2"
        raise BadInput(f"{who}: these codes were fitted for {fitted} and cannot be searched by {metric}: fit again")


def spread(vectors: Array, m: int, dsub: int = 0) -> Array:
    """Cut vectors (n, d) into m blocks of as equal width as can be, each padded with zeros to dsub: (n, m * dsub)."""
    n, d = vectors.shape
    widest = -(-d // m)
    dsub = dsub or widest
    if m * dsub == d:
        return vectors
    padded = np.zeros((n, m * dsub), np.float32)
    padded[:, _places(d, m, dsub)] = vectors
    return padded


def gathered(padded: Array, m: int, d: int) -> Array:
    """Undo `spread`: (n, m * dsub) to (n, d)."""
    if padded.shape[1] == d:
        return padded
    return np.ascontiguousarray(padded[:, _places(d, m, padded.shape[1] // m)])


def _places(d: int, m: int, dsub: int) -> Array:
    edges = np.arange(m + 1) * d // m
    return np.concatenate([block * dsub + np.arange(edges[block + 1] - edges[block]) for block in range(m)])


def assign(vectors: Array, codebook: Array) -> Array:
    """Return codes (n, ceil(m * bits / 8)) uint8 of vectors (n, d): the nearest of each block's centroids.

    Indices are packed one after the other, from the lowest bit of the first byte on, as faiss does.
    """
    m, _, dsub = codebook.shape
    # A zero coordinate does not move a nearest centroid.
    wide = next((width for width in WIDTHS if width >= dsub), dsub)
    quantiser = product_quantiser(np.pad(codebook, ((0, 0), (0, 0), (0, wide - dsub))))
    codes = np.empty((len(vectors), quantiser.code_size), np.uint8)
    for part in blocks(len(vectors), ROWS):
        codes[part] = quantiser.compute_codes(np.ascontiguousarray(spread(vectors[part], m, wide)))
    return codes


def decode(codes: Array, codebook: Array) -> Array:
    """Return (n, m * dsub) float32: the centroids that codes name."""
    if not len(codes):
        return np.zeros((0, codebook.shape[0] * codebook.shape[2]), np.float32)
    decoded: Array = product_quantiser(codebook).decode(np.ascontiguousarray(codes))
    return decoded


def unpack(codes: Array, m: int, bits: int) -> Array:
    """Return the indices (n, m) that packed codes hold."""
    flags = np.unpackbits(codes, axis=1, count=m * bits, bitorder="little").reshape(len(codes), m, bits)
    return np.asarray(flags.astype(np.int64) @ (1 << np.arange(bits)))


def product_quantiser(codebook: Array) -> Any:
    """Return a faiss.ProductQuantizer of codebooks (m, 2^bits, dsub)."""
    m, ksub, dsub = codebook.shape
    quantiser: Any = faiss.ProductQuantizer(m * dsub, m, ksub.bit_length() - 1)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).ravel(), quantiser.centroids)
    return quantiser


class IndexSearcher:
    """Search a faiss index, with queries in parts whose look-up tables stay small.

    Equal scores go to the lower id: where all codes are scanned, unless more than 1,024 items tie behind the k-th;
    elsewhere among what the index finds.
    """

    def __init__(
        self, index: Any, kernel: str, map_queries: Callable[[Array], Array] | None = None, table_bytes: int = 0
    ) -> None:
        self.kernel, self._index, self._map = kernel, index, map_queries
        self._rows = max(1, TABLE_BYTES // table_bytes) if table_bytes else ROWS

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        q = np.ascontiguousarray(self._map(q) if self._map else q, np.float32)
        ids = np.full((len(q), k), -1, np.int64)
        scores = np.full((len(q), k), -np.inf, np.float32)
        found = min(k, self._index.ntotal)
        if found:
            for part in blocks(len(q), self._rows):
                scores[part, :found], ids[part, :found] = self._best(q[part], found)
        return Hits(ids, scores)

    def _best(self, q: Array, k: int) -> tuple[Array, Array]:
        # A search that is no scan of all codes answers otherwise where it is asked for more.
        most = min(k + MOST_TIED, self._index.ntotal) if isinstance(self._index, faiss.IndexFlatCodes) else k
        asked = min(k + 1, most)
        scores, ids = self._found(q, asked)
        # faiss keeps any of equal scores; where they go on behind the k-th, more of them are asked for.
        while asked < most and ((scores[:, k - 1] == scores[:, -1]) & (ids[:, -1] >= 0)).any():
            asked = min(2 * asked, most)
            # All queries again, for in another batch their look-up tables may round differently.
            scores, ids = self._found(q, asked)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def _found(self, q: Array, k: int) -> tuple[Array, Array]:
        # A few queries are faster in single passes over the items: a matrix product with one row is slower than those.
        with blas_distances(len(q) > FEW):
            scores, ids = self._index.search(q, k)
        if self._index.metric_type == faiss.METRIC_L2:
            scores = -scores
        return np.where(ids >= 0, scores, np.float32(-np.inf)), ids


def open_product(codes: Array, codebook: Array, metric: Metric, map_queries: Callable[[Array], Array]) -> Searcher:
    """Return a searcher over codes; queries are mapped to the m * dsub coordinates of the codebooks."""
    m, ksub, dsub = codebook.shape
    bits = ksub.bit_length() - 1
    if bits <= 8:
        return TableSearcher(
            codes, packed_starts(m, bits),
            lambda queries: packed_tables(product_tables(map_queries(queries), codebook, metric), bits),
        )  # fmt: skip
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexPQ(m * dsub, m, bits, measure)
    index.pq, index.is_trained = product_quantiser(codebook), True
    if len(codes):
        index.add_sa_codes(np.ascontiguousarray(codes))
    return IndexSearcher(index, "faiss PQ look-up", map_queries, 4 * m * ksub)


def product_tables(queries: Array, codebook: Array, metric: Metric) -> Array:
    """Return what each centroid adds to a score, (n_queries, m, 2^bits): products, under l2 negated squared distances.

    Queries are (n_queries, m * dsub).
    """
    queries, codebook = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(codebook, np.float32)
    m, ksub, dsub = codebook.shape
    tables = np.empty((len(queries), m, ksub), np.float32)
    if dsub <= NARROW:
        _narrow_tables(queries, codebook, metric == "l2", tables)
        return tables
    blocked = queries.reshape(len(queries), m, dsub)
    np.matmul(blocked.transpose(1, 0, 2), codebook.transpose(0, 2, 1), out=tables.transpose(1, 0, 2))
    if metric == "l2":
        _to_distances(blocked, codebook, tables)
    return tables


@njit(cache=True, nogil=True, fastmath={"contract"})
def _narrow_tables(queries, codebook, distances, tables):  # type: ignore[no-untyped-def]
    """Write products or negated squared distances (q, m, ksub) of up to four coordinates, side by side over words."""
    m, _, dsub = codebook.shape
    for block in range(m):
        words = codebook[block].ravel()
        for row in range(len(queries)):
            query, line = queries[row, block * dsub : (block + 1) * dsub], tables[row, block]
            # Only of a width that is known when this is compiled are words turned in registers.
            if dsub == 1:
                _add_up(query, words, 1, distances, line)
            elif dsub == 2:
                _add_up(query, words, 2, distances, line)
            elif dsub == 3:
                _add_up(query, words, 3, distances, line)
            else:
                _add_up(query, words, NARROW, distances, line)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_up(query, words, dsub, distances, line):  # type: ignore[no-untyped-def]
    if distances:
        for k in range(len(line)):
            total = np.float32(0)
            for j in range(dsub):
                total -= (query[j] - words[k * dsub + j]) * (query[j] - words[k * dsub + j])
            line[k] = total
    else:
        for k in range(len(line)):
            total = np.float32(0)
            for j in range(dsub):
                total += query[j] * words[k * dsub + j]
            line[k] = total


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _to_distances(queries, codebook, tables):  # type: ignore[no-untyped-def]
    """Turn products (q, m, ksub) of queries (q, m, dsub) into negated squared distances."""
    m, ksub, dsub = codebook.shape
    norms = np.empty(ksub, np.float32)
    for block in range(m):
        for k in range(ksub):
            word = codebook[block, k]
            total = np.float32(0)
            for j in range(dsub):
                total += word[j] * word[j]
            norms[k] = total
        for row in range(len(queries)):
            query, line = queries[row, block], tables[row, block]
            length = np.float32(0)
            for j in range(dsub):
                length += query[j] * query[j]
            for k in range(ksub):
                line[k] = np.float32(2) * line[k] - norms[k] - length
