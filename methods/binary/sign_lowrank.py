"""Keep a few principal components, and the signs of what they leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.scaled import (
    ScaledCodec,
    check_centre,
    column,
    float16,
    mean_magnitude,
    signs_of,
    width_of,
)
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.linear import map_rows
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SignLowrank(ScaledCodec):
    """Keep the first principal coefficients in float16, and signs with one scale for what they leave.

    The scale is the mean magnitude of the rest, of least squared error, in float16. An analogue of the low-rank
    estimators of binarisation residuals in Xing et al., BiPFT: Binary Pre-trained Foundation Transformer with Low-rank
    Estimation of Binarization Residual Polynomials, 2023, which correct scores inside a trained network.
    """

    name: ClassVar[str] = "sign_lowrank"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Xing et al., BiPFT: Binary Pre-trained Foundation Transformer with Low-rank Estimation of Binarization "
        "Residual Polynomials, 2023"
    )
    formula: ClassVar[str] = (
        "ceil(d/8) + 2 rank + 2 per item; shared 4 (rank d + d) + 1 with the mean, else 4 rank d + 5"
    )

    rank: int = 8
    centre: str = "mean"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank={self.rank}: expected 0 or more")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        most = next(iter(budget.fitting(cls(rank) for rank in range(budget.d, -1, -1)))).rank
        return budget.fitting([cls(most), cls(most, "zero"), cls(most // 2)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return code_bytes(d) + 2.0 * self.rank + 2, 4.0 * self.rank * d + self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        d = residuals.shape[1]
        if self.rank > d:
            raise BadInput(f"{self}: the vectors have only {d} coordinates; choose rank up to that")
        axes = eigh((residuals.T @ residuals).astype(np.float64))[1].T[::-1][: self.rank]
        # The largest entry of an axis is positive, so that the sign does not depend on the library.
        largest = axes[np.arange(self.rank), np.abs(axes).argmax(axis=1)]
        return {"components": np.ascontiguousarray(axes * np.where(largest < 0, -1, 1)[:, None], np.float32)}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        coefficients = float16(map_rows(residuals, shared["components"]))
        left = residuals - self._span(coefficients, shared)
        return {"coefficients": coefficients, "signs": pack_signs(left), "scale": float16(mean_magnitude(left))}

    def _span(self, coefficients: Array, shared: Arrays) -> Array:
        return map_rows(coefficients.astype(np.float32), np.ascontiguousarray(shared["components"].T))

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        rows = signs_of(codes["signs"], width_of(shared))
        rows *= column(codes["scale"])
        return np.asarray(rows + codes["coefficients"].astype(np.float32) @ shared["components"])

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        known = (queries @ shared["components"].T) @ codes["coefficients"].astype(np.float32).T
        return np.asarray(known + codes["scale"].astype(np.float32) * sign_sums(codes["signs"], queries))
