"""Pack signs into bits and search them: by Hamming distance, or with a query that keeps its real coordinates.

Bit order, the same in every method of this folder: coordinate j is bit j % 8, the least significant first, of byte
j // 8, and the bits past the last coordinate are 0. It is the order of faiss's binary indexes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Searcher
from packbench.methods.binary.signs import block_rows, plain
from packbench.methods.codebook.scan import TableSearcher, packed_starts
from packbench.topk import TopK

SCORERS = ("symmetric", "asymmetric")
cgutils: Any = _cgutils  # which has no types
EIGHT = 8  # items that are compared at once
_WORD = ir.IntType(64)
_WORDS, _FLAGS = ir.VectorType(_WORD, EIGHT), ir.VectorType(ir.IntType(1), EIGHT)
_FLOATS = ir.VectorType(ir.FloatType(), EIGHT)
QueryMap = Callable[[Array], Array]  # (n_queries, d) to the real coordinates (n_queries, bits) whose signs are the code


def code_bytes(bits: int) -> int:
    """Return the bytes that so many bits occupy."""
    return -(-bits // 8)


def whole_bytes(budget: Budget, shared_per_bit: float, fixed: float = 0.0) -> int:
    """Return the most bits, in whole bytes and at least 8, that a budget holds if each also costs shared bytes."""
    per_byte = 1 + 8 * shared_per_bit / budget.n
    return 8 * max(1, int((budget.bytes_per_item - fixed / budget.n) / per_byte + 1e-9))


def pack_signs(values: Array) -> Array:
    """Pack [value > 0] of (n, bits) numbers into (n, ceil(bits / 8)) uint8."""
    return np.packbits(values > 0, axis=1, bitorder="little")


def unpack_signs(codes: Array, bits: int) -> Array:
    """Return the codes as (n, bits) float32 of -1 and +1."""
    return np.unpackbits(codes, axis=1, count=bits, bitorder="little") * np.float32(2) - np.float32(1)


def open_bits(codes: Array, scorer: str, map_queries: QueryMap) -> Searcher:
    """Make packed codes searchable with the symmetric or the asymmetric scorer."""
    kind = HammingSearcher if scorer == "symmetric" else AsymmetricSearcher
    return kind(codes, map_queries)


def check_scorer(scorer: str) -> None:
    """Refuse a scorer that there is not."""
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r}: expected one of {', '.join(SCORERS)}")


class HammingSearcher:
    """Rank by bits - 2 * Hamming distance between the codes of query and item; equal scores go to the lower id."""

    kernel = "numba popcount"

    def __init__(self, codes: Array, map_queries: QueryMap) -> None:
        self._codes, self._map = codes, map_queries

    def search(self, queries: Items, k: int) -> Hits:
        mapped = _mapped(queries, self._map, self._codes.shape[1])
        kept = TopK(len(mapped), k)
        for part in blocks(len(self._codes), block_rows(len(mapped))):
            kept.add(sign_agreements(self._codes[part], mapped), part.start)
        return kept.hits()


class AsymmetricSearcher(TableSearcher):
    """Rank by the sum of q_j * (2 b_j - 1), the query in real coordinates; equal scores go to the lower id.

    Four bits are one look-up among the sixteen sums that their signs can give.
    """

    kernel = "numba look-up, 4 x 1 bit"

    def __init__(self, codes: Array, map_queries: QueryMap) -> None:
        width = codes.shape[1]
        corners = unpack_signs(np.arange(16, dtype=np.uint8)[:, None], 4).T

        def tables(queries: Array) -> Array:
            q = _mapped(queries, map_queries, width)
            # The bits past the last coordinate meet zeros.
            fours = np.pad(q, ((0, 0), (0, 8 * width - q.shape[1]))).reshape(len(q), 2 * width, 4)
            return np.asarray(fours @ corners)

        super().__init__(codes, packed_starts(2 * width, 4), tables)


def _mapped(queries: Items, map_queries: QueryMap, width: int) -> Array:
    """Map queries to (n_queries, bits), refusing those of another dimension than the items."""
    q = map_queries(as_vectors(queries, "queries"))
    if code_bytes(q.shape[1]) != width:
        raise BadInput(f"queries: {q.shape[1]} coordinates do not match the {8 * width} bits stored for each item")
    return q


def sign_agreements(packed: Array, values: Array) -> Array:
    """Return bits less twice those that differ, (q, n) float32, of packed rows and the signs of values (q, bits)."""
    n = len(packed)
    found = np.empty((len(values), max(n, EIGHT)), np.float32)
    if n and len(values):
        rows = packed if n >= EIGHT else np.pad(packed, ((0, EIGHT - n), (0, 0)))
        _compare(plain(rows), pack_signs(values), values.shape[1], found)
    return found[:, :n]


def _emit_compare(_: Any, packed: Any, row: Any, signs: Any, query: Any, bits: Any, found: Any) -> Any:
    """Write found[query, row : row + 8], from words of 64 bits, of which the last may be a part, and bytes behind."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(signature.args[i])(context, builder, values[i]) for i in (0, 2, 5)]
        codes, asked, target = (builder.bitcast(array.data, ir.IntType(8).as_pointer()) for array in arrays)
        strides = [cgutils.unpack_tuple(builder, array.strides, 2)[0] for array in arrays]
        width = cgutils.unpack_tuple(builder, arrays[0].shape, 2)[1]
        words = builder.lshr(width, _WORD(3))
        rows = [builder.gep(codes, [builder.mul(builder.add(values[1], _WORD(i)), strides[0])]) for i in range(EIGHT)]
        asked = builder.gep(asked, [builder.mul(values[3], strides[1])])
        counts = [cgutils.alloca_once_value(builder, ir.Constant(_WORDS, None)) for _ in range(EIGHT)]
        load = _function(
            builder, "llvm.masked.load.v8i64.p0", _WORDS, _WORDS.as_pointer(), ir.IntType(32), _FLAGS, _WORDS
        )

        def count(at: Any, kind: Any, name: str, read: Callable[[Any], Any]) -> None:
            """Add to the counts the bits in which eight items differ from the query from a byte on."""
            query = read(builder.bitcast(builder.gep(asked, [at]), kind.as_pointer()))
            for row, total in zip(rows, counts, strict=True):
                code = read(builder.bitcast(builder.gep(row, [at]), kind.as_pointer()))
                differing = builder.call(
                    _function(builder, f"llvm.ctpop.{name}", kind, kind), [builder.xor(code, query)]
                )
                if kind != _WORDS:
                    first = builder.zext(differing, _WORD)
                    differing = builder.insert_element(ir.Constant(_WORDS, None), first, ir.IntType(32)(0))
                builder.store(builder.add(builder.load(total), differing), total)

        with cgutils.for_range_slice(builder, _WORD(0), words, _WORD(EIGHT), _WORD) as (word, _step):
            left = _everywhere(builder, builder.sub(words, word))
            flags = builder.icmp_unsigned("<", ir.Constant(_WORDS, list(range(EIGHT))), left)
            given = (ir.IntType(32)(1), flags, ir.Constant(_WORDS, None))
            # Words past the end of a row are not read.
            count(builder.shl(word, _WORD(3)), _WORDS, "v8i64", lambda at: builder.call(load, [at, *given]))
        with cgutils.for_range_slice(builder, builder.shl(words, _WORD(3)), width, _WORD(1), _WORD) as (byte, _step):
            count(byte, ir.IntType(8), "i8", lambda at: builder.load(at, align=1))
        sums = [builder.load(total) for total in counts]
        while len(sums) > 1:  # halve the number of vectors, and of parts that each of their sums is in
            size = EIGHT // len(sums)
            first = [
                i + 8 * j for start in range(0, EIGHT, 2 * size) for j in (0, 1) for i in range(start, start + size)
            ]
            second = [i + size for i in first]
            sums = [
                builder.add(builder.shuffle_vector(a, b, _places(first)), builder.shuffle_vector(a, b, _places(second)))
                for a, b in zip(sums[::2], sums[1::2], strict=True)
            ]
        scores = builder.sub(_everywhere(builder, values[4]), builder.add(sums[0], sums[0]))
        floats = builder.sitofp(builder.trunc(scores, ir.VectorType(ir.IntType(32), EIGHT)), _FLOATS)
        at = builder.add(builder.mul(values[3], strides[2]), builder.shl(values[1], _WORD(2)))
        builder.store(floats, builder.bitcast(builder.gep(target, [at]), _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(packed, types.int64, signs, types.int64, types.int64, found), emit


def _everywhere(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, _places([0] * EIGHT))


def _function(builder: Any, name: str, returned: Any, *taken: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(returned, taken), name)


def _places(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), EIGHT), places)


_compare_eight: Any = intrinsic(_emit_compare)


@njit(cache=True, nogil=True)
def _compare(packed, signs, bits, found):  # type: ignore[no-untyped-def]
    n = len(packed)
    for first in range(0, n, 512):  # a block of codes stays in cache while every query passes over it
        for query in range(len(signs)):
            for row in range(first, min(n, first + 512), EIGHT):
                _compare_eight(packed, min(row, n - EIGHT), signs, query, bits, found)  # the last overlap
