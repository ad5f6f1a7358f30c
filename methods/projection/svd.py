"""Project onto the directions of greatest energy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import leading, moment
from packbench.items import Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, metric_after_centring, reduced, rule_of
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SVD(Transform):
    """Project onto the `dim` leading right singular vectors of the uncentred fit sample.

    Of all rank-dim copies of the sample it is the nearest in squared error. soft_threshold in [0, 1), in units of the
    largest singular value s, shrinks every singular value by that much and to no less than zero, as Xu and others,
    "Trained Rank Pruning for Efficient Deep Neural Networks", 2019, do; items are shrunk, queries not. For cosine both
    are brought to unit length first and then compared by inner product. Zhang and others, "Experimental Analysis of
    Large-scale Learnable Vector Storage Compression", 2023.
    """

    name: ClassVar[str] = "svd"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Zhang, Zhao, Miao, Shao, Liu, Yang, Cui, Experimental Analysis of Large-scale Learnable Vector Storage "
        "Compression, 2023"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d dim + 1"
    dim: int
    soft_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if not 0 <= self.soft_threshold < 1:
            raise ValueError(f"soft_threshold is a share of the largest singular value, got {self.soft_threshold}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        energies, rows = leading(moment(vectors), self.dim)
        singular = np.sqrt(energies)
        kept = np.maximum(singular - self.soft_threshold * singular[0], 0)
        gains = np.divide(kept, singular, out=np.ones_like(kept), where=singular > 0)
        found = {"components": rows.astype(np.float32), "rule": rule}
        return found | ({"build/gains": gains.astype(np.float32)} if self.soft_threshold else {})

    def apply(self, items: Items, shared: Arrays) -> Items:
        mapped = map_rows(directed(items, shared["rule"]), shared["components"])
        return mapped * shared["build/gains"] if self.soft_threshold else mapped

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(directed(queries, shared["rule"], "queries"), shared["components"])
