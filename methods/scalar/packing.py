"""Pack integers of 1 to 8 bits so that eight unpack per machine instruction, and sum over them as they unpack.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array

CHUNK = 64  # integers whose digits of one bit fill one 64-bit word
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
    if bits == 8:
        _sum_bytes(read_only(packed), weights, linear, quadratic, sums)
    else:
        words, rest = _views(read_only(packed), bits, len(weights))
        _sum_rows(words, rest, bits, *_scratch(len(weights)), weights, linear, quadratic, sums)
    return sums


def table_sums(packed: Array, bits: int, table: Array, weights: Array) -> Array:
    """Return sum_j weights[j] * table[c[i, j]] for each packed row i, float32."""
    sums = np.empty(len(packed), np.float32)
    if bits == 8:
        _table_sum_bytes(read_only(packed), table, weights, sums)
    else:
        words, rest = _views(read_only(packed), bits, len(weights))
        _table_sum_rows(words, rest, bits, *_scratch(len(weights)), table, weights, sums)
    return sums


def unpack(packed: Array, bits: int, d: int) -> Array:
    """Return the (n, d) uint8 integers that `pack` packed."""
    if bits == 8:
        return packed
    integers = np.empty((len(packed), d), np.uint8)
    words, rest = _views(read_only(packed), bits, d)
    _unpack_rows(words, rest, bits, integers, integers[:, : d // CHUNK * CHUNK].view(np.uint64))
    return integers


def read_only(array: Array) -> Array:
    """Return a contiguous read-only view, so that one compiled loop serves memory maps and arrays alike."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _views(packed: Array, bits: int, d: int) -> tuple[Array, Array]:
    """Return the words of the full chunks and the bytes that follow them, both (n, ...) and without copying."""
    body = d // CHUNK * 8 * bits
    return packed[:, :body].view(np.uint64), packed[:, body:]


def _scratch(d: int) -> tuple[Array, Array]:
    """Return room for some unpacked rows, and its full chunks as words: a loop that makes views pays for each.

    Several rows, because a wide load right behind the narrower stores that it spans stalls the processor.
    """
    integers = np.empty((16, d), np.uint8)
    return integers, integers[:, : d // CHUNK * CHUNK].view(np.uint64)


def _digits(bits: int) -> list[int]:
    return [width for width in (4, 2, 1) if bits & width]


@njit(cache=True, nogil=True)
def _unpack_row(words, rest, row, bits, integers, eights, into):  # type: ignore[no-untyped-def]
    """Unpack one row into integers[into], whose full chunks are eights[into]."""
    chunks = eights.shape[1] // 8
    first, up = 0, np.uint64(0)
    # Written out, for only a known number of parts lets the compiler unroll the inner loop.
    if bits & 4:
        for i in range(4 * chunks):
            word = words[row, i]
            for part in range(2):
                eights[into, 2 * i + part] = (word >> np.uint64(4 * part)) & np.uint64(15 * _LOW_BITS)
        first, up = 4 * chunks, np.uint64(4)
    if bits & 2:
        for i in range(2 * chunks):
            word = words[row, first + i]
            for part in range(4):
                found = ((word >> np.uint64(2 * part)) & np.uint64(3 * _LOW_BITS)) << up
                eights[into, 4 * i + part] = found | eights[into, 4 * i + part] if up else found
        first, up = first + 2 * chunks, up + np.uint64(2)
    if bits & 1:
        for i in range(chunks):
            word = words[row, first + i]
            for part in range(8):
                found = ((word >> np.uint64(part)) & np.uint64(_LOW_BITS)) << up
                eights[into, 8 * i + part] = found | eights[into, 8 * i + part] if up else found
    body = chunks * CHUNK
    mask = np.uint64((1 << bits) - 1)
    for group in range((integers.shape[1] - body) // 8):
        # Eight integers fill as many bytes as one has bits.
        word = np.uint64(0)
        for byte in range(bits):
            word |= np.uint64(rest[row, group * bits + byte]) << np.uint64(8 * byte)
        for part in range(8):
            integers[into, body + 8 * group + part] = np.uint8((word >> np.uint64(part * bits)) & mask)
    for j in range(integers.shape[1] // 8 * 8, integers.shape[1]):
        bit = (j - body) * bits
        at = bit // 8
        # Two neighbouring bytes always hold a whole integer; the second may lie past the end of the row.
        pair = np.uint32(rest[row, at])
        if at + 1 < rest.shape[1]:
            pair |= np.uint32(rest[row, at + 1]) << np.uint32(8)
        integers[into, j] = np.uint8((pair >> np.uint32(bit % 8)) & np.uint32((1 << bits) - 1))


@njit(cache=True, nogil=True)
def _unpack_rows(words, rest, bits, integers, eights):  # type: ignore[no-untyped-def]
    for row in range(len(integers)):
        _unpack_row(words, rest, row, bits, integers, eights, row)


@njit(cache=True, nogil=True, fastmath=True)
def _sum_rows(words, rest, bits, integers, eights, weights, linear, quadratic, sums):  # type: ignore[no-untyped-def]
    room = len(integers)
    for first in range(0, len(sums), room):
        count = min(room, len(sums) - first)
        for at in range(count):
            _unpack_row(words, rest, first + at, bits, integers, eights, at)
        for at in range(count):
            _sum_row(integers, at, weights, linear, quadratic, sums, first + at)


@njit(cache=True, nogil=True, fastmath=True)
def _sum_bytes(integers, weights, linear, quadratic, sums):  # type: ignore[no-untyped-def]
    for row in range(len(sums)):
        _sum_row(integers, row, weights, linear, quadratic, sums, row)


@njit(cache=True, nogil=True, fastmath=True)
def _sum_row(integers, at, weights, linear, quadratic, sums, row):  # type: ignore[no-untyped-def]
    weighted, squares = np.float32(0), np.float32(0)
    for j in range(len(weights)):
        weighted += weights[j] * np.float32(integers[at, j])
    for j in range(len(quadratic)):
        c = np.float32(integers[at, j])
        squares += (linear[j] + quadratic[j] * c) * c
    sums[row, 0], sums[row, 1] = weighted, squares


@njit(cache=True, nogil=True, fastmath=True)
def _table_sum_rows(words, rest, bits, integers, eights, table, weights, sums):  # type: ignore[no-untyped-def]
    room = len(integers)
    for first in range(0, len(sums), room):
        count = min(room, len(sums) - first)
        for at in range(count):
            _unpack_row(words, rest, first + at, bits, integers, eights, at)
        for at in range(count):
            sums[first + at] = _table_sum(integers, at, table, weights)


@njit(cache=True, nogil=True, fastmath=True)
def _table_sum_bytes(integers, table, weights, sums):  # type: ignore[no-untyped-def]
    for row in range(len(sums)):
        sums[row] = _table_sum(integers, row, table, weights)


@njit(cache=True, nogil=True, fastmath=True)
def _table_sum(integers, at, table, weights):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(weights)):
        total += weights[j] * table[integers[at, j]]
    return total
