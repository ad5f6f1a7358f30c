"""Read the figures of a cell: the result rows of one request at one budget, one for each seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from packbench.budget import Budget
from packbench.health import red_flags
from packbench.items import Array
from packbench.leaderboard.entries import Entry
from packbench.leaderboard.stats import Interval
from packbench.method import STAGES
from packbench.store import Row

RECALL, NDCG = "recall@10", "nDCG@10"
EXPECTED = f"expected {RECALL}"
REMEMBERS = 2  # shared arrays as large as the items' float32 over this may hold a good part of them
Cell = list[Row]


def unmeasured(cell: Cell) -> Entry:
    """Return what an entry says before any figure: names, seeds, what a failure needs."""
    some = cell[0]
    trained = bool((some.get("card") or {}).get("mrl_trained"))
    spec = joined(row.get("spec") for row in cell)
    return Entry(
        name=_named(spec or plain(some["request"]), trained),
        label=_named(plain(some["request"]), trained),
        request=plain(some["request"]),
        spec=spec,
        method=plain(some["method"]),
        family=plain(some["family"]),
        fidelity=plain(some["fidelity"]),
        kind=plain(some["kind"]),
        seeds=tuple(row["seed"] for row in cell),
        row_ids=tuple(plain(row["id"]) for row in cell),
        least_bytes=some.get("least"),
    )


def _named(text: str, trained: bool) -> str:
    """Call truncation of vectors whose encoder was not trained for it (Matryoshka) by its right name."""
    return text if trained else re.sub(r"\btruncate(?=\(|\s*$)", "naive_truncate", text)


def plain(value: object) -> str:
    """Return text on one line without control characters, which could rewrite a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def too_heavy(row: Row) -> str | None:
    """Weigh a row again, since a file of results may come from anywhere."""
    if row["budget"] is None:
        return None
    weight = row["bytes"]
    budget = Budget(row["budget"], row["deployment_n"], row["d"], row["disk_budget"])
    if budget.holds(weight["payload"], weight["shared"], weight["cold"]):
        return None
    return (
        f"weighs {weight['payload'] + weight['shared'] / row['deployment_n']:.2f} of {row['budget']:g} bytes per item "
        f"and {weight['cold']:g} on disk ({row['disk_budget']:g} allowed)"
    )


def values(cell: Cell, measure: str) -> Array:
    """Return a measure per seed and query, (seeds, queries) float64."""
    return np.array([row["per_query"][measure] for row in cell], dtype=np.float64)


def outcomes(cell: Cell) -> Array:
    """Return how many of the true ten were found, (seeds, queries) float64: the expectation where scores tie.

    A row that states no expectation has no ties, or is older than it: there the order that was answered counts.
    """
    return np.array([expected_of(row["per_query"], RECALL) for row in cell], dtype=np.float64)


def expected_of(per_query: Mapping[str, Any], measure: str) -> Any:
    """Return a measure of each query as a row holds it, its expectation where the row states one."""
    return per_query.get(f"expected {measure}", per_query[measure])


def lacks_expectation(cell: Cell) -> bool:
    """Tell whether scores tie in a cell whose rows are too old to state what each query is to expect."""
    tied = [ties([row]) for row in cell if EXPECTED not in row["per_query"]]
    return any(of is not None and of.low < of.high for of in tied)


def may_remember(cell: Cell) -> bool:
    """Tell whether a method could have kept the items: it saw them in its fit, and shares arrays half their size."""
    return any(
        row["fit_on"] == "items" and row["bytes"]["shared"] * REMEMBERS >= 4 * row["n"] * row["d"] for row in cell
    )


def mean(cell: Cell, part: str, figure: str) -> float | None:
    """Return a figure averaged over the seeds that have it."""
    found = [row[part][figure] for row in cell if row.get(part, {}).get(figure) is not None]
    return float(np.mean(found)) if found else None


def ties(cell: Cell) -> Interval | None:
    """Return recall@10 over the legal orders of tied scores, expected, worst and best, averaged over seeds."""
    bounds = [row["ties"][RECALL] for row in cell if RECALL in row.get("ties", {})]
    if not bounds:
        return None
    worst, expected, best = np.mean(bounds, axis=0)
    return Interval(float(expected), float(worst), float(best))


def speedup(cell: Cell) -> Interval | None:
    """Return the speed-up against float32: the mean of the medians, the least low, the highest high."""
    found: list[Mapping[str, float]] = [row["speedup"] for row in cell if row.get("speedup")]
    if not found:
        return None
    median = float(np.mean([of["median"] for of in found]))
    return Interval(median, min(of["low"] for of in found), max(of["high"] for of in found))


def stages(cell: Cell) -> list[tuple[str, Array]]:
    """Return recall@10 before the method's own answers, stage by stage, as `values` does."""
    names = [name for name in STAGES if all(f"{name} {RECALL}" in row.get("per_query", {}) for row in cell)]
    return [(name, values(cell, f"{name} {RECALL}")) for name in names]


def flags(cell: Cell) -> tuple[str, ...]:
    """Return what looks broken in any seed."""
    return tuple(dict.fromkeys(plain(flag) for row in cell for flag in red_flags(row.get("health", {}))))


def joined(texts: Iterable[Any]) -> str | None:
    """Return the different texts among some, on one line."""
    return ", ".join(dict.fromkeys(plain(text) for text in texts if text is not None)) or None


def machine(facts: Mapping[str, Any]) -> str:
    """Return what is known of a machine, on one line."""
    return plain(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, {facts['simd']} "
        f"(id {facts['id']})"
    )
