"""Code directions about a centre by a few bits per coordinate, with factors that make the estimate unbiased."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, width
from packbench.method import Arrays, Hits, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import code_bytes
from packbench.methods.binary.linear import mean_of, project, random_rotation, unit_if
from packbench.registry import register

METRICS = ("ip", "l2", "cosine")  # by the number that fit writes down


@register
@dataclass(frozen=True, slots=True)
class RaBitQ(Method):
    """Keep a few bits per coordinate of the randomly rotated residual, and factors for an unbiased estimate of scores.

    Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
    Neighbor Search, 2024 (1 bit); Gao et al., Practical and Asymptotically Optimal Quantization of High-Dimensional
    Vectors in Euclidean Space for Approximate Nearest Neighbor Search, 2024 (2 to 8 bits). One centre, the mean of
    the fit sample; under cosine vectors are normalised first. The rotation is dense and weighed. Codes, factors and
    scores are faiss's: they are never decoded, for faiss decodes the sign bits alone. The query is rounded to
    `query_bits` where signs are scanned; the other bits meet the float query, for items that the signs' error bound
    does not rule out. Codes made for one metric do not serve another. Under l2 at 1 bit faiss cuts estimates off
    at 0, so very near items can tie.
    """

    name: ClassVar[str] = "rabitq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate "
        "Nearest Neighbor Search, 2024"
    )
    formula: ClassVar[str] = (
        "1 bit: ceil(d/8) + 8 per item; more (faiss's layout; the paper's needs + 8): "
        "ceil(d/8) + ceil(d(bits-1)/8) + 20; shared 4(d² + d) + 1"
    )

    bits: int = 1
    query_bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: expected 1 to 8")
        if not 1 <= self.query_bits <= 8:
            raise ValueError(f"query_bits={self.query_bits}: expected 1 to 8")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(bits) for bits in range(8, 0, -1)), 1)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        more = code_bytes(d * (self.bits - 1)) + 12 if self.bits > 1 else 0
        return float(code_bytes(d) + 8 + more), 4.0 * (d * d + d) + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        if sample.metric not in METRICS:
            raise BadInput(f"{self}: no estimate for metric {sample.metric!r}; there are {', '.join(METRICS)}")
        rotation = random_rotation(width(sample.items), self.seed)
        x = unit_if(_is_cosine(sample.metric), as_vectors(cast(Array, sample.items)))
        return {
            "rotation": rotation,
            "centre": mean_of(x) @ rotation,
            "metric": np.array([METRICS.index(sample.metric)], np.uint8),
        }

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = unit_if(_is_cosine(METRICS[int(shared["metric"][0])]), as_vectors(items))
        return {"codes": self._index(shared).sa_encode(project(x, shared["rotation"]))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        coded_for = METRICS[int(shared["metric"][0])]
        if metric != coded_for:
            raise BadInput(
                f"{self}: these codes were made for metric {coded_for!r} and cannot be searched by {metric!r}: "
                "fit and encode again with that metric"
            )
        index = self._index(shared)
        faiss.copy_array_to_vector(np.ascontiguousarray(codes["codes"]).ravel(), index.codes)
        index.ntotal = len(codes["codes"])
        return RaBitQSearcher(index, shared["rotation"], _is_cosine(metric), self.query_bits)

    def _index(self, shared: Arrays) -> Any:
        """Return an empty faiss index of rotated vectors that knows the centre."""
        measure = faiss.METRIC_L2 if METRICS[int(shared["metric"][0])] == "l2" else faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.IndexRaBitQ(len(shared["centre"]), measure, self.bits)
        faiss.copy_array_to_vector(np.ascontiguousarray(shared["centre"]), index.center)
        index.is_trained, index.qb = True, self.query_bits
        return index


class RaBitQSearcher:
    """Rank by faiss's RaBitQ estimates of rotated queries."""

    def __init__(self, index: Any, rotation: Array, unit: Array, query_bits: int) -> None:
        self._index, self._rotation, self._unit = index, rotation, unit
        self.kernel = f"faiss RaBitQ, query at {query_bits} bits"

    def search(self, queries: Items, k: int) -> Hits:
        q = np.ascontiguousarray(unit_if(self._unit, as_vectors(queries, "queries")) @ self._rotation)
        ids = np.full((len(q), k), -1, np.int64)
        scores = np.full((len(q), k), -np.inf, np.float32)
        found = min(k, self._index.ntotal)
        if found and len(q):
            estimates, labels = self._index.search(q, found)
            ids[:, :found] = labels
            estimates = -estimates if self._index.metric_type == faiss.METRIC_L2 else estimates
            scores[:, :found] = np.where(labels >= 0, estimates, np.float32(-np.inf))
        return Hits(ids, scores)


def _is_cosine(metric: Metric) -> Array:
    return np.array([metric == "cosine"], np.uint8)
