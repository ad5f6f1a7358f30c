"""Put coordinates on evenly spaced levels, per dimension, per vector or for all: what int8 and int4 share."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numba import njit

from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Metric, Sample, Searcher
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.packing import pack, packed_bytes, read_only, row_sums, unpack
from packbench.methods.scalar.scan import ScanSearcher, squared_norms

GRANULARITIES = ("dim", "vector", "global")
NONE: Array = np.zeros((0, 2), np.float32)


class GridCodec(Codec):
    """Code a coordinate as the number of its level: low + step * c, with c an integer in 0..top.

    Asymmetric grids use all 2^bits levels; symmetric ones 2^bits - 1 about zero, so that zero is a level and only the
    step is stored. Values outside the range take its nearest end.
    """

    __slots__ = ()
    bits: int
    granularity: str
    symmetric: bool

    @abstractmethod
    def _ranges(self, rows: Array) -> tuple[Array, Array]:
        """Choose the middle and the half width of the range of each row (rows, values), float64."""

    @property
    def _top(self) -> int:
        """Return the greatest code."""
        return int(2**self.bits) - (2 if self.symmetric else 1)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        numbers = 1 if self.symmetric else 2
        item = packed_bytes(self.bits, d) + (2.0 * numbers if self.granularity == "vector" else 0.0)
        shared = {"dim": 4.0 * numbers * d, "vector": 0.0, "global": 4.0 * numbers}[self.granularity]
        # The width of a packed vector cannot be told from its bytes.
        return item, shared + (0 if self.bits == 8 or self.granularity == "dim" else 4), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        d = vectors.shape[1]
        shared: dict[str, Array] = {}
        if self.bits != 8 and self.granularity != "dim":
            shared["width"] = np.array([d], np.uint32)
        if self.granularity == "vector":
            return shared
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn")
        middle, half = self._ranges(vectors.T if self.granularity == "dim" else vectors.reshape(1, -1))
        shared["step"] = (2 * half / self._top).astype(np.float32)
        if not self.symmetric:
            shared["low"] = (middle - half).astype(np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        codes = {"codes": np.empty((n, packed_bytes(self.bits, d)), np.uint8)}
        if self.granularity == "vector":
            codes["scale"] = np.empty((n, 1 if self.symmetric else 2), np.float16)
        for part in blocks(n, 4096):
            block = vectors[part]
            if self.granularity == "vector":
                codes["scale"][part] = self._scales(block)
                low, step = (column[:, None] for column in self._item_grid(codes["scale"][part]).T)
            else:
                low, step = self._grid(shared, d)
            levels = np.rint((block - low) / np.where(step > 0, step, 1))
            codes["codes"][part] = pack(np.clip(levels, 0, self._top).astype(np.uint8), self.bits)
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        d = self._width(codes, shared)
        item = self._item_grid(codes["scale"]) if self.granularity == "vector" else NONE
        return _values(unpack(codes["codes"], self.bits, d), *self._grid(shared, d), item)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _GridSearcher(self, codes, shared, metric)

    def _width(self, codes: Arrays, shared: Arrays) -> int:
        if "width" in shared:
            return int(shared["width"][0])
        return len(shared["step"]) if self.granularity == "dim" else codes["codes"].shape[1]

    def _grid(self, shared: Arrays, d: int) -> tuple[Array, Array]:
        """Return the lowest level and the step of each dimension; ones that serve as neutral for grids per vector."""
        if self.granularity == "vector":
            return np.zeros(d, np.float32), np.ones(d, np.float32)
        step = shared["step"]
        low = -step * np.float32(self._top / 2) if self.symmetric else shared["low"]
        return np.broadcast_to(low, d).astype(np.float32), np.broadcast_to(step, d).astype(np.float32)

    def _item_grid(self, scale: Array) -> Array:
        """Return the lowest level and the step of each item, (n, 2) float32."""
        values = widened(scale)
        step = values[:, -1]
        low = -step * np.float32(self._top / 2) if self.symmetric else values[:, 0]
        return np.ascontiguousarray(np.stack([low, step], axis=1))

    def _scales(self, block: Array) -> Array:
        """Choose what is stored per item; rounding to float16 moves the end of a range by an eighth of a step."""
        middle, half = self._ranges(block)
        if self.symmetric:
            return _float16(2 * half / self._top)[:, None]
        low = _float16(middle - half)
        return np.stack([low, _float16((middle + half - low.astype(np.float64)) / self._top)], axis=1)


def _float16(values: Array) -> Array:
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16)


class _GridSearcher(ScanSearcher):
    def __init__(self, codec: GridCodec, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        d = codec._width(codes, shared)
        super().__init__(len(codes["codes"]), d, metric)
        self._codec = codec
        self._packed, self._scale = read_only(codes["codes"]), codes.get("scale")
        self._low, self._step = codec._grid(shared, d)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        packed, bits, low, step = self._packed[part], self._codec.bits, self._low, self._step
        # The step goes into the query once, so that a row costs one multiplication per coordinate.
        if self._scale is None:
            sums = row_sums(packed, bits, (query * step, step, low) if self._norms else (query * step,))
            return sums[:, 0] + query @ low, sums[:, -1]
        low, step = self._codec._item_grid(self._scale[part]).T
        if not self._norms:
            return low * query.sum() + step * row_sums(packed, bits, (query,))[:, 0], NONE
        # About the middle of the levels, where squares are least and lose least.
        ones, middle = np.ones_like(query), np.float32(self._codec._top / 2)
        dots, squares, total = row_sums(packed, bits, (query, ones, -middle * ones, ones)).T
        centre = low + middle * step
        off = total - middle * len(query)
        squares = centre * (len(query) * centre + 2 * step * off) + step * step * squares
        return low * query.sum() + step * dots, squares

    def _decode(self, part: slice) -> tuple[Array, Array]:
        integers = unpack(self._packed[part], self._codec.bits, len(self._low))
        item = NONE if self._scale is None else self._codec._item_grid(self._scale[part])
        rows = _values(integers, self._low, self._step, item)
        return rows, squared_norms(rows) if self._norms else NONE


def _values(integers: Array, low: Array, step: Array, item: Array) -> Array:
    """Return the values (n, d) of levels; item (n, 2) holds low and step of each row, or is empty."""
    values = np.empty(integers.shape, np.float32)
    _fill(integers, low, step, item, values)
    return values


@njit(cache=True, nogil=True)
def _fill(integers, low, step, item, values):  # type: ignore[no-untyped-def]
    n, d = values.shape
    for row in range(n):
        if len(item):
            for j in range(d):
                values[row, j] = item[row, 0] + item[row, 1] * np.float32(integers[row, j])
        else:
            for j in range(d):
                values[row, j] = low[j] + step[j] * np.float32(integers[row, j])
