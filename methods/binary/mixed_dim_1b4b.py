"""Give the dimensions that matter four bits and the others one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, as_vectors
from packbench.method import Arrays, Method, Sample, nest, unnest
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
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.packing import packed_bytes, weighted_sums
from packbench.registry import register

GRID = Int4()


@register
@dataclass(frozen=True, slots=True)
class MixedDim1b4b(ScaledCodec):
    """Code the dimensions that matter most to inner products in 4 bits and the others by sign and one scale.

    The share `rho` of dimensions with the greatest E[q²] Var(x) is chosen once for all items and coded by int4, with a
    range for each dimension; the others keep their sign, and the mean of their magnitudes in float16 with the item.
    Zhao et al., PTQ1.61: Push the Real Limit of Extremely Low-Bit Post-Training Quantization Methods for Large Language
    Models, 2025, whose mask of structured columns this takes over to vectors; its learned scales are left out.
    """

    name: ClassVar[str] = "mixed_dim_1b4b"
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zhao et al., PTQ1.61: Push the Real Limit of Extremely Low-Bit Post-Training Quantization Methods for Large "
        "Language Models, 2025"
    )
    formula: ClassVar[str] = (
        "m = round(rho d): ceil(4m/8) + ceil((d - m)/8) + 2 (no + 2 if m = d) per item; "
        "shared 10m + 4d + 1 with the mean, else 10m + 5"
    )

    rho: float = 0.2
    centre: str = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho={self.rho:g}: expected a share from 0 to 1")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        shares = (cls(round(count / d, 6)) for count in range(d, -1, -1))
        best = next(iter(budget.fitting(shares))).rho
        # Behind a rotation all dimensions matter alike: the twin shows what their choice is worth.
        return budget.fitting([cls(best), cls(best, "zero"), RandomRotation() | cls(best)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        wide = self._wide(d)
        item = packed_bytes(4, wide) + code_bytes(d - wide) + (2.0 if wide < d else 0.0)
        return item, 10.0 * wide + self._origin_bytes(d), 0.0

    def _wide(self, d: int) -> int:
        return round(self.rho * d)

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        d = residuals.shape[1]
        if d > 65536:
            raise BadInput(f"{self}: dimensions are numbered in two bytes, so there may be 65536 of them, not {d}")
        if sample.queries is None:
            raise BadInput(f"{self}: it needs fit queries, which this data set does not have")
        queries = unit_if(np.array([sample.metric == "cosine"], np.uint8), as_vectors(sample.queries, "fit queries"))
        if sample.metric == "l2":
            queries = queries - as_vectors(sample.items).mean(axis=0, dtype=np.float64)
        matter = (queries.astype(np.float64) ** 2).mean(axis=0) * residuals.var(axis=0, dtype=np.float64)
        chosen = np.sort(np.argsort(-matter, kind="stable")[: self._wide(d)])
        shared = {"chosen": chosen.astype(np.uint16)}
        return shared | (nest("grid", GRID.fit(Sample(residuals[:, chosen]))) if len(chosen) else {})

    def _others(self, shared: Arrays) -> Array:
        return np.delete(np.arange(width_of(shared)), shared["chosen"])

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        codes: dict[str, Array] = {}
        if len(shared["chosen"]):
            codes["grid"] = GRID.encode(residuals[:, shared["chosen"]], unnest("grid", shared))["codes"]
        others = residuals[:, self._others(shared)]
        if others.shape[1]:
            codes |= {"signs": pack_signs(others), "scale": float16(mean_magnitude(others))}
        return codes

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        rows = np.empty((len(next(iter(codes.values()))), width_of(shared)), np.float32)
        if "grid" in codes:
            rows[:, shared["chosen"]] = GRID.decode({"codes": codes["grid"]}, unnest("grid", shared))
        if "signs" in codes:
            others = self._others(shared)
            rows[:, others] = signs_of(codes["signs"], len(others)) * column(codes["scale"])
        return rows

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        dots = np.zeros((len(queries), len(next(iter(codes.values())))), np.float32)
        if "grid" in codes:
            grid = unnest("grid", shared)
            for row, q in zip(dots, queries[:, shared["chosen"]], strict=True):
                row += q @ grid["low"] + weighted_sums(codes["grid"], 4, q * grid["step"])
        if "signs" in codes:
            dots += codes["scale"].astype(np.float32) * sign_sums(codes["signs"], queries[:, self._others(shared)])
        return dots
