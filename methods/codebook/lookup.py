"""Scan byte codes through a float table per byte."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def fill_tables(queries, codebook, byte, l2, tables):  # type: ignore[no-untyped-def]
    """Add to tables (q, bytes, 256) what each axis scores under each code of its byte."""
    for row in range(len(queries)):
        for axis in range(len(byte)):
            table, q = tables[row, byte[axis]], queries[row, axis]
            for code in range(256):
                value = codebook[axis, code]
                # Half the squared distance, less what is the same for all items.
                table[code] += q * value - (value * value / 2 if l2 else np.float32(0))


@njit(cache=True, nogil=True, fastmath=True)
def scan(codes, tables, scores):  # type: ignore[no-untyped-def]
    """Write scores (q, n): the sums of table entries over the bytes of codes (n, bytes)."""
    n, nbytes = codes.shape
    for row in range(len(tables)):
        table = tables[row]
        for i in range(n):
            # Four sums, so that one look-up need not wait for the addition of the one before.
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            whole = nbytes // 4 * 4
            for j in range(0, whole, 4):
                a += table[j, codes[i, j]]
                b += table[j + 1, codes[i, j + 1]]
                c += table[j + 2, codes[i, j + 2]]
                d += table[j + 3, codes[i, j + 3]]
            for j in range(whole, nbytes):
                a += table[j, codes[i, j]]
            scores[row, i] = (a + b) + (c + d)
