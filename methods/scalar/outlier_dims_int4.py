"""Keep the dimensions with outliers in 16 bits and the rest in four."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, cast

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.float16 import Float16
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.packing import packed_bytes
from packbench.methods.scalar.scan import ScanSearcher, squared_norms
from packbench.registry import register

REST = Int4(granularity="vector", symmetric=True)
WIDE = Float16()


@register
@dataclass(frozen=True, slots=True)
class OutlierDimsInt4(Codec):
    """Keep the k dimensions of the largest deviations in float16 and the others in int4 with a scale per vector.

    Dimensions are ranked by their largest deviation from the mean over the fit sample. A rotation in front of int4 may
    serve as well without the split: compare at equal bytes. Ashkboos, Markov, Frantar, Zhong, Wang, Ren, Hoefler and
    Alistarh, "Towards End-to-end 4-Bit Inference on Generative Large Language Models", 2023, without its correction of
    weights, for which vectors have no counterpart.
    """

    name: ClassVar[str] = "outlier_dims_int4"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Ashkboos, Markov, Frantar, Zhong, Wang, Ren, Hoefler, Alistarh, Towards End-to-end 4-Bit Inference on "
        "Generative Large Language Models, 2023"
    )
    formula: ClassVar[str] = "2k + ceil((d - k)/2) + 2 per item; shared 2k + 4"
    k: int = 8

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k is a number of dimensions, got {self.k}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(k) for k in range(budget.d, -1, -1)), 1)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        k = min(self.k, d)
        return 2.0 * k + packed_bytes(4, d - k) + 2.0, 2.0 * k + 4.0, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        d = vectors.shape[1]
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there are no outliers to find")
        largest = np.abs(vectors - vectors.mean(axis=0, dtype=np.float64)).max(axis=0)
        chosen = np.sort(np.argsort(-largest, kind="stable")[: self.k])
        return {"dims": chosen.astype(np.uint16), "width": np.array([d], np.uint32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        wide, rest = _split(shared)
        coded = REST.encode(vectors[:, rest], _width(rest)) if len(rest) else _nothing(len(vectors))
        return {"wide": WIDE.encode(vectors[:, wide], {})["codes"], **coded}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        wide, rest = _split(shared)
        rows = np.empty((len(codes["wide"]), len(wide) + len(rest)), np.float32)
        rows[:, wide] = WIDE.decode({"codes": codes["wide"]}, {})
        rows[:, rest] = REST.decode(codes, _width(rest))
        return rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _SplitSearcher(codes, shared, metric)


def _split(shared: Arrays) -> tuple[Array, Array]:
    wide = shared["dims"].astype(np.int64)
    return wide, np.setdiff1d(np.arange(int(shared["width"][0])), wide)


def _width(rest: Array) -> dict[str, Array]:
    return {"width": np.array([len(rest)], np.uint32)}


def _nothing(n: int) -> dict[str, Array]:
    return {"codes": np.empty((n, 0), np.uint8), "scale": np.zeros((n, 1), np.float16)}


class _SplitSearcher(ScanSearcher):
    """Add up inner products and squared norms of the two parts."""

    def __init__(self, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        self._dims, self._others = _split(shared)
        self._d = len(self._dims) + len(self._others)
        super().__init__(len(codes["wide"]), self._d, metric)
        self._wide = codes["wide"]
        rest = {"codes": codes["codes"], "scale": codes["scale"]}
        opened = REST.open(rest, _width(self._others), metric) if len(self._others) else None
        self._rest = cast(ScanSearcher | None, opened)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        rows, squares = self._wide_rows(part)
        dots = rows @ query[self._dims]
        if self._rest is not None:
            more, more_squares = self._rest._scan(query[self._others], part)
            dots += more
            squares += more_squares if self._norms else 0
        return dots, squares

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = np.empty((part.stop - part.start, self._d), np.float32)
        rows[:, self._dims], squares = self._wide_rows(part)
        if self._rest is not None:
            rows[:, self._others], more = self._rest._decode(part)
            squares += more if self._norms else 0
        return rows, squares

    def _wide_rows(self, part: slice) -> tuple[Array, Array]:
        rows = WIDE.decode({"codes": self._wide[part]}, {})
        return rows, squared_norms(rows) if self._norms else np.zeros(len(rows), np.float32)
