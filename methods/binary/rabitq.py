"""Code directions about a centre by a few bits per coordinate, with factors that make the estimate unbiased."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks, width
from packbench.method import Arrays, Hits, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import code_bytes
from packbench.methods.binary.linear import mean_of, project, random_rotation, unit_if
from packbench.methods.binary.planes import bit_planes, estimates
from packbench.methods.binary.signs import SignSums, block_rows
from packbench.registry import register
from packbench.topk import TopK

Score = Callable[[Array], Array]  # codes (n, bytes) to scores (n_queries, n)
METRICS = ("ip", "l2", "cosine")  # by the number that fit writes down


@register
@dataclass(frozen=True, slots=True)
class RaBitQ(Method):
    """Keep a few bits per coordinate of the randomly rotated residual, and factors for an unbiased estimate of scores.

    Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
    Neighbor Search, 2024 (1 bit); Gao et al., Practical and Asymptotically Optimal Quantization of High-Dimensional
    Vectors in Euclidean Space for Approximate Nearest Neighbor Search, 2024 (2 to 8 bits). One centre, the mean of
    the fit sample; under cosine vectors are normalised first. The rotation is dense and weighed. Codes and estimates
    are faiss's, and never decoded, for faiss decodes the sign bits alone. At one bit the query is rounded to
    `query_bits` as in faiss; at more bits the float query meets all of them, where faiss leaves items out by a bound on
    the signs' error that need not hold. Codes made for one metric do not serve another. Under l2 at 1 bit faiss cuts
    estimates off at 0, so very near items can tie.
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
        return RaBitQSearcher(codes["codes"], shared, metric, self.bits, self.query_bits)

    def _index(self, shared: Arrays) -> Any:
        """Return an empty faiss index of rotated vectors that knows the centre."""
        measure = faiss.METRIC_L2 if METRICS[int(shared["metric"][0])] == "l2" else faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.IndexRaBitQ(len(shared["centre"]), measure, self.bits)
        faiss.copy_array_to_vector(np.ascontiguousarray(shared["centre"]), index.center)
        index.is_trained = True
        return index


class RaBitQSearcher:
    """Rank by the paper's estimates from faiss's codes: at one bit as faiss does, at more without its shortlist.

    A code is the signs, at least two float32 factors and, beyond one bit, the lower bits of each coordinate in turn.
    """

    def __init__(self, codes: Array, shared: Arrays, metric: Metric, bits: int, query_bits: int) -> None:
        self._codes, self._shared, self._metric, self._bits, self._query_bits = codes, shared, metric, bits, query_bits
        planes = f"numba popcounts of query at {query_bits} bits, sums over signs for batches"
        self.kernel = planes if bits == 1 else "numba sums over signs"

    def search(self, queries: Items, k: int) -> Hits:
        q = unit_if(_is_cosine(self._metric), as_vectors(queries, "queries")) @ self._shared["rotation"]
        kept = TopK(len(q), k)
        score = (self._by_signs if self._bits == 1 else self._by_bits)(q, q - self._shared["centre"])
        for part in blocks(len(self._codes), block_rows(len(q))):
            kept.add(score(self._codes[part]), part.start)
        return kept.hits()

    def _by_signs(self, q: Array, left: Array) -> Score:
        """Score by o = |x - c|² (less |x|² under ip) and m, which makes <q - c, signs> m / √d unbiased."""
        d, l2 = left.shape[1], self._metric == "l2"
        levels, step, least = _rounded(left, self._query_bits)
        # What all scores of a query have in common.
        centre = self._shared["centre"]
        common = -np.square(left).sum(axis=1) if l2 else q @ centre - centre @ centre / 2
        times, less, most = (2 / np.sqrt(d), 1, 0) if l2 else (1 / np.sqrt(d), 0.5, np.inf)
        if len(q) == 1:
            planes = bit_planes(levels, self._query_bits)
            # A sum of signs is twice that of the ones, less all.
            sums = 2 * least, 2 * step, -(d * least + step * levels.sum(axis=1))
            terms = np.stack([*(times * term for term in sums), *np.broadcast_arrays(-less, common, most)], axis=1)
            return lambda codes: estimates(codes, planes, terms)
        # Queries that come together share what it costs to turn rows into columns.
        signs = SignSums((least[:, None] + step[:, None] * levels) * times)
        size = code_bytes(d)

        def score(codes: Array) -> Array:
            offset, multiplier = _factors(codes[:, size:])
            scores = signs(codes[:, :size])
            scores *= multiplier
            scores -= less * offset
            scores += common[:, None]
            return np.minimum(scores, most, out=scores) if l2 else scores

        return score

    def _by_bits(self, q: Array, left: Array) -> Score:
        """Score by integers of b bits, signs on top, and by the factors that follow all bits."""
        d, lower, l2 = left.shape[1], self._bits - 1, self._metric == "l2"
        size, more = code_bytes(d), code_bytes(d * lower)
        # An integer less half its range is half a sum of signs, each worth its place.
        upper_sums = SignSums(left * np.float32(2 ** (lower - 1)))
        places = np.tile(np.float32(2) ** np.arange(-1, lower - 1), d)
        lower_sums = SignSums(np.repeat(left, lower, axis=1) * places)
        common = (-np.square(left).sum(axis=1) if l2 else q @ self._shared["centre"])[:, None]

        def score(codes: Array) -> Array:
            end = codes.shape[1] - 8
            offset, multiplier = _factors(codes[:, end:])
            estimates = upper_sums(codes[:, :size])
            estimates += lower_sums(codes[:, end - more : end])
            estimates *= multiplier
            estimates += offset
            return np.asarray(common - estimates if l2 else common + estimates)

        return score


def _factors(columns: Array) -> tuple[Array, Array]:
    """Return the first two float32 that each row of bytes begins with."""
    pairs = columns[:, :8].view(np.float32)
    return pairs[:, 0], pairs[:, 1]


def _rounded(vectors: Array, bits: int) -> tuple[Array, Array, Array]:
    """Round coordinates to 2^bits values between the least and the largest of each vector: levels, step and least."""
    least = vectors.min(axis=1, keepdims=True)
    step = (vectors.max(axis=1, keepdims=True) - least) / (2**bits - 1)
    step = np.where(step > 0, step, 1)
    return np.rint((vectors - least) / step), step[:, 0].astype(np.float64), least[:, 0].astype(np.float64)


def _is_cosine(metric: Metric) -> Array:
    return np.array([metric == "cosine"], np.uint8)
