"""Show a run on standard error: cells done, the current cell, time left; a line per cell where nobody watches."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from packbench.runner import Cell
from packbench.store import Row


def describe_cell(cell: Cell) -> str:
    """Write a cell as it is shown: what was asked for, at which budget."""
    at = "own size" if cell.budget is None else f"{cell.budget:g} B"
    return f"{cell.request} @ {at}" + (f" seed {cell.seed}" if cell.seed else "")


def describe_row(row: Row) -> str:
    """Write in a line what came of a cell."""
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return (
        f"{row['spec']}  {row['bytes']['deployed']:.1f} B  recall@10 {row['recall']['recall@10']:.3f}  "
        f"{row['query_ms']['p50']:.3f} ms  {row['speedup']['median']:.1f}x float32"
    )


class Bar:
    """Be a run's listener and draw its progress bar."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.fields[dataset]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[current]}", style="cyan"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, dataset: str, cells: int, stored: int) -> None:
        """Start the bar of a data set."""
        if not self._quiet:
            told = f"{dataset}: {cells} cells to measure" + (f", {stored} already stored" if stored else "")
            self._console.print(escape(told), highlight=False)
        self._task = self._progress.add_task("", total=cells, dataset=escape(dataset), current="")

    def start(self, cell: Cell) -> None:
        """Show the cell under way."""
        if self._task is not None:
            self._progress.update(self._task, current=escape(describe_cell(cell)))

    def finish(self, cell: Cell, row: Row) -> None:
        """Count a cell as done."""
        if self._task is not None:
            self._progress.advance(self._task)
        if not self._quiet and (
            not self._console.is_terminal or row["status"] in ("failed", "timeout", "disqualified")
        ):
            self._console.print(
                escape(f"  {describe_cell(cell)}: {describe_row(row)}"), highlight=False, soft_wrap=True
            )
