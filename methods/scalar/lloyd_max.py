"""Give every dimension the levels of least squared error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method
from packbench.methods.scalar.int4 import SHRINK, best_factors
from packbench.methods.scalar.levels import LevelsCodec
from packbench.methods.scalar.packing import packed_bytes
from packbench.registry import register

ROUNDS = 300
TOLERANCE = 1e-6  # of the column's mean square: a round that gains less ends the iteration


@register
@dataclass(frozen=True, slots=True)
class LloydMax(LevelsCodec):
    """Round each coordinate to the nearest of 2^bits values that Lloyd's iteration learnt for its dimension.

    The iteration (a level is the mean of what is nearest to it) starts from the middles of equal shares and from an
    even grid, and the better end is kept; a dimension of at most 2^bits distinct values is reproduced exactly.
    granularity="global" learns one table for all dimensions. Lloyd, "Least Squares Quantization in PCM", 1982; as a
    codebook of scalars per dimension in Hsu, Dorrell, Whittington, Wu and Finn, "Disentanglement via Latent
    Quantization", 2023, without the autoencoder.
    """

    name: ClassVar[str] = "lloyd_max"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Lloyd, Least Squares Quantization in PCM, 1982; Hsu, Dorrell, Whittington, Wu, Finn, Disentanglement via "
        "Latent Quantization, 2023"
    )
    formula: ClassVar[str] = "ceil(bits d/8) per item; shared 4d 2^bits (global: 4 2^bits + 4)"
    bits: int = 4
    granularity: str = "dim"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")
        if self.granularity not in ("dim", "global"):
            raise ValueError(f"granularity is one of dim, global, got {self.granularity!r}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        finest_first = (cls(b, granularity) for b in range(8, 0, -1) for granularity in ("dim", "global"))
        return islice(budget.fitting(finest_first), 3)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        tables = 4.0 * 2**self.bits
        # The width of a packed vector cannot be told from its bytes.
        return float(packed_bytes(self.bits, d)), d * tables if self.granularity == "dim" else tables + 4, 0.0

    def _learn(self, columns: Array) -> dict[str, Array]:
        if self.granularity == "dim":
            return super(LloydMax, self)._learn(columns)
        every = -(-columns.size // 2_000_000)
        shared = super(LloydMax, self)._learn(columns.reshape(1, -1)[:, ::every])
        return shared | {"width": np.array([len(columns)], np.uint32)}

    def _levels(self, shared: Arrays) -> Array:
        levels = shared["levels"]
        return np.repeat(levels, int(shared["width"][0]), axis=0) if "width" in shared else levels

    def _bins(self, column: Array, rng: np.random.Generator) -> tuple[Array, None]:
        count = 2**self.bits
        distinct = column[np.concatenate([[True], column[1:] != column[:-1]])]
        if len(distinct) <= count:
            return np.concatenate([distinct, np.full(count - len(distinct), distinct[-1])]), None
        middle = column.mean(dtype=np.float64)
        values = column.astype(np.float64) - middle
        shares = values[((np.arange(count) + 0.5) / count * len(values)).astype(int)]
        starts = [shares, _grid(column, middle, count)]
        ends = [_iterate(values, start) for start in starts]
        return min(ends, key=lambda end: end[1])[0] + middle, None


def _grid(column: Array, middle: float, count: int) -> Array:
    """Return the even grid about the middle with the least squared error, as int4 chooses it."""
    half = np.array([max(middle - column[0], column[-1] - middle)], np.float64)
    every = column[None, :: -(-len(column) // 16384)]
    half *= SHRINK[best_factors(np.ascontiguousarray(every), np.array([middle]), half, count - 1, SHRINK)]
    return np.linspace(-half[0], half[0], count)


def _iterate(values: Array, levels: Array) -> tuple[Array, float]:
    """Run Lloyd's iteration on sorted values; return the levels and their mean squared error."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    energy = float(values @ values)
    error = np.inf
    for _ in range(ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(values, (levels[1:] + levels[:-1]) / 2), [len(values)]])
        counts, totals = np.diff(cuts), np.diff(sums[cuts])
        levels = np.where(counts > 0, totals / np.maximum(counts, 1), levels)
        # Of a level that is the mean of its cell.
        before, error = error, energy - float(totals @ levels)
        if before - error <= TOLERANCE * energy:
            break
    return levels, error / len(values)
