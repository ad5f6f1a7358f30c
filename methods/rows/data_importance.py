"""Drop the items whose presence adds least to the utility of judged answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.items import Array, as_vectors, blocks
from packbench.method import Arrays, Method, Sample
from packbench.methods.rows.pruning import FORMULA, Pruner, check_keep, nearest, pruned, uniform_hash
from packbench.registry import register

JITTER = 1e-6  # orders items of equal importance at random, so that a threshold among them keeps its share
BLOCK = 4096  # queries whose states are held at a time


@register
@dataclass(frozen=True, slots=True)
class DataImportance(Pruner):
    """Drop the items with the least learned importance: what their presence adds to the utility of judged answers.

    Lyu, Grafberger, Biegel, Wei, Cao, Schelter, Zhang, "Improving Retrieval-Augmented Large Language Models via Data
    Importance Learning", 2023. An item is present with a probability, its importance; the utility of a query is the
    share of relevant ones (those paired with it) among the first `k` items present in its exact ranking, which is cut
    at `depth`. `steps` of projected gradient ascent on the expected utility of the fit sample's queries, from 1/2,
    move the greatest gradient by `rate`. Gradients are exact. Importance belongs to the items of the fit sample;
    any other item is given that of the nearest, which goes beyond the paper, unless the items searched are the sample.
    """

    name: ClassVar[str] = "data_importance"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    needs: ClassVar[frozenset[str]] = frozenset({"queries", "pairs"})
    paper: ClassVar[str] = (
        "Lyu, Grafberger, Biegel, Wei, Cao, Schelter, Zhang, Improving Retrieval-Augmented Large Language Models via "
        "Data Importance Learning, 2023"
    )
    formula: ClassVar[str] = FORMULA

    code: Method
    keep: float = 0.5
    k: int = 10
    depth: int = 200
    steps: int = 30
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.k < 1 or self.depth < 1 or self.steps < 1:
            raise ValueError(f"k, depth and steps are at least 1, got {self.k}, {self.depth} and {self.steps}")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate:g}: expected more than 0")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return pruned(budget, [(keep, cls) for keep in (0.9, 0.75, 0.5)])

    def learn(self, vectors: Array, sample: Sample) -> tuple[Arrays, Array]:
        if sample.queries is None or "pairs" not in sample.extras:
            raise BadInput(f"{self}: expected queries and pairs of (query, item) rows with the fit sample")
        queries = as_vectors(sample.queries, "fit queries")
        pairs = np.asarray(sample.extras["pairs"], np.int64).reshape(-1, 2)
        if len(pairs) == 0 or pairs.min() < 0 or (pairs.max(axis=0) >= (len(queries), len(vectors))).any():
            raise BadInput(
                f"{self}: expected pairs of rows of {len(queries)} queries and {len(vectors)} items of the fit sample"
            )
        judged, row = np.unique(pairs[:, 0], return_inverse=True)
        ranking = search_exact(queries[judged], vectors, sample.metric, min(self.depth, len(vectors))).ids
        relevant = np.isin(np.arange(len(judged))[:, None] * len(vectors) + ranking, row * len(vectors) + pairs[:, 1])
        importance = np.full(len(vectors), 0.5)
        for _ in range(self.steps):
            gradient = np.zeros(len(vectors))
            for part in blocks(len(ranking), BLOCK):
                found = utility_gradient(importance[ranking[part]], relevant[part], self.k)
                np.add.at(gradient, ranking[part], found)
            greatest = np.abs(gradient).max()
            if greatest == 0:
                break
            importance = np.clip(importance + self.rate * gradient / greatest, 0, 1)
        learned = {"vectors": vectors, "importance": importance}
        return learned, self.scores(vectors, learned)

    def scores(self, vectors: Array, learned: Arrays) -> Array:
        importance = learned["importance"][nearest(vectors, learned["vectors"])]
        return np.asarray(importance + JITTER * uniform_hash(vectors, self.seed))


def utility_gradient(present: Array, utility: Array, k: int) -> Array:
    """Return the gradient (q, depth) of each query's expected utility by the probability that an item is present.

    present and utility (q, depth) belong to the items of each ranking, best first; the utility of a query is the sum
    over its first k present items, divided by k. How many of the items so far are present is a chain of states 0 to
    k - 1 (more is an end): their probabilities go forward along the ranking, the utility still to come goes back.
    """
    queries, depth = present.shape
    counts = np.zeros((depth + 1, queries, k))  # counts[r, :, c]: c of the first r are present
    counts[0, :, 0] = 1
    for rank in range(depth):
        p = present[:, rank, None]
        counts[rank + 1] = counts[rank] * (1 - p)
        counts[rank + 1, :, 1:] += counts[rank, :, :-1] * p
    gradient = np.empty((queries, depth))
    ahead = np.zeros((queries, k + 1))  # expected from here on, by how many are present already
    for rank in range(depth - 1, -1, -1):
        p = present[:, rank, None]
        gain = utility[:, rank, None] / k + ahead[:, 1:] - ahead[:, :-1]
        gradient[:, rank] = (counts[rank] * gain).sum(axis=1)
        ahead[:, :-1] += p * gain
    return gradient
