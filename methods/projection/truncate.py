"""Keep the leading coordinates."""

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
class Truncate(Transform):
    """Keep the first `dim` coordinates, as Matryoshka models are trained to allow.

    Faithful only on vectors of such a model, at sizes near those it was trained for; on others the first coordinates
    are no better than any, and random_dims says how good that is. Kusupati and others, "Matryoshka Representation
    Learning", 2022.
    """

    name: ClassVar[str] = "truncate"
    fidelity: ClassVar[str] = "READ-OUT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "Kusupati et al., Matryoshka Representation Learning, 2022"
    formula: ClassVar[str] = "dim coordinates per item; nothing shared"
    dim: int

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def fit(self, sample: Sample) -> Arrays:
        if self.dim > width(sample.items):
            raise BadInput(f"{self}: the vectors have only {width(sample.items)} coordinates; choose dim up to that")
        return {}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return np.ascontiguousarray(as_vectors(items)[:, : self.dim])
