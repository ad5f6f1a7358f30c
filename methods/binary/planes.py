"""Add up queries rounded to a few bits over packed signs: RaBitQ's scan at one bit.

What a rounded query adds up to over the ones of a code is made of popcounts: of the code, and of what it has in common
with each bit plane of the query. These are integers, exact in any order: equal codes have equal scores wherever they
lie. Items are read as they lie, and stay in registers while all planes pass over them.

Gao, Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor
Search", 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from packbench.items import Array
from packbench.methods.binary.signs import plain

cgutils: Any = _cgutils  # which has no types
FACTORS = 8  # bytes behind the signs: two float32
ROWS = 4  # items counted at once, in vectors of as many words
MOST = 4  # vectors of each of them that registers hold
BLOCK = 64  # items that stay in cache while every query passes over them

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WORDS, _FLAGS = ir.VectorType(_I64, ROWS), ir.VectorType(ir.IntType(1), ROWS)
_NONE = ir.Constant(_WORDS, None)


def bit_planes(levels: Array, bits: int) -> Array:
    """Return planes (n_queries, chunks, 1 + bits, words) uint64 of levels (n_queries, d), integers below 2^bits.

    The first plane is ones, the others are the levels' bits, the highest first; past d all are 0.
    """
    n, d = levels.shape
    vectors = -(-d // (64 * ROWS))
    chunks = -(-vectors // MOST)
    words = -(-vectors // chunks) * ROWS
    planes = np.zeros((n, 1 + bits, chunks * words * 64), np.uint8)
    planes[:, 0, :d] = 1
    planes[:, 1:, :d] = levels.astype(np.uint8)[:, None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)[:, None] & 1
    packed = np.packbits(planes, axis=2, bitorder="little").view("<u8").astype(np.uint64)
    return np.ascontiguousarray(packed.reshape(n, 1 + bits, chunks, words).swapaxes(1, 2))


def estimates(codes: Array, planes: Array, terms: Array) -> Array:
    """Return scores (n_queries, n) float32 of codes that are signs and the float32 factors o and m.

    terms (n_queries, 6) float64 are a, b, c, e, f, g of the score min((a · ones + b · sum + c) · m + e · o + f, g),
    where the code has so many ones and the query's levels have that sum over them.
    """
    n, width = len(codes), codes.shape[1] - FACTORS
    found = np.empty((len(planes), max(n, ROWS)), np.float32)
    if n and len(planes):
        rows = plain(codes if n >= ROWS else np.pad(codes, ((0, ROWS - n), (0, 0))))
        _scan(rows, rows[:, width:].view(np.float32), planes, terms, found)
    return found[:, :n]


def _counter(vectors: int) -> Any:
    """Return the function that counts where planes come in chunks of so many vectors."""

    def count(_: Any, codes: Any, begin: Any, end: Any, planes: Any, query: Any, counts: Any) -> Any:
        """Write int64 of items begin to end, at least ROWS: the ones, and in the lower 32 bits the sum of levels."""

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            arrays = [context.make_array(signature.args[i])(context, builder, values[i]) for i in (0, 3, 5)]
            items, asked, target = (builder.bitcast(array.data, ir.IntType(8).as_pointer()) for array in arrays)
            (stride, _), (of_query, of_chunk, of_plane, _), _ = (
                cgutils.unpack_tuple(builder, array.strides) for array in arrays
            )
            width = builder.sub(cgutils.unpack_tuple(builder, arrays[0].shape)[1], _I64(FACTORS))
            # The factors fill up the last word; they meet zeros.
            words = builder.lshr(builder.add(width, _I64(7)), _I64(3))
            _, chunks, n_planes, _ = cgutils.unpack_tuple(builder, arrays[1].shape)
            asked = builder.gep(asked, [builder.mul(values[4], of_query)])
            totals = [cgutils.alloca_once(builder, _WORDS) for _ in range(ROWS)]
            sums = [cgutils.alloca_once(builder, _WORDS) for _ in range(ROWS)]
            with cgutils.for_range_slice(builder, values[1], values[2], _I64(ROWS), _I64) as (start, _step):
                last = builder.sub(values[2], _I64(ROWS))
                row = builder.select(builder.icmp_signed("<", start, last), start, last)  # the last overlap
                rows = [builder.gep(items, [builder.mul(builder.add(row, _I64(i)), stride)]) for i in range(ROWS)]
                for total in totals:
                    builder.store(_NONE, total)
                with cgutils.for_range(builder, chunks) as chunk:
                    parts = _parts(builder, vectors, rows, chunk.index, words)
                    begin = builder.gep(asked, [builder.mul(chunk.index, of_chunk)])
                    ones = _plane(builder, vectors, begin)
                    for part, total, levels in zip(parts, totals, sums, strict=True):
                        upper = builder.shl(_count(builder, part, ones, _NONE), ir.Constant(_WORDS, [32] * ROWS))
                        builder.store(builder.add(builder.load(total), upper), total)
                        builder.store(_NONE, levels)
                    with cgutils.for_range_slice(builder, _I64(1), n_planes, _I64(1), _I64) as (number, _step):
                        plane = _plane(builder, vectors, builder.gep(begin, [builder.mul(number, of_plane)]))
                        for part, levels in zip(parts, sums, strict=True):
                            above = builder.load(levels)
                            builder.store(_count(builder, part, plane, builder.add(above, above)), levels)
                    for total, levels in zip(totals, sums, strict=True):
                        builder.store(builder.add(builder.load(total), builder.load(levels)), total)
                first, second, third, fourth = (builder.load(total) for total in totals)
                low = _folded(builder, first, second, [0, 4, 2, 6], [1, 5, 3, 7])
                high = _folded(builder, third, fourth, [0, 4, 2, 6], [1, 5, 3, 7])
                every = _folded(builder, low, high, [0, 1, 4, 5], [2, 3, 6, 7])
                at = builder.gep(target, [builder.shl(builder.sub(row, values[1]), _I64(3))])
                builder.store(every, builder.bitcast(at, _WORDS.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(codes, types.int64, types.int64, planes, types.int64, counts), emit

    return intrinsic(count)


def _parts(builder: Any, vectors: int, rows: list[Any], chunk: Any, words: Any) -> list[list[Any]]:
    """Load a chunk of each row."""
    name, pointer = f"llvm.masked.load.v{ROWS}i64.p0", _WORDS.as_pointer()
    kind = ir.FunctionType(_WORDS, [pointer, _I32, _FLAGS, _WORDS])
    load = cgutils.get_or_insert_function(builder.module, kind, name)
    firsts = [builder.add(builder.mul(chunk, _I64(vectors * ROWS)), _I64(i * ROWS)) for i in range(vectors)]
    given = []
    for first in firsts:
        left = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), builder.sub(words, first), _I32(0))
        left = builder.shuffle_vector(left, left, _places([0] * ROWS))
        # Words past the last one are not read.
        given.append(builder.icmp_signed("<", ir.Constant(_WORDS, list(range(ROWS))), left))
    parts = []
    for row in rows:
        starts = [builder.bitcast(builder.gep(row, [builder.shl(first, _I64(3))]), pointer) for first in firsts]
        parts.append([builder.call(load, [at, _I32(1), flags, _NONE]) for at, flags in zip(starts, given, strict=True)])
    return parts


def _plane(builder: Any, vectors: int, begin: Any) -> list[Any]:
    """Load a plane of a chunk."""
    start = builder.bitcast(begin, _WORDS.as_pointer())
    return [builder.load(builder.gep(start, [_I64(i)]), align=8) for i in range(vectors)]


def _count(builder: Any, part: list[Any], plane: list[Any], count: Any) -> Any:
    """Add to the count of each word the ones that a chunk of a row and a plane have in common."""
    kind = ir.FunctionType(_WORDS, [_WORDS])
    popcount = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{ROWS}i64")
    for words, mask in zip(part, plane, strict=True):
        count = builder.add(count, builder.call(popcount, [builder.and_(words, mask)]))
    return count


def _folded(builder: Any, one: Any, other: Any, first: list[int], second: list[int]) -> Any:
    """Add words of two vectors to other words of them."""
    return builder.add(*(builder.shuffle_vector(one, other, _places(places)) for places in (first, second)))


def _places(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


_by_one, _by_two, _by_three, _by_four = (_counter(vectors) for vectors in range(1, MOST + 1))


@njit(cache=True, nogil=True)
def _scan(codes, factors, planes, terms, found):  # type: ignore[no-untyped-def]
    """Write found (q, n), n at least ROWS."""
    n, vectors = len(codes), planes.shape[3] // ROWS
    counts = np.empty(BLOCK, np.int64)
    offsets, multipliers = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for first in range(0, n, BLOCK):
        end = min(n, first + BLOCK)
        begin = min(first, end - ROWS)
        for query in range(len(planes)):
            if vectors == 1:
                _by_one(codes, begin, end, planes, query, counts)
            elif vectors == 2:
                _by_two(codes, begin, end, planes, query, counts)
            elif vectors == 3:
                _by_three(codes, begin, end, planes, query, counts)
            else:
                _by_four(codes, begin, end, planes, query, counts)
            if query == 0:  # after the signs, for memory is read ahead best where it is read all along
                for i in range(end - begin):
                    offsets[i], multipliers[i] = factors[begin + i, 0], factors[begin + i, 1]
            one, level, start, add, common, most = terms[query]
            into = found[query, begin:end]
            for i in range(len(into)):
                ones, levels = np.float64(np.int32(counts[i] >> 32)), np.float64(np.int32(counts[i]))
                score = (ones * one + levels * level + start) * multipliers[i] + offsets[i] * add + common
                into[i] = np.float32(most if score > most else score)
