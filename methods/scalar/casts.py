"""Keep coordinates as 16-bit floating-point numbers: what float16 and bfloat16 share."""

from __future__ import annotations

from abc import abstractmethod

import faiss
import numpy as np
from numba import njit

from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Hits, Metric, Searcher
from packbench.methods.scalar.packing import read_only
from packbench.methods.scalar.scan import FEW, BlockSearcher, squared_norms


class CastCodec(Codec):
    """Cast to 16 bits and keep nothing else."""

    __slots__ = ()
    _half: bool  # IEEE binary16; else the upper half of a float32

    @abstractmethod
    def _cast(self, vectors: Array) -> Array:
        """Round to nearest, ties to even; any 16-bit type."""

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return 2.0 * d, 0.0, 0.0

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": self._cast(as_vectors(items))}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return _widened(read_only(codes["codes"]).view(np.int16), self._half)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _CastSearcher(codes["codes"], self._half, metric)


class _CastSearcher(BlockSearcher):
    """Let faiss answer few queries by ip or l2, and decode for the rest, from the one copy of the codes."""

    def __init__(self, codes: Array, half: bool, metric: Metric) -> None:
        n, d = codes.shape
        super().__init__(n, d, metric)
        self._half, self._index = half, None
        self._codes = read_only(codes).view(np.int16)
        if metric != "cosine" and n:
            kind, name = (_SQ.QT_fp16, "SQfp16") if half else (_SQ.QT_bf16, "SQbf16")
            self._index = faiss.IndexScalarQuantizer(d, kind, _FAISS_METRICS[metric])
            faiss.copy_array_to_vector(self._codes.view(np.uint8).ravel(), self._index.codes)
            self._index.ntotal = n
            memory = faiss.rev_swig_ptr(self._index.codes.data(), 2 * n * d)
            self._codes = read_only(memory.view(np.int16).reshape(n, d))
            self.kernel = f"faiss {name}, blas float32 for batches"

    def search(self, queries: Items, k: int) -> Hits:
        if self._index is None or len(queries) >= FEW or k < 1:
            return super().search(queries, k)
        q = as_vectors(queries, "queries")
        found, ids = self._index.search(q, k)
        return Hits(ids, squared_norms(q)[:, None] - found if self._metric == "l2" else found)

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = _widened(self._codes[part], self._half)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


_SQ = faiss.ScalarQuantizer
_FAISS_METRICS = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}

# A float16 whose exponent and fraction are moved to a float32's places is too small by this factor, subnormals
# included. It is a loop of our own because numpy takes 30 times as long for the conversion and numba has none.
_FACTOR = np.float32(2.0**112)


def _widened(codes: Array, half: bool) -> Array:
    pattern = np.empty(codes.shape, np.int32)
    _spread(codes, half, pattern)
    rows = pattern.view(np.float32)
    if half:
        rows *= _FACTOR
    return rows


@njit(cache=True, nogil=True)
def _spread(codes, half, pattern):  # type: ignore[no-untyped-def]
    """Move the 16 bits of each number to where a float32 has them."""
    n, d = codes.shape
    for row in range(n):
        for j in range(d):
            bits = np.int32(codes[row, j])
            if half:
                pattern[row, j] = ((bits & 0x7FFF) << 13) | ((bits & 0x8000) << 16)
            else:
                pattern[row, j] = bits << 16
