"""Judge ids: tie-aware recall with the interval over legal orders, and relevance metrics from a standard evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pytrec_eval import RelevanceEvaluator

from packbench.dataset import Dataset
from packbench.errors import Disqualified
from packbench.exact import scores_of_pairs
from packbench.items import Array, Items
from packbench.method import Metric
from packbench.truth import DEPTH, Truth

CUTOFFS = (1, 10, 100)
RELATIVE_TOLERANCE = 1e-6
# By the names of trec_eval.
MEASURES = {"nDCG@10": "ndcg_cut_10", "MRR@10": "recip_rank", "Recall@100": "recall_100"}


def check_hits(ids: Array, n_queries: int, k: int, n: int) -> None:
    """Refuse answers that no honest search gives: wrong shape, ids that do not exist, the same id twice.

    Raises:
        Disqualified: the reason names the first query at fault.
    """
    if ids.shape != (n_queries, k):
        raise Disqualified(f"search returned ids of shape {ids.shape}, expected ({n_queries}, {k})")
    if ids.dtype.kind != "i":
        raise Disqualified(f"search returned ids of type {ids.dtype}, expected int64")
    outside = (ids < -1) | (ids >= n)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise Disqualified(f"search returned id {ids[row, column]} for query {row}; there are {n} items")
    ordered = np.sort(ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, column = np.argwhere(twice)[0]
        raise Disqualified(f"search returned duplicate ids: {ordered[row, column]} twice for query {row}")
    # A -1 stands for "nothing further", so that answers close up; n < k is the one honest reason for it in a full scan.
    if (np.diff((ids < 0).astype(np.int8), axis=1) < 0).any():
        raise Disqualified("search returned an id after a -1; -1 may only fill the end of a row")


@dataclass(frozen=True, slots=True, eq=False)
class Recall:
    """Hold for each query how many of its k answers are right, and the bounds over the legal orders of tied scores."""

    right: Array  # (n_queries,) int: ids whose true score reaches that of the k-th exact neighbour
    possible: int  # min(k, number of items)
    worst: Array
    expected: Array
    best: Array

    @property
    def per_query(self) -> Array:
        """Return recall per query, in [0, 1]."""
        return self.right / self.possible


class Judge:
    """Judge the answers to one set of queries against its truth."""

    def __init__(self, queries: Items, items: Items, metric: Metric, truth: Truth) -> None:
        self._queries, self._items, self._metric, self._truth = queries, items, metric, truth
        self._n = len(items)
        depth = truth.ids.shape[1]
        keys = np.arange(len(truth.ids))[:, None] * (self._n + 1) + truth.ids
        order = np.argsort(keys, axis=None)
        self._keys = keys.ravel()[order]
        self._scores = truth.scores.ravel()[order]
        last = truth.scores[:, depth - 1]
        # Only where scores tie through all spare candidates can an id outside them be right.
        self._open = np.flatnonzero(last >= self._floor(min(DEPTH, depth))) if self._n > depth else np.empty(0, int)

    def _floor(self, k: int) -> Array:
        at = self._truth.scores[:, k - 1]
        return np.asarray(at - RELATIVE_TOLERANCE * np.abs(at))

    def true_scores(self, ids: Array) -> Array:
        """Return exact float64 scores of ids; -inf for those known to be below every exact neighbour kept."""
        keys = np.arange(len(ids))[:, None] * (self._n + 1) + ids
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        scores = np.where((self._keys[at] == keys) & (ids >= 0), self._scores[at], -np.inf)
        if len(self._open):
            rows = self._open
            queries = self._queries[rows] if isinstance(self._queries, np.ndarray) else None
            if queries is not None:
                scores[rows] = scores_of_pairs(queries, self._items, ids[rows], self._metric)
            else:
                scores[:] = scores_of_pairs(self._queries, self._items, ids, self._metric)
        return np.asarray(scores)

    def recall(self, ids: Array, k: int, scores: Array | None = None) -> Recall:
        """Judge the first k ids of each query; with the method's own scores, also bound what ties leave open.

        The method's scores never decide what is right: they only say which of its answers it could not tell apart.
        """
        return self.recalls(ids, (k,), scores)[k]

    def recalls(self, ids: Array, cutoffs: Sequence[int], scores: Array | None = None) -> dict[int, Recall]:
        """Judge the same answers at several depths."""
        truly = self.true_scores(ids)
        found: dict[int, Recall] = {}
        for cutoff in cutoffs:
            k = min(cutoff, self._n)
            right = (truly >= self._floor(k)[:, None]) & (ids >= 0)
            counted = np.minimum(right[:, :k].sum(1), k)
            share = counted / k
            bounds = (share,) * 3 if scores is None else _tie_bounds(right, ids, scores, k, ids.shape[1] >= self._n)
            found[cutoff] = Recall(counted, k, *bounds)
        return found

    def share_right(self, rows: Array, ids: Array, k: int) -> float:
        """Return the share of answers (len(rows), at least k) to some of the queries, by row, that are right."""
        neighbours = np.where(
            self._truth.scores[rows] >= self._floor(min(k, self._n))[rows, None], self._truth.ids[rows], -2
        )
        right = (ids[:, :k, None] == neighbours[:, None, :]).any(2) & (ids[:, :k] >= 0)
        return float(right.sum(1).mean() / min(k, self._n))


def _tie_bounds(right: Array, ids: Array, scores: Array, k: int, complete: bool) -> tuple[Array, Array, Array]:
    """Return recall at k under the worst, the expected and the best legal order of equal scores.

    The answers tied with the k-th may stand in any order. Where the tied group runs past the deepest answer, its
    unseen part may hold anything, and the bounds say so.
    """
    boundary = scores[:, min(k, ids.shape[1]) - 1][:, None]
    valid = ids >= 0
    above = valid & (scores > boundary)
    tied = valid & (scores == boundary)
    certain = (right & above).sum(1)
    slots = np.minimum(k - above.sum(1), tied.sum(1))
    size, good = tied.sum(1), (right & tied).sum(1)
    cut = (tied[:, -1] & valid[:, -1]) & (not complete)
    worst = certain + np.where(cut, 0, np.maximum(0, slots - (size - good)))
    best = certain + np.where(cut, slots, np.minimum(slots, good))
    expected = certain + np.where(size > 0, slots * good / np.maximum(size, 1), 0)
    return worst / k, np.minimum(expected, k) / k, np.minimum(best, k) / k


def ranking(shallow: Array, deep: Array) -> Array:
    """Return the ids (n_queries, 10 + 100) whose relevance is judged, best first, -1 = none.

    Those are the answers of the search for 10, then what else the search for 100 answered.
    """
    known = (deep[:, :, None] == shallow[:, None, :]).any(2) & (deep >= 0)
    order = np.argsort(known, axis=1, kind="stable")
    return np.concatenate([shallow, np.take_along_axis(np.where(known, -1, deep), order, 1)], axis=1)


class Relevance:
    """Score rankings against relevance judgements with trec_eval, one evaluator for all methods of a data set."""

    def __init__(self, dataset: Dataset) -> None:
        qrels = dataset.qrels or {}
        self._documents: Sequence[str] = dataset.item_ids or ()
        self._queries: Sequence[str] = dataset.query_ids or ()
        self.judged = [row for row, query in enumerate(self._queries) if qrels.get(query)]
        self._evaluator = RelevanceEvaluator(
            {self._queries[row]: dict(qrels[self._queries[row]]) for row in self.judged},
            set(MEASURES.values()),
        )
        positions = {document: position for position, document in enumerate(self._documents)}
        pairs = [
            (row, positions[document])
            for row in self.judged
            for document, grade in qrels[self._queries[row]].items()
            if grade > 0 and document in positions
        ]
        self._relevant = np.array([row * len(self._documents) + item for row, item in pairs], np.int64)

    def per_query(self, ids: Array) -> dict[str, list[float]]:
        """Return each measure for each judged query, in the order of `judged`."""
        told = self._evaluator.evaluate(self._run(ids[:, :100]))
        nothing = dict.fromkeys(MEASURES.values(), 0.0)
        each = [told.get(self._queries[row], nothing) for row in self.judged]
        found = {name: [of[measure] for of in each] for name, measure in MEASURES.items()}
        # trec_eval cuts no reciprocal rank off.
        found["MRR@10"] = [value if value >= 1 / 10 else 0.0 for value in found["MRR@10"]]
        return found

    def _run(self, ids: Array) -> dict[str, dict[str, float]]:
        """Return the rankings down to the last relevant document: what follows it changes no measure."""
        keys = np.arange(len(ids))[:, None] * len(self._documents) + ids
        relevant = np.isin(keys, self._relevant) & (ids >= 0)
        depths = np.where(relevant.any(1), ids.shape[1] - np.argmax(relevant[:, ::-1], axis=1), 0)
        found: dict[str, dict[str, float]] = {}
        for row in self.judged:
            ranked = ids[row, : depths[row]]
            if len(ranked):
                found[self._queries[row]] = {self._documents[i]: -float(at) for at, i in enumerate(ranked) if i >= 0}
        return found
