"""Draw signs at random, so that they are right on average."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.scaled import ScaledCodec, check_centre, signs_of, width_of
from packbench.methods.binary.signs import sign_sums
from packbench.registry import register

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@register
@dataclass(frozen=True, slots=True)
class StochasticSign(ScaledCodec):
    """Draw `draws` random bits per coordinate whose mean is the coordinate, clipped to a range of `reach` deviations.

    A bit is +1 with probability (1 + x / r) / 2, where r is `reach` times the root mean square of the fit sample. Draws
    depend on the item's values and the seed, and on nothing beside it. Unbiased inside the range and far noisier than a
    sign with a scale: a control of what dither costs. The stochastic form of Courbariaux, Bengio, David, BinaryConnect:
    Training Deep Neural Networks with binary weights during propagations, 2015, taken over from weights to vectors.
    """

    name: ClassVar[str] = "stochastic_sign"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Courbariaux, Bengio, David, BinaryConnect: Training Deep Neural Networks with binary weights during "
        "propagations, 2015"
    )
    formula: ClassVar[str] = "draws ceil(d/8) per item; shared 4d + 5 with the mean, else 9"

    draws: int = 1
    reach: float = 2.0
    centre: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 64:
            raise ValueError(f"draws={self.draws}: expected 1 to 64")
        if not self.reach > 0:
            raise ValueError(f"reach={self.reach:g}: expected more than 0")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        most = next(iter(budget.fitting(cls(draws) for draws in range(64, 0, -1)))).draws
        return budget.fitting([cls(most), cls(most, reach=1.0), cls(most, centre="zero")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(self.draws * code_bytes(d)), self._origin_bytes(d) + 4, 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        spread = self.reach * np.sqrt(np.mean(np.square(residuals, dtype=np.float64)))
        return {"range": np.array([spread if spread > 0 else 1], np.float32)}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        chance = (1 + np.clip(residuals / shared["range"], -1, 1)) / 2
        numbers = uniform(residuals, self.draws, self.seed)
        return {"signs": np.concatenate([pack_signs(chance - next(numbers)) for _ in range(self.draws)], axis=1)}

    def _draws(self, codes: Arrays, d: int) -> list[Array]:
        size = code_bytes(d)
        return [codes["signs"][:, draw * size : (draw + 1) * size] for draw in range(self.draws)]

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        rows = np.zeros((len(codes["signs"]), d), np.float32)
        for packed in self._draws(codes, d):
            rows += signs_of(packed, d)
        return np.asarray(rows * (shared["range"] / self.draws))

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        dots = np.zeros((len(queries), len(codes["signs"])), np.float32)
        for packed in self._draws(codes, queries.shape[1]):
            dots += sign_sums(packed, queries)
        return np.asarray(dots * (shared["range"] / self.draws))


def uniform(rows: Array, draws: int, seed: int) -> Iterator[Array]:
    """Yield arrays (n, d) of numbers in [0, 1) that depend on a row's own values, the place and the seed.

    SplitMix64 of a hash of the row: a generator that is drawn from in turn would make a code depend on its batch.
    """
    d = rows.shape[1]
    odd = np.random.default_rng(seed).integers(0, 2**63, d, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32).astype(np.uint64)
    key = _mix((_mix(bits + odd) * odd).sum(axis=1, dtype=np.uint64))[:, None]
    for draw in range(draws):
        place = (np.arange(d, dtype=np.uint64) + np.uint64(draw * d + 1)) * GOLDEN
        yield (_mix(key + place) >> np.uint64(11)) * 2.0**-53


def _mix(words: Array) -> Array:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
