"""Drop the items that are least likely to answer any query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import score_of, search_exact
from packbench.items import Array, as_vectors, blocks
from packbench.method import Arrays, Method, Metric, Sample
from packbench.methods.rows.pruning import FORMULA, Pruner, check_keep, nearest, pruned
from packbench.registry import register

RULES = ("occurrence", "norm", "quality")
METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")  # by the number that fit writes down
MOST_QUERIES = 5000
BLOCK_BYTES = 64 << 20


@register
@dataclass(frozen=True, slots=True)
class StaticPrune(Pruner):
    """Drop, before any query is known, the items of least quality, and code the others alone.

    Chang, Mishra, Macdonald, MacAvaney, "Neural Passage Quality Estimation for Static Pruning", 2024. Its estimator
    reads text. With by="quality" the estimates come with the fit sample as its weights, and another item is taken to
    be as good as the nearest of the sample. The other rules know vectors alone. "occurrence" counts the queries of
    the fit sample (its items, where it has none) whose `k` nearest items of the sample an item would be among
    (Radovanović, Nanopoulos, Ivanović, "Hubs in Space", 2010); of equal counts, the item that stands highest in one
    list, or nearest below one, ranks first. "norm" keeps the longest vectors, which is of use for inner products only.
    """

    name: ClassVar[str] = "static_prune"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Chang, Mishra, Macdonald, MacAvaney, Neural Passage Quality Estimation for Static Pruning, 2024"
    )
    formula: ClassVar[str] = FORMULA

    code: Method
    keep: float = 0.5
    by: str = "occurrence"
    k: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.by not in RULES:
            raise ValueError(f"by={self.by!r}: expected one of {', '.join(RULES)}")
        if self.k < 1:
            raise ValueError(f"k={self.k}: expected at least 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return pruned(budget, [(keep, cls) for keep in (0.9, 0.75, 0.5)])

    def needed(self) -> frozenset[str]:
        return frozenset({"weights"} if self.by == "quality" else ())

    def learn(self, vectors: Array, sample: Sample) -> tuple[Arrays, Array]:
        if self.by == "occurrence":
            return self._learn_occurrence(vectors, sample)
        if self.by == "quality":
            weights = np.asarray(sample.extras["weights"], np.float64)
            if weights.shape != (len(vectors),):
                raise BadInput(f"{self}: {len(vectors)} items of the fit sample have weights of shape {weights.shape}")
            return {"vectors": vectors, "weights": weights}, weights
        return {}, self.scores(vectors, {})

    def scores(self, vectors: Array, learned: Arrays) -> Array:
        if self.by == "norm":
            return np.asarray(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        if self.by == "quality":
            return np.asarray(learned["weights"][nearest(vectors, learned["vectors"])])
        return _occurrence(vectors, learned["queries"], learned["floors"], METRICS[int(learned["metric"][0])])

    def _learn_occurrence(self, vectors: Array, sample: Sample) -> tuple[Arrays, Array]:
        if sample.metric not in METRICS:
            raise BadInput(f"{self}: expected one of the metrics {', '.join(METRICS)}, got {sample.metric!r}")
        apart = sample.queries is not None and len(sample.queries) > 0
        queries = as_vectors(sample.queries, "fit queries") if apart else vectors
        chosen = np.arange(len(queries))
        if len(queries) > MOST_QUERIES:
            chosen = np.sort(np.random.default_rng(self.seed).choice(len(queries), MOST_QUERIES, replace=False))
        # An item that stands in for a query finds itself first, which no new item will.
        k = min(self.k + (not apart), len(vectors))
        floors = search_exact(queries[chosen], vectors, sample.metric, k).scores[:, -1]
        # What stands on a floor is counted however its score is rounded in another batch.
        floors -= 1e-6 * np.abs(floors)
        learned = {"queries": queries[chosen], "floors": floors, "metric": np.array([METRICS.index(sample.metric)])}
        own = None if apart else chosen
        return learned, _occurrence(vectors, learned["queries"], floors, sample.metric, own)


def _occurrence(vectors: Array, queries: Array, floors: Array, metric: Metric, own: Array | None = None) -> Array:
    """Return how many queries score a vector no lower than their floor, plus its best margin, brought to -1 to 1.

    own[q] is the vector that query q is, which is not counted.
    """
    found = np.empty(len(vectors))
    for part in blocks(len(vectors), max(1, BLOCK_BYTES // (4 * len(queries)))):
        margins = score_of(metric)(vectors[part], queries) - floors
        if own is not None:
            here = (own >= part.start) & (own < part.stop)
            margins[own[here] - part.start, here] = -np.inf
        best = np.maximum(margins.max(axis=1).astype(np.float64), -1e30)
        found[part] = (margins >= 0).sum(axis=1) + best / (1 + np.abs(best))
    return found
