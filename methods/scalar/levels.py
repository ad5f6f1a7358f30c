"""Code coordinates as numbers of bins, with values for each dimension: what Lloyd-Max and quantiles share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
from numba import njit

from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Metric, Sample, Searcher
from packbench.methods.scalar.packing import field_sums, pack, packed_bytes, read_only, unpack
from packbench.methods.scalar.scan import BlockSearcher, ScanSearcher, squared_norms

QueryMap = Callable[[Array], Array]
ROWS = 4096


class LevelsCodec(Codec):
    """Keep the number of the bin that a coordinate falls into; each dimension has bins and values of its own.

    The values of the bins are weighed. Where a bin is not what is nearest to its value, the edges are an array that
    only coding needs.
    """

    __slots__ = ()
    bits: int

    @abstractmethod
    def _bins(self, column: Array, rng: np.random.Generator) -> tuple[Array, Array | None]:
        """Return the values (2^bits,) ascending for a sorted column, and inner edges, or None: halfway between."""

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(packed_bytes(self.bits, d)), 4.0 * d * 2**self.bits, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn")
        return self._learn(vectors.T)

    def _learn(self, columns: Array) -> dict[str, Array]:
        rng = np.random.default_rng(getattr(self, "seed", 0))
        found = [self._bins(np.sort(column), rng) for column in columns]
        shared = {"levels": np.array([levels for levels, _ in found], np.float32)}
        if found[0][1] is not None:
            shared["build/edges"] = np.array([edges for _, edges in found], np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        edges = edges_of(shared, vectors.shape[1])
        codes = np.empty((len(vectors), packed_bytes(self.bits, vectors.shape[1])), np.uint8)
        for part in blocks(len(vectors), ROWS):
            codes[part] = pack(bins(vectors[part], edges).astype(np.uint8), self.bits)
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        levels = self._levels(shared)
        return look_up_levels(unpack(codes["codes"], self.bits, len(levels)), levels)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return LevelsSearcher(codes["codes"], self._levels(shared), self.bits, metric)

    def _levels(self, shared: Arrays) -> Array:
        return shared["levels"]


def edges_of(shared: Arrays, d: int) -> Array:
    """Return the inner edges of the bins of each dimension, (d, 2^bits - 1).

    Halfway between two values is rounded in float64: in float32 it can be one of the two, which must keep its bin.
    """
    if "build/edges" in shared:
        edges = shared["build/edges"]
    else:
        levels = shared["levels"].astype(np.float64)
        edges = (levels[:, 1:] + levels[:, :-1]) / 2
    return np.broadcast_to(edges, (d, edges.shape[1]))


def bins(vectors: Array, edges: Array) -> Array:
    """Return the bin of each coordinate (n, d); a value on an edge belongs above it."""
    found = np.empty(vectors.shape[::-1], np.int64)
    for row, column, inner in zip(found, vectors.T, edges, strict=True):
        row[:] = np.searchsorted(inner, column, side="right")
    return found.T


def look_up_levels(integers: Array, levels: Array) -> Array:
    """Return the value of each code, (n, d) float32."""
    rows = np.empty(integers.shape, np.float32)
    _fill(read_only(integers), levels, rows)
    return rows


@njit(cache=True, nogil=True)
def _fill(integers, levels, rows):  # type: ignore[no-untyped-def]
    for row in range(len(rows)):
        for j in range(len(levels)):
            rows[row, j] = levels[j, integers[row, j]]


class LevelsSearcher(ScanSearcher):
    """Scan packed codes through a table of products per dimension; per field of 4 bits, where whole codes fill one."""

    kernel = "numba look-up, blas float32 for batches"

    def __init__(
        self, packed: Array, levels: Array, bits: int, metric: Metric, queries: QueryMap | None = None
    ) -> None:
        super().__init__(len(packed), len(levels), metric)
        self._packed, self._levels, self._bits, self._map = packed, np.asarray(levels, np.float32), bits, queries

    def _queries(self, queries: Array) -> Array:
        return queries if self._map is None else np.ascontiguousarray(self._map(queries), np.float32)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        products = [self._levels * query[:, None]]
        if self._norms:
            products.append(self._levels**2)
        if 4 % self._bits == 0:
            sums = field_sums(self._packed[part], 4, np.stack([_per_field(table, self._bits) for table in products]))
            return sums[0], sums[-1]
        sums = np.empty((len(products), part.stop - part.start), np.float32)
        for rows in blocks(part.stop - part.start, ROWS):
            packed = self._packed[part.start + rows.start : part.start + rows.stop]
            sums[:, rows] = field_sums(unpack(packed, self._bits, len(self._levels)), 8, np.stack(products))
        return sums[0], sums[-1]

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = look_up_levels(unpack(self._packed[part], self._bits, len(self._levels)), self._levels)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


def _per_field(table: Array, bits: int) -> Array:
    """Return what the codes in a field of 4 bits contribute together, (fields, 16), for products (d, 2^bits)."""
    each, size = 4 // bits, 2**bits
    padded = np.zeros((-(-len(table) // each) * each, size), np.float32)
    padded[: len(table)] = table
    code = np.arange(16) >> (bits * np.arange(each)[:, None]) & (size - 1)
    return np.asarray(padded.reshape(-1, each, size)[:, np.arange(each)[:, None], code].sum(axis=1))


class RowsSearcher(BlockSearcher):
    """Decode a cacheful of rows at a time and score it, for codes whose products no compiled loop adds up."""

    def __init__(
        self, n: int, d: int, metric: Metric, decode: Callable[[slice], Array], queries: QueryMap | None = None
    ) -> None:
        super().__init__(n, d, metric)
        self._rows_of, self._map = decode, queries

    def _queries(self, queries: Array) -> Array:
        return queries if self._map is None else self._map(queries)

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._rows_of(part)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]
