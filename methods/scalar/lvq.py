"""Fit an even grid to the range of each vector, and one more to what is left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.centre import Centre
from packbench.methods.projection.linear import RULES, centred, metric_after_centring
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.grid import GridCodec
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8
from packbench.methods.scalar.levels import QueryMap, RowsSearcher
from packbench.methods.scalar.packing import pack, packed_bytes, unpack, weighted_sums
from packbench.methods.scalar.scan import ScanSearcher
from packbench.registry import register

ROWS = 4096


@register
@dataclass(frozen=True, slots=True)
class LVQ(Codec):
    """Centre, then round each vector to an even grid between its own least and greatest coordinate.

    `residual` bits per coordinate code on an even grid of one step's width what rounding left over; bits=4,
    residual=8 is LVQ-4x8. Search reads both levels of every item; to read the second for a few items only, compose a
    first level with rescore. The ends of the range are float16 per item. Under cosine vectors are normalised before
    they are centred. Aguerrebere, Bhati, Hildebrand, Tepper and Willke, "Similarity Search in the Blink of an Eye with
    Compressed Indices", 2023.
    """

    name: ClassVar[str] = "lvq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Aguerrebere, Bhati, Hildebrand, Tepper, Willke, Similarity Search in the Blink of an Eye with Compressed "
        "Indices, 2023"
    )
    formula: ClassVar[str] = "ceil(bits d/8) + ceil(residual d/8) + 4 per item; shared 4d + 1"
    bits: int = 8
    residual: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits is 2 to 8, got {self.bits}")
        if not 0 <= self.residual <= 8:
            raise ValueError(f"residual is 0 (one level) to 8 bits, got {self.residual}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        finest_first = [cls(8, 8), cls(4, 8), *(cls(b) for b in range(8, 1, -1))]
        finest_first[3:3] = [cls(4, 4)]
        return islice(budget.fitting(finest_first), 2)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return packed_bytes(self.bits, d) + packed_bytes(self.residual, d) + 4.0, 4.0 * d + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        return Centre().fit(sample)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = centred(items, shared["mean"], shared["rule"])
        codes = dict(self._grid.encode(vectors, {}))
        if self.residual:
            d, top = vectors.shape[1], 2**self.residual - 1
            codes["residuals"] = np.empty((len(vectors), packed_bytes(self.residual, d)), np.uint8)
            for part in blocks(len(vectors), ROWS):
                left = vectors[part] - self._first(codes, part, d)
                step = codes["scale"][part, 1:].astype(np.float32)
                share = left / np.where(step > 0, step, 1) + np.float32(0.5)
                integers = np.clip(np.rint(share * top), 0, top).astype(np.uint8)
                codes["residuals"][part] = pack(integers, self.residual)
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return self._rows(codes, slice(0, len(codes["codes"])), len(shared["mean"])) + shared["mean"]

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        inner = metric_after_centring(metric)
        if inner != metric_after_centring(RULES[int(shared["rule"][0])]):
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")
        d = len(shared["mean"])

        def queries(rows: Array) -> Array:
            return np.asarray(Centre().apply_queries(rows, shared))

        if inner == "ip":
            return _LVQSearcher(self, codes, d, queries)
        return RowsSearcher(len(codes["codes"]), d, inner, lambda part: self._rows(codes, part, d), queries)

    @property
    def _grid(self) -> GridCodec:
        if self.bits == 8:
            return Int8(granularity="vector")
        return Int4(bits=self.bits, granularity="vector", search=False)

    def _first(self, codes: Arrays, part: slice, d: int) -> Array:
        first = {name: codes[name][part] for name in ("codes", "scale")}
        return self._grid.decode(first, {"width": np.array([d], np.uint32)})

    def _rows(self, codes: Arrays, part: slice, d: int) -> Array:
        """Return the coded centred vectors of some items, (rows, d) float32."""
        rows = self._first(codes, part, d)
        if self.residual:
            step = codes["scale"][part, 1:].astype(np.float32)
            share = unpack(codes["residuals"][part], self.residual, d) / np.float32(2**self.residual - 1)
            rows += step * (share - np.float32(0.5))
        return rows


class _LVQSearcher(ScanSearcher):
    """Scan both levels as they are packed; only inner products, for squared norms of two levels need decoded rows."""

    def __init__(self, codec: LVQ, codes: Arrays, d: int, queries: QueryMap) -> None:
        super().__init__(len(codes["codes"]), d, "ip")
        self._codec, self._codes, self._d, self._map = codec, dict(codes), d, queries

    def _queries(self, queries: Array) -> Array:
        return self._map(queries)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        bits, residual = self._codec.bits, self._codec.residual
        low, step = widened(self._codes["scale"][part]).T
        sums, total = weighted_sums(self._codes["codes"][part], bits, query), query.sum()
        if residual:
            more = weighted_sums(self._codes["residuals"][part], residual, query)
            sums = sums + more / np.float32(2**residual - 1) - total / 2
        return low * total + step * sums, sums[:0]

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._codec._rows(self._codes, part, self._d)
        return rows, rows[:0, 0]
