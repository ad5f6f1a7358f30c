"""Offer the commands for one's own vectors: advise, export, capacity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file whose methods to add; repeat for several.")
]
MetricOption = Annotated[str | None, typer.Option(help="ip, cosine or l2; told by the data where it can be.")]


def out() -> Console:
    """Return standard output: a pipe gets whole lines, only a terminal is folded to its width."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (advise, export, capacity):
        app.command()(command)


def advise(
    vectors: Annotated[Path, typer.Argument(help="Your vectors: npy, npz, fvecs, fbin, hdf5, parquet...")],
    bytes_per_item: Annotated[float | None, typer.Option("--bytes", help="The most that an item may weigh.")] = None,
    memory: Annotated[str | None, typer.Option(help="The most that all rows may weigh, such as 8GB.")] = None,
    rows: Annotated[str | None, typer.Option(help="How many items will be served, such as 50M.")] = None,
    keep: Annotated[float | None, typer.Option(help="The share of float32's recall@10 to keep, such as 0.98.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Your query vectors (default: some items are held out).")] = None,
    metric: MetricOption = None,
    results: Annotated[Path, typer.Option(help="Directory of the short board's results.")] = Path("results"),
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Say which method to use for vectors of your own, what it keeps and weighs, and how sure that is.

    Examples: `packbench advise my_vectors.npy --bytes 64`,
    `packbench advise my_vectors.npy --queries q.npy --memory 8GB --rows 50M`,
    `packbench advise my_vectors.npy --keep 0.98`
    """
    from packbench.advise import CANDIDATES
    from packbench.advise import advise as asked
    from packbench.progress import Bar
    from packbench.registry import load_plugin
    from packbench.units import parse_bytes, parse_count

    added = [cls.name for file in plugin or () for cls in load_plugin(file)]
    with Bar(quiet=quiet) as bar:
        advice = asked(
            vectors,
            bytes_per_item=bytes_per_item,
            memory_bytes=None if memory is None else parse_bytes(memory, "--memory"),
            rows=None if rows is None else parse_count(rows, "--rows"),
            keep=keep,
            queries=queries,
            metric=metric,
            results=results,
            methods=(*CANDIDATES, *added),
            plugins=[str(file.resolve()) for file in plugin or ()],
            listener=bar,
        )
    sys.stdout.write(advice.to_text() + "\n")


def export(
    spec: Annotated[str, typer.Argument(help="A spec, or with --bytes the name of a method.")],
    vectors: Annotated[Path, typer.Argument(help="Your vectors: npy, npz, fvecs, fbin, hdf5, parquet...")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder for the index.")],
    bytes_per_item: Annotated[float | None, typer.Option("--bytes", help="The most that an item may weigh.")] = None,
    metric: MetricOption = None,
    seed: Annotated[int, typer.Option(help="Added to the method's seeds.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the build.")] = 1,
    plugin: Plugins = None,
) -> None:
    """Fit a method on your vectors, encode them, and write an index that `packbench.open_index` opens.

    Examples: `packbench export "opq(m=48)" my_vectors.npy my_index`,
    `packbench export pq my_vectors.npy my_index --bytes 64`
    """
    from rich.filesize import decimal

    from packbench.serve import export as write

    ledger = write(
        spec,
        vectors,
        folder,
        metric=metric,
        bytes_per_item=bytes_per_item,
        seed=seed,
        threads=threads,
        plugins=plugin or (),
    )
    memory = round(ledger.payload * ledger.n) + ledger.shared
    cold = f", and {ledger.cold:.1f} per item on disk" if ledger.cold else ""
    sys.stdout.write(
        f"{folder}: {ledger.n:,} items of {ledger.payload:.1f} bytes and {decimal(ledger.shared)} shared, "
        f"{decimal(memory)} in memory{cold}\n"
    )


def capacity(
    memory: Annotated[str | None, typer.Option(help="What is to hold the items, such as 8GB.")] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="How many items; repeat. Default: 1M, 10M, 100M.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="A spec, or with --memory a name; repeat. Default: eight.")
    ] = None,
    d: Annotated[int, typer.Option("--d", help="Dimensions of a vector.")] = 384,
    results: Annotated[
        Path | None, typer.Option(help="Directory of results that say what recall was measured, and at which size.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Say what methods weigh at numbers of items, and what fits: weighed at two sizes, checked at a third.

    Examples: `packbench capacity --memory 8GB --rows 10M --rows 100M`,
    `packbench capacity --method "pq(m=48)" --d 768 --results results`
    """
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    from packbench.capacity import CHECKED, ROWS, SIZES, measured
    from packbench.capacity import capacity as weighed
    from packbench.units import parse_bytes, parse_count

    limit = None if memory is None else parse_bytes(memory, "--memory")
    counts = [parse_count(text, "--rows") for text in rows] if rows else list(ROWS)
    known = {} if results is None else measured(results, d)
    footprints, notes = weighed(
        method, rows=counts, memory_bytes=limit, d=d, plugins=[str(file.resolve()) for file in plugin or ()]
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "B/item", "fixed", "on disk", "check", *(f"{n:,}" for n in counts)):
        table.add_column(heading, justify="left" if heading == "method" else "right", overflow="fold")
    if limit is not None:
        table.add_column(f"most in {memory}", justify="right")
    for one in footprints:
        sizes = [one.nbytes(n) for n in counts]
        told = [
            decimal(round(size)) + ("" if limit is None else " fits" if size <= limit else "  -  ") for size in sizes
        ]
        table.add_row(
            escape(one.spec), f"{one.marginal:.1f}", decimal(round(one.fixed)), f"{one.cold:.1f}" if one.cold else "",
            f"{one.error:+.1%}" + ("" if one.holds else " NOT LINEAR"), *told,
            *([] if limit is None else [f"{one.items_in(limit):,}"]),
        )  # fmt: skip
    out().print(table)
    for note in notes:
        sys.stdout.write(f"{note}\n")
    sys.stdout.write(
        f"Weighed at {SIZES[0]:,} and {SIZES[1]:,} seeded vectors of {d} dimensions; `check` is how far the line lies "
        f"from what {CHECKED:,} weigh.\nAll larger sizes are extrapolated. Bytes are those of the arrays: what "
        "fitting, encoding and the process itself need is not modelled"
        + (".\n" if known else ", and recall at these sizes is not known.\n")
    )
    for one in footprints if known else ():
        sys.stdout.write(f"{one.spec}: {known[one.spec].to_text() if one.spec in known else 'not measured'}\n")
    if known:
        sys.stdout.write(f"That is what {results} knows at {d} dimensions; a ranking at one n is not extrapolated.\n")
