"""Project onto the directions that matter to the scores of queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import leading, moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced, rule_of, unit
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class QueryAwareSVD(Transform):
    """Keep the `dim` directions that lose least of the scores of sample queries, not least of the items.

    With C the second moment of the queries (ridge times its mean diagonal added), items X weighted by C^power have
    leading directions V, and x -> V^T C^power x, q -> V^T C^-power q. power=0.5 minimises the squared error of scores;
    power=1 is the weighting of the paper, which compresses weights by their activations, and power=0 is svd. All
    become inner products: for cosine of unit vectors, for l2 with -|x|^2/2 as one more coordinate of the items before
    the map, so that dim = d keeps inner products exactly and distances nearly. Yang and others, "CorDA:
    Context-Oriented Decomposition Adaptation of Large Language Models", 2024.
    """

    name: ClassVar[str] = "query_aware_svd"
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models, 2024"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + dim) + 1"
    dim: int
    power: float = 0.5
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.power < 0 or self.ridge <= 0:
            raise ValueError(f"power is at least 0 and ridge above it, got power={self.power}, ridge={self.ridge}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return "ip"

    def shared_bytes(self, d: int) -> float:
        return 4.0 * (d * self.dim + self.dim) + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        if sample.queries is None or not len(sample.queries):
            raise BadInput(f"{self}: needs sample queries, and the fit sample has none")
        queries = as_vectors(sample.queries, "fit queries")
        if sample.metric == "cosine":
            queries = unit(queries)
        mean = np.zeros(vectors.shape[1], np.float32)
        if sample.metric == "l2":
            # Distances do not move with the origin; from the middle, norms say least that the directions do not.
            mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            vectors = _with_norms(vectors - mean)
            queries = np.hstack([queries - mean, np.ones((len(queries), 1), np.float32)])
        weight, undo = _powers(moment(queries), self.power, self.ridge)
        directions = leading(weight @ moment(vectors) @ weight, self.dim)[1]
        for_items, for_queries = directions @ weight, directions @ undo
        found = {"build/mean": mean, "build/matrix": for_items.astype(np.float32), "rule": rule}
        offset = np.zeros(self.dim)
        if sample.metric == "l2":
            for_queries, last = for_queries[:, :-1], for_queries[:, -1]
            offset = last - for_queries @ mean
        return found | {"matrix": for_queries.astype(np.float32), "offset": offset.astype(np.float32)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        vectors, matrix = directed(items, shared["rule"]) - shared["build/mean"], shared["build/matrix"]
        return map_rows(_with_norms(vectors) if matrix.shape[1] > vectors.shape[1] else vectors, matrix)

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        mapped: Array = map_queries(directed(queries, shared["rule"], "queries"), shared["matrix"]) + shared["offset"]
        return mapped


def _with_norms(vectors: Array) -> Array:
    """Add the coordinate -|x|^2/2, for 2 (<q, x> - |x|^2/2) is -|q - x|^2 but for the query's own norm."""
    return np.hstack([vectors, -np.einsum("ij,ij->i", vectors, vectors)[:, None] / 2])


def _powers(moments: Array, power: float, ridge: float) -> tuple[Array, Array]:
    """Return C^power and C^-power of moments with a ridge; of none at all, the identity."""
    values, columns = eigh(moments)
    scale = float(np.trace(moments)) / len(moments)
    values = np.maximum(values, 0) / scale + ridge if scale > 0 else np.ones_like(values)
    return (columns * values**power) @ columns.T, (columns * values**-power) @ columns.T
