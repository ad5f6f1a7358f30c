"""Learn product codebooks by k-means."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from packbench.items import Array
from packbench.methods.codebook.adc import blas_distances


def train(vectors: Array, m: int, bits: int, seed: int, niter: int = 25) -> Array:
    """Return codebooks (m, 2^bits, dsub) float32: k-means in each block of vectors (n, m * dsub).

    A block that takes no more than 2^bits distinct values is coded without error by these values, which k-means from a
    random start need not find. Zeros fill up the codebook: of equal centroids only those tie in any rounding.
    """
    n, ksub = len(vectors), 1 << bits
    quantiser: Any = faiss.ProductQuantizer(vectors.shape[1], m, bits)
    codebook = np.zeros((m, ksub, vectors.shape[1] // m), np.float32)
    if n >= ksub:
        # The minimum only silences a warning.
        quantiser.cp.niter, quantiser.cp.seed, quantiser.cp.min_points_per_centroid = niter, seed & 0x7FFFFFFF, 1
        quantiser.cp.max_points_per_centroid = 256
        with blas_distances():
            quantiser.train(np.ascontiguousarray(vectors))
        codebook = faiss.vector_to_array(quantiser.centroids).reshape(codebook.shape).copy()
    for block, rows in enumerate(np.split(vectors, m, axis=1)):
        if len(np.unique(rows[: 2 * ksub], axis=0)) <= ksub:
            values = np.unique(rows, axis=0)
            if len(values) <= ksub:
                codebook[block] = 0
                codebook[block, : len(values)] = values
    return codebook
