"""Write boards as data for the scripts of the site: what each row shows, and the outcome of each query."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from packbench.items import Array
from packbench.leaderboard.columns import NONE, Column, columns_of, summary_cells, why
from packbench.leaderboard.entries import Board, Entry
from packbench.leaderboard.history import HEADINGS, Series, budget_of, change_cells, told_of
from packbench.leaderboard.site.about import needs_and_training
from packbench.leaderboard.site.reproduce import cell_of, run_of
from packbench.leaderboard.stats import Interval

# Recall in steps of 1/240, one byte: tenths and their means over 2, 3, 4, 6, 8, 12 or 24 seeds are held exactly.
STEPS = 240
# Shown in full below, since a reader filters by them.
FACETS = ("family", "kind", "fidelity", "needs", "training", "kernel")
_DIGITS = 5


def board_script(
    board: Board,
    key: str,
    title: str,
    pages: Sequence[str],
    methods: Mapping[str, str],
    conformance: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the script that hands a board over.

    pages are those of its budgets, methods those of methods by name, conformance what is known by request.
    """
    columns = shown_columns(board)
    placed: list[tuple[float | None, Entry]] = [(None, entry) for entry in board.references]
    placed += [(table.budget, entry) for table in board.tables for entry in (*table.ranked, *table.absent)]
    rows, _ = _unique(board)
    # Many rows share their facets, so each combination is written once.
    named = (*FACETS, "conformance") if conformance else FACETS
    of = [(*_facets(entry), badge_of(entry, conformance))[: len(named)] for _, entry in placed]
    facets = {values: at for at, values in enumerate(dict.fromkeys(of))}
    return _handed("board", {
        "key": key,
        "name": title,
        "queries": board.queries,
        "budgets": [table.budget for table in board.tables],
        "pages": pages,
        "run": run_of(board),
        "columns": [[column.key, column.heading, column.meaning, int(column.number is not None)] for column in columns],
        "summary": summary_cells(board),
        "facets": named,
        "values": [*facets],
        "methods": methods,
        "entries": [
            _entry(budget, entry, columns, rows) | {"facets": facets[values]}
            for (budget, entry), values in zip(placed, of, strict=True)
        ],
    })  # fmt: skip


def outcomes_script(board: Board, key: str) -> str:
    """Return the script that hands over recall@10 per query: (rows, queries) uint8 in steps of 1/240, deflated.

    Entries that answered alike, as one spec chosen at several budgets, share a row.
    """
    _, table = _unique(board)
    packed = zlib.compress(table.tobytes(), 9)
    return _handed("outcomes", {"key": key, "packed": base64.b64encode(packed).decode()})


def history_script(series: Sequence[Series]) -> str:
    """Return the script that hands a history over.

    What recurs is written once: texts, the commits of a series, and the value of a series that never changes.
    """
    texts = {text: at for at, text in enumerate(dict.fromkeys(text for of in series for text in _named(of)))}
    commits = {of: at for at, of in enumerate(dict.fromkeys(_commits(of) for of in series))}
    return _handed("history", {
        "told": told_of(series) if series else "",
        "headings": HEADINGS,
        "changes": change_cells(series),
        "commits": [*commits],
        "texts": [*texts],
        "series": [
            [*(texts[text] for text in _named(of)), commits[_commits(of)], _values(of),
             [[index, _number(before), _number(after)] for index, before, after in of.changes]]
            for of in series
        ],
    })  # fmt: skip


def _commits(of: Series) -> tuple[tuple[str, str], ...]:
    return tuple((point.commit, point.time) for point in of.points)


def _values(of: Series) -> list[float | None]:
    values = [_number(point.value) for point in of.points]
    return values[:1] if len(set(values)) == 1 else values


def _named(of: Series) -> tuple[str, ...]:
    return of.dataset, budget_of(of), of.label, of.metric, of.conditions


def shown_columns(board: Board) -> list[Column]:
    """Return the columns of a board but those that the site shows in full, or that only rows without figures need."""
    return [column for column in columns_of(board) if column.key not in (*FACETS, "status")]


def badge_of(entry: Entry, conformance: Mapping[str, Mapping[str, Any]]) -> str:
    """Return whether a method answers alike however it is built; – where nobody has looked."""
    return str(conformance[entry.request]["badge"]) if entry.request in conformance else NONE


def _facets(entry: Entry) -> tuple[str, ...]:
    return entry.family, entry.kind, entry.fidelity, *needs_and_training(entry), entry.kernel or NONE


def _entry(
    budget: float | None,
    entry: Entry,
    columns: list[Column],
    rows: Mapping[tuple[str, float | None], int],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "b": budget, "name": entry.name, "label": entry.label, "method": entry.method,
        "run": cell_of(entry, budget),
    }  # fmt: skip
    if entry.status != "ok":
        return found | {"status": entry.status, "reason": why(entry)}
    return found | {
        "row": rows.get((entry.request, budget), -1),
        "recall": _interval(entry.recall_at_10),
        "bytes": _number(entry.deployed_bytes),
        "ms": _number(entry.p50_ms),
        "cells": ["" if column.key == "spec" else column.text(entry) for column in columns],  # the name is there
    }


def _interval(of: Interval | None) -> list[float | None] | None:
    return None if of is None else [_number(of.value), _number(of.low), _number(of.high)]


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _unique(board: Board) -> tuple[dict[tuple[str, float | None], int], Array]:
    """Return the row of each entry, and the rows (rows, queries) uint8."""
    if not board.outcomes:
        return {}, np.empty((0, board.queries), np.uint8)
    steps = np.rint(np.stack([*board.outcomes.values()]) * STEPS).astype(np.uint8)
    table, rows = np.unique(steps, axis=0, return_inverse=True)
    return dict(zip(board.outcomes, rows.ravel().tolist(), strict=True)), table


def _handed(what: str, value: Any) -> str:
    """Return a script that hands a value over. No text in it can end the script, wherever it comes to stand."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return f"packbench.{what}({text});\n"
