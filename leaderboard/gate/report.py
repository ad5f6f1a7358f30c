"""Tell what a comparison came to: in a terminal, as Markdown for a build's summary, as JSON, as JUnit XML."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from packbench.leaderboard.columns import NONE, short
from packbench.leaderboard.gate.compare import BYTES, QUALITY, Comparison, Finding, Verdict
from packbench.leaderboard.markdown import code, escaped

FORMAT = 1  # raised when a key changes its meaning or goes
HEADINGS = ("verdict", "data set", "method", "bytes", "figure", "before", "now", "change", "why")
NUMBERS = ("bytes", "before", "now", "change")
MEANINGS = {
    Verdict.PASS: "nothing got worse by more than a gate allows",
    Verdict.REGRESSION: "a method got worse than a gate allows",
    Verdict.INCONCLUSIVE: "nothing is known to be worse, and not all is known to be as good",
    Verdict.INFRASTRUCTURE: "something was not measured, or cannot be compared",
}
_STYLES = {
    Verdict.PASS: "green", Verdict.REGRESSION: "bold red", Verdict.INCONCLUSIVE: "yellow",
    Verdict.INFRASTRUCTURE: "magenta",
}  # fmt: skip
_OUTCOMES = {Verdict.REGRESSION: "failure", Verdict.INFRASTRUCTURE: "error", Verdict.INCONCLUSIVE: "skipped"}


def render_terminal(comparison: Comparison, console: Console) -> None:
    """Print the verdict, what is not PASS, gains, counts, what changed around it, and how to measure again."""
    verdict = comparison.verdict
    console.print(Text.assemble((verdict, _STYLES[verdict]), f": {MEANINGS[verdict]}"))
    console.print(Text(_counted(comparison)))
    for title, findings in (("", _failing(comparison)), ("Gains", _gains(comparison))):
        if not findings:
            continue
        console.print(Text(f"\n{title}" if title else "", "bold"))
        grid = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for heading in HEADINGS:
            grid.add_column(heading, overflow="fold", justify="right" if heading in NUMBERS else "left")
        for group in _alike(findings):
            word, *cells = _cells(group)
            grid.add_row(Text(word, _STYLES[group[0].verdict]), *map(Text, cells))
        console.print(grid)
    for title, lines in (("Around it", comparison.notes), ("To measure again", _commands(comparison))):
        if lines:
            console.print(Text(f"\n{title}", "bold"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)


def to_markdown(comparison: Comparison) -> str:
    """Return the same in GitHub's Markdown, for the summary of a job: names as code, everything else escaped."""
    verdict = comparison.verdict
    lines = [f"# packbench: {verdict}", "", f"{MEANINGS[verdict].capitalize()}.", "", f"{_counted(comparison)}.", ""]
    for title, findings in (("", _failing(comparison)), ("## Gains", _gains(comparison))):
        if not findings:
            continue
        lines += [title, ""] if title else []
        lines += [_line(HEADINGS), _line("---:" if heading in NUMBERS else "---" for heading in HEADINGS)]
        for group in _alike(findings):
            cells = zip(HEADINGS, _cells(group), strict=True)
            lines.append(_line(code(cell) if heading == "method" else escaped(cell) for heading, cell in cells))
        lines.append("")
    if comparison.notes:
        lines += ["## Around it", "", *(f"- {escaped(note)}" for note in comparison.notes), ""]
    commands = _commands(comparison)
    if commands:
        lines += ["## To measure again", "", "```sh", *commands, "```", ""]
    return "\n".join(lines)


def to_json(comparison: Comparison) -> str:
    """Return the same as JSON: verdict, exit status, counts, gates, notes, and every finding, worst first."""
    everything = {
        "format": FORMAT,
        "verdict": comparison.verdict,
        "exit_status": comparison.verdict.exit_status,
        "counts": comparison.counts(),
        "gates": [str(gate) for gate in comparison.gates],
        "notes": comparison.notes,
        "findings": [dataclasses.asdict(finding) for finding in comparison.findings],
    }
    return json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_junit(comparison: Comparison) -> str:
    """Return the same as JUnit XML, a test case per cell and figure.

    REGRESSION is a failure, INFRASTRUCTURE an error, and INCONCLUSIVE is skipped.
    """
    counts = comparison.counts()
    totals = {
        "tests": str(len(comparison.findings)),
        "failures": str(counts[Verdict.REGRESSION]),
        "errors": str(counts[Verdict.INFRASTRUCTURE]),
        "skipped": str(counts[Verdict.INCONCLUSIVE]),
    }
    suites = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "packbench compare"} | totals)
    for finding in comparison.findings:
        name = ", ".join(part for part in (finding.request, _size(finding), finding.metric) if part)
        case = ElementTree.SubElement(suite, "testcase", {"classname": finding.dataset, "name": name, "time": "0"})
        outcome = _OUTCOMES.get(finding.verdict)
        if outcome is None:
            ElementTree.SubElement(case, "system-out").text = finding.told
        else:
            of = ElementTree.SubElement(case, outcome, {"message": finding.told})
            if outcome != "skipped":
                of.set("type", finding.verdict)
            of.text = "\n".join(part for part in (_figures(finding), finding.command) if part)
    ElementTree.SubElement(suite, "system-out").text = "\n".join(comparison.notes)
    ElementTree.indent(suites, " ")
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document.decode() + "\n"


def _failing(comparison: Comparison) -> list[Finding]:
    return [one for one in comparison.findings if one.verdict is not Verdict.PASS]


def _gains(comparison: Comparison) -> list[Finding]:
    return [one for one in comparison.of(Verdict.PASS) if one.better]


def _counted(comparison: Comparison) -> str:
    cells = len({(one.dataset, one.request, one.budget) for one in comparison.findings})
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in comparison.counts().items() if count)
    gains = len(_gains(comparison))
    return f"{cells:,} cells, figure by figure: {counts}" + (f", of which {gains:,} are gains" if gains else "")


def _alike(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Gather what says the same of many cells, in order of first appearance: it is told once."""
    groups: dict[Finding, list[Finding]] = {}
    for finding in findings:
        same = dataclasses.replace(finding, dataset="", request="", budget=None, command="")
        groups.setdefault(same, []).append(finding)
    return list(groups.values())


def _cells(group: Sequence[Finding]) -> list[str]:
    """Return what a table says of one finding, or of many that say the same."""
    one, more = group[0], len(group) - 1
    method = f"{one.request} and {more:,} more" if more else one.request
    return [
        one.verdict, _several(of.dataset for of in group), method, _several(map(_size, group)), one.metric,
        _figure(one.metric, one.base), _figure(one.metric, one.new), _change(one), one.told,
    ]  # fmt: skip


def _several(texts: Any) -> str:
    """Return the text that all share, or the first and how many others there are."""
    first, *others = dict.fromkeys(texts)
    return f"{first} and {len(others):,} more" if others else first


def _size(finding: Finding) -> str:
    return "" if finding.budget is None else f"{finding.budget:g}"


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return NONE
    if metric in QUALITY:
        return f"{value:.4f}"
    if metric in BYTES or "bytes" in metric:
        return f"{value:,.10g}"
    return f"{short(value)}{'× float32' if metric.startswith('query_ms') else ' s'}"


def _change(finding: Finding) -> str:
    of = finding.change
    if of is None:
        return ""
    if finding.metric in BYTES:
        return f"{of.value:+,.10g}"
    form = "{:+.4f}" if finding.metric in QUALITY else "{:+.0%}"
    told = form.format(of.value)
    spread = of.low < of.high and math.isfinite(of.high)
    return f"{told} [{form.format(of.low)}, {form.format(of.high)}]" if spread else told


def _figures(finding: Finding) -> str:
    if finding.base is None:
        return ""
    before, now = _figure(finding.metric, finding.base), _figure(finding.metric, finding.new)
    return f"{before} before, {now} now, {_change(finding)}"


def _commands(comparison: Comparison) -> list[str]:
    """Return how to measure again what failed, a command for each group of findings that say the same."""
    groups = _alike(_failing(comparison))
    return list(dict.fromkeys(group[0].command for group in groups if group[0].command))


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


__all__ = ["render_terminal", "to_json", "to_junit", "to_markdown"]
