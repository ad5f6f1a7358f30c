"""Offer the command that follows figures over commits."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from packbench.commands import out
from packbench.errors import BadInput


def history(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of results, .jsonl or .jsonl.gz; each is a point of history.")
    ] = None,
    git: Annotated[Path | None, typer.Option(help="One tracked file of results: its revisions are the points.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="recall@10, nDCG@10, bytes or speedup, the latency ratio (default: all).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Draw it into this folder, a site's or a new one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write every series as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write the change points as Markdown.")] = False,
) -> None:
    """Follow quality, bytes and the latency ratio of each method over commits, and name the commits that changed them.

    Examples: `packbench history nightly/*.jsonl --html site`,
    `packbench history --git results/baseline.jsonl --metric recall@10`
    """
    from packbench.leaderboard.history import HEADINGS, change_cells, history_of, history_of_git, told_of
    from packbench.leaderboard.markdown import code, escaped
    from packbench.leaderboard.site.write import write_history

    if bool(files) == (git is not None):
        raise BadInput("history: give either files of results or --git FILE, one file whose revisions to read")
    if as_json and as_markdown:
        raise BadInput("history: choose one of --json and --markdown")
    series = history_of_git(git, metric) if git is not None else history_of(files or [], metric)
    rows, told = change_cells(series), told_of(series)
    if html is not None:
        write_history(series, html)
        said = escape(f"wrote {html / 'history.html'}")
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
    if as_json:
        found = [
            dataclasses.asdict(of)
            | {"points": [point._asdict() for point in of.points], "changes": [one._asdict() for one in of.changes]}
            for of in series
        ]
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    elif as_markdown:
        method = HEADINGS.index("method")
        cells = [[code(cell) if at == method else escaped(cell) for at, cell in enumerate(row)] for row in rows]
        lines = [HEADINGS, ["---"] * len(HEADINGS), *cells] if cells else []
        sys.stdout.write("\n".join([escaped(told), "", *(f"| {' | '.join(line)} |" for line in lines)]).rstrip() + "\n")
    elif html is None:
        console = out()
        if rows:
            grid = Grid(*HEADINGS, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
            for row in rows:
                grid.add_row(*map(Text, row))
            console.print(grid)
        console.print(Text(told))
