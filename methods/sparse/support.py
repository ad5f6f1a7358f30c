"""Hold each item as k values at k of `width` positions, and search such codes as they are.

An item stands for sum_j values[i, j] * atom[index[i, j]], the atoms being coordinates, or columns of a dictionary. So
its inner product with a query is a sum of k entries of the query's products with all atoms, which `map_queries` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import ndtri

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Hits, Metric, Sample, Searcher
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.lloyd_max import LloydMax
from packbench.methods.scalar.packing import look_up, packed_bytes
from packbench.methods.sparse import scan
from packbench.topk import TopK

QueryMap = Callable[[Array], Array]  # (n_queries, d) to products with the atoms (n_queries, width) float32

ROWS = 1024
SCORES = 1 << 17  # which stay in cache
HALF = float(np.finfo(np.float16).max)
BATCH = 64  # queries that share one pass: a product with an atom is 64 floats in a row


def index_dtype(width: int) -> type[np.unsignedinteger]:
    """Return the smallest unsigned type that numbers `width` positions."""
    return np.uint8 if width <= 1 << 8 else np.uint16 if width <= 1 << 16 else np.uint32


def packed_index_bytes(k: int, width: int) -> int:
    """Return the bytes of k positions as `pack_index` packs them."""
    return -(-_layout(k, width).bits // 8)


def sparse_bytes(k: int, width: int, value_bytes: float, packed: bool = False) -> float:
    """Return the bytes of k positions, packed or in whole bytes each, and of k values."""
    places = packed_index_bytes(k, width) if packed else k * np.dtype(index_dtype(width)).itemsize
    return places + k * value_bytes


def pack_index(index: Array, width: int) -> Array:
    """Pack (n, k) ascending positions below `width` into as few bytes as the best of three layouts of fixed size needs.

    One bit for each of all positions; or the code of Elias, "Efficient Storage and Retrieval by Content and Address of
    Static Files", 1974, and Fano, 1971: all but the lowest bits of a position counted in ones and zeros, the lowest
    as they are, k (2 + log2(width / k)) bits in all; or, for very few, a list of numbers.
    """
    n, k = index.shape
    if (np.diff(index.astype(np.int64), axis=1) <= 0).any():
        raise ValueError("positions are packed in ascending order and each once")
    layout = _layout(k, width)
    packed = np.zeros((n, packed_index_bytes(k, width)), np.uint8)
    if layout.bits:
        _pack(np.ascontiguousarray(index, np.uint32), *layout.parts, packed)
    return packed


def unpack_index(packed: Array, k: int, width: int) -> Array:
    """Return the (n, k) positions that `pack_index` packed, in `index_dtype(width)`."""
    layout = _layout(k, width)
    if not layout.bits:
        return np.broadcast_to(np.arange(k, dtype=index_dtype(width)), (len(packed), k))
    index = np.empty((len(packed), k), index_dtype(width))
    for part in blocks(len(packed), ROWS):
        scan.unpack(packed[part], (k, *layout.parts), index[part])
    return index


class _Layout(NamedTuple):
    """Say where the bits of positions p_0 < p_1 < ... lie: first the `low` lowest of each, one after the other.

    Of the `high` bits that follow, bit (p_j >> low) + j * step is set. high = 0 leaves a list.
    """

    bits: int
    high: int = 0
    low: int = 0
    step: int = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        return self.high, self.low, self.step


@cache
def _layout(k: int, width: int) -> _Layout:
    if k in (0, width):
        return _Layout(0)
    each = (width - 1).bit_length()
    counted = (((width - 1 >> low) + k, low) for low in range(each))
    return min(
        _Layout(k * each, 0, each, 0),
        _Layout(width, width, 0, 0),
        *(_Layout(high + k * low, high, low, 1) for high, low in counted),
    )


def learn_levels(values: Array, bits: int) -> Array:
    """Return the 2^bits float32 levels of least squared error for values over the root mean square of their row."""
    ratios = values / _positive(_size(values))
    return np.asarray(LloydMax(bits=bits, granularity="global").fit(Sample(ratios.reshape(-1, 1)))["levels"][0])


def code_values(values: Array, levels: Array) -> tuple[Array, Array]:
    """Return values (n, k) as packed numbers of levels, and float16 scales (n, 1) of least squared error."""
    size = _size(values)
    borders = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    chosen = np.searchsorted(borders, values / _positive(size)).astype(np.uint32)
    rounded = levels[chosen]
    energy = np.einsum("ij,ij->i", rounded, rounded)[:, None]
    scale = np.maximum(np.einsum("ij,ij->i", rounded, values)[:, None] / _positive(energy), 0)
    packed = np.zeros((len(values), packed_bytes(_bits(levels), values.shape[1])), np.uint8)
    _pack(chosen, *_list(_bits(levels)), packed)
    return packed, np.minimum(scale, HALF).astype(np.float16)


def decode_values(packed: Array, levels: Array, k: int) -> Array:
    """Return the levels (n, k) float32 that were packed, which the item's scale is yet to multiply."""
    chosen = np.empty((len(packed), k), np.uint8)
    scan.unpack(packed, (k, *_list(_bits(levels))), chosen)
    return look_up(chosen, levels)


def _bits(levels: Array) -> int:
    return (len(levels) - 1).bit_length()


def _list(bits: int) -> tuple[int, int, int]:
    """Return the layout of numbers of so many bits, one after the other."""
    return _Layout(0, 0, bits).parts


def _size(values: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", values, values)[:, None] / max(values.shape[1], 1)))


def _positive(divisors: Array) -> Array:
    return np.asarray(np.where(divisors > 0, divisors, 1))


def top_k_rows(matrix: Array, k: int) -> tuple[Array, Array]:
    """Return the positions (n, k) and values (n, k) float32 of each row's k largest magnitudes, in ascending position.

    Of equal magnitudes the first are taken. Rows shorter than k are returned whole.
    """
    matrix = np.ascontiguousarray(matrix, np.float32)
    n, width = matrix.shape
    k = min(k, width)
    index = np.empty((n, k), index_dtype(width))
    values = np.empty((n, k), np.float32)
    if k:
        for part in blocks(n, max(1, (8 << 20) // (4 * width))):
            sizes = np.abs(matrix[part])
            least = np.partition(sizes, width - k, axis=1)[:, width - k]
            _largest(matrix[part], least, index[part], values[part])
    return index, values


def densify(index: Array, values: Array, width: int) -> Array:
    """Return the codes as (n, width) float32; values at the same position add up."""
    rows = np.zeros((len(index), width), np.float32)
    _scatter(_plain(index), _plain(np.asarray(values, np.float32)), rows)
    return rows


@dataclass(frozen=True, slots=True)
class SparseFormat:
    """Store k packed positions out of `width` with values: numbers of 2^bits learnt levels and a scale, or float16.

    Arrays of codes are index, values and, below 16 bits, scale; what all items share is levels.
    """

    k: int
    width: int
    bits: int

    def item_bytes(self) -> float:
        values = 2 * self.k if self.bits == 16 else packed_bytes(self.bits, self.k) + 2
        return float(packed_index_bytes(self.k, self.width) + values)

    def shared_bytes(self) -> float:
        return 0.0 if self.bits == 16 else 4.0 * 2**self.bits

    def learn(self, values: Array) -> dict[str, Array]:
        """Return what items share, learnt from their values (n, k)."""
        return {} if self.bits == 16 else {"levels": learn_levels(values, self.bits)}

    def code(self, index: Array, values: Array, shared: Arrays) -> dict[str, Array]:
        """Return the arrays that stand for positions and values (n, k)."""
        places = {"index": pack_index(index, self.width)}
        if self.bits == 16:
            return places | {"values": np.clip(values, -HALF, HALF).astype(np.float16)}
        packed, scale = code_values(values, shared["levels"])
        return places | {"values": packed, "scale": scale}

    def entries(self, codes: Arrays, shared: Arrays) -> tuple[Array, Array]:
        """Return positions and values (n, k), the values float32 under their scale."""
        index = unpack_index(codes["index"], self.k, self.width)
        if self.bits == 16:
            return index, codes["values"].astype(np.float32)
        return index, decode_values(codes["values"], shared["levels"], self.k) * codes["scale"].astype(np.float32)

    def rows(self, codes: Arrays, shared: Arrays) -> Array:
        """Return the coded items as (n, width) float32 with k entries that need not be zero."""
        return densify(*self.entries(codes, shared), self.width)

    def searcher(self, codes: Arrays, shared: Arrays, metric: Metric, map_queries: QueryMap | None = None) -> Searcher:
        """Make codes over coordinates or orthonormal atoms searchable; over other atoms, under ip only."""
        return SparseSearcher(
            codes["index"], codes["values"], self.width, metric, packed=self.k, levels=shared.get("levels"),
            scale=codes.get("scale"), map_queries=map_queries,
        )  # fmt: skip


BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)  # that `SparseFormat` can give a value


def check_kept(k: int, bits: int) -> None:
    """Refuse numbers of entries and bits of a value that no `SparseFormat` has."""
    if k < 1:
        raise ValueError(f"k is at least 1, got {k}")
    if bits not in BITS:
        raise ValueError(f"bits is one of {', '.join(map(str, BITS))}; got {bits}")


def fitting_formats(budget: Budget, width: int, fixed: float = 0.0, shared: float = 0.0) -> list[SparseFormat]:
    """Return formats that fit next to `fixed` bytes per item and `shared` in all, that of least expected error first.

    Of each number of bits those k are considered after which one more would not fit. The error is that of an item
    whose coefficients are spread as a normal distribution is, its largest kept and rounded to equally spaced levels.

    Raises:
        BudgetTooSmall: nothing fits.
    """
    ends = []
    for count in BITS:
        formats = [SparseFormat(k, width, count) for k in range(1, width + 1)]
        fits = [budget.holds(fixed + one.item_bytes(), shared + one.shared_bytes()) for one in formats]
        ends += [one for one, fit, more in zip(formats, fits, [*fits[1:], False], strict=True) if fit and not more]
    if not ends:
        least = min((SparseFormat(1, width, count) for count in BITS), key=SparseFormat.item_bytes)
        raise BudgetTooSmall(fixed + least.item_bytes() + (shared + least.shared_bytes()) / budget.n)
    return sorted(ends, key=_expected_error)


def _expected_error(format: SparseFormat) -> float:
    sizes = ndtri(1 - (np.arange(format.width) + 0.5) / (2 * format.width))  # descending magnitudes
    kept = sizes[: format.k]
    lost = float((sizes[format.k :] ** 2).sum())
    if format.bits == 16:
        return lost
    levels = 2 ** (format.bits - 1)  # the other bit is the sign
    step = (kept[0] - kept[-1]) / levels
    return lost + format.k * float(step**2 / 12 if levels > 1 else kept.var())


class SparseSearcher:
    """Score sparse codes by looking up products of the query with atoms.

    index: (n, k) positions of an unsigned type; or, where `packed` is given as k, what `pack_index` returned.
    values: (n, k) float16, float32, int8 or uint8; where `levels` are given, what `code_values` returned; none means 1.
    width: the number of atoms.
    scale: what values are multiplied by, one number for all, (1,), or one for each item, (n,) or (n, 1).
    norms: the lengths (n,) of the vectors that the codes stand for, weighed as part of the codes. Without them,
        lengths are those of the values, which is right for orthonormal atoms. Not read under ip.
    map_queries: from queries to their products with the atoms; none where atoms are the coordinates.
    constants: from queries (n_queries, d) to what is added to their product with every item, (n_queries,): the product
        with a mean that was taken off. It changes the ranking under cosine alone, so only then is it called; norms
        are then those of the vectors with the mean.
    """

    kernel = "numba sparse scan"

    def __init__(
        self, index: Array, values: Array | None, width: int, metric: Metric, *, packed: int | None = None,
        levels: Array | None = None, scale: Array | None = None, norms: Array | None = None,
        map_queries: QueryMap | None = None, constants: QueryMap | None = None,
    ) -> None:  # fmt: skip
        score_of(metric)
        self._index, self._values, self._width, self._metric = index, values, width, metric
        self._packed, self._levels, self._scale, self._norms = packed, levels, scale, norms
        self._map, self._constants = map_queries, constants if metric == "cosine" else None

    def search(self, queries: Items, k: int) -> Hits:
        given = as_vectors(queries, "queries")
        mapped = given if self._map is None else self._map(given)
        if mapped.shape[1] != self._width:
            raise BadInput(f"queries: {mapped.shape[1]} products do not match the {self._width} atoms of the codes")
        constants = None if self._constants is None else self._constants(given)
        found = [
            self._search(mapped[part], None if constants is None else constants[part], k)
            for part in blocks(len(given), BATCH)
        ]
        if not found:
            return TopK(0, k).hits()
        return Hits(np.concatenate([hits.ids for hits in found]), np.concatenate([hits.scores for hits in found]))

    def _search(self, q: Array, constants: Array | None, k: int) -> Hits:
        kept, q = TopK(len(q), k), np.ascontiguousarray(q, np.float32)
        asked = q if self._packed is None else scan.arranged(q, self._width)
        # Packed codes are read where they lie; entries of others are made for a whole block.
        rows = ROWS if self._packed is None else max(ROWS, SCORES // max(len(q), 1))
        for part in blocks(len(self._index), rows):
            dots, squares = self._products(part, asked, len(q))
            kept.add(self._score(dots, squares, constants, part), part.start)
        return kept.hits()

    def _products(self, part: slice, asked: Array, count: int) -> tuple[Array, Array]:
        """Return products (count, rows) of queries with items, as yet without scale, and sums of squares (rows,).

        The sums are of the values' squares; where they are not needed, they may be left out.
        """
        if self._packed is not None:
            layout = (self._packed, *_layout(self._packed, self._width).parts)
            squares = self._metric != "ip" and self._norms is None
            return scan.packed_dots(self._index, layout, self._values, self._levels, asked, count, part, squares)
        index, values = self.entries(part)
        return scan.dots(_plain(index), _plain(values), asked), np.einsum("ij,ij->i", values, values)

    def entries(self, part: slice) -> tuple[Array, Array]:
        """Return positions and values (rows, k), as yet without scale, of items whose positions are not packed."""
        index = self._index[part]
        values = np.ones(index.shape) if self._values is None else self._values[part]
        return index, values.astype(np.float32)

    def _score(self, dots: Array, squares: Array, constants: Array | None, part: slice) -> Array:
        # The query's own norm shifts or scales all its scores alike, so it is left out.
        scale = self._scale_of(part)
        if scale is not None:
            dots = dots * scale
        if constants is not None:
            dots = dots + constants[:, None]
        if self._metric == "ip":
            return np.asarray(dots)
        if self._norms is not None:
            norms = self._norms[part].reshape(-1).astype(np.float32)
        else:
            norms = np.sqrt(squares) if scale is None else np.sqrt(squares) * np.abs(scale)
        if self._metric == "l2":
            return np.asarray(2 * dots - norms * norms)
        return np.asarray(dots / np.where(norms > 0, norms, 1))

    def _scale_of(self, part: slice) -> Array | None:
        if self._scale is None:
            return None
        scale = self._scale.reshape(-1)
        scale = scale if len(scale) == 1 else scale[part]
        return widened(scale) if scale.dtype == np.float16 else scale.astype(np.float32)


def _plain(array: Array) -> Array:
    """Return a contiguous read-only view, so that one compiled loop serves memory maps and arrays alike."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _pack(index, high, low, step, packed):  # type: ignore[no-untyped-def]
    mask = (np.uint64(1) << np.uint64(low)) - np.uint64(1)
    for row in range(len(index)):
        k = index.shape[1]
        for j in range(k):
            position = np.uint64(index[row, j])
            if high:
                bit = k * low + np.int64(position >> np.uint64(low)) + j * step
                packed[row, bit >> 3] |= np.uint8(1 << (bit & 7))
            bit = j * low
            rest = (position & mask) << np.uint64(bit & 7)
            at = bit >> 3
            while rest:
                packed[row, at] |= np.uint8(rest & np.uint64(255))
                rest >>= np.uint64(8)
                at += 1


@njit(cache=True, nogil=True)
def _largest(matrix, least, index, values):  # type: ignore[no-untyped-def]
    n, width = matrix.shape
    k = index.shape[1]
    for row in range(n):
        limit, equal = least[row], k
        for j in range(width):
            if abs(matrix[row, j]) > limit:
                equal -= 1
        at = 0
        for j in range(width):
            size = abs(matrix[row, j])
            if size > limit or (size == limit and equal > 0):
                if size == limit:
                    equal -= 1
                index[row, at], values[row, at] = j, matrix[row, j]
                at += 1


@njit(cache=True, nogil=True)
def _scatter(index, values, rows):  # type: ignore[no-untyped-def]
    for row in range(len(index)):
        for j in range(index.shape[1]):
            rows[row, index[row, j]] += values[row, j]
