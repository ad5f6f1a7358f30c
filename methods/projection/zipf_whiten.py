"""Whiten with each item counted by how often it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import centred, map_queries, map_rows, metric_after_centring, reduced, rule_of
from packbench.methods.projection.moments import learnable
from packbench.methods.projection.pca_whiten import whitening
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class ZipfWhiten(Transform):
    """Whiten by the mean and covariance in which each item counts by its frequency, and keep `dim` directions.

    Needs "weights": a frequency for each row of the fit sample, of any sum. Both sides are mapped alike, centring
    included, as published; lengths then tell how informative an item is, so cosine becomes an inner product. The
    answers are those of another metric: read task quality beside recall. Coordinates are divided by
    sqrt(variance + ridge * mean variance). Yokoi, Bao, Kurita and Shimodaira, "Zipfian Whitening", 2024.
    """

    name: ClassVar[str] = "zipf_whiten"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "Yokoi, Bao, Kurita, Shimodaira, Zipfian Whitening, 2024"
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + d) + 1"
    dim: int
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim < 1 or self.ridge <= 0:
            raise ValueError(f"dim is at least 1 and ridge above 0, got dim={self.dim}, ridge={self.ridge}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * (d * self.dim + d) + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        weights = _frequencies(self, sample)
        mean = weights @ vectors.astype(np.float64)
        scales, rows = whitening(self, vectors, mean, self.dim, 1.0, self.ridge, weights)
        matrix = (scales[:, None] * rows).astype(np.float32)
        return {"mean": mean.astype(np.float32), "matrix": matrix, "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(centred(items, shared["mean"], shared["rule"]), shared["matrix"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(centred(queries, shared["mean"], shared["rule"]), shared["matrix"])


def _frequencies(method: Method, sample: Sample) -> Array:
    if "weights" not in sample.extras:
        raise BadInput(f"{method}: needs a frequency for each item of the fit sample, given as extras['weights']")
    weights = np.asarray(sample.extras["weights"], np.float64)
    if weights.shape != (len(sample.items),) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise BadInput(
            f"{method}: expected {len(sample.items)} weights, none negative and not all zero; got {weights.shape}"
        )
    return np.asarray(weights / weights.sum())
