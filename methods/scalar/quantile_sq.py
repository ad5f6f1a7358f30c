"""Cut every dimension into bins of equal occupancy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.levels import LevelsCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class QuantileSQ(LevelsCodec):
    """Cut each dimension at its quantiles into 2^bits bins of equal occupancy, and read a bin as its mean.

    Codes then have the most entropy that so many bits can have, though not the least squared error. Bucketed
    components of Ramesh, Dhariwal, Nichol, Chu and Chen, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", 2022; with the reduction of dimensions that they put in front it is pca_sq(quantile=True).
    """

    name: ClassVar[str] = "quantile_sq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Ramesh, Dhariwal, Nichol, Chu, Chen, Hierarchical Text-Conditional Image Generation with CLIP Latents, 2022"
    )
    formula: ClassVar[str] = "ceil(bits d/8) per item; shared 4d 2^bits; edges, 4d (2^bits - 1), serve coding alone"
    bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(b) for b in range(8, 0, -1)), 1)

    def _bins(self, column: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        return equal_shares(column, 2**self.bits)


def equal_shares(column: Array, count: int) -> tuple[Array, Array]:
    """Return the means and the inner edges of bins that hold equal shares of a sorted column.

    An edge is the first value above the cut, so that values that are equal share a bin; a bin left empty by that is
    read as its edge.
    """
    cuts = np.arange(1, count) * len(column) // count
    edges = column[cuts]
    starts = np.concatenate([[0], np.searchsorted(column, edges), [len(column)]])
    sums = np.concatenate([[0.0], np.cumsum(column, dtype=np.float64)])
    means = np.diff(sums[starts]) / np.maximum(np.diff(starts), 1)
    return np.where(np.diff(starts) > 0, means, np.concatenate([edges[:1], edges])), edges
