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
from packbench.methods.scalar.levels import QueryMap
from packbench.methods.scalar.packing import pack, packed_bytes, table_sums, unpack
from packbench.methods.scalar.scan import ScanSearcher
from packbench.methods.scalar.turboquant_mse import look_up

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
            return stored.astype(np.float32)
        return np.asarray(e4m3_values()[stored] * factor, np.float32)


class TableCodec(Codec):
    """Round each coordinate to the nearest entry of a table of 2^bits values, times the scale of its block.

    A scale is the greatest magnitude of its block, so the table reaches from -1 to 1; blocks are packed one by one.
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
            for at, cut in enumerate(columns):
                scale = stored[:, at : at + 1]
                integers = self._codes(block[:, cut] / np.where(scale > 0, scale, 1)).astype(np.uint8)
                coded["codes"][part, packed_slice(cut, self.bits)] = pack(integers, self.bits)
        return coded

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        d, scales = int(shared["width"][0]), self._scales()
        return decode_blocks(
            codes["codes"], self.bits, self._table(), scales.columns(d), scales.decode(codes["scales"], _factor(shared))
        )

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        d, scales, factor = int(shared["width"][0]), self._scales(), _factor(shared)
        stored = codes["scales"]
        return TableSearcher(
            codes["codes"], self.bits, self._table(), scales.columns(d), metric,
            lambda part: scales.decode(stored[part], factor),
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


def packed_slice(cut: slice, bits: int) -> slice:
    """Return the bytes of a block; every block but the last fills whole bytes."""
    return slice(cut.start * bits // 8, cut.start * bits // 8 + packed_bytes(bits, cut.stop - cut.start))


def decode_blocks(packed: Array, bits: int, table: Array, columns: list[slice], scales: Array) -> Array:
    """Return the coded vectors (n, d) float32 for scales (n, blocks)."""
    rows = np.empty((len(packed), columns[-1].stop if columns else 0), np.float32)
    entries = np.array(table, np.float32)
    for at, cut in enumerate(columns):
        integers = unpack(np.ascontiguousarray(packed[:, packed_slice(cut, bits)]), bits, cut.stop - cut.start)
        look_up(integers, entries, rows[:, cut])
        rows[:, cut] *= scales[:, at : at + 1]
    return rows


class TableSearcher(ScanSearcher):
    """Scan packed codes: an entry of the table, times the scale of the item's block, times the weight of the dimension.

    `scales` returns (rows, blocks) float32 for a slice of items, and `squares`, where given, their squared norms.
    """

    def __init__(
        self, packed: Array, bits: int, table: Array, columns: list[slice], metric: Metric, scales: Rows,
        weights: Array | None = None, queries: QueryMap | None = None, squares: Rows | None = None,
    ) -> None:  # fmt: skip
        super().__init__(len(packed), columns[-1].stop, metric)
        self._packed, self._bits, self._columns = packed, bits, columns
        self._table = np.array(table, np.float32)
        self._scales, self._weights, self._map, self._squares = scales, weights, queries, squares

    def _queries(self, queries: Array) -> Array:
        return queries if self._map is None else np.ascontiguousarray(self._map(queries), np.float32)

    def _sums(self, part: slice, table: Array, weights: Array, scales: Array) -> Array:
        total = np.zeros(part.stop - part.start, np.float32)
        for at, cut in enumerate(self._columns):
            packed = self._packed[part, packed_slice(cut, self._bits)]
            total += scales[:, at] * table_sums(packed, self._bits, table, np.ascontiguousarray(weights[cut]))
        return total

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        scales = self._scales(part)
        weights = np.ones_like(query) if self._weights is None else self._weights
        dots = self._sums(part, self._table, query * weights, scales)
        if not self._norms:
            return dots, dots[:0]
        if self._squares is not None:
            return dots, self._squares(part)
        return dots, self._sums(part, self._table**2, weights**2, scales**2)

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = decode_blocks(self._packed[part], self._bits, self._table, self._columns, self._scales(part))
        if self._weights is not None:
            rows *= self._weights
        if not self._norms:
            return rows, rows[:0, 0]
        return rows, np.einsum("ij,ij->i", rows, rows) if self._squares is None else self._squares(part)
