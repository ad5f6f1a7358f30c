"""Turn the axes at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from packbench.budget import Budget
from packbench.factors import random_orthogonal
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import conditioned, map_queries, map_rows
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RandomRotation(Transform):
    """Rotate all vectors at random: exact scores stay, and what depends on the choice of axes shows itself.

    A code whose quality changes behind it relied on the axes, as truncation and grids per dimension do. Li, Yosinski,
    Clune, Lipson and Hopcroft, "Convergent Learning: Do different neural networks learn the same representations?",
    2015, ask for the test.
    """

    name: ClassVar[str] = "random_rotation"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = (
        "Li, Yosinski, Clune, Lipson, Hopcroft, Convergent Learning: Do different neural networks learn the same "
        "representations?, 2015"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4 d^2"
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * d

    def fit(self, sample: Sample) -> Arrays:
        return {"rotation": random_orthogonal(width(sample.items), self.seed)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(as_vectors(items), shared["rotation"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(queries, shared["rotation"])
