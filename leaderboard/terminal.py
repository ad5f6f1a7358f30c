"""Show a board in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

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
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.external import HEADINGS, External

_PADDING = 2  # blanks that the grid puts after each column
_SPEC = 28  # a longer spec is folded before a column is left out


def render_terminal(board: Board, console: Console) -> None:
    """Print a board, leaving out the least of its columns where the console is narrow, and saying which."""
    facts = Grid.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, sentence in board.facts():
        facts.add_row(label, Text(sentence, style="yellow" if label == "Note" else ""))
    console.print(facts)
    columns = columns_of(board)
    shown = _fitting(columns, board, console.width)
    if len(shown) < len(columns):
        left = ", ".join(column.heading for column in columns if column not in shown)
        console.print(Text(f"Left out at this width: {left}. A wider terminal, --csv or --html shows all.", "dim"))
    for table in board.tables:
        console.print()
        console.print(Text(f"{board.dataset}, {title_of(table)}", "bold"))
        _print_table(table, board.references, shown, console)
    if not board.tables:
        _print_table(None, board.references, shown, console)
    if board.summaries:
        console.print(Text(f"\n{board.dataset}, over all budgets", "bold"))
        print_cells(*summary_cells(board), console)


def render_across(boards: Sequence[Board], console: Console) -> None:
    """Print what the boards of several data sets come to together; nothing where there is but one."""
    for of in across(boards):
        console.print(Text(f"\n{across_facts(of)}"))
        for budget, rows in of.tables:
            console.print(Text(f"\n{across_title(of, budget)}", "bold"))
            print_cells(*across_cells(of, rows), console)


def render_declared(rows: Sequence[External], console: Console) -> None:
    """Print what other benchmarks declare, by data set; nothing of it was weighed here, and nothing is ranked."""
    console.print(Text("\nDeclared elsewhere, not weighed here", "bold"))
    print_cells(HEADINGS, [row.cells() for row in rows], console)


def print_cells(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table of texts."""
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)


def _fitting(columns: Sequence[Column], board: Board, width: int) -> list[Column]:
    entries = [*board.references, *(entry for table in board.tables for entry in table.ranked)]
    shown = list(columns)
    widths = {
        column.key: _PADDING + max(len(column.heading), *(len(column.text(entry)) for entry in entries), 1)
        for column in columns
    }
    widths["spec"] = min(widths["spec"], _SPEC)
    while sum(widths[column.key] for column in shown) > width:
        least = min(shown, key=lambda column: column.keep)
        if least.keep >= 100:
            break  # the grid folds what is left
        shown.remove(least)
    return shown


def _print_table(table: Table | None, references: Sequence[Entry], columns: Sequence[Column], console: Console) -> None:
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        grid.add_column(column.heading, justify="right" if column.number and column.key != "rank" else "left",
                        no_wrap=column.key != "spec", overflow="fold")  # fmt: skip
    for entry in table.ranked if table else ():
        grid.add_row(*(Text(column.text(entry)) for column in columns))
    grid.add_section()
    for entry in references:
        grid.add_row(*(Text(column.text(entry)) for column in columns), style="dim")
    if grid.row_count:
        console.print(grid)
    absent = [*(table.absent if table else ()), *(entry for entry in references if entry.status != "ok")]
    if not absent:
        return
    reasons = Grid(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    for _ in range(2):
        reasons.add_column(no_wrap=True)
    reasons.add_column(overflow="fold")
    for entry in absent:
        reasons.add_row(Text(entry.status, "yellow"), Text(entry.name), Text(why(entry)))
    console.print(Text("Not on the board:", "bold"))
    console.print(reasons)
