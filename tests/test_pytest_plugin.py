"""The plug-in of pytest: a cell is measured and held to a baseline, and what cannot be compared is never green."""

import copy
import json
import subprocess
import sys

import pytest

from packbench import registry, runner
from packbench.leaderboard.gate import noise
from packbench.store import Store, canonical

pytest_plugins = "pytester"
pytest.importorskip("pytest_benchmark")
registry.methods()  # the sessions below forget what they import; methods are to be imported once

DATA = """
import numpy as np
import pytest
from packbench.dataset import from_vectors

DATA = from_vectors(np.random.default_rng(0).standard_normal((900, 16)).astype("f4"), name="made", held_out=200)
OPTIONS = {"dataset": DATA, "budget": 80, "timing_seconds": 0.01}
"""
METHODS = ["sign()", "int8()", "int4()", "float16()", "bfloat16()"]
SESSION = "\n".join(
    f"def test_{name}(packbench_method):\n    assert packbench_method('{name}()', **OPTIONS)['recall']['recall@10'] > 0"
    for name in ("sign", "int8", "int4", "float16", "bfloat16", "float32")
)
PLUGIN = """
from dataclasses import dataclass
from packbench import Codec, register

@register
@dataclass(frozen=True, slots=True)
class {name}(Codec):
    '''Round to whole numbers.'''

    name = "{name}"

    def encode(self, items, shared):
        return {{"codes": items.round().astype("i1")}}

    def decode(self, codes, shared):
        return codes["codes"].astype("f4")
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return the rows of an ordinary run, by request."""
    made = {}
    exec(DATA, made)
    folder = tmp_path_factory.mktemp("results")
    runner.run(made["DATA"], METHODS, folder, budgets=(80,), timing_seconds=0.01, references=False)
    return {row["request"]: row for row in Store(folder).rows()}


@pytest.fixture
def run(pytester, rows):
    """Run a session in this process against a baseline that was edited."""

    def session(*words, edit=None, text=SESSION):
        edited = copy.deepcopy(rows)
        if edit is not None:
            edit(edited)
        lines = [canonical(row) for row in edited.values()]
        (pytester.path / "baseline.jsonl").write_text("\n".join(lines) + "\n")
        pytester.makepyfile(DATA + text)
        return pytester.runpytest_inprocess("--packbench-baseline", "baseline.jsonl", *words)

    return session


def raised(row, queries=None):
    """Let a row have found everything, for some of its queries or all."""
    for name in {"recall@10", "expected recall@10"} & set(row["per_query"]):
        hits = row["per_query"][name]
        hits[:queries] = [10] * len(hits[:queries])


def test_each_cell_is_judged_and_told(run, pytester):
    def edit(edited):
        raised(edited["sign()"], 100)
        raised(edited["int4()"], 2)
        edited["float16()"]["dataset_sha256"] = "0"
        del edited["bfloat16()"]

    told = run("--packbench-results", "kept", edit=edit)
    told.assert_outcomes(passed=4, failed=2, warnings=3)
    told.stdout.fnmatch_lines_random([
        "packbench: REGRESSION: sign() at 80 bytes on made",
        "  recall@10: lost more than 0.005*before, * now)",
        "  measure again: packbench run *",
        "packbench: INFRASTRUCTURE: float16() at 80 bytes on made",
        "*PackbenchWarning: packbench: INCONCLUSIVE: int4() at 80 bytes on made",
        "*PackbenchWarning: packbench: not in the baseline: bfloat16() at 80 bytes on made",
        "packbench: 4 of 6 cells compared with *: 1 INCONCLUSIVE, 1 INFRASTRUCTURE, 1 PASS, 1 REGRESSION;*",
    ])  # fmt: skip
    kept = {row["request"] for row in Store(pytester.path / "kept").rows()}
    assert kept == {*METHODS, "float32()"}


ONE = """
def test_sign(packbench_method):
    packbench_method("sign()", **OPTIONS)
"""


def test_speed_is_judged_where_the_noise_was_measured(run, rows, pytester):
    def edit(edited):
        edited["sign()"]["speedup"]["median"] *= 1000

    told = run(edit=edit, text=ONE)
    told.assert_outcomes(passed=1)
    told.stdout.fnmatch_lines("packbench: 1 of 1 cells compared*1 PASS; speed not judged*")

    here = rows["sign()"]["machine_facts"]
    floor = {"query_ms.p50": 0.1}
    facts = {"floor": floor, "median": floor, "times": 5, "cells": 1, "measured": "2026-01-01", "load": 0.0}
    noise.write(noise.Noise(machine=here, **facts), pytester.path / "noise.json")
    told = run(edit=edit, text=ONE)
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines("*query_ms.p50: +*")

    noise.write(noise.Noise(machine=here | {"cpu": "another"}, **facts), pytester.path / "other.json")
    told = run("--packbench-noise", "other.json", edit=edit, text=ONE)
    told.assert_outcomes(passed=1, warnings=1)
    told.stdout.fnmatch_lines("*PackbenchWarning: packbench: speed not judged: the noise floor is of another*")


def test_a_gate_may_be_wider_and_machines_may_differ(run):
    def edit(edited):
        raised(edited["sign()"])
        edited["sign()"]["machine_facts"]["cpu"] = "another"

    run("--packbench-fail", "recall@10:-0.95", edit=edit, text=ONE).assert_outcomes(failed=1)
    told = run("--packbench-fail", "recall@10:-0.95", "--packbench-any-machine", edit=edit, text=ONE)
    told.assert_outcomes(passed=1)
    assert "speed not judged" not in told.stdout.str()


def test_a_session_that_compared_nothing_is_not_green(run):
    told = run(edit=lambda edited: edited.pop("sign()"), text=ONE)
    told.assert_outcomes(passed=1, warnings=1)
    assert told.ret == 4
    told.stdout.fnmatch_lines("packbench: 0 of 1 cells compared with baseline.jsonl; 1 not in the baseline*")


def test_a_method_comes_from_a_file_and_fails_with_its_reason(run, pytester):
    (pytester.path / "mine.py").write_text(PLUGIN.format(name="whole_of_test_pytest"))
    told = run(text="""
from packbench import registry

def test_it_is_measured(packbench_method):
    row = packbench_method("whole_of_test_pytest()", plugin="mine.py", **OPTIONS)
    assert row["bytes"]["payload"] == 16
    cls = registry.get("whole_of_test_pytest")
    assert packbench_method(cls(), **OPTIONS) is row

def test_it_is_too_heavy(packbench_method):
    packbench_method("float32()", dataset=DATA, budget=2, timing_seconds=0.01)
""" + PLUGIN.format(name="here_of_test_pytest") + """
def test_it_is_not_in_a_file_of_its_own(packbench_method):
    packbench_method(here_of_test_pytest, **OPTIONS)
""")  # fmt: skip
    told.assert_outcomes(passed=1, failed=2, warnings=2)
    told.stdout.fnmatch_lines_random([
        "packbench: over_budget: float32() at 2 bytes on made",
        "*here_of_test_pytest is defined in *.py, where the processes that measure it do not look*",
    ])  # fmt: skip
    del registry._methods["here_of_test_pytest"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--packbench-fail", "recal@10:-0.005"], "*no metric 'recal@10'; there are *"),
        (["--packbench-baseline", "nowhere.jsonl"], "*results nowhere.jsonl: no such file*"),
        (["--packbench-noise", "nowhere.json"], "*noise nowhere.json*packbench noise*"),
    ],
)
def test_what_cannot_be_used_stops_the_session(run, words, told):
    found = run(*words, text="def test_one(): pass")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(told)
    found.stdout.no_fnmatch_line("*passed*")


def test_gates_need_a_baseline(pytester):
    found = pytester.runpytest_inprocess("--packbench-fail", "recall@10:-0.005")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines("*need --packbench-baseline*")


def test_processes_of_xdist_are_counted_together(run):
    told = run("-n", "2", edit=lambda edited: raised(edited["sign()"]), text="""
def test_sign(packbench_method):
    packbench_method("sign()", **OPTIONS)

def test_int8(packbench_method):
    packbench_method("int8()", **OPTIONS)

def test_int8_again(packbench_method):
    packbench_method("int8()", **OPTIONS)
""")  # fmt: skip
    told.assert_outcomes(passed=2, failed=1)
    told.stdout.fnmatch_lines("packbench: 2 of 2 cells compared with baseline.jsonl: 1 PASS, 1 REGRESSION; *")


def test_a_benchmark_carries_the_figures(run, rows, pytester, monkeypatch):
    # Where this test is itself run by a worker of xdist, pytest-benchmark would write nothing.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    told = run("--benchmark-json", "times.json", "--benchmark-max-time", "0.05", "--benchmark-autosave", text="""
@pytest.mark.parametrize("batch", [1, 32])
def test_sign(packbench_benchmark, batch):
    packbench_benchmark("sign()", batch=batch, **OPTIONS)

def test_too_many(packbench_benchmark):
    packbench_benchmark("sign()", batch=1000, **OPTIONS)
""")  # fmt: skip
    told.assert_outcomes(passed=2, failed=1)
    told.stdout.fnmatch_lines("*batch=1000: made has * queries*")
    told.stdout.fnmatch_lines("packbench: 1 of 1 cells compared with baseline.jsonl: 1 PASS; *")
    found = json.loads((pytester.path / "times.json").read_text())["benchmarks"]
    assert [one["extra_info"]["batch"] for one in found] == [1, 32]
    row = rows["sign()"]
    for one in found:
        about = one["extra_info"]
        assert about["recall@10"] == row["recall"]["recall@10"] and about["bytes_per_item"] == row["bytes"]["deployed"]
        assert (about["spec"], about["dataset"], about["budget"]) == ("sign()", "made", 80)
        assert one["stats"]["min"] > 0


def test_pytest_starts_without_the_libraries():
    asked = "import packbench.leaderboard.gate.pytest_plugin, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "faiss", "numba", "rich", "typer"} & set(found.stdout.split())
