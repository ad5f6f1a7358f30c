"""Measure how often the gate is right: losses planted in measured outcomes, and runs of the same thing.

    python benchmarks/gate.py [--runs 40] [--work DIR] [--write]       # quality; minutes, most of them for the noise
    python benchmarks/gate.py --latency 40 [--work DIR] [--write]      # latency: 46 runs of a small suite
    python benchmarks/gate.py --of DIR --of DIR ... [--write]          # latency: runs of one suite made before

DIR keeps what was run. --write puts the tables into docs/gate.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

import packbench
from packbench.dataset import from_vectors
from packbench.items import Array
from packbench.leaderboard.gate.compare import Comparison, Verdict, compare, per_query_of
from packbench.leaderboard.gate.gates import NOISY, gates_of
from packbench.leaderboard.gate.noise import floor_of
from packbench.leaderboard.gate.sources import read
from packbench.store import Row

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "gate.md"
BASE = ROOT / "leaderboard" / "results" / "pydocs.jsonl.gz"
DEPTHS = ("recall@10", "recall@100")
METRICS = (*DEPTHS, "nDCG@10")
TRAINED = ("pq", "opq", "rq", "itq")  # fitted with another seed, these answer otherwise and no worse
SUITES, SEEDS, LOSSES = (1, 18, 100), (1, 3), (0.0, 0.001, 0.01)
FAST = ("int8()", "sign()", "pq(m=16)", "rabitq()")
BEFORE = 5  # runs that the floor is measured by
Rng = np.random.Generator
Outcomes = dict[str, Array]


def outcomes_of(row: Row) -> Outcomes:
    """Return the outcome of each query, in [0, 1], by metric."""
    found = {metric: per_query_of(row, metric) for metric in METRICS}
    return {metric: values for metric, values in found.items() if values is not None}


def board() -> list[Row]:
    """Return the measured cells that losses are planted in: all that found at least a third of the true ten."""
    rows = [row for row in read(BASE) if row["status"] == "ok" and row["budget"] is not None]
    return [row | {"per_query": as_stored(outcomes_of(row))} for row in rows if row["recall"]["recall@10"] > 1 / 3]


def as_stored(outcomes: Outcomes) -> Outcomes:
    """Return outcomes as a row holds them: recall as a number of items."""
    return {metric: values * _scale(metric) for metric, values in outcomes.items()}


def _scale(metric: str) -> int:
    return int(metric.split("@")[1]) if metric in DEPTHS else 1


def refits(work: Path) -> list[Outcomes]:
    """Return how the outcomes of each query differ between two fits of one method, less the mean difference."""
    packbench.run("pydocs", TRAINED, work / "refits", budgets=(64.0,), seeds=(0, 1), tries=1, references=False)
    rows = {(row["request"], row["seed"]): row for row in read(work / "refits") if row["status"] == "ok"}
    pairs = [(outcomes_of(rows[name, 0]), outcomes_of(rows[name, 1])) for name in TRAINED]
    apart = [{metric: one[metric] - other[metric] for metric in METRICS} for one, other in pairs]
    return [{metric: values - values.mean() for metric, values in of.items()} for of in apart]


def drawn_down(row: Row, loss: float, rng: Rng) -> Outcomes:
    """Return outcomes in which found items were lost at random, so that recall falls by a loss on average."""
    outcomes = outcomes_of(row)
    for metric in DEPTHS:
        found = np.rint(outcomes[metric] * _scale(metric)).astype(int)
        outcomes[metric] = outcomes[metric] - rng.binomial(found, loss / outcomes[metric].mean()) / _scale(metric)
    return outcomes


def refitted(row: Row, outcomes: Outcomes, noises: Sequence[Outcomes], seeds: int, rng: Rng) -> Row:
    """Return a row fitted anew: to its outcomes comes the noise of a method drawn by lot, its queries drawn anew."""
    noise = noises[rng.integers(len(noises))]
    asked = rng.integers(0, row["n_queries"], row["n_queries"])
    outcomes = {metric: values + noise[metric][asked] / math.sqrt(seeds) for metric, values in outcomes.items()}
    return row | {"per_query": as_stored(outcomes)}


def planted(
    cells: Sequence[Row], noises: Sequence[Outcomes], suite: int, loss: float, seeds: int, rng: Rng
) -> Comparison:
    """Compare a suite with itself fitted anew; 0.01 is lost by its first cell alone, a smaller loss by all of them."""
    base = [row | {"request": f"cell {at}"} for at, row in enumerate(rng.choice(np.array(cells), suite))]
    new = []
    for at, row in enumerate(base):
        lossy = at == 0 or loss < 0.01
        new.append(refitted(row, drawn_down(row, loss if lossy else 0.0, rng), noises, seeds, rng))
    return compare(base, new, gates=gates_of())


def quality(runs: int, work: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what is asked of the gate, what should come out, and what did."""
    cells, noises = board(), refits(work)
    same = compare(cells, cells)
    yield (
        f"the same results, {len(cells)} cells: findings that are not PASS",
        "0",
        str(len(same.findings) - len(same.of(Verdict.PASS))),
    )
    for seeds, suite, loss in itertools.product(SEEDS, SUITES, LOSSES):
        rng = np.random.default_rng([seeds, suite, int(loss * 1000)])
        found = [planted(cells, noises, suite, loss, seeds, rng) for _ in range(runs)]
        named = f"{seeds} seed{'s' * (seeds > 1)}, {suite} cell{'s' * (suite > 1)}, fitted anew"
        if loss == 0.01:
            right = sum(any(one.request == "cell 0" for one in of.of(Verdict.REGRESSION)) for of in found)
            yield f"{named}, one loses 0.01: REGRESSION of it", f"≥ {math.ceil(0.95 * runs)}", str(right)
            wrong = sum(any(one.request != "cell 0" for one in of.of(Verdict.REGRESSION)) for of in found)
            yield f"{named}, one loses 0.01: of another", f"≤ {math.floor(0.05 * runs)}", str(wrong)
            continue
        wrong = sum(of.verdict is Verdict.REGRESSION for of in found)
        lost = f", all lose {loss:g}" if loss else ", nothing lost"
        yield f"{named}{lost}: REGRESSION", f"≤ {math.floor(0.05 * runs)}", str(wrong)
        if not loss:
            unsure = sum(of.verdict is Verdict.INCONCLUSIVE for of in found)
            yield f"{named}{lost}: INCONCLUSIVE", "told", str(unsure)


def repeated(runs: int, work: Path) -> list[Path]:
    """Run a small suite of fast methods on synthetic vectors again and again, each time into a directory of its own."""
    vectors = np.random.default_rng(0).standard_normal((2_300, 64)).astype(np.float32)
    data = from_vectors(vectors[:2_000], vectors[2_000:], name="synthetic")
    folders = [work / f"run {turn}" for turn in range(runs)]
    for folder in folders:
        packbench.run(data, FAST, folder, budgets=(128.0,), references=False)
    return folders


def latency(folders: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield how often a run was called worse than the one before it, by the floor of the first ones."""
    runs = [read(folder) for folder in folders]
    noise = floor_of(runs[:BEFORE])
    pairs = list(itertools.pairwise(runs[BEFORE:]))
    cells = sum(row["status"] == "ok" for row in runs[0])
    for metric in NOISY:
        if metric not in noise.floor:
            continue
        gates = gates_of([f"{metric}:+20%"])
        found = [compare(*pair, gates=gates, floor=noise.floor) for pair in pairs]
        of_metric = [[one for one in of.findings if one.metric == metric] for of in found]
        red = sum(any(one.verdict is Verdict.REGRESSION for one in of) for of in of_metric)
        unsure = sum(any(one.verdict is Verdict.INCONCLUSIVE for one in of) for of in of_metric)
        asked = f"{metric}, {len(pairs)} comparisons of {cells} cells, floor {math.expm1(noise.floor[metric]):.0%}"
        yield f"{asked}: REGRESSION", f"≤ {math.floor(0.05 * len(pairs))}", f"{red}, beside {unsure} INCONCLUSIVE"


def fill(marker: str, lines: Sequence[str]) -> None:
    """Put lines between a marker of docs/gate.md and the end that follows it."""
    text, found = DOCS.read_text(encoding="utf-8"), "\n".join(lines)
    before, opening, rest = text.partition(f"<!-- {marker} -->\n")
    _, closing, after = rest.partition("<!-- end -->")
    DOCS.write_text(f"{before}{opening}{found}\n{closing}{after}", encoding="utf-8")


def main() -> None:
    """Print the table, and write it into the documentation where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=40, type=int, help="Simulated comparisons for each line.")
    parser.add_argument("--latency", type=int, help="Comparisons of runs that are made for it.")
    parser.add_argument("--of", action="append", type=Path, help="A run made before; repeat, in order.")
    parser.add_argument("--work", type=Path, help="Folder for what is run (default: a temporary one).")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    out, lines = Console(width=160), ["| question | should be | found |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        timed = chosen.of or (repeated(BEFORE + 1 + chosen.latency, work) if chosen.latency else None)
        for row in latency(timed) if timed else quality(chosen.runs, work):
            lines.append(f"| {' | '.join(row)} |")
            out.print(lines[-1], highlight=False, markup=False)
    if chosen.write:
        fill("latency" if timed else "quality", lines)


if __name__ == "__main__":
    main()
