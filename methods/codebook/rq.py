"""Residual quantisation: code what the centroids so far leave over, level after level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import faiss
import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import (
    IndexSearcher,
    check_metric,
    fit_vectors,
    item_vectors,
)
from packbench.methods.codebook.additive import additive_tables, without_repeats
from packbench.methods.codebook.kmeans import few_values, step, train
from packbench.methods.codebook.pq import check_sizes
from packbench.methods.codebook.scan import TableSearcher, packed_starts, packed_tables, whole_starts, whole_tables
from packbench.registry import register

ROWS_PER_CENTROID = 64  # of the fit sample; a larger one is thinned, for time
AXES = 32  # principal ones in which k-means starts: it remembers less of the fit sample than from a start in all
ROUNDS = 3  # of Lloyd's algorithm in all dimensions
TOGETHER = 256  # rows coded at a time
LEVELS = {6: 64, 8: 32, 4: 96}  # that a budget may ask for, by bits: what trains in seconds
NORMS = {0: faiss.AdditiveQuantizer.ST_LUT_nonorm, 8: faiss.AdditiveQuantizer.ST_norm_cqint8,
         32: faiss.AdditiveQuantizer.ST_norm_float}  # fmt: skip


@register
@dataclass(frozen=True, slots=True)
class RQ(Codec):
    """Sum m centroids, each the one of 2^bits that best codes what those before it leave over, found by beam search.

    Chen, Guan, Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization", 2010; beam search as in
    Babenko, Lempitsky, "Additive Quantization for Extreme Vector Compression", 2014. Codebooks are m times those of
    product quantisation, and learnt from a few thousand rows they remember these rows: six bits to a level generalise
    better than eight and cost a quarter. Training keeps `train_beam` residuals of each row, encoding `beam`; it starts
    each level along 32 principal axes of what is left.

    An inner product is a sum of m look-ups. A squared distance needs the length of the coded vector as well: it is
    kept in `norm_bits` (8: one of 256 values; 32: exact), or, at 0, found by decoding, which is exact and some ten
    times slower. Under cosine, unit vectors are coded.
    """

    name: ClassVar[str] = "rq"
    fidelity: ClassVar[str] = "EXACT"
    tolerance: ClassVar[float] = 5e-4  # two paths of the beam are at times as good as each other
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Chen, Guan, Wang, Approximate Nearest Neighbor Search by Residual Vector Quantization, 2010"
    formula: ClassVar[str] = (
        "ceil((m bits + norm_bits) / 8) per item; shared 4 · 2^bits m d + 1, 1024 more at norm_bits 8"
    )

    m: int
    bits: int = 8
    beam: int = 8
    train_beam: int = 2
    norm_bits: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.beam < 1 or self.train_beam < 1:
            raise ValueError(f"beam={self.beam}, train_beam={self.train_beam}: expected at least 1")
        if self.norm_bits not in NORMS:
            raise ValueError(f"norm_bits={self.norm_bits}: expected one of {', '.join(map(str, NORMS))}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(_candidates(budget))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        shared = 4.0 * 2**self.bits * self.m * d + 1 + (1024 if self.norm_bits == 8 else 0)
        return float(-(-(self.m * self.bits + self.norm_bits) // 8)), shared, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        n, d = vectors.shape
        most = ROWS_PER_CENTROID << self.bits
        if n > most:
            vectors = vectors[np.sort(np.random.default_rng(self.seed).choice(n, most, replace=False))]
        # As many rows as centroids are their own centroids.
        vectors = np.resize(vectors, (max(len(vectors), 1 << self.bits), d))
        codebook, residuals = self._levels(vectors)
        shared = {"codebook": without_repeats(codebook), "unit": is_unit}
        if self.norm_bits == 8:
            # Quantiles, not faiss's k-means in one dimension: that fails where norms repeat.
            norms = np.square(vectors - residuals).sum(axis=1)
            shared["norms"] = np.quantile(norms, (np.arange(256) + 0.5) / 256).astype(np.float32)
        return shared

    def nests_by(self) -> str:
        return "" if self.norm_bits == 8 else "m"  # the norms are those of all levels together

    def cut(self, shared: Arrays) -> Arrays:
        return {**shared, "codebook": shared["codebook"][: self.m].copy()}

    def _levels(self, vectors: Array) -> tuple[Array, Array]:
        """Return codebooks (m, 2^bits, d), each learnt from what the beam left of vectors, and what is left in the end.

        A level depends on those before it alone, so that fewer levels are the first ones of more.
        """
        n, d = vectors.shape
        residuals = vectors[:, None]
        found = np.zeros((self.m, 1 << self.bits, d), np.float32)
        for level in range(self.m):
            flat = residuals.reshape(-1, d)
            words = found[level] = _words(flat, self.bits, self.seed + level)
            squares = np.einsum("ij,ij->i", flat, flat)[:, None] + np.einsum("ij,ij->i", words, words)
            squares = (squares - 2 * (flat @ words.T)).reshape(n, -1)
            beam = min(self.train_beam, squares.shape[1])
            kept = np.argpartition(squares, beam - 1, axis=1)[:, :beam]
            kept = np.take_along_axis(kept, np.take_along_axis(squares, kept, axis=1).argsort(axis=1), axis=1)
            before, word = np.divmod(kept, len(words))
            residuals = np.take_along_axis(residuals, before[:, :, None], axis=1) - words[word]
            if not residuals[:, 0].any():
                break  # further words would only name again what is coded already
        return found, residuals[:, 0]

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = item_vectors(items, shared["codebook"].shape[2], shared["unit"])
        given = {name: shared[name] for name in ("codebook", "norms") if name in shared}
        quantiser = _with_tables(self, *(np.ascontiguousarray(array, np.float32).tobytes() for array in given.values()))
        codes = np.empty((len(vectors), quantiser.code_size), np.uint8)
        # BLAS rounds a product differently with the number of rows, and a path through many levels multiplies what
        # one tie decides; among as many rows always, a code does not depend on its batch.
        rows = np.zeros((TOGETHER, vectors.shape[1]), np.float32)
        for part in blocks(len(vectors), TOGETHER):
            rows[: part.stop - part.start] = vectors[part]
            codes[part] = quantiser.compute_codes(rows)[: part.stop - part.start]
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = codes["codes"]
        if not len(rows):
            return np.zeros((0, shared["codebook"].shape[2]), np.float32)
        decoded: Array = self._quantiser(shared).decode(np.ascontiguousarray(rows))
        return decoded

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if metric == "l2" and not self.norm_bits:
            return Codec.open(self, codes, shared, metric)
        if self.bits <= 8 and (metric != "l2" or self.norm_bits == 8):
            return self._opened(codes["codes"], shared, metric)
        d = shared["codebook"].shape[2]
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        make: Any = faiss.IndexResidualQuantizer
        index = make(d, self.m, self.bits, measure, NORMS[self.norm_bits])
        self._fill(index.rq, shared)
        index.is_trained = True
        if len(codes["codes"]):
            index.add_sa_codes(np.ascontiguousarray(codes["codes"]))
        return IndexSearcher(index, "faiss RQ look-up", table_bytes=4 * self.m << self.bits)

    def _opened(self, codes: Array, shared: Arrays, metric: Metric) -> Searcher:
        """Return a searcher by tables of words and, under l2, of the byte that tells the length."""
        codebook = shared["codebook"]
        if metric != "l2":
            starts = packed_starts(self.m, self.bits)
            return TableSearcher(codes, starts, lambda q: packed_tables(additive_tables(q, codebook), self.bits))

        def tables(queries: Array) -> Array:
            words = 2 * whole_tables(additive_tables(queries, codebook), self.bits)
            lengths = np.einsum("ij,ij->i", queries, queries)[:, None] + shared["norms"]
            return np.concatenate([words, -lengths[:, None]], axis=1)

        starts = np.append(whole_starts(self.m, self.bits), self.m * self.bits)
        return TableSearcher(codes, starts, tables)

    def _quantiser(self, shared: Arrays) -> Any:
        return self._fill(
            faiss.ResidualQuantizer(shared["codebook"].shape[2], self.m, self.bits, NORMS[self.norm_bits]), shared
        )

    def _fill(self, quantiser: Any, shared: Arrays) -> Any:
        """Give a faiss.ResidualQuantizer what was learnt."""
        faiss.copy_array_to_vector(np.ascontiguousarray(shared["codebook"], np.float32).ravel(), quantiser.codebooks)
        if self.norm_bits == 8:
            quantiser.qnorm.reset()
            quantiser.qnorm.add(np.ascontiguousarray(shared["norms"])[:, None])
        quantiser.is_trained = True
        return quantiser


@lru_cache(1)
def _with_tables(method: RQ, codebook: bytes, norms: bytes = b"") -> Any:
    """Return what codes with a codebook; few rows at a time would take longer to prepare than to code."""
    words = np.frombuffer(codebook, np.float32).reshape(method.m, 1 << method.bits, -1)
    quantiser = method._quantiser({"codebook": words, "norms": np.frombuffer(norms, np.float32)})
    # Tables of products between centroids make the beam search several times faster; the codes are the same.
    quantiser.max_beam_size, quantiser.use_beam_LUT = method.beam, 1
    quantiser.compute_codebook_tables()
    return quantiser


def _words(vectors: Array, bits: int, seed: int) -> Array:
    """Return 2^bits words for vectors (n, d): k-means along few principal axes, and then in all dimensions."""
    d = vectors.shape[1]
    if few_values(vectors, 1 << bits) is not None:
        return np.asarray(train(vectors, 1, bits, seed)[0])
    axes = eigh(vectors.T @ vectors, subset_by_index=[max(0, d - AXES), d - 1])[1]
    words = train(vectors @ axes, 1, bits, seed) @ axes.T
    for _ in range(ROUNDS):
        words = step(vectors, words)[1]
    return np.asarray(words[0])


def _candidates(budget: Budget) -> Iterator[RQ]:
    """Yield the most levels that fit at 6, 8 and 4 bits."""
    for bits, most in LEVELS.items():
        # Training time grows with d, and over many levels a wider beam in training gains nothing.
        levels = range(max(8, most * 384 // max(budget.d, 384)), 0, -1)
        sizes = (RQ(m, bits, train_beam=2 if m < 24 else 1) for m in levels)
        yield next((one for one in sizes if budget.holds(*one.planned_bytes(budget.d))), RQ(1, bits))
