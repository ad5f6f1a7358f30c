"""Scan codes by look-up tables: upper bounds from tables of bytes for all, float sums for what may be among the best.

A score is the sum of one table entry for each window of eight bits of the code. Tables rounded to bytes, by a step that
they share, fit into registers, where processors that permute bytes look up 64 codes at a time; their sums, and the most
that rounding can have taken away, bound scores from above. Where a bound does not pass the k-th best score so far, the
item is none of the best; else its float entries are added up, always in the order of the windows. So ids and scores are
those of a float scan, and equal codes get equal scores, which go to the lower id.

André, Kermarrec, Le Scouarnec, "Cache Locality is Not Enough: High-Performance Nearest Neighbor Search with Product
Quantization Fast Scan", 2015; in wide registers: the same authors, "Quicker ADC: Unlocking the Hidden Potential of
Product Quantization with SIMD", 2019.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits
from packbench.topk import TopK

ENTRIES = 256
LANES = 256  # rows of a tile, looked up side by side
QUERIES = 16  # that pass over a block together
SCORES = 1 << 16  # of a block, in all: they stay in cache
GROWTH = 4  # of blocks: few of the first, of which all pass, and few calls
TABLE_BYTES = 4 << 20  # of look-up tables of queries that are searched together

QueryMap = Callable[[Array], Array]
cgutils: Any = untyped_cgutils


class TableSearcher:
    """Search codes (n, nbytes) uint8 whose score is the sum of tables[t, w] over windows w of eight bits.

    A window begins at bit `starts[t]` of its code, counted from the lowest of the first byte on; `tables` maps queries
    to (n_queries, windows, 256) float32, and what it holds must not depend on bits past the end of a code. Codes are
    kept byte by byte in tiles of 256 items, at most 255 more than there are.
    """

    kernel = "numba look-up, bounds in bytes"

    def __init__(self, codes: Array, starts: Array, tables: QueryMap) -> None:
        self._n, nbytes = codes.shape
        self._tables = tables
        self._tiles = np.zeros((-(-self._n // LANES), nbytes, LANES), np.uint8)
        for tile, part in enumerate(blocks(self._n, LANES)):
            self._tiles[tile, :, : part.stop - part.start] = codes[part].T
        self._places, self._shifts = places_of(starts, nbytes)

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        together = max(1, min(QUERIES, TABLE_BYTES // (4 * ENTRIES * len(self._shifts))))
        kept = [self._best(q[part], k).hits() for part in blocks(len(q), together)] or [TopK(0, k).hits()]
        return Hits(np.concatenate([hits.ids for hits in kept]), np.concatenate([hits.scores for hits in kept]))

    def _best(self, queries: Array, k: int) -> TopK:
        kept, floors = TopK(len(queries), k), np.full(len(queries), -np.inf, np.float32)
        tables = np.ascontiguousarray(self._tables(queries), np.float32)
        rounded, steps, highest = np.empty(tables.shape, np.uint8), np.empty(len(tables)), np.empty(len(tables))
        _round(tables, rounded, steps, highest)
        add = _add_windows if self._shifts.any() else _add_bytes
        most = max(1, SCORES // (LANES * len(tables)))
        room = len(tables) * LANES * min(most, len(self._tiles))
        bounds, scores = np.empty(room, np.uint16), np.empty(room, np.float32)
        first, last = 0, 1
        while k and first < len(self._tiles):
            tiles = self._tiles[first:last]
            shape = len(tables), min(self._n - LANES * first, LANES * len(tiles))
            sums = bounds[: len(tables) * LANES * len(tiles)].reshape(len(tables), -1)
            add(tiles, self._places, self._shifts, rounded, sums)
            exact = scores[: shape[0] * shape[1]].reshape(shape)
            _score(tiles, self._places, self._shifts, tables, sums, steps, highest, floors, exact)
            kept.add(exact, LANES * first)
            floors = kept.hits().scores[:, -1]
            first, last = last, last + min((GROWTH - 1) * last, most)
        return kept


def places_of(starts: Array, nbytes: int) -> tuple[Array, Array]:
    """Return the two bytes (2, windows) that windows lie across, the last byte next to itself, and their shifts."""
    low = np.asarray(starts, np.int64) // 8
    return np.stack([low, np.minimum(low + 1, nbytes - 1)]), (np.asarray(starts) % 8).astype(np.uint8)


def packed_tables(tables: Array, bits: int) -> Array:
    """Return tables (n_queries, windows, 256) of packed indices, from tables (n_queries, m, 2^bits), bits at most 8.

    A window holds as many whole indices as it can; see `packed_starts`.
    """
    n_queries, m, ksub = tables.shape
    each = 8 // bits
    whole = np.zeros((n_queries, -(-m // each) * each, ksub), np.float32)
    whole[:, :m] = tables
    # The first index of a window is the lowest in it; the bits above the last one are not its own.
    found = np.zeros((n_queries, whole.shape[1] // each, ENTRIES >> (each * bits), *[ksub] * each), np.float32)
    for place in range(each):
        shape = [n_queries, found.shape[1], *[1] * (each + 1)]
        shape[2 + each - place] = ksub
        found += whole[:, place::each].reshape(shape)
    return found.reshape(n_queries, -1, ENTRIES)


def packed_starts(m: int, bits: int) -> Array:
    """Return the bits at which the windows over m packed indices begin."""
    each = 8 // bits
    return np.arange(-(-m // each)) * each * bits


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _round(tables, rounded, steps, highest):  # type: ignore[no-untyped-def]
    """Round tables (q, windows, 256) to bytes: no score exceeds highest[row] + steps[row] * its sum of bytes."""
    windows = tables.shape[1]
    lows = np.empty(windows, np.float32)
    for row in range(len(tables)):
        widest, total, largest = 0.0, 0.0, 0.0
        for t in range(windows):
            table = tables[row, t]
            low, high = table[0], table[0]
            for entry in range(ENTRIES):
                low, high = min(low, table[entry]), max(high, table[entry])
            lows[t] = low
            widest = max(widest, high - np.float64(low))
            total += high - np.float64(low)
            largest += max(abs(low), abs(high))
        # Sums of bytes must fit into 16 bits.
        step = np.float32(max(widest / 255, total / (65535 - windows)))
        step = step if step > 0 else np.float32(1)
        # A bound has to allow for the rounding of float32 sums too: of scores, and of what is left over here.
        steps[row], highest[row] = step, largest * (windows + 4) * 2.0**-23
        for t in range(windows):
            table, line, low = tables[row, t], rounded[row, t], lows[t]
            above = np.float32(-np.inf)
            for entry in range(ENTRIES):
                level = np.uint8((table[entry] - low) * (np.float32(1) / step) + np.float32(0.5))
                line[entry] = level
                above = max(above, table[entry] - np.float32(level) * step)
            highest[row] += above


BYTE, SHORT, INT, LONG = (ir.IntType(width) for width in (8, 16, 32, 64))
WIDE = 64  # bytes of a register
BYTES, SHORTS = ir.VectorType(BYTE, WIDE), ir.VectorType(SHORT, WIDE // 2)


def _splat(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(order)), order))


def _permuted(builder: Any, table: Any, index: Any) -> Any:
    """Emit the look-up of 64 indices below 64 in a register; compilers know these for one permutation of bytes."""
    found = ir.Constant(BYTES, ir.Undefined)
    for lane in range(WIDE):
        entry = builder.extract_element(table, builder.extract_element(index, INT(lane)))
        found = builder.insert_element(found, entry, INT(lane))
    return found


def _address(context: Any, builder: Any, kind: Any, array: Any, *index: Any) -> Any:
    """Return the address of an element of an array, as of bytes."""
    view = context.make_array(kind)(context, builder, value=array)
    address = builder.bitcast(view.data, BYTE.as_pointer())
    for at, stride in zip(index, cgutils.unpack_tuple(builder, view.strides, kind.ndim), strict=True):
        address = builder.gep(address, [builder.mul(at, stride)])
    return address


def _loaded(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    address = builder.gep(address, [LONG(offset)])
    return builder.load(builder.bitcast(address, kind.as_pointer()), align=1)


def _emit_sums(shifted: bool) -> Any:
    """Return what emits the sums of a tile's rounded entries: sums[row] of tile `at` from tables[row]."""

    def typed(
        typing_context: Any, tiles: Any, at: Any, places: Any, shifts: Any, tables: Any, row: Any, sums: Any
    ) -> Any:
        signature = types.void(tiles, types.int64, places, shifts, tables, types.int64, sums)

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            tiles, at, places, shifts, tables, row, sums = values
            kinds = signature.args
            view = context.make_array(kinds[3])(context, builder, value=shifts)
            windows = cgutils.unpack_tuple(builder, view.shape, 1)[0]
            target = _address(context, builder, kinds[6], sums, row, builder.mul(at, LONG(LANES)))

            def window(t: Any) -> tuple[Any, Any, Any, Any]:
                """Return the addresses of a window's lower and upper bytes and of its table, and its shift."""
                lanes = [
                    _address(
                        context, builder, kinds[0], tiles, at,
                        _loaded(builder, _address(context, builder, kinds[2], places, LONG(part), t), LONG), LONG(0),
                    )
                    for part in (0, 1)
                ]  # fmt: skip
                shift = _loaded(builder, _address(context, builder, kinds[3], shifts, t), BYTE)
                return *lanes, _address(context, builder, kinds[4], tables, row, t, LONG(0)), shift

            emit_lanes = _in_registers if _permutes(context) else _one_by_one
            emit_lanes(builder, windows, window, target, shifted)
            return context.get_dummy_value()

        return signature, emit

    return typed


def _permutes(context: Any) -> bool:
    """Return whether the processor that is compiled for permutes the bytes of a register."""
    return "+avx512vbmi," in context.codegen().magic_tuple()[2] + ","


def _in_registers(builder: Any, windows: Any, window: Any, target: Any, shifted: bool) -> None:
    # Sums of even and odd lanes: of both together, and of the odd ones, from which the even ones follow.
    both, odd = (
        [cgutils.alloca_once_value(builder, _splat(SHORTS, 0)) for _ in range(0, LANES, WIDE)] for _ in range(2)
    )
    for total in both + odd:
        builder.store(_splat(SHORTS, 0), total)
    with cgutils.for_range(builder, windows, intp=LONG) as loop:
        low, high, table, shift = window(loop.index)
        quarters = [_loaded(builder, table, BYTES, WIDE * part) for part in range(ENTRIES // WIDE)]
        if shifted:
            down, up = (
                _shuffled(builder, vector, vector, [0] * WIDE)
                for amount in (shift, builder.sub(BYTE(7), shift))
                for vector in [builder.insert_element(ir.Constant(BYTES, ir.Undefined), amount, INT(0))]
            )
        for group, (all_lanes, odd_lanes) in enumerate(zip(both, odd, strict=True)):
            index = _loaded(builder, low, BYTES, WIDE * group)
            if shifted:
                after = builder.shl(_loaded(builder, high, BYTES, WIDE * group), _splat(BYTES, 1))
                index = builder.or_(builder.lshr(index, down), builder.shl(after, up))
            within = builder.and_(index, _splat(BYTES, WIDE - 1))
            a, b, c, d = (_permuted(builder, quarter, within) for quarter in quarters)
            second = builder.icmp_unsigned("!=", builder.and_(index, _splat(BYTES, WIDE)), _splat(BYTES, 0))
            upper = builder.icmp_signed("<", index, _splat(BYTES, 0))
            entry = builder.select(upper, builder.select(second, d, c), builder.select(second, b, a))
            pair = builder.bitcast(entry, SHORTS)
            builder.store(builder.add(builder.load(all_lanes), pair), all_lanes)
            top = builder.lshr(pair, _splat(SHORTS, 8))
            builder.store(builder.add(builder.load(odd_lanes), top), odd_lanes)
    for group, (all_lanes, odd_lanes) in enumerate(zip(both, odd, strict=True)):
        second = builder.load(odd_lanes)
        first = builder.sub(builder.load(all_lanes), builder.shl(second, _splat(SHORTS, 8)))
        order = [lane // 2 + WIDE // 2 * (lane % 2) for lane in range(WIDE)]
        sums = _shuffled(builder, first, second, order)
        address = builder.gep(target, [LONG(2 * WIDE * group)])
        builder.store(sums, builder.bitcast(address, sums.type.as_pointer()), align=2)


def _one_by_one(builder: Any, windows: Any, window: Any, target: Any, shifted: bool) -> None:
    totals = builder.bitcast(target, SHORT.as_pointer())
    with cgutils.for_range(builder, LONG(LANES), intp=LONG) as loop:
        builder.store(SHORT(0), builder.gep(totals, [loop.index]))
    with cgutils.for_range(builder, windows, intp=LONG) as outer:
        low, high, table, shift = window(outer.index)
        with cgutils.for_range(builder, LONG(LANES), intp=LONG) as loop:
            index = builder.load(builder.gep(low, [loop.index]))
            if shifted:
                after = builder.shl(builder.load(builder.gep(high, [loop.index])), BYTE(1))
                index = builder.or_(builder.lshr(index, shift), builder.shl(after, builder.sub(BYTE(7), shift)))
            entry = builder.load(builder.gep(table, [builder.zext(index, LONG)]))
            total = builder.gep(totals, [loop.index])
            builder.store(builder.add(builder.load(total), builder.zext(entry, SHORT)), total)


_sum_bytes: Any = intrinsic(_emit_sums(shifted=False))
_sum_windows: Any = intrinsic(_emit_sums(shifted=True))


@njit(cache=True, nogil=True)
def _add_bytes(tiles, places, shifts, tables, sums):  # type: ignore[no-untyped-def]
    """Write sums (q, rows of the tiles) uint16 of the rounded entries, where every window is a byte."""
    for tile in range(len(tiles)):
        for row in range(len(tables)):
            _sum_bytes(tiles, tile, places, shifts, tables, row, sums)


@njit(cache=True, nogil=True)
def _add_windows(tiles, places, shifts, tables, sums):  # type: ignore[no-untyped-def]
    """Write sums (q, rows of the tiles) uint16 of the rounded entries, where windows lie across two bytes."""
    for tile in range(len(tiles)):
        for row in range(len(tables)):
            _sum_windows(tiles, tile, places, shifts, tables, row, sums)


@njit(cache=True, nogil=True)
def _window(tile, lane, places, shifts, t):  # type: ignore[no-untyped-def]
    low, high = np.uint32(tile[places[0, t], lane]), np.uint32(tile[places[1, t], lane])
    return ((low | high << np.uint32(8)) >> np.uint32(shifts[t])) & np.uint32(255)


@njit(cache=True, nogil=True)
def _score(tiles, places, shifts, tables, sums, steps, highest, floors, scores):  # type: ignore[no-untyped-def]
    """Write scores (q, n): float sums where the bound is above the query's floor, and -inf elsewhere."""
    q, n = scores.shape
    for row in range(q):
        line, bounds, table = scores[row], sums[row], tables[row]
        limit = np.int32(min(max(np.floor((floors[row] - highest[row]) / steps[row]), -1.0), 65535.0))
        line[:] = -np.inf
        for start in range(0, n, 64):
            run = bounds[start : min(start + 64, n)]
            passing = np.int32(0)
            for i in range(len(run)):
                passing += np.int32(np.int32(run[i]) > limit)
            if passing == 0:
                continue
            for i in range(len(run)):
                if np.int32(run[i]) > limit:
                    tile, lane = tiles[(start + i) // LANES], (start + i) % LANES
                    # Four sums, so that one look-up need not wait for the addition of the one before.
                    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    whole = len(shifts) // 4 * 4
                    for t in range(0, whole, 4):
                        a += table[t, _window(tile, lane, places, shifts, t)]
                        b += table[t + 1, _window(tile, lane, places, shifts, t + 1)]
                        c += table[t + 2, _window(tile, lane, places, shifts, t + 2)]
                        d += table[t + 3, _window(tile, lane, places, shifts, t + 3)]
                    for t in range(whole, len(shifts)):
                        a += table[t, _window(tile, lane, places, shifts, t)]
                    line[start + i] = (a + b) + (c + d)
