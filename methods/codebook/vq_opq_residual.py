"""A coarse word and what it leaves over: vector quantisation, then optimised product quantisation of the residuals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import (
    assign,
    blas_distances,
    check_metric,
    decode,
    fit_vectors,
    item_vectors,
    product_tables,
)
from packbench.methods.codebook.additive import additive_tables, without_repeats
from packbench.methods.codebook.opq import OPQ
from packbench.methods.codebook.scan import TableSearcher, packed_starts
from packbench.registry import register

TOGETHER = 256  # rows whose word is looked for at a time
BITS = 8  # of a product code: one byte, as the look-up kernel reads them


@register
@dataclass(frozen=True, slots=True)
class VQOPQResidual(Codec):
    """Code the nearest of a few words in one byte, and what it leaves over by optimised product quantisation.

    Henderson et al., "Efficient Natural Language Response Suggestion for Smart Reply", 2017, the hierarchical
    quantisation of its search. The rotation is learnt on residuals, after the coarse stage and not before it; `rounds`
    times words are then moved to the means of what the product codes leave of their members, and everything behind
    them is learnt again; the round of least error is kept. An inner product is one look-up of the word and m of the
    rotated query. Under l2, codes are decoded. Under cosine, unit vectors are coded.
    """

    name: ClassVar[str] = "vq_opq_residual"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017"
    formula: ClassVar[str] = "1 + m per item; shared 4 words d + 4 dim (d + 256) + 1, dim = m floor(d/m)"

    m: int
    words: int = 64
    dim: int = 0
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.words <= 256:
            raise ValueError(f"words={self.words}: expected 1 to 256, which one byte numbers")
        if self.rounds < 0:
            raise ValueError(f"rounds={self.rounds}: expected at least 0")
        self._residual()

    def _residual(self) -> OPQ:
        return OPQ(self.m, BITS, self.dim, seed=self.seed)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(_candidates(budget))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, _ = self._residual().planned_bytes(d)
        return 1 + item, 4.0 * self.words * d + shared, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        words, best = self._words(vectors), np.inf
        kept: dict[str, Array] = {}
        for _ in range(self.rounds + 1):
            nearest = _nearest(vectors, words)
            inner = dict(self._residual().fit(Sample(vectors - words[nearest], "l2")))
            del inner["unit"]
            coded = _product(vectors - words[nearest], inner)
            lost = float(np.square(vectors - words[nearest] - coded, dtype=np.float64).sum())
            if lost < best:
                best, kept = lost, {"words": words, **inner, "unit": is_unit}
            words = _means(vectors - coded, nearest, words)
        return kept

    def _words(self, vectors: Array) -> Array:
        """Return the coarse words (words, d): k-means, or the rows themselves where there are no more."""
        words = np.zeros((self.words, vectors.shape[1]), np.float32)
        if len(vectors) > self.words:
            make: Any = faiss.Kmeans
            # The minimum only silences a warning; the maximum takes all rows.
            kmeans = make(
                vectors.shape[1], self.words, niter=25, seed=self.seed & 0x7FFFFFFF,
                min_points_per_centroid=1, max_points_per_centroid=len(vectors),
            )  # fmt: skip
            with blas_distances():
                kmeans.train(vectors)
            words[:] = kmeans.centroids
        else:
            words[: len(vectors)] = vectors
        return np.asarray(without_repeats(words[None])[0])

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = item_vectors(items, shared["words"].shape[1], shared["unit"])
        nearest = _nearest(vectors, shared["words"])
        codes = assign((vectors - shared["words"][nearest]) @ shared["rotation"].T, shared["codebook"])
        return {"codes": np.concatenate([nearest[:, None].astype(np.uint8), codes], axis=1)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = codes["codes"]
        residuals = decode(rows[:, 1:], shared["codebook"]) @ shared["rotation"]
        return np.asarray(shared["words"][rows[:, 0]] + residuals)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if metric == "l2":
            return Codec.open(self, codes, shared, metric)
        rotation, codebook = shared["rotation"], shared["codebook"]
        words = np.zeros((1 << BITS, shared["words"].shape[1]), np.float32)
        words[: self.words] = shared["words"]

        def tables(queries: Array) -> Array:
            residual = product_tables(queries @ rotation.T, codebook, metric)
            return np.concatenate([additive_tables(queries, words[None]), residual], axis=1)

        return TableSearcher(codes["codes"], packed_starts(1 + self.m, BITS), tables)


def _nearest(vectors: Array, words: Array) -> Array:
    """Return the index of the nearest of words (count, d) to each vector (n, d)."""
    half = np.einsum("ij,ij->i", words, words) / 2
    found = np.empty(len(vectors), np.int64)
    # BLAS rounds a product differently with the number of rows: always as many.
    rows = np.zeros((TOGETHER, vectors.shape[1]), np.float32)
    for part in blocks(len(vectors), TOGETHER):
        rows[: part.stop - part.start] = vectors[part]
        found[part] = (rows @ words.T - half).argmax(axis=1)[: part.stop - part.start]
    return found


def _product(residuals: Array, shared: Arrays) -> Array:
    """Return what the rotated product code makes of residuals (n, d)."""
    codes = assign(residuals @ shared["rotation"].T, shared["codebook"])
    return np.asarray(decode(codes, shared["codebook"]) @ shared["rotation"])


def _means(vectors: Array, nearest: Array, words: Array) -> Array:
    """Return words moved to the means of their members; those without any stay."""
    moved = words.copy()
    for word in np.unique(nearest):
        moved[word] = vectors[nearest == word].mean(axis=0)
    return moved


def _candidates(budget: Budget) -> Iterator[VQOPQResidual]:
    """Yield, for several numbers of words, the product code that opq would choose for the bytes they leave."""
    for words in (64, 16, 256):
        left = max(budget.bytes_per_item - 1 - 4 * words * budget.d / budget.n, 1e-9)
        try:
            inner = cast(OPQ, next(iter(OPQ.for_budget(dataclasses.replace(budget, bytes_per_item=left)))))
        except BudgetTooSmall:
            inner = OPQ(1, BITS, 1)
        yield VQOPQResidual(inner.m, words, inner.dim)
    yield VQOPQResidual(1, 1, 1)
