"""Product quantisation: cut vectors into blocks and code each block by its nearest centroid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import (
    IndexSearcher,
    assign,
    check_metric,
    decode,
    fit_vectors,
    gathered,
    item_vectors,
    open_product,
    product_quantiser,
    spread,
)
from packbench.methods.codebook.kmeans import train
from packbench.registry import register

SCANS = ("auto", "rounded", "float")


@register
@dataclass(frozen=True, slots=True)
class PQ(Codec):
    """Cut vectors into m blocks and keep, for each block, the index of its nearest of 2^bits centroids.

    Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", 2011. Centroids come from stepwise k-means
    on at most 256 rows each. Where m does not divide d, blocks are as equal as can be and padded with zeros to
    ceil(d/m) coordinates, which the codebook pays for. Queries stay float: a table of their products (l2: distances)
    with all centroids is summed up by code. Up to 8 bits, sums of tables rounded to bytes bound all scores, and what
    may be among the best is scored by the float tables. Under cosine, unit vectors are coded.

    `scan` is "auto", or says how 4-bit codes are scanned: "rounded" takes FastScan's order as it is, at FastScan's own
    speed; "float" sums float tables. FastScan holds codes in blocks of 32 items, at most 31 more than there are.
    """

    name: ClassVar[str] = "pq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Jégou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, 2011"
    formula: ClassVar[str] = "ceil(m bits / 8) per item; shared 4 · 2^bits m ceil(d/m) + 5"

    m: int
    bits: int = 8
    seed: int = 0
    scan: str = "auto"

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.scan not in SCANS:
            raise ValueError(f"scan={self.scan!r}: expected one of {', '.join(SCANS)}")
        if self.scan != "auto" and self.bits != 4:
            raise ValueError(f"scan={self.scan!r}: expected bits=4, whose codes have several ways, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        # The largest m that fits at 8 bits, then at 4: coarser in each block, but sixteen times less codebook.
        largest = (next((cls(m, bits) for m in range(budget.d, 0, -1) if _fits(cls(m, bits), budget)), cls(1, bits))
                   for bits in (8, 4))  # fmt: skip
        return budget.fitting(largest)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(-(-self.m * self.bits // 8)), 4.0 * 2**self.bits * self.m * -(-d // self.m) + 5, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        d = vectors.shape[1]
        if self.m > d:
            raise BadInput(f"{self}: vectors of {d} coordinates make at most {d} blocks; choose m up to that")
        codebook = train(spread(vectors, self.m), self.m, self.bits, self.seed)
        return {"codebook": codebook, "d": np.array([d], np.int32), "unit": is_unit}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": assign(item_vectors(items, int(shared["d"][0]), shared["unit"]), shared["codebook"])}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return gathered(decode(codes["codes"], shared["codebook"]), self.m, int(shared["d"][0]))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if self.scan == "auto" or not len(codes["codes"]):
            return open_product(codes["codes"], shared["codebook"], metric, lambda queries: spread(queries, self.m))
        return self._opened(codes["codes"], shared["codebook"], metric)

    def _opened(self, codes: Array, codebook: Array, metric: Metric) -> IndexSearcher:
        """Return a searcher that scans 4-bit codes in one way, and no more."""
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.IndexPQ(codebook.shape[0] * codebook.shape[2], self.m, self.bits, measure)
        index.pq, index.is_trained = product_quantiser(codebook), True
        index.add_sa_codes(np.ascontiguousarray(codes))
        table_bytes = 4 * self.m << self.bits
        if self.scan == "float":
            return IndexSearcher(index, "faiss PQ look-up", lambda queries: spread(queries, self.m), table_bytes)
        fast: Any = faiss.IndexPQFastScan(index)
        kernel = "faiss FastScan 4 bit, rounded"
        return RoundedSearcher(fast, kernel, lambda queries: spread(queries, self.m), table_bytes)


class RoundedSearcher(IndexSearcher):
    """Take the order in which faiss FastScan puts items by tables rounded to 8 bits."""

    def _best(self, q: Array, k: int) -> tuple[Array, Array]:
        scores, ids = super()._best(q, k)
        # faiss names no item whose rounded score is the lowest there is: none at all for a query of zeros.
        for row in np.flatnonzero(ids[:, -1] < 0):
            listed = ids[row][ids[row] >= 0]
            others = np.setdiff1d(np.arange(min(2 * k, self._index.ntotal)), listed)
            scores[row, len(listed) :] = scores[row, len(listed) - 1] if len(listed) else 0
            ids[row, len(listed) :] = others[: k - len(listed)]
        return scores, ids


def check_sizes(m: int, bits: int) -> None:
    """Refuse numbers of blocks and bits that can never work."""
    if m < 1:
        raise ValueError(f"m={m}: expected at least 1 block")
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 1 to 16")


def _fits(method: PQ, budget: Budget) -> bool:
    return budget.holds(*method.planned_bytes(budget.d))
