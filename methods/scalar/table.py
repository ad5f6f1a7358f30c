"""Code coordinates as entries of one table under a scale: what small floats, NormalFloat and EDEN share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from itertools import islice
from typing import ClassVar, cast

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.levels import QueryMap
from packbench.methods.scalar.packing import look_up, pack, packed_bytes, row_sums, unpack
from packbench.methods.scalar.scan import ScanSearcher, squared_norms

Rows = Callable[[slice], Array]  # what there is for a slice of items
HALF = float(np.finfo(np.float16).max)
HEADROOM = 2.0  # above the greatest scale of the fit sample, for items that were not in it
ROWS = 4096


def e4m3_values() -> Array:
    """Return the 127 finite non-negative values of E4M3, ascending; the place of a value is its bit pattern."""
    return float_values(4, 3)[:127]


def float_values(exponent: int, mantissa: int) -> Array:
    """Return the values of all non-negative bit patterns of a small float with subnormals, ascending."""
    pattern = np.arange(2 ** (exponent + mantissa))
    e, m = pattern >> mantissa, pattern % 2**mantissa
    bias = 2 ** (exponent - 1) - 1
    fraction = np.where(e > 0, 1.0, 0.0) + m / 2**mantissa
    return np.asarray(fraction * 2.0 ** (np.maximum(e, 1) - bias))


def nearest_pattern(magnitudes: Array, values: Array) -> Array:
    """Return the place of the nearest of ascending values, a tie going to the even place; what is beyond saturates."""
    borders = (values[1:] + values[:-1]) / 2
    low, high = np.searchsorted(borders, magnitudes, side="left"), np.searchsorted(borders, magnitudes, side="right")
    return np.where(low % 2 == 0, low, high)


class Scales:
    """Store one scale per block of coordinates: in float16, or in a byte of E4M3 under a factor common to all items."""

    def __init__(self, block: int, eight_bit: bool) -> None:
        self.block, self.eight_bit = block, eight_bit

    def columns(self, d: int) -> list[slice]:
        """Return the coordinates of each block; block 0 is the whole vector."""
        return list(blocks(d, self.block or d))

    def planned(self, d: int) -> float:
        """Return the bytes per item."""
        return len(self.columns(d)) * (1.0 if self.eight_bit else 2.0)

    def encode(self, scales: Array, factor: float) -> Array:
        """Round scales (n, blocks) to what is stored."""
        if not self.eight_bit:
            return np.minimum(scales, HALF).astype(np.float16)
        return nearest_pattern(scales / (factor or 1.0), e4m3_values()).astype(np.uint8)

    def decode(self, stored: Array, factor: float) -> Array:
        """Return stored scales as float32 (n, blocks)."""
        if not self.eight_bit:
            return widened(stored)
        return look_up(stored, e4m3_values() * factor)


class TableCodec(Codec):
    """Round each coordinate to the nearest entry of a table of 2^bits values, times the scale of its block.

    A scale is the greatest magnitude of its block, so the table reaches from -1 to 1.
    """

    __slots__ = ()
    bits: int

    @abstractmethod
    def _table(self) -> Array:
        """Return the entries in the order of their codes; the greatest magnitude is 1."""

    @abstractmethod
    def _scales(self) -> Scales:
        """Say how scales are stored."""

    def _codes(self, ratios: Array) -> Array:
        """Return the code of the nearest entry for coordinates divided by their scale."""
        table = self._table()
        order = np.argsort(table)
        ascending = table[order].astype(np.float64)
        return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, ratios)]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        scales = self._scales()
        return packed_bytes(self.bits, d) + scales.planned(d), 4.0 + (4.0 if scales.eight_bit else 0.0), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        # The width of a packed vector cannot be told from its bytes.
        shared = {"width": np.array([vectors.shape[1]], np.uint32)}
        if self._scales().eight_bit:
            if not len(vectors):
                raise BadInput(f"{self}: the fit sample is empty, so there is no scale to learn")
            top = float(np.abs(vectors).max(initial=0.0)) * HEADROOM / e4m3_values()[-1]
            shared["factor"] = np.array([top], np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        scales, factor = self._scales(), _factor(shared)
        columns = scales.columns(d)
        coded = {
            "codes": np.empty((n, packed_bytes(self.bits, d)), np.uint8),
            "scales": np.empty((n, len(columns)), np.uint8 if scales.eight_bit else np.float16),
        }
        for part in blocks(n, ROWS):
            block = vectors[part]
            greatest = np.stack([np.abs(block[:, cut]).max(axis=1) for cut in columns], axis=1)
            coded["scales"][part] = scales.encode(greatest, factor)
            stored = scales.decode(coded["scales"][part], factor)
            scale = spread(np.where(stored > 0, stored, 1), scales.block, d)
            coded["codes"][part] = pack(self._codes(block / scale).astype(np.uint8), self.bits)
        return coded

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        d, scales = int(shared["width"][0]), self._scales()
        rows = look_up(unpack(codes["codes"], self.bits, d), self._table())
        return np.asarray(rows * spread(scales.decode(codes["scales"], _factor(shared)), scales.block, d))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        d, scales, factor = int(shared["width"][0]), self._scales(), _factor(shared)
        stored = codes["scales"]
        return TableSearcher(
            codes["codes"], self.bits, self._table(), d, metric, lambda part: scales.decode(stored[part], factor),
            block=scales.block,
        )  # fmt: skip


class FourBitCodec(TableCodec):
    """Be a table of 16 values or fewer, with a scale for each `block` coordinates, or, block=0, for a whole vector.

    The scale of a block is a byte of E4M3 under a factor common to all items; that of a vector is a float16.
    """

    __slots__ = ()
    kind: ClassVar[str] = "quantiser"
    formula: ClassVar[str] = "ceil(d/2) + ceil(d/block) per item, shared 8 (block=0: + 2, shared 4)"
    bits: ClassVar[int] = 4  # type: ignore[misc]
    block: int

    def __post_init__(self) -> None:
        if self.block < 0 or self.block % 8:
            raise ValueError(f"block is 0 (the whole vector) or a multiple of 8, got {self.block}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        make = cast(Callable[[int], Method], cls)
        return islice(budget.fitting([make(block) for block in (16, 32, 64, 0)]), 2)

    def _scales(self) -> Scales:
        return Scales(self.block, self.block > 0)


def _factor(shared: Arrays) -> float:
    return float(shared["factor"][0]) if "factor" in shared else 1.0


class TableSearcher(ScanSearcher):
    """Scan packed codes: an entry of the table, times the scale of the item's block, times the weight of the dimension.

    `scales` returns (rows, blocks) float32 for a slice of items, for blocks of `block` coordinates, 0 being all, and
    `squares`, where given, their squared norms.
    """

    def __init__(
        self, packed: Array, bits: int, table: Array, d: int, metric: Metric, scales: Rows | None, *, block: int = 0,
        weights: Array | None = None, queries: QueryMap | None = None, squares: Rows | None = None,
    ) -> None:  # fmt: skip
        super().__init__(len(packed), d, metric)
        self._packed, self._bits, self._d, self._block = packed, bits, d, block if block < d else 0
        self._table = np.array(table, np.float32)
        self._scales, self._weights, self._map, self._squares = scales, weights, queries, squares

    def _queries(self, queries: Array) -> Array:
        queries = queries if self._map is None else np.ascontiguousarray(self._map(queries), np.float32)
        return queries if self._weights is None else queries * self._weights

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        weights: tuple[Array, ...] = (query,)
        if self._norms and self._squares is None:
            weights += (np.ones_like(query) if self._weights is None else self._weights,)
        scales = None if self._scales is None else self._scales(part)
        if self._block:
            sums = row_sums(self._packed[part], self._bits, weights, self._table, scales, self._block)
        else:
            sums = row_sums(self._packed[part], self._bits, weights, self._table)
            if scales is not None:
                sums *= np.concatenate([scales, scales * scales], axis=1)[:, : len(weights)]
        squares = self._squares(part) if self._norms and self._squares is not None else sums[:, -1]
        return sums[:, 0], squares

    def _decode(self, part: slice) -> tuple[Array, Array]:
        """Return rows that a weight has not entered yet, which queries hold already, and true squared norms."""
        rows = look_up(unpack(self._packed[part], self._bits, self._d), self._table)
        if self._scales is not None:
            rows *= spread(self._scales(part), self._block, self._d)
        if not self._norms:
            return rows, rows[:0, 0]
        if self._squares is not None:
            return rows, self._squares(part)
        return rows, squared_norms(rows if self._weights is None else rows * self._weights)


def spread(scales: Array, block: int, d: int) -> Array:
    """Return the scale of each coordinate (n, d), or of all together (n, 1)."""
    return np.repeat(scales, block, axis=1)[:, :d] if block else scales
