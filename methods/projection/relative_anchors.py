"""Describe vectors by their cosines with anchors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import generator
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced, unit
from packbench.methods.projection.moments import learnable
from packbench.registry import register

WAYS = "random", "farthest", "kmeans"


@register
@dataclass(frozen=True, slots=True)
class RelativeAnchors(Transform):
    """Replace a vector by its cosines with `dim` anchors taken from the fit sample, compared by cosine.

    The description does not change when the space is rotated or scaled, and that is what it is for: as a compression it
    answers by another metric than the data set's. Anchors are random rows, rows each farthest from those before, or
    the centres of k-means. nystrom=True, an addition of packbench, multiplies raw products by the inverse root of the
    anchors' Gram matrix, which keeps the data set's metric and all of what the anchors span. Moschella, Maiorca,
    Fumero, Norelli, Locatello and Rodolà, "Relative representations enable zero-shot latent space communication", 2022.
    """

    name: ClassVar[str] = "relative_anchors"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    late: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper: ClassVar[str] = (
        "Moschella, Maiorca, Fumero, Norelli, Locatello, Rodolà, Relative representations enable zero-shot latent "
        "space communication, 2022"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d dim"
    dim: int
    anchors: str = "random"
    nystrom: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.anchors not in WAYS:
            raise ValueError(f"anchors={self.anchors!r}: expected one of {', '.join(WAYS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric if self.nystrom else "cosine"

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        if self.dim > len(vectors):
            raise BadInput(f"{self}: the fit sample has only {len(vectors)} rows; choose dim up to that")
        anchors = unit(_chosen(vectors, self.dim, self.anchors, generator(self.seed)))
        return {"anchors": (_orthonormal(anchors) if self.nystrom else anchors).astype(np.float32)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        vectors = as_vectors(items)
        return map_rows(vectors if self.nystrom else unit(vectors), shared["anchors"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        # The length of a query does not change the cosine of its description.
        return map_queries(queries, shared["anchors"])


def _chosen(vectors: Array, count: int, way: str, rng: np.random.Generator) -> Array:
    if way == "random":
        return np.asarray(vectors[np.sort(rng.choice(len(vectors), count, replace=False))])
    directions = unit(vectors)
    if way == "kmeans":
        from sklearn.cluster import KMeans

        return np.asarray(KMeans(count, n_init=1, max_iter=25, random_state=int(rng.integers(2**31))).fit(directions)
                          .cluster_centers_)  # fmt: skip
    rows = [int(rng.integers(len(vectors)))]
    nearest = directions @ directions[rows[0]]
    for _ in range(count - 1):
        nearest[rows[-1]] = np.inf  # an anchor is taken once, equal rows or not
        rows.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, directions @ directions[rows[-1]])
    return np.asarray(vectors[rows])


def _orthonormal(anchors: Array) -> Array:
    """Return (A A^T)^(-1/2) A, which has orthonormal rows where A has full rank, else a basis of what it spans."""
    values, columns = eigh((anchors @ anchors.T).astype(np.float64))
    kept = values > 1e-6 * values[-1]
    root = (columns[:, kept] / np.sqrt(values[kept])) @ columns[:, kept].T
    return np.asarray(root @ anchors)
