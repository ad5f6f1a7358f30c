"""Cut every dimension at random: the control of scalar quantisers."""

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
class RandomBins(LevelsCodec):
    """Cut the range of each dimension at 2^bits - 1 uniformly random edges, and read a bin as its middle.

    A quantiser that does not beat it at equal bits has learnt nothing. Wu et al., "Randomized Quantization: A Generic
    Augmentation for Data Agnostic Self-supervised Learning", 2022, whose augmentation reads a bin as a random value
    of it instead.
    """

    name: ClassVar[str] = "random_bins"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = (
        "Wu, Lei, Sun, Wang, Chen, Cheng, Lin, Wu, Randomized Quantization: A Generic Augmentation for Data Agnostic "
        "Self-supervised Learning, 2022"
    )
    formula: ClassVar[str] = "ceil(bits d/8) per item; shared 4d 2^bits; edges, 4d (2^bits - 1), serve coding alone"
    bits: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(b) for b in range(8, 0, -1)), 1)

    def _bins(self, column: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        ends = column[[0, -1]].astype(np.float64)
        edges = np.sort(rng.uniform(ends[0], ends[1], 2**self.bits - 1))
        bounds = np.concatenate([ends[:1], edges, ends[1:]])
        return (bounds[1:] + bounds[:-1]) / 2, edges
