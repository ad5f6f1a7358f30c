"""Turn the axes by two block-diagonal matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import generator, leading, moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import conditioned, map_rows
from packbench.methods.projection.moments import learnable
from packbench.registry import register

STARTS = "pca", "random"


@register
@dataclass(frozen=True, slots=True)
class MonarchRotation(Transform):
    """Rotate by a product of two permuted block-diagonal matrices, the nearest such to the rotation of PCA.

    With d = g h, g the largest divisor up to sqrt(d), the factors have g blocks of h x h and h blocks of g x g. The
    matrix is projected by the rank-one SVD of each of its d slices (g, h); the projection of a rotation is none, so
    every block is then replaced by the orthogonal matrix nearest to it, and exact scores stay. start="random" draws the
    blocks instead. A prime d has one block and saves nothing. Dao and others, "Monarch: Expressive Structured Matrices
    for Efficient and Accurate Training", 2022, make layers of such products.
    """

    name: ClassVar[str] = "monarch_rotation"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Dao et al., Monarch: Expressive Structured Matrices for Efficient and Accurate Training, 2022"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4 d (g + h), d = g h"
    start: str = "pca"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"start={self.start!r}: expected one of {', '.join(STARTS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * sum(split(d))

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        d = vectors.shape[1]
        if self.start == "pca":
            inner, outer = nearest(leading(moment(vectors, vectors.mean(axis=0, dtype=np.float64)), d)[1])
        else:
            (g, h), rng = split(d), generator(self.seed)
            inner, outer = rng.standard_normal((g, h, h)), rng.standard_normal((h, g, g))
        return {"inner": _orthogonal(inner).astype(np.float32), "outer": _orthogonal(outer).astype(np.float32)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        # Dense for items: products of BLAS at one shape round alike in any batch.
        return map_rows(as_vectors(items), dense(shared["inner"], shared["outer"]))

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        vectors = as_vectors(queries, "queries")
        g, h = len(shared["inner"]), len(shared["outer"])
        first = shared["inner"] @ vectors.reshape(-1, g, h, 1)
        second = shared["outer"] @ first.reshape(-1, g, h).transpose(0, 2, 1)[..., None]
        return np.ascontiguousarray(second[..., 0].transpose(0, 2, 1)).reshape(vectors.shape)


def split(d: int) -> tuple[int, int]:
    """Return g <= h with g h = d and g as large as can be."""
    g = next(g for g in range(isqrt(d), 0, -1) if d % g == 0)
    return g, d // g


def dense(inner: Array, outer: Array) -> Array:
    """Multiply out: entry (l h + j, k h + i) is outer[j, l, k] inner[k, j, i]."""
    d = len(inner) * len(outer)
    return np.ascontiguousarray(np.einsum("jlk,kji->ljki", outer, inner)).reshape(d, d)


def nearest(matrix: Array) -> tuple[Array, Array]:
    """Return the inner (g, h, h) and outer (h, g, g) blocks whose product is nearest to a matrix in squared error."""
    g, h = split(len(matrix))
    slices = matrix.reshape(g, h, g, h).transpose(1, 2, 0, 3)
    left, singular, right = np.linalg.svd(slices, full_matrices=False)
    root = np.sqrt(singular[..., 0])[..., None]
    inner, outer = root * right[..., 0, :], root * left[..., :, 0]
    return np.ascontiguousarray(inner.transpose(1, 0, 2)), np.ascontiguousarray(outer.transpose(0, 2, 1))


def _orthogonal(block: Array) -> Array:
    left, _, right = np.linalg.svd(block)
    return np.asarray(left @ right)
