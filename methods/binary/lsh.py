"""Cut space by random hyperplanes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer, code_bytes, open_bits, pack_signs, whole_bytes
from packbench.methods.binary.linear import project
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class LSH(Method):
    """Keep on which side of random hyperplanes through the origin a vector lies, one bit for each.

    SimHash, locality-sensitive hashing for angles: two vectors at angle θ differ in each bit with probability θ / π.
    Charikar, Similarity Estimation Techniques from Rounding Algorithms, 2002. The normals are Gaussian, and there may
    be more of them than dimensions. The asymmetric scorer sums ⟨w_j, q⟩ (2 b_j - 1). Angles only: lengths are lost.
    """

    name: ClassVar[str] = "lsh"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Charikar, Similarity Estimation Techniques from Rounding Algorithms, 2002"
    formula: ClassVar[str] = "ceil(bits/8) per item; shared 4·d·bits"

    bits: int
    scorer: str = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits={self.bits}: expected at least 1")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        bits = whole_bytes(budget, 4 * budget.d)
        return budget.fitting([cls(bits, "asymmetric"), cls(bits)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(self.bits)), 4.0 * d * self.bits, 0.0

    def fit(self, sample: Sample) -> Arrays:
        shape = (width(sample.items), self.bits)
        return {"hyperplanes": np.random.default_rng(self.seed).standard_normal(shape, dtype=np.float32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": pack_signs(project(as_vectors(items), shared["hyperplanes"]))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        normals = shared["hyperplanes"]
        return open_bits(codes["codes"], self.scorer, lambda queries: queries @ normals)
