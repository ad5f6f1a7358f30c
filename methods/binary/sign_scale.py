"""Keep signs, and how large what they stand for is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import AsymmetricSearcher, check_scorer, code_bytes, pack_signs
from packbench.methods.binary.scaled import (
    ScaledCodec,
    ScaledSearcher,
    check_centre,
    column,
    float16,
    mean_magnitude,
    residuals,
    signs_of,
    width_of,
)
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

SCOPES = ("vector", "dim", "block")


@register
@dataclass(frozen=True, slots=True)
class SignScale(ScaledCodec):
    """Keep the sign of each centred coordinate, with the least-squares scale of a vector, a dimension or a block.

    The scale is the mean of |x - mean|: in float16 with each item, or with each `block` coordinates of it, or learned
    for each dimension. Centres: the mean of the fit sample, zero, or the mean of the item's own coordinates ("row",
    float16). The symmetric scorer codes the query too. Rastegari, Ordonez, Redmon, Farhadi, XNOR-Net: ImageNet
    Classification Using Binary Convolutional Neural Networks, 2016, whose weights this takes over to vectors; scales
    per channel as in BiViT: Extremely Compressed Binary Vision Transformer, 2022.
    """

    name: ClassVar[str] = "sign_scale"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Rastegari, Ordonez, Redmon, Farhadi, XNOR-Net: ImageNet Classification Using Binary Convolutional Neural "
        "Networks, 2016"
    )
    formula: ClassVar[str] = (
        "ceil(d/8) + 2 per item (block: + 2 ceil(d/block), dim: + 0; row: + 2 more); shared 4d + 1 with the mean, "
        "else 5; dim: + 4d"
    )

    scope: str = "vector"
    scorer: str = "asymmetric"
    centre: str = "mean"
    block: int = 64

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ValueError(f"scope={self.scope!r}: expected one of {', '.join(SCOPES)}")
        check_scorer(self.scorer)
        check_centre(self.centre, ("zero", "mean", "row"))
        if self.centre == "row" and self.scope == "dim":
            raise ValueError("centre='row' goes with a scale stored in the item, scope='vector' or 'block'")
        if self.block < 8 or self.block % 8:
            raise ValueError(f"block={self.block}: expected a multiple of 8")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([RandomRotation() | cls(), cls(), cls("dim"), cls("dim", centre="zero")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        factors = {"vector": 1, "dim": 0, "block": -(-d // self.block)}[self.scope] + (self.centre == "row")
        return code_bytes(d) + 2.0 * factors, self._origin_bytes(d) + (4.0 * d if self.scope == "dim" else 0.0), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        if self.scope != "dim":
            return {}
        return {"scale": np.abs(residuals).mean(axis=0, dtype=np.float64).astype(np.float32)}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        codes: dict[str, Array] = {}
        if self.centre == "row":
            codes["offset"] = float16(residuals.mean(axis=1, dtype=np.float64))
            residuals = residuals - column(codes["offset"])
        codes["signs"] = pack_signs(residuals)
        if self.scope != "dim":
            factors = [mean_magnitude(residuals[:, part]) for part in self._parts(residuals.shape[1])]
            codes["scale"] = float16(np.stack(factors, axis=1))
        return codes

    def _parts(self, d: int) -> list[slice]:
        """Return the columns that share a scale."""
        size = self.block if self.scope == "block" else d
        return [slice(first, min(first + size, d)) for first in range(0, d, size)]

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        rows = signs_of(codes["signs"], d)
        if self.scope == "dim":
            rows *= shared["scale"]
        else:
            for place, part in enumerate(self._parts(d)):
                rows[:, part] *= column(codes["scale"][:, place])
        if self.centre == "row":
            rows += column(codes["offset"])
        return rows

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        if self.scope == "dim":
            return sign_sums(codes["signs"], queries * shared["scale"])
        dots = np.zeros((len(queries), len(codes["signs"])), np.float32)
        for place, part in enumerate(self._parts(queries.shape[1])):
            packed = codes["signs"][:, part.start // 8 : -(-part.stop // 8)]
            sums = sign_sums(packed, queries[:, part])
            sums *= codes["scale"][:, place].astype(np.float32)
            dots += sums
        if self.centre == "row":
            dots += queries.sum(axis=1, keepdims=True) * codes["offset"].astype(np.float32)
        return dots

    def _squares(self, codes: Arrays, shared: Arrays) -> Array:
        if self.centre == "row":
            return ScaledCodec._squares(self, codes, shared)
        if self.scope == "dim":
            return np.full(len(codes["signs"]), shared["scale"] @ shared["scale"], np.float32)
        sizes = np.array([part.stop - part.start for part in self._parts(width_of(shared))], np.float32)
        return np.asarray(codes["scale"].astype(np.float32) ** 2 @ sizes)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if self.scope != "dim" or (metric == "cosine" and self.scorer == "asymmetric"):
            return ScaledSearcher(self, codes, shared, metric, self.scorer == "symmetric")

        # Every item has the same norm about the centre, so that distances rank as inner products do.
        def weighed(queries: Array) -> Array:
            centred = residuals(queries, shared)
            if self.scorer == "symmetric":
                return np.asarray(self._rows(self._code(centred, shared), shared) * shared["scale"])
            return np.asarray((centred if metric == "l2" else queries) * shared["scale"])

        return AsymmetricSearcher(codes["signs"], weighed)
