"""Encoders that torch trains and numpy runs: a linear map about the mean, or one with a hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from packbench.factors import leading, moment
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    map_queries,
    map_rows,
    metric_after_centring,
    rule_of,
)
from packbench.methods.projection.moments import learnable
from packbench.methods.training import split, train

RATES = (0.05, 0.01)  # of learning, one after the other, in units of an entry of an orthonormal row, 1 / sqrt(d)


class Encoder(Transform):
    """Map centred vectors to `dim` coordinates: linearly, or through `hidden` rectified units.

    A linear encoder treats mean and metric as pca does, for its rows are as good as orthonormal. Through hidden units
    inner products with an uncentred query mean nothing, so both sides are encoded alike and compared by distance.
    """

    __slots__ = ()
    dim: int
    hidden: int

    def metric_after(self, metric: Metric) -> Metric:
        return "l2" if self.hidden else metric_after_centring(metric)

    def shared_bytes(self, d: int) -> float:
        weights = self.hidden * (d + 1 + self.dim) + self.dim if self.hidden else d * self.dim
        return 4.0 * (weights + d) + 1

    def apply(self, items: Items, shared: Arrays) -> Items:
        rows = centred(items, shared["mean"], shared["rule"])
        if self.hidden:
            rows = np.maximum(map_rows(rows, shared["inner"]) + shared["inner_bias"], 0)
        rows = map_rows(rows, shared["outer"])
        return np.asarray(rows + shared["outer_bias"]) if self.hidden else rows

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        if self.hidden:
            return self.apply(queries, shared)
        return map_queries(centred_queries(queries, shared["mean"], shared["rule"]), shared["outer"])


def centred_sample(method: Method, sample: Sample, dim: int) -> tuple[Array, dict[str, Array]]:
    """Return the float32 rows to learn from, about their mean, and the arrays that let `Encoder` centre others so."""
    rule, vectors = rule_of(sample.metric), learnable(method, sample, dim)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.asarray(vectors - mean, np.float32), {"mean": mean, "rule": rule}


def principal(vectors: Array, dim: int) -> Array:
    """Return the leading eigenvectors of the second moment about the origin as rows (dim, d) float32."""
    return np.asarray(leading(moment(vectors), dim)[1], np.float32)


def orthonormal(matrix: Array) -> Array:
    """Return the orthonormal rows nearest to given ones, which span the same space where those are independent."""
    left, _, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return np.ascontiguousarray(left @ right, dtype=np.float32)


def even_batch(n: int, most: int, seed: int) -> int:
    """Return the rows per step, at most so many, that leave no small remainder of the rows that are trained on."""
    rows = len(split(n, seed)[0])
    return -(-rows // -(-rows // most))


def uniform(rng: np.random.Generator, out: int, into: int) -> Array:
    """Draw weights (out, into) float32 between -1 and 1 over the root of the inputs, as torch starts a linear layer."""
    return np.asarray(rng.uniform(-1, 1, (out, into)) / np.sqrt(into), np.float32)


def learnt(arrays: Sequence[Array]) -> list[Any]:
    """Return float32 torch tensors with these values that require gradients."""
    import torch

    return [torch.tensor(np.asarray(array, np.float32), requires_grad=True) for array in arrays]


def descend(
    parameters: Sequence[Any], loss: Callable[[Array], Any], n: int, d: int, *, rates: Sequence[float] = RATES,
    **options: Any,
) -> None:  # fmt: skip
    """Train weights of d inputs with steps in proportion to their size, once with each rate, one after the other."""
    for rate in rates:
        train(parameters, loss, n, rate=rate / np.sqrt(d), **options)


def values(tensors: Sequence[Any]) -> list[Array]:
    """Return what tensors hold as numpy arrays of their own."""
    return [tensor.detach().numpy().copy() for tensor in tensors]


__all__ = [
    "Encoder", "centred_sample", "descend", "even_batch", "learnt", "orthonormal", "principal", "uniform", "values",
]  # fmt: skip
