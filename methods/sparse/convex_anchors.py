"""Write vectors as convex combinations of a few anchors."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import DecodeSearcher
from packbench.factors import generator
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_queries, map_rows, rule_of
from packbench.methods.projection.moments import directed, learnable
from packbench.methods.sparse.autoencoder import fit_rows, sizes
from packbench.methods.sparse.support import (
    HALF,
    SparseSearcher,
    densify,
    pack_index,
    packed_index_bytes,
    top_k_rows,
    unpack_index,
)
from packbench.registry import register

ANCHORS = ("kmeans", "random")
WEIGHTS = ("softmax", "least_squares")
WHOLE = 255  # what the weights of an item, a byte each, add up to
ROWS = 1024
STEPS = 50  # of each descent


@register
@dataclass(frozen=True, slots=True)
class ConvexAnchors(Codec):
    """Keep the k most probable of a set of anchors, and their probabilities in a byte each.

    An anchor's probability is the softmax of minus its squared distance over a temperature, that of least squared error
    on the fit sample. This stands in for the paper's classifier, and the anchors, centres of k-means or rows of the
    sample, for the embeddings of its classes. The k greatest are scaled to add up to one. weights="least_squares", an
    addition, takes a convex combination of k anchors that comes nearest to the vector, as far as projected gradient
    descent finds it. Under cosine, items are brought to unit length and compared by inner product. Norouzi, Mikolov,
    Bengio, Singer, Shlens, Frome, Corrado, Dean, "Zero-Shot Learning by Convex Combination of Semantic Embeddings",
    2013.
    """

    name: ClassVar[str] = "convex_anchors"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    late: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper: ClassVar[str] = (
        "Norouzi, Mikolov, Bengio, Singer, Shlens, Frome, Corrado, Dean, Zero-Shot Learning by Convex Combination of "
        "Semantic Embeddings, 2013"
    )
    formula: ClassVar[str] = "places of k out of count as in magnitude_prune + k per item; shared 2 count d + 1"
    k: int = 8
    count: int = 256
    anchors: str = "kmeans"
    weights: str = "softmax"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.count:
            raise ValueError(f"k is how many of {self.count} anchors are kept, got {self.k}")
        if self.anchors not in ANCHORS:
            raise ValueError(f"anchors={self.anchors!r}: expected one of {', '.join(ANCHORS)}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights={self.weights!r}: expected one of {', '.join(WEIGHTS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        found: list[Method] = []
        for count in (*sizes(budget.d), 2):
            with suppress(BudgetTooSmall):
                ks = range(min(count, WHOLE), 0, -1)
                found.append(next(iter(budget.fitting(cls(k, count) for k in ks))))
        return budget.fitting(found[:3] or [cls(1, 1)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(packed_index_bytes(self.k, self.count) + self.k), 2.0 * self.count * d + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        if self.count > len(vectors):
            raise BadInput(f"{self}: the fit sample has only {len(vectors)} rows; choose count up to that")
        vectors = vectors[fit_rows(len(vectors), self.seed)]
        rng = generator(self.seed)
        if self.anchors == "random":
            anchors = vectors[np.sort(rng.choice(len(vectors), self.count, replace=False))]
        else:
            from sklearn.cluster import KMeans

            means = KMeans(self.count, n_init=1, max_iter=25, random_state=int(rng.integers(2**31)))
            anchors = means.fit(vectors).cluster_centers_
        shared = {"anchors": np.clip(anchors, -HALF, HALF).astype(np.float16), "rule": rule_of(sample.metric)}
        if self.weights == "softmax":
            some = vectors[np.sort(rng.permutation(len(vectors))[:ROWS])]
            shared["build/temperature"] = np.array([self._temperature(some, shared)], np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = directed(items, shared["rule"])
        index = np.empty((len(vectors), packed_index_bytes(self.k, self.count)), np.uint8)
        weights = np.empty((len(vectors), self.k), np.uint8)
        for part in blocks(len(vectors), ROWS):
            products, gram = _about_their_mean(vectors[part], shared)
            if self.weights == "softmax":
                every = softmax(_closeness(products, gram) / shared["build/temperature"], axis=1)
            else:
                every = nearest_combination(products, gram, self.k)
            places, kept = self._kept(every)
            index[part], weights[part] = pack_index(places, self.count), in_bytes(kept)
        return {"index": index, "weights": weights}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return _combined(unpack_index(codes["index"], self.k, self.count), codes["weights"] / WHOLE, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if metric == "l2":
            return DecodeSearcher(self, codes, shared, metric)  # lengths of combinations are in no code
        anchors = shared["anchors"].astype(np.float32)
        return SparseSearcher(
            codes["index"], codes["weights"], self.count, "ip", packed=self.k,
            scale=np.array([1 / WHOLE], np.float32), map_queries=lambda queries: map_queries(queries, anchors),
        )  # fmt: skip

    def _kept(self, every: Array) -> tuple[Array, Array]:
        """Return places and weights (n, k) of the greatest, which are scaled to add up to one."""
        places, weights = top_k_rows(every, self.k)
        return places, weights / weights.sum(axis=1, keepdims=True)

    def _temperature(self, vectors: Array, shared: Arrays) -> float:
        """Return the temperature at which what is kept comes nearest to vectors."""
        products, gram = _about_their_mean(vectors, shared)
        closeness = _closeness(products, gram)
        gaps = closeness.max(axis=1, keepdims=True) - closeness
        unit = float(gaps.mean())

        def error(power: float) -> float:
            places, weights = self._kept(softmax(closeness / (unit * 10**power), axis=1))
            return float(np.square(_combined(places, weights, shared) - vectors).sum(dtype=np.float64))

        if not unit > 0:
            return 1.0  # all anchors are equally near, whatever the temperature
        return unit * 10 ** float(minimize_scalar(error, bounds=(-3, 1), method="bounded", options={"xatol": 0.01}).x)


def nearest_combination(products: Array, gram: Array, k: int) -> Array:
    """Return weights (n, count) >= 0 of sum one, at most k of a row above zero, by which vectors are combined best.

    products (n, count) are those of vectors with anchors, gram (count, count) those of anchors. Gradient descent is
    projected onto the faces of k corners: Kyrillidis, Becker, Cevher, Koch, "Sparse projections onto the simplex",
    2013. As it finds the best weights of the face where it ends but not always the best face, the better is returned
    of two descents: from the best combination of all anchors, and from the nearest anchor.
    """
    n, count = products.shape
    steepest = float(np.linalg.norm(gram, 2))
    rate = np.float32(1 / steepest if steepest > 0 else 1)

    def descended(weights: Array, k: int) -> Array:
        for _ in range(STEPS):
            weights = onto_simplex(weights + rate * (products - map_rows(weights, gram)), k)
        return weights

    corners = np.eye(count, dtype=np.float32)[_closeness(products, gram).argmax(axis=1)]
    every = descended(np.full((n, count), 1 / count, np.float32), count)
    one, other = descended(every, k), descended(corners, k)
    errors = [np.einsum("ij,ij->i", found, map_rows(found, gram) / 2 - products) for found in (one, other)]
    return np.asarray(np.where((errors[0] < errors[1])[:, None], one, other))


def onto_simplex(rows: Array, k: int) -> Array:
    """Return the nearest rows of entries >= 0 and sum one, of which only the k largest may be above zero."""
    largest = np.sort(rows, axis=1)[:, : -k - 1 : -1]
    excess = (np.cumsum(largest, axis=1, dtype=np.float64) - 1) / np.arange(1, k + 1)
    last = np.count_nonzero(largest > excess, axis=1, keepdims=True) - 1
    kept = np.where(rows >= largest[:, -1:], rows, -np.inf)
    return np.maximum(kept - np.take_along_axis(excess, last, axis=1), 0).astype(np.float32)


def in_bytes(weights: Array) -> Array:
    """Return weights (n, k) of sum one as whole numbers of sum 255 uint8: those that rounding down cuts most go up."""
    scaled = weights * WHOLE
    whole = np.floor(scaled)
    missing = WHOLE - whole.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(whole - scaled, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(whole + (rank < missing), np.uint8)


def _about_their_mean(vectors: Array, shared: Arrays) -> tuple[Array, Array]:
    """Return products of vectors with anchors (n, count), and of anchors, all about the mean of the anchors."""
    anchors = shared["anchors"].astype(np.float32)
    mean = anchors.mean(axis=0)
    return map_rows(vectors - mean, anchors - mean), (anchors - mean) @ (anchors - mean).T


def _closeness(products: Array, gram: Array) -> Array:
    """Return minus the squared distances (n, count), up to a number for each row."""
    return np.asarray(2 * products - np.diag(gram))


def _combined(places: Array, weights: Array, shared: Arrays) -> Array:
    anchors = np.ascontiguousarray(shared["anchors"].T, np.float32)
    return map_rows(densify(places, weights, anchors.shape[1]), anchors)
