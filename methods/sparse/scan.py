"""Add up a query's entries at the positions of sparse codes, times their values.

A row's positions and values are written down sixteen at a time, and the query is read at these positions: by sixteen
loads, which take less than a gather, or, for many queries, as one row of their table for each position. numba has no
vectors, so intrinsics emit them, for any processor.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed. What emits vectors is shared with `scalar.kernels`: after a change there, remove the compiled
files of this folder (`methods/sparse/__pycache__/*.nb*`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from packbench.items import Array
from packbench.methods.scalar.kernels import LANES, _array, _everywhere, _load, _look_up, _places, _splat, _total
from packbench.methods.scalar.packing import read_only

cgutils: Any = _cgutils  # which has no types
FEW = 4  # below this many queries, a pass for each is faster than one for all
ENTRIES = 1536  # that are written down before any is read: what was just written cannot be read at once
ONES = 32  # bits of which the ones are listed at once
LINE = 64  # bytes
REACH = 64  # bytes behind a row that may be read
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ONES = np.argsort(-_BITS.astype(np.int8), axis=1, kind="stable").astype(np.int32)  # where those of a byte lie

_BYTE = np.arange(9)[:, None] * np.arange(LANES) // 8
_PAIRS = np.stack([_BYTE, _BYTE + 1], axis=2).astype(np.uint8)  # in which fields of 0 to 8 bits begin

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
_FAST = ("fast",)
_NO_VALUES, _NO_SUMS = np.zeros((0, 0), np.int8), np.zeros(0, np.float32)

Layout = tuple[int, int, int, int]  # k, high, low, step as `support.pack_index` says


def unpack(packed: Array, layout: Layout, index: Array) -> None:
    """Write the positions (n, k) of packed rows (n, bytes)."""
    places = _room_for_places(layout, np.uint32)
    for first, part, (rows,) in _readable(slice(0, len(packed)), packed):
        _unpack(rows, first, layout, np.uint32(0xFFFFFFFF), _ONES, _PAIRS, places, index[part])


def arranged(queries: Array, width: int) -> Array:
    """Return queries (q, width) as `packed_dots` reads them: a few as rows, many as columns, zeros behind the width."""
    room = 1 << (width + ONES - 1).bit_length()  # whatever a code says, positions are below it
    few = len(queries) < FEW
    shape = (len(queries), room) if few else (room, -(-len(queries) // LANES) * LANES)
    found = _aligned(shape[0] * shape[1], np.float32).reshape(shape)
    (found if few else found.T)[: len(queries), :width] = queries
    return found


def packed_dots(
    packed: Array, layout: Layout, values: Array | None, levels: Array | None, asked: Array, count: int, part: slice,
    squares: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """Return sum_j v[i, j] * queries[q, p[i, j]], (q, rows) float32, and, if asked for, sum_j v[i, j]^2, (rows,).

    packed: (n, bytes) positions p in a layout that `support.pack_index` describes.
    values: v itself, (n, k) float16, float32, int8 or uint8; or packed numbers of levels; none means 1.
    asked: so many queries, `arranged`.
    part: which rows; they are read faster where others follow.
    """
    n, few = part.stop - part.start, count < FEW
    bits = 0 if levels is None else (len(levels) - 1).bit_length()
    table, vectors = (None, ()) if levels is None else _table(levels)
    room = asked.shape[1 if few else 0]
    found = np.empty((n, count if few else asked.shape[1]), np.float32)
    sums = np.empty(n, np.float32) if squares else _NO_SUMS
    places = _room_for_places(layout, np.uint16 if room <= 1 << 16 else np.uint32)
    held = _aligned(max(ENTRIES, layout[0] + LANES), np.float32)
    plain = _NO_VALUES if values is None else values.view(np.int16) if values.dtype == np.float16 else values
    for first, own, (rows, given) in _readable(part, packed, plain):
        _dots(rows, first, layout, np.uint32(room - 1), _ONES, _PAIRS, places, None if values is None else given, bits,
              table, vectors, held, asked, few, found[own], sums[own])  # fmt: skip
    return found[:, :count].T, sums


def dots(index: Array, values: Array, queries: Array) -> Array:
    """Return sum_j values[i, j] * queries[q, index[i, j]], (q, n) float32, for values and index (n, k)."""
    if len(queries) < FEW:
        found = np.empty((len(queries), len(index)), np.float32)
        _plain_dots(index, values, queries, found)
        return found
    found = np.zeros((len(index), len(queries)), np.float32)
    _plain_dots_of_many(index, values, np.ascontiguousarray(queries.T), found)
    return found.T


def _aligned(size: int, kind: type) -> Array:
    """Return so many zeros that begin where a line of cache does."""
    nbytes = size * np.dtype(kind).itemsize
    room = np.zeros(nbytes + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    return room[begin : begin + nbytes].view(kind)


def _room_for_places(layout: Layout, kind: type) -> Array:
    k, high, *_ = layout
    return _aligned(max(ENTRIES, k + LANES) + high + 2 * ONES, kind)


def _table(levels: Array) -> tuple[Array, tuple[int, ...]]:
    """Return levels, filled up to a power of two from 16 on, and as many zeros as they are vectors."""
    table = np.zeros(max(LANES, 1 << (len(levels) - 1).bit_length()), np.float32)
    table[: len(levels)] = levels
    return table, (0,) * (len(table) // LANES)


def _readable(part: slice, *arrays: Array) -> Iterator[tuple[int, slice, list[Array]]]:
    """Yield runs of rows with memory behind them: the first one's number, which of the part they are, and arrays.

    The last rows of an array are copied.
    """
    plain = [read_only(array) for array in arrays]
    filled = [array for array in plain if array.size]
    last = min((len(array) - -(-REACH // array[0].nbytes) for array in filled), default=part.stop)
    middle = min(max(part.start, last), part.stop)
    if part.start < middle:
        yield part.start, slice(0, middle - part.start), plain
    if middle < part.stop:
        copies = []
        for array in plain:
            rows = array[middle : part.stop]
            copy = np.zeros((len(rows) + REACH, array.shape[1]), array.dtype)
            copy[: len(rows)] = rows
            copies.append(read_only(copy))
        yield 0, slice(middle - part.start, part.stop - part.start), copies


def _spread(builder: Any, kind: Any, value: Any) -> Any:
    """Return a vector of a kind with one number in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, _places([0] * kind.count))


def _resized(builder: Any, value: Any, kind: Any) -> Any:
    """Return unsigned integers in another width."""
    own, to = (getattr(one, "element", one).width for one in (value.type, kind))
    return value if own == to else builder.zext(value, kind) if own < to else builder.trunc(value, kind)


def _at(context: Any, builder: Any, array: Any, value: Any, number: Any) -> Any:
    """Return the address of an entry of a contiguous array."""
    base = _array(context, builder, array, value)[0]
    return builder.gep(base, [builder.mul(number, _I64(array.dtype.bitwidth // 8))])


def _store(builder: Any, vector: Any, address: Any) -> None:
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=1)


def _fields(builder: Any, address: Any, bits: Any, pairs: Any) -> Any:
    """Return sixteen neighbouring fields of up to eight bits, each out of the pair of bytes in which it begins."""
    shorts, octets = ir.VectorType(_I16, LANES), ir.VectorType(_I8, 2 * LANES)
    # Were the index not read anew, its lanes would be taken apart before the loop, and be no permutation within.
    index = _load(builder, builder.gep(pairs, [builder.mul(bits, _I64(2 * LANES))]), octets)
    index = builder.and_(index, ir.Constant(octets, [2 * LANES - 1] * 2 * LANES))
    given, found = _load(builder, address, octets), ir.Constant(octets, ir.Undefined)
    for lane in (_I32(i) for i in range(2 * LANES)):
        found = builder.insert_element(
            found, builder.extract_element(given, builder.extract_element(index, lane)), lane
        )
    width, one = _spread(builder, shorts, builder.trunc(bits, _I16)), ir.Constant(shorts, [1] * LANES)
    shift = builder.mul(ir.Constant(shorts, list(range(LANES))), width)
    shift = builder.and_(shift, ir.Constant(shorts, [7] * LANES))
    mask = builder.sub(builder.shl(one, width), one)
    return builder.and_(builder.lshr(builder.bitcast(found, shorts), shift), mask)


def _emit_word(_: Any, packed: Any, bit: Any) -> Any:
    """Return what lies from a bit on; 57 bits of it."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _at(context, builder, packed, values[0], builder.lshr(values[1], _I64(3)))
        return builder.lshr(_load(builder, address, _I64), builder.and_(values[1], _I64(7)))

    return types.uint64(packed, types.int64), emit


def _emit_ones(_: Any, word: Any, first: Any, ones: Any, places: Any, j: Any) -> Any:
    """Write places[j:] = first + i for each one i of a number of 32 bits, and return how many there are."""
    lane = ir.IntType(places.dtype.bitwidth)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, first, table, _, j = values
        base = _at(context, builder, places, values[3], j)
        count = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, [_I32]), "llvm.ctpop.i32")
        if lane == _I16 and "+avx512vbmi2" in context.codegen().magic_tuple()[2] and binding.llvm_version_info[0] > 19:
            kind, flags = ir.VectorType(lane, ONES), ir.VectorType(ir.IntType(1), ONES)
            listed = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind, flags, kind]),
                f"llvm.experimental.vector.compress.v{ONES}i{lane.width}",
            )  # fmt: skip
            own = builder.add(ir.Constant(kind, list(range(ONES))), _spread(builder, kind, builder.trunc(first, lane)))
            _store(builder, builder.call(listed, [own, builder.bitcast(word, flags), ir.Constant(kind, None)]), base)
            return builder.zext(builder.call(count, [word]), _I64)
        written = _I64(0)  # byte by byte: the next one's begin behind as many as there were
        for byte in range(0, ONES, 8):
            own = builder.and_(builder.lshr(word, _I32(byte)), _I32(255))
            entry = _at(context, builder, ones, table, builder.zext(builder.shl(own, _I32(3)), _I64))
            where = _resized(builder, _load(builder, entry, ir.VectorType(_I32, 8)), ir.VectorType(lane, 8))
            start = _resized(builder, builder.add(first, _I64(byte)), lane)
            address = builder.gep(base, [builder.mul(written, _I64(lane.width // 8))])
            _store(builder, builder.add(where, _spread(builder, where.type, start)), address)
            written = builder.add(written, builder.zext(builder.call(count, [own]), _I64))
        return written

    return types.int64(types.uint32, types.int64, ones, places, types.int64), emit


def _emit_lower(
    _: Any, packed: Any, byte: Any, low: Any, pairs: Any, j: Any, step: Any, mask: Any, places: Any, at: Any
) -> Any:
    """Write places[at + i] = (((places[at + i] - (j + i) * step) << low) | field i from a byte on) & mask, i < 16."""
    lane = ir.IntType(places.dtype.bitwidth)
    kind = ir.VectorType(lane, LANES)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def everywhere(value: Any) -> Any:
            return _spread(builder, kind, _resized(builder, value, lane))

        packed_, byte, low, pairs_, j, step, mask, places_, at = values
        near = _array(context, builder, pairs, pairs_)[0]
        fields = _fields(builder, _at(context, builder, packed, packed_, byte), low, near)
        address = _at(context, builder, places, places_, at)
        gone = builder.mul(ir.Constant(kind, list(range(LANES))), everywhere(step))
        gone = builder.add(gone, everywhere(builder.mul(j, step)))
        upper = builder.shl(builder.sub(_load(builder, address, kind), gone), everywhere(low))
        found = builder.and_(builder.or_(upper, _resized(builder, fields, kind)), everywhere(mask))
        _store(builder, found, address)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(packed, whole, whole, pairs, whole, whole, types.uint32, places, whole), emit


def _store_values(builder: Any, found: Any, left: Any, address: Any) -> None:
    """Write sixteen values, zeros for all but the first so many."""
    own = builder.icmp_signed("<", _places(list(range(LANES))), _everywhere(builder, builder.trunc(left, _I32)))
    _store(builder, builder.select(own, found, ir.Constant(_FLOATS, None)), address)


def _emit_levels(
    _: Any, packed: Any, byte: Any, bits: Any, pairs: Any, table: Any, vectors: Any, values: Any, at: Any, left: Any
) -> Any:  # fmt: skip
    """Write values[at + i] = table[field i from a byte on], i below 16; the table has 16 entries a vector."""

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        near = _array(context, builder, pairs, given[3])[0]
        fields = _fields(builder, _at(context, builder, packed, given[0], given[1]), given[2], near)
        start = _array(context, builder, table, given[4])[0]
        found = _look_up(context, builder, start, vectors.count, _resized(builder, fields, _INTS))
        _store_values(builder, found, given[8], _at(context, builder, values, given[6], given[7]))
        return context.get_dummy_value()

    return types.void(packed, types.int64, types.int64, pairs, table, vectors, values, types.int64, types.int64), emit


def _emit_plain(_: Any, given: Any, number: Any, values: Any, at: Any, left: Any) -> Any:
    """Write values[at + i] = given.ravel()[number + i], i below 16; int16 stands for the bits of a float16."""
    half, real = given.dtype == types.int16, isinstance(given.dtype, types.Float)

    def emit(context: Any, builder: Any, signature: Any, held: Any) -> Any:
        address = _at(context, builder, given, held[0], held[1])
        own = _load(builder, address, ir.VectorType(_F32 if real else ir.IntType(given.dtype.bitwidth), LANES))
        if half:
            moved = builder.and_(builder.shl(builder.sext(own, _INTS), _splat(13)), _splat(0x8FFFFFFF))
            own = builder.fmul(builder.bitcast(moved, _FLOATS), ir.Constant(_FLOATS, [2.0**112] * LANES))
        elif not real:
            own = builder.sitofp(own, _FLOATS) if given.dtype.signed else builder.uitofp(own, _FLOATS)
        _store_values(builder, own, held[4], _at(context, builder, values, held[2], held[3]))
        return context.get_dummy_value()

    return types.void(given, types.int64, values, types.int64, types.int64), emit


def _emit_dot(_: Any, places: Any, values: Any, start: Any, stop: Any, query: Any) -> Any:
    """Return sum_j values[j] * query[places[j]], start <= j < stop, in sixteens."""

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        total = cgutils.alloca_once(builder, _FLOATS)
        builder.store(ir.Constant(_FLOATS, None), total)
        with cgutils.for_range_slice(builder, given[2], given[3], _I64(LANES), _I64) as (j, _step):
            entries = ir.Constant(_FLOATS, ir.Undefined)
            bits = places.dtype.bitwidth
            for i in range(0, LANES, 2):  # both places of a pair are loaded at once
                address = _at(context, builder, places, given[0], builder.add(j, _I64(i)))
                pair = _load(builder, address, ir.IntType(2 * bits))
                for more in (0, 1):
                    own = builder.lshr(pair, pair.type(more * bits)) if more else builder.trunc(pair, ir.IntType(bits))
                    entry = _load(builder, _at(context, builder, query, given[4], _resized(builder, own, _I64)), _F32)
                    entries = builder.insert_element(entries, entry, _I32(i + more))
            own = _load(builder, _at(context, builder, values, given[1], j), _FLOATS)
            term = builder.fmul(own, entries, flags=_FAST)
            builder.store(builder.fadd(builder.load(total), term, flags=_FAST), total)
        return _total(builder, builder.load(total))

    return types.float32(places, values, types.int64, types.int64, query), emit


def _emit_add(
    _: Any, places: Any, values: Any, start: Any, stop: Any, queries: Any, vectors: Any, first: Any, found: Any
) -> Any:
    """Write found[first:] = sum_j values[j] * queries[places[j], first:], start <= j < stop, 16 queries a vector.

    There are four running sums: where there are fewer vectors, each is in several, and j is a multiple of how many.
    """
    apart = 4 // vectors.count

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        totals = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(vectors.count)] for _ in range(apart)]
        for total in (total for own in totals for total in own):
            builder.store(ir.Constant(_FLOATS, None), total)
        row = _array(context, builder, queries, given[4])[1][1]
        with cgutils.for_range_slice(builder, given[2], given[3], _I64(apart), _I64) as (begin, _step):
            for more, own in enumerate(totals):
                j = builder.add(begin, _I64(more))
                address = _at(context, builder, places, given[0], j)
                place = _resized(builder, _load(builder, address, ir.IntType(places.dtype.bitwidth)), _I64)
                value = _spread(builder, _FLOATS, _load(builder, _at(context, builder, values, given[1], j), _F32))
                near = _at(context, builder, queries, given[4], builder.add(builder.mul(place, row), given[6]))
                for i, total in enumerate(own):
                    entries = _load(builder, builder.gep(near, [_I64(4 * LANES * i)]), _FLOATS)
                    term = builder.fmul(value, entries, flags=_FAST)
                    builder.store(builder.fadd(builder.load(total), term, flags=_FAST), total)
        into = _at(context, builder, found, given[7], given[6])
        for i in range(vectors.count):
            parts = [builder.load(own[i]) for own in totals]
            while len(parts) > 1:
                parts = [builder.fadd(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
            _store(builder, parts[0], builder.gep(into, [_I64(4 * LANES * i)]))
        return context.get_dummy_value()

    return types.void(places, values, types.int64, types.int64, queries, vectors, types.int64, found), emit


_word: Any = intrinsic(_emit_word)
_write_ones: Any = intrinsic(_emit_ones)
_write_lower: Any = intrinsic(_emit_lower)
_write_levels: Any = intrinsic(_emit_levels)
_write_plain: Any = intrinsic(_emit_plain)
_dot: Any = intrinsic(_emit_dot)
_add: Any = intrinsic(_emit_add)


@njit(cache=True, nogil=True)
def _positions(packed, first, rows, layout, mask, ones, pairs, places):  # type: ignore[no-untyped-def]
    """Write the k positions of some rows, each row's from a multiple of 16 on; what is between is below the mask."""
    k, high, low, step = layout
    size, apart = packed.shape[1], (k + 15) // 16 * 16
    for row in range(rows):
        bit, at = 8 * size * (first + row) + k * low, row * apart
        for begin in range(0, high, ONES):
            word = np.uint32(_word(packed, bit + begin))
            if high - begin < ONES:
                word &= (np.uint32(1) << np.uint32(high - begin)) - np.uint32(1)
            at += _write_ones(word, begin, ones, places, at)
    for row in range(0 if high else rows):
        own = places[row * apart : (row + 1) * apart]
        for j in range(apart):
            own[j] = 0 if low else j
    for row in range(rows if low else 0):
        byte, at = size * (first + row), row * apart
        if low <= 8:
            for j in range(0, k, 16):
                _write_lower(packed, byte, low, pairs, j, step, mask, places, at + j)
                byte += 2 * low
        else:
            for j in range(k):
                rest = np.int64(_word(packed, 8 * byte + j * low)) & ((np.int64(1) << low) - 1)
                places[at + j] = (((np.int64(places[at + j]) - j * step) << low) | rest) & np.int64(mask)


@njit(cache=True, nogil=True)
def _values(given, first, rows, k, bits, pairs, table, vectors, values):  # type: ignore[no-untyped-def]
    """Write the k values of some rows, each row's from a multiple of 16 on, and zeros between."""
    apart = (k + 15) // 16 * 16
    if given is None:
        for row in range(rows):
            own = values[row * apart : (row + 1) * apart]
            own[:k] = 1
            own[k:] = 0
        return
    size = given.shape[1]
    for row in range(rows):
        begin, at = size * (first + row), row * apart
        if table is None:
            for j in range(0, k, 16):
                _write_plain(given, begin + j, values, at + j, k - j)
        else:
            for j in range(0, k, 16):
                _write_levels(given, begin, bits, pairs, table, vectors, values, at + j, k - j)
                begin += 2 * bits


@njit(cache=True, nogil=True, fastmath=True)
def _product(first, second):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(first)):
        total += first[j] * second[j]
    return total


@njit(cache=True, nogil=True)
def _unpack(packed, first, layout, mask, ones, pairs, places, index):  # type: ignore[no-untyped-def]
    n, k = index.shape
    apart = (k + 15) // 16 * 16
    most = max(1, ENTRIES // apart)
    for begin in range(0, n, most):
        rows = min(most, n - begin)
        _positions(packed, first + begin, rows, layout, mask, ones, pairs, places)
        for row in range(rows):
            for j in range(k):
                index[begin + row, j] = places[row * apart + j]


@njit(cache=True, nogil=True)
def _dots(  # type: ignore[no-untyped-def]
    packed, first, layout, mask, ones, pairs, places, given, bits, table, vectors, values, queries, few, found, squares
):
    """Write products (n, q) of rows with queries, (q, room) if they are few, else (room, q)."""
    n, k, every = len(found), layout[0], layout[1] == layout[2] == 0  # positions
    apart = (k + 15) // 16 * 16
    most = max(1, ENTRIES // apart)
    for begin in range(0, n, most):
        rows = min(most, n - begin)
        if not (few and every):
            _positions(packed, first + begin, rows, layout, mask, ones, pairs, places)
        _values(given, first + begin, rows, k, bits, pairs, table, vectors, values)
        for query in range(len(queries) if few else 0):
            line = queries[query]
            for row in range(rows):
                at, end = row * apart, (row + 1) * apart
                if every:
                    found[begin + row, query] = _product(values[at:end], line[:apart])
                else:
                    found[begin + row, query] = _dot(places, values, at, end, line)
        for row in range(0 if few else rows):
            at, query = row * apart, 0
            while query + 64 <= queries.shape[1]:
                _add(places, values, at, at + k, queries, (0, 0, 0, 0), query, found[begin + row])
                query += 64
            while query < queries.shape[1]:
                _add(places, values, at, at + (k + 3) // 4 * 4, queries, (0,), query, found[begin + row])
                query += 16
        for row in range(rows if len(squares) else 0):
            own = values[row * apart : (row + 1) * apart]
            squares[begin + row] = _product(own, own)


@njit(cache=True, nogil=True, fastmath=True)
def _plain_dots(index, values, queries, found):  # type: ignore[no-untyped-def]
    for query in range(len(queries)):
        for row in range(len(index)):
            total = np.float32(0)
            for j in range(index.shape[1]):
                total += np.float32(values[row, j]) * queries[query, index[row, j]]
            found[query, row] = total


@njit(cache=True, nogil=True, fastmath=True)
def _plain_dots_of_many(index, values, queries, found):  # type: ignore[no-untyped-def]
    for row in range(len(index)):
        for j in range(index.shape[1]):
            value, at = np.float32(values[row, j]), index[row, j]
            for query in range(queries.shape[1]):
                found[row, query] += value * queries[at, query]
