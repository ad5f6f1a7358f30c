"""The noise floor: planted differences come back, what is not the same thing is not compared, accusations stay rare."""

import json
import math

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from packbench import runner
from packbench.errors import BadInput
from packbench.leaderboard.gate import noise
from packbench.leaderboard.gate.compare import Verdict, compare
from packbench.leaderboard.gate.gates import Gate
from packbench.leaderboard.gate.noise_command import noise as command
from packbench.store import SCHEMA, Store

MACHINE = {"id": "a", "cpu": "one", "cores": 2, "memory_gib": 8, "system": "Linux", "simd": "faiss"}


def a_row(method="pq", grown=0.0, *, budget=64.0, time="2026-01-01", machine=MACHINE, **others):
    """Return a row whose every noisy figure is exp(grown) times as large as that of grown=0."""
    more = math.exp(grown)
    row = {
        "id": f"{method}-{budget}", "measurement": f"{method} on {machine['id']}", "status": "ok", "reason": None,
        "schema": SCHEMA, "request": method, "spec": f"{method}()", "dataset": "made", "dataset_sha256": "0",
        "budget": budget, "seed": 0, "time": time, "machine_facts": machine, "load": 0.5, "versions": {},
        "deployment_n": 10, "tries": 3, "version": "1", "n": 10,
        "query_ms": {"p50": 2.0 * more, "p95": 3.0 * more, "p99": 4.0 * more, "mean": 2.5 * more},
        "reference_ms": 0.5, "speedup": {"median": 0.25 / more}, "seconds": {"fit": more, "encode": 2 * more},
        "bytes": {"resident": 100 * more}, "peak_bytes": {"fit": 0, "encode": 10 * more, "search": 20 * more},
    }  # fmt: skip
    return row | others


def test_the_floor_is_the_largest_ratio_and_the_median_the_middle_one():
    runs = [[a_row("pq", 0.0), a_row("sign", 0.0)], [a_row("pq", 0.1), a_row("sign", 0.02)],
            [a_row("pq", -0.2), a_row("sign", 0.03)]]  # fmt: skip
    found = noise.floor_of(runs)
    # pq: .1, .2, .3; sign: .02, .03, .01
    assert found.floor["query_ms.p50"] == pytest.approx(0.3)
    assert found.median["query_ms.p50"] == pytest.approx((0.03 + 0.1) / 2)
    assert found.floor["seconds.encode"] == pytest.approx(0.3)
    assert "peak_bytes.fit" not in found.floor, "nothing was allocated, and zeros have no ratio"
    assert (found.times, found.cells, found.load, found.machine) == (3, 2, 0.5, MACHINE)


def test_latency_is_taken_in_units_of_float32_search():
    slow = a_row("pq", 1.0)
    slow["reference_ms"] *= math.e  # the whole machine was slower by as much
    slow["speedup"]["median"] *= math.e
    assert noise.floor_of([[a_row()], [slow]]).floor["query_ms.p95"] == pytest.approx(0)
    assert noise.floor_of([[a_row()], [slow]]).floor["query_ms.p50"] == pytest.approx(0)
    assert noise.floor_of([[a_row()], [slow]]).floor["seconds.fit"] == pytest.approx(1)


def test_one_measurement_that_serves_two_budgets_counts_once():
    runs = [[a_row(budget=64.0, grown=grown), a_row(budget=128.0, grown=grown)] for grown in (0.0, 0.1)]
    runs[0].append(a_row("int8", 0.0))
    assert noise.floor_of(runs).cells == 1


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([[a_row()]], "at least two"),
        ([[a_row()], [a_row(measurement="other code")]], "no configuration was measured in two"),
        ([[a_row()], [a_row()]], "no configuration was measured in two"),  # a copy
        ([[a_row()], [a_row(status="timeout", time="2026-01-02")]], "no configuration was measured in two"),
        ([[a_row(grown=grown), a_row(grown=grown, machine=MACHINE | {"id": "b"})] for grown in (0, 0.1)], "2 machines"),
    ],
)  # fmt: skip
def test_what_has_no_difference_is_refused(runs, told):
    with pytest.raises(BadInput, match=told):
        noise.floor_of(runs)


def test_two_runs_of_the_same_thing_are_rarely_called_a_regression():
    """Student's t with 3 degrees of freedom: at most two of forty comparisons of ten cells are red, nine times in ten.

    And twice the time is found in nine of ten comparisons.
    """
    rng = np.random.default_rng(3)
    gate = (Gate("query_ms.p50", 0.2, relative=True),)

    def suite(slower=0.0):
        return [a_row(f"m{cell}", slower + 0.03 * rng.standard_t(3), time=str(rng.random())) for cell in range(10)]

    calm, found = [], []
    for _ in range(20):
        floor = noise.floor_of([suite() for _ in range(5)]).floor
        verdicts = [compare(suite(), suite(), gates=gate, floor=floor).verdict for _ in range(40)]
        calm.append(verdicts.count(Verdict.REGRESSION) <= 2)
        slower = [compare(suite(), suite(math.log(2)), gates=gate, floor=floor).verdict for _ in range(10)]
        found += [verdict is Verdict.REGRESSION for verdict in slower]
    assert np.mean(calm) >= 0.9
    assert np.mean(found) >= 0.9


def test_what_is_written_is_read(tmp_path):
    found = noise.floor_of([[a_row()], [a_row(grown=0.1)]])
    noise.write(found, tmp_path / "new" / "noise.json")
    assert noise.read(tmp_path / "new" / "noise.json") == found


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "noise.json"
    found = noise.floor_of([[a_row()], [a_row(grown=0.1)]])
    noise.write(found, file)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        noise.write(noise.floor_of([[a_row()], [a_row(grown=0.2)]]), file)
    assert noise.read(file) == found
    assert list(tmp_path.iterdir()) == [file]


WHOLE = {"floor": {"seconds.fit": 0.1}, "median": {"seconds.fit": 0.1}, "machine": MACHINE, "times": 2, "cells": 1,
         "measured": "2026-01-01", "load": None}  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {"floor": {"seconds.fit": -0.1}},
        {"floor": {"seconds.fit": math.nan}},
        {"floor": {"seconds.fit": "a lot"}},
        {"floor": 0.1},
        {"machine": "mine"},
        {"more": 1},
        {"times": None, "floor": None},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = tmp_path / "noise.json"
    file.write_text(json.dumps(WHOLE))
    noise.read(file)
    file.write_text(json.dumps(WHOLE | damage))
    with pytest.raises(BadInput, match=r"noise\.json.*packbench noise"):
        noise.read(file)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"floor": {}}', "\x00\xff"])
def test_no_file_of_noise_is_refused(tmp_path, text):
    file = tmp_path / "noise.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"noise\.json.*packbench noise"):
        noise.read(file)


@pytest.fixture
def invoke(monkeypatch):
    """Run the command with a runner that takes longer each time it is asked."""
    asked = []

    def run(dataset, requests, results, *, listener, **options):
        assert not list(Store(results).rows()), "a directory that holds rows already would be resumed"
        for request in requests:
            Store(results).append(a_row(request, 0.1 * len(asked)))
        asked.append((dataset.name, options))

    monkeypatch.setattr(runner, "run", run)
    app = typer.Typer()
    app.command()(command)
    return lambda *words: (CliRunner().invoke(app, ["--quiet", *map(str, words)]), asked)


def test_the_command_runs_the_suite_each_time_anew(invoke, tmp_path):
    words = ("--dataset", "digits", "--method", "pq", "--method", "sign", "--budget", 8, "--times", 3, "--threads", 2)
    told, asked = invoke(*words, "--results", tmp_path / "into")
    assert told.exit_code == 0, told.output
    assert [name for name, _ in asked] == ["digits"] * 3
    assert asked[0][1]["budgets"] == (8.0,) and asked[0][1]["threads"] == 2
    found = noise.read(tmp_path / "into" / "noise.json")
    assert found.floor["query_ms.p50"] == pytest.approx(0.2)
    assert found.cells == 2
    assert f"{math.expm1(0.2):.1%}" in told.stdout and f"{1.2 * math.exp(0.2) - 1:.1%}" in told.stdout


def test_the_command_takes_runs_made_already(invoke, tmp_path):
    for turn in range(2):
        Store(tmp_path / str(turn)).append(a_row(grown=0.3 * turn))
    told, asked = invoke("--of", tmp_path / "0", "--of", tmp_path / "1", "--results", tmp_path)
    assert told.exit_code == 0, told.output
    assert not asked
    assert noise.read(tmp_path / "noise.json").floor["seconds.fit"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "words", [["--times", "1"], ["--queries", "q.npy"], ["--items", "x.npy", "--dataset", "digits"]]
)
def test_the_command_refuses_before_it_runs(invoke, tmp_path, words):
    told, asked = invoke(*words, "--results", tmp_path / "into")
    assert isinstance(told.exception, BadInput)
    assert not asked and not (tmp_path / "into").exists()
