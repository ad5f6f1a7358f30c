"""Project onto Gaussian random directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import generator
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RandomProjection(Transform):
    """Project onto `dim` Gaussian random directions, which keeps inner products in expectation and learns nothing.

    The matrix has entries N(0, 1/dim); an inner product is kept with variance (|x|^2 |y|^2 + <x, y>^2) / dim. Luan,
    Eisenstein, Toutanova and Collins, "Sparse, Dense, and Attentional Representations for Text Retrieval", 2020.
    """

    name: ClassVar[str] = "random_projection"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Luan, Eisenstein, Toutanova, Collins, Sparse, Dense, and Attentional Representations for Text Retrieval, 2020"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d dim"
    dim: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(lambda dim: cls(dim=dim), budget)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim

    def fit(self, sample: Sample) -> Arrays:
        drawn = generator(self.seed).standard_normal((self.dim, width(sample.items)), np.float32)
        return {"matrix": drawn / np.float32(np.sqrt(self.dim))}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(as_vectors(items), shared["matrix"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(queries, shared["matrix"])
