"""Keep coordinates drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import reduced
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RandomDims(Transform):
    """Keep `dim` coordinates drawn at random and drop the rest: what any choice of coordinates has to beat."""

    name: ClassVar[str] = "random_dims"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = "Random Search as a Baseline for Sparse Neural Network Architecture Search, 2024"
    formula: ClassVar[str] = "dim coordinates per item; shared 2 dim (4 dim beyond 65536 coordinates)"
    dim: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(lambda dim: cls(dim=dim), budget)

    def shared_bytes(self, d: int) -> float:
        return (2.0 if d <= 65536 else 4.0) * self.dim

    def fit(self, sample: Sample) -> Arrays:
        d = width(sample.items)
        if self.dim > d:
            raise BadInput(f"{self}: the vectors have only {d} coordinates; choose dim up to that")
        chosen = np.sort(np.random.default_rng(self.seed).choice(d, self.dim, replace=False))
        return {"indices": chosen.astype(np.uint16 if d <= 65536 else np.uint32)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return np.ascontiguousarray(as_vectors(items)[:, shared["indices"]])
