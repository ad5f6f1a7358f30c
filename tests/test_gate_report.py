import io
import json
import os
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from packbench.leaderboard.gate import report
from packbench.leaderboard.gate.command import compare as command
from packbench.leaderboard.gate.compare import Verdict, compare

GOLDEN = Path(__file__).parent / "golden"
made = runpy.run_path(str(GOLDEN / "gate.py"))
row, failed, suite, lost, ATTACK = (made[name] for name in ("row", "failed", "suite", "lost", "ATTACK"))
FLOOR = {"query_ms.p50": 0.1}


def to_terminal(comparison, width=240):
    stream = io.StringIO()
    report.render_terminal(comparison, Console(file=stream, width=width))
    return stream.getvalue()


FORMS = {
    "gate.txt": to_terminal, "gate.md": report.to_markdown, "gate.json": report.to_json, "gate.xml": report.to_junit,
}  # fmt: skip


@pytest.fixture(scope="module")
def every():
    """A comparison with every verdict."""
    base, new = made["everything"]()
    comparison = compare(base, new, floor=FLOOR)
    assert all(comparison.counts().values())
    return comparison


@pytest.mark.parametrize("name", FORMS)
def test_golden(name, every):
    """PACKBENCH_GOLDEN=write writes the files anew; read the difference before keeping it."""
    text = FORMS[name](every)
    if os.environ.get("PACKBENCH_GOLDEN") == "write":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_the_verdict_comes_first(every):
    assert to_terminal(every).startswith("REGRESSION: ")
    assert report.to_markdown(every).startswith("# packbench: REGRESSION\n")


def hostile():
    """A comparison whose names, reasons and versions come from an enemy."""
    base = [row(ATTACK, dataset=ATTACK), row("pq")]
    new = [failed("failed", ATTACK, request=ATTACK, dataset=ATTACK), row("pq", versions={ATTACK: ATTACK})]
    new[0]["machine_facts"] = base[0]["machine_facts"] = {"cpu": ATTACK}
    return compare(base, new)


def test_names_cannot_write_markup():
    comparison = hostile()
    assert comparison.verdict is Verdict.REGRESSION
    root = ElementTree.fromstring(report.to_junit(comparison))
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "failure", "system-out"}
    case = root.find(".//failure/..")
    assert "<script>alert('x')</script>" in case.get("name") and "<script>" in case.find("failure").get("message")
    told = json.loads(report.to_json(comparison))
    assert told["findings"][0]["dataset"].startswith("</testcase><script>")
    markdown = report.to_markdown(comparison)
    outside = re.sub(r"(`+).*?\1", "", markdown.split("## To measure again")[0])  # code shows what it holds as it is
    assert "<script>" not in outside and "**bold**" not in outside and "&lt;script&gt;" in outside
    assert all(line.count("|") - line.count(r"\|") == 10 for line in markdown.splitlines() if line.startswith("| REG"))
    terminal = to_terminal(comparison, 4000)
    assert "[red]markup[/red]" in terminal
    for text in (terminal, markdown, report.to_json(comparison), report.to_junit(comparison)):
        assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
        assert "\n# title" not in text


def test_what_many_cells_have_in_common_is_told_once():
    base = [row(f"pq(m={m})", budget) for m in range(50) for budget in (16.0, 32.0)]
    new = [one | {"machine_facts": one["machine_facts"] | {"cpu": "Xeon", "id": "x"}} for one in base]
    comparison = compare(base, lost(new, "recall@10", 0.5))
    assert len(comparison.of(Verdict.INFRASTRUCTURE)) == 100
    for text in (to_terminal(comparison), report.to_markdown(comparison)):
        assert text.count("another machine: AMD EPYC") == 1 and text.count("packbench run") == 1
        assert "pq(m=0) and 99 more" in text and "100 INFRASTRUCTURE" in text
    assert report.to_junit(comparison).count("<error ") == 100
    assert len(json.loads(report.to_json(comparison))["findings"]) == 100


def test_junit_has_a_case_for_each_finding(every):
    suites = ElementTree.fromstring(report.to_junit(every))
    (suite_,) = suites
    cases = suite_.findall("testcase")
    assert suites.tag == "testsuites" and suite_.tag == "testsuite"
    assert len(cases) == len(every.findings) == int(suites.get("tests")) == int(suite_.get("tests"))
    tags = {Verdict.REGRESSION: "failure", Verdict.INFRASTRUCTURE: "error", Verdict.INCONCLUSIVE: "skipped"}
    totals = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    for case, finding in zip(cases, every.findings, strict=True):
        assert set(case.keys()) >= {"classname", "name"} and finding.metric in case.get("name")
        found = [of for of in case if of.tag in totals]
        assert [of.tag for of in found] == ([tags[finding.verdict]] if finding.verdict in tags else [])
        assert all(of.get("message") == finding.told for of in found)
    for tag, total in totals.items():
        assert int(suite_.get(total)) == len(suite_.findall(f"testcase/{tag}")) > 0
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)


def test_json_holds_every_figure(every):
    told = json.loads(report.to_json(every))
    assert (
        told["verdict"] == "REGRESSION"
        and told["exit_status"] == 1
        and sum(told["counts"].values()) == len(every.findings)
    )
    quality = next(one for one in told["findings"] if one["metric"] == "recall@10" and one["request"] == "pq")
    assert quality["change"]["low"] < quality["change"]["value"] == pytest.approx(quality["new"] - quality["base"])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Write the results of a base and of a new run; return how to call the command from their parent."""
    app = typer.Typer()
    app.command()(command)
    monkeypatch.chdir(tmp_path)

    def call(base, new, *words):
        for name, rows in (("base", base), ("new", new)):
            if rows is not None:
                Path(name).mkdir(exist_ok=True)
                Path(name, "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        return CliRunner().invoke(app, ["base", "new", *words])

    return call


REPORTS = ("--markdown", "out.md", "--json", "out.json", "--junit", "out.xml")


def read_reports():
    ElementTree.parse("out.xml")
    return json.loads(Path("out.json").read_text())["verdict"], Path("out.md").read_text()


@pytest.mark.parametrize(
    ("new", "status", "verdict"),
    [
        (suite(), 0, "PASS"), (lost(suite(), "recall@10", 0.05), 1, "REGRESSION"), (suite()[:3], 4, "INFRASTRUCTURE"),
        ([*suite()[:-1], failed("timeout", "long", request="opq(m=16)", budget=32.0)], 3, "INCONCLUSIVE"),
    ],
)  # fmt: skip
def test_the_exit_status_is_the_verdict(folders, new, status, verdict):
    result = folders(suite(), new, *REPORTS)
    assert result.exit_code == status and result.stdout.startswith(f"{verdict}: ")
    assert read_reports()[0] == verdict and f"# packbench: {verdict}" in read_reports()[1]
    assert sorted(path.name for path in Path().iterdir()) == ["base", "new", "out.json", "out.md", "out.xml"]
    assert folders(suite(), new, "--quiet").stdout == ""


def test_a_missing_baseline_still_writes_the_reports(folders):
    result = folders(None, suite(), *REPORTS)
    assert result.exit_code == 4 and result.stdout.startswith("INFRASTRUCTURE: ")
    verdict, markdown = read_reports()
    assert verdict == "INFRASTRUCTURE" and "results base: no such file or directory" in markdown


def test_gates_are_taken(folders):
    worse = lost(suite(), "recall@10", 0.05)
    assert folders(suite(), worse, "--fail", "recall@10:-0.2").exit_code == 0
    assert (
        folders(suite(), worse, "--fail", "recall:-0.2").exception.args[0].startswith("gate 'recall:-0.2': no metric")
    )


def noise(path, **more):
    facts = {"floor": FLOOR, "median": FLOOR, "machine": row()["machine_facts"], "times": 5, "cells": 7,
             "measured": "2030-01-01T00:00:00+00:00", "load": 0.5}  # fmt: skip
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(json.dumps(facts | more))


def test_the_noise_floor_is_found_and_used_on_its_machine_alone(folders):
    slow = [one | {"speedup": {"median": 1.2}} for one in suite()]
    assert folders(suite(), slow).exit_code == 0
    for place in ("base/noise.json", "new/noise.json", "elsewhere/mine.json"):
        noise(place)
        words = ("--noise", place) if "elsewhere" in place else ()
        assert folders(suite(), slow, *words).exit_code == 1, place
        noise(place, machine={"cpu": "Xeon"})
        result = folders(suite(), slow, *words)
        assert result.exit_code == 0 and "the noise floor is not used: it was measured on Xeon" in result.stdout
        Path(place).unlink()
    noise("base/noise.json", floor={"query_ms.p50": 1.0})
    noise("new/noise.json")
    assert folders(suite(), slow).exit_code == 1  # that beside NEW comes first
    assert folders(suite(), slow, "--any-machine").exit_code == 0


def test_reports_are_written_whole_or_not_at_all(folders):
    Path("kept.md").write_text("kept")
    Path("folder").mkdir()
    result = folders(suite(), suite(), "--json", "folder")
    assert "expected the name of a file" in str(result.exception) and not list(Path("folder").iterdir())
    assert "cannot be written" in str(folders(suite(), suite(), "--json", "nowhere/out.json").exception)
    broken = [*suite(), row("lsh") | {"bytes": None}]
    assert "lacks what every result has" in str(folders(broken, broken, "--markdown", "kept.md").exception)
    assert Path("kept.md").read_text() == "kept"
