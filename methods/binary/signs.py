"""Add up a query's coordinates over packed signs: the one scan behind every code of signs that meets a real query.

Four signs are one look-up in a table of the sixteen sums that they can make. A table of sixteen bytes is one vector
register, so that one instruction looks up the same four bits of `ROWS` items, once the bytes of these items lie by
column. An entry takes `DIGITS` bytes of 7 bits, because two of those add up in a byte, and 21 bits are about what a
float32 sum keeps. Sums of integers do not depend on their order: equal codes have equal scores wherever they lie.

Tables in registers are those of André, Kermarrec, Le Scouarnec, "Cache locality is not enough: High-Performance Nearest
Neighbor Search with Product Quantization Fast Scan", 2015. Here items stay row by row in memory, and become columns
block by block while they lie in cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from packbench.errors import BadInput
from packbench.items import Array

cgutils: Any = _cgutils  # which has no types
ROWS = 32  # items in a block: the bytes of a vector register
LANES = ROWS // 16  # parts of sixteen bytes, the width within which bytes interleave
SHARE = 2  # blocks that share the loads of a table
DIGITS, DIGIT_BITS = 3, 7
MOST = 1 << (DIGITS * DIGIT_BITS)
COLUMNS = 256  # whose sums of two digits fit 16 bits
AHEAD = 8  # blocks whose rows are called for before their turn: pieces of rows are no pattern that processors foresee
CACHED = 24 << 10  # bytes of blocks by column that stay in the first-level cache

_BYTES = ir.VectorType(ir.IntType(8), ROWS)
_PART = ir.VectorType(ir.IntType(8), 16)
_HALVES = ir.VectorType(ir.IntType(16), ROWS // 2)
_WORDS = ir.VectorType(ir.IntType(32), ROWS // 2)
_I64 = ir.IntType(64)


class SignSums:
    """Hold the tables of queries (n_queries, d) and add up their coordinates over packed signs.

    Sums of four weights are rounded to 20 or 21 bits below the largest of them, about what a float32 sum loses.
    """

    def __init__(self, weights: Array) -> None:
        self._d = weights.shape[1]
        self._width = -(-self._d // 8)
        # A part of sixteen bytes is the least that is read at once.
        quads = np.zeros((len(weights), max(16, self._width), 2, 4))
        quads.reshape(len(weights), 8 * quads.shape[1])[:, : self._d] = weights
        self._tables = np.empty((len(weights), quads.shape[1], 2 * DIGITS, 16), np.uint8)
        self._scales = np.empty((len(weights), 3))
        _tabulate(quads, self._tables, self._scales)

    def __call__(self, packed: Array) -> Array:
        """Return sum_j weights[q, j] * s[i, j] over the signs of each packed row, (n_queries, n) float32."""
        n, width = packed.shape
        if width != self._width:
            raise BadInput(f"{self._d} weights do not match {width} bytes of signs")
        found = np.zeros((len(self._tables), max(n, ROWS)), np.float32)
        if n and len(found):
            if n < ROWS or width < 16:
                packed = np.pad(packed, ((0, max(0, ROWS - n)), (0, max(0, 16 - width))))
            size = SHARE * ROWS * packed.shape[1]
            _scan(plain(packed), self._tables, self._scales, np.empty(max(1, CACHED // size) * size, np.uint8), found)
        return found[:, :n]


def sign_sums(packed: Array, weights: Array) -> Array:
    """Return the same for weights that meet these rows alone."""
    return SignSums(weights)(packed)


def block_rows(n_queries: int) -> int:
    """Return how many items to score at a time, so that the scores of all queries stay in cache."""
    return max(1024, (1 << 16) // max(n_queries, 1))


def plain(packed: Array) -> Array:
    """Return a read-only view whose rows are contiguous, so that one compiled loop serves memory maps and slices."""
    view = packed if packed.strides[1] == 1 else np.ascontiguousarray(packed)
    view = view.view(np.ndarray)[:]
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _tabulate(quads, tables, scales):  # type: ignore[no-untyped-def]
    """Write the digits of the sixteen sums of each four weights, and what brings sums of entries back to sums of signs.

    quads (q, width, 2, 4) float64, tables (q, width, 2 * DIGITS, 16), scales (q, 3): step, middle and offset.
    """
    sums = np.empty(16)
    for query in range(len(quads)):
        largest, total = 0.0, 0.0
        for column in range(quads.shape[1]):
            for half in range(2):
                reach = 0.0
                for j in range(4):
                    reach += abs(quads[query, column, half, j])
                largest, total = max(largest, reach), total + reach
        # Sums of all entries fit 32 bits.
        most = min(MOST - 1, ((1 << 31) - 1) // (2 * quads.shape[1]))
        # A power of two, by which numbers of few bits divide: where float sums are exact and tie, these do.
        step = 2.0 ** np.ceil(np.log2(largest / most)) if largest > 0 else 1.0
        inverse = 1.0 / step
        for column in range(quads.shape[1]):
            for half in range(2):
                sums[0] = 0.0
                for j in range(4):
                    weight = quads[query, column, half, j]
                    # The least of the sums is entry 0's: it counts from there.
                    for i in range(1 << j):
                        sums[i + (1 << j)] = sums[i] + max(weight, 0.0)
                        sums[i] += max(-weight, 0.0)
                for i in range(16):
                    entry = np.int64(sums[i] * inverse + 0.5)
                    for digit in range(DIGITS):
                        tables[query, column, half * DIGITS + digit, i] = (entry >> (DIGIT_BITS * digit)) & 127
        # Each sum of signs is twice that of the ones, less all magnitudes; floats count from the middle, to lose less.
        middle = np.floor(total / (2 * step))
        scales[query, 0], scales[query, 1], scales[query, 2] = 2 * step, middle, 2 * step * middle - total


@njit(cache=True, nogil=True)
def _scan(packed, tables, scales, columns, found):  # type: ignore[no-untyped-def]
    """Write found (q, n), n at least ROWS. columns is room for an even number of blocks by column."""
    n, width = packed.shape
    size = ROWS * width
    many = len(columns) // size
    sums, some = np.empty(SHARE * ROWS, np.int32), np.empty(SHARE * ROWS, np.int32)
    for first in range(0, n, many * ROWS):
        count = min(many, -(-(n - first) // (SHARE * ROWS)) * SHARE)
        for block in range(count):
            # The last blocks overlap those before them.
            row = min(first + block * ROWS, n - ROWS)
            _fetch(packed, row + AHEAD * ROWS)
            for column in range(0, width, 16):
                column = min(column, width - 16)
                _turn(packed, row, column, columns, block * size + column * ROWS)
        for query in range(len(tables)):
            step, offset = np.float32(scales[query, 0]), np.float32(scales[query, 2])
            middle = np.int32(scales[query, 1])
            for block in range(0, count, SHARE):
                _add_up(columns, block * size, size, tables[query], 0, min(width, COLUMNS), sums)
                for column in range(COLUMNS, width, COLUMNS):
                    _add_up(columns, block * size, size, tables[query], column, min(width, column + COLUMNS), some)
                    sums += some
                for part in range(SHARE):
                    row = min(first + (block + part) * ROWS, n - ROWS)
                    one, into = sums[part * ROWS : (part + 1) * ROWS], found[query, row : row + ROWS]
                    for i in range(len(into)):
                        into[i] = np.float32(np.int32(one[i] - middle)) * step + offset


def _emit_fetch(_: Any, packed: Any, row: Any) -> Any:
    """Call ROWS rows from one on into the second-level cache; there need not be so many."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, values[0])
        stride = cgutils.unpack_tuple(builder, source.strides, 2)[0]
        byte, word = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        start, size = builder.mul(values[1], stride), builder.mul(stride, _I64(ROWS))
        with cgutils.for_range_slice(builder, _I64(0), size, _I64(64), _I64) as (at, _last):
            line = _at(builder, source.data, builder.add(start, at), byte)
            builder.call(fetch, [line, word(0), word(2), word(1)])  # to read, soon again, data
        return context.get_dummy_value()

    return types.void(packed, types.int64), emit


def _emit_turn(_: Any, packed: Any, row: Any, column: Any, columns: Any, into: Any) -> Any:
    """Write sixteen bytes of each of ROWS rows of `packed`, from a column on, as sixteen times ROWS bytes."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, values[0])
        stride = cgutils.unpack_tuple(builder, source.strides, 2)[0]
        start = builder.add(builder.mul(values[1], stride), values[2])

        def rows(i: int) -> Any:
            """Load the parts of rows i, i + 16, ... side by side."""
            at = [builder.add(start, builder.mul(_I64(i + 16 * lane), stride)) for lane in range(LANES)]
            parts = [_load(builder, _PART, source.data, one) for one in at]
            while len(parts) > 1:
                wide = [_order(range(2 * one.type.count)) for one in parts]
                pairs = zip(parts[::2], parts[1::2], wide, strict=False)
                parts = [builder.shuffle_vector(one, other, order) for one, other, order in pairs]
            return parts[0]

        # Four times interleaved with what lies eight registers further, a square of bytes is transposed.
        registers = [rows(i) for i in range(16)]
        for _ in range(4):
            registers = [
                builder.shuffle_vector(registers[i], registers[i + 8], _order(_interleaved(half)))
                for i in range(8)
                for half in range(2)
            ]
        target = context.make_array(signature.args[3])(context, builder, values[3]).data
        for i, register in enumerate(registers):
            _store(builder, register, target, builder.add(values[4], _I64(i * ROWS)))
        return context.get_dummy_value()

    return types.void(packed, types.int64, types.int64, columns, types.int64), emit


def _interleaved(half: int) -> list[int]:
    """Return which bytes of two registers alternate, of the lower or upper half of each part of sixteen."""
    return [16 * lane + 8 * half + i // 2 + ROWS * (i % 2) for lane in range(LANES) for i in range(16)]


def _emit_add_up(_: Any, columns: Any, at: Any, size: Any, table: Any, first: Any, last: Any, sums: Any) -> Any:
    """Write SHARE times ROWS int32: the sums of a query's entries over columns first to last of as many blocks."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(signature.args[i])(context, builder, values[i]) for i in (0, 3, 6)]
        data, tables, target = (array.data for array in arrays)
        # Of each block and digit: the sums of pairs of bytes as 16-bit numbers, and those of the upper bytes.
        totals = [
            [[cgutils.alloca_once_value(builder, _all(_HALVES, 0)) for _ in range(2)] for _ in range(DIGITS)]
            for _ in range(SHARE)
        ]
        with cgutils.for_range_slice(builder, values[4], values[5], _I64(1), _I64) as (column, _last):
            begin = builder.mul(column, _I64(2 * DIGITS * 16))
            entries = [_load(builder, _PART, tables, builder.add(begin, _I64(16 * i))) for i in range(2 * DIGITS)]
            for block in range(SHARE):
                place = builder.add(values[1], builder.mul(values[2], _I64(block)))
                code = _load(builder, _BYTES, data, builder.add(place, builder.mul(column, _I64(ROWS))))
                upper = builder.lshr(builder.bitcast(code, _HALVES), _all(_HALVES, 4))
                low, high = (builder.and_(one, _all(_BYTES, 15)) for one in (code, builder.bitcast(upper, _BYTES)))
                for digit, (whole, odd) in enumerate(totals[block]):
                    both = _look_up(builder, entries[digit], low), _look_up(builder, entries[DIGITS + digit], high)
                    pairs = builder.bitcast(builder.add(*both), _HALVES)
                    builder.store(builder.add(builder.load(whole), pairs), whole)
                    builder.store(builder.add(builder.load(odd), builder.lshr(pairs, _all(_HALVES, 8))), odd)
        for block in range(SHARE):
            even_sum, odd_sum = _all(_WORDS, 0), _all(_WORDS, 0)
            for digit, (whole, odd) in enumerate(totals[block]):
                uppers = builder.load(odd)
                lowers = builder.sub(builder.load(whole), builder.shl(uppers, _all(_HALVES, 8)))
                up = _all(_WORDS, DIGIT_BITS * digit)
                even_sum = builder.add(even_sum, builder.shl(builder.zext(lowers, _WORDS), up))
                odd_sum = builder.add(odd_sum, builder.shl(builder.zext(uppers, _WORDS), up))
            alternating = _order(i // 2 + ROWS // 2 * (i % 2) for i in range(ROWS))
            _store(builder, builder.shuffle_vector(even_sum, odd_sum, alternating), target, _I64(4 * ROWS * block))
        return context.get_dummy_value()

    return types.void(columns, types.int64, types.int64, table, types.int64, types.int64, sums), emit


def _look_up(builder: Any, table: Any, index: Any) -> Any:
    """Emit what compilers know as one look-up in a register where there is such an instruction."""
    found = ir.Constant(_BYTES, ir.Undefined)
    for i in range(ROWS):
        at = ir.IntType(32)(i)
        found = builder.insert_element(found, builder.extract_element(table, builder.extract_element(index, at)), at)
    return found


def _all(vector: Any, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _order(places: Iterable[int]) -> Any:
    """Return which bytes, or words, a shuffle takes."""
    taken = list(places)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(taken)), taken)


def _at(builder: Any, data: Any, offset: Any, kind: Any) -> Any:
    start = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [offset])
    return builder.bitcast(start, kind.as_pointer())


def _load(builder: Any, kind: Any, data: Any, offset: Any) -> Any:
    return builder.load(_at(builder, data, offset, kind), align=1)


def _store(builder: Any, value: Any, data: Any, offset: Any) -> None:
    builder.store(value, _at(builder, data, offset, value.type), align=1)


_fetch: Any = intrinsic(_emit_fetch)
_turn: Any = intrinsic(_emit_turn)
_add_up: Any = intrinsic(_emit_add_up)
