"""Write boards as Markdown tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from packbench.leaderboard.columns import Column, columns_of, title_of, why
from packbench.leaderboard.entries import Board, Entry


def to_markdown(boards: Sequence[Board]) -> str:
    """Return the boards in GitHub's Markdown, names of methods as code and everything else escaped."""
    return "\n".join(line for board in boards for line in _board(board))


def _board(board: Board) -> list[str]:
    lines = [f"# {escaped(board.dataset)}", ""]
    lines += [f"- **{label}**: {escaped(sentence)}" for label, sentence in board.facts()] + [""]
    columns = columns_of(board)
    for table in board.tables:
        lines += [f"## {title_of(table)}", "", *_figures([*table.ranked, *board.references], columns)]
        lines += _absent([*table.absent, *_failed(board.references)])
    if not board.tables:
        lines += _figures(board.references, columns) + _absent(_failed(board.references))
    return lines


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
