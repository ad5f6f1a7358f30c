"""Pack integers of differing widths into one run of bits per item, and look values up as it is read."""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array
from packbench.method import Metric
from packbench.methods.scalar.packing import read_only
from packbench.methods.scalar.scan import ScanSearcher, squared_norms


def pack_widths(integers: Array, widths: Array, nbytes: int) -> Array:
    """Pack (n, d) uint8 integers, column j in widths[j] bits, lowest bit first, into (n, nbytes) uint8.

    Columns of width 0 take no bits; what they leave of the last bytes is zero.
    """
    column = np.repeat(np.arange(len(widths)), widths)
    bit = np.arange(len(column)) - np.repeat(_starts(widths), widths)
    packed = np.zeros((len(integers), nbytes), np.uint8)
    found = np.packbits((integers[:, column] >> bit.astype(np.uint8)) & 1, axis=1, bitorder="little")
    packed[:, : found.shape[1]] = found
    return packed


def look_up_widths(packed: Array, widths: Array, values: Array) -> Array:
    """Return the values (n, d) float32 of packed integers; `values` holds the 2^widths[j] of column 0, 1 and so on."""
    rows = np.empty((len(packed), len(widths)), np.float32)
    _decode(read_only(packed), _places(widths, packed.shape[1]), np.array(values, np.float32), rows)
    return rows


class WidthsSearcher(ScanSearcher):
    """Score packed integers of differing widths, whose values follow each other as in `look_up_widths`."""

    def __init__(self, packed: Array, widths: Array, values: Array, metric: Metric) -> None:
        super().__init__(len(packed), len(widths), metric)
        self._packed, self._widths = read_only(packed), widths
        self._values = np.array(values, np.float32)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        dots = self._sums(self._values * np.repeat(query, 2**self._widths), part)
        return dots, self._sums(self._values**2, part) if self._norms else dots[:0]

    def _sums(self, values: Array, part: slice) -> Array:
        sums = np.empty(part.stop - part.start, np.float32)
        _add_up(self._packed[part], _places(self._widths, self._packed.shape[1]), values, sums)
        return sums

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = look_up_widths(self._packed[part], self._widths, self._values)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


def _starts(widths: Array) -> Array:
    return np.cumsum(widths, dtype=np.int64) - widths


def _places(widths: Array, nbytes: int) -> Array:
    """Return for each column its two bytes, the bit at which it begins, its mask and its first value, (d, 5).

    Two neighbouring bytes hold any integer; at the end of a row the second lies past it, and is not asked for.
    """
    starts = _starts(widths)
    byte = np.minimum(starts // 8, nbytes - 1)
    places = [byte, np.minimum(byte + 1, nbytes - 1), starts % 8, (1 << widths) - 1, _starts(2**widths)]
    return np.stack(places, axis=1).astype(np.uint32)


@njit(cache=True, nogil=True)
def _place(packed, row, places, j):  # type: ignore[no-untyped-def]
    pair = np.uint32(packed[row, places[j, 0]]) | (np.uint32(packed[row, places[j, 1]]) << np.uint32(8))
    return places[j, 4] + ((pair >> places[j, 2]) & places[j, 3])


@njit(cache=True, nogil=True)
def _decode(packed, places, values, rows):  # type: ignore[no-untyped-def]
    for row in range(len(rows)):
        for j in range(len(places)):
            rows[row, j] = values[_place(packed, row, places, j)]


@njit(cache=True, nogil=True)
def _add_up(packed, places, values, sums):  # type: ignore[no-untyped-def]
    for row in range(len(sums)):
        total = np.float32(0)
        for j in range(len(places)):
            total += values[_place(packed, row, places, j)]
        sums[row] = total
