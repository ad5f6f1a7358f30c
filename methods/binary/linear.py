"""Prepare vectors for coding: length 1, centred, turned."""

from __future__ import annotations

from typing import cast

import numpy as np

from packbench.items import Array, blocks


def unit_if(flag: Array, vectors: Array) -> Array:
    """Return the vectors at length 1 where the flag array is set, else as they are; zero vectors stay zero."""
    if not flag[0]:
        return vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast(Array, vectors / np.where(norms > 0, norms, np.float32(1)))


def mean_of(vectors: Array) -> Array:
    """Return the float32 mean of the rows, added up in float64; zeros where there is no row."""
    return np.asarray(vectors.sum(axis=0, dtype=np.float64) / max(len(vectors), 1), np.float32)


def random_rotation(size: int, seed: int) -> Array:
    """Return a (size, size) float32 rotation, uniform over the orthogonal group; vectors are rows: x @ rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).astype(np.float32)


def project(vectors: Array, matrix: Array) -> Array:
    """Return vectors @ matrix as float32, row by row the same whatever rows stand beside it.

    A matrix product adds up in another order for one row than for many, and a bit cut from the sum, or a factor
    stored beside it, would then depend on the batch; float64 sums differ far below what float32 keeps.
    """
    wide = matrix.astype(np.float64)
    found = np.empty((len(vectors), matrix.shape[1]), np.float32)
    for rows in blocks(len(vectors), 8192):
        found[rows] = vectors[rows].astype(np.float64) @ wide
    return found
