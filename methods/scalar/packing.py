"""Pack integers of 1 to 8 bits so that a whole row unpacks in a few vector instructions."""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array


def packed_bytes(bits: int, d: int) -> int:
    """Return the bytes that d integers of so many bits take."""
    return -(-bits * d // 8)


def pack(integers: Array, bits: int) -> Array:
    """Pack (n, d) uint8 integers below 2^bits into (n, ceil(bits * d / 8)) uint8.

    The bits are split into digits of 4, 2 and 1 bits, lowest first, and each digit of the leading 8 * (d // 8)
    coordinates fills a run of m bytes: byte i holds coordinates i, i + m, i + 2m and so on, lowest bits first. The up to
    seven coordinates left over follow as one little-endian number. So the bytes are the fewest possible, and both
    directions are plain loops over runs of bytes.
    """
    n, d = integers.shape
    if bits == 8:
        return np.ascontiguousarray(integers)
    packed = np.zeros((n, packed_bytes(bits, d)), np.uint8)
    groups, shift = d // 8, 0
    first = 0
    for width in _digits(bits):
        run = groups * width
        digit = (integers[:, : groups * 8] >> shift) & ((1 << width) - 1)
        for part in range(8 // width):
            packed[:, first : first + run] |= digit[:, part * run : (part + 1) * run] << (part * width)
        first += run
        shift += width
    rest = np.zeros(n, "<u8")
    for place, column in enumerate(integers[:, groups * 8 :].T):
        rest |= column.astype(np.uint64) << np.uint64(place * bits)
    packed[:, first:] = rest[:, None].view(np.uint8)[:, : packed.shape[1] - first]
    return packed


def unpack(packed: Array, bits: int, d: int) -> Array:
    """Return the (n, d) uint8 integers that `pack` packed."""
    integers = np.empty((len(packed), d), np.uint8)
    _unpack_rows(np.ascontiguousarray(packed), bits, integers)
    return integers


def _digits(bits: int) -> list[int]:
    return [width for width in (4, 2, 1) if bits & width]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def unpack_row(packed, bits, integers):  # type: ignore[no-untyped-def]
    """Unpack one row of bytes into integers (d,) uint8; callable from other compiled loops."""
    if bits == 8:
        integers[:] = packed
        return
    groups = len(integers) // 8
    integers[:] = 0
    first, shift = 0, 0
    for width in (4, 2, 1):
        if not bits & width:
            continue
        run = groups * width
        mask = np.uint8((1 << width) - 1)
        digits = packed[first : first + run]
        for part in range(8 // width):
            place = np.uint8(part * width)
            found = integers[part * run : (part + 1) * run]
            for byte in range(run):
                found[byte] |= np.uint8(((digits[byte] >> place) & mask) << np.uint8(shift))
        first += run
        shift += width
    for place in range(len(integers) - 8 * groups):
        bit = place * bits
        # Two neighbouring bytes always hold a whole integer; the second may lie past the end of the row.
        word = np.uint32(packed[first + bit // 8])
        if first + bit // 8 + 1 < len(packed):
            word |= np.uint32(packed[first + bit // 8 + 1]) << np.uint32(8)
        integers[8 * groups + place] = np.uint8((word >> np.uint32(bit % 8)) & np.uint32((1 << bits) - 1))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unpack_rows(packed, bits, integers):  # type: ignore[no-untyped-def]
    for row in range(len(integers)):
        unpack_row(packed[row], bits, integers[row])
