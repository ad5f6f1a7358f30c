"""Load results as boards and render them: the leaderboard's front door."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from packbench.errors import BadInput
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.export import to_csv, to_json
from packbench.leaderboard.external import External, read_external
from packbench.leaderboard.figure import write_figure
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.markdown import declared_markdown, to_markdown
from packbench.leaderboard.paper import methods_paragraph, to_bibtex, to_latex, write_paper
from packbench.leaderboard.site.write import write_html
from packbench.leaderboard.stats import MARGIN
from packbench.leaderboard.terminal import render_across, render_declared, render_terminal
from packbench.leaderboard.trec import write_runs
from packbench.places import store_at
from packbench.store import Row

__all__ = [
    "Board", "Entry", "External", "Table", "boards_over", "declared_markdown", "load", "methods_paragraph",
    "read_external", "render_across", "render_declared", "render_terminal", "rows_at", "to_bibtex", "to_csv", "to_json",
    "to_latex", "to_markdown", "write_figure", "write_html", "write_paper", "write_runs",
]  # fmt: skip


def load(results: str | Path = "results", margin: float = MARGIN) -> list[Board]:
    """Return the boards of a directory of results: one per data set, or several where rows must not be mixed.

    Raises:
        BadInput: the directory is missing, is a file, holds no results, or holds some that cannot be read.
    """
    return boards_over(rows_at(results), margin)


def rows_at(results: str | Path) -> list[Row]:
    """Return the rows of a directory of results, or of a URL.

    Raises:
        BadInput: as `load`.
    """
    rows = list(store_at(results).by_id().values())
    if not rows:
        raise BadInput(f"results {results}: no results there; `packbench run --results {results}` makes some")
    return rows


def boards_over(rows: Iterable[Row], margin: float = MARGIN) -> list[Board]:
    """Return the boards of rows that may hold ladders too.

    Raises:
        BadInput: there is nothing but rungs of ladders, or a row that cannot be read.
    """
    # The smaller rungs of a ladder are parts of a data set, not data sets: `packbench ladder` shows them.
    whole = [row for row in rows if not row.get("ladder_of")]
    if not whole:
        raise BadInput("these results are rungs of a ladder alone; `packbench ladder --results DIR` shows them")
    return boards_of(whole, margin)
