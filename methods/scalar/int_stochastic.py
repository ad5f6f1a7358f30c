"""Round to an even grid at random, so that the error has mean zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.int8 import Int8
from packbench.methods.scalar.levels import RowsSearcher
from packbench.registry import register

ROWS = 4096
BYTES = Int8(granularity="global")  # reads what is written here


@register
@dataclass(frozen=True, slots=True)
class IntStochastic(Codec):
    """Round each coordinate up or down at random to an even grid of 8 or 16 bits, right on average.

    The code is floor((x - middle) / scale + u) with u uniform in [0, 1), clipped to the range of signed integers. Its
    squared error is twice that of rounding to nearest, and its mean error zero. u is a hash of the seed, the dimension
    and the coordinate's own bits, so that a code depends on nothing else. scale=0 takes it from the fit sample, so
    that nothing is clipped there. Zhang, Zhao, Miao, Shao, Liu, Yang and Cui, "Experimental Analysis of Large-scale
    Learnable Vector Storage Compression", 2023, its INT8 and INT16 compressors.
    """

    name: ClassVar[str] = "int_stochastic"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Zhang, Zhao, Miao, Shao, Liu, Yang, Cui, Experimental Analysis of Large-scale Learnable Vector Storage "
        "Compression, 2023"
    )
    formula: ClassVar[str] = "d or 2d per item; shared 8"
    bits: int = 8
    scale: float = 0.0
    middle: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise ValueError(f"bits is 8 or 16, got {self.bits}")
        if self.scale < 0:
            raise ValueError(f"scale is the step of the grid, or 0 to learn it, got {self.scale:g}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(16), cls(8)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self.bits / 8 * d, 8.0, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        half = 2 ** (self.bits - 1)
        step = self.scale
        if step == 0:
            if not len(vectors):
                raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn; or choose scale")
            # Rounding up must not leave the range at its upper end.
            step = float(np.abs(vectors - np.float32(self.middle)).max(initial=0.0)) / (half - 1)
        return {"step": np.array([step], np.float32), "low": np.array([self.middle - step * half], np.float32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        codes = np.empty(vectors.shape, np.uint8 if self.bits == 8 else np.uint16)
        low, step = float(shared["low"][0]), float(shared["step"][0])
        for part in blocks(len(vectors), ROWS):
            levels = (vectors[part] - low) / (step or 1.0)
            drawn = np.floor(levels + uniform_of(vectors[part], self.seed))
            codes[part] = np.clip(drawn, 0, 2**self.bits - 1).astype(codes.dtype)
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(shared["low"] + shared["step"] * codes["codes"].astype(np.float32))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if self.bits == 8:
            return BYTES.open(codes, shared, metric)
        integers = codes["codes"]
        n, d = integers.shape
        return RowsSearcher(n, d, metric, lambda part: self.decode({"codes": integers[part]}, shared))


def uniform_of(vectors: Array, seed: int) -> Array:
    """Return a number in [0, 1) for each coordinate (n, d), drawn by its bits, its column and the seed.

    Steele, Lea and Flood's SplitMix64 finaliser, whose outputs for neighbouring inputs do not correlate.
    """
    columns = np.random.default_rng([seed, 0x73746F63]).integers(0, 2**63, vectors.shape[1], dtype=np.uint64)
    mixed = vectors.view(np.uint32).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + columns
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-53)
