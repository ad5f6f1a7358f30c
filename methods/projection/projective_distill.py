"""Project onto principal components without taking the mean off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced, rule_of
from packbench.methods.projection.mlp import centred_sample, principal
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register

FIT_ROWS = 40_000  # as in the authors' code


@register
@dataclass(frozen=True, slots=True)
class ProjectiveDistill(Transform):
    """Project onto the principal components of the centred sample, without subtracting the mean.

    So inner products with the mean are kept as far as it lies among the components, and queries are mapped as items
    are. With `student` set to the width of a smaller model's vectors, queries are that model's instead: `fit` needs
    "versions", that model's vectors (n, student) of the sample's items, and learns by ridge regression the map from
    them to the targets, which is all that search needs. The paper trains the student's layers too. Zhao, Yu, Wu, Li,
    "Compressing Sentence Representation for Semantic Retrieval via Homomorphic Projective Distillation", 2022.
    """

    name: ClassVar[str] = "projective_distill"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Zhao, Yu, Wu, Li, Compressing Sentence Representation for Semantic Retrieval via Homomorphic Projective "
        "Distillation, 2022"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d dim + 1, with a student 4 dim (d + student) + 1"

    dim: int
    student: int = 0
    ridge: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.student < 0 or self.ridge < 0:
            raise ValueError(
                f"dim is at least 1, student and ridge at least 0, got {self.dim}, {self.student}, {self.ridge:g}"
            )

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def needed(self) -> frozenset[str]:
        return frozenset({"versions"}) if self.student else frozenset()

    def shared_bytes(self, d: int) -> float:
        return 4.0 * self.dim * (d + self.student) + 1

    def metric_after(self, metric: Metric) -> Metric:
        return "ip" if metric == "cosine" else metric

    def fit(self, sample: Sample) -> Arrays:
        rows = np.arange(len(sample.items))
        if len(rows) > FIT_ROWS:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, FIT_ROWS, replace=False))
        vectors = as_vectors(sample.items, "fit sample")[rows]
        chosen = Sample(vectors, sample.metric)
        shared = {"rule": rule_of(sample.metric)}
        shared["matrix"] = principal(centred_sample(self, chosen, self.dim)[0], self.dim)
        if self.student:
            small = np.asarray(sample.extras.get("versions", np.empty((0, 0))))
            if small.shape != (len(sample.items), self.student):
                raise BadInput(
                    f"{self}: needs extras['versions'], the other model's vectors of the same items, "
                    f"{(len(sample.items), self.student)}; got {small.shape}"
                )
            targets = map_rows(learnable(self, chosen), shared["matrix"])
            small = directed(small[rows], shared["rule"], "versions")
            shared["student"] = ridge_map(small, targets, self.ridge)
        return shared

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(directed(items, shared["rule"]), shared["matrix"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(
            directed(queries, shared["rule"], "queries"), shared["student" if self.student else "matrix"]
        )


def ridge_map(inputs: Array, targets: Array, ridge: float) -> Array:
    """Return the matrix M of least |x M^T - y|^2 + weight |M|^2; weight is ridge times the mean of diag(x^T x)."""
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    moment = x.T @ x
    scale = float(np.trace(moment)) / len(moment)
    moment += (ridge * scale + np.finfo(np.float64).tiny) * np.eye(len(moment))
    return np.ascontiguousarray(np.linalg.lstsq(moment, x.T @ y, rcond=None)[0].T, dtype=np.float32)
