"""TREC runs: other evaluators find in them what the rows say."""

import runpy
from pathlib import Path

import ir_measures
import numpy as np
import pytest

import packbench
from packbench.dataset import Dataset
from packbench.leaderboard.trec import write_runs
from packbench.quality import Relevance, ranking
from packbench.store import Store

row = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))["row"]


def judged():
    """Twenty items and four queries, three of them judged, under ids of their own."""
    rng = np.random.default_rng(0)
    vectors = {part: rng.normal(size=(count, 8)).astype(np.float32)
               for part, count in (("items", 20), ("fit", 5), ("queries", 4), ("validation", 2))}  # fmt: skip
    return Dataset(
        name="tiny", metric="ip", **vectors, item_ids=[f"d{at}" for at in range(20)],
        query_ids=[f"q{at}" for at in range(4)],
        qrels={"q0": {"d3": 2, "d7": 1}, "q1": {"d0": 1}, "q3": {"d19": 1, "d2": 3}},
    )  # fmt: skip


def answered(tmp_path, dataset):
    """Keep answers as a run does; the search for 10 ranks otherwise than the search for 100."""
    rng = np.random.default_rng(1)
    deep = np.argsort(rng.random((4, 20)), axis=1)
    deep = np.concatenate([deep, np.full((4, 80), -1)], axis=1)
    shallow = np.argsort(rng.random((4, 20)), axis=1)[:, :10]
    store = Store(tmp_path / "results")
    store.save_hits("abc", ids_10=shallow, ids_100=deep)
    found = Relevance(dataset).per_query(ranking(shallow, deep))
    for budget in (16.0, 32.0):
        of = row("pca", budget, spec="pca(dim=4) | int8()", measurement="abc", dataset="tiny/one")
        store.append(of | {"dataset_sha256": dataset.sha256(), "id": str(budget)})
    store.append(row("sign", 16.0, status="failed"))
    return store.folder, {name: float(np.mean(values)) for name, values in found.items()}


def test_runs_are_judged_as_the_rows_are(tmp_path):
    dataset = judged()
    results, relevance = answered(tmp_path, dataset)
    (file,) = write_runs(results, tmp_path / "runs", dataset)
    run = list(ir_measures.read_trec_run(str(file)))
    qrels = {query: dict(of) for query, of in dataset.qrels.items()}
    found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR @ 10], qrels, run)
    assert 0 < relevance["nDCG@10"] < 1
    assert found[ir_measures.nDCG @ 10] == pytest.approx(relevance["nDCG@10"], abs=1e-12)
    assert found[ir_measures.RR @ 10] == pytest.approx(relevance["MRR@10"], abs=1e-12)
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    assert {len(line) for line in lines} == {6}
    assert len(lines) == 4 * 20
    assert lines[0][0] == "q0"
    assert lines[0][3:] == ["1", "20", "packbench:pca(dim=4)|int8():score-from-rank"]
    assert file.name == "tiny-one.pca(dim=4)-int8().abc.run"


def test_runs_without_the_data_set_have_row_numbers(tmp_path):
    results, _ = answered(tmp_path, judged())
    (file,) = write_runs(results, tmp_path / "runs")
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    assert {line[0] for line in lines} == {"0", "1", "2", "3"}
    assert {line[2] for line in lines} == {str(at) for at in range(20)}


def test_runs_refuse(tmp_path):
    dataset = judged()
    results, _ = answered(tmp_path, dataset)
    with pytest.raises(packbench.BadInput, match="no results there"):
        write_runs(tmp_path / "nothing", tmp_path / "runs")
    other = Dataset(name="other", metric="l2", items=dataset.items, fit=dataset.fit, queries=dataset.queries,
                    validation=dataset.validation)  # fmt: skip
    with pytest.raises(packbench.BadInput, match="none on this version of other"):
        write_runs(results, tmp_path / "runs", other)
    spaced = judged()
    spaced.item_ids[0] = "two words"
    spaced.qrels.pop("q1")
    of = row("pq", 16.0, measurement="abc") | {"dataset_sha256": spaced.sha256()}
    Store(results).append(of)
    with pytest.raises(packbench.BadInput, match="'two words' is empty or has blanks"):
        write_runs(results, tmp_path / "runs", spaced)
    (results / "hits" / "abc.npz").unlink()
    with pytest.raises(packbench.BadInput, match=r"the answers of .* cannot be read"):
        write_runs(results, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_runs_of_a_measurement_are_judged_as_its_rows_are(tmp_path):
    """The shortlist of `rescore` grows with the depth, so that the search for 100 ranks otherwise than that for 10."""
    rng = np.random.default_rng(3)
    items = rng.normal(size=(400, 16)).astype(np.float32)
    near = rng.integers(0, 400, 60)
    queries = items[near] + rng.normal(0, 0.7, (60, 16)).astype(np.float32)
    qrels = {f"q{at}": {f"d{item}": 2, f"d{(item + 1) % 400}": 1} for at, item in enumerate(near.tolist()) if at % 5}
    dataset = Dataset(name="planted", metric="ip", items=items, fit=items, queries=queries, validation=queries[:5],
                      item_ids=[f"d{at}" for at in range(400)], query_ids=[f"q{at}" for at in range(60)],
                      qrels=qrels)  # fmt: skip
    specs = ["sign()", "rescore(sign(), int8(), factor=2)"]
    results = packbench.run(dataset, specs, tmp_path / "results", budgets=[32.0], timing_seconds=0.02, references=False)
    rows = {of["measurement"]: of for of in Store(results).rows()}
    hits = [Store(results).hits(measurement) for measurement in rows]
    assert any((of["ids_10"] != of["ids_100"][:, :10]).any() for of in hits)
    files = write_runs(results, tmp_path / "runs", dataset)
    assert sorted(of["spec"] for of in rows.values()) == sorted(specs)
    for file in files:
        (of,) = (of for measurement, of in rows.items() if measurement in file.name)
        found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, ir_measures.read_trec_run(str(file)))
        assert 0.1 < of["relevance"]["nDCG@10"] < 0.9
        assert found[ir_measures.nDCG @ 10] == pytest.approx(of["relevance"]["nDCG@10"], abs=1e-12)
