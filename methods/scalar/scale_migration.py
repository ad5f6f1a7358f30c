"""Divide items and multiply queries, dimension by dimension, by the same scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import metric_after_centring, rule_of, unit
from packbench.methods.projection.moments import directed, learnable
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class ScaleMigration(Transform):
    """Move the scale of dimensions from items to queries, which leaves inner products as they are.

    Items are divided and queries multiplied by max|x_j|^(1 - alpha) / max|q_j|^alpha, over the fit sample. alpha = 0
    makes all dimensions of items equally wide, alpha = 1 those of queries. It helps codes with one scale per vector,
    and such that round queries too. Cosine becomes an inner product of unit vectors; distances do not survive scales,
    so for l2 all are 1. Lee, Kim, Baek, Hwang, Sung and Choi, "Enhancing Computation Efficiency in Large Language
    Models through Weight and Activation Quantization", 2023.
    """

    name: ClassVar[str] = "scale_migration"
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Lee, Kim, Baek, Hwang, Sung, Choi, Enhancing Computation Efficiency in Large Language Models through Weight "
        "and Activation Quantization, 2023"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4d + 1"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is 0 to 1, got {self.alpha:g}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        codes = [Int8(granularity="vector"), *(Int4(bits, granularity="vector") for bits in range(7, 1, -1))]
        return islice(budget.fitting(cls(alpha) | code for code in codes for alpha in (0.5, 0.25, 0.0)), 3)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample)
        if sample.queries is None or not len(sample.queries):
            raise BadInput(f"{self}: needs sample queries, and the fit sample has none")
        queries = as_vectors(sample.queries, "fit queries")
        if sample.metric == "cosine":
            queries = unit(queries)
        scale = _reach(vectors) ** (1 - self.alpha) / _reach(queries) ** self.alpha
        scale = np.ones_like(scale) if sample.metric == "l2" else scale / np.exp(np.log(scale).mean())
        return {"scale": scale.astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return np.asarray(directed(items, shared["rule"]) / shared["scale"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return np.asarray(directed(queries, shared["rule"], "queries") * shared["scale"])


def _reach(rows: Array) -> Array:
    """Return the greatest magnitude of each dimension; of one that is all zero, the mean of the others."""
    reach = np.abs(rows).max(axis=0).astype(np.float64)
    usual = reach.mean() or 1.0
    return np.where(reach > 1e-6 * usual, reach, usual)
