"""Offer the command that compares two sets of results and says whether a build should fail."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packbench.commands import out
from packbench.errors import BadInput, Infrastructure

if TYPE_CHECKING:
    from packbench.leaderboard.gate.noise import Noise
    from packbench.store import Row


def compare(
    base: Annotated[str, typer.Argument(help="What to hold results against: a file, a directory, or REVISION:PATH.")],
    new: Annotated[str, typer.Argument(help="What to judge, likewise.")],
    fail: Annotated[
        list[str] | None,
        typer.Option("--fail", help="What may get worse, as recall@10:-0.005 or query_ms.p50:+20%; repeat."),
    ] = None,
    noise: Annotated[
        Path | None, typer.Option(help="File of `packbench noise`. Default: noise.json beside NEW, then BASE.")
    ] = None,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare across machines: bytes and quality, not speed.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary of the job to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write JSON to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Compare results with a baseline: exit 0 as good, 1 a regression, 3 inconclusive, 4 not measured or comparable.

    Examples: `packbench compare baseline results`,
    `packbench compare main:results results --fail recall@10:-0.01 --any-machine --junit gate.xml`
    """
    from packbench.leaderboard.gate import report
    from packbench.leaderboard.gate.compare import compare as judged
    from packbench.leaderboard.gate.compare import nothing_to_compare
    from packbench.leaderboard.gate.gates import gates_of
    from packbench.leaderboard.gate.sources import read

    gates = gates_of(fail or ())
    try:
        before, after = read(base), read(new)
    except Infrastructure as error:
        comparison = nothing_to_compare(str(error), gates)
    else:
        found = _noise(noise, base, new)
        left_out = None if found is None or any_machine else _other_machine(found, after)
        floor = None if found is None or left_out else found.floor
        comparison = judged(before, after, gates=gates, floor=floor, any_machine=any_machine)
        if left_out:
            comparison = dataclasses.replace(comparison, notes=(*comparison.notes, left_out))
    forms = {markdown: report.to_markdown, json: report.to_json, junit: report.to_junit}
    _write({file: form(comparison) for file, form in forms.items() if file is not None})
    if not quiet:
        report.render_terminal(comparison, out())
    raise typer.Exit(comparison.verdict.exit_status)


def _noise(given: Path | None, base: str, new: str) -> Noise | None:
    """Read the noise floor that was given, or that lies beside the results."""
    from packbench.leaderboard.gate.noise import FILE, read

    if given is not None:
        return read(given)
    folders = [path if path.is_dir() else path.parent for path in (Path(new), Path(base)) if path.exists()]
    return next((read(folder / FILE) for folder in folders if (folder / FILE).is_file()), None)


def _other_machine(noise: Noise, rows: list[Row]) -> str | None:
    """Say that a noise floor is of another machine than the results; None where it is of the same."""
    from packbench.leaderboard.gate.compare import machine_of

    measured, machines = machine_of(noise.machine), {machine_of(row.get("machine_facts", {})) for row in rows}
    if machines == {measured}:
        return None
    return f"the noise floor is not used: it was measured on {measured}, the results on {'; '.join(sorted(machines))}"


def _write(texts: dict[Path, str]) -> None:
    """Write each file whole or not at all.

    Raises:
        BadInput: a file cannot be written.
    """
    for file, text in texts.items():
        if file.exists() and not file.is_file():
            raise BadInput(f"{file}: expected the name of a file to write, and this is something else")
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(file)
        except OSError as error:
            raise BadInput(f"{file}: cannot be written ({error.strerror}); give another") from None
        finally:
            partial.unlink(missing_ok=True)
