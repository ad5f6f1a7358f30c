"""Write boards as Markdown tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from packbench.leaderboard.across import across
from packbench.leaderboard.columns import (
    Column,
    across_cells,
    across_facts,
    across_title,
    columns_of,
    summary_cells,
    title_of,
    why,
)
from packbench.leaderboard.entries import Board, Entry
from packbench.leaderboard.external import HEADINGS, External


def to_markdown(boards: Sequence[Board]) -> str:
    """Return the boards in GitHub's Markdown, names of methods as code and everything else escaped."""
    lines = [line for board in boards for line in _board(board)]
    for of in across(boards):
        lines += ["# Over all data sets", "", escaped(across_facts(of)), ""]
        for budget, rows in of.tables:
            lines += [f"## {across_title(of, budget)}", "", *cells_markdown(*across_cells(of, rows))]
    return "\n".join(lines)


def declared_markdown(rows: Sequence[External]) -> str:
    """Return what other benchmarks declare, by data set; nothing of it was weighed here, and nothing is ranked."""
    return "\n".join(
        ["# Declared elsewhere, not weighed here", "", *cells_markdown(HEADINGS, [row.cells() for row in rows])]
    )


def _board(board: Board) -> list[str]:
    lines = [f"# {escaped(board.dataset)}", ""]
    lines += [f"- **{label}**: {escaped(sentence)}" for label, sentence in board.facts()] + [""]
    columns = columns_of(board)
    for table in board.tables:
        lines += [f"## {title_of(table)}", "", *_figures([*table.ranked, *board.references], columns)]
        lines += _absent([*table.absent, *_failed(board.references)])
    if not board.tables:
        lines += _figures(board.references, columns) + _absent(_failed(board.references))
    if board.summaries:
        lines += ["## over all budgets", "", *cells_markdown(*summary_cells(board))]
    return lines


def cells_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of texts, those of the column `method` as code."""
    method = headings.index("method")
    lines = [_line(map(escaped, headings)), _line(["---"] * len(headings))]
    lines += [_line(code(cell) if at == method else escaped(cell) for at, cell in enumerate(row)) for row in rows]
    return [*lines, ""]


def _failed(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.status != "ok"]


def _figures(entries: Sequence[Entry], columns: Sequence[Column]) -> list[str]:
    lines = [_line(escaped(column.heading) for column in columns)]
    lines.append(_line("---:" if column.number else "---" for column in columns))
    for entry in entries:
        lines.append(_line(
            code(column.text(entry)) if column.key == "spec" else escaped(column.text(entry)) for column in columns
        ))  # fmt: skip
    return [*lines, ""]


def _absent(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return []
    lines = ["Not on the board:", "", _line(("method", "status", "reason")), _line(("---",) * 3)]
    lines += [_line((code(entry.name), escaped(entry.status), escaped(why(entry)))) for entry in entries]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))


def code(text: str) -> str:
    """Return text as code inside a table cell."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if longest else ""
    return f"{fence}{room}{text.replace('|', chr(92) + '|')}{room}{fence}"
