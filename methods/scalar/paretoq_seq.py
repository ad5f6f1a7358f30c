"""Sweep 1 to 4 bits with the level sets of stretched elastic quantisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.levels import RowsSearcher
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
from packbench.methods.scalar.table import HALF, TableSearcher
from packbench.registry import register

ROWS = 4096
TABLES = {
    2: np.array([-1.0, 1.0]),
    3: np.array([-2.0, 0.0, 2.0]) / 3,
    4: np.array([-3.0, -1.0, 1.0, 3.0]) / 4,
    8: np.arange(-4.0, 4.0),
    16: np.arange(-8.0, 8.0),
}
# The scale of least squared error on N(0, 1), about which a vector's own is searched for.
START = {2: 0.798, 3: 1.835, 4: 1.992, 8: 0.603, 16: 0.339}
SEARCH = np.geomspace(0.5, 1.6, 24)  # the error has several minima, so that descent from one place may miss the least
TRITS = (np.arange(243)[:, None] // 3 ** np.arange(5) % 3).astype(np.uint8)


@register
@dataclass(frozen=True, slots=True)
class ParetoQSEQ(Codec):
    """Round each coordinate to 2, 3, 4, 8 or 16 levels whose scale is fitted to the vector.

    Under the scale, levels are ±1; 0 and ±2/3; ±1/4 and ±3/4; or the integers from -4 to 3 or -8 to 7: balanced sets
    where bits are few, one with a zero where they are not. Three levels pack five to a byte. Training found the scale
    in the paper; here it is the one of least squared error, by a one-dimensional search. Liu et al., "ParetoQ:
    Scaling Laws in Extremely Low-bit LLM Quantization", 2025.
    """

    name: ClassVar[str] = "paretoq_seq"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Liu et al., ParetoQ: Scaling Laws in Extremely Low-bit LLM Quantization, 2025"
    formula: ClassVar[str] = "ceil(log2(levels) d/8) + 2 per item (3 levels: ceil(d/5) + 2); shared 4"
    levels: int = 4

    def __post_init__(self) -> None:
        if self.levels not in TABLES:
            raise ValueError(f"levels is one of {', '.join(map(str, TABLES))}, got {self.levels}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(levels) for levels in sorted(TABLES, reverse=True)), 1)

    @property
    def _bits(self) -> int:
        return self.levels.bit_length() - 1

    def _code_bytes(self, d: int) -> int:
        return -(-d // 5) if self.levels == 3 else packed_bytes(self._bits, d)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self._code_bytes(d) + 2.0, 4.0, 0.0

    def fit(self, sample: Sample) -> Arrays:
        return {"width": np.array([as_vectors(sample.items, "fit sample").shape[1]], np.uint32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        codes = np.empty((n, self._code_bytes(d)), np.uint8)
        scales = np.empty((n, 1), np.float16)
        for part in blocks(n, ROWS):
            scales[part] = np.minimum(self._fitted(vectors[part]), HALF)
            stored = scales[part].astype(np.float32)
            integers = self._nearest(vectors[part] / np.where(stored > 0, stored, 1)).astype(np.uint8)
            codes[part] = self._pack(integers)
        return {"codes": codes, "scales": scales}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        table = TABLES[self.levels].astype(np.float32)
        return np.asarray(
            table[self._unpack(codes["codes"], int(shared["width"][0]))] * codes["scales"].astype(np.float32)
        )

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        d, scales = int(shared["width"][0]), codes["scales"]
        if self.levels == 3:
            return RowsSearcher(
                len(scales), d, metric,
                lambda part: self.decode({name: array[part] for name, array in codes.items()}, shared),
            )  # fmt: skip
        return TableSearcher(
            codes["codes"], self._bits, TABLES[self.levels], d, metric,
            lambda part: widened(scales[part]),
        )  # fmt: skip

    def _nearest(self, ratios: Array) -> Array:
        table = TABLES[self.levels]
        found: Array = np.searchsorted((table[1:] + table[:-1]) / 2, ratios)
        return found

    def _fitted(self, rows: Array) -> Array:
        """Return the scale of each row, (n, 1), of the least squared error that the search meets."""
        table = TABLES[self.levels].astype(np.float32)
        start = START[self.levels] * np.sqrt(np.einsum("ij,ij->i", rows, rows) / rows.shape[1])
        best, scales = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32)
        for factor in SEARCH:
            tried = start * factor
            coded = table[self._nearest(rows / np.where(tried > 0, tried, 1)[:, None])]
            energy, product = np.einsum("ij,ij->i", coded, coded), np.einsum("ij,ij->i", rows, coded)
            # The best scale for these codes, and by how much it lowers the squared error.
            own = product / np.where(energy > 0, energy, 1)
            better = product * own > best
            best, scales = np.where(better, product * own, best), np.where(better, own, scales)
        return np.asarray(np.maximum(scales, 0))[:, None]

    def _pack(self, integers: Array) -> Array:
        if self.levels != 3:
            return pack(integers, self._bits)
        n, d = integers.shape
        fives = np.pad(integers, ((0, 0), (0, -d % 5))).reshape(n, -1, 5)
        return np.asarray(fives @ 3 ** np.arange(5)).astype(np.uint8)

    def _unpack(self, codes: Array, d: int) -> Array:
        if self.levels != 3:
            return unpack(codes, self._bits, d)
        return np.asarray(TRITS[codes].reshape(len(codes), -1)[:, :d])
