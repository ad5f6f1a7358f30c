"""Scan codes by look-up tables: upper bounds from tables of bytes for all, float sums for what may be among the best.

A score is the sum of one table entry for each window of eight bits of the code, or for each half of a byte. Tables
rounded to bytes, by a step that they share, fit into registers, where processors that permute bytes look up 64 codes at
a time; their sums, and the most that rounding can have taken away, bound scores from above. Where a bound does not pass
the k-th best score so far, the item is none of the best; else its float entries are added up, always in the order of
the windows. So ids and scores are those of a float scan, and equal codes get equal scores, which go to the lower id.

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
from packbench.topk import TopK, top_k

ENTRIES = 256
PAIR = 16  # entries of a table, where two indices of four bits are a byte
LANES = 256  # rows of a tile, looked up side by side
PAIR_LANES = 128  # of one of pairs: beside it their tables, which are small, stay in the first-level cache
WIDE_LANES = 512  # of one of bytes whose tables do not stay there: each is read once for more of them
WIDE_FROM = 64  # bytes of a code
QUERIES = 16  # that pass over a tile together
PASSING = 64  # items of a query, or k if that is more, until its floor is raised; at most as many as
SCORES = 1 << 16  # that are kept until then
RUN = 64  # bounds that are passed over together: nearly always none of them is high enough
TABLE_BYTES = 4 << 20  # of look-up tables of queries that are searched together

QueryMap = Callable[[Array], Array]
cgutils: Any = untyped_cgutils


class TableSearcher:
    """Search codes (n, nbytes) uint8 whose score is the sum of tables[t, w] over windows w of eight bits.

    A window begins at bit `starts[t]` of its code, counted from the lowest of the first byte on; `tables` maps queries
    to (n_queries, windows, 256) float32, and what it holds must not depend on bits past the end of a code. Starts
    (windows, 2) are those of pairs of indices of four bits, each pair a byte, and tables then (n_queries, 2 * windows,
    16). Codes are kept byte by byte in tiles of 256 items (128 of pairs, 512 where many windows are bytes), the last
    of which has room for those that there are not.
    """

    kernel = "numba look-up, bounds in bytes"

    def __init__(self, codes: Array, starts: Array, tables: QueryMap) -> None:
        self._n, nbytes = codes.shape
        self._tables = tables
        self._shape = (starts.size, PAIR if starts.ndim == 2 else ENTRIES)
        self._places, self._shifts = places_of(starts[:, 0] if starts.ndim == 2 else starts, nbytes)
        wide = len(self._shifts) >= WIDE_FROM and not self._shifts.any()
        lanes = PAIR_LANES if starts.ndim == 2 else WIDE_LANES if wide else LANES
        self._tiles = np.zeros((-(-self._n // lanes), nbytes, lanes), np.uint8)
        for tile, part in enumerate(blocks(self._n, lanes)):
            self._tiles[tile, :, : part.stop - part.start] = codes[part].T

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        together = max(1, min(QUERIES, TABLE_BYTES // (4 * ENTRIES * len(self._shifts))))
        kept = [self._best(q[part], k) for part in blocks(len(q), together)] or [TopK(0, k).hits()]
        return Hits(np.concatenate([hits.ids for hits in kept]), np.concatenate([hits.scores for hits in kept]))

    def _best(self, queries: Array, k: int) -> Hits:
        tables = np.ascontiguousarray(self._tables(queries), np.float32)
        # Compiled loops go by their shape, and look at nothing else.
        if tables.shape != (len(queries), *self._shape):
            raise ValueError(f"tables of shape {tables.shape}, expected {(len(queries), *self._shape)}")
        rounded, steps, highest = np.empty(tables.shape, np.uint8), np.empty(len(tables)), np.empty(len(tables))
        _round(tables, rounded, steps, highest)
        most = min(max(k, PASSING), SCORES)
        # The k best so far, then what passes, by ascending id; nothing gets to the last place, which stands for none.
        ids = np.full((len(tables), k + most + self._tiles.shape[2]), -1)
        scores = np.full(ids.shape, -np.inf, np.float32)
        rows, tile = np.arange(len(tables))[:, None], 0
        while k and tile < len(self._tiles):
            tile, width = _scan(
                self._tiles, self._n, tile, self._places, self._shifts, tables, rounded, steps, highest, k, most,
                ids, scores,
            )  # fmt: skip
            best = top_k(scores[:, : k + width], k)
            ids[:, :k], scores[:, :k] = ids[rows, best.ids], best.scores
        return Hits(ids[:, :k], scores[:, :k])


def places_of(starts: Array, nbytes: int) -> tuple[Array, Array]:
    """Return the two bytes (2, windows) that windows lie across, the last byte next to itself, and their shifts."""
    low = np.asarray(starts, np.int64) // 8
    return np.stack([low, np.minimum(low + 1, nbytes - 1)]), (np.asarray(starts) % 8).astype(np.uint8)


def packed_starts(m: int, bits: int) -> Array:
    """Return the bits at which the windows over m packed indices begin, or where bits are four, the pairs of a byte."""
    return np.arange(-(-m // 2) * 2).reshape(-1, 2) * 4 if bits == 4 else whole_starts(m, bits)


def packed_tables(tables: Array, bits: int) -> Array:
    """Return the tables of `packed_starts` from those of m indices (n_queries, m, 2^bits), bits at most 8."""
    return np.pad(tables, ((0, 0), (0, tables.shape[1] % 2), (0, 0))) if bits == 4 else whole_tables(tables, bits)


def whole_starts(m: int, bits: int) -> Array:
    """Return the bits at which windows begin that hold as many whole indices as they can of m packed ones."""
    each = 8 // bits
    return np.arange(-(-m // each)) * each * bits


def whole_tables(tables: Array, bits: int) -> Array:
    """Return tables (n_queries, windows, 256) of `whole_starts` from those of m indices (n_queries, m, 2^bits)."""
    n_queries, m, ksub = tables.shape
    each = 8 // bits
    if ksub == ENTRIES:
        return tables
    whole = np.zeros((n_queries, -(-m // each) * each, ksub), np.float32)
    whole[:, :m] = tables
    # The first index of a window is the lowest in it; the bits above the last one are not its own.
    found = np.zeros((n_queries, whole.shape[1] // each, ENTRIES >> (each * bits), *[ksub] * each), np.float32)
    for place in range(each):
        shape = [n_queries, found.shape[1], *[1] * (each + 1)]
        shape[2 + each - place] = ksub
        found += whole[:, place::each].reshape(shape)
    return found.reshape(n_queries, -1, ENTRIES)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _round(tables, rounded, steps, highest):  # type: ignore[no-untyped-def]
    """Round tables (q, m, entries) to bytes: no score exceeds highest[row] + steps[row] * its sum of bytes."""
    m, entries = tables.shape[1:]
    lows, left, ends = np.empty(m, np.float32), np.empty(entries, np.float32), np.empty(2, np.int32)
    for row in range(len(tables)):
        widest, total, largest = 0.0, 0.0, 0.0
        for t in range(m):
            low, high = _extremes(tables[row, t], ends)
            lows[t] = low
            widest = max(widest, high - np.float64(low))
            total += high - np.float64(low)
            largest += max(abs(low), abs(high))
        # Sums of bytes must fit into 16 bits.
        step = np.float32(max(widest / 255, total / (65535 - m)))
        step = step if step > np.float32(1e-30) else np.float32(1)  # of which the inverse is a number
        # A bound has to allow for the rounding of float32 sums too: of scores, and of what is left over here.
        steps[row], highest[row] = step, largest * (m + 4) * 2.0**-23
        inverse = np.float32(1) / step
        for t in range(m):
            table, line, low = tables[row, t], rounded[row, t], lows[t]
            for entry in range(entries):
                level = np.int32((table[entry] - low) * inverse + np.float32(0.5))
                line[entry] = np.uint8(level)
                left[entry] = table[entry] - np.float32(level) * step
            highest[row] += _extremes(left, ends)[1]


@njit(cache=True, nogil=True)
def _extremes(values, ends):  # type: ignore[no-untyped-def]
    """Return the least and the greatest float32, compared as integers, for only so do compilers vectorise."""
    keys, mask = values.view(np.int32), np.int32(0x7FFFFFFF)
    low, high = mask, np.int32(-0x80000000)
    for i in range(len(keys)):
        key = keys[i] ^ (keys[i] >> np.int32(31) & mask)
        low, high = min(low, key), max(high, key)
    ends[0], ends[1] = low ^ (low >> np.int32(31) & mask), high ^ (high >> np.int32(31) & mask)
    return ends.view(np.float32)[0], ends.view(np.float32)[1]


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


def _emit_sums(lanes: int, shifted: bool = False, paired: bool = False) -> Any:
    """Return what emits the sums of rounded entries, from tables[row], of tile `at` of so many lanes."""

    def typed(
        typing_context: Any, tiles: Any, at: Any, places: Any, shifts: Any, tables: Any, row: Any, sums: Any
    ) -> Any:
        signature = types.void(tiles, types.int64, places, shifts, tables, types.int64, sums)

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            tiles, at, places, shifts, tables, row, sums = values
            kinds = signature.args
            view = context.make_array(kinds[3])(context, builder, value=shifts)
            windows = cgutils.unpack_tuple(builder, view.shape, 1)[0]
            target = _address(context, builder, kinds[6], sums, LONG(0))

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
                first = builder.mul(t, LONG(2 if paired else 1))
                return *lanes, _address(context, builder, kinds[4], tables, row, first, LONG(0)), shift

            emit_lanes = _in_registers if _permutes(context) else _one_by_one
            emit_lanes(builder, windows, window, target, lanes, shifted, paired)
            return context.get_dummy_value()

        return signature, emit

    return typed


def _permutes(context: Any) -> bool:
    """Return whether the processor that is compiled for permutes the bytes of a register."""
    return "+avx512vbmi," in context.codegen().magic_tuple()[2] + ","


def _in_registers(
    builder: Any, windows: Any, window: Any, target: Any, lanes: int, shifted: bool, paired: bool
) -> None:
    # Sums of even and odd lanes: of both together, and of the odd ones, from which the even ones follow.
    both, odd = (
        [cgutils.alloca_once_value(builder, _splat(SHORTS, 0)) for _ in range(0, lanes, WIDE)] for _ in range(2)
    )
    for total in both + odd:
        builder.store(_splat(SHORTS, 0), total)
    with cgutils.for_range(builder, windows, intp=LONG) as loop:
        low, high, table, shift = window(loop.index)
        if paired:
            halves = [_loaded(builder, table, ir.VectorType(BYTE, PAIR), PAIR * part) for part in (0, 1)]
            registers = [_shuffled(builder, half, half, [lane % PAIR for lane in range(WIDE)]) for half in halves]
        else:
            registers = [_loaded(builder, table, BYTES, WIDE * part) for part in range(ENTRIES // WIDE)]
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
            for entry in (_paired if paired else _selected)(builder, registers, index):
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


def _selected(builder: Any, quarters: list[Any], index: Any) -> Any:
    """Emit the look-up of 64 bytes in the four quarters of a table of 256 entries."""
    within = builder.and_(index, _splat(BYTES, WIDE - 1))
    a, b, c, d = (_permuted(builder, quarter, within) for quarter in quarters)
    second = builder.icmp_unsigned("!=", builder.and_(index, _splat(BYTES, WIDE)), _splat(BYTES, 0))
    upper = builder.icmp_signed("<", index, _splat(BYTES, 0))
    return [builder.select(upper, builder.select(second, d, c), builder.select(second, b, a))]


def _paired(builder: Any, tables: list[Any], index: Any) -> Any:
    """Emit the sum of the look-ups of the halves of 64 bytes, each in a table of 16 entries."""
    halves = builder.and_(index, _splat(BYTES, PAIR - 1)), builder.lshr(index, _splat(BYTES, 4))
    return [_permuted(builder, table, half) for table, half in zip(tables, halves, strict=True)]


def _one_by_one(builder: Any, windows: Any, window: Any, target: Any, lanes: int, shifted: bool, paired: bool) -> None:
    totals = builder.bitcast(target, SHORT.as_pointer())
    with cgutils.for_range(builder, LONG(lanes), intp=LONG) as loop:
        builder.store(SHORT(0), builder.gep(totals, [loop.index]))
    with cgutils.for_range(builder, windows, intp=LONG) as outer:
        low, high, table, shift = window(outer.index)
        with cgutils.for_range(builder, LONG(lanes), intp=LONG) as loop:
            index = builder.load(builder.gep(low, [loop.index]))
            if shifted:
                after = builder.shl(builder.load(builder.gep(high, [loop.index])), BYTE(1))
                index = builder.or_(builder.lshr(index, shift), builder.shl(after, builder.sub(BYTE(7), shift)))
            entries = [index]
            if paired:
                entries = [builder.and_(index, BYTE(PAIR - 1)), builder.or_(builder.lshr(index, BYTE(4)), BYTE(PAIR))]
            total = builder.gep(totals, [loop.index])
            for at in entries:
                entry = builder.load(builder.gep(table, [builder.zext(at, LONG)]))
                builder.store(builder.add(builder.load(total), builder.zext(entry, SHORT)), total)


_sum_bytes: Any = intrinsic(_emit_sums(LANES))
_sum_windows: Any = intrinsic(_emit_sums(LANES, shifted=True))
_sum_wide: Any = intrinsic(_emit_sums(WIDE_LANES))
_sum_pairs: Any = intrinsic(_emit_sums(PAIR_LANES, paired=True))


@njit(cache=True, nogil=True)
def _entry(tile, lane, places, shifts, table, t):  # type: ignore[no-untyped-def]
    """Return what window t of a lane of a tile adds to its score."""
    low, high = np.uint32(tile[places[0, t], lane]), np.uint32(tile[places[1, t], lane])
    if table.shape[1] == PAIR:
        return table[2 * t, low & np.uint32(15)] + table[2 * t + 1, low >> np.uint32(4)]
    return table[t, ((low | high << np.uint32(8)) >> np.uint32(shifts[t])) & np.uint32(255)]


@njit(cache=True, nogil=True)
def _score(tile, lane, places, shifts, table):  # type: ignore[no-untyped-def]
    """Return the score of a lane of a tile."""
    # Four sums, so that one look-up need not wait for the addition of the one before.
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    whole = len(shifts) // 4 * 4
    for t in range(0, whole, 4):
        a += _entry(tile, lane, places, shifts, table, t)
        b += _entry(tile, lane, places, shifts, table, t + 1)
        c += _entry(tile, lane, places, shifts, table, t + 2)
        d += _entry(tile, lane, places, shifts, table, t + 3)
    for t in range(whole, len(shifts)):
        a += _entry(tile, lane, places, shifts, table, t)
    return (a + b) + (c + d)


@njit(cache=True, nogil=True)
def _scan(tiles, n, first, places, shifts, tables, rounded, steps, highest, k, most, ids, scores):  # type: ignore[no-untyped-def]
    """Pass over tiles from the first on until `most` items of a query are better than its k-th.

    Ids and scores (q, more than k + most) hold the k best so far; write those better behind them, and -inf behind
    these. Return the next tile, and how many were written for a query at most.
    """
    q, width, lanes = len(tables), 0, tiles.shape[2]
    paired, shifted, tile = tables.shape[2] == PAIR, shifts.any(), first
    limits, counts, sums = np.empty(q, np.int32), np.zeros(q, np.int64), np.empty(lanes, np.uint16)
    for row in range(q):
        bound = np.floor((scores[row, k - 1] - highest[row]) / steps[row])
        limits[row] = min(bound, 65535.0) if bound > -1 else -1.0  # where tables overflow it is no number, and all pass
    scores[:, k:] = -np.inf
    while tile < len(tiles) and width < most:
        begin = tile * lanes
        for row in range(q):
            if paired:
                _sum_pairs(tiles, tile, places, shifts, rounded, row, sums)
            elif shifted:
                _sum_windows(tiles, tile, places, shifts, rounded, row, sums)
            elif lanes == WIDE_LANES:
                _sum_wide(tiles, tile, places, shifts, rounded, row, sums)
            else:
                _sum_bytes(tiles, tile, places, shifts, rounded, row, sums)
            limit, floor, tile_codes, table = limits[row], scores[row, k - 1], tiles[tile], tables[row]
            for start in range(0, min(lanes, n - begin), RUN):
                run = sums[start : min(start + RUN, n - begin)]
                passing = np.int32(0)
                for i in range(len(run)):
                    passing += np.int32(np.int32(run[i]) > limit)
                if passing == 0:
                    continue
                for i in range(len(run)):
                    if np.int32(run[i]) > limit:
                        score = _score(tile_codes, start + i, places, shifts, table)
                        if score > floor:
                            at = k + counts[row]
                            ids[row, at], scores[row, at] = begin + start + i, score
                            counts[row] += 1
            width = max(width, counts[row])
        tile += 1
    return tile, width
