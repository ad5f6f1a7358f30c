"""Keep coordinates as 16-bit floating-point numbers: what float16 and bfloat16 share."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Metric, Searcher
from packbench.methods.scalar.kernels import scan_halves, widen
from packbench.methods.scalar.packing import read_only
from packbench.methods.scalar.scan import ScanSearcher, squared_norms


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
        return widened(codes["codes"], self._half)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _CastSearcher(codes["codes"], self._half, metric)


class _CastSearcher(ScanSearcher):
    def __init__(self, codes: Array, half: bool, metric: Metric) -> None:
        super().__init__(codes.shape[0], codes.shape[1], metric)
        self._codes, self._half = read_only(codes).view(np.int16), half

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        dots = np.empty(part.stop - part.start, np.float32)
        squares = np.empty(len(dots) if self._norms else 0, np.float32)
        scan_halves(self._codes[part], self._half, query, dots, squares)
        return dots, squares

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = widened(self._codes[part], self._half)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


def widened(codes: Array, half: bool = True) -> Array:
    """Return 16-bit floats of any shape as float32; numpy takes ten times as long."""
    values = np.empty(codes.shape, np.float32)
    widen(read_only(codes).view(np.int16).reshape(-1), half, values.reshape(-1))
    return values
