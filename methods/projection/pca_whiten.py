"""Project onto principal directions and give each the same variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import leading, moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    map_queries,
    map_rows,
    metric_after_centring,
    reduced,
    rule_of,
    unit,
)
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class PCAWhiten(Transform):
    """Project unit vectors onto `dim` principal directions, give each the same variance, and take unit length again.

    As published, queries="same" does this to both sides and compares by cosine, whatever the data set's metric: the
    answers are those of another metric, so read task quality beside recall. queries="dual" maps items by W about
    their mean, without unit lengths, and queries by the inverse transpose, so that inner products keep their meaning
    and all dimensions give exact rankings (not for l2, which the pair of maps does not keep). Coordinates are divided
    by (variance + ridge * mean variance)^(power/2); power=0 is pca. zca=True turns back to the axes of the input, which
    takes all dimensions. Sharif Razavian, Azizpour, Sullivan and Carlsson, "CNN Features off-the-shelf: an Astounding
    Baseline for Recognition", 2014.
    """

    name: ClassVar[str] = "pca_whiten"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Sharif Razavian, Azizpour, Sullivan, Carlsson, CNN Features off-the-shelf: an Astounding Baseline for "
        "Recognition, 2014"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + d); queries='dual': 4 d dim + 1"
    dim: int
    power: float = 1.0
    queries: str = "same"
    zca: bool = False
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.queries not in ("same", "dual"):
            raise ValueError(f"queries={self.queries!r}: expected one of same, dual")
        if self.power < 0 or self.ridge <= 0:
            raise ValueError(f"power is at least 0 and ridge above it, got power={self.power}, ridge={self.ridge}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        if self.queries == "same":
            return "ip"  # of unit vectors
        if metric == "l2":
            raise BadInput(f"{self}: inner products outlive the pair of maps, distances do not; take queries='same'")
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim + (4.0 * d if self.queries == "same" else 1.0)

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        self.metric_after(sample.metric)
        if self.zca and self.dim != vectors.shape[1]:
            raise BadInput(f"{self}: zca keeps the axes of the input, so dim must be their number, {vectors.shape[1]}")
        if self.queries == "same":
            vectors = unit(vectors)
        mean = vectors.mean(axis=0, dtype=np.float64)
        scales, rows = whitening(self, vectors, mean, self.dim, self.power, self.ridge)
        back = rows.T if self.zca else np.eye(self.dim)
        matrix = (back @ (scales[:, None] * rows)).astype(np.float32)
        if self.queries == "same":
            return {"mean": mean.astype(np.float32), "matrix": matrix}
        dual = (back @ (rows / scales[:, None])).astype(np.float32)
        return {"build/mean": mean.astype(np.float32), "build/matrix": matrix, "matrix": dual, "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        if self.queries == "same":
            return unit(map_rows(unit(as_vectors(items)) - shared["mean"], shared["matrix"]))
        return map_rows(centred(items, shared["build/mean"], shared["rule"]), shared["build/matrix"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        if self.queries == "same":
            return unit(map_queries(unit(as_vectors(queries, "queries")) - shared["mean"], shared["matrix"]))
        return map_queries(directed(queries, shared["rule"], "queries"), shared["matrix"])


def whitening(
    method: Method, vectors: Array, mean: Array, dim: int, power: float, ridge: float, weights: Array | None = None
) -> tuple[Array, Array]:
    """Return the factors of whitened coordinates and the principal directions as rows, most variance first.

    Raises:
        BadInput: the vectors are all equal, so that there is no variance to divide by.
    """
    covariance = moment(vectors, mean, weights)
    variance = float(np.trace(covariance))
    if variance <= 1e-12 * (variance + float(mean @ mean)):
        raise BadInput(f"{method}: the rows of the fit sample are all equal, so there is no variance to divide out")
    values, rows = leading(covariance, dim)
    return (values + ridge * variance / len(mean)) ** (-power / 2), rows
