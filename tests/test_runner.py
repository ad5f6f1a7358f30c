"""The runner end to end on small data: statuses with reasons, resume, choice on validation, each spec once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from packbench import runner, worker
from packbench.dataset import from_vectors
from packbench.errors import BadInput
from packbench.store import Store
from packbench.workers import Workers

FAST = {"timing_seconds": 0.02, "references": False, "deployment_n": 10_000}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(5)
    basis = rng.standard_normal((8, 32))
    items = (rng.standard_normal((700, 8)) @ basis + 0.1 * rng.standard_normal((700, 32))).astype("f4")
    return from_vectors(items, name="planted", metric="ip")


@pytest.fixture(scope="module")
def rows(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    requests = ["float32()", "int8", "sign", "pca", "pq(m=4)", "rescore(sign(), int8(), tier='disk')"]
    runner.run(dataset, requests, folder, budgets=(3.0, 40.0), **FAST)
    return {(row["request"], row["budget"]): row for row in Store(folder).rows()}


def test_every_cell_has_a_row_with_a_status_and_a_reason(rows):
    assert len(rows) == 12
    for row in rows.values():
        assert row["status"] == "ok" or row["reason"], row


def test_statuses_follow_from_the_bytes(rows):
    status = {key: row["status"] for key, row in rows.items()}
    assert status["float32()", 40.0] == "over_budget"
    assert status["int8", 3.0] == "no_fit"
    assert status["int8", 40.0] == "ok"
    assert status["pq(m=4)", 3.0] == "over_budget"
    assert status["rescore(sign(), int8(), tier='disk')", 40.0] == "over_budget"
    assert "on disk" in rows["rescore(sign(), int8(), tier='disk')", 40.0]["reason"]
    assert rows["int8", 3.0]["least"] > 32


def test_an_over_budget_row_says_what_it_weighs(rows):
    assert "weighs 128.00 of 40" in rows["float32()", 40.0]["reason"]


def test_bytes_are_itemised_and_spread_over_the_deployment(rows):
    weighed = rows["pq(m=4)", 40.0]["bytes"]
    assert weighed["payload"] == 4
    shared = sum(entry[-1] for entry in weighed["arrays"] if entry[0] == "shared")
    assert 4 * 256 * 32 <= weighed["shared"] == shared <= 4 * 256 * 32 + 16
    assert weighed["deployed"] == pytest.approx(4 + shared / 10_000)
    assert weighed["total"] == pytest.approx(4 + shared / weighed["n"])
    assert weighed["disk"] == sum(entry[-1] for entry in weighed["arrays"])


def test_memory_beyond_what_was_weighed_is_noted(rows):
    """So little is weighed here that room to work in alone is more than a fifth of it, in every row."""
    for row in rows.values():
        if row["status"] == "ok":
            weighed = row["bytes"]["payload"] * row["bytes"]["n"] + row["bytes"]["shared"]
            noted = any("bytes per item more" in note for note in row.get("notes", []))
            assert noted == (row["bytes"]["resident"] > 1.2 * weighed)


def test_a_choice_is_made_on_validation_queries_and_told(rows):
    row = rows["pca", 40.0]
    assert len(row["tried"]) > 1
    best = max(note["validation"] for note in row["tried"] if "validation" in note)
    (chosen,) = [note for note in row["tried"] if note["spec"] == row["spec"]]
    assert chosen["validation"] == best


def test_recall_is_what_the_kept_answers_give(rows, dataset, tmp_path):
    row = rows["sign", 40.0]
    assert 0.05 < row["recall"]["recall@10"] < 1
    assert np.mean(row["per_query"]["recall@10"]) / 10 == pytest.approx(row["recall"]["recall@10"])


def test_exact_codes_have_recall_one_and_a_latency(dataset, tmp_path):
    runner.run(dataset, ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    (row,) = Store(tmp_path).rows()
    assert row["recall"] == {"recall@1": 1, "recall@10": 1, "recall@100": 1}
    assert row["ties"]["recall@10"] == [1, 1, 1]
    times = row["query_ms"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    assert row["speedup"]["low"] <= row["speedup"]["median"] <= row["speedup"]["high"]
    assert row["kernel"] == "blas float32"
    hits = Store(tmp_path).hits(row["measurement"])
    assert hits["ids_100"].shape == (len(dataset.queries), 100)


def test_a_second_run_measures_nothing_and_a_changed_identity_does(dataset, tmp_path):
    runner.run(dataset, ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    before = (tmp_path / "results.jsonl").read_text()
    runner.run(dataset, ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    assert (tmp_path / "results.jsonl").read_text() == before
    runner.run(replace(dataset, items=dataset.items * 2), ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    assert len(Store(tmp_path).by_id()) == 2


def test_a_spec_is_measured_once_for_all_budgets(rows, dataset, tmp_path):
    runner.run(dataset, ["sign()"], tmp_path, budgets=(40.0, 50.0), **FAST)
    one, two = Store(tmp_path).rows()
    assert one["measurement"] == two["measurement"]
    assert one["query_ms"] == two["query_ms"]
    assert two["spent_seconds"] == 0


@pytest.fixture
def fitted(monkeypatch):
    """Return the specs of all fits, as they come."""
    fitted = []
    run = Workers.run

    def counted(self, kind, job, *rest):
        if kind == "fit" or (kind == "build" and "fitted" not in job):
            fitted.append(job["spec"])
        return run(self, kind, job, *rest)

    monkeypatch.setattr(Workers, "run", counted)
    return fitted


def test_configurations_that_nest_are_fitted_once(dataset, tmp_path, fitted):
    """The last levels of a residual code only add to the first: all budgets take theirs out of one fit."""
    budgets = {"budgets": (8.0, 12.0, 16.0), **FAST, "deployment_n": 1_000_000}
    runner.run(dataset, ["semantic_id"], tmp_path / "together", **budgets, tries=1)
    together = {row["budget"]: row for row in Store(tmp_path / "together").rows()}
    specs = [row["spec"] for row in together.values()]
    assert len(set(specs)) == 3
    assert fitted == [specs[-1]]
    assert {row["fitted_as"] for row in together.values()} == {specs[-1]}
    alone = [runner.run(dataset, [spec], tmp_path / str(at), budgets=(40.0,), **FAST) for at, spec in enumerate(specs)]
    assert len(fitted) == 4
    for place, row in zip(alone, together.values(), strict=True):
        (own,) = Store(place).rows()
        assert own["codes"] == row["codes"]
        assert own["fitted_as"] == own["spec"]


def test_configurations_that_differ_in_how_they_are_searched_are_fitted_once(dataset, tmp_path, fitted):
    requests = ["itq", "itq(bits=32)", "itq(bits=32, scorer='asymmetric')"]
    runner.run(dataset, requests, tmp_path / "together", budgets=(8.0,), **FAST)
    together = list(Store(tmp_path / "together").rows())
    assert fitted == ["itq(bits=32)"]
    assert len({row["spec"] for row in together}) == 2 and {row["fitted_as"] for row in together} == {"itq(bits=32)"}
    assert all(row["seconds"]["fit"] > 0 for row in together)
    runner.run(dataset, ["itq(bits=32, scorer='asymmetric')"], tmp_path / "alone", budgets=(8.0,), **FAST)
    (alone,) = Store(tmp_path / "alone").rows()
    assert alone["codes"] == together[-1]["codes"] and alone["fitted_as"] == alone["spec"]


def test_references_are_measured_at_their_own_size(dataset, tmp_path):
    runner.run(dataset, ["sign()"], tmp_path, budgets=(40.0,), **FAST | {"references": True})
    own = {row["spec"]: row["status"] for row in Store(tmp_path).rows() if row["budget"] is None}
    assert own == {"float32()": "ok", "float16()": "ok", "int8()": "ok"}


def test_seeds_are_rows_of_their_own(dataset, tmp_path):
    runner.run(dataset, ["lsh(bits=64)"], tmp_path, budgets=(40.0,), **FAST | {"seeds": (0, 1)})
    one, two = Store(tmp_path).rows()
    assert one["recall"] != two["recall"]
    assert one["spec"] == two["spec"]


def test_a_querys_own_row_is_no_answer(tmp_path):
    rng = np.random.default_rng(0)
    items = rng.standard_normal((300, 16)).astype("f4")
    own = np.arange(40)
    base = from_vectors(items, items[:60], metric="ip")
    dataset = replace(
        base, queries=items[own], self_rows=own, validation=items[40:60], validation_self_rows=own[:20] + 40
    )
    runner.run(dataset, ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    (row,) = Store(tmp_path).rows()
    assert row["recall"]["recall@10"] == 1
    assert not (Store(tmp_path).hits(row["measurement"])["ids_10"] == own[:, None]).any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budgets": (0.0,)}, "more than 0"),
        ({"budgets": (-1.0,)}, "more than 0"),
        ({"tries": 0}, "at least 1"),
        ({"seconds": 0}, "more than 0 seconds"),
    ],
)
def test_impossible_plans_are_refused_and_nothing_is_written(dataset, tmp_path, change, told):
    with pytest.raises(BadInput, match=told):
        runner.run(dataset, ["sign()"], tmp_path / "results", **FAST | change)
    assert not (tmp_path / "results").exists()


def test_an_unknown_method_stops_before_anything_is_written(dataset, tmp_path):
    with pytest.raises(BadInput, match="Did you mean 'sign'"):
        runner.run(dataset, ["sign()", "sing"], tmp_path / "results", **FAST)
    assert not (tmp_path / "results").exists()


def test_the_build_is_not_given_the_test_queries(dataset, tmp_path, monkeypatch):
    seen = []
    stage = worker.stage
    monkeypatch.setattr(
        worker, "stage", lambda folder, name, items: (seen.append((folder.name, name)), stage(folder, name, items))
    )
    runner.run(dataset, ["float32()"], tmp_path, budgets=(500.0,), **FAST)
    assert ("queries", "queries") in seen
    assert {name for folder, name in seen if folder == "stage"} <= {"items", "fit", "fit_queries"}


def test_rows_are_canonical_json(rows):
    json.dumps(rows["sign", 40.0], allow_nan=False)


def test_fewer_items_than_answers_are_judged_alike_alone_and_in_a_batch(tmp_path):
    items = np.random.default_rng(0).standard_normal((12, 8)).astype("f4")
    runner.run(from_vectors(items, name="tiny", held_out=5), ["float16()"], tmp_path, budgets=(60.0,), **FAST)
    (row,) = Store(tmp_path).rows()
    assert row["status"] == "ok", row["reason"]
    assert row["recall"]["recall@10"] == 1.0
