"""Add coordinates up in buckets, with random signs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csc_array

from packbench.budget import Budget
from packbench.factors import generator
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import map_rows, reduced
from packbench.methods.projection.moments import index_type
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class CountSketch(Transform):
    """Give every coordinate a random sign and one of `dim` buckets, and add up what falls together.

    Inner products are kept in expectation, with variance (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_j^2 y_j^2) / dim.
    balanced=True fills the buckets evenly instead of independently, so that dim = d loses nothing. The hashing
    trick of Zhang, Drouin and Li, "byteSteady: Fast Classification Using Byte-Level
    n-Gram Embeddings", 2021.
    """

    name: ClassVar[str] = "count_sketch"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "Zhang, Drouin, Li, byteSteady: Fast Classification Using Byte-Level n-Gram Embeddings, 2021"
    formula: ClassVar[str] = "dim coordinates per item; shared 2 d + ceil(d/8) (4 d + ceil(d/8) beyond dim = 65536)"
    dim: int
    balanced: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def shared_bytes(self, d: int) -> float:
        return float(np.dtype(index_type(self.dim)).itemsize * d + -(-d // 8))

    def fit(self, sample: Sample) -> Arrays:
        d, rng = width(sample.items), generator(self.seed)
        signs = np.packbits(rng.integers(0, 2, d, np.uint8))
        buckets = rng.permutation(d) % self.dim if self.balanced else rng.integers(0, self.dim, d)
        return {"buckets": buckets.astype(index_type(self.dim)), "signs": signs}

    def apply(self, items: Items, shared: Arrays) -> Items:
        # Dense for items: products of BLAS at one shape round alike in any batch.
        return map_rows(as_vectors(items), self._matrix(shared).toarray())

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return np.ascontiguousarray((self._matrix(shared) @ as_vectors(queries, "queries").T).T)

    def _matrix(self, shared: Arrays) -> csc_array:
        """Return the sketch (dim, d), one entry of 1 or -1 in each column; a set bit is minus."""
        d = len(shared["buckets"])
        signs = 1 - 2 * np.unpackbits(shared["signs"], count=d).astype(np.float32)
        return csc_array((signs, shared["buckets"].astype(np.int32), np.arange(d + 1)), shape=(self.dim, d))
