"""What a method does to its process costs one row; what is done to the run costs the cell under way."""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import psutil
import pytest

from packbench import registry, runner
from packbench.dataset import from_vectors
from packbench.folders import run_folder
from packbench.store import Store
from packbench.workers import Workers

PLUGIN = str(Path(__file__).parent / "plugins" / "casualties.py")
EXPECTED = {
    "raises": ("failed", "RuntimeError: the training diverged"),
    "loops": ("timeout", "longer than the limit of 5 s"),
    "allocates_at_once": ("out_of_memory", "Unable to allocate 30"),
    "allocates_bit_by_bit": ("out_of_memory", ""),
    "segfaults": ("failed", "SIGSEGV"),
    "prints": ("ok", ""),
    "prints_for_ever": ("failed", "printed more than 64 MiB"),
    "exits": ("failed", "without an answer"),
    "quits": ("failed", "SystemExit: enough"),
    "kills_itself": ("out_of_memory", "killed by the system"),  # the system's own way with memory looks the same
    "aborts": ("failed", "SIGABRT"),
}
QUICK = {"timing_seconds": 0.01, "references": False}
# The cells of the killed run; the script is what a user's would be.
METHODS = ["float32()", "float16()", "int8()", "int4()", "sign()", "int8"]
SCRIPT = """
import sys
import numpy as np
from packbench import runner
from packbench.dataset import from_vectors
from packbench.folders import run_folder
rng = np.random.default_rng(3)
items = (rng.standard_normal((300, 4)) @ rng.standard_normal((4, 12))).astype("f4")
runner.run(from_vectors(items, name="planted", held_out=30), {methods!r}, sys.argv[1], budgets=(20.0, 60.0),
           timing_seconds=0.01, references=False, plugins={plugins!r}, seconds=60)
"""
# What may differ between two measurements of one cell: what a clock or the memory of a process says.
MEASURED_ANEW = {
    "time", "load", "wall_seconds", "spent_seconds", "truth_seconds", "factor_seconds", "seconds",
    "peak_bytes", "query_ms", "reference_ms", "speedup", "batch", "repeat_ratio", "notes",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the casualties for this file alone: other tests see the registry without them."""
    before = registry.methods()
    found = registry.load_plugin(PLUGIN)
    yield
    registry._methods.clear()
    registry._methods.update(before)
    sys.modules.pop(found[0].__module__)


@pytest.fixture(scope="module")
def casualties(tmp_path_factory):
    folder = tmp_path_factory.mktemp("casualties")
    items = np.random.default_rng(0).standard_normal((300, 12)).astype("f4")
    requests = [f"{name}()" for name in EXPECTED]
    before = set(psutil.Process().children(recursive=True))
    runner.run(from_vectors(items, name="noise"), [*requests, "int8()"], folder, budgets=(60.0,), plugins=(PLUGIN,),
               seconds=5, memory_bytes=1 << 28, **QUICK)  # fmt: skip
    left = [child for child in psutil.Process().children(recursive=True) if child not in before and _busy(child)]
    return {row["method"]: row for row in Store(folder).rows()}, left


def _busy(process):
    """Tell whether a process is a worker still at work, and not the idle server that workers come from."""
    try:
        return process.parent() is not None and "forkserver" in " ".join(process.parent().cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("name", EXPECTED)
def test_a_casualty_costs_one_row(casualties, name):
    row = casualties[0][name]
    status, reason = EXPECTED[name]
    assert row["status"] == status, row["reason"]
    assert reason in (row["reason"] or "")


def test_the_run_goes_on_after_all_of_them(casualties):
    rows, left = casualties
    assert rows["int8"]["status"] == "ok"
    assert len(rows) == len(EXPECTED) + 1
    assert not left


def start(folder, methods=METHODS, plugins=(), **options):
    script = SCRIPT.format(methods=methods, plugins=plugins)
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=subprocess.PIPE, **options)


def finish(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def cells(folder):
    """Return what a store says of each cell, without what a clock measured."""
    found = {}
    for row in Store(folder).rows():
        assert row["id"] not in found, "a cell was measured twice"
        kept = {name: value for name, value in row.items() if name not in MEASURED_ANEW}
        if "bytes" in kept:
            kept["bytes"] = {name: value for name, value in kept["bytes"].items() if name != "resident"}
        for note in kept.get("tried", []):
            note.pop("seconds", None)
        hits = Store(folder).hits(row["measurement"]) if "measurement" in row else {}
        found[row["id"]] = kept | {name: ids.tolist() for name, ids in hits.items()}
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the cells of a run that nothing disturbs, and how long it takes from its first row to its last."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    begin = time.monotonic()
    finish(start(folder))
    return cells(folder), time.monotonic() - begin


def test_a_run_killed_at_any_moment_resumes_to_the_same_store(uninterrupted, tmp_path):
    wanted, seconds = uninterrupted
    assert len(wanted) == 2 * len(METHODS)
    moments = random.Random(7)
    for _ in range(10):
        process = start(tmp_path, start_new_session=True)
        # Most of a short run is its start, so moments are drawn from its whole length and a little beyond the imports.
        time.sleep(moments.uniform(0.3, 0.9) * seconds)
        process.kill()
        process.communicate()
        assert set(cells(tmp_path)) <= set(wanted)
    finish(start(tmp_path))
    assert cells(tmp_path) == wanted


def test_a_torn_line_is_dropped_and_a_finished_run_repeats_nothing(uninterrupted, tmp_path):
    finish(start(tmp_path))
    file = Store(tmp_path).file
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:7]) + lines[7][: len(lines[7]) // 2])
    finish(start(tmp_path))
    assert cells(tmp_path) == uninterrupted[0]
    whole = file.read_bytes()
    assert len([json.loads(line) for line in whole.splitlines()]) == len(uninterrupted[0])
    assert whole.startswith(b"".join(lines[:7]))
    finish(start(tmp_path))
    assert file.read_bytes() == whole


def test_a_killed_run_leaves_no_process(tmp_path, monkeypatch):
    # A folder for temporary files of its own: another run, beside this test, would clear away what is looked for.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    process = start(tmp_path / "results", ["loops()"], (PLUGIN,), start_new_session=True)
    family = _until_looping(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(family, timeout=10)
    alive = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    for one in alive:
        one.kill()
    assert not alive
    (left,) = tmp_path.glob("packbench-run-*")
    with run_folder():
        assert not left.exists(), "the next run clears away the folder of the killed one"


def _until_looping(process):
    """Wait for a worker that burns time, and return every process under the run's."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        family = psutil.Process(process.pid).children(recursive=True)
        busy = [one for one in family if _busy(one) and one.cpu_times().user > 1.0]
        if busy:
            return family
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no worker came to loop")


def test_workers_that_die_while_they_wait_cost_nothing(tmp_path):
    workers = Workers(tmp_path, seconds=60, memory_bytes=1 << 30, ahead=2)
    assert workers.run("ping", {}) == {"ok": {}}
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    waiting = {child for child in server.children() if child.status() != psutil.STATUS_ZOMBIE}
    assert len(waiting) >= 2
    for child in waiting:
        child.kill()
    psutil.wait_procs(waiting, timeout=10)
    assert workers.run("ping", {}) == {"ok": {}}
    assert workers.run("ping", {"timed": True}) == {"ok": {}}
    workers.close()
    psutil.wait_procs(server.children(), timeout=10)
    assert not server.children()
    assert not list(tmp_path.iterdir())
