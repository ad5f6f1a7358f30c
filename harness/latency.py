"""Time a searcher beside exact float32 search, round by round in one process: the ratio survives a noisy machine."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np

from packbench.items import Array, Items, Ragged
from packbench.method import Hits, Searcher

ROUNDS = 7
K = 10
BATCH = 256
MEMOISED = 5.0  # a repeated query answered so many times faster than a new one was remembered, not searched


def fresh_queries(queries: Items, count: int, rng: np.random.Generator) -> tuple[Items, Array]:
    """Draw queries with a thousandth of noise, so that none was seen before; return them and the rows drawn.

    So little noise, a share of each coordinate, leaves the exact answers as they are, by which what is timed can be
    judged, and zeros what they are, which sign codes of counts see.
    """
    if isinstance(queries, Ragged):
        values = queries.values
        if values.dtype.kind == "f":
            values = values + (1e-3 * values.std() * rng.standard_normal(values.shape)).astype(values.dtype)
        count = min(count, len(queries))
        return Ragged(values, queries.offsets)[:count], np.arange(count)
    rows = rng.integers(0, len(queries), count)
    picked = np.asarray(queries[rows], np.float32)
    noise = rng.standard_normal(picked.shape, dtype=np.float32)
    return np.ascontiguousarray(picked * (1 + np.float32(1e-3) * noise)), rows


def queries_between(queries: Items, count: int, rng: np.random.Generator) -> Items:
    """Draw queries halfway between two others, far from all that were asked: remembering answers is no help."""
    if isinstance(queries, Ragged):
        return fresh_queries(queries, count, rng)[0]
    one, other = (np.asarray(queries[rng.integers(0, len(queries), count)], np.float32) for _ in range(2))
    return np.ascontiguousarray((one + other) / 2)


def _each(searcher: Searcher, queries: Items) -> tuple[Array, list[Hits]]:
    """Return the seconds of each query searched alone, and its answer."""
    search = searcher.search
    seconds, found = np.empty(len(queries)), []
    for row in range(len(queries)):
        query = queries[row : row + 1]
        start = time.perf_counter_ns()
        hits = search(query, K)
        seconds[row] = time.perf_counter_ns() - start
        found.append(hits)
    return seconds / 1e9, found


def _spread(ratios: list[float]) -> dict[str, Any]:
    return {"median": float(np.median(ratios)), "low": float(min(ratios)), "high": float(max(ratios))}


def measure(
    searcher: Searcher,
    exact: Searcher,
    scale: float,
    queries: Items,
    *,
    seconds: float = 1.0,
    seed: int = 0,
) -> tuple[dict[str, Any], Array, Array]:
    """Return figures: milliseconds per query (p50, p95, p99, mean), batch throughput, ratios to exact float32 search.

    After the figures come the rows of the queries that were timed alone and the ids (count, 10) they were answered by.
    Each of the rounds times single queries of the method, then of the reference, then a batch of each. `scale` is how
    many times larger the real reference scan is than the one that fits in memory.
    """
    rng = np.random.default_rng(seed)
    warm, _ = fresh_queries(queries, 3, rng)
    pilot = float(np.median(_each(searcher, warm)[0]))
    pilot_exact = float(np.median(_each(exact, warm)[0]))
    count = int(np.clip(0.5 * seconds / ROUNDS / max(pilot + pilot_exact, 1e-7), 6, 60))
    batch = int(np.clip(0.5 * seconds / ROUNDS / max(pilot, 1e-7), 8, BATCH))
    exact.search(fresh_queries(queries, batch, rng)[0], K)
    single: list[Array] = []
    ratios: list[float] = []
    per_second: list[float] = []
    batch_ratios: list[float] = []
    reference_ms: list[float] = []
    rows: list[Array] = []
    answers: list[Hits] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            asked, drawn = fresh_queries(queries, count, rng)
            mine, found = _each(searcher, asked)
            theirs = _each(exact, asked)[0] * scale
            rows.append(drawn)
            answers += found
            single.append(mine)
            ratios.append(float(np.median(theirs) / np.median(mine)))
            reference_ms.append(float(np.median(theirs)) * 1e3)
            asked, _ = fresh_queries(queries, batch, rng)
            start = time.perf_counter()
            searcher.search(asked, K)
            middle = time.perf_counter()
            exact.search(asked, K)
            end = time.perf_counter()
            per_second.append(len(asked) / (middle - start))
            batch_ratios.append((end - middle) * scale / (middle - start))
        asked = queries_between(queries, 24, rng)
        new, again = (float(np.median(_each(searcher, asked)[0])) for _ in range(2))
    finally:
        if collecting:
            gc.enable()
    milliseconds = np.concatenate(single) * 1e3
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    figures = {
        "query_ms": {
            "p50": float(p50), "p95": float(p95), "p99": float(p99), "mean": float(milliseconds.mean()),
            "samples": len(milliseconds), "rounds": [float(np.median(of)) * 1e3 for of in single],
        },
        "reference_ms": float(np.median(reference_ms)),
        "speedup": _spread(ratios) | {"rounds": ratios},
        "batch": {"size": batch, "per_second": _spread(per_second), "speedup": _spread(batch_ratios)},
        "repeat_ratio": new / max(again, 1e-9),
        # A cache answers in microseconds; below that both figures are the clock's.
        "memoised": new / max(again, 1e-9) > MEMOISED and new - again > 1e-5,
    }  # fmt: skip
    return figures, np.concatenate(rows), np.concatenate([np.asarray(found.ids) for found in answers])
