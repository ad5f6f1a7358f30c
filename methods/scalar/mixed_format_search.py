"""Choose for each block of dimensions between integers and small floats of 4 and 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.pca import PCA
from packbench.methods.scalar.mixed_bits_ilp import allocate
from packbench.methods.scalar.packing import packed_bytes
from packbench.methods.scalar.streams import WidthsSearcher, look_up_widths, pack_widths
from packbench.methods.scalar.table import float_values
from packbench.registry import register

SHRINK = 1.12 ** -np.arange(32.0)  # scales that are tried, times the one that saturates nothing
MAX_ROWS = 2048  # of the fit sample, on which errors are measured
ROWS = 4096


def _signed(magnitudes: Array) -> Array:
    return np.unique(np.concatenate([-magnitudes, magnitudes]))


# By the number that is stored: bits, and the values, ascending.
FORMATS: dict[str, tuple[int, Array]] = {
    "int4": (4, _signed(np.arange(8.0))),
    "e2m1": (4, _signed(float_values(2, 1))),
    "int8": (8, _signed(np.arange(128.0))),
    "e4m3": (8, _signed(float_values(4, 3)[:127])),  # the last pattern is no number
    "e5m2": (8, _signed(float_values(5, 2)[:124])),  # the last four are infinity and no number
}
BITS = np.array([bits for bits, _ in FORMATS.values()])


@register
@dataclass(frozen=True, slots=True)
class MixedFormatSearch(Codec):
    """Code each block of dimensions in the format, int4, int8, E2M1, E4M3 or E5M2, that serves the whole best.

    The squared error of every block in every format is measured on the fit sample, at the scale that makes it least,
    and the choice of least total error within nbytes is found exactly. Even levels suit bounded blocks, floats those
    with heavy tails. After Dotzel et al., "FLIQS: One-Shot Mixed-Precision Floating-Point and Integer Quantization
    Search", 2023, which searches while it trains.
    """

    name: ClassVar[str] = "mixed_format_search"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "solver"
    paper: ClassVar[str] = (
        "Dotzel et al., FLIQS: One-Shot Mixed-Precision Floating-Point and Integer Quantization Search, 2023"
    )
    formula: ClassVar[str] = "nbytes per item; shared 5 ceil(d/block) + 4"
    nbytes: int
    block: int = 16

    def __post_init__(self) -> None:
        if self.nbytes < 1 or self.block < 1:
            raise ValueError(f"nbytes and block are at least 1, got nbytes={self.nbytes}, block={self.block}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d, most = budget.d, max(int(budget.bytes_per_item), 1)

        def largest(dims: float) -> Method:
            sizes = range(min(most, d), 0, -1)
            codes = (PCA(min(d, max(int(dims * size), 1))) | cls(size, 4) for size in sizes)
            return next((code for code in codes if budget.holds(*code.planned_bytes(d))), PCA(1) | cls(1, 4))

        # Eight bits for a third of the components, or four for all.
        whole = [cls(min(size, d)) for size in range(most, most - 2, -1) if size >= packed_bytes(4, d)]
        return budget.fitting([*(code for code in whole[:1] if most >= d), largest(1.5), largest(2.0)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(self.nbytes), 5.0 * len(self._columns(d)) + 4, 0.0

    def _columns(self, d: int) -> list[slice]:
        return list(blocks(d, self.block))

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        d = vectors.shape[1]
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no error to measure")
        if self.nbytes < packed_bytes(4, d):
            raise BadInput(f"{self}: {d} coordinates take {packed_bytes(4, d)} bytes at least; choose nbytes from that")
        rows = vectors[:: -(-len(vectors) // MAX_ROWS)].astype(np.float64)
        columns = self._columns(d)
        found = np.array([[fitted(rows[:, cut], values) for _, values in FORMATS.values()] for cut in columns])
        sizes = np.array([cut.stop - cut.start for cut in columns])
        chosen = allocate(found[:, :, 0], 8 * self.nbytes, sizes[:, None] * BITS)
        scales = found[np.arange(len(columns)), chosen, 1]
        return {
            "formats": chosen.astype(np.uint8),
            "scales": scales.astype(np.float32),
            "width": np.array([d], np.uint32),
        }

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        codes = np.empty((n, self.nbytes), np.uint8)
        widths = self._widths(shared)
        for part in blocks(n, ROWS):
            integers = np.empty((part.stop - part.start, d), np.uint8)
            for cut, values in zip(self._columns(d), self._block_values(shared), strict=True):
                integers[:, cut] = _nearest(vectors[part, cut], values)
            codes[part] = pack_widths(integers, widths, self.nbytes)
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return look_up_widths(codes["codes"], self._widths(shared), self._values(shared))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return WidthsSearcher(codes["codes"], self._widths(shared), self._values(shared), metric)

    def _sizes(self, shared: Arrays) -> list[int]:
        return [cut.stop - cut.start for cut in self._columns(int(shared["width"][0]))]

    def _widths(self, shared: Arrays) -> Array:
        return np.repeat(BITS[shared["formats"]], self._sizes(shared))

    def _block_values(self, shared: Arrays) -> list[Array]:
        """Return the ascending values of each block, float64."""
        tables = list(FORMATS.values())
        return [tables[of][1] * float(scale) for of, scale in zip(shared["formats"], shared["scales"], strict=True)]

    def _values(self, shared: Arrays) -> Array:
        """Return the values of one dimension after the other, each as many as its bits can number."""
        padded = [
            np.pad(values, (0, 2 ** int(BITS[of]) - len(values)), mode="edge")
            for of, values in zip(shared["formats"], self._block_values(shared), strict=True)
        ]
        sizes = self._sizes(shared)
        return np.concatenate([np.tile(values, size) for values, size in zip(padded, sizes, strict=True)])


def fitted(rows: Array, values: Array) -> tuple[float, float]:
    """Return the least squared error of rows in values times a scale, and that scale."""
    # Of sorted numbers, running sums tell the error of all that one value stands for.
    ordered = np.sort(rows, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    scales = (max(-ordered[0], ordered[-1]) / values[-1] or 1.0) * SHRINK
    borders = scales[:, None] * ((values[1:] + values[:-1]) / 2)
    ends = np.full((len(scales), 1), len(ordered))
    cuts = np.concatenate([0 * ends, np.searchsorted(ordered, borders), ends], axis=1)
    counts, totals = np.diff(cuts, axis=1), np.diff(sums[cuts], axis=1)
    named = scales[:, None] * values
    errors = ordered @ ordered + (named * (named * counts - 2 * totals)).sum(axis=1)
    best = int(np.argmin(errors))
    return float(errors[best]), float(scales[best])


def _nearest(rows: Array, values: Array) -> Array:
    return np.asarray(np.searchsorted((values[1:] + values[:-1]) / 2, rows))
