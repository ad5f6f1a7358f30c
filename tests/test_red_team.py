"""Plug-ins that cheat are caught: by the contract, or as a row without figures; docs/red_team.md says how.

``PACKBENCH_REGENERATE=1 pytest tests/test_red_team.py`` writes the page anew.
"""

import contextlib
import os
import sys
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

from packbench import registry, runner, sandbox
from packbench.dataset import from_vectors
from packbench.store import Store
from packbench.testing import MethodChecks, run_checks

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = str(ROOT / "tests" / "plugins" / "cheats.py")
PAGE = ROOT / "docs" / "red_team.md"
# The honest method that a cheat pretends to be, where it is not half().
HONEST = ("half", "centred", "prepared", "on_disk")
TWIN = {
    "batch_statistics": "centred",
    "transposed_batch_statistics": "centred",
    "query_batch_statistics": "centred",
    "floats_in_a_build_array": "prepared",
    "floats_in_the_cold_tier": "on_disk",
}
# What gives figures all the same, and why these are honest ones.
HARMLESS = {
    "skipped_queries": "an answer left out is a wrong answer",
    "peeks_at_frames": "no worker holds what it looks for, so it is its honest twin",
    "greedy_for_budget": "three configurations are tried, as for every method",
}
# Only the kernel sees these; where it has no Landlock (before Linux 5.13, or on another system) they go unseen.
BELOW_PYTHON = ("floats_in_an_index_file", "floats_in_the_stage", "peeks_with_the_guard_off")
FIGURELESS = {"disqualified", "failed", "over_budget", "timeout"}
BY_NAME = ("floats_in_the_spec", "endless_for_budget", "greedy_for_budget")  # their trick is in for_budget
OPTIONS = {"timing_seconds": 0.02, "references": False, "plugins": (PLUGIN,), "seconds": 8}


class Quick(MethodChecks):
    n, n_queries, dims, budget_dims, seconds = 200, 16, (16,), (16,), 4
    test_small_samples_never_crash = None


@pytest.fixture(scope="module")
def kernel():
    """Tell, from a process that can spare it, whether the kernel confines workers."""
    pid = os.fork()
    if pid == 0:
        os._exit(bool(sandbox.confine([])))
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.fixture(scope="module")
def cheats():
    """Load the cheats for this file alone, and clear away what they leave: the contract runs them unguarded too."""
    before = registry.methods()
    found = {cls.name: cls for cls in registry.load_plugin(PLUGIN)}
    yield {name: cls for name, cls in found.items() if name not in HONEST}
    module = sys.modules.pop(found["half"].__module__)
    registry._methods.clear()
    registry._methods.update(before)
    os.environ.pop("KEPT", None)
    with contextlib.suppress(OSError):
        shared_memory.SharedMemory(f"{module.SIDE.name}-mapping").unlink()
    for folder in (module.SIDE.parent, Path("/dev/shm")):
        for file in folder.glob(f"{module.SIDE.name}*"):
            file.unlink()


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(5)
    items = rng.standard_normal((2000, 6)) @ rng.standard_normal((6, 16)) + 0.3 * rng.standard_normal((2000, 16)) + 0.5
    return from_vectors(items.astype("f4"), name="planted", metric="ip", held_out=60)


@pytest.fixture(scope="module")
def rows(cheats, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("red-team")
    requests = [name if name in BY_NAME else f"{name}()" for name in (*HONEST[:3], *cheats)]
    runner.run(dataset, requests, folder, budgets=(40.0,), **OPTIONS)
    return {row["method"]: row for row in Store(folder).rows()}


@pytest.fixture(scope="module")
def broken(cheats, dataset):
    """Return for each cheat the checks of the contract that it fails, in a process that holds the data set."""
    return {
        name: [finding.check for finding in run_checks(cls, Quick) if not finding.passed]
        for name, cls in cheats.items()
    }


def test_every_cheat_is_caught(cheats, rows, broken, kernel):
    assert len(rows) == len(cheats) + 3
    for name in cheats:
        if name in HARMLESS or (name in BELOW_PYTHON and not kernel):
            continue
        assert rows[name]["status"] in FIGURELESS, f"{name} gives figures: {rows[name]['recall']}"
        assert rows[name]["reason"]


def test_what_gives_figures_gains_nothing(rows):
    half = rows["half"]
    assert half["recall"]["recall@10"] > 0.99
    assert rows["skipped_queries"]["recall"]["recall@10"] < 0.8
    same = rows["peeks_at_frames"]
    assert (same["bytes"]["payload"], same["bytes"]["shared"]) == (half["bytes"]["payload"], 0)
    assert same["per_query"] == half["per_query"]
    assert len(rows["greedy_for_budget"]["tried"]) == 3


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_twins_pass(name, cheats, rows, dataset, tmp_path):
    failed = [finding for finding in run_checks(registry.get(name), Quick) if not finding.passed]
    assert not failed
    if name == "on_disk":
        runner.run(dataset, ["on_disk()"], tmp_path, budgets=(40.0,), disk_budget=64.0, **OPTIONS)
        (row,) = Store(tmp_path).rows()
    else:
        row = rows[name]
    assert row["status"] == "ok", row["reason"]
    assert row["recall"]["recall@10"] > 0.99


def test_the_page_says_what_happens(cheats, rows, broken, kernel):
    page = render(cheats, rows, broken)
    if os.environ.get("PACKBENCH_REGENERATE"):
        PAGE.write_text(page)
    if kernel:
        assert PAGE.read_text() == page, "PACKBENCH_REGENERATE=1 pytest tests/test_red_team.py writes the page anew"


def render(cheats, rows, broken):
    lines = [HEAD]
    for name, cls in cheats.items():
        end = f"ok: {HARMLESS[name]}" if name in HARMLESS else rows[name]["status"]
        end += " \\*" if name in BELOW_PYTHON else ""
        checks = ", ".join(check.replace("_", " ") for check in broken[name][:2]) or "–"
        checks += ", …" if len(broken[name]) > 2 else ""
        lines.append(f"| `{name}` | {cls.summary()} | `{TWIN.get(name, 'half')}` | {end} | {checks} |")
    return "\n".join(lines) + "\n" + FOOT


HEAD = """# What was tried against the harness

Each line is a plug-in of [tests/plugins/cheats.py](../tests/plugins/cheats.py) that gains figures it has not earned,
beside the honest method that it pretends to be. The table is what `tests/test_red_team.py` finds; the test fails when
the page is stale, and `PACKBENCH_REGENERATE=1 pytest tests/test_red_team.py` writes it anew. Every honest twin passes
the contract and gives its figures.

| cheat | what it does | honest twin | how its row ends in a run | checks of the contract that fail |
|---|---|---|---|---|"""
FOOT = """
\\* seen by the kernel alone. On Linux 5.13 and newer a worker confines itself with Landlock before it loads a plug-in:
it can read the system, the libraries and the folder of the plug-in, and write its own scratch folder. Elsewhere only
the hook on Python's own events stands guard, and what a library opens below Python passes it. Built-in methods, whose
code is in this repository, run without.

## How each thing is found out

- **Memory** is what `fit` and `encode` returned, as written to disk. Search runs in a process that is given these
  arrays and nothing else, so what was kept on a class, in a module or in the environment is not there.
- **Files, sockets, programs**: a hook refuses what a method asks of Python; an attempt disqualifies even where the
  method catches the refusal. The kernel refuses what goes past Python.
- **Codes** of 32 items are made again alone and compared, along whichever axis follows the items.
- **Answers** are judged from ids. Ids that repeat, do not exist or have the wrong shape disqualify; -1 is a miss.
- **Timed answers** are judged too: the recall of the queries that were timed one by one must be that of the batches.
- **Memory of answers**: queries that nobody asked before must not take five times as long as those that were.
- **Test queries** lie where a build may not read, and nothing in its memory holds them.

## What is not defended

- A plug-in is imported by the run itself, to read its specs. Code that runs there, at import or in a constructor, can
  change packbench in memory. Read a plug-in before you run it.
- A method may start threads. Its CPU time is not held against `--threads`.
- Arrays are weighed as they are; a code that hides one item's bits in another's slack is as small as it looks.
- On systems without Landlock: files opened by native code.
"""
