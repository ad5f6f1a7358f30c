"""Advice: the choice follows from the board, says how sure it is, and can be carried out as it stands."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.main import get_command

from packbench import cli
from packbench.advise import CANDIDATES, advise, choose, confirmed, sample
from packbench.commands import add_to
from packbench.errors import BadInput
from packbench.leaderboard.entries import Entry, Table
from packbench.leaderboard.stats import Interval
from packbench.registry import methods
from packbench.store import Store

TUTORIAL = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
METHODS = ("float16", "int8", "lsh(bits=32)", "pq(m=4)")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((900, 8)) @ rng.standard_normal((8, 32))).astype("f4")
    rows += 0.1 * rng.standard_normal(rows.shape, dtype="f4")
    file = tmp_path_factory.mktemp("vectors") / "mine.npy"
    np.save(file, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return file


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def advice(vectors, results):
    return advise(vectors, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=results)


def entry(spec, group, *, recall=0.9, speedup=1.0, fit_seconds=1.0, nbytes=60.0):
    """Fabricate a ranked entry."""
    return Entry(
        name=spec, label=spec, request=spec, spec=spec, method=spec, family="", fidelity="EXACT", kind="", seeds=(0,),
        group=group, deployed_bytes=nbytes, recall_of_float32=Interval(recall, recall - 0.01, recall + 0.01),
        speedup=Interval(speedup, speedup, speedup), fit_seconds=fit_seconds,
    )  # fmt: skip


def test_the_best_that_fits_is_advised(advice):
    assert advice.spec == "int8()"
    assert advice.kept.low > 0.95
    assert (advice.n, advice.available, advice.d, advice.rows) == (810, 900, 32, 1_000_000)
    assert advice.measured == 3  # float16 does not fit
    assert 32 * 1_000_000 < advice.nbytes < 32 * 1_000_000 + 1000
    assert advice.runner_up.method in ("lsh", "pq")
    assert advice.difference.low > 0
    assert advice.alike == ()
    assert (advice.choosing, advice.reporting) == (30, 30)


def test_the_text_says_what_is_known_and_what_is_not(advice):
    text = advice.to_text()
    for told in ("Use int8()", "32.0 MB for 1,000,000 items", "float32 takes 128.0 MB", "which is not chance",
                 "810 were searched", "held out", "neither is extrapolated",
                 "30 made the choice; the figures rest on 30 others"):  # fmt: skip
        assert told in text


def test_a_second_call_measures_nothing_again(advice, vectors, results):
    before = (results / "results.jsonl").read_text()
    again = advise(vectors, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=results)
    assert (results / "results.jsonl").read_text() == before
    assert again.to_text() == advice.to_text()


def test_memory_over_rows_is_the_same_budget(advice, vectors, results):
    before = (results / "results.jsonl").read_text()
    again = advise(vectors, memory_bytes=40_000_000, rows=1_000_000, methods=METHODS, results=results)
    assert again.budget == 40
    assert (results / "results.jsonl").read_text() == before


def test_the_fewest_bytes_that_keep_a_share_are_found(advice, vectors, results):
    found = advise(vectors, keep=0.8, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=results)
    assert (found.choice.method, found.budget, found.kept_for_sure) == ("int8", 32, True)
    assert "80.0%, kept" in found.to_text()
    assert "queries, and 30 were left" not in found.to_text()
    much = advise(vectors, keep=0.9, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=results)
    assert (much.choice.method, much.kept_for_sure) == ("int8", False)
    assert "To show so much takes 32 queries, and 30 were left for it" in much.to_text()
    lax = advise(vectors, keep=0.05, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=results)
    assert (lax.budget, lax.kept_for_sure) == (16, True)
    assert lax.kept.low >= 0.05
    none = advise(vectors, keep=0.999, bytes_per_item=16, rows=1_000_000, methods=METHODS, results=results)
    assert not none.kept_for_sure
    assert "NOT shown to be kept" in none.to_text()


@pytest.mark.parametrize("half", [0, 1])
def test_the_queries_that_choose_are_not_those_that_report(half, advice, vectors, results, tmp_path):
    """Take from int8 all that it found for one half: the half that chooses drops it, the other reports nothing."""
    assert advise(
        vectors, bytes_per_item=40, keep=0.8, rows=1_000_000, methods=METHODS, results=results
    ).kept_for_sure  # and measures what is asked below
    asked = np.array_split(np.random.default_rng(0).permutation(advice.choosing + advice.reporting), 2)[half]
    store = Store(tmp_path)
    for row in Store(results).by_id().values():
        if row["method"] == "int8" and row["status"] == "ok":
            row["per_query"]["recall@10"] = [
                0 if at in asked else found for at, found in enumerate(row["per_query"]["recall@10"])
            ]
        store.append(row)
    again = advise(vectors, bytes_per_item=40, rows=1_000_000, methods=METHODS, results=tmp_path)
    if half == 0:
        assert again.spec != "int8()"
    else:
        assert (again.spec, again.kept.value, again.kept.high) == ("int8()", 0, 0)
        assert again.difference.high < 0
    keeping = advise(vectors, bytes_per_item=40, keep=0.8, rows=1_000_000, methods=METHODS, results=tmp_path)
    assert not keeping.kept_for_sure


def test_a_budget_that_nothing_fits_names_the_least(vectors, results):
    with pytest.raises(BadInput, match=r"at 2 bytes per item none of the 4 methods .* the least is 32\.0, by int8"):
        advise(vectors, bytes_per_item=2, rows=1_000_000, methods=METHODS, results=results)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "no budget"),
        ({"bytes_per_item": 0}, "more than 0"),
        ({"memory_bytes": 10**9}, "memory without rows"),
        ({"memory_bytes": 10**6, "rows": 2 * 10**6}, "less than one byte each"),
        ({"memory_bytes": 10**9, "rows": 10**6, "bytes_per_item": 64}, "leave one out"),
        ({"keep": 1.0}, "between 0 and 1"),
        ({"keep": 98}, "between 0 and 1"),
        ({"bytes_per_item": 64, "rows": 0}, "rows 0"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(vectors, tmp_path, options, told):
    with pytest.raises(BadInput, match=told):
        advise(vectors, results=tmp_path / "results", **options)
    assert not (tmp_path / "results").exists()


def test_of_those_that_cannot_be_told_apart_the_cheapest_is_chosen():
    slow, fast, apart = (
        entry("slow", "a", speedup=0.5), entry("fast", "ab", speedup=1.0), entry("apart", "b", speedup=5.0)
    )  # fmt: skip
    assert choose(Table(64, (slow, fast, apart), ())) == (fast, (slow, apart), slow)
    untrained = replace(fast, spec="untrained", fit_seconds=0.0)
    assert choose(Table(64, (slow, fast, untrained), ()))[0] is untrained
    lighter = replace(untrained, spec="lighter", deployed_bytes=50.0, speedup=Interval(0.97, 0.9, 1.0))
    assert choose(Table(64, (untrained, lighter), ()))[0] is lighter
    assert choose(Table(64, (slow,), ())) == (slow, (), None)


def test_of_those_that_keep_enough_the_lightest_is_chosen():
    best, light, short = (
        entry("best", "a", recall=0.99), entry("light", "b", recall=0.95, nbytes=30), entry("short", "c", recall=0.85)
    )  # fmt: skip
    table = Table(64, (best, light, short), ())
    assert choose(table, ["light", "best"]) == (light, (), best)
    assert choose(table, ["light"]) == (light, (), best)
    assert choose(table, ["short"]) == (short, (), best)
    assert choose(table)[0] is best


def test_what_was_chosen_counts_until_the_first_that_is_not_shown():
    chosen = {"light": -0.01, "sure": 0.05, "lucky": 0.02}
    assert confirmed(chosen, {"sure": 0.1, "lucky": 0.2, "light": 0.1}) == ["sure", "lucky", "light"]
    assert confirmed(chosen, {"sure": 0.1, "lucky": -0.1, "light": 0.1}) == ["sure"]  # light is never asked
    assert confirmed(chosen, {"sure": 0.0, "lucky": 0.1, "light": 0.1}) == confirmed({}, {}) == []


def test_a_sample_is_bounded_and_disjoint():
    rows = np.arange(50_000, dtype="f4")[:, None] * np.ones((1, 4), "f4")
    drawn, available = sample(rows)
    parts = [set(part[:, 0]) for part in (drawn.items, drawn.fit, drawn.queries, drawn.validation)]
    assert available == 50_000
    assert [len(part) for part in parts] == [20_000, 20_000, 1000, 500]
    assert len(set().union(*parts)) == sum(map(len, parts))
    asked, _ = sample(rows[:30_000], rows[:1000] + 0.5, "l2")
    assert (len(asked.items), len(asked.queries), len(asked.validation), asked.fit_on) == (20_000, 667, 333, "items")
    assert asked.metric == "l2"


def test_candidates_are_methods():
    assert set(CANDIDATES) <= set(methods())


def test_the_advice_can_be_carried_out(advice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = advice.to_text().split("In Python\n")[1].splitlines()
    code = "\n".join(line.removeprefix("  ") for line in lines if line.startswith("  "))
    scope = {"queries": np.load(advice.source)[:3]}
    exec(code, scope)
    assert scope["hits"].ids[:, 0].tolist() == [0, 1, 2]


def commands():
    own = typer.Typer()
    add_to(own)
    return get_command(cli.app).commands | get_command(own).commands


@pytest.mark.parametrize("name", ["advise", "export", "capacity"])
def test_commands_have_help_with_an_example(name):
    assert f"`packbench {name}" in commands()[name].help


def test_the_tutorials_commands_exist_as_written():
    lines = re.findall(r"^\$ packbench (.+)$", TUTORIAL.read_text(), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)
        commands()[name].make_context(name, arguments)


def test_the_tutorials_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.+?)```", TUTORIAL.read_text(), re.DOTALL)
    scope = {}
    exec(blocks[0], scope)
    from packbench.serve import export

    export("sign(scorer='asymmetric')", "my_vectors.npy", "my_index")
    for block in blocks[1:]:
        exec(block, scope)
    assert (scope["hits"].ids >= 0).all()
