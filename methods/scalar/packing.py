"""Pack integers of 1 to 8 bits so that eight unpack per machine instruction, and sum over them as they unpack.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array

CHUNK = 64  # integers whose digits of one bit fill one 64-bit word
# Rows unpacked before any is read: a wide load right behind the narrow stores that it spans stalls the processor.
GROUP = 16
_LOW_BITS = 0x0101010101010101


def packed_bytes(bits: int, d: int) -> int:
    """Return the bytes that d integers of so many bits take."""
    return -(-bits * d // 8)


def pack(integers: Array, bits: int) -> Array:
    """Pack (n, d) uint8 integers below 2^bits into (n, ceil(bits * d / 8)) uint8.

    The integers are split into digits of 4, 2 and 1 bits, lowest first. All digits of one width follow each other in
    64-bit words; a word holds 64 / width of them, as parts of eight bytes shifted into each other, so that one shift
    and one mask return eight digits. The up to 63 integers after the last full chunk follow as a stream of bits.
    """
    n, d = integers.shape
    if bits == 8:
        return np.ascontiguousarray(integers)
    chunks, shift = d // CHUNK, 0
    pieces: list[Array] = []
    for width in _digits(bits):
        digits = (integers[:, : chunks * CHUNK] >> shift) & ((1 << width) - 1)
        parts = (
            digits.reshape(n, chunks * width, 8 // width, 8) << (width * np.arange(8 // width, dtype=np.uint8))[:, None]
        )
        pieces.append(np.bitwise_or.reduce(parts, axis=2).reshape(n, chunks * width * 8))
        shift += width
    rest = (integers[:, chunks * CHUNK :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    pieces.append(np.packbits(rest.reshape(n, rest.shape[1] * bits), axis=1, bitorder="little"))
    return np.concatenate(pieces, axis=1)


def weighted_sums(packed: Array, bits: int, weights: Array) -> Array:
    """Return sum_j weights[j] * c[i, j] for each packed row i, float32."""
    return _sums(packed, bits, weights, weights[:0], weights[:0])[:, 0]


def quadratic_sums(packed: Array, bits: int, weights: Array, linear: Array, quadratic: Array) -> tuple[Array, Array]:
    """Return `weighted_sums` and, in the same pass, sum_j (linear[j] + quadratic[j] * c[i, j]) * c[i, j]."""
    sums = _sums(packed, bits, weights, linear, quadratic)
    return sums[:, 0], sums[:, 1]


def _sums(packed: Array, bits: int, weights: Array, linear: Array, quadratic: Array) -> Array:
    sums = np.empty((len(packed), 2), np.float32)
    _sum_rows(read_only(packed), bits, weights, linear, quadratic, sums)
    return sums


def table_sums(packed: Array, bits: int, table: Array, weights: Array) -> Array:
    """Return sum_j weights[j] * table[c[i, j]] for each packed row i, float32."""
    sums = np.empty(len(packed), np.float32)
    _table_sums(read_only(packed), bits, table, weights, sums)
    return sums


def unpack(packed: Array, bits: int, d: int) -> Array:
    """Return the (n, d) uint8 integers that `pack` packed."""
    integers = np.empty((len(packed), d), np.uint8)
    _unpack_rows(read_only(packed), bits, integers)
    return integers


def read_only(array: Array) -> Array:
    """Return a contiguous read-only view, so that one compiled loop serves memory maps and arrays alike."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _digits(bits: int) -> list[int]:
    return [width for width in (4, 2, 1) if bits & width]


@njit(cache=True, nogil=True)
def _unpack_row(packed, bits, integers):  # type: ignore[no-untyped-def]
    """Unpack one row of bytes into integers (d,) uint8."""
    if bits == 8:
        for j in range(len(integers)):
            integers[j] = packed[j]
        return
    body = len(integers) // CHUNK * CHUNK
    eights = integers[:body].view(np.uint64)
    first, shift = 0, 0
    # Written out, for only a known number of parts lets the compiler unroll the inner loop.
    if bits & 4:
        words = packed[: body // 2].view(np.uint64)
        for i in range(len(words)):
            for part in range(2):
                eights[2 * i + part] = _digit(words[i], 4, part)
        first, shift = body // 2, 4
    if bits & 2:
        words = packed[first : first + body // 4].view(np.uint64)
        for i in range(len(words)):
            for part in range(4):
                found = _digit(words[i], 2, part) << np.uint64(shift)
                eights[4 * i + part] = found if shift == 0 else eights[4 * i + part] | found
        first, shift = first + body // 4, shift + 2
    if bits & 1:
        words = packed[first : first + body // 8].view(np.uint64)
        for i in range(len(words)):
            for part in range(8):
                found = _digit(words[i], 1, part) << np.uint64(shift)
                eights[8 * i + part] = found if shift == 0 else eights[8 * i + part] | found
        first += body // 8
    for j in range(body, len(integers)):
        bit = (j - body) * bits
        at = first + bit // 8
        # Two neighbouring bytes always hold a whole integer; the second may lie past the end of the row.
        pair = np.uint32(packed[at])
        if at + 1 < len(packed):
            pair |= np.uint32(packed[at + 1]) << np.uint32(8)
        integers[j] = np.uint8((pair >> np.uint32(bit % 8)) & np.uint32((1 << bits) - 1))


@njit(cache=True, nogil=True, inline="always")
def _digit(word, width, part):  # type: ignore[no-untyped-def]
    return (word >> np.uint64(part * width)) & (np.uint64(_LOW_BITS) * np.uint64((1 << width) - 1))


@njit(cache=True, nogil=True)
def _unpack_rows(packed, bits, integers):  # type: ignore[no-untyped-def]
    for row in range(len(integers)):
        _unpack_row(packed[row], bits, integers[row])


@njit(cache=True, nogil=True, fastmath=True)
def _sum_rows(packed, bits, weights, linear, quadratic, sums):  # type: ignore[no-untyped-def]
    if bits == 8:
        for row in range(len(sums)):
            _sum_row(packed[row], weights, linear, quadratic, sums[row])
        return
    integers = np.empty((GROUP, len(weights)), np.uint8)
    for first in range(0, len(sums), GROUP):
        last = min(first + GROUP, len(sums))
        for row in range(first, last):
            _unpack_row(packed[row], bits, integers[row - first])
        for row in range(first, last):
            _sum_row(integers[row - first], weights, linear, quadratic, sums[row])


@njit(cache=True, nogil=True, fastmath=True)
def _sum_row(integers, weights, linear, quadratic, found):  # type: ignore[no-untyped-def]
    weighted, squares = np.float32(0), np.float32(0)
    for j in range(len(weights)):
        weighted += weights[j] * np.float32(integers[j])
    for j in range(len(quadratic)):
        c = np.float32(integers[j])
        squares += (linear[j] + quadratic[j] * c) * c
    found[0], found[1] = weighted, squares


@njit(cache=True, nogil=True, fastmath=True)
def _table_sums(packed, bits, table, weights, sums):  # type: ignore[no-untyped-def]
    integers = np.empty((GROUP, len(weights)), np.uint8)
    for first in range(0, len(sums), GROUP):
        last = min(first + GROUP, len(sums))
        for row in range(first, last):
            _unpack_row(packed[row], bits, integers[row - first])
        for row in range(first, last):
            total = np.float32(0)
            for j in range(len(weights)):
                total += weights[j] * table[integers[row - first, j]]
            sums[row] = total
