"""Second moments of a fit sample and their leading directions: what the learned linear maps are made of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest

import numpy as np
from scipy.linalg import eigh

from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Method, Sample
from packbench.methods.projection.linear import RULES, unit


def learnable(method: Method, sample: Sample, dim: int = 0) -> Array:
    """Return the vectors to learn from, of unit length for cosine.

    Raises:
        BadInput: no rows, or fewer coordinates than dim.
    """
    vectors = as_vectors(sample.items, "fit sample")
    if dim > vectors.shape[1]:
        raise BadInput(f"{method}: the vectors have only {vectors.shape[1]} coordinates; choose dim up to that")
    if not len(vectors):
        raise BadInput(f"{method}: the fit sample is empty, so there is nothing to learn from")
    return unit(vectors) if sample.metric == "cosine" else vectors


def directed(items: Items, rule: Array, what: str = "vectors") -> Array:
    """Return vectors, brought to unit length if the fitted rule is that of cosine."""
    vectors = as_vectors(items, what)
    return unit(vectors) if RULES[rule[0]] == "cosine" else vectors


def moment(vectors: Array, mean: Array | None = None, weights: Array | None = None) -> Array:
    """Return the (d, d) float64 mean of (x - mean)(x - mean)^T; without a mean, about the origin.

    weights (n,) sum to one.
    """
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for part in blocks(len(vectors), 8192):
        block = vectors[part].astype(np.float64)
        if mean is not None:
            block -= mean
        total += block.T @ (block if weights is None else block * weights[part, None])
    return total if weights is not None else total / len(vectors)


def leading(moments: Array, dim: int) -> tuple[Array, Array]:
    """Return the greatest eigenvalues, descending and not below zero, and their eigenvectors as rows.

    Each row has its largest entry positive.
    """
    values, columns = eigh(moments)
    rows = columns.T[::-1][:dim]
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    return np.maximum(values[::-1][:dim], 0), np.ascontiguousarray(rows * np.where(largest < 0, -1, 1)[:, None])


def index_type(d: int) -> type[np.unsignedinteger]:
    """Return the smallest of uint16 and uint32 that numbers d coordinates."""
    return np.uint16 if d <= 65536 else np.uint32


def in_turn(*streams: Iterator[Method]) -> Iterator[Method]:
    """Yield the first of each stream, then the second of each, and so on."""
    return (method for method in chain.from_iterable(zip_longest(*streams)) if method is not None)
