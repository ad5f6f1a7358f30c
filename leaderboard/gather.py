"""Turn result rows into boards: group what may be compared, average seeds, rank, and account for what is absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from packbench.errors import BadInput
from packbench.gaussian import STATUS
from packbench.leaderboard.cells import (
    NDCG,
    RECALL,
    Cell,
    flags,
    joined,
    lacks_expectation,
    machine,
    may_remember,
    mean,
    outcomes,
    plain,
    speedup,
    stages,
    ties,
    too_heavy,
    unmeasured,
    values,
)
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.stats import MARGIN, Bootstrap, Interval, groups, overlapping
from packbench.leaderboard.verdicts import Verdicts
from packbench.store import Row, canonical

# What must agree before two figures may stand in one table, and what a reader calls it.
COMPARABLE = {
    "dataset_sha256": "version of the data",
    "machine": "machine",
    "deployment_n": "deployment size",
    "disk_budget": "disk allowance",
    "threads": "threads",
    "tries": "tries per method",
}
# What a stage loses against the one before it: decoded codes scored exactly; the method's own scorer over all codes.
LOSSES = {"codes": "coding", "scan": "scoring", "shortlist": "scoring"}
# What the method's own answers lose or win after its last stage.
LAST = {None: "all", "codes": "scoring", "scan": "lists", "shortlist": "rescoring"}
HARDEST = 0.25  # share of the queries that is called hardest
Key = tuple[str, float | None]  # request and budget (none: a reference at its own size)


def boards_of(rows: Iterable[Row], margin: float = MARGIN) -> list[Board]:
    """Make one board per group of comparable rows, sorted by data set; margin is the recall that lossless may lose.

    Raises:
        BadInput: a row lacks what every result has, or the margin is none.
    """
    if not 0 < margin < 1:
        raise BadInput(
            f"margin {margin:g}: expected the recall that may be lost, above 0 and below 1, such as {MARGIN}"
        )
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        try:
            alike.setdefault((row["dataset"], *(_same(row[name]) for name in COMPARABLE)), []).append(row)
        except KeyError as error:
            raise _unreadable(str(row.get("id")), error) from None
    boards: list[Board] = []
    for key in sorted(alike):
        siblings = sorted(other for other in alike if other[0] == key[0])
        try:
            boards.append(_Group(alike[key], _why_apart(siblings, key), margin).board())
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _unreadable(f"of {key[0]}", error) from error
    return boards


def _same(value: Any) -> str:
    return str(canonical(float(value) if isinstance(value, int) else value))


def _unreadable(which: str, error: Exception) -> BadInput:
    return BadInput(
        f"result {which}: cannot be read ({type(error).__name__}: {error}); it comes from another version of "
        "packbench. Move its file elsewhere, or run again into a new directory"
    )


def _why_apart(siblings: Sequence[tuple[str, ...]], key: tuple[str, ...]) -> list[str]:
    if len(siblings) == 1:
        return []
    differing = [words for at, words in enumerate(COMPARABLE.values(), 1) if len({one[at] for one in siblings}) > 1]
    return [f"board {siblings.index(key) + 1} of {len(siblings)} for this data set: the results differ in "
            f"{', '.join(differing)} and are not mixed"]  # fmt: skip


class _Group:
    """Hold comparable rows, their cells, and one bootstrap that pairs all of them."""

    def __init__(self, rows: list[Row], notes: list[str], margin: float) -> None:
        self._rows = [row for row in rows if row["status"] != STATUS]
        self._curve = [row for row in rows if row["status"] == STATUS]
        self._notes, self._margin = notes, margin
        self._cells = self._into_cells()
        self._at: dict[Key, int] = {}
        complete = [key for key, cell in self._cells.items() if all(row["status"] == "ok" for row in cell)]
        if complete:
            self._at = {key: at for at, key in enumerate(complete)}
            self._possible = min(10, rows[0]["n"])
            cells = [outcomes(self._cells[key]) for key in complete]
            self._stages: dict[Key, list[tuple[str, int]]] = {}
            for key in complete:
                before = stages(self._cells[key])
                self._stages[key] = [(name, len(cells) + at) for at, (name, _) in enumerate(before)]
                cells += [found for _, found in before]
            self._recall = Bootstrap([cell / self._possible for cell in cells])
            judged = all("relevance" in self._cells[key][0] for key in complete)
            self._ndcg = Bootstrap([values(self._cells[key], NDCG) for key in complete]) if judged else None
        self._float32 = self._find_float32()
        self._place = None if self._float32 is None else self._at[self._float32]
        if complete:
            shown = {_shown(key): at for key, at in self._at.items()}
            self._verdicts = Verdicts(self._recall, shown, self._place, margin)

    def _into_cells(self) -> dict[Key, Cell]:
        """Put the seeds of a cell together; results of code that has changed since give way to the latest."""
        cells: dict[Key, Cell] = {}
        for row in sorted(self._rows, key=lambda row: str(row["time"])):
            cells.setdefault((row["request"], row["budget"]), []).append(row)
        kept: dict[Key, Cell] = {}
        for key, cell in cells.items():
            latest = {row["seed"]: row for row in cell if row["version"] == cell[-1]["version"]}
            kept[key] = [latest[seed] for seed in sorted(latest)]
        replaced = len(self._rows) - sum(map(len, kept.values()))
        if replaced:
            self._notes.append(
                f"{replaced} older results are left out: the same cells were measured later, or the code changed"
            )
        return kept

    def _find_float32(self) -> Key | None:
        """Return the row that fractions are taken of, the one at its own size before one under a budget."""
        found = [key for key in self._at if self._cells[key][0]["method"] == "float32"]
        return min(found, key=lambda key: key[1] is not None) if found else None

    def board(self) -> Board:
        """Return the board."""
        rows, some = self._rows, self._rows[-1]
        if self._float32 is None:
            self._notes.append("there is no float32 row, so fractions of float32 are missing")
        older = sum(map(lacks_expectation, (self._cells[key] for key in self._at)))
        if older:
            self._notes.append(
                f"{older} results with tied scores are older than their expectation by query: they are ranked by its "
                "mean, and their figures and intervals are of the order that was answered"
            )
        whole = sum(may_remember(self._cells[key]) for key in self._at)
        if whole:
            self._notes.append(
                f"{whole} results were fitted on the searched items and have shared arrays of half their size or more: "
                "such a method can remember items, and what it finds says little about new ones"
            )
        versions = sorted(
            {", ".join(f"{name} {value}" for name, value in sorted(row["versions"].items())) for row in rows}
        )
        if len(versions) > 1:
            self._notes.append("the results were measured with several versions of the libraries: see Versions")
        budgets = sorted({budget for _, budget in self._cells if budget is not None})
        times = sorted(str(row["time"]) for row in rows)
        tables = tuple(self._table(budget) for budget in budgets)
        return Board(
            dataset=plain(some["dataset"]),
            dataset_sha256=plain(some["dataset_sha256"]),
            n=some["n"],
            d=some["d"],
            metric=plain(some["metric"]),
            queries=some["n_queries"],
            judged=next((row["n_judged"] for row in rows if row.get("n_judged")), None),
            fit_on=plain(some["fit_on"]),
            fit_items=some["n_fit"],
            deployment_n=some["deployment_n"],
            disk_budget=some["disk_budget"],
            search_threads=some["threads"]["search"],
            build_threads=some["threads"]["build"],
            tries=some["tries"],
            machine=plain(some["machine"]),
            machine_facts=machine(some["machine_facts"]),
            versions=tuple(map(plain, versions)),
            measured=(plain(times[0]), plain(times[-1])),
            notes=tuple(self._notes),
            references=tuple(self._entry(key) for key in self._cells if key[1] is None),
            tables=tables,
            outcomes={_shown(key): outcomes(self._cells[key]).mean(axis=0) / self._possible for key in self._at},
            draws={_shown(key): self._recall.draws[:, at] for key, at in self._at.items()},
            float32=None if self._float32 is None else _shown(self._float32),
            margin=self._margin,
            summaries=self._verdicts.summaries(tables) if self._at else (),
            reference_curve=self._reference_curve(),
        )

    def _reference_curve(self) -> tuple[tuple[float, Interval], ...]:
        rows = {row["budget"]: row for row in sorted(self._curve, key=lambda row: str(row["time"]))}
        possible = min(10, self._curve[0]["n"]) if self._curve else 1
        return tuple((size, Bootstrap([values([rows[size]], RECALL) / possible]).mean(0)) for size in sorted(rows))

    def _waterfall(self, key: Key) -> tuple[tuple[str, Interval], ...]:
        """Return what each step wins (loses, below zero), against float32 and then against the step before it."""
        if self._place is None:
            return ()
        steps, before, name = [], self._place, None
        for name, at in self._stages[key]:
            steps.append((LOSSES[name], self._recall.difference(at, before)))
            before = at
        return (*steps, (LAST[name], self._recall.difference(self._at[key], before)))

    def _on_hardest(self, keys: Sequence[Key]) -> list[float]:
        """Return recall@10 on the queries that the rows of a table find hardest, all rows together."""
        if not keys:
            return []
        found = np.array([outcomes(self._cells[key]).mean(axis=0) / self._possible for key in keys])
        count = max(1, round(HARDEST * found.shape[1]))
        return list(map(float, found[:, np.argsort(found.mean(axis=0), kind="stable")[:count]].mean(axis=1)))

    def _table(self, budget: float) -> Table:
        keys = [(request, budget) for request in dict.fromkeys(of for of, at in self._cells if at is not None)]
        entries = {key: self._entry(key) if key in self._cells else self._not_run(key) for key in keys}
        ranked = sorted((key for key in keys if entries[key].status == "ok"), key=lambda key: self._order(entries[key]))
        places = [self._at[key] for key in ranked]
        # Where a legal order of tied scores would reverse two rows, no test can part them.
        apart = self._recall.separated(places) if places else np.zeros((0, 0), dtype=bool)
        apart &= ~overlapping([entries[key].recall_over_ties for key in ranked])
        hardest = self._on_hardest(ranked)
        standing = [
            dataclasses.replace(
                entries[key],
                recall_on_hardest=hardest[at],
                rank=at + 1,
                group=letter,
                recall_behind_first=self._recall.difference(self._at[key], places[0]),
                won=int(apart[at, at:].sum()),
                tied=int((~apart[at]).sum()) - 1,
                lost=int(apart[at, :at].sum()),
            )
            for at, (key, letter) in enumerate(zip(ranked, groups(apart), strict=True))
        ]
        absent = tuple(entries[key] for key in keys if entries[key].status != "ok")
        return Table(budget, tuple(standing), absent, apart)

    def _order(self, entry: Entry) -> tuple[float, ...]:
        """Rank by recall, expected where scores tie (older rows say so for all queries together); then the lighter."""
        tied, recall = entry.recall_over_ties, entry.recall_at_10.value if entry.recall_at_10 else 0.0
        expected = tied.value if tied is not None and tied.low < tied.high else recall
        return -expected, entry.deployed_bytes or 0.0, -recall

    def _not_run(self, key: Key) -> Entry:
        other = next(cell[0] for (request, _), cell in self._cells.items() if request == key[0])
        reason = "no result at this budget here; run it with --budget and the same --results to add one"
        entry = unmeasured([other])
        return dataclasses.replace(
            entry, name=entry.label, spec=None, status="not_run", reason=reason, seeds=(), least_bytes=None
        )

    def _entry(self, key: Key) -> Entry:
        cell = self._cells[key]
        entry = unmeasured(cell)
        if key not in self._at:
            failed = [row for row in cell if row["status"] != "ok"]
            # A mean over the seeds that went well would flatter the method, so one failure is the cell's status.
            which = f"{len(failed)} of {len(cell)} seeds, seed {failed[0]['seed']}: " if len(failed) < len(cell) else ""
            reason = plain(f"{which}{failed[0]['reason'] or 'no reason given'}")
            return dataclasses.replace(entry, status=plain(failed[0]["status"]), reason=reason)
        heavy = too_heavy(cell[0])
        if heavy:
            return dataclasses.replace(entry, status="over_budget", reason=heavy)
        at, reference, ndcg = self._at[key], self._place, self._ndcg
        return dataclasses.replace(
            entry,
            deployed_bytes=mean(cell, "bytes", "deployed"),
            payload_bytes=mean(cell, "bytes", "payload"),
            shared_bytes_in_all=mean(cell, "bytes", "shared"),
            cold_bytes=mean(cell, "bytes", "cold"),
            recall_at_10=self._recall.mean(at),
            recall_of_float32=None if reference is None else self._recall.ratio(at, reference),
            recall_over_ties=ties(cell),
            ndcg_at_10=None if ndcg is None else ndcg.mean(at),
            ndcg_of_float32=None if ndcg is None or reference is None else ndcg.ratio(at, reference),
            p50_ms=mean(cell, "query_ms", "p50"),
            speedup=speedup(cell),
            fit_seconds=mean(cell, "seconds", "fit"),
            encode_seconds=mean(cell, "seconds", "encode"),
            resident_bytes=mean(cell, "bytes", "resident"),
            kernel=joined(row.get("kernel") for row in cell),
            waterfall=self._waterfall(key),
            flags=flags(cell),
            lossless=self._verdicts.lossless(at),
        )


def _shown(key: Key) -> Key:
    return plain(key[0]), key[1]
