"""The red team: each cheat ends as a row that does not count, an honest method as one that does, however odd.

`PACKBENCH_RED_TEAM=write pytest tests/test_red_team.py` writes the page anew after an intended change.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from packbench import registry, runner, sandbox
from packbench.dataset import from_vectors
from packbench.plan import STANDARD
from packbench.store import Store
from packbench.testing import run_checks

PLUGIN = Path(__file__).parent / "plugins" / "cheats.py"
ODD_PLUGIN = PLUGIN.with_name("odd.py")
PAGE = Path(__file__).parent.parent / "docs" / "red_team.md"
HONEST = ("half", "centred", "prepared")
ODD = (
    "in_columns", "of_varying_length", "spills_to_scratch", "looks_around", "encodes_in_threads", "slow_at_first",
)  # fmt: skip
# What each cheat must end as, and a word of the reason.
CAUGHT = {
    "floats_on_the_class": ("failed", "no attribute"),
    "floats_in_a_global": ("failed", "IndexError"),
    "floats_in_the_environment": ("failed", "KeyError"),
    "floats_in_a_file": ("disqualified", "wrote"),
    "floats_in_shared_memory": ("disqualified", "wrote"),
    "floats_in_a_mapping": ("failed", "Permission denied"),
    "floats_with_a_child": ("disqualified", "started a program"),
    "floats_in_a_build_array": ("failed", "KeyError"),
    "floats_in_the_cold_tier": ("over_budget", "on disk"),
    "floats_in_the_spec": ("failed", "longest allowed"),
    "floats_in_objects": ("disqualified", "plain numbers"),
    "understated_bytes": ("over_budget", "weighs"),
    "batch_statistics": ("disqualified", "depends on the batch"),
    "memoised_answers": ("disqualified", "repeated query"),
    "duplicate_ids": ("disqualified", "duplicate ids"),
    "impossible_ids": ("disqualified", "returned id"),
    "scores_only": ("disqualified", "expected packbench.Hits"),
    "uneven_shapes": ("disqualified", "and scores"),
    "more_answers": ("disqualified", "shape"),
    "peeks_at_staged_files": ("disqualified", "read"),
    "peeks_by_name": ("disqualified", "read"),
    "endless_for_budget": ("timeout", "longer than the limit"),
    "floats_in_a_file_of_code": ("disqualified", "wrote"),
    "floats_in_a_renamed_file": ("disqualified", "moved"),
    "floats_in_an_index_file": ("failed", "could not open"),
    "peeks_with_the_guard_off": ("failed", "Permission denied"),
    "transposed_batch_statistics": ("disqualified", "depends on the batch"),
    "memoised_by_neighbourhood": ("disqualified", "repeated query"),
    "quick_when_timed": ("disqualified", "in a batch"),
}
# Caught by a check of the contract, which `packbench check` runs; a run gives such a method what its answers are worth.
BY_THE_CONTRACT = {
    "query_batch_statistics": "same_answers_alone_as_in_a_batch",
    "skipped_queries": "k_distinct_ids_best_first",
}
# Tried in vain: the row is that of the honest twin.
IN_VAIN = {
    "peeks_at_frames": "no data set is in a worker's memory",
    "greedy_for_budget": "as many configurations are tried as of any other method",
}
# What speaks in a row, and by which words; a cell ends at the first that does. The contract is asked where a run is
# silent, but for cheats in vain: in this process there is a data set to be found. Of every registered method it is
# asked in tests/test_contract.py.
DETECTORS = {
    "fresh process": ("only what was returned is there to search", r"^failed: .*(no attribute|IndexError|KeyError)"),
    "scales": ("arrays are weighed", r"^over_budget|plain numbers"),
    "guard": ("Python's own calls are watched", r"^disqualified: the method (wrote|read|moved|mapped|started|forked)"),
    "kernel": ("Landlock holds where Python does not see", r"^failed: .*(Permission denied|could not open)"),
    "limits": ("time, memory and the length of a spec", r"^timeout|longest allowed"),
    "batch": ("a few items are encoded again alone", r"depends on the batch"),
    "memory": ("queries are repeated, exactly and nearly", r"repeated query"),
    "alone": ("what was timed is judged too", r"in a batch$"),
    "judge": (
        "ids are checked, and scored by the harness",
        r"^disqualified: .*(duplicate|returned id|shape|Hits|scores)",
    ),
    "contract": ("`packbench check`, one fault at a time", None),
}
# Held by the kernel alone: where it has no Landlock these get through, and the test says so.
BY_THE_KERNEL = ("floats_in_an_index_file", "peeks_with_the_guard_off")
WITHOUT_LANDLOCK = {"floats_in_a_mapping": ("disqualified", "mapped memory")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    registry.load_plugin(PLUGIN)
    items = np.random.default_rng(5).standard_normal((2000, 32)).astype("f4")
    dataset = from_vectors(items, name="planted", metric="ip")
    runner.run(
        dataset, [*HONEST, *CAUGHT, *BY_THE_CONTRACT, *IN_VAIN], folder, budgets=(80.0,),
        plugins=(str(PLUGIN),), seconds=15.0, timing_seconds=0.1, references=False,
    )  # fmt: skip
    # The standard methods need room for float32; the last of the budgets of a name is what its row is.
    registry.load_plugin(ODD_PLUGIN)
    runner.run(
        from_vectors(items[:600], name="planted", metric="ip"), [*STANDARD, *ODD], folder, budgets=(160.0,), tries=1,
        plugins=(str(ODD_PLUGIN),), seconds=60.0, timing_seconds=0.02, references=False,
    )  # fmt: skip
    return {row["request"]: row for row in Store(folder).rows()}


@pytest.fixture(scope="module")
def speaking(rows):
    """Return what speaks against each method, by name."""
    found = {}
    for name, row in rows.items():
        told = f"{row['status']}: {row['reason']}"
        words = {detector: pattern for detector, (_, pattern) in DETECTORS.items() if pattern}
        found[name] = [detector for detector, pattern in words.items() if re.search(pattern, told)]
        asked = name in (*BY_THE_CONTRACT, *HONEST, *ODD)
        if asked and not all(finding.passed for finding in run_checks(registry.get(name))):
            found[name].append("contract")
    return found


@pytest.mark.parametrize("name", [*HONEST, *STANDARD, *ODD])
def test_honest_methods_pass(name, rows, speaking):
    assert rows[name]["status"] == "ok", rows[name]["reason"]
    assert speaking[name] == []


@pytest.mark.parametrize("name", CAUGHT)
def test_cheats_are_caught(name, rows):
    if name in BY_THE_KERNEL and not sandbox.version():
        pytest.skip("this kernel has no Landlock, or has it switched off")
    known = {} if sandbox.version() else WITHOUT_LANDLOCK
    status, word = (CAUGHT | known)[name]
    assert rows[name]["status"] == status, rows[name]
    assert word in rows[name]["reason"]
    assert "recall" not in rows[name]


@pytest.mark.parametrize("name", BY_THE_CONTRACT)
def test_the_contract_catches(name, rows):
    failed = {finding.check for finding in run_checks(registry.get(name)) if not finding.passed}
    assert BY_THE_CONTRACT[name] in failed
    assert rows[name]["recall"]["recall@10"] < rows["half"]["recall"]["recall@10"] - 0.02


@pytest.mark.parametrize("name", IN_VAIN)
def test_cheats_gain_nothing(name, rows):
    assert rows[name]["recall"] == rows["half"]["recall"]
    assert len(rows[name].get("tried", [])) <= 3


@pytest.mark.parametrize("name", [*CAUGHT, *BY_THE_CONTRACT])
def test_one_detector_speaks_against_a_cheat(name, speaking):
    if not sandbox.version():
        pytest.skip("this kernel has no Landlock, or has it switched off")
    assert len(speaking[name]) == 1


def test_the_page_says_what_this_test_holds(speaking):
    if not sandbox.version():
        pytest.skip("this kernel has no Landlock, or has it switched off")
    page = _page(speaking)
    if os.environ.get("PACKBENCH_RED_TEAM") == "write":
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def _matrix(speaking):
    """Write what spoke against whom, cheats first, and the totals."""
    cheats, honest = [*CAUGHT, *BY_THE_CONTRACT, *IN_VAIN], [*HONEST, *STANDARD, *ODD]
    caught, accused = (sum(bool(speaking[name]) for name in names) for names in (cheats, honest))
    silent = [name for name in cheats if not speaking[name]]
    yield from ["## Detection matrix", ""]
    yield f"Cheats caught: **{caught} of {len(cheats)}**; {len(silent)} gain nothing ({', '.join(silent)})."
    yield f"Honest methods accused: **{accused} of {len(honest)}**: the twins, the standard eighteen, and those of"
    yield "`tests/plugins/odd.py`, which do honestly what cheats also do."
    yield ""
    yield from [f"- **{name}**: {what}" for name, (what, _) in DETECTORS.items()]
    yield from ["", f"| | {' | '.join(DETECTORS)} |", f"|---|{'---|' * len(DETECTORS)}"]
    for names, kind in ((cheats, "cheat"), (honest, "honest")):
        for name in names:
            marks = " | ".join("●" if detector in speaking[name] else "" for detector in DETECTORS)
            yield f"| {kind}: {name} | {marks} |"
    yield ""
    yield "A run ends at what speaks first. The contract is asked where a run is silent, the standard methods in"
    yield "`tests/test_contract.py`."


def _page(speaking):
    classes = {cls.name: cls for cls in registry.load_plugin(PLUGIN)}
    lines = [
        "# Red team",
        "",
        "Small cheating plug-ins live in `tests/plugins/cheats.py`. Each is run like any method;",
        "`tests/test_red_team.py` holds how each ends, and this page to the test. Honest twins ("
        + ", ".join(HONEST)
        + ") end as `ok` rows.",
        "",
        f"Two ({' and '.join(BY_THE_KERNEL)}) are held by the kernel's own rules, Landlock in Linux 5.13 and later;",
        "a row's `machine_facts` say which version of it the machine has, 0 being none.",
        "",
        "| cheat | what it does | the row's status | the reason says |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {classes[name].summary()} | {status} | {word} |" for name, (status, word) in CAUGHT.items()]
    lines += ["", "| cheat | what it does | the check of the contract that finds it |", "|---|---|---|"]
    lines += [f"| {name} | {classes[name].summary()} | {check} |" for name, check in BY_THE_CONTRACT.items()]
    lines += ["", "| cheat | what it does | why it gains nothing |", "|---|---|---|"]
    lines += [f"| {name} | {classes[name].summary()} | {why} |" for name, why in IN_VAIN.items()]
    return "\n".join([*lines, "", *_matrix(speaking), ""])
