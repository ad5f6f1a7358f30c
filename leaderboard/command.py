"""Offer the command that shows boards in every form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from packbench.commands import out
from packbench.errors import BadInput


def board(
    results: Annotated[str, typer.Option("--results", help="Directory of .jsonl results, or a URL.")] = "results",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a site into this folder; it opens from disk.")] = None,
    latex: Annotated[
        Path | None, typer.Option(help="Write tables to this .tex file, FILE.bib and FILE-methods.tex beside it.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw recall against bytes: a .pdf, .svg or .png file.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Write TREC run files into this folder.")] = None,
    dataset: Annotated[str | None, typer.Option(help="With --runs: the data set whose own ids to write.")] = None,
    external: Annotated[
        Path | None, typer.Option(help="Show what BitBudget, CoRECT or ann-benchmarks declare, from a file or folder.")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="With --external: the HDF5 data set of ann-benchmarks.")] = None,
    margin: Annotated[float, typer.Option(help="Recall that may be lost and still be called lossless.")] = 0.01,
) -> None:
    """Show the leaderboard of a directory of results, per data set and budget.

    Examples: `packbench board --results results --html site`,
    `packbench board --latex board.tex --figure frontier.pdf`
    """
    from packbench import conformance
    from packbench.datasets import load
    from packbench.leaderboard import board as boards
    from packbench.leaderboard.ladder import ladders_of

    if as_json + as_csv + as_markdown > 1:
        raise BadInput("board: choose one of --json, --csv and --markdown")
    if dataset is not None and runs is None:
        raise BadInput("board: --dataset goes with --runs FOLDER")
    if truth is not None and external is None:
        raise BadInput("board: --truth goes with --external PATH")
    declared = [] if external is None else boards.read_external(external, truth)
    rows = boards.rows_at(results)
    loaded = boards.boards_over(rows, margin)
    written: list[Path] = []
    if html is not None:
        boards.write_html(loaded, html, conformance.read(results), ladders_of(rows))
        written.append(html / "index.html")
    if latex is not None:
        written += boards.write_paper(loaded, latex)
    if figure is not None:
        boards.write_figure(loaded, figure)
        written.append(figure)
    if runs is not None:
        written += boards.write_runs(results, runs, None if dataset is None else load(dataset))
    if written:
        more = f" and {len(written) - 1} more" if len(written) > 4 else ""
        named = written[:1] if more else written
        Console(stderr=True).print(escape(f"wrote {', '.join(map(str, named))}{more}"), highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(boards.to_json(loaded))
    elif as_csv:
        sys.stdout.write(boards.to_csv(loaded))
    elif as_markdown:
        sys.stdout.write(boards.to_markdown(loaded))
        if declared:
            sys.stdout.write(boards.declared_markdown(declared))
    elif not written:
        console = out()
        for one in loaded:
            boards.render_terminal(one, console)
        boards.render_across(loaded, console)
        if declared:
            boards.render_declared(declared, console)
