"""Advise on one's own vectors: run a short board on a sample of them, choose by it, and say how sure that is."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.filesize import decimal

from packbench import resources, runner
from packbench.dataset import Dataset, from_vectors
from packbench.datasets.parts import Parts, float32_rows
from packbench.datasets.read import read_parts, read_vectors
from packbench.errors import BadInput, Infrastructure
from packbench.items import Array
from packbench.leaderboard.cells import RECALL, expected_of
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.stats import LEVEL, Bootstrap, Interval
from packbench.method import Metric
from packbench.plan import BUDGETS, REFERENCES, Listener
from packbench.store import Row, Store

SAMPLE_ITEMS = 20_000
SAMPLE_QUERIES = 1500  # a third choose configurations, of the others one half the method; the rest say what it keeps
TRIES = 2
TIMING_SECONDS = 0.5
STEP = 1.5  # costs in time that differ by less than about this factor are taken for equal

# Of each family what is strong for its bytes or cheap, and nothing that takes minutes to fit: plain formats and their
# integers, bits, rotations with fixed levels, bits shared out among dimensions, projections, product codes.
CANDIDATES = (
    "float32", "float16", "int8", "int4", "sign", "rabitq", "eden", "turboquant_mse", "transform_coding", "truncate",
    "pca", "pq", "opq",
)  # fmt: skip
T = TypeVar("T")
Measured = tuple[str, float]  # a request at a budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Say which method to use, what it keeps and weighs, and how sure that is.

    budget is bytes per item with shared arrays spread over `rows` items, the number to be served. The n items and the
    queries measured are a sample of the `available` vectors; own_queries tells whether queries were given. Of the
    queries, choosing made the choice, and reporting others are those that the figures rest on, so that luck in the
    choice does not flatter them. keep is the share of float32's recall@10 that was asked for, and kept_for_sure
    whether the reporting queries show it. alike are the entries that the choosing queries could not tell apart from
    the choice. difference is how far the recall@10 of the choice lies above the runner-up's, paired by query.
    """

    source: str
    metric: Metric
    available: int
    n: int
    d: int
    choosing: int
    reporting: int
    own_queries: bool
    rows: int
    budget: float
    keep: float | None
    kept_for_sure: bool
    choice: Entry
    alike: tuple[Entry, ...]
    measured: int
    runner_up: Entry | None
    difference: Interval | None
    results: str

    @property
    def spec(self) -> str:
        """Return the configuration to use."""
        return str(self.choice.spec)

    @property
    def kept(self) -> Interval:
        """Return the share of float32's recall@10 that the choice keeps on the sample."""
        return _known(self.choice.recall_of_float32)

    @property
    def nbytes(self) -> int:
        """Return the memory of the arrays at `rows` items, from the bytes weighed on the sample."""
        return round(_known(self.choice.payload_bytes) * self.rows + _known(self.choice.shared_bytes_in_all))

    def to_text(self) -> str:
        """Return the advice as a person reads it."""
        choice, recall = self.choice, _known(self.choice.recall_at_10)
        lines = [
            f"Use {self.spec}",
            f"  keeps      {_percent(self.kept)} of float32's recall@10, which makes recall@10 {_interval(recall)}",
            f"  weighs     {_known(choice.payload_bytes):.1f} bytes per item and "
            f"{decimal(round(_known(choice.shared_bytes_in_all)))} shared: {decimal(self.nbytes)} for {self.rows:,} "
            f"items, where float32 takes {decimal(4 * self.d * self.rows)}",
            f"  searches   {self.n:,} items in {_known(choice.p50_ms):.3f} ms per query on one thread, "
            f"{_known(choice.speedup).value:.2f} times as fast as float32",
            f"  builds     in {_known(choice.fit_seconds):.1f} s to fit and {_known(choice.encode_seconds):.1f} s to "
            f"encode {self.n:,} items",
        ]
        if self.keep is not None:
            told = "kept: the whole interval lies above it" if self.kept_for_sure else (
                f"NOT shown to be kept by any method within {self.budget:g} bytes per item; this is the best found"
            )  # fmt: skip
            needed = math.ceil(-math.log(1 - LEVEL) / math.log(2 - self.keep))  # with one added on which all is lost
            if needed > self.reporting and not self.kept_for_sure:
                told += f". To show so much takes {needed:,} queries, and {self.reporting:,} were left for it"
            lines.append(f"  asked      {self.keep:.1%}, {told}")
        lines += [
            f"  sure       {self._sureness()}",
            f"  queries    {self.choosing:,} made the choice; the figures rest on {self.reporting:,} others",
            *([f"  runner-up  {self.runner_up.name}: {self._against(self.runner_up)}"] if self.runner_up else []),
            "Not known",
            *(f"  - {gap}" for gap in self._gaps()),
            "In Python",
            *(f"  {line}" for line in self._snippet()),
            f"`packbench board --results {self.results}` shows all that was measured",
        ]
        return "\n".join(lines)

    def _sureness(self) -> str:
        others = self.measured - 1
        if self.kept_for_sure:
            return (
                f"the lightest that is shown to keep it, of {self.measured} methods at {self.budget:g} bytes per item"
            )
        if not self.alike:
            return (
                f"no other of the {self.measured} methods at {self.budget:g} bytes per item is as good, beyond chance"
            )
        names = ", ".join(entry.name for entry in self.alike)
        return (
            f"{len(self.alike)} of the other {others} methods at {self.budget:g} bytes per item could not be told "
            f"apart from it: {names}. Of those that cannot be told apart from the best, it costs least"
        )

    def _against(self, other: Entry) -> str:
        """Say how the runner-up differs and why it lost."""
        gap = _known(self.difference)
        found = f"finds {abs(gap.value):.3f} {'less' if gap.value >= 0 else 'more'}"
        found += f" (the choice lies {gap.low:+.3f} to {gap.high:+.3f} above it)"
        if self.kept_for_sure:
            kept = _known(other.recall_of_float32).low >= _known(self.keep)
            return f"{found}; {_heavier(other, self.choice) if kept else 'it is not shown to keep what was asked'}"
        if gap.low > 0:
            return f"{found}, which is not chance"
        reasons = ("it is slower to search", "it takes longer to fit", _heavier(other, self.choice))
        worse = [theirs > ours for theirs, ours in zip(_cost(other), _cost(self.choice), strict=True)]
        told = "which may be chance" if gap.high >= 0 else "which the queries that chose did not show"
        return f"{found}, {told}; " + (reasons[worse.index(True)] if any(worse) else "it costs the same")

    def _gaps(self) -> list[str]:
        gaps = []
        if self.rows > self.n:
            whole = self.available <= self.n + SAMPLE_QUERIES
            of = "all that were given" if whole else f"a random sample of the {self.available:,} given"
            gaps.append(
                f"recall and time among {self.rows:,} items: {self.n:,} were searched, {of}. More items lie closer "
                "together, which lowers recall and may change the ranking; neither is extrapolated"
            )
        if not self.own_queries:
            gaps.append("real queries: vectors held out from the items asked; give --queries, since queries often "
                        "lie elsewhere")  # fmt: skip
        gaps.append("the memory that fitting takes, and what a process needs beside the arrays")
        return gaps

    def _snippet(self) -> list[str]:
        vectors = "vectors" if self.source == "vectors" else repr(self.source)
        return [
            "from packbench import open_index",
            "from packbench.serve import export",
            "",
            f"export({self.spec!r}, {vectors}, 'my_index', metric={self.metric!r})  # once",
            "index = open_index('my_index')",
            f"hits = index.search(queries, k=10)  # queries (n, {self.d}) from the same encoder",
            "hits.ids, hits.scores  # each (n, 10), best first; ids are rows of the vectors",
        ]


def advise(
    vectors: str | Path | Array,
    *,
    bytes_per_item: float | None = None,
    memory_bytes: int | None = None,
    rows: int | None = None,
    keep: float | None = None,
    queries: str | Path | Array | None = None,
    metric: Metric | None = None,
    results: str | Path = "results",
    methods: Sequence[str] = CANDIDATES,
    plugins: Sequence[str] = (),
    listener: Listener | None = None,
) -> Advice:
    """Measure methods on a sample of vectors and advise one of them.

    One half of the test queries chooses, the other says what the choice keeps. The budget is bytes_per_item, or
    memory_bytes over rows. With `keep` it is the smallest of a ladder up to that budget (or up to float32's own size)
    at which a method keeps that share of float32's recall@10, and the lightest such method that the other half
    confirms is advised. Otherwise it is the cheapest of those that could not be told apart from the best.

    Args:
        vectors: a file that `packbench.datasets.read_vectors` reads, or an array (n, d); at most 20,000 are searched.
        bytes_per_item: the most that an item may weigh.
        memory_bytes: the most that `rows` items may weigh in all.
        rows: how many items are to be served (default: those given), over which shared arrays are spread.
        keep: the share of float32's recall@10 to keep, between 0 and 1.
        queries: vectors that query, by default those of the file, or items that are held out; at most 1,500 are used.
        metric: ip, cosine or l2; by default what the file states, otherwise ip.
        results: directory that keeps the rows of the short board, so that a second call measures nothing again.
        methods: names or specs to choose from.
        plugins: Python files whose methods to add.
        listener: hears of the progress.

    Raises:
        BadInput: arguments that do not go together, vectors that cannot be used, or a budget that nothing fits.
        Infrastructure: the reference could not be measured.
    """
    source = "vectors" if isinstance(vectors, np.ndarray) else str(vectors)
    allowed = _allowed(bytes_per_item, memory_bytes, rows, keep)
    dataset, available = sample(vectors, queries, metric)
    if len(dataset.queries) < 2:
        raise BadInput(f"{len(dataset.queries) + len(dataset.validation)} queries: give at least 3, since one chooses "
                       "configurations, one the method, and one says what it keeps")  # fmt: skip
    served = rows or available
    facts = {"dataset_sha256": dataset.sha256(), "deployment_n": served, "disk_budget": 0.0, "tries": TRIES,
             "machine": resources.machine()["id"], "threads": {"build": 1, "search": 1}}  # fmt: skip

    boards: dict[float, tuple[Board, Board]] = {}

    def measured(budget: float) -> tuple[Board, Board]:
        if budget not in boards:
            runner.run(
                dataset, methods, results, listener=listener, budgets=(budget,), deployment_n=served, tries=TRIES,
                timing_seconds=TIMING_SECONDS, plugins=tuple(plugins),
            )  # fmt: skip
            boards[budget] = _halves(results, (*methods, *REFERENCES), budget, facts)
        return boards[budget]

    budget = 4.0 * dataset.d if allowed is None else allowed
    sure: list[Measured] = []
    if keep is not None:
        # More bytes never keep less, up to noise, so the smallest budget is found by bisection.
        ladder = [*(step for step in BUDGETS if step < budget), budget]
        at = bisect_left(ladder, True, key=lambda step: max(_headroom(measured(step)[0], keep).values(), default=0) > 0)
        budget = ladder[min(at, len(ladder) - 1)]
        measured(budget)
        pairs = zip(*boards.values(), strict=True)
        chosen, shown = ({key: low for of in half for key, low in _headroom(of, keep).items()} for half in pairs)
        entries = {(of.request, step): of for step, (board, _) in boards.items() for of in board.tables[0].ranked}
        sure = sorted(confirmed(chosen, shown), key=lambda key: (_known(entries[key].deployed_bytes), key[1]))
        budget = sure[0][1] if sure else budget
    choosing, reporting = measured(budget)
    table = choosing.tables[0]
    if not table.ranked:
        raise BadInput(_nothing_fits(table))
    choice, alike, runner_up = choose(table, [request for request, at in sure if at == budget])
    reported = {entry.request: entry for entry in reporting.tables[0].ranked}
    outcomes = [reporting.outcomes[entry.request, budget][None] for entry in (choice, runner_up) if entry]
    return Advice(
        source=source, metric=dataset.metric, available=available, n=dataset.n, d=dataset.d,
        choosing=choosing.queries, reporting=reporting.queries, own_queries="held_out" not in dataset.card,
        rows=served, budget=budget, keep=keep, kept_for_sure=bool(sure), choice=reported[choice.request], alike=alike,
        measured=len(table.ranked), runner_up=reported[runner_up.request] if runner_up else None,
        difference=Bootstrap(outcomes).difference(0, 1) if runner_up else None, results=str(results),
    )  # fmt: skip


def _allowed(
    bytes_per_item: float | None, memory_bytes: int | None, rows: int | None, keep: float | None
) -> float | None:
    """Return the bytes that an item may weigh; None where only `keep` bounds them.

    Raises:
        BadInput: arguments that do not go together.
    """
    if keep is not None and not 0 < keep < 1:
        raise BadInput(f"keep {keep:g}: expected a share of float32's recall between 0 and 1, such as 0.98")
    if rows is not None and rows < 1:
        raise BadInput(f"rows {rows}: expected at least 1")
    if memory_bytes is None:
        if bytes_per_item is None and keep is None:
            raise BadInput("no budget: give bytes per item (--bytes 64), or memory and rows (--memory 8GB --rows 50M), "
                           "or what is to be kept of float32's recall (--keep 0.98)")  # fmt: skip
        if bytes_per_item is not None and not bytes_per_item > 0:
            raise BadInput(f"bytes {bytes_per_item:g}: expected more than 0 bytes per item")
        return None if bytes_per_item is None else float(bytes_per_item)
    if bytes_per_item is not None:
        raise BadInput("both bytes per item and memory are given; they are two ways to say one thing, so leave one out")
    if rows is None:
        raise BadInput("memory without rows: say how many items are to fit into it (--rows 50M)")
    if memory_bytes < rows:
        raise BadInput(f"{decimal(memory_bytes)} for {rows:,} items is less than one byte each; allow more memory, or "
                       "fewer rows")  # fmt: skip
    return memory_bytes / rows


def sample(
    vectors: str | Path | Array, queries: str | Path | Array | None = None, metric: Metric | None = None, seed: int = 0
) -> tuple[Dataset, int]:
    """Return a data set of at most 20,000 random vectors and 1,500 queries, and how many vectors there are.

    Only the rows drawn are read. Where there are enough others, methods fit on 20,000 of those, as they would on a
    share of many items.
    """
    given = isinstance(vectors, np.ndarray)
    parts = Parts(vectors) if isinstance(vectors, np.ndarray) else read_parts(Path(vectors))
    name, what = ("vectors", "the given array") if given else (Path(str(vectors)).stem, str(vectors))
    if parts.items.ndim != 2:
        raise BadInput(f"{what}: expected a matrix (n, d) of numbers, got shape {parts.items.shape}")
    asked = parts.queries if queries is None else queries
    if isinstance(asked, str | Path):
        asked = read_vectors(asked)
    rng, available = np.random.default_rng(seed), len(parts.items)
    held_out = min(SAMPLE_QUERIES, available // 10) if asked is None else 0
    drawn = rng.permutation(rng.choice(available, min(available, 2 * SAMPLE_ITEMS + held_out), replace=False))
    searched, spare = np.sort(drawn[: SAMPLE_ITEMS + held_out]), np.sort(drawn[SAMPLE_ITEMS + held_out :])
    if asked is not None:
        asked = np.asarray(asked)
        asked = float32_rows(asked[np.sort(rng.permutation(len(asked))[:SAMPLE_QUERIES])], "queries")
    dataset = from_vectors(
        float32_rows(parts.items[searched], what), asked, name=name, metric=metric or parts.metric or "ip",
        fit=float32_rows(parts.items[spare], what) if len(spare) == SAMPLE_ITEMS else None, held_out=held_out or None,
        seed=seed,
    )  # fmt: skip
    return dataset, available


def _halves(results: str | Path, requests: Sequence[str], budget: float, facts: Row) -> tuple[Board, Board]:
    """Return the boards of the queries that choose and of those that report, by the rows that agree in the facts."""
    rows = [
        row for row in Store(results).by_id().values()
        if row["request"] in requests and row["budget"] in (budget, None)
        and all(row[name] == value for name, value in facts.items())
    ]  # fmt: skip
    order = np.random.default_rng(0).permutation(rows[0]["n_queries"])
    (choosing,), (reporting,) = (boards_of([_asked(row, half) for row in rows]) for half in np.array_split(order, 2))
    (float32,) = (entry for entry in choosing.references if entry.method == "float32")
    if float32.status != "ok":
        raise Infrastructure(f"float32 could not be measured: {float32.reason}")
    return choosing, reporting


def _asked(row: Row, queries: Array) -> Row:
    """Return a row as if only some of its queries had been asked; the bounds over ties lie about their own mean."""
    if row["status"] != "ok":
        return row
    per_query = {name: [of[query] for query in queries] for name, of in row["per_query"].items()}
    mean = np.mean(expected_of(per_query, RECALL)) / min(10, row["n"])
    ties = {RECALL: [float(mean) + bound - row["ties"][RECALL][1] for bound in row["ties"][RECALL]]}
    return row | {"n_queries": len(queries), "per_query": per_query, "ties": ties}


def _headroom(board: Board, keep: float) -> dict[Measured, float]:
    """Return the headroom of each request of a board of one budget."""
    (table,) = board.tables
    keys = [(entry.request, table.budget) for entry in table.ranked]
    recall = Bootstrap([board.outcomes[key][None] for key in (*keys, _known(board.float32))])
    return dict(zip(keys, headroom(recall, len(keys), keep), strict=False))


def headroom(recall: Bootstrap, float32: int, keep: float) -> list[float]:
    """Return how far each cell lies, at least, above a share of float32's recall: above 0, it is shown to keep it.

    That is the low end of its interval, or the bound at 5% that allows for losses too rare to be met, if that is less.
    """
    ratios = [recall.ratio(at, float32) for at in range(len(recall.means))]
    bounds = recall.bounds(float32, keep)[0].tolist()
    return [min(bound, ratio.low - keep) if ratio else -math.inf for bound, ratio in zip(bounds, ratios, strict=True)]


def confirmed(chosen: Mapping[T, float], shown: Mapping[T, float]) -> list[T]:
    """Return what is shown to keep its share, from the most headroom by other queries down to the first that fails.

    What fixes the order has not met the queries that show, so each is tested at the full level and all of them
    together err as rarely as one (W. Maurer, L. A. Hothorn, W. Lehmacher, Multiple comparisons in drug clinical trials
    and preclinical assays: a-priori ordered hypotheses, 1995).
    """
    order = sorted(chosen, key=chosen.__getitem__, reverse=True)
    return list(itertools.takewhile(lambda one: shown[one] > 0, order))


def choose(table: Table, keepers: Sequence[str] = ()) -> tuple[Entry, tuple[Entry, ...], Entry | None]:
    """Return the entry to use, those that could not be told apart from it, and the runner-up.

    keepers are the requests that keep what is asked, the lightest first: that one is used, and the next is the
    runner-up. Without them it is, of the first rank group, the entry that costs least, and then the best-ranked other.
    """
    first, entries = table.ranked[0], {entry.request: entry for entry in table.ranked}
    alike = [entry for entry in table.ranked if _alike(entry, first)]
    choice = entries[keepers[0]] if keepers else min(alike, key=_cost)
    others = [entry for entry in table.ranked if entry is not choice]
    runner_up = next((entry for entry in (*(entries[request] for request in keepers[1:]), *others)), None)
    return choice, tuple(entry for entry in others if _alike(entry, choice)), runner_up


def _alike(one: Entry, other: Entry) -> bool:
    """Tell whether recall@10 could not tell two entries of a table apart: they share a letter."""
    return bool(set(one.group) & set(other.group))


def _cost(entry: Entry) -> tuple[int, int, float]:
    """Order by time to search, then by time to fit, both in steps that noise hardly crosses, then by bytes."""
    search, fit = 1 / _known(entry.speedup).value, max(0.1, _known(entry.fit_seconds))
    return round(math.log(search, STEP)), round(math.log(fit, STEP)), _known(entry.deployed_bytes)


def _nothing_fits(table: Table) -> str:
    least = min((entry for entry in table.absent if entry.least_bytes), key=lambda entry: entry.least_bytes or 0.0,
                default=None)  # fmt: skip
    told = f"the least is {least.least_bytes:.1f}, by {least.name}" if least else table.absent[0].reason
    return f"at {table.budget:g} bytes per item none of the {len(table.absent)} methods gave figures: {told}"


def _heavier(other: Entry, choice: Entry) -> str:
    return f"it weighs {_known(other.deployed_bytes):.1f} bytes per item against {_known(choice.deployed_bytes):.1f}"


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _known(value: T | None) -> T:
    """Return a figure that every measured entry has."""
    if value is None:
        raise Infrastructure("a measured entry lacks a figure; remove the results of this board and run again")
    return value
