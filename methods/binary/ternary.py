"""Keep whether a coordinate is large and positive, large and negative, or small."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.scaled import ScaledCodec, check_centre, column, float16, mean_magnitude, width_of
from packbench.methods.codebook.lookup import fill_tables, scan
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

RULES = ("twn", "statistics", "absmean", "absmedian")
POWERS = 3 ** np.arange(5, dtype=np.int64)
TRITS = ((np.arange(256)[:, None] // POWERS) % 3 - 1).astype(np.float32)  # the five values of a byte below 243


@register
@dataclass(frozen=True, slots=True)
class Ternary(ScaledCodec):
    """Round each coordinate to -1, 0 or +1 times a scale kept in float16 with the item, five coordinates to a byte.

    Rules: "absmean", "absmedian" and "statistics" round x / γ, with γ the mean of |x|, its median, or 4/3 of its mean;
    "twn" zeroes what lies below 0.7 of the mean of |x| (Li, Zhang, Liu, Ternary Weight Networks, 2016). With
    `least_squares` the scale that decodes is the one of least squared error instead of γ (for "twn" it always is).
    """

    name: ClassVar[str] = "ternary"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Liu et al., Binary and Ternary Natural Language Generation, 2023; Nielsen, Schneider-Kamp, BitNet b1.58 "
        "Reloaded: State-of-the-art Performance Also on Smaller Networks, 2024"
    )
    formula: ClassVar[str] = "ceil(d/5) + 2 per item; shared 4d + 1 with the mean, else 5"

    rule: str = "twn"
    least_squares: bool = True
    centre: str = "mean"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: expected one of {', '.join(RULES)}")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), RandomRotation() | cls(), cls(centre="zero")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return -(-d // 5) + 2.0, self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        return {}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        n, d = residuals.shape
        magnitudes, mean = np.abs(residuals), mean_magnitude(residuals)
        if self.rule == "twn":
            kept = magnitudes > 0.7 * mean[:, None]
        else:
            scale = np.median(magnitudes, axis=1) if self.rule == "absmedian" else mean
            scale = scale * (4 / 3 if self.rule == "statistics" else 1)
            # Rounding x / scale to an integer gives one from half the scale on.
            kept = (magnitudes > scale[:, None] / 2) & (magnitudes > 0)
        if self.least_squares or self.rule == "twn":
            scale = np.where(kept, magnitudes, 0).sum(axis=1, dtype=np.float64) / np.maximum(kept.sum(axis=1), 1)
        trits = np.where(kept, np.sign(residuals), 0).astype(np.int64) + 1
        trits = np.pad(trits, ((0, 0), (0, -d % 5)))
        packed = (trits.reshape(n, -(-d // 5), 5) * POWERS).sum(axis=2)
        return {"trits": packed.astype(np.uint8), "scale": float16(scale)}

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        packed = codes["trits"]
        values = TRITS[packed].reshape(len(packed), 5 * packed.shape[1])[:, : width_of(shared)]
        return np.asarray(values * column(codes["scale"]))

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        packed = np.ascontiguousarray(codes["trits"])
        d = queries.shape[1]
        tables = np.zeros((len(queries), packed.shape[1], 256), np.float32)
        values = np.ascontiguousarray(np.tile(TRITS.T, (packed.shape[1], 1))[:d])
        fill_tables(np.ascontiguousarray(queries, np.float32), values, np.arange(d) // 5, False, tables)
        sums = np.empty((len(queries), len(packed)), np.float32)
        scan(packed, tables, sums)
        return np.asarray(sums * codes["scale"].astype(np.float32))
