"""Take out what is large and the same in all items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    conditioned,
    metric_after_centring,
    rule_of,
)
from packbench.methods.projection.moments import learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class ConstOutlier(Transform):
    """Subtract the mean of the dimensions whose mean is many times their deviation, and leave the others alone.

    What is constant adds the same to every score of a query, and takes the range of a code that has one scale per
    vector. It is kept once, at full precision. For cosine, vectors are brought to unit length first and then compared
    by inner product. Zhao et al., "MixDQ: Memory-Efficient Few-Step Text-to-Image Diffusion Models with
    Metric-Decoupled Mixed Precision Quantization", 2024, whose constant is the vector of the first token.
    """

    name: ClassVar[str] = "const_outlier"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Zhao et al., MixDQ: Memory-Efficient Few-Step Text-to-Image Diffusion Models with Metric-Decoupled Mixed "
        "Precision Quantization, 2024"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4d + 1"
    ratio: float = 3.0

    def __post_init__(self) -> None:
        if self.ratio < 0:
            raise ValueError(f"ratio of mean to deviation is at least 0, got {self.ratio:g}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample)
        mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
        constant = np.where(np.abs(mean) > self.ratio * deviation, mean, 0)
        return {"constant": constant.astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return centred(items, shared["constant"], shared["rule"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return centred_queries(queries, shared["constant"], shared["rule"])
