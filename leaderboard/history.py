"""Follow the figures of each method over commits, and find the commits at which they changed."""

from __future__ import annotations

import importlib
import itertools
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from packbench.errors import BadInput
from packbench.leaderboard.cells import NDCG, RECALL, plain, ties, too_heavy, unmeasured
from packbench.leaderboard.columns import NONE, fixed, short
from packbench.store import Row, rows_in

LEAST = 4  # values; fewer do not show what is noise
ROUNDING = 1e-6  # of the largest value: what differs by less is the same figure


class Point(NamedTuple):
    """Hold a figure at a commit, None where the method had none; time is ISO 8601."""

    commit: str
    time: str
    value: float | None


class Change(NamedTuple):
    """Hold a change: the place of the first point after it, and the mean of the points on either side of it."""

    at: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Hold one metric of one request at one budget on one data set, oldest commit first.

    label is what boards call the request, budget is None for a reference at its own size, and conditions name what
    points must share to be compared: version of the data, rules, seeds, and for the latency ratio the machine.
    """

    dataset: str
    request: str
    label: str
    budget: float | None
    metric: str
    conditions: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...]

    @property
    def too_short(self) -> bool:
        """Tell whether there are too few values to look for changes."""
        return sum(point.value is not None for point in self.points) < LEAST


def _recall(row: Row) -> float | None:
    """Return recall@10 as boards do: its expectation where scores tie."""
    tied = ties([row])
    return tied.value if tied is not None and tied.low < tied.high else row["recall"].get(RECALL)


# By the name of the metric. The latency ratio is float32's time by the method's: more is faster.
METRICS: dict[str, Callable[[Row], float | None]] = {
    RECALL: _recall,
    NDCG: lambda row: row.get("relevance", {}).get(NDCG),
    "bytes": lambda row: row["bytes"]["deployed"],
    "speedup": lambda row: (row.get("speedup") or {}).get("median"),
}


class _Snapshot(NamedTuple):
    """Hold the rows of one point of history."""

    commit: str
    time: str
    rows: list[Row]


def history_of(files: Sequence[Path], metric: str | None = None) -> list[Series]:
    """Return the history that files of results tell, each of them one point, the earliest first; of a metric or of all.

    A file's commit is the one that its rows name (a file continued at another commit is a point for each), and its own
    name without suffixes where they name none.

    Raises:
        BadInput: a file cannot be read as results, all are empty, the metric is unknown, or ruptures is not installed.
    """
    _check(metric)
    stems = [file.name.removesuffix(".gz").removesuffix(".jsonl") for file in files]
    snapshots: list[_Snapshot] = []
    for file, stem in zip(files, stems, strict=True):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BadInput(
                f"history {file}: cannot be read ({error.strerror or error}); expected a file of results, .jsonl or "
                ".jsonl.gz"
            ) from None
        name = stem if stems.count(stem) == 1 else str(file)
        parts: dict[str, list[Row]] = {}
        for row in _light(data, str(file)):
            parts.setdefault(str(row.get("commit") or name), []).append(row)
        snapshots += [
            _Snapshot(plain(commit), plain(min(str(row.get("time")) for row in of)), of) for commit, of in parts.items()
        ]
    return _series(sorted(snapshots, key=lambda snapshot: snapshot.time), metric, ", ".join(map(str, files)))


def history_of_git(file: Path, metric: str | None = None) -> list[Series]:
    """Return the history of one tracked file of results: each revision that changed it is a point, renames followed.

    Raises:
        BadInput: as `history_of`; git is not installed, or does not know the file.
    """
    _check(metric)
    folder = file.absolute().parent
    asked = ["--follow", "--diff-filter=d", "--diff-merges=first-parent", "--name-only", "-z", "--format=%H\t%cI"]
    told = _git(folder, "log", *asked, "--", file.name)
    # A record is the header and the path, each ended by a zero byte; git puts a line break between the two.
    words = [word.decode(errors="surrogateescape") for word in told.split(b"\0") if word]
    snapshots = []
    for header, path in reversed(list(zip(words[::2], words[1::2], strict=True))):
        (revision, time), path = header.split("\t"), path.removeprefix("\n")
        rows = list(_light(_git(folder, "show", f"{revision}:{path}"), path))
        snapshots.append(_Snapshot(revision, time, rows))
    if not snapshots:
        raise BadInput(f"history {file}: git tracks no such file; commit it, or give files without --git")
    return _series(snapshots, metric, str(file))


def _check(metric: str | None) -> None:
    if metric is not None and metric not in METRICS:
        raise BadInput(f"metric {metric!r}: expected {', '.join(METRICS)}")


def _git(folder: Path, *words: str) -> bytes:
    try:
        found = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except OSError:
        raise BadInput("history --git: git is not installed; give files of results instead") from None
    if found.returncode:
        told = found.stderr.decode(errors="replace").strip().splitlines()
        raise BadInput(f"history --git: git cannot read it: {told[-1] if told else 'no reason given'}")
    return found.stdout


def _light(data: bytes, name: str) -> Iterable[Row]:
    """Yield rows without the outcome of each query, which is most of them."""
    for row in rows_in(data, name):
        row.pop("per_query", None)
        yield row


def _series(snapshots: Sequence[_Snapshot], metric: str | None, source: str) -> list[Series]:
    if not any(snapshot.rows for snapshot in snapshots):
        raise BadInput(f"history {source}: no results there; `packbench run --results DIR` makes some")
    found: dict[tuple[Any, ...], list[Point]] = {}
    labels: dict[tuple[Any, ...], str] = {}
    try:
        for commit, time, rows in snapshots:
            for name in METRICS if metric is None else (metric,):
                for key, cell in _cells(rows, name).items():
                    found.setdefault(key, []).append(Point(commit, time, _mean(cell, METRICS[name])))
                    if key[:2] not in labels:
                        labels[key[:2]] = unmeasured(cell).label
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"history {source}: a result cannot be read ({type(error).__name__}: {error}); it comes from another "
            "version of packbench. Leave its file out"
        ) from None
    some = [(key, points) for key, points in found.items() if any(point.value is not None for point in points)]
    return [
        Series(dataset=plain(dataset), request=plain(request), label=labels[dataset, request], budget=budget,
               metric=name, conditions=plain(conditions), points=tuple(points),
               changes=tuple(changes_of([point.value for point in points])))
        for (dataset, request, budget, name, conditions), points in sorted(some, key=_order)
    ]  # fmt: skip


def _order(item: tuple[tuple[Any, ...], list[Point]]) -> tuple[Any, ...]:
    dataset, request, budget, name, conditions = item[0]
    return dataset, budget or 0.0, request, [*METRICS].index(name), conditions


def _cells(rows: Iterable[Row], metric: str) -> dict[tuple[Any, ...], list[Row]]:
    """Put the seeds of a cell together, the latest measurement of each; code that has changed since is left out."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["time"])):
        key = row["dataset"], row["request"], row["budget"], metric, _conditions(row, metric)
        cells.setdefault(key, []).append(row)
    found = {}
    for (*cell_key, conditions), cell in cells.items():
        latest = {row["seed"]: row for row in cell if row["version"] == cell[-1]["version"]}
        seeds = " ".join(map(str, sorted(latest)))
        found[*cell_key, f"{conditions}, seeds {seeds}"] = [latest[seed] for seed in sorted(latest)]
    return found


def _conditions(row: Row, metric: str) -> str:
    data = f"data {row['dataset_sha256'][:12]}, {row['deployment_n']:,} items served, {row['tries']} tries"
    disk = f", {row['disk_budget']:g} bytes on disk" if row["disk_budget"] else ""
    machine = f", machine {row['machine']}, {row['threads']['search']} search threads" if metric == "speedup" else ""
    return data + disk + machine


def _mean(cell: Sequence[Row], figure: Callable[[Row], float | None]) -> float | None:
    """Return the mean over seeds; None where one of them has no figure, for that of the others would flatter."""
    if any(row["status"] != "ok" or too_heavy(row) for row in cell):
        return None
    values = [value for row in cell if (value := figure(row)) is not None]
    return float(np.mean(values)) if len(values) == len(cell) else None


def changes_of(values: Sequence[float | None]) -> list[Change]:
    """Return where the level of a series changes: the segments of least squares, by PELT, at a penalty for each.

    The noise s is the median absolute step from value to value, by the 0.954 that it is of a Gaussian's deviation:
    changes themselves hardly move it, and a series of which most steps are none has no noise. The penalty is
    2 s² log n (the Schwarz criterion) times 1 + 25/n, as s is itself uncertain; 25 is the least, in steps of 5, that
    kept false alarms on Gaussian noise at 5% or below for 4 to 200 values. So 95% of steps of five s in the middle are
    found from 12 values on, and a third with 4. Noise is taken to be independent from commit to commit.

    Papers: Killick, Fearnhead and Eckley, "Optimal detection of changepoints with a linear computational cost", 2012;
    Yao, "Estimating the number of change-points via Schwarz' criterion", 1988; Truong, Oudre and Vayatis, "Selective
    review of offline change point detection methods" (ruptures), 2020.
    """
    places = [at for at, value in enumerate(values) if value is not None]
    known = np.array([values[at] for at in places], dtype=np.float64)
    if len(known) < LEAST or np.ptp(known) <= ROUNDING * np.abs(known).max():
        return []
    try:
        ruptures = importlib.import_module("ruptures")
    except ImportError:
        raise BadInput("history: change points need ruptures: pip install 'packbench[history]'") from None
    noise = max(float(np.median(np.abs(np.diff(known)))) / 0.954, ROUNDING * float(np.abs(known).max()))
    penalty = 2 * np.log(len(known)) * (1 + 25 / len(known))
    # In units of the noise and around 0, so that sums of squares lose no digits.
    scaled = ((known - np.median(known)) / noise)[:, None]
    ends = [0, *map(int, ruptures.KernelCPD(kernel="linear", min_size=1).fit(scaled).predict(pen=penalty))]
    levels = [float(known[start:end].mean()) for start, end in itertools.pairwise(ends)]
    return [Change(places[at], *around) for at, around in zip(ends[1:-1], itertools.pairwise(levels), strict=True)]


HEADINGS = ("metric", "method", "data set", "budget", "from", "to", "commit")


def change_cells(series: Iterable[Series]) -> list[tuple[str, ...]]:
    """Return a row for each change, the latest first, under HEADINGS."""
    found = [(of, change) for of in series for change in of.changes]
    found.sort(key=lambda one: one[0].points[one[1].at].time, reverse=True)
    return [
        (of.metric, of.label, of.dataset, budget_of(of), figure_of(of.metric, change.before),
         figure_of(of.metric, change.after), of.points[change.at].commit)
        for of, change in found
    ]  # fmt: skip


def budget_of(series: Series) -> str:
    """Return the budget as a reader sees it."""
    return "own size" if series.budget is None else f"{series.budget:g}"


def figure_of(metric: str, value: float | None) -> str:
    """Return a figure as boards write it."""
    if metric == "speedup":
        return NONE if value is None else f"{short(value)}×"
    return fixed(value, 2 if metric == "bytes" else 4)


def told_of(series: Sequence[Series]) -> str:
    """Return what was looked at, what was found, and how far to trust it."""
    changes = sum(len(of.changes) for of in series)
    commits = len({point.commit for of in series for point in of.points})
    told = [f"{changes or 'no'} change point{'s' * (changes != 1)} in {len(series)} series of {commits} commits"]
    varying = sum(not of.too_short and len({point.value for point in of.points}) > 1 for of in series)
    short_ones, lost = sum(of.too_short for of in series), sum(of.points[-1].value is None for of in series)
    if varying:
        told.append(f"{varying} series vary, and were all of it noise, up to 1 in 20 of them would show one")
    if short_ones:
        told.append(f"{short_ones} hold fewer than {LEAST} values, too few to tell")
    if lost:
        told.append(f"{lost} have no figure at their last commit")
    return "; ".join(told)
