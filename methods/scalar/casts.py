"""Keep coordinates as 16-bit floating-point numbers: what float16 and bfloat16 share."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numba import njit

from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Metric, Searcher
from packbench.methods.scalar.packing import read_only
from packbench.methods.scalar.scan import ScanSearcher, squared_norms


class CastCodec(Codec):
    """Cast to 16 bits; search widens a row at a time in registers."""

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


class _CastSearcher(ScanSearcher):
    def __init__(self, codes: Array, half: bool, metric: Metric) -> None:
        super().__init__(codes.shape[0], codes.shape[1], metric)
        self._codes, self._half = read_only(codes).view(np.int16), half

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        codes = self._codes[part]
        dots = np.empty(len(codes), np.float32)
        squares = np.empty(len(codes) if self._norms else 0, np.float32)
        # Several rows, because a wide load right behind the narrower stores that it spans stalls the processor.
        pattern = np.empty((8, codes.shape[1]), np.int32)
        _scan(codes, self._half, query, pattern, pattern.view(np.float32), dots, squares)
        return dots, squares

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = _widened(self._codes[part], self._half)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


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
    for row in range(len(codes)):
        _spread_row(codes, row, half, pattern, row)


@njit(cache=True, nogil=True)
def _spread_row(codes, row, half, pattern, into):  # type: ignore[no-untyped-def]
    """Move the 16 bits of each number to where a float32 has them."""
    if half:
        for j in range(codes.shape[1]):
            bits = np.int32(codes[row, j])
            pattern[into, j] = ((bits & 0x7FFF) << 13) | ((bits & 0x8000) << 16)
    else:
        for j in range(codes.shape[1]):
            pattern[into, j] = np.int32(codes[row, j]) << 16


@njit(cache=True, nogil=True, fastmath=True)
def _scan(codes, half, query, pattern, values, dots, squares):  # type: ignore[no-untyped-def]
    """Write inner products and, unless squares is empty, squared norms; values is the memory of pattern as float32."""
    factor = _FACTOR if half else np.float32(1)
    room = len(pattern)
    for first in range(0, len(dots), room):
        count = min(room, len(dots) - first)
        for at in range(count):
            _spread_row(codes, first + at, half, pattern, at)
        for at in range(count):
            total, square = np.float32(0), np.float32(0)
            for j in range(len(query)):
                total += query[j] * (values[at, j] * factor)
            dots[first + at] = total
            if len(squares):
                for j in range(len(query)):
                    square += (values[at, j] * factor) * (values[at, j] * factor)
                squares[first + at] = square
