"""Sum one word of each of m codebooks: what residual, local-search and score-aware additive codes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Codec, Method, Metric, Searcher
from packbench.methods.codebook.adc import IndexSearcher, check_metric
from packbench.methods.codebook.scan import TableSearcher, packed_starts, packed_tables
from packbench.methods.projection.pca import PCA


class AdditiveCodec(Codec):
    """Keep m indices of `bits` bits; an item is the sum of the words that they name in codebooks (m, 2^bits, d).

    Inner products are sums of look-ups. Distances would need the length of each sum, which is not kept: under l2 codes
    are decoded and scored. Under cosine, unit vectors are coded.
    """

    __slots__ = ()
    m: int
    bits: int

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(-(-self.m * self.bits // 8)), 4.0 * 2**self.bits * self.m * d + 1, 0.0

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return decode(codes["codes"], shared["codebook"])

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if metric == "l2":
            return Codec.open(self, codes, shared, metric)
        return open_additive(codes["codes"], shared["codebook"])


def principal_width(budget: Budget) -> int:
    """Return how many principal axes are worth coding in a budget: the further ones take codebook and give little."""
    return min(budget.d, 96 + int(1.5 * budget.bytes_per_item))


def additive_candidates(budget: Budget, make: Callable[..., Method], most: Mapping[int, int]) -> Iterator[Method]:
    """Yield make(m, bits=bits) with the largest m that fits, up to most[bits]; the first kind on principal axes too."""
    for position, (bits, books) in enumerate(most.items()):
        for width in sorted({principal_width(budget), budget.d} if position == 0 else {budget.d}):
            front = PCA(width).__or__ if width < budget.d else lambda method: method
            sizes: Iterator[Method] = (front(make(m, bits=bits)) for m in range(books, 0, -1))
            found = next((one for one in sizes if budget.holds(*one.planned_bytes(budget.d))), None)
            yield found or make(1, bits=bits)


def thinned(vectors: Array, most: int, seed: int) -> Array:
    """Return at most so many rows, drawn at random and in their order."""
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), most, replace=False))]


def without_repeats(codebook: Array) -> Array:
    """Return codebooks (m, ksub, d) in which words equal to an earlier one of their book are zeros.

    Which of two equal words is nearer is a matter of rounding; zeros are equal in any.
    """
    found = codebook.copy()
    for words in found:
        again = np.ones(len(words), bool)
        again[np.unique(words, axis=0, return_index=True)[1]] = False
        words[again] = 0
    return found


def pack(indices: Array, bits: int) -> Array:
    """Pack indices (n, m) of `bits` bits from the lowest bit of the first byte on, as faiss does; see adc.unpack."""
    n, m = indices.shape
    flags = (indices[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(flags.astype(np.uint8).reshape(n, m * bits), axis=1, bitorder="little")


def decode(codes: Array, codebook: Array) -> Array:
    """Return (n, d) float32: the sums of the words that packed codes name."""
    if not len(codes):
        return np.zeros((0, codebook.shape[2]), np.float32)
    m, ksub, d = codebook.shape
    quantiser = fill(faiss.ResidualQuantizer(d, m, ksub.bit_length() - 1), codebook)
    decoded: Array = quantiser.decode(np.ascontiguousarray(codes))
    return decoded


def fill(quantiser: Any, codebook: Array) -> Any:
    """Give a faiss additive quantiser its codebooks."""
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).ravel(), quantiser.codebooks)
    quantiser.is_trained = True
    return quantiser


def open_additive(codes: Array, codebook: Array) -> Searcher:
    """Return a searcher by inner products over packed codes."""
    m, ksub, d = codebook.shape
    bits = ksub.bit_length() - 1
    if bits <= 8:
        return TableSearcher(
            codes, packed_starts(m, bits), lambda queries: packed_tables(additive_tables(queries, codebook), bits)
        )
    make: Any = faiss.IndexResidualQuantizer
    index = make(d, m, bits, faiss.METRIC_INNER_PRODUCT, faiss.AdditiveQuantizer.ST_LUT_nonorm)
    fill(index.rq, codebook)
    index.is_trained = True
    if len(codes):
        index.add_sa_codes(np.ascontiguousarray(codes))
    return IndexSearcher(index, "faiss additive look-up", table_bytes=4 * m * ksub)


def additive_tables(queries: Array, codebook: Array) -> Array:
    """Return the products (n_queries, m, 2^bits) of queries (n_queries, d) with all words."""
    words = codebook.reshape(-1, codebook.shape[2])
    # A matrix-vector product is a single pass over the words; one with a matrix of one row is not.
    products = (words @ queries[0])[None] if len(queries) == 1 else queries @ words.T
    return np.asarray(products.reshape(len(queries), *codebook.shape[:2]))
