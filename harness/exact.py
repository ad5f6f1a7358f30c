"""Score exactly: the metrics, blocked search at BLAS speed, and the searchers that every codec gets for free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array, Items, Ragged, as_vectors, blocks, width
from packbench.method import Arrays, Hits, Metric, Searcher, rows_of
from packbench.topk import TopK

if TYPE_CHECKING:
    from packbench.method import Codec

BLOCK_BYTES = 16 << 20  # scores of one block stay in cache, and memory stays bounded at any n


class Score(Protocol):
    """Score every item for every query, (n_queries, n), higher is better."""

    def __call__(self, queries: Items, items: Items) -> Array: ...


def _ip(queries: Items, items: Items) -> Array:
    return cast(Array, cast(Array, queries) @ cast(Array, items).T)


def _unit(vectors: Array) -> Array:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return cast(Array, vectors / np.where(norms > 0, norms, 1))


def _cosine(queries: Items, items: Items) -> Array:
    return cast(Array, _unit(cast(Array, queries)) @ _unit(cast(Array, items)).T)


def _l2(queries: Items, items: Items) -> Array:
    q, x = cast(Array, queries), cast(Array, items)
    scores = q @ x.T
    scores *= 2
    scores -= np.einsum("ij,ij->i", x, x)
    scores -= np.einsum("ij,ij->i", q, q)[:, None]
    return scores


def _maxsim(queries: Items, items: Items) -> Array:
    q, x = cast(Ragged, queries), cast(Ragged, items)
    products = q.values[: q.offsets[-1]] @ x.values[: x.offsets[-1]].T
    best = _reduced(np.maximum, products.T, x.offsets, -np.inf)
    return _reduced(np.add, best.T, q.offsets, 0.0)


def _reduced(how: np.ufunc, values: Array, offsets: Array, empty: float) -> Array:
    """Reduce stretches of rows; an empty one gives `empty`, where reduceat would give it the value that follows."""
    found = np.full((len(offsets) - 1, values.shape[1]), empty, values.dtype)
    filled = np.diff(offsets) > 0
    if filled.any():
        found[filled] = how.reduceat(values, offsets[:-1][filled], axis=0)
    return found


# Squared distances are negated, so that higher is better everywhere.
METRICS: dict[Metric, Score] = {"ip": _ip, "cosine": _cosine, "l2": _l2, "maxsim": _maxsim}


def score_of(metric: Metric) -> Score:
    """Return the scorer of a metric, or say which there are."""
    try:
        return METRICS[metric]
    except KeyError:
        raise BadInput(f"no metric {metric!r}; there are {', '.join(METRICS)}") from None


def vectors_as_scored(vectors: Array, metric: Metric) -> Array:
    """Return vectors (n, d) as a metric sees them: of unit length for cosine."""
    return _unit(vectors) if metric == "cosine" else vectors


def search_exact(queries: Items, items: Items, metric: Metric, k: int) -> Hits:
    """Return the k best items of each query by float32 scores, in blocks of bounded memory."""
    score, kept, asked = score_of(metric), TopK(len(queries), k), as_float32(queries)
    rows = min(BLOCK_BYTES // (4 * max(len(queries), 1)), 4 * BLOCK_BYTES // (4 * width(items)))
    for part in blocks(len(items), max(1024, rows)):
        kept.add(score(asked, as_float32(items[part])), part.start)
    return kept.hits()


def as_float32(items: Items) -> Items:
    """Return float vectors as methods are given them; other values as they are."""
    if isinstance(items, Ragged):
        wide = items.values.dtype.kind == "f" and items.values.dtype != np.float32
        return Ragged(items.values.astype(np.float32), items.offsets) if wide else items
    return np.asarray(items, np.float32)


def scores_of_pairs(queries: Items, items: Items, ids: Array, metric: Metric) -> Array:
    """Return the float64 scores (n_queries, k) of chosen ids; -inf where the id is -1."""
    found = np.full(ids.shape, -np.inf)
    if isinstance(items, Ragged) or isinstance(queries, Ragged):
        score = score_of(metric)
        for row in range(len(ids)):
            query = _float64(queries[row : row + 1])
            for column, item in enumerate(ids[row]):
                if item >= 0:
                    found[row, column] = score(query, _float64(items[int(item) : int(item) + 1]))[0, 0]
        return found
    for row, query in enumerate(np.asarray(queries, np.float64)):
        kept = ids[row] >= 0
        x = np.asarray(items[ids[row][kept]], np.float64)
        if metric == "l2":
            found[row, kept] = -np.einsum("ij,ij->i", x - query, x - query)
        else:
            found[row, kept] = score_of(metric)(query[None], x)[0]
    return found


def _float64(items: Items) -> Items:
    if isinstance(items, Ragged):
        return Ragged(items.values.astype(np.float64), items.offsets)
    return items.astype(np.float64)


class ExactSearcher:
    """Search float32 vectors (n, d) at BLAS speed, with what the metric needs of each item computed once."""

    kernel = "blas float32"

    def __init__(self, vectors: Array, metric: Metric) -> None:
        score_of(metric)
        self._vectors = _unit(vectors) if metric == "cosine" else np.ascontiguousarray(vectors, np.float32)
        self._half_norms = np.einsum("ij,ij->i", vectors, vectors) / 2 if metric == "l2" else None

    def search(self, queries: Items, k: int) -> Hits:
        # The query's own norm shifts or scales all its scores alike, so it is left out of cosine and l2.
        q = as_vectors(queries, "queries")
        kept = TopK(len(q), k)
        for part in blocks(len(self._vectors), max(1024, BLOCK_BYTES // (4 * max(len(q), 1)))):
            x = self._vectors[part]
            # A matrix-vector product is a single pass over x; sgemm with one row is not.
            scores = (x @ q[0])[None] if len(q) == 1 else q @ x.T
            if self._half_norms is not None:
                scores -= self._half_norms[part]
            kept.add(scores, part.start)
        return kept.hits()


class DecodeSearcher:
    """Decode a block of codes, score it exactly, keep the best: right for every codec, fast for none."""

    kernel = "decode"
    rows = 4096

    def __init__(self, codec: Codec, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        self._codec, self._codes, self._shared = codec, dict(codes), shared
        self._score = score_of(metric)
        lengths = {len(array) if array.ndim else 1 for array in codes.values()}
        self._n = lengths.pop() if len(lengths) == 1 else None  # lengths differ: values and offsets, decoded whole

    def search(self, queries: Items, k: int) -> Hits:
        kept = TopK(len(queries), k)
        if self._n is None:
            kept.add(self._score(queries, self._codec.decode(self._codes, self._shared)), 0)
            return kept.hits()
        for part in blocks(self._n, self.rows):
            vectors = self._codec.decode(rows_of(self._codes, part), self._shared)
            kept.add(self._score(queries, vectors), part.start)
        return kept.hits()


class ScoreSearcher:
    """Search items of any kind by the metric's own scorer, in blocks."""

    kernel = "exact scores"

    def __init__(self, items: Items, metric: Metric) -> None:
        score_of(metric)
        self._items, self._metric = items, metric

    def search(self, queries: Items, k: int) -> Hits:
        return search_exact(queries, self._items, self._metric, k)


def reference(
    n: int, d: int, metric: Metric, values: int | None = None, seed: int = 0, limit_bytes: int = 1 << 30
) -> tuple[Searcher, float]:
    """Return an exact search over random float32 items, and how much its times are to be scaled up.

    Time does not depend on the values, so the originals need not enter the process that is timed; where n items would
    pass the limit, a slice is searched and its time scaled. `values` is the number of vectors in all where an item is
    several of them.
    """
    rng = np.random.default_rng(seed)
    per_item = 1 if values is None else max(1, round(values / max(n, 1)))
    rows = max(1, min(n, limit_bytes // (4 * d * per_item)))
    vectors = rng.standard_normal((rows * per_item, d), dtype=np.float32)
    if values is None:
        # Cosine scans as ip does once items have unit length; to make it so would take the memory of another copy.
        return ExactSearcher(vectors, "ip" if metric == "cosine" else metric), n / rows
    return ScoreSearcher(Ragged(vectors, np.arange(rows + 1, dtype=np.int64) * per_item), metric), n / rows
