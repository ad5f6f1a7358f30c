"""Keep signs, and the best rank-one approximation of what they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.scaled import ScaledCodec, check_centre, column, float16, signs_of, width_of
from packbench.methods.binary.signs import sign_sums
from packbench.registry import register

ROUNDS = 30  # magnitudes are positive: the second singular value is far behind, and a few rounds would do


@register
@dataclass(frozen=True, slots=True)
class OnebitSvid(ScaledCodec):
    """Keep the sign of each centred coordinate with one factor per item and one per dimension.

    The factors are the leading singular pair of the magnitudes |x - mean| of the fit sample, found by power iteration;
    an item's own factor is the one of least squared error, in float16. Xu et al., OneBit: Towards Extremely Low-bit
    Large Language Models, 2024, whose sign-value-independent decomposition of weights this takes over to vectors.
    """

    name: ClassVar[str] = "onebit_svid"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Xu et al., OneBit: Towards Extremely Low-bit Large Language Models, 2024"
    formula: ClassVar[str] = "ceil(d/8) + 2 per item; shared 8d + 1 with the mean, else 4d + 5"

    centre: str = "mean"

    def __post_init__(self) -> None:
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), cls("zero")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return code_bytes(d) + 2.0, 4.0 * d + self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        magnitudes = np.abs(residuals)
        moment = (magnitudes.T @ magnitudes).astype(np.float64)
        factor = np.ones(len(moment))
        for _ in range(ROUNDS):
            found = moment @ factor
            length = np.linalg.norm(found)
            if length == 0:
                break
            # Of mean square one, so that the item's factor is of the size of its coordinates.
            factor = found / length * np.sqrt(len(found))
        return {"factor": factor.astype(np.float32)}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        factor = shared["factor"].astype(np.float64)
        own = (np.abs(residuals) * factor).sum(axis=1) / (factor @ factor)
        return {"signs": pack_signs(residuals), "scale": float16(own)}

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(signs_of(codes["signs"], width_of(shared)) * shared["factor"] * column(codes["scale"]))

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        return np.asarray(sign_sums(codes["signs"], queries * shared["factor"]) * codes["scale"].astype(np.float32))

    def _squares(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(codes["scale"].astype(np.float32) ** 2 * (shared["factor"] @ shared["factor"]))
