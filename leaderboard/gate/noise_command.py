"""Offer the command that measures the noise floor."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from packbench.commands import MetricOption, Plugins, out
from packbench.errors import BadInput

if TYPE_CHECKING:
    from packbench.leaderboard.gate.noise import Noise


def noise(
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="A name, beir:DIR, or a file of vectors; repeat for several. Default: pydocs."),
    ] = None,
    items: Annotated[Path | None, typer.Option(help="Your vectors: npy, npz, fvecs, fbin, hdf5, parquet...")] = None,
    queries: Annotated[Path | None, typer.Option(help="Your query vectors (default: some items are held out).")] = None,
    metric: MetricOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder for text: a sentence-transformers name or folder.")
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Bytes per item; repeat. Default: 16 32 64 128 256 512.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="A name, a spec, or all; repeat. Default: as in run.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Directory to put noise.json in; made when missing.")] = Path("results"),
    plugin: Plugins = None,
    threads: Annotated[int, typer.Option(help="Threads of a search.")] = 1,
    build_threads: Annotated[int, typer.Option(help="Threads of a build.")] = 1,
    times: Annotated[int, typer.Option(help="How often to run; more see rarer disturbances.")] = 5,
    of: Annotated[
        list[Path] | None, typer.Option("--of", help="Results of a run made already; repeat for each, and none is run.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Run one suite several times and write by how much its figures differ: what `packbench compare` allows for noise.

    Examples: `packbench noise --method pq --method rabitq --budget 64 --results baseline`,
    `packbench noise --of monday --of tuesday --of wednesday --results baseline`
    """
    from packbench import runner
    from packbench.datasets import load
    from packbench.leaderboard.gate.noise import FILE, floor_of, write
    from packbench.leaderboard.gate.sources import read
    from packbench.progress import Bar
    from packbench.registry import load_plugin
    from packbench.store import Store

    if items is not None and dataset:
        raise BadInput("noise: give either --dataset or --items, not both")
    if queries is not None and items is None:
        raise BadInput("noise: --queries goes with --items FILE")
    if times < 2:
        raise BadInput(f"--times {times}: a difference needs at least 2 runs; 5 see most of what a machine does")
    file = Store(results).folder / FILE
    if of:
        found = floor_of([read(folder) for folder in of])
    else:
        for path in plugin or ():
            load_plugin(path)
        options: dict[str, Any] = {
            "budgets": tuple(budget) if budget else runner.BUDGETS,
            "threads": threads,
            "build_threads": build_threads,
            "plugins": tuple(str(path.resolve()) for path in plugin or ()),
        }
        requests = runner.checked_requests(method, runner.Plan(**options))
        sources = [str(items)] if items is not None else list(dataset or ["pydocs"])
        loaded = [load(source, queries=queries, metric=metric, encoder=encoder) for source in sources]
        runs = []
        with tempfile.TemporaryDirectory(prefix="packbench-noise-") as folder, Bar(quiet=quiet) as bar:
            for turn in range(times):
                into = Store(Path(folder) / str(turn))  # a directory of its own: nothing is resumed
                for one in loaded:
                    runner.run(one, requests, into.folder, listener=bar, **options)
                runs.append(list(into.rows()))
        found = floor_of(runs)
    write(found, file)
    out().print(_table(found))
    busy = "" if found.load is None else f", on a machine whose load was {found.load:g} at most"
    sys.stdout.write(f"{found.cells} configurations, {found.times} runs{busy}.\n")
    Console(stderr=True).print(escape(f"wrote {file}"), highlight=False, soft_wrap=True)


def _table(noise: Noise) -> Table:
    """Show the differences as percentages, and from where on a gate of +20% accuses in spite of them."""
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "median difference", "largest: the floor", ":+20% fails from"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric, floor in noise.floor.items():
        shown = (math.expm1(one) for one in (noise.median[metric], floor, math.log(1.2) + floor))
        table.add_row(metric, *(f"{one:.1%}" for one in shown))
    return table
