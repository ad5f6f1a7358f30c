"""Project onto the directions of greatest variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import leading, moment
from packbench.items import Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    map_queries,
    map_rows,
    metric_after_centring,
    reduced,
    rule_of,
    unit,
)
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class PCA(Transform):
    """Project onto the `dim` directions of greatest variance about the mean of the fit sample.

    Items are centred. Queries are centred for l2 only: under an inner product, centring both would drop the term
    <mean, x>, which differs from item to item, and rank wrongly. For cosine both are brought to unit length first and
    then compared by inner product. Pearson, "On Lines and Planes of Closest Fit to Systems of Points in Space", 1901.
    """

    name: ClassVar[str] = "pca"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "Pearson, On Lines and Planes of Closest Fit to Systems of Points in Space, 1901"
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + d) + 1"
    dim: int

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * (d * self.dim + d) + 1

    def fit(self, sample: Sample) -> Arrays:
        vectors, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        n, d = vectors.shape
        if self.dim > d:
            raise BadInput(f"{self}: the vectors have only {d} coordinates; choose dim up to that")
        if not n:
            raise BadInput(f"{self}: the fit sample is empty, so there is no direction to learn")
        if sample.metric == "cosine":
            vectors = unit(vectors)
        mean = vectors.mean(axis=0, dtype=np.float64)
        components = leading(moment(vectors, mean), self.dim)[1]
        return {"mean": mean.astype(np.float32), "components": components.astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(centred(items, shared["mean"], shared["rule"]), shared["components"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(centred_queries(queries, shared["mean"], shared["rule"]), shared["components"])
