"""Compiled loops over packed codes, sixteen coordinates or sixteen items to an instruction.

Look-ups in small tables are emitted as vectors of extracted elements, which a compiler turns into one permutation per
sixteen entries where the processor has it (AVX-512), and as plain loads elsewhere; numba has no vectors, so intrinsics
emit them. The loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.

A row is read in chunks of 128 coordinates, of which lane l holds 8 l to 8 l + 7: whatever the width of a code, its
digits of 4, 2 and 1 bits (see `packing.pack`) then lie in the same lane. Vectors end past the end of a row: what they
find there meets weights of zero, or is written over; the caller sees to it that there is memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

cgutils: Any = _cgutils  # which has no types
LANES, EIGHT = 16, 8
CHUNK = LANES * EIGHT
AHEAD = 16384  # bytes ahead of which memory is asked for where rows are read across; 3 to 32 KB serve alike

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _LONGS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_I64, LANES), ir.VectorType(_F32, LANES)
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)
_FAST = ("fast",)


def _splat(value: int, kind: Any = _INTS) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _places(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


def _load(builder: Any, pointer: Any, kind: Any) -> Any:
    """Load from any address."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def _array(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, list[Any]]:
    """Return the address of a contiguous array's first byte and its shape."""
    array = context.make_array(kind)(context, builder, value)
    return builder.bitcast(array.data, _I8.as_pointer()), cgutils.unpack_tuple(builder, array.shape, kind.ndim)


def _vector(builder: Any, base: Any, number: Any) -> Any:
    """Return the address of a vector of floats in an array."""
    return builder.gep(builder.bitcast(base, _FLOATS.as_pointer()), [number])


def _look_up(context: Any, builder: Any, table: Any, vectors: int, index: Any) -> Any:
    """Return the entry of each lane's index in the table at an address, of one to sixteen vectors of 16 entries."""
    table = builder.bitcast(table, _F32.as_pointer())
    index = builder.and_(index, _splat(LANES * vectors - 1))
    lanes = [ir.Constant(_I32, i) for i in range(LANES)]
    # Sixteen permutations, for 256 entries, take longer than sixteen loads.
    if vectors == LANES or "+avx512f" not in context.codegen().magic_tuple()[2]:
        vector = ir.Constant(_FLOATS, ir.Undefined)
        for lane in lanes:
            place = builder.zext(builder.extract_element(index, lane), _I64)
            vector = builder.insert_element(vector, _load(builder, builder.gep(table, [place]), _F32), lane)
        return vector
    low, found = builder.and_(index, _splat(LANES - 1)), []
    for i in range(vectors):
        entries = _load(builder, builder.gep(table, [_I64(LANES * i)]), _FLOATS)
        vector = ir.Constant(_FLOATS, ir.Undefined)
        for lane in lanes:
            entry = builder.extract_element(entries, builder.extract_element(low, lane))
            vector = builder.insert_element(vector, entry, lane)
        found.append(vector)
    bit = LANES
    while len(found) > 1:
        above = builder.icmp_unsigned("!=", builder.and_(index, _splat(bit)), _splat(0))
        found = [builder.select(above, *pair) for pair in zip(found[1::2], found[::2], strict=True)]
        bit *= 2
    return found[0]


def _everywhere(builder: Any, value: Any) -> Any:
    """Return a vector of one integer in every lane."""
    one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, one, _places([0] * LANES))


def _total(builder: Any, vector: Any) -> Any:
    """Return the sum of all lanes."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(vector, vector, _places(list(range(first, first + width)))) for first in (0, width)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _mixed(bits: int) -> bool:
    """Return whether digits have several widths, so that coordinates after the last whole eight lie apart."""
    return bits not in (1, 2, 4, 8)


def _each_chunk(builder: Any, bits: int, chunks: Any, emit: Callable[[Any, bool], None]) -> None:
    """Emit a loop over chunks; the last one is emitted apart where it differs."""
    final = builder.sub(chunks, _I64(1)) if _mixed(bits) else chunks
    with cgutils.for_range(builder, final) as loop:
        emit(loop.index, False)
    if _mixed(bits):
        emit(final, True)


def _digits(builder: Any, bits: int, row: Any, d: Any, chunk: Any, last: bool) -> list[tuple[int, Any]]:
    """Load a chunk's digits: for each width, those of the lowest bits first, a vector with eight of them in a lane.

    The coordinates after the last whole eight, where they lie apart, enter the last chunk as one lane more.
    """
    eights, more = builder.udiv(d, _I64(EIGHT)), builder.urem(d, _I64(EIGHT))
    widths = [width for width in (4, 2, 1) if bits & width]
    tail = _load(builder, builder.gep(row, [builder.mul(eights, _I64(bits))]), _I64)
    lane = builder.trunc(builder.sub(eights, builder.mul(chunk, _I64(LANES))), _I32)
    is_tail = builder.icmp_unsigned("==", _everywhere(builder, lane), _places(list(range(LANES))))
    digits, start = [], _I64(0)
    for width in widths:
        address = builder.gep(row, [builder.add(start, builder.mul(chunk, _I64(LANES * width)))])
        vector = _load(builder, address, ir.VectorType(ir.IntType(EIGHT * width), LANES))
        vector = vector if width == 4 else builder.zext(vector, _INTS)
        if last:
            filled = builder.mul(more, _I64(width))
            own = builder.and_(tail, builder.sub(builder.shl(_I64(1), filled), _I64(1)))
            tail = builder.lshr(tail, filled)
            vector = builder.select(is_tail, _everywhere(builder, builder.trunc(own, _I32)), vector)
        digits.append((width, vector))
        start = builder.add(start, builder.mul(eights, _I64(width)))
    return digits


def _integers(builder: Any, bits: int, row: Any, d: Any, chunk: Any, last: bool) -> list[Any]:
    """Return a chunk's integers as eight vectors: in lane l of the first, coordinate 8 l; of the second, 8 l + 1."""
    if bits == 8:
        words = _load(builder, builder.gep(row, [builder.mul(chunk, _I64(CHUNK))]), ir.VectorType(_I32, 2 * LANES))
        halves = [builder.shuffle_vector(words, words, _places(list(range(odd, 2 * LANES, 2)))) for odd in (0, 1)]
        return [builder.and_(builder.lshr(halves[at // 4], _splat(8 * (at % 4))), _splat(255)) for at in range(EIGHT)]
    digits = _digits(builder, bits, row, d, chunk, last)
    found = []
    for at in range(EIGHT):
        number, up = _splat(0), 0
        for width, vector in digits:
            digit = builder.and_(builder.lshr(vector, _splat(width * at)), _splat(2**width - 1))
            number = builder.or_(number, builder.shl(digit, _splat(up)))
            up += width
        found.append(number)
    return found


def _bits(builder: Any, row: Any, chunk: Any) -> list[Any]:
    """Return a chunk's integers of one bit, as eight vectors of floats that hold sixteen neighbours each."""
    ones, found = ir.Constant(_FLOATS, [1.0] * LANES), []
    for at in range(EIGHT):
        place = builder.add(builder.mul(chunk, _I64(LANES)), _I64(2 * at))
        marks = builder.bitcast(_load(builder, builder.gep(row, [place]), _I16), ir.VectorType(ir.IntType(1), LANES))
        found.append(builder.select(marks, ones, _ZEROS))
    return found


def _emit_row(
    _: Any, packed: Any, row: Any, bits: Any, d: Any, weights: Any, table: Any, blocks: Any, sums: Any
) -> Any:
    """Emit the sums of one row, as `packing.row_sums` says; the length of `bits` is the number of bits."""
    width, count = bits.count, (1, 2, 2, 3)[weights.count - 1]
    entries = 0 if isinstance(table, types.NoneType) else max(1, 2**width // LANES)
    scaled = not isinstance(blocks, types.NoneType)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base, shape = _array(context, builder, packed, values[0])
        at = builder.gep(base, [builder.mul(values[1], shape[1])])
        factors = [
            _array(context, builder, weights.dtype, builder.extract_value(values[4], i)) for i in range(weights.count)
        ]
        start = _array(context, builder, table, values[5])[0] if entries else None
        # Several running sums of each, so that one addition need not wait for the one before.
        running = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(4)] for _ in range(count)]
        for place in (place for places in running for place in places):
            builder.store(_ZEROS, place)

        def scales(chunk: Any) -> Any:
            own, first, lane = (
                _array(context, builder, blocks.types[i], builder.extract_value(values[6], i)) for i in range(3)
            )
            number = _load(builder, builder.gep(first[0], [builder.mul(chunk, _I64(8))]), _I64)
            number = builder.add(number, builder.mul(values[1], own[1][1]))
            near = builder.gep(own[0], [builder.mul(number, _I64(4))])
            lanes = _load(builder, builder.gep(lane[0], [builder.mul(chunk, _I64(4 * LANES))]), _INTS)
            return _look_up(context, builder, near, 1, lanes)

        def add(chunk: Any, last: bool) -> None:
            if width == 1:
                found = _bits(builder, at, chunk)
            else:
                numbers = _integers(builder, width, at, values[3], chunk, last)
                found = [
                    _look_up(context, builder, start, entries, n) if entries else builder.uitofp(n, _FLOATS)
                    for n in numbers
                ]
            if scaled:
                times = scales(chunk)
                found = [builder.fmul(value, times) for value in found]
            for part, value in enumerate(found):
                number = builder.add(builder.mul(chunk, _I64(EIGHT)), _I64(part))
                mine = [_load(builder, _vector(builder, factor, number), _FLOATS) for factor, _ in factors]
                terms = [builder.fmul(factor, value, flags=_FAST) for factor in mine]
                if len(mine) > 1:
                    root = builder.fadd(terms[1], mine[2], flags=_FAST) if len(mine) > 2 else terms[1]
                    terms[1:] = [builder.fmul(root, root, flags=_FAST), *terms[3:]]
                for term, places in zip(terms, running, strict=True):
                    place = places[part % len(places)]
                    builder.store(builder.fadd(builder.load(place), term, flags=_FAST), place)

        _each_chunk(builder, width, factors[0][1][0], add)
        out = builder.bitcast(_array(context, builder, sums, values[7])[0], _F32.as_pointer())
        for i, places in enumerate(running):
            vector = builder.load(places[0])
            for place in places[1:]:
                vector = builder.fadd(vector, builder.load(place))
            number = builder.add(builder.mul(values[1], _I64(count)), _I64(i))
            builder.store(_total(builder, vector), builder.gep(out, [number]))
        return context.get_dummy_value()

    return types.void(packed, types.int64, bits, types.int64, weights, table, blocks, sums), emit


def _emit_unpack(_: Any, packed: Any, row: Any, bits: Any, d: Any, integers: Any) -> Any:
    """Emit the unpacking of one row of fewer than eight bits into integers, a flat array."""
    width = bits.count

    def spread(builder: Any, digits: Any, width: int) -> Any:
        """Move the eight digits of each lane to the eight bytes of a wider one."""
        found = builder.zext(digits, _LONGS)
        for step in (4, 2, 1):
            mask = sum((2 ** (width * step) - 1) << (8 * step * i) for i in range(8 // step))
            shift = (8 - width) * step
            found = builder.and_(builder.or_(found, builder.shl(found, _splat(shift, _LONGS))), _splat(mask, _LONGS))
        return found

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base, shape = _array(context, builder, packed, values[0])
        at = builder.gep(base, [builder.mul(values[1], shape[1])])
        into = builder.gep(_array(context, builder, integers, values[4])[0], [builder.mul(values[1], values[3])])

        def write(chunk: Any, last: bool) -> None:
            number, up = _splat(0, _LONGS), 0
            for digit, vector in _digits(builder, width, at, values[3], chunk, last):
                eight = builder.shl(spread(builder, vector, digit), _splat(up, _LONGS))
                number, up = builder.or_(number, eight), up + digit
            address = builder.gep(into, [builder.mul(chunk, _I64(CHUNK))])
            builder.store(number, builder.bitcast(address, _LONGS.as_pointer()), align=1)

        _each_chunk(builder, width, builder.udiv(builder.add(values[3], _I64(CHUNK - 1)), _I64(CHUNK)), write)
        return context.get_dummy_value()

    return types.void(packed, types.int64, bits, types.int64, integers), emit


def _emit_look_up(_: Any, integers: Any, first: Any, table: Any, bits: Any, values: Any) -> Any:
    """Emit sixteen look-ups: values[first:] = table[integers[first:]], both flat; the table has 2^bits entries."""
    vectors = max(1, 2**bits.count // LANES)

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from_, start, into = (
            _array(context, builder, kind, given[i])[0] for i, kind in ((0, integers), (2, table), (4, values))
        )
        index = _load(builder, builder.gep(from_, [given[1]]), ir.VectorType(_I8, LANES))
        found = _look_up(context, builder, start, vectors, builder.zext(index, _INTS))
        address = builder.gep(into, [builder.mul(given[1], _I64(4))])
        builder.store(found, builder.bitcast(address, _FLOATS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(integers, types.int64, table, bits, values), emit


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return sixteen vectors of which the first holds the first lane of each of the sixteen given, and so on."""
    for width in (1, 2, 4, 8):
        near = [i if not i & width else LANES + (i ^ width) for i in range(LANES)]
        far = [i | width if not i & width else LANES + i for i in range(LANES)]
        moved = list(rows)
        for i in (i for i in range(LANES) if not i & width):
            moved[i] = builder.shuffle_vector(rows[i], rows[i | width], _places(near))
            moved[i | width] = builder.shuffle_vector(rows[i], rows[i | width], _places(far))
        rows = moved
    return rows


def _emit_fields(_: Any, fields: Any, first: Any, width: Any, tables: Any, sixteens: Any, sums: Any) -> Any:
    """Emit the sums of sixteen rows, as `packing.field_sums` says.

    The lengths of `width` and `sixteens` say how many bits a field has and how many vectors its table.
    """
    vectors, per_word = sixteens.count, 32 // width.count

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base, (_, nbytes) = _array(context, builder, fields, values[0])
        arrays = [
            _array(context, builder, tables.dtype, builder.extract_value(values[3], i)) for i in range(tables.count)
        ]
        out, (_, n) = _array(context, builder, sums, values[5])
        at = builder.gep(base, [builder.mul(values[1], nbytes)])
        words = builder.udiv(arrays[0][1][0], _I64(per_word))
        across = cgutils.alloca_once(builder, _INTS, size=LANES)
        running = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(2)] for _ in arrays]
        for place in (place for places in running for place in places):
            builder.store(_ZEROS, place)
        ahead = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32]), "llvm.prefetch.p0"
        )
        with cgutils.for_range_slice(builder, _I64(0), words, _I64(LANES), _I64) as (word, _):
            offset = builder.mul(word, _I64(4))
            rows = [
                _load(builder, builder.gep(at, [builder.add(builder.mul(nbytes, _I64(i)), offset)]), _INTS)
                for i in range(LANES)
            ]
            for i, vector in enumerate(_transposed(builder, rows)):
                builder.store(vector, builder.gep(across, [_I64(i)]))
            for i in range(LANES):  # processors do not foresee sixteen streams
                line = builder.add(builder.mul(offset, _I64(LANES)), _I64(AHEAD + 64 * i))
                builder.call(ahead, [builder.gep(at, [line]), _I32(0), _I32(3), _I32(1)])
            left = builder.sub(words, word)
            many = builder.select(builder.icmp_unsigned("<", left, _I64(LANES)), left, _I64(LANES))
            with cgutils.for_range(builder, many) as loop:
                vector = builder.load(builder.gep(across, [loop.index]))
                place = builder.mul(builder.add(word, loop.index), _I64(per_word * vectors))
                for part in range(per_word):
                    field = builder.lshr(vector, _splat(width.count * part))
                    for (table, _), places in zip(arrays, running, strict=True):
                        number = builder.add(place, _I64(part * vectors))
                        near = _vector(builder, table, number)
                        total = places[part % 2]
                        builder.store(
                            builder.fadd(builder.load(total), _look_up(context, builder, near, vectors, field)), total
                        )
        for i, places in enumerate(running):
            found = builder.fadd(*(builder.load(place) for place in places))
            number = builder.add(builder.mul(n, _I64(i)), values[1])
            address = builder.gep(builder.bitcast(out, _F32.as_pointer()), [number])
            builder.store(found, builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(fields, types.int64, width, tables, sixteens, sums), emit


_row: Any = intrinsic(_emit_row)
_unpack: Any = intrinsic(_emit_unpack)
_sixteen_looked_up: Any = intrinsic(_emit_look_up)
_sixteen_rows: Any = intrinsic(_emit_fields)


def _emit_float(_: Any, pattern: Any) -> Any:
    """Emit nothing: the bits of an int32 are those of a float32."""
    return types.float32(types.int32), lambda context, builder, signature, values: builder.bitcast(values[0], _F32)


_float: Any = intrinsic(_emit_float)


@njit(cache=True, nogil=True)
def scan_rows(packed, bits, d, weights, table, blocks, sums):  # type: ignore[no-untyped-def]
    """Write `packing.row_sums` of rows (n, bytes) into sums (n, 1 to 3)."""
    for row in range(len(sums)):
        _row(packed, row, bits, d, weights, table, blocks, sums)


@njit(cache=True, nogil=True)
def scan_fields(fields, width, tables, sixteens, sums):  # type: ignore[no-untyped-def]
    """Write `packing.field_sums` of rows (n, bytes), n in sixteens, into sums (len(tables), n); tables are apart."""
    for first in range(0, sums.shape[1], 16):
        _sixteen_rows(fields, first, width, tables, sixteens, sums)


@njit(cache=True, nogil=True)
def unpack_rows(packed, n, bits, d, integers):  # type: ignore[no-untyped-def]
    """Write the integers of n rows, one after the other, into a flat array with room for a chunk more."""
    for row in range(n):  # ascending, for what a row writes past its end is the next one's
        _unpack(packed, row, bits, d, integers)


@njit(cache=True, nogil=True)
def look_up_all(integers, table, bits, values):  # type: ignore[no-untyped-def]
    """Write the table's entry of each integer of a flat array."""
    whole = len(integers) // 16 * 16
    for first in range(0, whole, 16):
        _sixteen_looked_up(integers, first, table, bits, values)
    for at in range(whole, len(integers)):
        values[at] = table[integers[at]]


# What a binary16 lacks once its bits stand where a float32 has them is 2^112, be it subnormal or not.
_HALF = np.float32(2.0**112)
_ROOT = np.float32(2.0**56)


@njit(cache=True, nogil=True)
def _moved(code, half):  # type: ignore[no-untyped-def]
    """Return a 16-bit float as a float32: IEEE binary16 (`half`) over 2^112, or the upper half of a float32."""
    if half:
        return _float((np.int32(code) << np.int32(13)) & np.int32(-0x70000001))
    return _float(np.int32(code) << np.int32(16))


@njit(cache=True, nogil=True)
def widen(codes, half, values):  # type: ignore[no-untyped-def]
    """Write the values of 16-bit floats, a flat array of int16, as float32."""
    factor = _HALF if half else np.float32(1)
    for at in range(len(codes)):
        values[at] = _moved(codes[at], half) * factor


@njit(cache=True, nogil=True, fastmath=True)
def scan_halves(codes, half, query, dots, squares):  # type: ignore[no-untyped-def]
    """Write inner products of a query with rows of 16-bit floats (n, d) int16, and squared norms if there is room.

    Half of the factor that a binary16 lacks goes into the query and half into the sum, so that neither overflows.
    """
    n, d = codes.shape
    root = _ROOT if half else np.float32(1)
    moved = query * root
    for row in range(n):
        total = np.float32(0)
        if len(squares):
            square = np.float32(0)
            for j in range(d):
                value = _moved(codes[row, j], half)
                total += moved[j] * value
                square += (value * root * root) * (value * root * root)
            squares[row] = square
        elif half:
            for j in range(d):
                total += moved[j] * _moved(codes[row, j], True)
        else:
            for j in range(d):
                total += moved[j] * _moved(codes[row, j], False)
        dots[row] = total * root
