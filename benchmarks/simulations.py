"""Measure, on data whose truth is known, how often the statistics of a board are right, and write docs/statistics.md.

    python benchmarks/simulations.py [--trials 1000] [--write]

A few minutes on one core. tests/test_curves.py runs each of these with few trials.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from packbench.advise import confirmed, headroom
from packbench.items import Array
from packbench.leaderboard.curves import Curve
from packbench.leaderboard.entries import Entry, Table
from packbench.leaderboard.stats import MARGIN, Bootstrap, over_datasets
from packbench.leaderboard.verdicts import Verdicts
from packbench.quality import Judge
from packbench.truth import Truth

DOCS = Path(__file__).parent.parent / "docs" / "statistics.md"
BUDGETS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
RESAMPLES = 500
Rng = np.random.Generator
Losses = Callable[[Rng, int, float], Array]


def recall(rng: Rng, queries: int, quality: float = 0.7) -> Array:
    """Return recall in tenths per query, some queries harder than others, of a known mean."""
    return rng.binomial(10, rng.beta(10 * quality, 10 * (1 - quality), queries)) / 10


def queries_coverage(trials: int, queries: int) -> float:
    """Return how often the interval over queries holds the true recall."""
    rng, held = np.random.default_rng(queries), 0
    for trial in range(trials):
        found = Bootstrap([recall(rng, queries)[None]], trial, RESAMPLES).mean(0)
        held += found.low <= 0.7 <= found.high
    return held / trials


def seeds_coverage(trials: int, seeds: int, queries: int = 200) -> float:
    """Return how often the interval over seeds and queries holds the true recall, where seeds differ by 0.02."""
    rng, held = np.random.default_rng(seeds), 0
    for trial in range(trials):
        cell = rng.normal(0.7, 0.2, queries) + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.05, (seeds, queries))
        found = Bootstrap([cell], trial, RESAMPLES).mean(0)
        held += found.low <= 0.7 <= found.high
    return held / trials


def datasets_coverage(trials: int, datasets: int, queries: int = 100) -> float:
    """Return how often the interval over data sets holds the mean of all data sets there might be."""
    rng, held = np.random.default_rng(datasets), 0
    for trial in range(trials):
        of_each = [
            Bootstrap([np.clip(rng.normal(0.8, 0.05) + rng.normal(0, 0.15, (1, queries)), 0, 2)], at, RESAMPLES)
            for at in range(trial * datasets, (trial + 1) * datasets)
        ]
        (found,) = over_datasets(np.array([of.means for of in of_each]), [of.draws for of in of_each], trial)
        held += found.low <= 0.8 <= found.high
    return held / trials


def false_wins(trials: int, methods: int, queries: int = 150) -> float:
    """Return how often any two of several equally good methods are told apart."""
    rng, wrong = np.random.default_rng(methods), 0
    for trial in range(trials):
        hardness = rng.beta(7, 3, queries)
        cells = [rng.binomial(10, hardness)[None] / 10 for _ in range(methods)]
        wrong += Bootstrap(cells, trial, RESAMPLES).separated(range(methods)).any()
    return wrong / trials


def even(rng: Rng, queries: int, loss: float) -> Array:
    """Lose one answer in ten on some queries."""
    return 0.1 * rng.binomial(1, 10 * loss, queries)


def rare(rng: Rng, queries: int, loss: float) -> Array:
    """Lose all ten answers on a few queries."""
    return 1.0 * rng.binomial(1, loss, queries)


def mixed(rng: Rng, queries: int, loss: float) -> Array:
    """Lose half of it on a few queries, half one answer at a time."""
    return np.maximum(rare(rng, queries, loss / 2), even(rng, queries, loss / 2 / (1 - loss / 2)))


def false_lossless(trials: int, queries: int, losses: Losses, loss: float = MARGIN) -> float:
    """Return how often a method that loses just the margin, or another loss, is called lossless."""
    rng, passed = np.random.default_rng(queries), 0
    for trial in range(trials):
        cell = 1 - losses(rng, queries, loss)
        passed += Bootstrap([np.ones((1, queries)), cell[None]], trial, RESAMPLES).lossless(0)[1]
    return passed / trials


def false_safe(trials: int, queries: int, losses: Losses) -> float:
    """Return how often the smallest safe budget of a method loses the margin or more, over a curve of six budgets."""
    rng, wrong = np.random.default_rng(queries), 0
    true = dict(zip(BUDGETS, (4 * MARGIN, 2 * MARGIN, MARGIN, MARGIN, MARGIN / 2, 0.0), strict=True))
    tables = [Table(budget, (_entry(budget),), ()) for budget in BUDGETS]
    at: dict[tuple[str, float | None], int] = {("m", budget): place for place, budget in enumerate(BUDGETS, 1)}
    for trial in range(trials):
        cells = [np.ones((1, queries)), *(1 - losses(rng, queries, true[budget])[None] for budget in BUDGETS)]
        (found,) = Verdicts(Bootstrap(cells, trial, RESAMPLES), at, 0).summaries(tables)
        wrong += found.safe_budget is not None and true[found.safe_budget] >= MARGIN
    return wrong / trials


def _entry(budget: float) -> Entry:
    return Entry(name="m", label="m", request="m", spec="m", method="m", family="", fidelity="", kind="",
                 seeds=(0,), deployed_bytes=budget)  # fmt: skip


def false_advice(trials: int, queries: int, losses: Losses, keep: float = 0.98) -> float:
    """Return how often advice says that a method keeps a share of float32's recall, and it does not.

    Of twelve methods, from the heaviest to the lightest, four keep all, four just too little, four less.
    So many queries choose, and so many others report.
    """
    rng, wrong = np.random.default_rng(queries), 0
    true = np.repeat([0.0, 1 - keep, 1.5 * (1 - keep)], 4)
    for trial in range(trials):
        halves = [[*(1 - losses(rng, queries, loss)[None] for loss in true), np.ones((1, queries))] for _ in range(2)]
        chosen, shown = (
            dict(enumerate(headroom(Bootstrap(cells, trial, RESAMPLES), len(true), keep)[:-1])) for cells in halves
        )
        lightest = max(confirmed(chosen, shown), default=0)
        wrong += true[lightest] >= 1 - keep
    return wrong / trials


def advised_coverage(trials: int, queries: int, methods: int = 12) -> float:
    """Return how often the interval of the best of several methods that are alike holds the true recall."""
    rng, held = np.random.default_rng(queries), 0
    for trial in range(trials):
        choosing, reporting = (
            Bootstrap([recall(rng, queries)[None] for _ in range(methods)], trial, RESAMPLES) for _ in range(2)
        )
        found = reporting.mean(int(np.argmax(choosing.means)))
        held += found.low <= 0.7 <= found.high
    return held / trials


def bytes_coverage(trials: int, queries: int, share: float = 0.95) -> float:
    """Return how often the interval of the bytes for a share of float32's recall holds the true bytes."""
    rng, held = np.random.default_rng(queries), 0
    heights = np.array([0.4, 0.6, 0.75, 0.88, 0.94, 0.97])
    truth = 2 ** np.interp(share, heights, np.log2(BUDGETS))
    for trial in range(trials):
        # What a query loses at one budget it tends to lose at the others: one uniform number decides how hard it is.
        hard = rng.random(queries)
        losses = np.array([_quantile_of_losses(hard, rng, 1 - height) for height in heights])
        boot = Bootstrap([np.ones((1, queries)), *(1 - loss[None] for loss in losses)], trial, RESAMPLES)
        every = np.vstack([boot.means, boot.draws])
        curve = Curve([(budget, every[:, at]) for at, budget in enumerate(BUDGETS, 1)])
        found = curve.taken_by(share, every[:, 0], BUDGETS[-1])
        held += (found.low or np.inf) <= truth <= (found.high or np.inf)
    return held / trials


def _quantile_of_losses(hard: Array, rng: Rng, loss: float) -> Array:
    """Return losses in tenths of a known mean, larger on harder queries."""
    return rng.binomial(10, np.minimum(1, hard**4 * 5 * loss) if 5 * loss <= 1 else hard ** (1 / loss - 1)) / 10


def tie_error(orders: int, queries: int = 20) -> float:
    """Return how far expected recall lies from the mean over random orders of tied scores, in standard errors."""
    rng = np.random.default_rng(queries)
    n, k = 60, 10
    true = rng.permuted(np.tile(np.arange(float(n)), (queries, 1)), axis=1)
    ids = np.argsort(-true, axis=1)
    judge = Judge(np.zeros((queries, 1), np.float32), np.zeros((n, 1), np.float32), "ip",
                  Truth(ids, np.take_along_axis(true, ids, 1)))  # fmt: skip
    coarse = np.round((true + rng.normal(0, 8, true.shape)) / 9)
    total, squares = np.zeros(queries), np.zeros(queries)
    for _ in range(orders):
        order = np.lexsort((rng.random(coarse.shape), -coarse), axis=1)
        right = judge.recall(order, k).per_query
        total += right
        squares += right**2
    expected = judge.recall(order, k, np.take_along_axis(coarse, order, 1)).expected
    spread = np.sqrt(np.maximum(squares / orders - (total / orders) ** 2, 1e-12) / orders)
    return float(np.max(np.abs(total / orders - expected) / spread))


def table(trials: int) -> Iterator[tuple[str, str, str]]:
    """Yield what is asked, what it should be, and what was found."""
    for queries in (100, 300, 1000):
        yield f"95% interval, {queries} queries", "95%", f"{queries_coverage(trials, queries):.1%}"
    for seeds in (2, 5, 10):
        yield f"95% interval, {seeds} seeds that differ by 0.02", "95%", f"{seeds_coverage(trials, seeds):.1%}"
    for datasets in (2, 3, 5, 10):
        found = datasets_coverage(trials, datasets)
        yield f"95% interval, {datasets} data sets that differ by 0.05", "95%", f"{found:.1%}"
    for methods in (2, 5, 20):
        yield f"any win among {methods} methods that are alike", "≤ 5%", f"{false_wins(trials, methods):.1%}"
    for losses in (even, rare, mixed):
        for queries in (300, 1000):
            asked = f"{queries} queries, {losses.__name__} losses"
            yield f"lossless at a loss of the margin, {asked}", "≤ 5%", f"{false_lossless(trials, queries, losses):.1%}"
            yield f"safe budget that is not, {asked}", "≤ 5%", f"{false_safe(trials, queries, losses):.1%}"
    for queries in (300, 1000):
        for loss, name in ((MARGIN / 4, "a quarter of the margin"), (0.0, "nothing")):
            found = false_lossless(trials, queries, even, loss)
            yield f"lossless at a loss of {name}, {queries} queries, even losses", "power", f"{found:.1%}"
    for losses in (even, rare, mixed):
        for queries in (250, 500):
            found = false_advice(trials, queries, losses)
            yield (
                f"advised to keep 98% and does not, {queries} queries, {losses.__name__} losses",
                "≤ 5%",
                f"{found:.1%}",
            )
    yield "95% interval of the best of 12 that are alike, 250 queries", "95%", f"{advised_coverage(trials, 250):.1%}"
    for queries in (100, 300, 1000):
        yield f"95% interval of the bytes for 95%, {queries} queries", "95%", f"{bytes_coverage(trials, queries):.1%}"
    yield "expected recall over ties against 10,000 orders, 20 queries", "< 4 errors", f"{tie_error(10_000):.1f}"


def main() -> None:
    """Print the table, and write it into the documentation where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default=1000, type=int)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    out = Console(width=160)
    lines = ["| question | should be | found |", "|---|---|---|"]
    for row in table(chosen.trials):
        lines.append(f"| {' | '.join(row)} |")
        out.print(lines[-1], highlight=False)
    if chosen.write:
        found = "\n".join([f"{chosen.trials:,} trials each, {RESAMPLES} resamples.", "", *lines])
        text = DOCS.read_text(encoding="utf-8")
        marked = re.sub(r"(?<=<!-- simulations -->\n).*(?=<!-- end -->)", lambda _: f"{found}\n", text, flags=re.DOTALL)
        DOCS.write_text(marked, encoding="utf-8")


if __name__ == "__main__":
    main()
