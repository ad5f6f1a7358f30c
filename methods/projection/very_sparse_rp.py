"""Project onto random directions that are nearly all zeros."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from packbench.budget import Budget
from packbench.factors import generator
from packbench.items import Array, Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import map_rows, reduced
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class VerySparseRP(Transform):
    """Project onto `dim` random directions in which about one coordinate in s is not zero.

    Entries are sqrt(s/dim) times +1, 0 or -1 with probabilities 1/2s, 1 - 1/s and 1/2s; s is sqrt(d) unless given, and
    s=1 is the dense projection of signs. Inner products are kept with variance (|x|^2 |y|^2 + <x, y>^2 + (s - 3) sum
    x_j^2 y_j^2) / dim, which grows on spiky vectors: rotate those first. Stored are the places of the entries, with
    their signs. Chen, Sultan, Tian, Chen and Skiena, "Fast and Accurate Network Embeddings via Very Sparse Random
    Projection", 2019.
    """

    name: ClassVar[str] = "very_sparse_rp"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Chen, Sultan, Tian, Chen, Skiena, Fast and Accurate Network Embeddings via Very Sparse Random Projection, 2019"
    )
    formula: ClassVar[str] = (
        "dim coordinates per item; shared 4 (dim + 1) + 2 for each entry drawn, about d dim / s (4 beyond d = 32767)"
    )
    dim: int
    s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.s is not None and not self.s >= 1:
            raise ValueError(f"one coordinate in s is not zero, so s is at least 1, got {self.s}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def shared_bytes(self, d: int) -> float:
        entries = _entries_of_rows(d, max(d, self.dim), self._s(d), self.seed)[: self.dim].sum()
        return 4.0 * (self.dim + 1) + np.dtype(_place_type(d)).itemsize * float(entries)

    def fit(self, sample: Sample) -> Arrays:
        d = width(sample.items)
        drawn = _draw(d, self.dim, self._s(d), self.seed)
        rows, columns = np.nonzero(drawn)
        places = (columns + 1) * drawn[rows, columns]
        starts = np.searchsorted(rows, np.arange(self.dim + 1))
        return {"places": places.astype(_place_type(d)), "starts": starts.astype(np.uint32)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        vectors = as_vectors(items)
        # Dense for items: products of BLAS at one shape round alike in any batch.
        return map_rows(vectors, self._matrix(shared, vectors.shape[1]).toarray())

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        vectors = as_vectors(queries, "queries")
        return np.ascontiguousarray((self._matrix(shared, vectors.shape[1]) @ vectors.T).T)

    def _s(self, d: int) -> float:
        return float(np.sqrt(d)) if self.s is None else self.s

    def _matrix(self, shared: Arrays, d: int) -> csr_array:
        places = shared["places"].astype(np.int32)
        signs = np.sign(places) * np.float32(np.sqrt(self._s(d) / self.dim))
        return csr_array((signs.astype(np.float32), np.abs(places) - 1, shared["starts"]), shape=(self.dim, d))


def _place_type(d: int) -> type[np.signedinteger]:
    return np.int16 if d <= 32767 else np.int32


def _draw(d: int, rows: int, s: float, seed: int) -> Array:
    """Draw the signs (rows, d) int8, zero for no entry; fewer rows are the first of more."""
    uniform = generator(seed).random((rows, d), np.float32)
    return np.where(uniform < 0.5 / s, 1, np.where(uniform < 1 / s, -1, 0)).astype(np.int8)


@lru_cache(maxsize=8)
def _entries_of_rows(d: int, rows: int, s: float, seed: int) -> Array:
    """Return how many entries each row has: the bytes are those of the very matrix that fit draws."""
    return np.asarray(np.count_nonzero(_draw(d, rows, s, seed), axis=1))
