"""Linear maps in front of a code: applying them, centring by the metric's rule, and filling a budget with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Method, Metric, Transform
from packbench.methods.scalar.float16 import Float16
from packbench.methods.scalar.float32 import Float32
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8

ROWS = 256
RULES: tuple[Metric, ...] = ("ip", "cosine", "l2")  # a fitted rule is stored as the place in this row, one byte


def map_rows(vectors: Array, matrix: Array) -> Array:
    """Return vectors @ matrix.T, the same for a row whatever rows come with it.

    BLAS chooses its loops by shape and rounds accordingly, so every block is brought to the same number of rows.
    """
    mapped = np.empty((len(vectors), len(matrix)), np.float32)
    for part in blocks(len(vectors), ROWS):
        block = vectors[part]
        if len(block) < ROWS:
            block = np.concatenate([block, np.zeros((ROWS - len(block), block.shape[1]), np.float32)])
        mapped[part] = (block @ matrix.T)[: part.stop - part.start]
    return mapped


def map_queries(queries: Items, matrix: Array) -> Array:
    """Return queries @ matrix.T without the padding that `map_rows` needs, for a single query is timed."""
    found: Array = as_vectors(queries, "queries") @ matrix.T
    return found


def unit(vectors: Array) -> Array:
    """Return rows of length one; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.asarray(vectors / np.where(norms > 0, norms, 1))


def rule_of(metric: Metric) -> Array:
    """Return the byte that tells `apply` and `apply_queries` how to centre for a metric."""
    score_of(metric)
    if metric not in RULES:
        raise BadInput(f"centring is defined for the metrics {', '.join(RULES)}, not for {metric}")
    return np.array([RULES.index(metric)], np.uint8)


def centred(items: Items, mean: Array, rule: Array) -> Array:
    """Subtract the mean from items, which are brought to unit length first if the metric is cosine."""
    vectors = as_vectors(items)
    return np.asarray((unit(vectors) if RULES[rule[0]] == "cosine" else vectors) - mean)


def centred_queries(queries: Items, mean: Array, rule: Array) -> Array:
    """Do to queries what keeps the ranking: q.x = q.(x - mean) + q.mean, so only distances ask for centred queries."""
    vectors = as_vectors(queries, "queries")
    if RULES[rule[0]] == "l2":
        return np.asarray(vectors - mean)
    return unit(vectors) if RULES[rule[0]] == "cosine" else vectors


def metric_after_centring(metric: Metric) -> Metric:
    """Return the metric of centred vectors: of unit vectors, an inner product with an uncentred query."""
    return "ip" if metric == "cosine" else metric


def reduced(make: Callable[[int], Transform], budget: Budget) -> Iterator[Method]:
    """Yield compositions that fill the budget: many dimensions in int8, more in int4, fewer in float16.

    Where the finest code that affords all dimensions is found, it comes first and coarser ones are left out.
    """
    d = budget.d

    def largest(code: Method) -> int:
        low, high = 1, d
        while low < high:
            middle = (low + high + 1) // 2
            fits = budget.holds(*(make(middle) | code).planned_bytes(d))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    finest_first = [Float32(), Float16(), Int8(), *(Int4(bits=bits) for bits in range(7, 3, -1))]
    dims = {code: largest(code) for code in finest_first}
    whole = next((code for code in finest_first if dims[code] == d), None)
    usual = [Int8(), Int4(), Float16()]
    if whole is not None:
        finer = finest_first[: finest_first.index(whole)]
        usual = [whole, *(code for code in usual if code in finer)]
    return budget.fitting(make(dims[code]) | code for code in usual)


def conditioned(transform: Transform, budget: Budget) -> Iterator[Method]:
    """Yield the finest grid code that fits behind a transform which keeps all dimensions.

    Raises:
        BudgetTooSmall: not even the coarsest fits.
    """
    share = transform.shared_bytes(budget.d) / budget.n
    least = float("inf")
    for code in (Float32, Float16, Int8, Int4):
        left = budget.bytes_per_item - share
        try:
            inner = Budget(max(left, 1e-9), budget.n, budget.d, budget.cold_bytes_per_item)
            for method in code.for_budget(inner):
                yield transform | method
            return
        except BudgetTooSmall as error:
            least = min(least, error.least)
    raise BudgetTooSmall(least + share)
