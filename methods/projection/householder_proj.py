"""Project by a few reflections, trained to keep scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import lapack, solve_triangular
from scipy.optimize import minimize

from packbench.budget import Budget
from packbench.factors import leading, moment
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_rows, metric_after_centring, reduced, rule_of
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class HouseholderProj(Transform):
    """Reflect vectors `reflections` times, then keep the first `dim` coordinates; trained to keep scores among items.

    The map W (d, dim) is orthonormal at every step of the training, `steps` rounds of L-BFGS on the squared error of
    X W W^T X^T. It starts at the reflections that bring the leading singular vectors to the first axes; with as many
    reflections as dimensions that is svd, which is the optimum already. For cosine both sides are brought to unit
    length first and then compared by inner product. Song, Zhang, Sebe and Wang, "Householder Projector for Unsupervised
    Latent Semantics Discovery", 2023, train layers of generators so.
    """

    name: ClassVar[str] = "householder_proj"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Song, Zhang, Sebe, Wang, Householder Projector for Unsupervised Latent Semantics Discovery, 2023"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d min(reflections, dim) + 1"
    dim: int
    reflections: int = 32
    steps: int = 30

    def __post_init__(self) -> None:
        if self.dim < 1 or self.reflections < 1 or self.steps < 0:
            raise ValueError(
                f"dim and reflections are at least 1 and steps 0; got dim={self.dim}, reflections={self.reflections}, "
                f"steps={self.steps}"
            )

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def metric_after(self, metric: Metric) -> Metric:
        return metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * min(self.reflections, self.dim) + 1

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        gram = moment(vectors)
        gram /= max(float(np.linalg.norm(gram)), np.finfo(np.float32).tiny)
        reflectors = _reflectors(leading(gram, min(self.reflections, self.dim))[1])
        if self.steps and self.reflections < self.dim:
            start = reflectors.ravel()
            found = minimize(_loss, start, (gram, gram @ gram, self.dim), "L-BFGS-B", True,
                             options={"maxiter": self.steps, "ftol": 0.0, "gtol": 0.0})  # fmt: skip
            reflectors = found.x.reshape(reflectors.shape)
        reflectors /= np.linalg.norm(reflectors, axis=1, keepdims=True)
        return {"reflectors": reflectors.astype(np.float32), "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        matrix = projection(shared["reflectors"], self.dim)
        return map_rows(directed(items, shared["rule"]), np.ascontiguousarray(matrix.T, np.float32))

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        vectors, reflectors = directed(queries, shared["rule"], "queries"), shared["reflectors"]
        reflected: Array = vectors[:, : self.dim] - (vectors @ reflectors.T) @ _compact(reflectors, self.dim)
        return reflected


def projection(reflectors: Array, dim: int) -> Array:
    """Return the first columns (d, dim) float64 of the product of the reflections, the first one outermost."""
    rows = reflectors.astype(np.float64)
    return np.asarray(np.eye(rows.shape[1], dim) - rows.T @ _compact(rows, dim))


def _compact(reflectors: Array, dim: int) -> Array:
    """Return Y (r, dim) such that the first columns of the product of reflections U (r, d) are those of I - U^T Y."""
    return np.asarray(solve_triangular(_overlaps(reflectors), reflectors[:, :dim]))


def _overlaps(reflectors: Array) -> Array:
    products = reflectors @ reflectors.T
    return np.asarray(np.triu(products, 1) + np.diag(np.diag(products) / 2))


def _reflectors(rows: Array) -> Array:
    """Return the reflectors whose product has orthonormal rows (r, d), up to signs, as its first columns."""
    factors = lapack.dgeqrf(rows.T)[0]
    return np.asarray(np.tril(factors, -1).T + np.eye(*rows.shape))


def _loss(flat: Array, gram: Array, square: Array, dim: int) -> tuple[float, Array]:
    """Return |X W W^T X^T - X X^T|^2 up to a constant, and its gradient by the reflectors."""
    rows = flat.reshape(-1, len(gram))
    overlaps, compact = _overlaps(rows), _compact(rows, dim)
    matrix = np.eye(len(gram), dim) - rows.T @ compact
    kept = matrix.T @ gram @ matrix
    projected = square @ matrix
    value = float(np.sum(kept**2) - 2 * np.sum(matrix * projected))
    slope = 4 * (gram @ matrix @ kept - projected)
    # Backwards through I - U^T Y, overlaps Y = U's first columns, and the overlaps, which are products of U with U.
    of_columns = -solve_triangular(overlaps, rows @ slope, trans="T")
    of_overlaps = np.triu(-of_columns @ compact.T)
    above = np.triu(of_overlaps, 1)
    gradient = -compact @ slope.T + (above + above.T + np.diag(np.diag(of_overlaps))) @ rows
    gradient[:, :dim] += of_columns
    return value, gradient.ravel()
