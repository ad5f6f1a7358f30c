"""Code coordinates as numbers of bins, with values for each dimension: what Lloyd-Max and quantiles share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Metric, Sample, Searcher
from packbench.methods.codebook.lookup import decode, fill_tables, scan
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
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
    decode(np.ascontiguousarray(integers), levels, np.arange(len(levels)), rows)
    return rows


class LevelsSearcher(ScanSearcher):
    """Scan packed codes through a table of products per byte, or per coordinate where a code may lie across bytes."""

    kernel = "numba look-up, blas float32 for batches"

    def __init__(
        self, packed: Array, levels: Array, bits: int, metric: Metric, queries: QueryMap | None = None
    ) -> None:
        super().__init__(len(packed), len(levels), metric)
        self._packed, self._bits, self._map = np.ascontiguousarray(packed), bits, queries
        d = len(levels)
        self._whole = 8 % bits == 0
        places: tuple[Array, Array] = (np.arange(d), np.zeros(d, np.int64))
        self._byte, shift = _places(d, bits) if self._whole else places
        code = (np.arange(256) >> shift[:, None]) % 2**bits
        self._codebook = np.take_along_axis(np.asarray(levels, np.float32), code, axis=1)
        width = packed.shape[1] if self._whole else d
        self._tables = np.zeros((2 if self._norms else 1, width, 256), np.float32)
        if self._norms:
            fill_tables(np.ones((1, d), np.float32), self._codebook**2, self._byte, False, self._tables[1:])

    def _queries(self, queries: Array) -> Array:
        return queries if self._map is None else np.ascontiguousarray(self._map(queries), np.float32)

    def _bytes(self, part: slice) -> Array:
        packed = self._packed[part]
        return packed if self._whole else unpack(packed, self._bits, len(self._byte))

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        tables = self._tables.copy()
        fill_tables(np.ascontiguousarray(query[None]), self._codebook, self._byte, False, tables[:1])
        sums = np.empty((len(tables), part.stop - part.start), np.float32)
        for rows in blocks(part.stop - part.start, ROWS):
            piece = np.empty((len(tables), rows.stop - rows.start), np.float32)
            scan(self._bytes(slice(part.start + rows.start, part.start + rows.stop)), tables, piece)
            sums[:, rows] = piece
        return sums[0], sums[-1]

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = np.empty((part.stop - part.start, len(self._byte)), np.float32)
        decode(self._bytes(part), self._codebook, self._byte, rows)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


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


def _places(d: int, bits: int) -> tuple[Array, Array]:
    """Return the byte in which `pack` puts each of d integers of 1, 2, 4 or 8 bits, and the bit at which it begins."""
    # A row for each integer, in which it alone is 1.
    marks = pack(np.eye(d, dtype=np.uint8), bits)
    byte = marks.argmax(axis=1)
    return byte, np.log2(marks[np.arange(d), byte]).astype(np.int64)
