"""Offer the command that holds codes to be the same whatever the threads and the instructions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from packbench.commands import Plugins, out


def conform(
    method: Annotated[
        list[str] | None, typer.Option("--method", help="A name to be solved for the budget, or a spec; repeat.")
    ] = None,
    budget: Annotated[float, typer.Option("--budget", help="Bytes per item.")] = 64.0,
    dataset: Annotated[str, typer.Option("--dataset", help="A name, beir:DIR, or a file of vectors.")] = "pydocs",
    results: Annotated[Path, typer.Option("--results", help="Directory to write conformance.json to.")] = Path(
        "results"
    ),
    plugin: Plugins = None,
) -> None:
    """Hold codes to be the same bytes in fresh processes, with two threads, and at each SIMD level of the machine.

    Examples: `packbench conform`, `packbench conform --method pq --method "pca(dim=64) | int8()" --budget 32`
    """
    from packbench.conformance import conformance, record
    from packbench.datasets import load
    from packbench.plan import Plan, checked_requests

    plugins = tuple(str(file.resolve()) for file in plugin or ())
    requests = checked_requests(method, Plan(budgets=(budget,), plugins=plugins))
    console, entries = Console(stderr=True), []
    for entry in conformance(load(dataset), requests, budget, plugins):
        record(results, entry)
        entries.append(entry)
        console.print(escape(f"{len(entries)}/{len(requests)}  {entry['spec']}  {entry['badge']}"), highlight=False)
    _show(entries)
    if any(entry["badge"] in ("differs", "failed") for entry in entries):
        raise typer.Exit(1)


def _show(entries: list[dict[str, Any]]) -> None:
    from packbench.conformance import CHECKS

    table = Table(box=None, pad_edge=False)
    for heading in ("method", "badge", *CHECKS):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        found = {check["check"]: check["result"] for check in entry["checks"]}
        table.add_row(escape(entry["spec"]), entry["badge"], *(found[check] for check in CHECKS))
    out().print(table)
    for entry in entries:
        for check in entry["checks"]:
            if check["told"]:
                sys.stdout.write(f"{entry['spec']}, {check['check']}: {check['told']}\n")
