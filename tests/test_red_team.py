"""The red team: each cheat ends as a row that does not count, its honest twin as one that does.

`PACKBENCH_RED_TEAM=write pytest tests/test_red_team.py` writes the page anew after an intended change.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from packbench import registry, runner
from packbench.dataset import from_vectors
from packbench.store import Store

PLUGIN = Path(__file__).parent / "plugins" / "cheats.py"
PAGE = Path(__file__).parent.parent / "docs" / "red_team.md"
HONEST = ("half", "centred", "prepared")
# What each cheat must end as, and a word of the reason.
CAUGHT = {
    "floats_on_the_class": ("failed", "no attribute"),
    "floats_in_a_global": ("failed", "IndexError"),
    "floats_in_the_environment": ("failed", "KeyError"),
    "floats_in_a_file": ("disqualified", "wrote"),
    "floats_in_shared_memory": ("disqualified", "wrote"),
    "floats_in_a_mapping": ("disqualified", "mapped memory"),
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
}
# Known to get through today, each with what would stop it. No test may pass on them quietly.
OPEN = {
    "floats_in_a_file_of_code": "writes floats under a name that compiled code has; writes outside the scratch folder "
    "should be refused whatever the name",
    "floats_in_a_renamed_file": "moves a file out of the scratch folder; os.rename and os.link should be watched",
    "floats_in_an_index_file": "lets a C++ library open the file, which no hook in Python sees; a kernel sandbox "
    "(Landlock) would",
    "peeks_with_the_guard_off": "finds the guard in memory and switches it off; a kernel sandbox would not care",
    "transposed_batch_statistics": "lays its codes out across the items, so that their rows are not compared",
    "memoised_by_neighbourhood": "remembers answers for any query near a known one; timed ones should lie further off",
    "quick_when_timed": "answers a single query, which is timed, worse than a batch, which is judged; timed answers "
    "should be judged too",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    registry.load_plugin(PLUGIN)
    items = np.random.default_rng(5).standard_normal((400, 16)).astype("f4")
    dataset = from_vectors(items, name="planted", metric="ip")
    runner.run(
        dataset, [*HONEST, *CAUGHT], folder, budgets=(40.0,), plugins=(str(PLUGIN),), seconds=15.0,
        timing_seconds=0.1, references=False,
    )  # fmt: skip
    return {row["request"]: row for row in Store(folder).rows()}


@pytest.mark.parametrize("name", HONEST)
def test_honest_methods_pass(name, rows):
    assert rows[name]["status"] == "ok", rows[name]["reason"]


@pytest.mark.parametrize("name", CAUGHT)
def test_cheats_are_caught(name, rows):
    status, word = CAUGHT[name]
    assert rows[name]["status"] == status, rows[name]
    assert word in rows[name]["reason"]
    assert "recall" not in rows[name]


def test_the_page_says_what_this_test_holds():
    page = _page()
    if os.environ.get("PACKBENCH_RED_TEAM") == "write":
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def _page():
    classes = {cls.name: cls for cls in registry.load_plugin(PLUGIN)}
    lines = [
        "# Red team",
        "",
        "Small cheating plug-ins live in `tests/plugins/cheats.py`. Each is run like any method;",
        "`tests/test_red_team.py` holds how each ends, and this page to the test. Honest twins ("
        + ", ".join(HONEST)
        + ") end as `ok` rows.",
        "",
        "## Caught",
        "| cheat | what it does | the row's status | the reason says |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {classes[name].summary()} | {status} | {word} |" for name, (status, word) in CAUGHT.items()]
    lines += ["", "## Not caught yet", "| cheat | what it does | how, and what would stop it |", "|---|---|---|"]
    lines += [f"| {name} | {classes[name].summary()} | {why} |" for name, why in OPEN.items()]
    return "\n".join([*lines, ""])
