"""Exported indexes: the harness's own answers, whole or not at all, and refused where they could be misread."""

import json

import numpy as np
import pytest

import packbench
from packbench import runner, worker
from packbench.dataset import from_vectors
from packbench.errors import BadInput
from packbench.serve import export, open_index
from packbench.store import Store

SPECS = ["pca(dim=8) | pq(m=4)", "rescore(pq(m=2), float16(), tier='disk')"]
PLUGIN = """
import numpy as np
from dataclasses import dataclass
from packbench import Codec, register

@register
@dataclass(frozen=True, slots=True)
class Third(Codec):
    '''Keep each coordinate as -1, 0 or 1.'''
    name = "third_of_test_serve"
    def encode(self, items, shared):
        return {"codes": np.sign(items).astype(np.int8)}
    def decode(self, codes, shared):
        return codes["codes"].astype(np.float32)
"""


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    rng = np.random.default_rng(5)
    basis = rng.standard_normal((8, 32))
    rows = (rng.standard_normal((700, 8)) @ basis + 0.1 * rng.standard_normal((700, 32))).astype("f4")
    file = tmp_path_factory.mktemp("vectors") / "items.npy"
    np.save(file, rows[:640])
    return file, rows[:640], rows[640:]


@pytest.fixture(scope="module")
def pq(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "pq"
    ledger = export("pq", vectors[0], folder, metric="l2", bytes_per_item=70)
    return folder, ledger


def edited(folder, tmp_path, **changes):
    """Copy an index and change its manifest."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    return copy


def test_an_opened_index_answers_as_the_run_did(vectors, tmp_path):
    file, items, queries = vectors
    dataset = from_vectors(items, queries, metric="cosine")
    runner.run(
        dataset, SPECS, tmp_path / "results", budgets=(500.0,), seeds=(1,), disk_budget=64, timing_seconds=0.02,
        references=False, deployment_n=10_000,
    )  # fmt: skip
    rows = {row["spec"]: row for row in Store(tmp_path / "results").rows()}
    for number, spec in enumerate(SPECS):
        ledger = export(spec, file, tmp_path / str(number), metric="cosine", seed=1)
        index = packbench.open_index(tmp_path / str(number))
        wanted = Store(tmp_path / "results").hits(rows[spec]["measurement"])
        assert np.array_equal(index.search(dataset.queries, 10).ids, wanted["ids_10"])
        assert np.array_equal(index.search(dataset.queries, 100).ids, wanted["ids_100"])
        weighed = rows[spec]["bytes"]
        assert (ledger.payload, ledger.shared, ledger.cold) == (weighed["payload"], weighed["shared"], weighed["cold"])
        assert index.nbytes == weighed["payload"] * 640 + weighed["shared"]
        assert (index.n, index.d, index.metric) == (640, 32, "cosine")


def test_a_name_is_solved_for_the_bytes_of_these_vectors(pq):
    folder, ledger = pq
    index = open_index(folder)
    assert index.spec.startswith("pq(m=")
    assert 0 < ledger.total() <= 70
    assert index.nbytes == round(ledger.total() * 640)
    assert index.metric == "l2"


def test_what_weighs_more_than_allowed_is_not_written(vectors, tmp_path):
    with pytest.raises(BadInput, match=r"weighs 32\.40 bytes per item .* 20 are allowed"):
        export("int8()", vectors[0], tmp_path / "index", bytes_per_item=20)
    with pytest.raises(BadInput, match="needs at least"):
        export("pq", vectors[0], tmp_path / "index", bytes_per_item=1)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(vectors, tmp_path, monkeypatch):
    file, items, _ = vectors
    with pytest.raises(BadInput, match=r"pq\(m=100\)"):
        export("pq(m=100)", file, tmp_path / "index")
    with pytest.raises(BadInput, match="needs queries"):
        export("gptq()", file, tmp_path / "index")
    with pytest.raises(BadInput, match="needs m"):
        export("pq", file, tmp_path / "index")
    with pytest.raises(BadInput, match="row 3 holds NaN"):
        export("sign()", np.where(np.arange(640)[:, None] == 3, np.nan, items), tmp_path / "index")
    with pytest.raises(BadInput, match="no metric 'dot'"):
        export("sign()", file, tmp_path / "index", metric="dot")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("packbench.serve._complete", killed)
    with pytest.raises(KeyboardInterrupt):
        export("sign()", file, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(vectors, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(BadInput, match="no empty folder"):
            export("sign()", vectors[0], target)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(vectors, tmp_path):
    export("sign()", vectors[1], tmp_path / "index")
    assert len(open_index(tmp_path / "index").search(vectors[2]).ids) == 60


@pytest.mark.parametrize(
    ("queries", "k", "told"),
    [
        (np.zeros((2, 31)), 10, "31 dimensions, the index 32"),
        (np.zeros(32), 10, r"got shape \(32,\)"),
        (np.array([["a"] * 32]), 10, "of numbers"),
        (np.full((2, 32), np.nan), 10, "row 0 holds NaN"),
        (np.zeros((2, 32)), 0, "k=0"),
    ],
)
def test_queries_that_cannot_be_used_are_refused(pq, queries, k, told):
    with pytest.raises(BadInput, match=told):
        open_index(pq[0]).search(queries, k)


def test_more_answers_than_items_end_in_minus_one(pq, vectors):
    hits = open_index(pq[0]).search(vectors[2][:3].astype(np.float64), 700)
    assert hits.ids.shape == hits.scores.shape == (3, 700)
    assert sorted(hits.ids[0, :640]) == list(range(640))
    assert (hits.ids[:, 640:] == -1).all()
    assert np.isneginf(hits.scores[:, 640:]).all()


def test_batches_do_not_change_answers(pq, vectors):
    index, queries = open_index(pq[0]), np.tile(vectors[2], (6, 1))
    assert np.array_equal(index.search(queries, 5).ids, np.tile(index.search(vectors[2], 5).ids, (6, 1)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "0123456789ab"}, "has changed since"),
        ({"format": 99}, "format 99"),
        ({"spec": "pqq(m=4)"}, "unknown here .*Did you mean 'pq'"),
        ({"spec": "mine()", "plugins": ["mine.py"]}, r"the plug-in mine\.py: give its path in plugins"),
        ({"files": [["codes", "codes", "gone.npy"]]}, "whole"),
        ({"files": 3}, "whole"),
    ],
)
def test_an_index_that_could_be_misread_is_refused(pq, tmp_path, changes, told):
    with pytest.raises(BadInput, match=told):
        open_index(edited(pq[0], tmp_path, **changes))


def test_what_is_no_index_is_refused(pq, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match="no index that can be opened"):
            open_index(folder)
    copy = edited(pq[0], tmp_path)
    (copy / "codes-0.npy").write_bytes((copy / "codes-0.npy").read_bytes()[:200])
    with pytest.raises(BadInput, match="whole"):
        open_index(copy)


def test_a_plug_in_travels_by_its_file(vectors, tmp_path):
    plugin = tmp_path / "third.py"
    plugin.write_text(PLUGIN)
    export("third_of_test_serve()", vectors[0], tmp_path / "index", plugins=[plugin])
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["plugins"] == ["third.py"]
    assert open_index(tmp_path / "index", plugins=[plugin]).spec == "third_of_test_serve()"


def test_the_original_vectors_are_not_needed(vectors, tmp_path, monkeypatch):
    staged = []
    stage = worker.stage
    monkeypatch.setattr(
        worker, "stage", lambda folder, name, items: (staged.append(folder), stage(folder, name, items))
    )
    export("sign()", vectors[0], tmp_path / "index")
    assert staged and not any(folder.exists() for folder in staged)
