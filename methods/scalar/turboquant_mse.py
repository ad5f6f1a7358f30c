"""Rotate at random, then give every coordinate to the nearest Lloyd-Max level of a Gaussian."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import ClassVar

import numpy as np
from scipy.special import ndtr, ndtri

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import random_orthogonal
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_queries, map_rows
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.packing import look_up, pack, packed_bytes, row_sums, unpack
from packbench.methods.scalar.scan import ScanSearcher
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class TurboQuantMSE(Codec):
    """Rotate at random, store the norm, and round each coordinate to the Lloyd-Max levels of a Gaussian.

    After the rotation every coordinate of a unit vector is close to N(0, 1/d) whatever the data, so the levels need
    no data and the distortion does not depend on it. The first `wide` rotated coordinates get one bit more, which
    makes fractional widths. Inner products are divided by the shrinkage that rounding to centroids brings; the norm
    is float16. Zandieh, Daliri, Hadian and Mirrokni, "TurboQuant: Online Vector Quantization with Near-optimal
    Distortion Rate", 2025, the variant for squared error.
    """

    name: ClassVar[str] = "turboquant_mse"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zandieh, Daliri, Hadian, Mirrokni, TurboQuant: Online Vector Quantization with Near-optimal Distortion Rate, "
        "2025"
    )
    formula: ClassVar[str] = "ceil(bits (d - wide)/8) + ceil((bits + 1) wide/8) + 2 per item; shared 4d^2 + levels"
    bits: int = 4
    wide: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")
        if self.wide < 0 or (self.wide and self.bits == 8):
            raise ValueError(
                f"wide counts coordinates with one bit more, 8 bits at most; got bits={self.bits}, wide={self.wide}"
            )

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        finest_first = (cls(bits=b, wide=w) for b in range(8, 0, -1) for w in range(d - 1 if b < 8 else 0, -1, -1))
        return islice(budget.fitting(finest_first), 1)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item = packed_bytes(self.bits, d - self.wide) + packed_bytes(self.bits + 1, self.wide) + 2
        levels = 2**self.bits + (2 ** (self.bits + 1) if self.wide else 0)
        return float(item), 4.0 * d * d + 4.0 * levels, 0.0

    def fit(self, sample: Sample) -> Arrays:
        d = as_vectors(sample.items, "fit sample").shape[1]
        if self.wide > d:
            raise BadInput(f"{self}: wide is at most the number of coordinates, {d}")
        scale = np.sqrt(d)
        shared = {
            "rotation": random_orthogonal(d, self.seed),
            "levels": (gaussian_levels(self.bits) / scale).astype(np.float32),
        }
        if self.wide:
            shared["wide_levels"] = (gaussian_levels(self.bits + 1) / scale).astype(np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        limit = np.finfo(np.float16).max
        codes = {"norms": np.minimum(norms, limit).astype(np.float16)}
        for name, _, bits, columns in self._parts(shared, d):
            codes[name] = np.empty((n, packed_bytes(bits, columns.stop - columns.start)), np.uint8)
        for part in blocks(n, 4096):
            lengths = np.where(norms[part] > 0, norms[part], 1)[:, None]
            rotated = map_rows((vectors[part] / lengths).astype(np.float32), shared["rotation"])
            for name, levels, bits, columns in self._parts(shared, d):
                borders = (levels[1:] + levels[:-1]) / 2
                codes[name][part] = pack(np.searchsorted(borders, rotated[:, columns]).astype(np.uint8), bits)
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rotated = self._rotated(codes, shared)
        rotated *= codes["norms"].astype(np.float32)[:, None]
        return rotated @ shared["rotation"]

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _TurboQuantSearcher(self, codes, shared, metric)

    def _parts(self, shared: Arrays, d: int) -> list[tuple[str, Array, int, slice]]:
        """Name the arrays of codes, each with its levels, bits and columns."""
        parts = [("codes", shared["levels"], self.bits, slice(self.wide, d))]
        if self.wide:
            parts.append(("wide_codes", shared["wide_levels"], self.bits + 1, slice(0, self.wide)))
        return parts

    def _rotated(self, codes: Arrays, shared: Arrays) -> Array:
        """Return the coded directions in the rotated frame, (n, d) float32."""
        parts = [
            look_up(unpack(codes[name], bits, columns.stop - columns.start), levels)
            for name, levels, bits, columns in reversed(self._parts(shared, len(shared["rotation"])))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class _TurboQuantSearcher(ScanSearcher):
    def __init__(self, codec: TurboQuantMSE, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        d = len(shared["rotation"])
        super().__init__(len(codes["norms"]), d, metric)
        self._codec, self._codes, self._shared = codec, dict(codes), shared
        self._parts = codec._parts(shared, d)
        # E[y * level(y)] = E[level(y)^2] for centroids: what inner products with coded directions fall short by.
        kept = (
            sum(
                _energy(levels.astype(np.float64) * np.sqrt(d)) * (columns.stop - columns.start)
                for _, levels, _, columns in self._parts
            )
            / d
        )
        self._calibration = np.float32(1 / kept)

    def _queries(self, queries: Array) -> Array:
        return map_queries(queries, self._shared["rotation"]) * self._calibration

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        norms = widened(self._codes["norms"][part])
        dots = sum(
            row_sums(self._codes[name][part], bits, (query[columns],), levels)[:, 0]
            for name, levels, bits, columns in self._parts
        )
        return dots * norms, norms * norms

    def _decode(self, part: slice) -> tuple[Array, Array]:
        norms = widened(self._codes["norms"][part])
        rows = self._codec._rotated({name: array[part] for name, array in self._codes.items()}, self._shared)
        rows *= norms[:, None]
        return rows, norms * norms


@cache
def gaussian_levels(bits: int) -> Array:
    """Return the 2^bits Lloyd-Max levels of N(0, 1), ascending: each is the mean of what is nearest to it.

    Lloyd's iteration takes thousands of rounds at 8 bits, so Newton's method finds its fixed point.
    """
    half = 2 ** (bits - 1)
    # The best companding density is N(0, 3), which starts next to the end. The law is symmetric, and its left half
    # keeps the tail's small probabilities free of cancellation.
    levels = ndtri((np.arange(half) + 0.5) / (2 * half)) * np.sqrt(3)
    change = np.inf
    while change > 1e-10:
        borders = np.concatenate([(levels[1:] + levels[:-1]) / 2, [0.0]])
        density = np.exp(-(borders**2) / 2.0) / np.sqrt(2 * np.pi)
        mass = np.diff(ndtr(borders), prepend=0.0)
        means = -np.diff(density, prepend=0.0) / mass
        # A border moves by half of what each of its two levels moves, and the last one, zero, not at all.
        above = density[:-1] * (borders[:-1] - means[:-1]) / mass[:-1] / 2
        below = density[:-1] * (means[1:] - borders[:-1]) / mass[1:] / 2
        slope = np.diag(above, 1) + np.diag(below, -1)
        slope += np.diag(np.append(above, 0.0) + np.append(0.0, below)) - np.eye(half)
        step = np.linalg.solve(slope, levels - means)
        levels = levels + step
        change = np.abs(step).max()
    return np.concatenate([levels, -levels[::-1]])


def _energy(levels: Array) -> float:
    """Return the mean squared level, of the level nearest to a draw from N(0, 1)."""
    borders = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    return float(np.diff(ndtr(borders)) @ levels**2)
