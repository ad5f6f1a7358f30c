"""Project both sides onto the directions in which pairs agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced, unit
from packbench.methods.projection.moments import learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class CCA(Transform):
    """Project queries and items, each by a map of its own, onto the `dim` directions in which pairs correlate most.

    Needs sample queries and "pairs": rows (query, item that answers it) of the fit sample, (p, 2) integers. Both sides
    are centred and whitened (ridge times the mean variance added) before the correlations are decomposed, and compared
    by cosine after; the answers are those of the pairs, not of the data set's metric: read task quality beside recall.
    Hotelling, "Relations between Two Sets of Variates", 1936; Hadgi and others, "Escaping Plato's
    Cave: Towards the Alignment of 3D and Text Latent Spaces", 2025.
    """

    name: ClassVar[str] = "cca"
    needs: ClassVar[frozenset[str]] = frozenset({"queries", "pairs"})
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Hotelling, Relations between Two Sets of Variates, 1936; Hadgi et al., Escaping Plato's Cave: Towards the "
        "Alignment of 3D and Text Latent Spaces, 2025"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + dim)"
    dim: int
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if self.dim < 1 or self.ridge <= 0:
            raise ValueError(f"dim is at least 1 and ridge above 0, got dim={self.dim}, ridge={self.ridge}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return "cosine"

    def shared_bytes(self, d: int) -> float:
        return 4.0 * (d * self.dim + self.dim)

    def fit(self, sample: Sample) -> Arrays:
        items = unit(learnable(self, sample, self.dim))
        pairs = _pairs(self, sample)
        asked = unit(as_vectors(sample.queries, "fit queries"))[pairs[:, 0]]
        found = items[pairs[:, 1]]
        means = [side.mean(axis=0, dtype=np.float64) for side in (asked, found)]
        roots = [
            _inverse_root(moment(side, mean), self.ridge) for side, mean in zip((asked, found), means, strict=True)
        ]
        cross = (asked - means[0]).T @ (found - means[1]) / len(pairs)
        left, _, right = np.linalg.svd(roots[0] @ cross @ roots[1])
        maps = left.T[: self.dim] @ roots[0], right[: self.dim] @ roots[1]
        names = ("matrix", "offset"), ("build/matrix", "build/offset")
        return {
            name: array.astype(np.float32)
            for pair, matrix, mean in zip(names, maps, means, strict=True)
            for name, array in zip(pair, (matrix, -matrix @ mean), strict=True)
        }

    def apply(self, items: Items, shared: Arrays) -> Items:
        return np.asarray(map_rows(unit(as_vectors(items)), shared["build/matrix"]) + shared["build/offset"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        mapped = map_queries(unit(as_vectors(queries, "queries")), shared["matrix"])
        return np.asarray(mapped + shared["offset"])


def _pairs(method: Method, sample: Sample) -> Array:
    if sample.queries is None or "pairs" not in sample.extras:
        raise BadInput(f"{method}: needs sample queries and, in extras['pairs'], rows (query, item that answers it)")
    given = np.asarray(sample.extras["pairs"])
    # Two-dimensional integers reach a worker as float32.
    whole = given.dtype.kind in "iuf" and np.array_equal(given, np.rint(given))
    if given.ndim != 2 or given.shape[1] != 2 or len(given) < 2 or not whole:
        raise BadInput(f"{method}: expected at least 2 pairs, (p, 2) whole numbers; got {given.shape} {given.dtype}")
    pairs = given.astype(np.int64)
    if pairs.min() < 0 or (pairs.max(axis=0) >= (len(sample.queries), len(sample.items))).any():
        raise BadInput(f"{method}: a pair names a row that the fit sample does not have")
    return pairs


def _inverse_root(covariance: Array, ridge: float) -> Array:
    values, columns = eigh(covariance)
    scale = float(np.trace(covariance)) / len(covariance)
    values = np.maximum(values, 0) + ridge * scale if scale > 0 else np.ones_like(values)
    return np.asarray((columns / np.sqrt(values)) @ columns.T)
