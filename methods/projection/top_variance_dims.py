"""Keep the coordinates that vary most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Items, as_vectors
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import reduced
from packbench.methods.projection.moments import index_type, learnable
from packbench.registry import register

RANKINGS = "variance", "energy"


@register
@dataclass(frozen=True, slots=True)
class TopVarianceDims(Transform):
    """Keep the `dim` coordinates of greatest variance on the fit sample and drop the rest.

    by="energy" ranks by the mean square, which counts a constant offset too: a coordinate's share of all inner
    products. For cosine both are taken on unit vectors. Variance is not importance: what a query asks for may sit in
    coordinates that vary little.
    """

    name: ClassVar[str] = "top_variance_dims"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    formula: ClassVar[str] = "dim coordinates per item; shared 2 dim (4 dim beyond 65536 coordinates)"
    dim: int
    by: str = "variance"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.by not in RANKINGS:
            raise ValueError(f"by={self.by!r}: expected one of {', '.join(RANKINGS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def shared_bytes(self, d: int) -> float:
        return float(np.dtype(index_type(d)).itemsize * self.dim)

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample, self.dim)
        mass = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64) / len(vectors)
        if self.by == "variance":
            mass = vectors.var(axis=0, dtype=np.float64)
        chosen = np.sort(np.argsort(-mass, kind="stable")[: self.dim])
        return {"indices": chosen.astype(index_type(vectors.shape[1]))}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return np.ascontiguousarray(as_vectors(items)[:, shared["indices"]])
