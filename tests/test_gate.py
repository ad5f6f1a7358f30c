import copy
import gzip
import json
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from packbench.errors import BadInput, Infrastructure
from packbench.leaderboard.gate.compare import Verdict, compare
from packbench.leaderboard.gate.gates import BYTES, DEFAULTS, NOISY, QUALITY, Gate, gates_of, parse_gate
from packbench.leaderboard.gate.sources import read
from packbench.store import SCHEMA

made = runpy.run_path(str(Path(__file__).parent / "golden" / "gate.py"))
row, failed, suite, lost = made["row"], made["failed"], made["suite"], made["lost"]
FLOOR = {"query_ms.p50": 0.1, "seconds.fit": 0.3}


def changed(rows, request="pq", budget=None, **fields):
    """Return copies of rows in which one request (at one budget, or all) has other fields; dicts are merged."""
    rows = copy.deepcopy(rows)
    hit = [one for one in rows if one["request"] == request and budget in (None, one["budget"])]
    assert hit
    for one in hit:
        for name, value in fields.items():
            one[name] = one[name] | value if isinstance(value, dict) else value
    return rows


def found(comparison, request="pq", metric=None, budget=16.0):
    """Return the findings of one cell, or its only one of a metric."""
    cell = [one for one in comparison.findings if one.request == request and one.budget == budget]
    if metric is None:
        return cell
    (only,) = (one for one in cell if one.metric == metric)
    return only


def test_the_same_results_pass_and_nothing_is_called_a_gain():
    for floor in (None, FLOOR):
        comparison = compare(suite(), suite(), floor=floor)
        assert comparison.verdict is Verdict.PASS and comparison.verdict.exit_status == 0
        assert {one.verdict for one in comparison.findings} == {Verdict.PASS}
        assert not any(one.better for one in comparison.findings)
    assert {one.metric for one in comparison.findings} == {"status", "codes", *(gate.metric for gate in DEFAULTS)}


@pytest.mark.parametrize(("metric", "amount"), [("recall@10", 0.05), ("recall@100", 0.03), ("nDCG@10", 0.05)])
def test_quality_that_falls_is_a_regression_of_its_cell_alone(metric, amount):
    comparison = compare(suite(), lost(suite(), metric, amount, "pq"))
    assert comparison.verdict is Verdict.REGRESSION and comparison.verdict.exit_status == 1
    assert {(one.request, one.metric) for one in comparison.of(Verdict.REGRESSION)} == {("pq", metric)}
    one = found(comparison, metric=metric)
    assert one.change.low < one.change.value < one.change.high < 0
    assert one.new - one.base == pytest.approx(one.change.value) and one.change.value == pytest.approx(-amount, rel=0.4)


@pytest.mark.parametrize("metric", ["recall@10", "recall@100", "nDCG@10"])
def test_quality_that_rises_is_a_gain_and_passes(metric):
    comparison = compare(lost(suite(), metric, 0.05, "pq"), suite())
    assert comparison.verdict is Verdict.PASS
    assert {(one.request, one.metric) for one in comparison.findings if one.better} == {("pq", metric)}


@pytest.mark.parametrize("metric", ["bytes.payload", "bytes.shared", "bytes.cold"])
def test_one_byte_more_is_a_regression_and_one_less_a_gain(metric):
    name = metric.split(".")[1]
    more = changed(suite(), "pq", 16.0, bytes={name: suite()[1]["bytes"][name] + 1})
    worse, better = compare(suite(), more), compare(more, suite())
    assert [(one.request, one.budget, one.metric) for one in worse.of(Verdict.REGRESSION)] == [("pq", 16.0, metric)]
    assert better.verdict is Verdict.PASS and found(better, metric=metric).better
    assert found(better, metric=metric).change.value == -1


def test_a_share_of_bytes_may_be_allowed():
    more = changed(suite(), bytes={"payload": 17.0})
    assert compare(suite(), more, gates=gates_of(["bytes.payload:+6%"])).verdict is Verdict.REGRESSION
    assert compare(suite(), more, gates=gates_of(["bytes.payload:+7%"])).verdict is Verdict.PASS
    assert compare(suite(), more, gates=gates_of(["bytes.payload:+1"])).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ("ok", "failed", Verdict.REGRESSION), ("ok", "no_fit", Verdict.REGRESSION),
        ("ok", "over_budget", Verdict.REGRESSION), ("ok", "disqualified", Verdict.REGRESSION),
        ("ok", "timeout", Verdict.INCONCLUSIVE), ("ok", "out_of_memory", Verdict.INCONCLUSIVE),
        ("ok", "needs", Verdict.INFRASTRUCTURE), ("failed", "ok", Verdict.PASS), ("timeout", "failed", Verdict.PASS),
        ("no_fit", "no_fit", Verdict.PASS), ("needs", "needs", Verdict.PASS), ("needs", "ok", Verdict.PASS),
    ],
)  # fmt: skip
def test_how_a_cell_ends(before, now, verdict):
    def ended(status):
        return row() if status == "ok" else failed(status, "the reason")

    comparison = compare([ended(before), row("rabitq")], [ended(now), row("rabitq")])
    assert comparison.verdict is found(comparison, metric="status").verdict is verdict
    assert found(comparison, metric="status").better == (now == "ok")
    assert now == "ok" or before == now or "the reason" in found(comparison, metric="status").told
    assert {one.metric for one in found(comparison)} == {"status"}


def test_other_codes_need_a_cause():
    other = changed(suite(), codes="others")
    by_chance = compare(suite(), other)
    assert {one.metric for one in by_chance.of(Verdict.REGRESSION)} == {"codes"}
    causes = {
        "versions": ({"faiss-cpu": "1.16.0"}, "faiss-cpu 1.15.1 → 1.16.0"), "version": ("beef", "the method's code"),
        "spec": ("pq(m=15)", "chose pq(m=15) instead of pq"), "commit": ("f00d" * 10, "commit c0ffeec0ffee → f00d"),
        "machine_facts": ({"simd": "faiss AVX512"}, "instructions"),
    }  # fmt: skip
    for field, (value, told) in causes.items():
        comparison = compare(suite(), changed(other, **{field: value}))
        assert comparison.verdict is Verdict.PASS, field
        assert told in found(comparison, metric="codes").told
    assert compare(suite(), other, any_machine=True).verdict is Verdict.PASS


def test_codes_at_a_commit_whose_files_changed_since_are_told_and_not_accused():
    other = [row | {"codes": "other", "commit": row["commit"] + "-dirty"} for row in suite()]
    told = {one.told for one in compare(other, [row | {"codes": "third"} for row in other]).findings}
    assert any("c0ffeec0ffee-dirty → c0ffeec0ffee-dirty" in sentence for sentence in told)
    assert compare(other, [row | {"codes": "third"} for row in other]).verdict is Verdict.PASS


def test_codes_of_older_results_are_not_judged():
    older = [{name: value for name, value in one.items() if name != "codes"} for one in suite()]
    comparison = compare(older, suite())
    assert comparison.verdict is Verdict.PASS and "codes" not in {one.metric for one in comparison.findings}


@pytest.mark.parametrize(
    ("speedup", "verdict", "better"),
    [
        (2.0 / 1.40, Verdict.REGRESSION, False), (2.0 / 1.25, Verdict.INCONCLUSIVE, False),
        (2.0 / 1.15, Verdict.PASS, False), (2.0 * 1.05, Verdict.PASS, False), (2.0 * 1.20, Verdict.PASS, True),
    ],
)  # fmt: skip
def test_latency_is_judged_beyond_the_floor(speedup, verdict, better):
    slower = changed(suite(), "pq", 16.0, speedup={"median": speedup})
    comparison = compare(suite(), slower, floor=FLOOR)
    one = found(comparison, metric="query_ms.p50")
    assert comparison.verdict is one.verdict is verdict and one.better is better
    assert one.change.value == pytest.approx(2.0 / speedup - 1) and one.change.low < one.change.value < one.change.high


def test_latency_without_a_floor_is_told_and_not_judged():
    slower = changed(suite(), "pq", 16.0, speedup={"median": 0.1})
    comparison = compare(suite(), slower)
    assert comparison.verdict is Verdict.PASS and not found(comparison, metric="query_ms.p50").better
    assert any("query_ms.p50 is not judged" in note for note in comparison.notes)
    assert not any("not judged" in note for note in compare(suite(), slower, floor=FLOOR).notes)


def test_other_noisy_figures_are_judged_where_that_is_asked_for():
    gates = gates_of(["seconds.fit:+50%"])
    slower = changed(suite(), "pq", 16.0, seconds={"fit": 6.0})
    assert compare(suite(), slower, floor=FLOOR).verdict is Verdict.PASS
    comparison = compare(suite(), slower, gates=gates, floor=FLOOR)
    assert [one.metric for one in comparison.of(Verdict.REGRESSION)] == ["seconds.fit"]


@pytest.mark.parametrize("metric", QUALITY)
def test_every_quality_metric_knows_its_direction(metric):
    base = [row()]
    values = np.array(base[0]["per_query"].get(metric, base[0]["per_query"]["nDCG@10"]))
    scale = int(metric.split("@")[1]) if metric.startswith("recall") else 1
    for one, shift in ((base[0], 0.0), (less := row(), 0.2)):
        one["per_query"][metric] = np.where(values > 0.3 * scale, values - shift * scale, values).tolist()
    gates = [Gate(metric, 0.01)]
    assert compare(base, [less], gates=gates).verdict is Verdict.REGRESSION
    back = compare([less], base, gates=gates)
    assert back.verdict is Verdict.PASS and found(back, metric=metric).better


@pytest.mark.parametrize("metric", [*BYTES, *NOISY])
def test_every_other_metric_knows_its_direction(metric):
    part, name = metric.split(".")
    base, more = row(), row()
    base[part] = base[part] | {name: 10.0}
    more[part] = more[part] | {name: 20.0}
    if metric == "query_ms.p50":
        more["speedup"] = {"median": 1.0}
    gates = [Gate(metric, 0.2, relative=True)]
    floor = {metric: 0.1}
    assert compare([base], [more], gates=gates, floor=floor).verdict is Verdict.REGRESSION
    back = compare([more], [base], gates=gates, floor=floor)
    assert back.verdict is Verdict.PASS and found(back, metric=metric).better


def test_seeds_are_averaged():
    seeds = range(4)
    base = [row(seed=seed) for seed in seeds]
    one_worse = [*lost(base[:1], "recall@10", 0.08), *base[1:]]
    all_worse = lost(base, "recall@10", 0.02)
    assert found(compare(base, one_worse), metric="recall@10").change.value == pytest.approx(-0.02, rel=0.4)
    assert compare(base, all_worse).verdict is Verdict.REGRESSION
    one = found(compare(base, base), metric="bytes.payload")
    assert one.command.count("--seed") == 4
    heavier = [base[0] | {"bytes": base[0]["bytes"] | {"payload": 20.0}}, *base[1:]]
    assert found(compare(base, heavier), metric="bytes.payload").change.value == 1


def test_a_missing_seed_is_infrastructure_and_hides_no_regression():
    base = [row(seed=0), row(seed=1), row("rabitq")]
    comparison = compare(base, [base[0], base[2]])
    assert comparison.verdict is Verdict.INFRASTRUCTURE and "no result with seed 1" in comparison.findings[0].told
    assert compare(base, [base[0], *lost(base[2:], "recall@10", 0.1)]).verdict is Verdict.REGRESSION


def test_among_many_cells_a_loss_has_to_be_surer():
    base, new = row(), row()
    shift = np.repeat([-1, 1, 0], [40, 15, 345])
    new["per_query"]["recall@10"] = (np.array(base["per_query"]["recall@10"]) + shift).tolist()
    alone = compare([base], [new])
    assert alone.verdict is Verdict.REGRESSION
    others = [row(f"pq(m={m})") for m in range(200)]
    assert found(compare([base, *others], [new, *others]), metric="recall@10").verdict is Verdict.INCONCLUSIVE


def test_a_seed_that_failed_before_hides_no_other():
    base = [row(seed=0), failed("failed", "no", seed=1)]
    worse = lost(base, "recall@10", 0.1)
    assert compare(base, base).verdict is Verdict.PASS
    assert compare(base, worse).verdict is Verdict.REGRESSION
    assert compare(base, [worse[0], failed("timeout", "long", seed=1)]).verdict is Verdict.REGRESSION
    assert found(compare(base, [row(seed=0), row(seed=1)]), metric="status").better
    slow = [worse[0], failed("timeout", "long", seed=1)]
    assert compare([row(seed=0), row(seed=1)], slow).verdict is Verdict.REGRESSION


OBSTACLES = {
    "a cell is missing": lambda rows: [one for one in rows if (one["request"], one["budget"]) != ("rabitq", 32.0)],
    "a machine is another": lambda rows: changed(rows, "rabitq", machine_facts={"cpu": "Xeon", "id": "x"}),
    "data are another version": lambda rows: changed(rows, "rabitq", dataset_sha256="f00d" * 16),
    "a schema is newer": lambda rows: changed(rows, "rabitq", schema=SCHEMA + 1),
    "threads are others": lambda rows: changed(rows, "rabitq", threads={"search": 16}),
    "tries are others": lambda rows: changed(rows, "rabitq", tries=2),
    "the deployment is larger": lambda rows: changed(rows, "rabitq", deployment_n=10),
    "the disk allowance is larger": lambda rows: changed(rows, "rabitq", disk_budget=8.0),
    "depths are others": lambda rows: changed(rows, "rabitq", cutoffs=[1, 10]),
    "a package is missing": lambda rows: changed(rows, "rabitq", status="needs", reason="needs torch"),
    "queries are fewer": lambda rows: changed(rows, "rabitq", per_query={"recall@10": [1, 2, 3]}),
    "outcomes are missing": lambda rows: changed(rows, "rabitq", per_query={"recall@10": [None] * 400}),
}
TOLD = {
    "a cell is missing": "no result", "a machine is another": "another machine: AMD EPYC, 2 cores",
    "data are another version": "not the same version of the data", "a schema is newer": f"schema {SCHEMA + 1}",
    "threads are others": "not the same threads: build 1, search 1 before, build 1, search 16 now",
    "tries are others": "tries per method: 3 before, 2 now", "the deployment is larger": "deployment size",
    "the disk allowance is larger": "disk allowance: 0.0 before, 8.0 now", "depths are others": "depths of search",
    "a package is missing": "needs torch", "queries are fewer": "same queries", "outcomes are missing": "same queries",
}  # fmt: skip


@pytest.mark.parametrize("what", OBSTACLES)
def test_what_cannot_be_compared_is_never_green_and_hides_no_regression(what):
    assert set(TOLD) == set(OBSTACLES)
    comparison = compare(suite(), OBSTACLES[what](suite()))
    assert comparison.verdict is Verdict.INFRASTRUCTURE and comparison.verdict.exit_status == 4
    told = comparison.of(Verdict.INFRASTRUCTURE)
    assert {one.request for one in told} == {"rabitq"} and all(TOLD[what] in one.told for one in told)
    assert not comparison.of(Verdict.REGRESSION) and not comparison.of(Verdict.INCONCLUSIVE)
    worse = compare(suite(), lost(OBSTACLES[what](suite()), "recall@10", 0.05, "pq"))
    assert worse.verdict is Verdict.REGRESSION and worse.of(Verdict.INFRASTRUCTURE)
    assert {one.request for one in worse.of(Verdict.REGRESSION)} == {"pq"}


def test_an_older_schema_of_the_base_is_told_as_its():
    assert "the base has schema 0" in compare(changed(suite(), schema=0), suite()).findings[0].told


def test_one_directory_may_hold_a_cell_under_two_settings():
    both = [row(), row(disk_budget=64.0, time="2030-01-01T00:00:01+00:00")]
    worse = [*lost(both[:1], "recall@10", 0.05), both[1]]
    assert compare(both, both).verdict is Verdict.PASS
    assert compare(both, worse).verdict is Verdict.REGRESSION
    assert compare(both, both[:1]).verdict is Verdict.INFRASTRUCTURE


def test_the_latest_row_of_a_cell_counts():
    old = lost([row(time="2029-01-01T00:00:00+00:00")], "recall@10", 0.3)
    assert compare([row()], [row(), *old]).verdict is Verdict.PASS
    assert compare([row()], [row(), old[0] | {"time": "2031-01-01T00:00:00+00:00"}]).verdict is Verdict.REGRESSION


def test_any_machine_leaves_out_speed_and_keeps_quality_and_bytes():
    elsewhere = [one | {"machine_facts": {"cpu": "Xeon", "id": "x"}} for one in suite()]
    elsewhere = changed(elsewhere, speedup={"median": 0.1}, codes="others")
    comparison = compare(suite(), elsewhere, floor=FLOOR, any_machine=True)
    assert comparison.verdict is Verdict.PASS
    assert "query_ms.p50" not in {one.metric for one in comparison.findings}
    assert any(note.startswith("machine AMD EPYC") for note in comparison.notes)
    assert compare(suite(), lost(elsewhere, "recall@10", 0.05), any_machine=True).verdict is Verdict.REGRESSION
    assert compare(suite(), changed(elsewhere, bytes={"payload": 17}), any_machine=True).verdict is Verdict.REGRESSION


def test_cells_that_are_new_are_noted():
    comparison = compare(suite(), [*suite(), row("lsh"), row("lsh", 32.0)])
    assert (
        comparison.verdict is Verdict.PASS and "cells that the base has nothing to hold against: 2" in comparison.notes
    )
    assert "lsh" not in {one.request for one in comparison.findings}


def test_a_gate_whose_metric_nothing_has_is_noted():
    comparison = compare(suite(), suite(), gates=gates_of(["MRR@10:-0.01"]))
    assert "MRR@10 is in no result that could be compared" in comparison.notes


def test_a_base_without_methods_is_infrastructure():
    curve = row("gaussian reference") | {"status": "reference"}
    assert compare([curve], suite()).verdict is Verdict.INFRASTRUCTURE


def test_ties_are_judged_by_their_expectation():
    """Two orders of the same tied scores: each answered otherwise, both expect the same."""
    base, new = row(), row()
    right = np.array(base["per_query"]["recall@10"])
    new["per_query"]["recall@10"] = np.maximum(right - 2, 0).tolist()
    assert compare([base], [new]).verdict is Verdict.REGRESSION
    for one in (base, new):
        one["per_query"]["expected recall@10"] = (right - 0.5).tolist()
    assert compare([base], [new]).verdict is Verdict.PASS
    new["per_query"]["expected recall@10"] = (right - 1.5 - 0.1 * (right % 2)).tolist()
    assert compare([base], [new]).verdict is Verdict.REGRESSION


def test_p_values_are_those_of_the_t_test():
    base, new = row(), lost([row()], "recall@10", 0.01)[0]
    before, after = (np.array(one["per_query"]["recall@10"]) / 10 for one in (base, new))
    one = found(compare([base], [new], gates=[Gate("recall@10", 0.005)]), metric="recall@10")
    expected = stats.ttest_1samp(after - before, -0.2 * 0.005, alternative="less")
    assert one.verdict is Verdict.REGRESSION and f"p = {expected.pvalue:.2g}" in one.told
    interval = stats.ttest_1samp(after - before, 0).confidence_interval(0.95)
    assert (one.change.low, one.change.high) == pytest.approx((interval.low, interval.high))


def test_one_query_decides_nothing():
    def asked(right):
        return [row(per_query={"recall@10": [right], "recall@100": [50]})]

    assert compare(asked(9), asked(9)).verdict is Verdict.PASS
    for right in (0, 10):
        assert compare(asked(9), asked(right)).verdict is Verdict.INCONCLUSIVE


def test_the_same_loss_of_every_query_needs_no_test():
    half = np.full(400, 5.0)

    def asked(shift):
        return [row(per_query={"recall@10": (half - 10 * shift).tolist(), "recall@100": [50] * 400})]

    gates = [Gate("recall@10", 0.005)]
    verdicts = [compare(asked(0), asked(loss), gates=gates).verdict for loss in (-0.1, 0, 0.004, 0.005, 0.006)]
    assert verdicts == [Verdict.PASS] * 4 + [Verdict.REGRESSION]


def test_what_too_few_queries_cannot_tell_is_inconclusive_and_says_how_many_would():
    base, new = row(), row()
    new["per_query"]["recall@10"] = np.random.default_rng(0).permutation(base["per_query"]["recall@10"]).tolist()
    comparison = compare([base], [new])
    assert comparison.verdict is Verdict.INCONCLUSIVE and comparison.verdict.exit_status == 3
    assert "queries would tell" in found(comparison, metric="recall@10").told


def test_a_damaged_row_is_told_by_its_id():
    for field in ("request", "seed", "bytes"):
        damaged = [{name: value for name, value in row().items() if name != field}]
        with pytest.raises(BadInput, match=r"row pq-16\.0-0, .* lacks what every result has"):
            compare(damaged, damaged)


def test_gates_read_and_print_alike():
    for text in ("recall@10:-0.005", "query_ms.p50:+20%", "bytes.payload:+4", "bytes.shared:+2.5%", "nDCG@10:-0.01"):
        assert str(parse_gate(text)) == text
    assert Gate("recall@10", 0.02) in gates_of(["recall@10:-.02"]) and len(gates_of(["recall@10:-.02"])) == len(
        DEFAULTS
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("recall@10", "expected METRIC:-X"), ("recall@10:0.1", "expected METRIC"), ("speed:+1%", "no metric 'speed'"),
        ("recall@10:+0.1", "less is worse"), ("bytes.payload:-1", "more is worse"), ("recall@10:-2%", "below 1"),
        ("recall@10:-1.5", "below 1"), ("query_ms.p50:+3", "give a share"), ("recall@10:-nan", "expected METRIC"),
    ],
)  # fmt: skip
def test_a_gate_that_cannot_be_is_refused(text, told):
    with pytest.raises(BadInput, match=told):
        parse_gate(text)


def written(folder, rows, name="results.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in rows).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / name


def test_sources_are_files_and_directories_zipped_or_not(tmp_path):
    file = written(tmp_path / "a", suite())
    zipped = written(tmp_path / "b", suite(), "old.jsonl.gz")
    assert read(file) == read(tmp_path / "a") == read(zipped) == read(tmp_path / "b") == suite()


def test_a_killed_job_is_infrastructure(tmp_path):
    """Its last line is torn, and the cells that it did not come to are missing."""
    base, new = written(tmp_path / "base", suite()), written(tmp_path / "new", suite()[:4])
    new.write_bytes(new.read_bytes() + json.dumps(suite()[4]).encode()[:300])
    comparison = compare(read(base), read(new))
    assert comparison.verdict is Verdict.INFRASTRUCTURE
    assert len(comparison.of(Verdict.INFRASTRUCTURE)) == 3


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_sources_are_read_at_a_revision(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    written(tmp_path / "some results", suite()[:4])
    written(tmp_path / "some results", suite()[4:], "ä.jsonl.gz")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "base")
    written(tmp_path / "some results", lost(suite()[:4], "recall@10", 0.1))
    monkeypatch.chdir(tmp_path)
    at = sorted(read("HEAD:some results"), key=lambda one: one["id"])
    assert at == sorted(suite(), key=lambda one: one["id"])
    assert read("HEAD:some results/results.jsonl") == suite()[:4] != read("some results/results.jsonl")
    monkeypatch.chdir(tmp_path / "some results")
    assert len(read("HEAD:.")) == len(read("HEAD:")) == len(suite())
    for missing in ("HEAD:nothing", "no-such-branch:.", "--output=x:."):
        with pytest.raises(Infrastructure, match="git cannot read it"):
            read(missing)
    assert not (tmp_path / "some results" / "x").exists()


def test_what_is_not_there_is_infrastructure(tmp_path):
    (tmp_path / "empty").mkdir()
    written(tmp_path / "torn", []).write_text('{"id": "x"')
    for missing in (tmp_path / "empty", tmp_path / "torn", tmp_path / "nowhere", tmp_path / "torn" / "results.jsonl"):
        with pytest.raises(Infrastructure):
            read(missing)


def test_what_is_no_result_is_bad_input(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text("[1, 2]\n[3]\n")
    with pytest.raises(BadInput, match="line 1 is not a packbench result"):
        read(file)
    file = tmp_path / "cut.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(row()).encode())[:-20])
    with pytest.raises(BadInput, match="no whole gzip"):
        read(file)
