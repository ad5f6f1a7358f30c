"""Offer the commands: answers go to standard output, progress and warnings to standard error."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from packbench.commands import MetricOption, Plugins, add_to, out
from packbench.conform_command import conform
from packbench.errors import BadInput, PackbenchError
from packbench.leaderboard.command import board
from packbench.leaderboard.gate.command import compare
from packbench.leaderboard.gate.noise_command import noise
from packbench.leaderboard.history_command import history
from packbench.leaderboard.ladder_command import ladder

app = typer.Typer(
    name="packbench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure which way of compressing embeddings keeps the most retrieval quality in N bytes per vector.",
)

Encoder = Annotated[str | None, typer.Option(help="Encoder for text: a sentence-transformers name or folder.")]


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 bad input, 3 inconclusive, 4 infrastructure."""
    try:
        status = app(standalone_mode=False)
    except PackbenchError as error:
        _say(f"packbench: {error}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        _say("packbench: interrupted; what was measured is kept, and the same command resumes")
        sys.exit(130)
    except BrokenPipeError:
        # A reader such as `head` has seen enough; keep the interpreter from writing to the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            error.show()  # type: ignore[attr-defined]  # click's usage errors say how to go on
            sys.exit(error.exit_code)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _say(text: str) -> None:
    Console(stderr=True).print(escape(text), highlight=False, soft_wrap=True)


def _load_plugins(plugins: list[Path] | None) -> tuple[str, ...]:
    from packbench import registry

    for plugin in plugins or ():
        registry.load_plugin(plugin)
    return tuple(str(plugin.resolve()) for plugin in plugins or ())


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods or datasets")] = "methods",
    plugin: Plugins = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write the reference page of the methods.")] = False,
) -> None:
    """List the methods or the data sets.

    Example: `packbench list datasets`
    """
    table = Table(box=None, pad_edge=False)
    if what == "methods":
        from packbench import registry

        _load_plugins(plugin)
        if as_markdown:
            from packbench.reference import methods_page

            sys.stdout.write(methods_page())
            return
        for heading in ("method", "family", "fidelity", "needs", "what it does"):
            table.add_column(heading, overflow="fold")
        for name, cls in registry.methods().items():
            table.add_row(name, cls.family(), cls.fidelity, ", ".join(sorted(cls.needs)), escape(cls.summary()))
    elif what == "datasets":
        from packbench import datasets

        for heading in ("data set", "what it holds"):
            table.add_column(heading, overflow="fold")
        for name in datasets.names():
            table.add_row(name, escape(str(datasets.card(name).get("title", ""))))
    else:
        raise BadInput(f"list {what!r}: expected methods or datasets")
    out().print(table)


@app.command()
def info(name: Annotated[str, typer.Argument(help="A method or a data set.")], plugin: Plugins = None) -> None:
    """Show what a method is (paper, bytes, arguments, fidelity) or a data set's card.

    Example: `packbench info pq`
    """
    import dataclasses
    import inspect

    from packbench import datasets, registry
    from packbench.reference import argument

    _load_plugins(plugin)
    console = out()
    if name in registry.methods():
        cls = registry.get(name)
        console.print(f"[bold]{name}[/]  ({cls.family()}, {cls.fidelity})", highlight=False)
        console.print(escape(inspect.cleandoc(cls.__doc__ or "")), highlight=False)
        facts = {"paper": cls.paper, "bytes": cls.formula, "needs": ", ".join(sorted(cls.needs)) or "item vectors only"}
        facts |= {"arguments": ", ".join(argument(entry) for entry in dataclasses.fields(cls)) or "none"}  # type: ignore[arg-type]
        for what, value in facts.items():
            console.print(f"[bold]{what}:[/] {escape(value)}", highlight=False)
    elif name in datasets.names():
        _facts(datasets.card(name))
    else:
        registry.get(name)


def _facts(facts: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for what, value in facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        table.add_row(escape(str(what)), escape(str(shown)))
    out().print(table)


@app.command()
def describe(
    dataset: Annotated[str, typer.Argument(help="A name, beir:DIR, or a file of vectors.")] = "pydocs",
    queries: Annotated[Path | None, typer.Option(help="File of query vectors.")] = None,
    metric: MetricOption = None,
    encoder: Encoder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Describe a data set: size, norms, effective rank, kurtosis, intrinsic dimension, hubness, duplicates.

    Example: `packbench describe pydocs`
    """
    from packbench.datasets import load
    from packbench.describe import describe as measure

    facts = measure(load(dataset, queries=queries, metric=metric, encoder=encoder))
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=1, default=str) + "\n")
    else:
        _facts(facts)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="A data set with a card; see `packbench list datasets`.")],
    into: Annotated[Path | None, typer.Option(help="Folder to put it in (default: the cache).")] = None,
) -> None:
    """Download a data set by its card, with resume and checksum.

    Example: `packbench fetch texmex/siftsmall`
    """
    from packbench.datasets.fetch import fetch as download

    sys.stdout.write(f"{download(dataset, into=into)}\n")


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A method, a spec, or a Python file of methods.")],
    plugin: Plugins = None,
) -> None:
    """Hold a method, or every method of a file, to the contract.

    Example: `packbench check my_method.py`
    """
    from packbench import registry
    from packbench.spec import parse_request
    from packbench.testing import run_checks

    _load_plugins(plugin)
    chosen: list[Any] = registry.load_plugin(target) if target.endswith(".py") else [parse_request(target)]
    console, failed = out(), 0
    for method in chosen:
        for finding in run_checks(method):
            failed += not finding.passed
            mark = "[green]ok    [/]" if finding.passed else "[red]FAILED[/]"
            name = getattr(method, "name", "") if isinstance(method, type) else method
            told = "" if finding.passed else f": {finding.message}"
            console.print(f"{mark} {escape(f'{name} {finding.check}{told}')}", highlight=False)
    if failed:
        _say(f"packbench: {failed} checks failed")
        raise typer.Exit(1)


@app.command()
def run(
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="A name, beir:DIR, or a file of vectors; repeat for several. Default: pydocs."),
    ] = None,
    items: Annotated[str | None, typer.Option(help="Your vectors: npy, fvecs, hdf5, parquet...; or a URL.")] = None,
    queries: Annotated[str | None, typer.Option(help="Your query vectors (default: some items are held out).")] = None,
    metric: MetricOption = None,
    encoder: Encoder = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Bytes per item; repeat. Default: 16 32 64 128 256 512.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="A name to be solved for each budget, or a spec, or all; repeat. Default: 18."),
    ] = None,
    results: Annotated[
        str, typer.Option("--results", help="Directory of .jsonl results, made when missing; or a URL.")
    ] = "results",
    cluster: Annotated[str | None, typer.Option(help="Dask scheduler to run on, as tcp://scheduler:8786.")] = None,
    workers: Annotated[int | None, typer.Option(help="Run on so many worker processes of this machine.")] = None,
    shards: Annotated[int, typer.Option(help="Encode and search the items in so many parts, and merge.")] = 1,
    plugin: Plugins = None,
    disk: Annotated[float, typer.Option(help="Bytes per item allowed on disk for rescoring.")] = 0.0,
    rows: Annotated[str, typer.Option(help="Deployment size over which shared arrays are spread.")] = "1M",
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed of the methods; repeat for several.")] = None,
    tries: Annotated[int, typer.Option(help="Configurations tried per cell on validation queries.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of a search.")] = 1,
    build_threads: Annotated[int, typer.Option(help="Threads of a build; more pay off on an idle machine.")] = 1,
    time_limit: Annotated[float, typer.Option(help="Seconds that a build or a search may take.")] = 600.0,
    memory_limit: Annotated[str | None, typer.Option(help="Memory that one may allocate, such as 4GB.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Write where the time went, per cell and phase.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure methods under budgets on a data set, one line of results per cell; the same command resumes.

    Examples: `packbench run --method pq --method rabitq --budget 64`,
    `packbench run --items vectors.npy --queries queries.npy --budget 64`
    """
    from packbench import server

    if not (method or plugin or cluster or workers):
        server.start()  # the standard methods need no torch, so that it can load what they do while this process does
    from packbench import runner
    from packbench.datasets import load
    from packbench.profile import profile_file
    from packbench.progress import Bar
    from packbench.units import parse_bytes, parse_count

    if items is not None and dataset:
        raise BadInput("run: give either --dataset or --items, not both")
    if queries is not None and items is None:
        raise BadInput("run: --queries goes with --items FILE")
    if cluster is not None and workers is not None:
        raise BadInput("run: give either --cluster or --workers, not both")
    options: dict[str, Any] = {
        "budgets": tuple(budget) if budget else runner.BUDGETS,
        "shards": shards,
        "disk_budget": disk,
        "deployment_n": parse_count(rows, "--rows"),
        "seeds": tuple(seed or (0,)),
        "tries": tries,
        "threads": threads,
        "build_threads": build_threads,
        "seconds": time_limit,
        "plugins": _load_plugins(plugin),
        "profile": profile,
    }
    if memory_limit is not None:
        options["memory_bytes"] = parse_bytes(memory_limit, "--memory-limit")
    requests = runner.checked_requests(method, runner.Plan(**options))
    sources = [items] if items is not None else list(dataset or ["pydocs"])
    loaded = [load(source, queries=queries, metric=metric, encoder=encoder) for source in sources]
    with Bar(quiet=quiet) as bar:
        for one in loaded:
            runner.run(one, requests, results, listener=bar, cluster=cluster or workers, **options)
    if profile:
        for one in loaded:
            _profiled(profile_file(Path(results), one.name))
    if not quiet:
        _say(f"results are in {results}; `packbench board --results {results}` shows them")


def _profiled(file: Path) -> None:
    """Say where the time of a run went, and where the whole of it is written."""
    if not file.exists():
        return  # everything was stored already
    phases = json.loads(file.read_text())["phases"]
    table = Table(box=None, pad_edge=False)
    for heading in ("phase", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, seconds in phases.items():
        table.add_row(escape(phase), f"{seconds:.2f}", f"{seconds / sum(phases.values()):.1%}")
    Console(stderr=True).print(table)
    _say(f"{file} shows each cell; open it in ui.perfetto.dev or chrome://tracing")


for command in (board, compare, noise, history, conform, ladder):
    app.command()(command)
add_to(app)
