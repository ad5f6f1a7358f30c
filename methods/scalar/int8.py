"""Code each coordinate in one byte on an even grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.grid import GRANULARITIES, GridCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class Int8(GridCodec):
    """Round each coordinate to one of 256 evenly spaced levels between the least and the greatest value seen.

    Ranges are per dimension (learned from the fit sample), per vector (stored in float16 with each item) or global.
    `clip` leaves that share of the fit sample out at each end of a range; values outside saturate. Wu, Judd, Zhang,
    Isaev and Micikevicius, "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    2020. Per dimension it is faiss SQ8, with codes rounded instead of cut off.
    """

    name: ClassVar[str] = "int8"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Wu, Judd, Zhang, Isaev, Micikevicius, Integer Quantization for Deep Learning Inference: Principles and "
        "Empirical Evaluation, 2020"
    )
    formula: ClassVar[str] = "d per item (per vector: +4, symmetric +2); shared 8d (global: 8; symmetric: half)"
    bits: ClassVar[int] = 8  # type: ignore[misc]
    granularity: str = "dim"
    symmetric: bool = False
    clip: float = 0.0

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity is one of {', '.join(GRANULARITIES)}, got {self.granularity!r}")
        if not 0 <= self.clip < 0.5:
            raise ValueError(f"clip is a share between 0 and 0.5, got {self.clip:g}")
        if self.clip and self.granularity == "vector":
            raise ValueError("clip cuts ranges learned from the fit sample, and granularity='vector' learns none")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), cls(granularity="vector"), cls(granularity="global")])

    def _ranges(self, rows: Array) -> tuple[Array, Array]:
        if self.symmetric and self.clip:
            return np.zeros(len(rows)), np.quantile(np.abs(rows), 1 - self.clip, axis=1).astype(np.float64)
        if self.clip:
            low, high = np.quantile(rows, [self.clip, 1 - self.clip], axis=1).astype(np.float64)
        else:
            low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
        if self.symmetric:
            return np.zeros(len(rows)), np.maximum(-low, high)
        return (low + high) / 2, (high - low) / 2
