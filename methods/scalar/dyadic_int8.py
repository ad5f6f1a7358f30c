"""Score with integers alone: int8 codes on both sides, and scales that are integers over powers of two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Hits, Method, Metric, Sample, Searcher
from packbench.registry import register
from packbench.topk import TopK

TOP = 127
ROWS = 2048


@register
@dataclass(frozen=True, slots=True)
class DyadicInt8(Codec):
    """Code items and queries in int8 with one step per dimension, a / 2^c in integers, and score in integers alone.

    Steps have `precision` bits. A score is the sum of c_q c_x times the squared step, rounded to a fixed point of
    `precision` bits below the greatest, so it is the same integer on every machine whatever the order of addition;
    only the last division of cosine and the place in float32 are rounded. The query pays for it with 8 bits of its own.
    Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", 2020.
    """

    name: ClassVar[str] = "dyadic_int8"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, 2020"
    formula: ClassVar[str] = "d per item; shared 3d"
    precision: int = 15

    def __post_init__(self) -> None:
        if not 8 <= self.precision <= 15:
            raise ValueError(f"precision is 8 to 15 bits, got {self.precision}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls()])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(d), 3.0 * d, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn")
        greatest = np.abs(vectors).max(axis=0).astype(np.float64)
        # A dimension of zeros gets the step of the smallest other one, and codes that are zero.
        floor = max(greatest.max() * 2.0**-30, 2.0**-90)
        mantissa, exponent = np.frexp(np.maximum(greatest, floor) / TOP)
        whole = np.rint(mantissa * 2**self.precision).astype(np.int64)
        carried = whole == 2**self.precision
        whole, exponent = np.where(carried, whole // 2, whole), exponent + carried
        return {"mantissa": whole.astype(np.uint16), "shift": (self.precision - exponent).astype(np.int8)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors, steps = as_vectors(items), _steps(shared)
        codes = np.empty(vectors.shape, np.int8)
        for part in blocks(len(vectors), 4096):
            codes[part] = _integers(vectors[part], steps)
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return (codes["codes"] * _steps(shared)).astype(np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _IntegerSearcher(codes["codes"], shared, self.precision, metric)


def _steps(shared: Arrays) -> Array:
    return np.asarray(np.ldexp(shared["mantissa"].astype(np.float64), -shared["shift"].astype(np.int64)))


def _integers(vectors: Array, steps: Array) -> Array:
    return np.clip(np.rint(vectors / steps), -TOP, TOP).astype(np.int8)


class _IntegerSearcher:
    """Add up integers in float64, which holds every partial sum exactly, so that BLAS may add in any order."""

    kernel = "blas float64 on integers"

    def __init__(self, codes: Array, shared: Arrays, precision: int, metric: Metric) -> None:
        score_of(metric)
        self._codes, self._steps, self._metric = codes, _steps(shared), metric
        squared = shared["mantissa"].astype(np.int64) ** 2
        place = 2 * shared["shift"].astype(np.int64)
        # All squared steps at the fixed point of the greatest, which keeps `precision` bits; halves round up.
        size = np.array([int(value).bit_length() for value in squared]) - place
        down = place - (precision - size.max()) if len(size) else place
        self._weights = np.array([_shifted(int(v), int(s)) for v, s in zip(squared, down, strict=True)], np.float64)

    def search(self, queries: Items, k: int) -> Hits:
        q = _integers(as_vectors(queries, "queries"), self._steps) * self._weights
        kept = TopK(len(q), k)
        for part in blocks(len(self._codes), ROWS):
            rows = self._codes[part].astype(np.float64)
            scores = (rows @ q[0])[None] if len(q) == 1 else q @ rows.T
            if self._metric != "ip":
                squares = (rows * rows) @ self._weights
                if self._metric == "l2":
                    scores = 2 * scores - squares
                else:
                    scores = scores / np.sqrt(np.where(squares > 0, squares, 1))
            kept.add(scores.astype(np.float32), part.start)
        return kept.hits()


def _shifted(value: int, right: int) -> int:
    """Return value / 2^right, a half rounded up."""
    return (value + (1 << right >> 1)) >> right if right > 0 else value << -right
