"""Inverted lists in front of any code: a query looks at the items of the nearest cells alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import COLD, Arrays, Hits, Method, Metric, Sample, Searcher, nest, rows_of, unnest
from packbench.methods.codebook.adc import blas_distances, check_metric, fit_vectors, item_vectors
from packbench.methods.codebook.opq import OPQ
from packbench.registry import register

ID_BYTES = 4
FOUND_BYTES = 16 << 20  # what the lists of a batch of queries find, before it is merged
JOINED = 4096  # items in the lists of a query, up to which opening them takes less time than tables for each list
ROUNDED = 512  # rows to which a searcher may round those of a list up


@register
@dataclass(frozen=True, slots=True)
class IVF(Method):
    """Divide the items among lists by k-means and search for a query only the `nprobe` lists of nearest centroids.

    Sivic, Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in Videos", 2003, around any method
    that keeps one row of codes per item, searched list by list by its own searcher. Codes are of the items themselves,
    not of residuals, so that nprobe=nlist answers as the code alone. What it saves is time, for four bytes per item:
    encode writes the number of an item's list, and search, which keeps the codes in the order of the lists, needs the
    item's id in its place. Empty lists are passed over. To rescore from disk, put this inside: rescore(ivf(sign()),
    int8(), tier="disk").
    """

    name: ClassVar[str] = "ivf"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    answers_whole: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Sivic, Zisserman, Video Google: A Text Retrieval Approach to Object Matching in Videos, 2003"
    )
    formula: ClassVar[str] = "the code's + 4 per item; shared the code's + 4 nlist d + 1"

    code: Method
    nlist: int = 64
    nprobe: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.nprobe <= self.nlist:
            raise ValueError(f"nprobe={self.nprobe}, nlist={self.nlist}: expected 1 <= nprobe <= nlist")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        own = ID_BYTES + cls(OPQ(1)).own_shared_bytes(budget.d) / budget.n
        try:
            codes = list(OPQ.for_budget(Budget(max(budget.bytes_per_item - own, 1e-9), budget.n, budget.d)))
        except BudgetTooSmall as error:
            raise BudgetTooSmall(error.least + own) from None
        return [cls(code) for code in codes]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, cold = self.code.planned_bytes(d)
        return item + ID_BYTES, shared + self.own_shared_bytes(d), cold

    def own_shared_bytes(self, d: int) -> float:
        """Return the bytes of the centroids and of what tells encode whether to normalise."""
        return 4.0 * self.nlist * d + 1

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        if len(vectors) < self.nlist:
            raise BadInput(f"{self}: {self.nlist} lists need a fit sample of at least as many rows, got {len(vectors)}")
        means: Any = faiss.Kmeans(
            vectors.shape[1], self.nlist, niter=25, seed=self.seed & 0x7FFFFFFF, spherical=bool(is_unit[0]),
            min_points_per_centroid=1, max_points_per_centroid=256,
        )  # fmt: skip
        with blas_distances():
            means.train(vectors)
        return {"centroids": means.centroids, "unit": is_unit} | nest(self._part(), self.code.fit(sample))

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        centroids = shared["centroids"]
        vectors = item_vectors(items, centroids.shape[1], shared["unit"])
        lists = np.zeros(len(vectors), np.uint32)
        with blas_distances():
            if len(vectors):
                lists[:] = faiss.knn(vectors, centroids, 1)[1][:, 0]
        codes = self.code.encode(items, unnest(self._part(), shared))
        for name, array in codes.items():
            if name.startswith(COLD) or array.shape[:1] != lists.shape:
                raise BadInput(f"{self}: lists need one row of codes per item in memory, which {name!r} does not have")
        return {"lists": lists} | nest(self._part(), codes)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        return _ListSearcher(self, self._part(), codes, shared, metric)

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        mine = unnest(self._part(), codes), unnest(self._part(), shared), metric
        return {**self.code.stages(*mine), "scan": self.code.open(*mine)}

    def _part(self) -> str:
        return f"0.{self.code.name}"


class _ListSearcher:
    """Search the lists that a batch asks for, one after the other, and merge what they find.

    Lists are views of codes sorted by list. Those are open from the start, unless they could outweigh the codes, for a
    searcher may copy what is shared and round its rows up, and nobody weighed that for each list: then lists are opened
    when searched, and short ones together, query by query.
    """

    def __init__(self, method: IVF, part: str, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        lists = codes["lists"]
        self._ids = np.argsort(lists, kind="stable").astype(np.uint32)
        occupied, starts = np.unique(lists[self._ids], return_index=True)
        self._ends = [*starts.tolist(), len(lists)]
        self._centroids = shared["centroids"][occupied]
        self._codes = {name: array[self._ids] for name, array in unnest(part, codes).items()}
        self._shared = unnest(part, shared)
        self._method, self._metric, self._score = method, metric, score_of(metric)
        self._nprobe = min(method.nprobe, len(occupied))
        self.kernel = f"{self._nprobe} lists, {getattr(self._opened(slice(0, 1)), 'kernel', 'unstated')}"
        self._lists: list[Searcher] = []
        rounded = ROUNDED * _weight(self._codes) / max(len(lists), 1)
        if len(occupied) * max(_weight(self._shared), rounded) <= _weight(self._codes):
            self._lists = [self._opened(self._rows(number)) for number in range(len(occupied))]
            self._codes = {}

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        if self._nprobe:
            for part in blocks(len(q), max(1, FOUND_BYTES // (12 * self._nprobe * max(k, 1)))):
                ids[part], scores[part] = self._best(q[part], k)
        return Hits(ids, scores)

    def _best(self, q: Array, k: int) -> tuple[Array, Array]:
        """Return ids and scores (n_queries, k) of the best items of the lists nearest to each query."""
        distances = -self._score(q, self._centroids)
        nearest = np.argpartition(distances, self._nprobe - 1, axis=1)[:, : self._nprobe]
        if not self._lists and self._nprobe * len(self._ids) <= JOINED * len(self._centroids):
            return self._joined(q, nearest, k)
        probed = nearest.ravel()
        found = np.empty((len(probed), k), np.int64)
        scores = np.empty((len(probed), k), np.float32)
        order = np.argsort(probed, kind="stable")
        asked, starts = np.unique(probed[order], return_index=True)
        for number, places in zip(asked.tolist(), np.split(order, starts[1:]), strict=True):
            rows = self._rows(number)
            searcher = self._lists[number] if self._lists else self._opened(rows)
            hits = searcher.search(q[places // self._nprobe], k)
            found[places], scores[places] = np.where(hits.ids >= 0, hits.ids + rows.start, -1), hits.scores
        ids = np.where(found >= 0, self._ids[found], np.int64(-1)).reshape(len(q), -1)
        scores = scores.reshape(len(q), -1)
        best = np.lexsort((ids, -scores), axis=1)[:, :k]  # of equal scores the lower id first
        return np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1)

    def _joined(self, q: Array, nearest: Array, k: int) -> tuple[Array, Array]:
        """Return ids and scores (n_queries, k) of a search in the lists (n_queries, nprobe) of each query as one."""
        found = []
        for row, numbers in enumerate(nearest.tolist()):
            places = np.concatenate([np.arange(self._ends[number], self._ends[number + 1]) for number in numbers])
            places = places[np.argsort(self._ids[places])]  # of equal scores the lower id first
            hits = self._opened(places).search(q[row : row + 1], k)
            found.append((np.where(hits.ids >= 0, self._ids[places][hits.ids], np.int64(-1)), hits.scores))
        ids, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ids, scores

    def _rows(self, number: int) -> slice:
        return slice(self._ends[number], self._ends[number + 1])

    def _opened(self, rows: slice | Array) -> Searcher:
        return self._method.code.open(rows_of(self._codes, rows), self._shared, self._metric)


def _weight(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
