"""Put several data sets together: the mean of recall relative to float32, and on which of them a method has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from packbench.items import Array
from packbench.leaderboard.entries import Board, Table
from packbench.leaderboard.stats import Interval, over_datasets


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """Hold one request at one budget over all data sets.

    relative is the mean of recall@10 as a fraction of float32's; a data set without a figure counts as 0, and missed
    says which and why. won, tied and lost count the other requests, once for each data set.
    """

    rank: int
    request: str
    label: str
    relative: Interval
    held: int
    missed: tuple[str, ...]
    won: int
    tied: int
    lost: int


@dataclass(frozen=True, slots=True)
class Across:
    """Hold the data sets that were put together, those left out for want of float32, and a ranking for each budget."""

    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    tables: tuple[tuple[float, tuple[Overall, ...]], ...]


def across(boards: Sequence[Board]) -> list[Across]:
    """Put together the boards that share a machine and its rules, where they are of two data sets or more.

    Of several boards of one data set, the one measured last counts.
    """
    alike: dict[tuple[object, ...], dict[str, Board]] = {}
    for board in sorted(boards, key=lambda board: board.measured[1]):
        rules = (board.machine, board.deployment_n, board.disk_budget, board.search_threads, board.build_threads,
                 board.tries)  # fmt: skip
        alike.setdefault(rules, {})[board.dataset] = board
    found = []
    for of in alike.values():
        relative = {board.dataset: relation for board in of.values() if (relation := _relative(board)) is not None}
        used = [of[name] for name in sorted(relative)]
        if len(used) > 1:
            budgets = sorted({table.budget for board in used for table in board.tables})
            tables = tuple((budget, _ranking(budget, used, relative)) for budget in budgets)
            found.append(Across(tuple(sorted(relative)), tuple(sorted(of.keys() - relative.keys())), tables))
    return found


Relation = Mapping[tuple[str, float | None], tuple[float, Array]]


def _relative(board: Board) -> Relation | None:
    """Return recall as a fraction of float32's, measured and in each resample; None without a float32 to divide by."""
    if board.float32 is None or board.draws[board.float32].min() <= 0:
        return None
    whole, drawn = board.outcomes[board.float32].mean(), board.draws[board.float32]
    return {key: (float(of.mean() / whole), board.draws[key] / drawn) for key, of in board.outcomes.items()}


def _ranking(budget: float, boards: Sequence[Board], relative: Mapping[str, Relation]) -> tuple[Overall, ...]:
    tables = [next((of for of in board.tables if of.budget == budget), Table(budget, (), ())) for board in boards]
    labels = {
        entry.request: entry.label for board in boards for of in board.tables for entry in (*of.ranked, *of.absent)
    }
    ranked = [{entry.request: entry for entry in of.ranked} for of in tables]
    reasons = [{entry.request: entry.status for entry in of.absent} for of in tables]
    known = [request for request in labels if any(request in of for of in ranked)]
    if not known:
        return ()
    nothing = np.zeros_like(next(iter(boards[0].draws.values())))
    cells = [
        [relative[board.dataset][request, budget] if request in of else (0.0, nothing) for request in known]
        for board, of in zip(boards, ranked, strict=True)
    ]
    means = np.array([[value for value, _ in of] for of in cells])
    overall = over_datasets(means, [np.stack([draws for _, draws in of], axis=1) for of in cells])
    rows = []
    for request, interval in zip(known, overall, strict=True):
        has = [of.get(request) for of in ranked]
        missed = tuple(
            f"{board.dataset}: {absent.get(request, 'not_run')}"
            for board, absent, entry in zip(boards, reasons, has, strict=True)
            if entry is None
        )
        # Who has no row loses to all who have one, and ties with the others that have none.
        counts = [
            (len(known) - len(of) + (entry.won or 0), entry.tied or 0, entry.lost or 0) if entry
            else (0, len(known) - len(of) - 1, len(of))
            for entry, of in zip(has, ranked, strict=True)
        ]  # fmt: skip
        rows.append((interval, missed, request, [sum(column) for column in zip(*counts, strict=True)]))
    rows.sort(key=lambda row: (len(row[1]), -row[0].value, row[2]))
    return tuple(
        Overall(rank=rank, request=request, label=labels[request], relative=interval, held=len(boards) - len(missed),
                missed=missed, won=won, tied=tied, lost=lost)
        for rank, (interval, missed, request, (won, tied, lost)) in enumerate(rows, 1)
    )  # fmt: skip
