"""Write boards for other programs: CSV, one line per entry, and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

from packbench.leaderboard.across import across
from packbench.leaderboard.entries import Board, Entry
from packbench.leaderboard.stats import Interval

FORMAT = 1  # raised when a key changes its meaning or goes
_DIGITS = 6
_INTERVALS = frozenset(
    field.name for field in dataclasses.fields(Entry) if field.type in ("Interval", "Interval | None")
)


def to_json(boards: Sequence[Board]) -> str:
    """Return the boards as JSON: facts, references, for each budget the ranked and the absent entries, summaries.

    across holds what several data sets come to together.
    """
    written = [dataclasses.asdict(board, dict_factory=_without_outcomes) for board in boards]
    together = [dataclasses.asdict(of) for of in across(boards)]
    everything = {"format": FORMAT, "boards": written, "across": together}
    return json.dumps(_rounded(everything), indent=1, ensure_ascii=False) + "\n"


def _without_outcomes(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave single queries to the results, and what is computed from them to the program."""
    return {name: value for name, value in pairs if name not in ("outcomes", "draws", "apart")}


def to_csv(boards: Sequence[Board]) -> str:
    """Return every entry of the boards as a line of CSV; an interval takes three columns.

    place says where an entry stands: ranked, reference (measured at its own size, no budget) or absent.
    """
    lines = [line for board in boards for line in _lines(board)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _lines(board: Board) -> list[dict[str, Any]]:
    about = {name: getattr(board, name) for name in (
        "dataset", "dataset_sha256", "n", "d", "metric", "queries", "fit_on", "deployment_n", "disk_budget",
        "search_threads", "build_threads", "tries", "machine",
    )}  # fmt: skip
    placed: list[tuple[float | None, str, Entry]] = [(None, "reference", entry) for entry in board.references]
    for table in board.tables:
        placed += [(table.budget, "ranked", entry) for entry in table.ranked]
        placed += [(table.budget, "absent", entry) for entry in table.absent]
    return [about | {"budget": budget, "place": place} | _flat(entry) for budget, place, entry in placed]


def _flat(entry: Entry) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if field.name in _INTERVALS:
            figures = dataclasses.astuple(value) if isinstance(value, Interval) else (None, None, None)
            flat |= zip((field.name, f"{field.name}_low", f"{field.name}_high"), _rounded(figures), strict=True)
        else:
            flat[field.name] = " ".join(map(str, value)) if isinstance(value, tuple) else _rounded(value)
    flat["waterfall"] = " ".join(f"{step}={_rounded(change.value)}" for step, change in entry.waterfall)
    flat["flags"] = "; ".join(entry.flags)
    return flat


def _rounded(value: Any) -> Any:
    """Round figures to what they can bear, so that a file does not change with the last bit of a sum."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
