"""Move the origin to the mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    conditioned,
    metric_after_centring,
    rule_of,
    unit,
)
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class Centre(Transform):
    """Subtract the mean of the fit sample: exact rankings stay, and codes that look at signs gain.

    Items are centred; queries for l2 only, because <q, x> and <q, x - mean> differ by the same amount for all items.
    For cosine both are brought to unit length first and then compared by inner product. Arora, Li, Liang, Ma and
    Risteski, "A Latent Variable Model Approach to PMI-based Word Embeddings", 2015.
    """

    name: ClassVar[str] = "centre"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = (
        "Arora, Li, Liang, Ma, Risteski, A Latent Variable Model Approach to PMI-based Word Embeddings, 2015"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4 d + 1"

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d + 1

    def fit(self, sample: Sample) -> Arrays:
        vectors, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no mean to learn")
        if sample.metric == "cosine":
            vectors = unit(vectors)
        return {"mean": vectors.mean(axis=0, dtype=np.float64).astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return centred(items, shared["mean"], shared["rule"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return centred_queries(queries, shared["mean"], shared["rule"])
