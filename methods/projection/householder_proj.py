"""Project by a few reflections, trained to keep scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from packbench.budget import Budget
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_rows, metric_after_centring, reduced, rule_of
from packbench.methods.projection.moments import directed, leading, learnable, moment
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
        return reduced(lambda dim: cls(dim=dim), budget)

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
        reflected = directed(queries, shared["rule"], "queries")
        for reflector in shared["reflectors"]:
            reflected = reflected - np.multiply.outer(reflected @ reflector, 2 * reflector)
        return np.ascontiguousarray(reflected[:, : self.dim])


def projection(reflectors: Array, dim: int) -> Array:
    """Return the first columns (d, dim) float64 of the product of the reflections, the first one outermost."""
    matrix = np.eye(reflectors.shape[1], dim)
    for reflector in reflectors[::-1].astype(np.float64):
        matrix -= np.outer(reflector, (2 / (reflector @ reflector)) * (reflector @ matrix))
    return matrix


def _reflectors(rows: Array) -> Array:
    """Return the reflectors whose product has orthonormal rows (r, d), up to signs, as its first columns."""
    factors = lapack.dgeqrf(rows.T)[0]
    return np.asarray(np.tril(factors, -1).T + np.eye(*rows.shape))


def _loss(flat: Array, gram: Array, square: Array, dim: int) -> tuple[float, Array]:
    """Return |X W W^T X^T - X X^T|^2 up to a constant, and its gradient by the reflectors.

    Reflections undo themselves, so the way back needs no stored intermediate matrices.
    """
    reflectors = flat.reshape(-1, len(gram))
    matrix = projection(reflectors, dim)
    kept = matrix.T @ gram @ matrix
    value = float(np.sum(kept**2) - 2 * np.sum(matrix * (square @ matrix)))
    slope = 4 * (gram @ matrix @ kept - square @ matrix)
    gradient = np.empty_like(reflectors)
    for place, reflector in enumerate(reflectors):
        scale = 2 / (reflector @ reflector)
        along = reflector @ matrix
        inner = -along  # reflector @ (the matrix before this reflection)
        matrix = matrix - np.outer(reflector, scale * along)
        slope_along = reflector @ slope
        gradient[place] = -scale * (slope @ inner + matrix @ slope_along) + scale**2 * (slope_along @ inner) * reflector
        slope = slope - np.outer(reflector, scale * slope_along)
    return value, gradient.ravel()
