"""Keep the coordinates of a vector that stand out in eight bits, and the signs of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, as_vectors
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.linear import unit_if
from packbench.methods.binary.scaled import (
    ScaledCodec,
    check_centre,
    column,
    float16,
    mean_magnitude,
    signs_of,
    width_of,
)
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

RULES = ("magnitude", "hessian")
DAMP = 0.01  # of the mean diagonal, added to E[qq'] before it is inverted: GPTQ's value


@register
@dataclass(frozen=True, slots=True)
class PBSalient(ScaledCodec):
    """Keep each vector's most salient coordinates in 8 bits with their places, and signs with one scale for the others.

    Salient is what is largest about the mean, or with rule="hessian" has the largest x² / [H⁻¹]², H = E[qq'] over the
    fit queries. Places are kept as a list or a mask, whichever is shorter, and weighed. Both scales are float16 and the
    item's own. Shang, Yuan, Wu, Dong, PB-LLM: Partially Binarized Large Language Models, 2023, without its training.
    """

    name: ClassVar[str] = "pb_salient"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Shang, Yuan, Wu, Dong, PB-LLM: Partially Binarized Large Language Models, 2023"
    formula: ClassVar[str] = (
        "m = round(rho d): m + ceil((d - m)/8) + min(ceil(m ceil(log2 d)/8), ceil(d/8)) + 4 per item "
        "(m = 0: ceil(d/8) + 2; m = d: d + 2); shared 4d + 1 with the mean, else 5"
    )

    rho: float = 0.1
    rule: str = "magnitude"
    centre: str = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho={self.rho:g}: expected a share from 0 to 1")
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: expected one of {', '.join(RULES)}")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        best = next(iter(budget.fitting(cls(round(count / d, 6)) for count in range(d, -1, -1)))).rho
        return budget.fitting([cls(best), RandomRotation() | cls(best), cls(best, centre="zero")])

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.rule == "hessian" else frozenset()

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        count = self._count(d)
        places = self._place_bytes(d) if 0 < count < d else 0
        item = count + code_bytes(d - count) + places + 2.0 * ((count > 0) + (count < d))
        return item, self._origin_bytes(d), 0.0

    def _count(self, d: int) -> int:
        return round(self.rho * d)

    def _place_bytes(self, d: int) -> int:
        return min(code_bytes(self._count(d) * (d - 1).bit_length()), code_bytes(d))

    def _listed(self, d: int) -> bool:
        return self._place_bytes(d) < code_bytes(d)

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        if self.rule == "magnitude":
            return {}
        return {"build/weight": (1 / np.diag(np.linalg.inv(query_moment(sample, str(self))))).astype(np.float32)}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        n, d = residuals.shape
        count = self._count(d)
        salience = np.abs(residuals) * shared.get("build/weight", np.float32(1))
        chosen = np.zeros((n, d), bool)
        np.put_along_axis(chosen, np.argsort(-salience, axis=1, kind="stable")[:, :count], True, axis=1)
        codes: dict[str, Array] = {}
        if count:
            large = residuals[chosen].reshape(n, count)
            codes["step"] = float16(np.abs(large).max(axis=1) / 127.0)
            step = column(codes["step"])
            codes["large"] = np.clip(np.rint(large / np.where(step > 0, step, 1)), -127, 127).astype(np.int8)
        if count < d:
            small = residuals[~chosen].reshape(n, d - count)
            codes |= {"signs": pack_signs(small), "scale": float16(mean_magnitude(small))}
        if 0 < count < d:
            codes["places"] = self._pack_places(chosen)
        return codes

    def _pack_places(self, chosen: Array) -> Array:
        n, d = chosen.shape
        if not self._listed(d):
            return np.packbits(chosen, axis=1, bitorder="little")
        places = np.nonzero(chosen)[1].reshape(n, self._count(d), 1)
        bits = (places >> np.arange((d - 1).bit_length())) & 1
        return np.packbits(bits.reshape(n, places.shape[1] * bits.shape[2]).astype(np.uint8), axis=1, bitorder="little")

    def _chosen(self, codes: Arrays, d: int) -> Array:
        """Return which coordinates (n, d) are kept in eight bits."""
        n, count = len(next(iter(codes.values()))), self._count(d)
        if "places" not in codes:
            return np.full((n, d), count == d)
        if not self._listed(d):
            return np.unpackbits(codes["places"], axis=1, count=d, bitorder="little").astype(bool)
        size = (d - 1).bit_length()
        bits = np.unpackbits(codes["places"], axis=1, count=count * size, bitorder="little").reshape(n, count, size)
        chosen = np.zeros((n, d), bool)
        np.put_along_axis(chosen, bits.astype(np.int64) @ (1 << np.arange(size)), True, axis=1)
        return chosen

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        chosen = self._chosen(codes, d)
        rows = np.empty(chosen.shape, np.float32)
        if "large" in codes:
            rows[chosen] = (codes["large"] * column(codes["step"])).ravel()
        if "signs" in codes:
            rows[~chosen] = (signs_of(codes["signs"], d - self._count(d)) * column(codes["scale"])).ravel()
        return rows


def query_moment(sample: Sample, who: str) -> Array:
    """Return E[qq'] of the fit queries (d, d) float64, dampened so that it can be inverted."""
    if sample.queries is None:
        raise BadInput(f"{who}: it needs fit queries, which this data set does not have")
    queries = as_vectors(sample.queries, "fit queries")
    q = unit_if(np.array([sample.metric == "cosine"], np.uint8), queries).astype(np.float64)
    if sample.metric == "l2":
        q = q - as_vectors(sample.items).mean(axis=0, dtype=np.float64)
    moment = q.T @ q / max(len(q), 1)
    ridge = DAMP * np.trace(moment) / len(moment)
    return np.asarray(moment + (ridge if ridge > 0 else 1.0) * np.eye(len(moment)))
