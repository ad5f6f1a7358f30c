"""Code rows of bytes losslessly by asymmetric numeral systems, with a static table for each column.

Duda, "Asymmetric Numeral Systems", 2013. A row is coded on its own, so that it can be decoded alone: from state 0, and
to the byte, which costs a byte or so more than its information. A row that would not shrink is kept as it is, and its
length tells.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array

PRECISION = 14  # bits of a frequency
TOTAL = 1 << PRECISION
LOW = 1 << 16  # the state lies in LOW to 256 LOW - 1 once it is there
PRIOR = 32.0  # rows of the sample that the independent halves of a byte count for


def frequencies(rows: Array) -> Array:
    """Return the tables (width, 256) uint16 of bytes (n, width): each sums to 2^14, and no byte has none.

    A byte that few rows show is taken to be as frequent as its two halves would make it if they were independent.
    """
    width = rows.shape[1]
    counts = np.zeros((width, 256))
    for column, row in zip(counts, rows.T, strict=True):
        column += np.bincount(row, minlength=256)
    grid = counts.reshape(width, 16, 16) + 1 / 256
    expected = grid.sum(axis=2)[:, :, None] * grid.sum(axis=1)[:, None, :]
    counts += PRIOR * expected.reshape(width, 256) / expected.sum(axis=(1, 2))[:, None]
    counts /= counts.sum(axis=1, keepdims=True)
    found = 1 + np.floor(counts * (TOTAL - 256)).astype(np.int64)
    # What rounding down left over goes to the most frequent byte.
    found[np.arange(width), counts.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    tables: Array = found.astype(np.uint16)
    return tables


def information(rows: Array, tables: Array) -> Array:
    """Return the bits (n,) that rows of bytes carry under the tables."""
    bits = PRECISION - np.log2(tables)
    return np.asarray(np.take_along_axis(bits, rows.T.astype(np.int64), axis=1).sum(axis=0))


def encode(rows: Array, tables: Array) -> tuple[Array, Array]:
    """Return the coded bytes of rows (n, width) one after the other, and the length of each row."""
    n, width = rows.shape
    values, lengths = np.empty(n * width, np.uint8), np.empty(n, np.int64)
    used = _encode(np.ascontiguousarray(rows), tables.astype(np.int64), starts(tables), values, lengths)
    return values[:used].copy(), lengths


def decode(values: Array, lengths: Array, tables: Array, begins: Array) -> Array:
    """Return rows (n, width) of the coded bytes; `begins` are the tables' `starts`."""
    rows = np.empty((len(lengths), len(tables)), np.uint8)
    _decode(values, lengths.astype(np.int64), begins, rows)
    return rows


def starts(tables: Array) -> Array:
    """Return the first slot (width, 257) of each byte."""
    return np.concatenate([np.zeros((len(tables), 1), np.int64), np.cumsum(tables, axis=1, dtype=np.int64)], axis=1)


@njit(cache=True, nogil=True)
def _encode(rows, tables, begins, values, lengths):  # type: ignore[no-untyped-def]
    n, width = rows.shape
    # A byte of frequency 1 costs 14 bits.
    coded = np.empty(2 * width + 4, np.uint8)
    used = 0
    for row in range(n):
        state, at = 0, len(coded)
        # The last byte first, so that decoding begins with the first.
        for column in range(width - 1, -1, -1):
            frequency = tables[column, rows[row, column]]
            while state >= frequency * ((LOW >> PRECISION) << 8):
                at -= 1
                coded[at] = state & 255
                state >>= 8
            state = ((state // frequency) << PRECISION) + state % frequency + begins[column, rows[row, column]]
        while state > 0:
            at -= 1
            coded[at] = state & 255
            state >>= 8
        length = len(coded) - at
        if length < width:
            values[used : used + length] = coded[at:]
        else:
            length = width
            values[used : used + width] = rows[row]
        lengths[row] = length
        used += length
    return used


@njit(cache=True, nogil=True)
def _decode(values, lengths, begins, rows):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    first = 0
    for row in range(len(rows)):
        last = first + lengths[row]
        if lengths[row] == width:
            rows[row] = values[first:last]
            first = last
            continue
        state, at = 0, first
        while at < last and at < first + 3:
            state = (state << 8) | values[at]
            at += 1
        for column in range(width):
            slot = state & (TOTAL - 1)
            low, high = 0, 256
            while high - low > 1:
                middle = (low + high) // 2
                if begins[column, middle] <= slot:
                    low = middle
                else:
                    high = middle
            rows[row, column] = low
            begin = begins[column, low]
            state = (begins[column, low + 1] - begin) * (state >> PRECISION) + slot - begin
            while state < LOW and at < last:
                state = (state << 8) | values[at]
                at += 1
        first = last
