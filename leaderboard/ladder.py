"""Follow quality over the size of the corpus: recall at each rung, its slope per decade, and where rankings turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from packbench.gaussian import STATUS
from packbench.items import Array
from packbench.leaderboard.cells import Cell, outcomes, plain
from packbench.leaderboard.stats import LEVEL, Interval, holm
from packbench.store import Row, canonical

SAME = ("machine", "deployment_n", "disk_budget", "threads", "tries", "n_queries")
Key = tuple[str, float]  # request and budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """Hold one request at one budget over the sizes of a ladder.

    recall (sizes,) holds the mean recall@10 with its interval, None where the cell has no figure; slope is what a
    tenfold corpus adds to it (loses, below zero), by least squares over log10(n) query by query.
    """

    request: str
    budget: float
    recall: tuple[Interval | None, ...]
    slope: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Say that one request beats another at one size and is beaten by it at a larger one, both beyond chance."""

    request: str
    other: str
    budget: float
    ahead_at: int
    behind_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Hold the climbs of one data set over sizes (ascending), best at the largest size first, and their crossings."""

    dataset: str
    sizes: tuple[int, ...]
    queries: int
    climbs: tuple[Climb, ...]
    crossings: tuple[Crossing, ...]


def ladders_of(rows: Iterable[Row]) -> list[Ladder]:
    """Return the ladder of each data set that was measured at two sizes or more under the same rules."""
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["status"] != STATUS and row["budget"] is not None:
            rules = (str(row.get("ladder_of") or row["dataset"]), *(canonical(row[name]) for name in SAME))
            alike.setdefault(rules, []).append(row)
    found = (_ladder(of, rows) for (of, *_), rows in sorted(alike.items()))
    return [one for one in found if len(one.sizes) > 1]


def _ladder(dataset: str, rows: Sequence[Row]) -> Ladder:
    sizes = tuple(sorted({row["n"] for row in rows}))
    cells: dict[Key, dict[int, dict[int, Row]]] = {}
    for row in sorted(rows, key=lambda row: str(row["time"])):
        cells.setdefault((plain(row["request"]), row["budget"]), {}).setdefault(row["n"], {})[row["seed"]] = row
    found = {key: recalls for key, cell in cells.items() if (recalls := _recalls(cell))}
    climbs = [_climb(key, sizes, recalls) for key, recalls in found.items()]
    climbs.sort(key=lambda one: (one.budget, -(one.recall[-1].value if one.recall[-1] else -1.0), one.request))
    return Ladder(
        dataset=plain(dataset), sizes=sizes, queries=rows[0]["n_queries"], climbs=tuple(climbs),
        crossings=tuple(_crossings(found, sizes)),
    )  # fmt: skip


def _recalls(cell: Mapping[int, Mapping[int, Row]]) -> dict[int, Array]:
    """Return recall@10 of each query (queries,), averaged over seeds, by size; a size where a seed failed has none."""
    complete: dict[int, Cell] = {
        n: list(seeds.values()) for n, seeds in cell.items() if all(row["status"] == "ok" for row in seeds.values())
    }
    return {n: outcomes(rows).mean(axis=0) / min(10, n) for n, rows in complete.items()}


def _climb(key: Key, sizes: Sequence[int], recalls: Mapping[int, Array]) -> Climb:
    measured = [n for n in sizes if n in recalls]
    slope = None
    if len(measured) > 1:
        decades = np.log10(measured)
        weights = (decades - decades.mean()) / np.square(decades - decades.mean()).sum()
        slope = _mean(weights @ np.array([recalls[n] for n in measured]))
    recall = tuple(_mean(recalls[n]) if n in recalls else None for n in sizes)
    return Climb(request=key[0], budget=key[1], recall=recall, slope=slope)


def _mean(of: Array) -> Interval:
    mean = float(of.mean())
    error = float(stats.sem(of) * stats.t.ppf((1 + LEVEL) / 2, len(of) - 1)) if len(of) > 1 else 0.0
    return Interval(mean, mean - error, mean + error)


def _crossings(found: Mapping[Key, Mapping[int, Array]], sizes: Sequence[int]) -> Iterable[Crossing]:
    """Yield pairs whose order turns: paired t-tests over queries, Holm-corrected over pairs and sizes of a budget."""
    for budget in sorted({key[1] for key in found}):
        requests = [request for request, at in found if at == budget]
        whole = [request for request in requests if len(found[request, budget]) == len(sizes)]
        if len(whole) < 2:
            continue
        left, right = np.triu_indices(len(whole), 1)
        ahead = np.array([_ahead(np.array([found[request, budget][n] for request in whole]), left, right)
                          for n in sizes])  # fmt: skip
        sure = (holm(np.abs(ahead).ravel()) <= 1 - LEVEL).reshape(ahead.shape)
        signs = np.where(sure, np.sign(ahead), 0)
        for pair in np.flatnonzero((signs > 0).any(axis=0) & (signs < 0).any(axis=0)):
            known = np.flatnonzero(signs[:, pair])
            turn = next(at for at in range(1, len(known)) if signs[known[at], pair] != signs[known[at - 1], pair])
            first, second = whole[left[pair]], whole[right[pair]]
            ahead_first = signs[known[turn - 1], pair] > 0
            yield Crossing(
                request=first if ahead_first else second, other=second if ahead_first else first, budget=budget,
                ahead_at=sizes[known[turn - 1]], behind_at=sizes[known[turn]],
            )  # fmt: skip


def _ahead(recalls: Array, left: Array, right: Array) -> Array:
    """Return p-values of each pair, signed by who is ahead: recalls (requests, queries)."""
    queries = recalls.shape[1]
    covariance = np.atleast_2d(np.cov(recalls))
    variance = covariance[left, left] + covariance[right, right] - 2 * covariance[left, right]
    gap = recalls.mean(axis=1)[left] - recalls.mean(axis=1)[right]
    error = np.sqrt(np.maximum(variance, 0) / queries)
    scores = np.divide(np.abs(gap), error, out=np.where(np.abs(gap) > 1e-12, np.inf, 0.0), where=error > 1e-9)
    p_values = np.maximum(2 * stats.t.sf(scores, max(queries - 1, 1)), 1e-300)
    return np.asarray(np.where(gap >= 0, p_values, -p_values))


def ladder_facts(ladder: Ladder) -> str:
    """Return what a reader must know to read a ladder."""
    return (
        f"{ladder.dataset} at {len(ladder.sizes)} sizes with the same {ladder.queries:,} queries and fit sample: "
        f"recall@10 and its slope per tenfold corpus ({LEVEL:.0%} intervals over queries). A ranking at one size is "
        "not extrapolated to another."
    )


def ladder_cells(ladder: Ladder) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a ladder's table."""
    headings = ["B/item", "method", *(f"n = {n:,}" for n in ladder.sizes), "per decade"]
    rows = []
    for climb in ladder.climbs:
        shown = [f"{of.value:.3f}" if of else "–" for of in climb.recall]
        slope = climb.slope
        told = f"{slope.value:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}]" if slope else "–"
        rows.append([f"{climb.budget:g}", climb.request, *shown, told])
    return headings, rows


def crossing_told(crossing: Crossing) -> str:
    """Return a crossing as a sentence."""
    return (
        f"{crossing.budget:g} B/item: {crossing.request} is ahead of {crossing.other} at n = {crossing.ahead_at:,} and "
        f"behind it at n = {crossing.behind_at:,}"
    )
