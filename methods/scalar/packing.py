"""Pack integers of 1 to 8 bits, and sum over them as they lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.kernels import CHUNK, EIGHT, LANES, look_up_all, scan_fields, scan_rows, unpack_rows


def packed_bytes(bits: int, d: int) -> int:
    """Return the bytes that d integers of so many bits take."""
    return -(-bits * d // 8)


def pack(integers: Array, bits: int) -> Array:
    """Pack (n, d) uint8 integers below 2^bits into (n, ceil(bits * d / 8)) uint8.

    The integers are split into digits of 4, 2 and 1 bits, the lowest first. The digits of one width follow each other,
    the lowest bit first, up to the last coordinate that completes eight; then come those of the up to seven
    coordinates that are left. So 1, 2, 4 and 8 bits are plain streams.
    """
    n, d = integers.shape
    if bits == 8:
        return np.ascontiguousarray(integers)
    whole, shift = d // EIGHT * EIGHT, 0
    planes, rest = [], []
    for width in _digits(bits):
        digits = (integers >> shift) & ((1 << width) - 1)
        if whole:
            apart = digits[:, :whole].reshape(n, whole * width // 8, 8 // width) << (
                width * np.arange(8 // width, dtype=np.uint8)
            )
            planes.append(np.bitwise_or.reduce(apart, axis=2))
        rest.append(((digits[:, whole:, None] >> np.arange(width, dtype=np.uint8)) & 1).reshape(n, (d - whole) * width))
        shift += width
    return np.concatenate([*planes, np.packbits(np.concatenate(rest, axis=1), axis=1, bitorder="little")], axis=1)


def unpack(packed: Array, bits: int, d: int) -> Array:
    """Return the (n, d) uint8 integers that `pack` packed."""
    if bits == 8 or not d:
        return packed
    n = len(packed)
    integers = np.empty(n * d + CHUNK, np.uint8)
    for part, rows in _readable(packed, 1, _reach(bits, d)):
        unpack_rows(rows, part.stop - part.start, (0,) * bits, d, integers[part.start * d :])
    return integers[: n * d].reshape(n, d)


def look_up(integers: Array, table: Array) -> Array:
    """Return the entries (n, d) float32 of a table of up to 256 for (n, d) uint8 integers."""
    values = np.empty(integers.shape, np.float32)
    entries = _entries(table)
    bits = (len(entries) - 1).bit_length()
    look_up_all(read_only(integers).ravel(), entries, (0,) * bits, values.ravel())
    return values


def row_sums(
    packed: Array, bits: int, weights: tuple[Array, ...], table: Array | None = None, scales: Array | None = None,
    block: int = 0,
) -> Array:  # fmt: skip
    """Return sums over the coordinates of packed rows (n, bytes), (n, 1 to 3) float32.

    With v_j the integer of coordinate j or, with a table (2^bits,), its entry, and weights (q,), (q, step), (q, step,
    low) or (q, step, low, more), each (d,), they are those of q_j v_j, of (low_j + step_j v_j)^2 and of more_j v_j.
    With scales (n, ceil(d / block)), v_j is multiplied by that of its block of coordinates; block is then a multiple
    of 8, and bits are at least 2.
    """
    n, d = len(packed), len(weights[0])
    if bits == 1 and table is not None:
        zero, way = np.float32(table[0]), np.float32(table[1]) - np.float32(table[0])
        q, step, low = (*weights, np.zeros(d, np.float32), np.zeros(d, np.float32))[:3]
        moved = (q * way, step * way, low + step * zero, *(more * way for more in weights[3:]))
        start = np.array([zero * q.sum(), 0, *(zero * more.sum() for more in weights[3:])], np.float32)
        count = len(weights) if len(weights) == 1 else len(start)
        return row_sums(packed, 1, moved[: max(len(weights), 3) if count > 1 else 1]) + start[:count]
    sums = np.zeros((n, (1, 2, 2, 3)[len(weights) - 1]), np.float32)
    if not n or not d:
        return sums
    ordered = tuple(_ordered(column, bits) for column in weights)
    entries = None if table is None else _entries(table)
    for part, rows in _readable(packed, 1, _reach(bits, d)):
        lanes = None if scales is None else _lanes(scales[part], block, d)
        scan_rows(rows, (0,) * bits, d, ordered, entries, lanes, sums[part])
    return sums


def weighted_sums(packed: Array, bits: int, weights: Array) -> Array:
    """Return sum_j weights[j] * c[i, j] for each packed row i, float32."""
    return row_sums(packed, bits, (weights,))[:, 0]


def field_sums(fields: Array, width: int, tables: Array) -> Array:
    """Return what the entries that fields select in their own tables add up to, (len(tables), n) float32.

    Rows (n, bytes) hold fields of `width` 4 or 8 bits, the lowest first; tables are (1 or 2, fields, entries), with a
    power of two of entries, up to 256, of which a field j of a row selects one in tables[:, j].
    """
    n, nbytes = fields.shape
    words = -(-nbytes // 4)
    padded = np.zeros((len(tables), words * (32 // width), max(LANES, tables.shape[2])), np.float32)
    padded[:, : tables.shape[1], : tables.shape[2]] = tables
    sums = np.empty((len(tables), -(-n // LANES) * LANES), np.float32)
    reach = -(-words // LANES) * LANES * 4
    for part, rows in _readable(fields, LANES, reach):
        found = np.empty((len(tables), -(-(part.stop - part.start) // LANES) * LANES), np.float32)
        scan_fields(rows, (0,) * width, tuple(padded), (0,) * (padded.shape[2] // LANES), found)
        sums[:, part.start : part.start + found.shape[1]] = found
    return sums[:, :n]


def read_only(array: Array) -> Array:
    """Return a contiguous read-only view, so that one compiled loop serves memory maps and arrays alike."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _digits(bits: int) -> list[int]:
    return [width for width in (4, 2, 1) if bits & width]


def _entries(table: Array) -> Array:
    """Return a table in float32, filled up to a power of two from 16 on."""
    entries = np.zeros(max(LANES, 1 << (len(table) - 1).bit_length()), np.float32)
    entries[: len(table)] = table
    return entries


def _ordered(column: Array, bits: int) -> Array:
    """Return weights (d,) in the order in which a row is read, (chunks, 8, 16); zero where there is no coordinate."""
    whole = np.zeros(-(-len(column) // CHUNK) * CHUNK, np.float32)
    whole[: len(column)] = column
    if bits == 1:
        return whole.reshape(-1, EIGHT, LANES)
    return np.ascontiguousarray(whole.reshape(-1, LANES, EIGHT).transpose(0, 2, 1))


def _reach(bits: int, d: int) -> int:
    """Return behind how many bytes from the beginning of a row nothing is read for it, or a little more."""
    return d // EIGHT * bits + -(-d // CHUNK) * LANES * bits + 8


def _readable(packed: Array, step: int, reach: int) -> Iterator[tuple[slice, Array]]:
    """Yield `step` rows at a time with `reach` bytes of memory from their beginning on; the last ones are copied."""
    packed = read_only(packed)
    n, width = packed.shape
    inside = max(0, (n * width - reach) // max(width, 1) + 1) // step * step
    if inside:
        yield slice(0, inside), packed
    if inside < n:
        rows = -(-(n - inside) // step) * step
        copy = np.zeros((rows + -(-reach // max(width, 1)), width), np.uint8)
        copy[: n - inside] = packed[inside:]
        yield slice(inside, n), read_only(copy)


def _lanes(scales: Array, block: int, d: int) -> tuple[Array, Array, Array]:
    """Return scales to read sixteen at a time, the first that each chunk needs, and which of the sixteen each lane."""
    n, count = scales.shape
    padded = np.zeros((n + -(-LANES // count), count), np.float32)
    padded[:n] = scales
    number = np.minimum(np.arange(-(-d // CHUNK) * LANES) * EIGHT // block, count - 1).reshape(-1, LANES)
    first = number[:, 0].copy()
    return padded, first, (number - first[:, None]).astype(np.int32)
