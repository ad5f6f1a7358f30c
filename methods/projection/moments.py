"""Take up a fit sample and number its coordinates: what the learned linear maps have in common."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
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


def index_type(d: int) -> type[np.unsignedinteger]:
    """Return the smallest of uint16 and uint32 that numbers d coordinates."""
    return np.uint16 if d <= 65536 else np.uint32


def in_turn(*streams: Iterator[Method]) -> Iterator[Method]:
    """Yield the first of each stream, then the second of each, and so on."""
    return (method for method in chain.from_iterable(zip_longest(*streams)) if method is not None)
