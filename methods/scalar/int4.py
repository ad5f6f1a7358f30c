"""Code each coordinate in 2 to 7 bits on an even grid whose range is searched for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.grid import GRANULARITIES, GridCodec
from packbench.registry import register

SHRINK = 1.08 ** -np.arange(48.0)  # from the whole range to a fortieth; 4 % off the best costs under 1 % in error
MAX_VALUES = 16384  # per range, when it is learned: more do not move the minimum


@register
@dataclass(frozen=True, slots=True)
class Int4(GridCodec):
    """Round each coordinate to a few evenly spaced levels (4 bits unless told) within the range of least squared error.

    The range is about the mean (symmetric: about zero, with 2^bits - 1 levels) and narrowed from the largest
    deviation by a one-dimensional search, because few levels are better spent on the bulk than on outliers;
    `search=False` keeps the whole range. Granularity as in int8. Wu, Judd, Zhang, Isaev and Micikevicius, "Integer
    Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020.
    """

    name: ClassVar[str] = "int4"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Wu, Judd, Zhang, Isaev, Micikevicius, Integer Quantization for Deep Learning Inference: Principles and "
        "Empirical Evaluation, 2020"
    )
    formula: ClassVar[str] = (
        "ceil(bits d/8) per item (per vector: +4, symmetric +2); shared 8d (global: 12, symmetric 8; per vector: 4)"
    )
    bits: int = 4
    granularity: str = "dim"
    symmetric: bool = False
    search: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 7:
            raise ValueError(f"bits is 2 to 7, got {self.bits}; int8() codes 8 and sign() 1")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity is one of {', '.join(GRANULARITIES)}, got {self.granularity!r}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(cls(bits=b, granularity=g) for b in range(7, 1, -1) for g in GRANULARITIES)

    def _ranges(self, rows: Array) -> tuple[Array, Array]:
        if not self.search:
            low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
            if self.symmetric:
                return np.zeros(len(rows)), np.maximum(-low, high)
            return (low + high) / 2, (high - low) / 2
        step = 1 if self.granularity == "vector" else -(-rows.shape[1] // MAX_VALUES)
        values = np.ascontiguousarray(rows[:, ::step])
        middle = np.zeros(len(rows)) if self.symmetric else values.mean(axis=1, dtype=np.float64)
        half = np.maximum(middle - values.min(axis=1), values.max(axis=1) - middle)
        return middle, half * SHRINK[best_factors(values, middle, half, self._top, SHRINK)]


@njit(cache=True, nogil=True, fastmath=True)
def best_factors(rows, middle, half, top, shrink):  # type: ignore[no-untyped-def]
    """Return for each row which factor of its half width gives the least squared error."""
    chosen = np.zeros(len(rows), np.int64)
    limit = np.float32(top)
    for row in range(len(rows)):
        least = np.float32(0)
        for factor in range(len(shrink)):
            width = half[row] * shrink[factor]
            low, step = np.float32(middle[row] - width), np.float32(2 * width / top)
            if step <= 0:
                break
            inverse = np.float32(1) / step
            error = np.float32(0)
            for value in rows[row]:
                level = np.rint((value - low) * inverse)
                level = min(max(level, np.float32(0)), limit)
                off = low + step * level - value
                error += off * off
            if factor == 0 or error < least:
                least, chosen[row] = error, factor
    return chosen
