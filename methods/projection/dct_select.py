"""Keep the strongest coordinates of a cosine transform."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.fft import dct

from packbench.budget import Budget
from packbench.items import Items, as_vectors
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import map_rows, reduced
from packbench.methods.projection.moments import index_type, learnable
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class DCTSelect(Transform):
    """Take the discrete cosine transform of each vector and keep the `dim` coordinates strongest on the fit sample.

    The transform is orthonormal (DCT-II) and needs no matrix; strength is the sum of absolute values (mass=1) or of
    squares (mass=2). The coordinates of an embedding have no order that would make a vector smooth, so two controls
    tell whether the cosines matter: "hadamard_rotation() | top_variance_dims(dim=..., by='energy')", and
    "pca(dim=d) | dct_select(dim=...)" for an order that has a meaning. The paper does this to gradients: "SVD-Free
    Low-Rank Adaptive Gradient Optimization for Large Language Models", 2025.
    """

    name: ClassVar[str] = "dct_select"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "SVD-Free Low-Rank Adaptive Gradient Optimization for Large Language Models, 2025"
    formula: ClassVar[str] = "dim coordinates per item; shared 2 dim (4 dim beyond 65536 coordinates)"
    dim: int
    mass: int = 2

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.mass not in (1, 2):
            raise ValueError(f"mass={self.mass}: expected 1 (absolute values) or 2 (squares)")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def shared_bytes(self, d: int) -> float:
        return float(np.dtype(index_type(d)).itemsize * self.dim)

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample, self.dim)
        strength = (np.abs(dct(vectors, norm="ortho").astype(np.float64)) ** self.mass).sum(axis=0)
        chosen = np.sort(np.argsort(-strength, kind="stable")[: self.dim])
        return {"indices": chosen.astype(index_type(vectors.shape[1]))}

    def apply(self, items: Items, shared: Arrays) -> Items:
        vectors = as_vectors(items)
        # The same cosines as a matrix, for products of BLAS at one shape round alike in any batch.
        cosines = dct(np.eye(vectors.shape[1]), axis=0, norm="ortho")[shared["indices"]]
        return map_rows(vectors, cosines.astype(np.float32))

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return np.ascontiguousarray(dct(as_vectors(queries, "queries"), norm="ortho")[:, shared["indices"]])
