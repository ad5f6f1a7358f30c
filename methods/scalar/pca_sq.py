"""Keep principal components, each as the number of a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import RULES, metric_after_centring
from packbench.methods.projection.pca import PCA
from packbench.methods.scalar.levels import LevelsSearcher, RowsSearcher, bins, look_up_levels
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
from packbench.methods.scalar.quantile_sq import equal_shares
from packbench.registry import register

ROWS = 4096


@register
@dataclass(frozen=True, slots=True)
class PCASQ(Codec):
    """Project onto the `dim` directions of greatest variance and keep each component as one of 2^bits buckets.

    Components come in the order of their variance, so the buckets of fewer components are the first ones of more.
    Buckets are even between the least and the greatest value of the fit sample, or equally occupied with
    quantile=True and then read as their means. Centred, and compared in the projected space, as pca() does. Ramesh,
    Dhariwal, Nichol, Chu and Chen, "Hierarchical Text-Conditional Image Generation with CLIP Latents", 2022, whose
    prior predicts 319 components in 1024 buckets each.
    """

    name: ClassVar[str] = "pca_sq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Ramesh, Dhariwal, Nichol, Chu, Chen, Hierarchical Text-Conditional Image Generation with CLIP Latents, 2022"
    )
    formula: ClassVar[str] = (
        "ceil(bits dim/8) per item (above 8 bits: dim + ceil((bits - 8) dim/8)); shared 4 (d dim + d) + 1 + 8 dim "
        "(quantile: 4 dim 2^bits for 8 dim)"
    )
    dim: int
    bits: int = 10
    quantile: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits is 1 to 16, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def largest(bits: int) -> Method:
            low, high = 1, budget.d
            while low < high:
                middle = (low + high + 1) // 2
                fits = budget.holds(*cls(middle, bits).planned_bytes(budget.d))
                low, high = (middle, high) if fits else (low, middle - 1)
            return cls(low, bits)

        # Once every component has 7 bits there is no better use of bytes than finer buckets; below, dimensions compete.
        whole = [b for b in range(16, 6, -1) if budget.holds(*cls(budget.d, b).planned_bytes(budget.d))]
        return budget.fitting(largest(bits) for bits in (whole[:1] or (6, 4, 5)))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        values = 4.0 * 2**self.bits if self.quantile else 8.0
        item = packed_bytes(min(self.bits, 8), self.dim) + packed_bytes(max(self.bits - 8, 0), self.dim)
        return float(item), 4.0 * (d * self.dim + d) + 1 + values * self.dim, 0.0

    def fit(self, sample: Sample) -> Arrays:
        shared = dict(self._pca.fit(sample))
        columns = np.asarray(self._pca.apply(sample.items, shared)).T
        if self.quantile:
            found = [equal_shares(np.sort(column), 2**self.bits) for column in columns]
            shared["levels"] = np.array([levels for levels, _ in found], np.float32)
            shared["build/edges"] = np.array([edges for _, edges in found], np.float32)
        else:
            low, high = columns.min(axis=1).astype(np.float64), columns.max(axis=1)
            shared["step"] = ((high - low) / 2**self.bits).astype(np.float32)
            shared["low"] = (low + shared["step"] / 2).astype(np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        rows = np.asarray(self._pca.apply(items, shared))
        codes = np.empty((len(rows), self.dim), np.uint16)
        for part in blocks(len(rows), ROWS):
            if self.quantile:
                codes[part] = bins(rows[part], shared["build/edges"])
            else:
                step = np.where(shared["step"] > 0, shared["step"], 1)
                codes[part] = np.clip(np.rint((rows[part] - shared["low"]) / step), 0, 2**self.bits - 1)
        more = self.bits - 8
        if more <= 0:
            return {"codes": pack(codes.astype(np.uint8), self.bits)}
        return {
            "codes": (codes >> more).astype(np.uint8),
            "fine": pack((codes & (2**more - 1)).astype(np.uint8), more),
        }

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(self._components(codes, shared) @ shared["components"] + shared["mean"], np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        inner = metric_after_centring(metric)
        if inner != metric_after_centring(RULES[int(shared["rule"][0])]):
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")

        def queries(rows: Array) -> Array:
            return np.asarray(self._pca.apply_queries(rows, shared))

        if self.bits <= 8:
            return LevelsSearcher(codes["codes"], self._levels(shared), self.bits, inner, queries)
        return RowsSearcher(
            len(codes["codes"]), self.dim, inner,
            lambda part: self._components({name: array[part] for name, array in codes.items()}, shared), queries,
        )  # fmt: skip

    @property
    def _pca(self) -> PCA:
        return PCA(self.dim)

    def _levels(self, shared: Arrays) -> Array:
        if self.quantile:
            return shared["levels"]
        return np.asarray(shared["low"][:, None] + shared["step"][:, None] * np.arange(2**self.bits, dtype=np.float32))

    def _components(self, codes: Arrays, shared: Arrays) -> Array:
        """Return the components (n, dim) float32 that codes stand for."""
        integers = unpack(codes["codes"], min(self.bits, 8), self.dim)
        more = self.bits - 8
        if more <= 0:
            return look_up_levels(integers, self._levels(shared))
        wide = (integers.astype(np.uint16) << more) | unpack(codes["fine"], more, self.dim)
        if self.quantile:
            return np.asarray(shared["levels"][np.arange(self.dim), wide])
        return np.asarray(shared["low"] + shared["step"] * wide.astype(np.float32))
