"""Take out the mean and the most common directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import leading, moment
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    conditioned,
    map_rows,
    metric_after_centring,
    rule_of,
)
from packbench.methods.projection.moments import learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RemoveTopPCs(Transform):
    """Subtract the mean and the projections on the `count` directions of greatest variance (d/100 unless given).

    All d coordinates stay. Queries lose the directions too, and the mean for l2 only: under an inner product their own
    mean would bring back, through the mean's other directions, a term that differs from item to item. The answers are
    those of another metric: read task quality beside recall. Known as all-but-the-top; after Arora, Li, Liang, Ma and
    Risteski, "A Latent Variable Model Approach to PMI-based Word Embeddings", 2015.
    """

    name: ClassVar[str] = "remove_top_pcs"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Arora, Li, Liang, Ma, Risteski, A Latent Variable Model Approach to PMI-based Word Embeddings, 2015"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4 (d count + d) + 1"
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is at least 1, got {self.count}; centre() removes the mean alone")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * (d * self._count(d) + d) + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample)
        d = vectors.shape[1]
        if self._count(d) >= d:
            raise BadInput(f"{self}: nothing would be left of {d} coordinates; choose count below that")
        mean = vectors.mean(axis=0, dtype=np.float64)
        components = leading(moment(vectors, mean), self._count(d))[1]
        return {"mean": mean.astype(np.float32), "components": components.astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        vectors, components = centred(items, shared["mean"], shared["rule"]), shared["components"]
        along = map_rows(vectors, components)
        return np.asarray(vectors - map_rows(along, np.ascontiguousarray(components.T)))

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        vectors, components = centred_queries(queries, shared["mean"], shared["rule"]), shared["components"]
        remaining: Array = vectors - (vectors @ components.T) @ components
        return remaining

    def _count(self, d: int) -> int:
        return max(1, round(d / 100)) if self.count is None else self.count
