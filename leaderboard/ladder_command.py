"""Offer the command that measures methods over the size of the corpus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from packbench.commands import MetricOption, Plugins, out


def ladder(
    dataset: Annotated[str, typer.Option("--dataset", help="A name, beir:DIR, or a file of vectors.")] = "pydocs",
    queries: Annotated[Path | None, typer.Option(help="File of query vectors.")] = None,
    metric: MetricOption = None,
    sizes: Annotated[
        str | None, typer.Option(help="Sizes such as 10k,30k,100k. Default: half decades up to all items.")
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Bytes per item; repeat. Default: 16 32 64 128 256 512.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="A name to be solved for each budget, or a spec; repeat.")
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Directory of .jsonl results.")] = Path("results"),
    plugin: Plugins = None,
    tries: Annotated[int, typer.Option(help="Configurations tried per cell on validation queries.")] = 3,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure methods on nested parts of a data set: quality against corpus size; the same command resumes.

    Example: `packbench ladder --dataset texmex/siftsmall --sizes 1k,3k,10k --budget 32 --method pq --method rabitq`
    """
    from packbench import runner
    from packbench.datasets import load
    from packbench.ladder import rungs
    from packbench.leaderboard.ladder import crossing_told, ladder_cells, ladder_facts, ladders_of
    from packbench.leaderboard.markdown import cells_markdown, escaped
    from packbench.leaderboard.terminal import print_cells
    from packbench.progress import Bar
    from packbench.registry import load_plugin
    from packbench.store import Store
    from packbench.units import parse_count

    for file in plugin or ():
        load_plugin(file)
    options: dict[str, Any] = {
        "budgets": tuple(budget) if budget else runner.BUDGETS,
        "tries": tries,
        "plugins": tuple(str(file.resolve()) for file in plugin or ()),
    }
    requests = runner.checked_requests(method, runner.Plan(**options))
    chosen = [parse_count(size, "--sizes") for size in sizes.split(",")] if sizes else None
    loaded = load(dataset, queries=queries, metric=metric)
    with Bar(quiet=quiet) as bar:
        for rung in rungs(loaded, chosen):
            runner.run(rung, requests, results, listener=bar, **options)
    console, lines = out(), []
    for one in ladders_of(Store(results).by_id().values()):
        if one.dataset != loaded.name:
            continue
        crossings = [crossing_told(crossing) for crossing in one.crossings]
        if as_markdown:
            lines += [escaped(ladder_facts(one)), "", *cells_markdown(*ladder_cells(one))]
            lines += [*(f"- {escaped(told)}" for told in crossings), ""]
        else:
            console.print(Text(ladder_facts(one)))
            print_cells(*ladder_cells(one), console)
            for told in crossings or ["No two methods change places beyond chance."]:
                console.print(Text(told))
    sys.stdout.write("\n".join(lines))
    if not quiet:
        Console(stderr=True).print(Text(f"results are in {results}"), soft_wrap=True)
