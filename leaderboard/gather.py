"""Turn result rows into boards: group what may be compared, average seeds, rank, and account for what is absent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.stats import Bootstrap, Interval, groups
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
RECALL, NDCG = "recall@10", "nDCG@10"
Key = tuple[float | None, str]  # budget (none: a reference at its own size) and request
Cell = list[Row]  # one row per seed


def boards_of(rows: Iterable[Row]) -> list[Board]:
    """Make one board per group of comparable rows, sorted by data set.

    Raises:
        BadInput: a row lacks what every result has.
    """
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
            boards.append(_Group(alike[key], _why_apart(siblings, key)).board())
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

    def __init__(self, rows: list[Row], notes: list[str]) -> None:
        self._rows, self._notes = rows, notes
        self._cells = self._into_cells()
        self._at: dict[Key, int] = {}
        complete = [key for key, cell in self._cells.items() if all(row["status"] == "ok" for row in cell)]
        if complete:
            self._at = {key: at for at, key in enumerate(complete)}
            possible = min(10, rows[0]["n"])
            self._recall = Bootstrap([_values(self._cells[key], RECALL) / possible for key in complete])
            judged = all("relevance" in self._cells[key][0] for key in complete)
            self._ndcg = Bootstrap([_values(self._cells[key], NDCG) for key in complete]) if judged else None
        self._float32 = self._find_float32()

    def _into_cells(self) -> dict[Key, Cell]:
        """Put the seeds of a cell together; results of code that has changed since give way to the latest."""
        cells: dict[Key, Cell] = {}
        for row in sorted(self._rows, key=lambda row: str(row["time"])):
            cells.setdefault((row["budget"], row["request"]), []).append(row)
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

    def _find_float32(self) -> int | None:
        """Return the row that fractions are taken of, the one at its own size before one under a budget."""
        found = [key for key in self._at if self._cells[key][0]["method"] == "float32"]
        return self._at[min(found, key=lambda key: key[0] is not None)] if found else None

    def board(self) -> Board:
        """Return the board."""
        rows, some = self._rows, self._rows[-1]
        if self._float32 is None:
            self._notes.append("there is no float32 row, so fractions of float32 are missing")
        versions = sorted(
            {", ".join(f"{name} {value}" for name, value in sorted(row["versions"].items())) for row in rows}
        )
        if len(versions) > 1:
            self._notes.append("the results were measured with several versions of the libraries: see Versions")
        budgets = sorted({budget for budget, _ in self._cells if budget is not None})
        times = sorted(str(row["time"]) for row in rows)
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
            machine_facts=_machine(some["machine_facts"]),
            versions=tuple(map(plain, versions)),
            measured=(plain(times[0]), plain(times[-1])),
            notes=tuple(self._notes),
            references=tuple(self._entry(key) for key in self._cells if key[0] is None),
            tables=tuple(self._table(budget) for budget in budgets),
            outcomes={(request, budget): self._outcomes(budget, request) for budget, request in self._at},
        )

    def _outcomes(self, budget: float | None, request: str) -> Array:
        return np.asarray(_values(self._cells[budget, request], RECALL).mean(axis=0) / min(10, self._rows[0]["n"]))

    def _table(self, budget: float) -> Table:
        requests = dict.fromkeys(request for of, request in self._cells if of is not None)
        ranked: list[Key] = []
        absent: list[Entry] = []
        for key in [(budget, request) for request in requests]:
            entry = self._entry(key) if key in self._cells else self._not_run(key)
            if entry.status == "ok":
                ranked.append(key)
            else:
                absent.append(entry)
        # Equal recall: the lighter one first.
        ranked.sort(
            key=lambda key: (-self._recall.means[self._at[key]], _mean(self._cells[key], "bytes", "deployed") or 0)
        )
        places = [self._at[key] for key in ranked]
        letters = groups(self._recall.separated(places)) if places else []
        entries = [
            dataclasses.replace(
                self._entry(key),
                rank=rank,
                group=letter,
                recall_behind_first=self._recall.difference(self._at[key], places[0]),
            )
            for rank, (key, letter) in enumerate(zip(ranked, letters, strict=True), 1)
        ]
        return Table(budget, tuple(entries), tuple(absent))

    def _not_run(self, key: Key) -> Entry:
        other = next(cell[0] for (_, request), cell in self._cells.items() if request == key[1])
        reason = "no result at this budget here; run it with --budget and the same --results to add one"
        entry = _unmeasured([other])
        return dataclasses.replace(
            entry, name=entry.label, spec=None, status="not_run", reason=reason, seeds=(), least_bytes=None
        )

    def _entry(self, key: Key) -> Entry:
        cell = self._cells[key]
        entry = _unmeasured(cell)
        if key not in self._at:
            failed = [row for row in cell if row["status"] != "ok"]
            # A mean over the seeds that went well would flatter the method, so one failure is the cell's status.
            which = f"{len(failed)} of {len(cell)} seeds, seed {failed[0]['seed']}: " if len(failed) < len(cell) else ""
            reason = plain(f"{which}{failed[0]['reason'] or 'no reason given'}")
            return dataclasses.replace(entry, status=plain(failed[0]["status"]), reason=reason)
        heavy = _too_heavy(cell[0])
        if heavy:
            return dataclasses.replace(entry, status="over_budget", reason=heavy)
        at, reference = self._at[key], self._float32
        ndcg = self._ndcg
        return dataclasses.replace(
            entry,
            deployed_bytes=_mean(cell, "bytes", "deployed"),
            payload_bytes=_mean(cell, "bytes", "payload"),
            shared_bytes_in_all=_mean(cell, "bytes", "shared"),
            cold_bytes=_mean(cell, "bytes", "cold"),
            recall_at_10=self._recall.mean(at),
            recall_of_float32=None if reference is None else self._recall.ratio(at, reference),
            recall_over_ties=_ties(cell),
            ndcg_at_10=None if ndcg is None else ndcg.mean(at),
            ndcg_of_float32=None if ndcg is None or reference is None else ndcg.ratio(at, reference),
            p50_ms=_mean(cell, "query_ms", "p50"),
            speedup=_speedup(cell),
            fit_seconds=_mean(cell, "seconds", "fit"),
            encode_seconds=_mean(cell, "seconds", "encode"),
            resident_bytes=_mean(cell, "bytes", "resident"),
            kernel=_joined(row.get("kernel") for row in cell),
        )


def _unmeasured(cell: Cell) -> Entry:
    some = cell[0]
    trained = bool((some.get("card") or {}).get("mrl_trained"))
    spec = _joined(row.get("spec") for row in cell)
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


def _too_heavy(row: Row) -> str | None:
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


def _values(cell: Cell, measure: str) -> Array:
    return np.array([row["per_query"][measure] for row in cell], dtype=np.float64)


def _mean(cell: Cell, part: str, figure: str) -> float | None:
    found = [row[part][figure] for row in cell if row.get(part, {}).get(figure) is not None]
    return float(np.mean(found)) if found else None


def _ties(cell: Cell) -> Interval | None:
    bounds = [row["ties"][RECALL] for row in cell if RECALL in row.get("ties", {})]
    if not bounds:
        return None
    worst, expected, best = np.mean(bounds, axis=0)
    return Interval(float(expected), float(worst), float(best))


def _speedup(cell: Cell) -> Interval | None:
    found: list[Mapping[str, float]] = [row["speedup"] for row in cell if row.get("speedup")]
    if not found:
        return None
    median = float(np.mean([of["median"] for of in found]))
    return Interval(median, min(of["low"] for of in found), max(of["high"] for of in found))


def _joined(texts: Iterable[Any]) -> str | None:
    return ", ".join(dict.fromkeys(plain(text) for text in texts if text is not None)) or None


def _machine(facts: Mapping[str, Any]) -> str:
    return plain(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, {facts['simd']} "
        f"(id {facts['id']})"
    )
