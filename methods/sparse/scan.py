"""Read packed positions eight at a time, and add up the query's entries there.

A table says for each byte of the ones and zeros where its ones lie; it is written down whole, and the next byte's ones
begin behind as many as there were. The lowest bits of eight positions lie in one 64-bit word.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from packbench.items import Array

FEW = 4  # below this many queries, a pass for each is faster than one for all
ROOM = 8  # bytes behind the last row that may be read
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_COUNTS = _BITS.sum(axis=1, dtype=np.int64)
_ONES = np.argsort(-_BITS.astype(np.int8), axis=1, kind="stable").astype(np.int32)  # those of a byte come first

_WORD, _INT = ir.IntType(64), ir.IntType(32)
_WORDS, _INTS = ir.VectorType(_WORD, 8), ir.VectorType(_INT, 8)
_IOTA = list(range(8))


def unpack(packed: Array, low: int, high: int, step: int, index: Array) -> None:
    """Write the positions (n, k) of packed rows (n, bytes), in the layout that `support` describes."""
    _unpack(_with_room(packed), packed.shape[1], low, high, step, _ONES, _COUNTS, index)


def dots(index: Array, values: Array, queries: Array) -> Array:
    """Return sum_j values[i, j] * queries[q, index[i, j]], (q, n) float32, for values and index (n, k)."""
    if len(queries) < FEW:
        found = np.empty((len(queries), len(index)), np.float32)
        _dots(index, values, queries, found)
        return found
    found = np.zeros((len(index), len(queries)), np.float32)
    _dots_of_many(index, values, np.ascontiguousarray(queries.T), found)
    return found.T


def packed_dots(packed: Array, low: int, high: int, step: int, values: Array, queries: Array) -> Array:
    """Return the same for packed positions, which are not written down."""
    layout = _with_room(packed), packed.shape[1], low, high, step, _ONES, _COUNTS
    if len(queries) < FEW:
        found = np.empty((len(queries), len(packed)), np.float32)
        _packed_dots(*layout, values, queries, found)
        return found
    found = np.zeros((len(packed), len(queries)), np.float32)
    _packed_dots_of_many(*layout, values, np.ascontiguousarray(queries.T), found)
    return found.T


def _with_room(packed: Array) -> Array:
    """Return the rows one after the other with readable bytes behind; a copy, of the block that is being read."""
    flat = np.zeros(packed.size + ROOM, np.uint8)
    flat[: packed.size].reshape(packed.shape)[...] = packed
    return flat


def _splat(builder: Any, kind: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, [0] * 8))


def _pointer(context: Any, builder: Any, array: Any, value: Any, offset: Any, kind: Any) -> Any:
    data = builder.bitcast(context.make_array(array)(context, builder, value).data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _emit_ones(_: Any, ones: Any, byte: Any, more: Any, index: Any, j: Any) -> Any:
    """Write index[j : j + 8] = ones[byte] + more."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        entry = _pointer(context, builder, signature.args[0], values[0], builder.shl(values[1], _WORD(5)), _INTS)
        more = _splat(builder, _INTS, builder.trunc(values[2], _INT))
        into = _pointer(context, builder, signature.args[3], values[3], builder.shl(values[4], _WORD(2)), _INTS)
        builder.store(builder.add(builder.load(entry, align=4), more), into, align=4)
        return context.get_dummy_value()

    return types.void(ones, types.int64, types.int64, index, types.int64), emit


def _emit_word(_: Any, packed: Any, at: Any) -> Any:
    """Return the eight bytes from one on as a number."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], values[0], values[1], _WORD), align=1)

    return types.uint64(packed, types.int64), emit


def _emit_eight(_: Any, word: Any, low: Any, step: Any, index: Any, j: Any) -> Any:
    """Write index[j + i] = ((index[j + i] - (j + i) * step) << low) | bits i * low to (i + 1) * low of the word."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, low, step, _, j = values
        shifts = builder.mul(ir.Constant(_WORDS, _IOTA), _splat(builder, _WORDS, low))
        mask = builder.sub(builder.shl(_WORD(1), low), _WORD(1))
        parts = builder.and_(builder.lshr(_splat(builder, _WORDS, word), shifts), _splat(builder, _WORDS, mask))
        low, step, first = (_splat(builder, _INTS, builder.trunc(one, _INT)) for one in (low, step, j))
        gone = builder.mul(builder.add(first, ir.Constant(_INTS, _IOTA)), step)
        at = _pointer(context, builder, signature.args[3], values[3], builder.shl(j, _WORD(2)), _INTS)
        upper = builder.shl(builder.sub(builder.load(at, align=4), gone), low)
        builder.store(builder.or_(upper, builder.trunc(parts, _INTS)), at, align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64, types.int64, index, types.int64), emit


_write_ones: Any = intrinsic(_emit_ones)
_word: Any = intrinsic(_emit_word)
_write_eight: Any = intrinsic(_emit_eight)


@njit(cache=True, nogil=True)
def _positions(packed, start, k, low, high, step, ones, counts, index):  # type: ignore[no-untyped-def]
    """Write the k positions of the row that starts at a byte; index has room for high + k + 16."""
    j = 0
    for first in range(0, high, 8):
        # Bits behind the last one and zero are written down behind the last position.
        byte = np.int64(packed[start + (first >> 3)])
        _write_ones(ones, byte, first, index, j)
        j += counts[byte]
    if low == 0:
        return
    if high == 0:
        index[: k + 8] = 0
    bit = 8 * start + high
    if low <= 7:  # eight such numbers, and up to seven bits before them, fill a word
        for j in range(0, k, 8):
            _write_eight(_word(packed, bit >> 3) >> np.uint64(bit & 7), low, step, index, j)
            bit += 8 * low
        return
    mask = (1 << low) - 1
    for j in range(k):
        rest = np.int64(_word(packed, bit >> 3) >> np.uint64(bit & 7)) & mask
        index[j] = ((index[j] - j * step) << low) | rest
        bit += low


@njit(cache=True, nogil=True)
def _unpack(packed, size, low, high, step, ones, counts, index):  # type: ignore[no-untyped-def]
    n, k = index.shape
    places = np.empty(high + k + 16, np.int32)
    for row in range(n):
        _positions(packed, row * size, k, low, high, step, ones, counts, places)
        for j in range(k):
            index[row, j] = places[j]


@njit(cache=True, nogil=True, fastmath=True)
def _packed_dots(packed, size, low, high, step, ones, counts, values, queries, found):  # type: ignore[no-untyped-def]
    n, k = values.shape
    places = np.empty(high + k + 16, np.int32)
    for row in range(n):
        _positions(packed, row * size, k, low, high, step, ones, counts, places)
        for query in range(len(queries)):
            total = np.float32(0)
            for j in range(k):
                total += np.float32(values[row, j]) * queries[query, np.uint32(places[j])]
            found[query, row] = total


@njit(cache=True, nogil=True, fastmath=True)
def _packed_dots_of_many(packed, size, low, high, step, ones, counts, values, queries, found):  # type: ignore[no-untyped-def]
    n, k = values.shape
    places = np.empty(high + k + 16, np.int32)
    for row in range(n):
        _positions(packed, row * size, k, low, high, step, ones, counts, places)
        for j in range(k):
            value, at = np.float32(values[row, j]), np.uint32(places[j])
            for query in range(queries.shape[1]):
                found[row, query] += value * queries[at, query]


@njit(cache=True, nogil=True, fastmath=True)
def _dots(index, values, queries, found):  # type: ignore[no-untyped-def]
    for query in range(len(queries)):
        for row in range(len(index)):
            total = np.float32(0)
            for j in range(index.shape[1]):
                total += np.float32(values[row, j]) * queries[query, index[row, j]]
            found[query, row] = total


@njit(cache=True, nogil=True, fastmath=True)
def _dots_of_many(index, values, queries, found):  # type: ignore[no-untyped-def]
    for row in range(len(index)):
        for j in range(index.shape[1]):
            value, at = np.float32(values[row, j]), index[row, j]
            for query in range(queries.shape[1]):
                found[row, query] += value * queries[at, query]
