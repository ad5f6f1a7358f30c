"""Sum two planes of zeros and ones, each with a factor of the item's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, blocks
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.scaled import ScaledCodec, check_centre, column, float16, signs_of, width_of
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

PATTERNS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])  # of the two planes, by the number of the level
BLOCK = 512  # rows optimised together, so that what they need stays in cache


@register
@dataclass(frozen=True, slots=True)
class FDBDual(ScaledCodec):
    """Split two bits into two planes of zeros and ones, whose factors are optimised item by item.

    The factors begin as 2s and -s, with s the root mean square, which makes levels of -s, 0, s and 2s; then levels and
    least-squares factors take turns. Levels are not symmetric and zero is one of them, which makes the planes sparse.
    Chen et al., "DB-LLM: Accurate Dual-Binarization for Efficient LLMs", 2024, with least squares for its training.
    """

    name: ClassVar[str] = "fdb_dual"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Chen et al., DB-LLM: Accurate Dual-Binarization for Efficient LLMs, 2024"
    formula: ClassVar[str] = "2 ceil(d/8) + 4 per item; shared 4d + 1 with the mean, else 5"

    iterations: int = 10
    centre: str = "mean"

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations}: expected 0 or more")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), RandomRotation() | cls(), cls(centre="zero")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return 2 * code_bytes(d) + 4.0, self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        return {}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        factors = np.empty((len(residuals), 2), np.float16)
        bits = np.empty((len(residuals), code_bytes(residuals.shape[1]) * 2), np.uint8)
        for part in blocks(len(residuals), BLOCK):
            rows = residuals[part].astype(np.float64)
            size = np.sqrt(np.square(rows).mean(axis=1))
            found = np.stack([2 * size, -size], axis=1)
            for _ in range(self.iterations):
                found = _least_squares(rows, _nearest(rows, found), found)
            factors[part] = float16(found)
            planes = PATTERNS[_nearest(rows, factors[part].astype(np.float64))]
            bits[part] = np.concatenate([pack_signs(planes[:, :, plane] - 0.5) for plane in range(2)], axis=1)
        return {"planes": bits, "factors": factors}

    def _split(self, codes: Arrays) -> list[tuple[Array, Array]]:
        """Return for each plane its bits and its factors."""
        halves = np.split(codes["planes"], 2, axis=1)
        return [(half, factor) for half, factor in zip(halves, codes["factors"].T, strict=True)]

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        rows = np.zeros((len(codes["planes"]), d), np.float32)
        for bits, factor in self._split(codes):
            rows += (signs_of(bits, d) + 1) * (column(factor) / 2)
        return rows

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        dots = np.zeros((len(queries), len(codes["planes"])), np.float32)
        for bits, factor in self._split(codes):
            # Of a sum over signs, half is that over ones.
            dots += (sign_sums(bits, queries) + queries.sum(axis=1, keepdims=True)) * (factor.astype(np.float32) / 2)
        return dots


def _nearest(rows: Array, factors: Array) -> Array:
    """Return the number of the level nearest to each coordinate."""
    levels = factors @ PATTERNS.T
    best, number = np.abs(rows - levels[:, :1]), np.zeros(rows.shape, np.intp)
    for place in range(1, 4):
        distance = np.abs(rows - levels[:, place, None])
        number[distance < best] = place
        best = np.minimum(best, distance)
    return number


def _least_squares(rows: Array, numbers: Array, factors: Array) -> Array:
    """Return the factors (n, 2) of least squared error for given levels, or those before where planes coincide."""
    first, second = (PATTERNS[numbers][:, :, plane].astype(np.float64) for plane in range(2))
    one, two, both = first.sum(axis=1), second.sum(axis=1), (first * second).sum(axis=1)
    a, b = (first * rows).sum(axis=1), (second * rows).sum(axis=1)
    pivot = one * two - both * both
    sound = pivot > 0
    safe = np.where(sound, pivot, 1)
    found = np.stack([(two * a - both * b) / safe, (one * b - both * a) / safe], axis=1)
    return np.where(sound[:, None], found, factors)
