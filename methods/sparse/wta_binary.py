"""Project to many more dimensions and keep which of them win."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.factors import generator
from packbench.items import Array, Items, as_vectors, blocks, width
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.projection.centre import Centre
from packbench.methods.sparse.support import (
    SparseSearcher,
    densify,
    index_dtype,
    pack_index,
    packed_index_bytes,
    top_k_rows,
)
from packbench.registry import register

SCORERS = ("symmetric", "asymmetric")
ROWS = 1024


@register
@dataclass(frozen=True, slots=True)
class WTABinary(Method):
    """Keep the places of the k largest of many random projections, and nothing of their values.

    Each projection adds up `density` coordinates, drawn at random. scorer="symmetric" counts common winners of query
    and item; "asymmetric" adds up the query's projections at the item's places, which is what the paper's bit-wise
    product cannot tell. Codes hold directions only: under ip and l2 the lengths of items are lost. Jang, Kang, Hong,
    Kim, Park, Myaeng, Seo, "Ultra-High Dimensional Sparse Representations with Binarization for Efficient Text
    Retrieval", 2021, with a random sparse projection, as in the hashing of flies, for its trained encoder.
    """

    name: ClassVar[str] = "wta_binary"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Jang, Kang, Hong, Kim, Park, Myaeng, Seo, Ultra-High Dimensional Sparse Representations with Binarization for "
        "Efficient Text Retrieval, 2021"
    )
    formula: ClassVar[str] = "places of k out of width as in magnitude_prune; shared width density ceil(log2(d)/8)"
    k: int
    width: int
    density: int = 16
    scorer: str = "asymmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.width:
            raise ValueError(f"expected 1 <= k <= width winners, got k={self.k}, width={self.width}")
        if self.density < 1:
            raise ValueError(f"density is at least 1, got {self.density}")
        if self.scorer not in SCORERS:
            raise ValueError(f"scorer={self.scorer!r}: expected one of {', '.join(SCORERS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        found: list[Method] = []
        for many in (4 * d, 8 * d, 2 * d):
            with suppress(BudgetTooSmall):
                counts = range(many // 4, 0, -1)
                found.append(next(iter(budget.fitting(Centre() | cls(k, many, min(16, d)) for k in counts))))
        return budget.fitting(found or [cls(1, 2, 1)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        shared = self.width * min(self.density, d) * np.dtype(index_dtype(d)).itemsize
        return float(packed_index_bytes(self.k, self.width)), float(shared), 0.0

    def fit(self, sample: Sample) -> Arrays:
        d = width(sample.items)
        drawn = generator(self.seed).permuted(np.tile(np.arange(d), (self.width, 1)), axis=1)[:, : self.density]
        return {"coordinates": np.sort(drawn, axis=1).astype(index_dtype(d))}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        codes = np.empty((len(vectors), packed_index_bytes(self.k, self.width)), np.uint8)
        for part in blocks(len(vectors), ROWS):
            codes[part] = pack_index(self._winners(projected(vectors[part], shared)), self.width)
        return {"codes": codes}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        # All codes have k ones, so that every metric ranks as the inner product does.
        return SparseSearcher(codes["codes"], None, self.width, "ip", packed=self.k,
                              map_queries=lambda queries: self._asked(projected(queries, shared)))  # fmt: skip

    def _winners(self, projections: Array) -> Array:
        return top_k_rows(projections - projections.min(axis=1, keepdims=True), self.k)[0]

    def _asked(self, projections: Array) -> Array:
        """Return what a query adds to the score of an item for each of its places."""
        if self.scorer == "asymmetric":
            return projections
        winners = self._winners(projections)
        return densify(winners, np.ones(winners.shape, np.float32), self.width)


def projected(vectors: Array, shared: Arrays) -> Array:
    """Return the sums (n, width) float32 of the coordinates that each projection adds up."""
    coordinates = shared["coordinates"]
    many, density = coordinates.shape
    starts = np.arange(0, many * density + 1, density)
    ones = np.ones(many * density, np.float32)
    matrix = csr_array((ones, coordinates.ravel().astype(np.int32), starts), shape=(many, vectors.shape[1]))
    return np.ascontiguousarray((matrix @ vectors.T).T)
