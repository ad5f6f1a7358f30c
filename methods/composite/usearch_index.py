"""A peer: the graph index of the usearch library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, width
from packbench.method import BUILD, Arrays, Hits, Method, Metric, Sample, Searcher
from packbench.methods.composite.estimate import Estimate, widest
from packbench.registry import register

METRICS: dict[Metric, str] = {"ip": "ip", "cosine": "cos", "l2": "l2sq"}
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "e4m3": 1, "i8": 1}


@register
@dataclass(frozen=True, slots=True)
class USearch(Method):
    """Search by the usearch library, an external peer: a graph over vectors in a shorter number format.

    USearch is by Ash Vardanian, Unum, 2023; the graph is that of Malkov, Yashunin, "Efficient and Robust Approximate
    Nearest Neighbor Search Using Hierarchical Navigable Small World Graphs", 2016. Needs the package usearch. What is
    weighed is the serialised index: vectors, graph, ids. `dtype` is one of f32, f16, bf16, e4m3 and i8; i8 scales
    every vector to unit length, so that it serves ip and l2 for unit vectors only. `expansion` is how many candidates a
    search keeps; one thread builds and searches.
    """

    name: ClassVar[str] = "usearch"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "peer"
    answers_whole: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("usearch",)
    paper: ClassVar[str] = (
        "Malkov, Yashunin, Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small "
        "World Graphs, 2016"
    )
    formula: ClassVar[str] = "serialised: d bytes of dtype + about 19 + 8 connectivity + 4 / connectivity per item"

    dtype: str = "f16"
    connectivity: int = 16
    expansion: int = 64

    def __post_init__(self) -> None:
        if self.dtype not in BYTES:
            raise ValueError(f"dtype={self.dtype!r}: expected one of {', '.join(BYTES)}")
        if self.connectivity < 2 or self.expansion < 1:
            raise ValueError(f"connectivity={self.connectivity}, expansion={self.expansion}: expected at least 2 and 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return widest(budget, [_kind("e4m3", 16), _kind("f16", 16), _kind("e4m3", 8), _kind("e4m3", 4)])

    def fit(self, sample: Sample) -> Arrays:
        from usearch.index import Index

        if sample.metric not in METRICS:
            raise BadInput(f"{self}: expected one of the metrics {', '.join(METRICS)}, got {sample.metric!r}")
        vectors = as_vectors(sample.items, "fit sample")
        if self.dtype == "i8" and sample.metric != "cosine":
            lengths = np.linalg.norm(vectors, axis=1)
            if not np.allclose(lengths, 1, atol=1e-3):
                raise BadInput(f"{self}: usearch scales i8 to unit length, which changes {sample.metric}; choose e4m3")
        index: Any = Index(
            ndim=width(vectors), metric=METRICS[sample.metric], dtype=self.dtype, connectivity=self.connectivity,
            enable_key_lookups=False,
        )  # fmt: skip
        return {BUILD + "empty": np.frombuffer(index.save(), np.uint8)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors, index = as_vectors(items), self._restored(shared[BUILD + "empty"])
        if vectors.shape[1] != index.ndim:
            raise BadInput(f"{self}: {vectors.shape[1]} coordinates do not match the {index.ndim} of the fit sample")
        if len(vectors):
            index.add(np.arange(len(vectors)), vectors, threads=1)
        return {"index": np.frombuffer(index.save(), np.uint8)}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        index = self._restored(codes["index"])
        if index.metric_kind.name.lower() != METRICS.get(metric):
            raise BadInput(f"{self}: this index was not fitted for the metric {metric!r}: fit again")
        index.expansion_search = self.expansion
        return _USearchSearcher(index)

    def _restored(self, serialised: Array) -> Any:
        from usearch.index import Index

        # An index without items does not remember its connectivity.
        return Index.restore(serialised.tobytes(), connectivity=self.connectivity, enable_key_lookups=False)


class _USearchSearcher:
    """Ask the library, one thread; what it leaves open is filled with -1."""

    def __init__(self, index: Any) -> None:
        self.kernel = f"usearch {index.hardware_acceleration}"
        self._index = index

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        if len(q) and len(self._index):
            found = self._index.search(q, min(k, len(self._index)), threads=1)
            # A single query is answered in one dimension, and cut; in a batch, what is missing has no distance.
            keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
            there = ~np.isnan(distances)
            ids[:, : keys.shape[1]] = np.where(there, keys.astype(np.int64), -1)
            scores[:, : keys.shape[1]] = np.where(there, -distances, np.float32(-np.inf))
        return Hits(ids, scores)


def _kind(dtype: str, connectivity: int) -> Callable[[int], Estimate]:
    # As serialised, with the upper levels of a graph of few items; a little more than the average.
    graph = 19 + 8 * connectivity + 24 / connectivity
    return lambda dim: Estimate(USearch(dtype, connectivity), BYTES[dtype] * dim + graph)
