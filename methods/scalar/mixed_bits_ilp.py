"""Give every dimension the number of bits that an integer program finds best."""

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
from packbench.methods.projection.query_aware_svd import QueryAwareSVD
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
from packbench.methods.scalar.score_error import score_weights
from packbench.methods.scalar.streams import WidthsSearcher, look_up_widths, pack_widths
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.registry import register

MAX_BITS = 8
SHRINK = 1.12 ** np.arange(-4.0, 5.0)  # scales that are tried, times the deviation of a dimension
MAX_ROWS = 4096  # of the fit sample, on which errors are measured
ROWS = 4096


@register
@dataclass(frozen=True, slots=True)
class MixedBitsILP(Codec):
    """Code each dimension in 0 to 8 bits, chosen so that the weighted error is least for the bytes there are.

    The squared error of every dimension at every width is measured on the fit sample, with the Lloyd-Max levels of a
    Gaussian scaled to it, and weighs as it does in scores of the fit queries,
    E[q_j²] (weight="none": alike). The integer program, one width
    for each dimension and at most 8 nbytes bits in all, is solved exactly by dynamic programming. It has little to
    allocate where dimensions are alike: principal components are not. Yao et al., "HAWQ-V3: Dyadic Neural Network
    Quantization", 2020; with dimensions for layers as in Guo et al., "LQ-LoRA", 2023.
    """

    name: ClassVar[str] = "mixed_bits_ilp"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "solver"
    paper: ClassVar[str] = "Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, 2020"
    formula: ClassVar[str] = "nbytes per item; shared 8d + ceil(d/2)"
    nbytes: int
    weight: str = "queries"

    def __post_init__(self) -> None:
        if self.nbytes < 1:
            raise ValueError(f"nbytes is at least 1, got {self.nbytes}")
        if self.weight not in ("queries", "none"):
            raise ValueError(f"weight is one of queries, none, got {self.weight!r}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def largest(reducer: type[QueryAwareSVD] | type[PCA] | None) -> Method:
            sizes = range(min(budget.d, max(int(budget.bytes_per_item), 1)), 0, -1)
            codes = (cls(size) if reducer is None else reducer(min(budget.d, 4 * size)) | cls(size) for size in sizes)
            return next((code for code in codes if budget.holds(*code.planned_bytes(budget.d))), cls(1))

        return budget.fitting(largest(reducer) for reducer in (QueryAwareSVD, PCA, None))

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.weight == "queries" else frozenset()

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(self.nbytes), 8.0 * d + packed_bytes(4, d), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no error to measure")
        d = vectors.shape[1]
        weights = np.ones(d)
        if self.weight == "queries":
            weights = score_weights(self, sample)
        mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
        rows = (vectors[:: -(-len(vectors) // MAX_ROWS)] - mean) / np.where(deviation > 0, deviation, 1)
        errors, factors = _measured(rows)
        widths = allocate(errors * (weights * deviation**2)[:, None], 8 * self.nbytes, np.arange(MAX_BITS + 1))
        scale = deviation * factors[np.arange(d), widths]
        return {
            "mean": mean.astype(np.float32), "scale": scale.astype(np.float32),
            "widths": pack(widths[None].astype(np.uint8), 4)[0],
        }  # fmt: skip

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        widths = _widths(shared)
        codes = np.empty((len(vectors), self.nbytes), np.uint8)
        for part in blocks(len(vectors), ROWS):
            rows = (vectors[part] - shared["mean"]) / np.where(shared["scale"] > 0, shared["scale"], 1)
            integers = np.zeros(rows.shape, np.uint8)
            for width in np.unique(widths[widths > 0]):
                integers[:, widths == width] = _nearest(rows[:, widths == width], int(width))
            codes[part] = pack_widths(integers, widths, self.nbytes)
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return look_up_widths(codes["codes"], _widths(shared), _values(shared))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return WidthsSearcher(codes["codes"], _widths(shared), _values(shared), metric)


def allocate(errors: Array, bits: int, widths: Array) -> Array:
    """Return for each row of errors (d, choices) the choice of least total error, at most so many bits in all.

    widths are the bits of the choices, (choices,) or (d, choices); the least of all rows must fit.
    """
    widths = np.broadcast_to(widths, errors.shape)
    cost = np.zeros(bits + 1)  # of the rows so far, by the bits that they may use
    chosen = np.empty((len(errors), bits + 1), np.uint8)
    for row, of_choices, of_widths in zip(chosen, errors, widths, strict=True):
        tried = np.full((len(of_widths), bits + 1), np.inf)
        for into, width, error in zip(tried, of_widths, of_choices, strict=True):
            if width <= bits:
                into[width:] = cost[: bits + 1 - width] + error
        row[:] = tried.argmin(axis=0)
        cost = tried.min(axis=0)
    found, left = np.empty(len(errors), np.int64), bits
    for at in range(len(errors) - 1, -1, -1):
        found[at] = chosen[at, left]
        left -= widths[at, found[at]]
    return found


def _measured(rows: Array) -> tuple[Array, Array]:
    """Return the mean squared errors (d, 0 to 8 bits) of rows (n, d) of deviation 1, at the scales that bring them."""
    errors = np.empty((rows.shape[1], MAX_BITS + 1))
    factors = np.ones(errors.shape)
    for at, column in enumerate(np.sort(rows.T, axis=1)):
        # Of sorted numbers, running sums tell the error of all that one level stands for.
        sums = np.concatenate([[0.0], np.cumsum(column)])
        energy = errors[at, 0] = column @ column
        for width in range(1, MAX_BITS + 1):
            levels = SHRINK[:, None] * gaussian_levels(width)
            cuts = np.searchsorted(column, (levels[:, 1:] + levels[:, :-1]) / 2)
            cuts = np.pad(np.pad(cuts, ((0, 0), (1, 0))), ((0, 0), (0, 1)), constant_values=len(column))
            tried = energy + (levels * (levels * np.diff(cuts) - 2 * np.diff(sums[cuts]))).sum(axis=1)
            errors[at, width], factors[at, width] = tried.min(), SHRINK[tried.argmin()]
    return errors / len(rows), factors


def _nearest(rows: Array, width: int) -> Array:
    levels = gaussian_levels(width)
    return np.asarray(np.searchsorted((levels[1:] + levels[:-1]) / 2, rows))


def _widths(shared: Arrays) -> Array:
    return np.asarray(unpack(shared["widths"][None], 4, len(shared["mean"]))[0], np.int64)


def _values(shared: Arrays) -> Array:
    """Return the values of the codes of one dimension after the other; one without bits is at its mean."""
    levels = np.concatenate([gaussian_levels(int(width)) if width else np.zeros(1) for width in _widths(shared)])
    mean, scale = (np.repeat(shared[name], 2 ** _widths(shared)) for name in ("mean", "scale"))
    return np.asarray(mean + scale * levels, np.float32)
