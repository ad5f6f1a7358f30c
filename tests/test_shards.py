"""Shards: the same codes, bytes and ids as the whole, for any number of them, or no shards at all."""

import numpy as np
import pytest

from packbench import artefact, runner, shards
from packbench.dataset import from_vectors
from packbench.errors import BadInput
from packbench.method import Hits, Sample
from packbench.spec import parse
from packbench.store import Store
from packbench.topk import top_k

FAST = {"timing_seconds": 0.02, "references": False, "deployment_n": 10_000, "budgets": (200.0,)}
SHARDED = (
    "float32()", "int8()", "int4()", "sign()", "sign(scorer='asymmetric')", "lsh(bits=96)", "pq(m=8)",
    "pq(m=16, bits=4)", "opq(m=8)", "rabitq()", "pca(dim=8) | int8()", "turboquant_mse(bits=2)",
)  # fmt: skip
WHOLE = (
    "rescore(sign(), int8())", "ivf(int8(), nlist=8, nprobe=2)", "pca(dim=8) | ivf(int8(), nlist=8, nprobe=2)",
    "mrl_adaptive(int8(), dim=8)", "random_rows(int8(), keep=0.75)", "entropy_coding(int4())",
    "faiss(factory='SQ8')",
)  # fmt: skip


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(5)
    basis = rng.standard_normal((8, 32))
    return (rng.standard_normal((701, 8)) @ basis + 0.1 * rng.standard_normal((701, 32))).astype("f4")


def searched(spec, vectors, metric, count, k=10):
    """Return codes, and answers to the first fifty, in so many shards."""
    method = parse(spec)
    shared = method.fit(Sample(vectors[::2], metric))
    codes, used = shards.encode(lambda rows: method.encode(rows, shared), vectors, shards.most(method, count))
    kept = artefact.for_search(codes), artefact.for_search(shared)
    return codes, used, shards.open_shards(method, *kept, metric, len(vectors), used).search(vectors[:50], k)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", SHARDED)
def test_shards_keep_the_codes_and_answer_as_the_whole(spec, metric, vectors):
    codes, _, expected = searched(spec, vectors, metric, 1)
    for count in (2, 3, 7):
        pieces, used, found = searched(spec, vectors, metric, count)
        assert used == count
        assert artefact.fingerprint(pieces, {}) == artefact.fingerprint(codes, {})
        assert (found.ids == expected.ids).all()
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", WHOLE)
def test_what_answers_from_the_whole_or_keeps_no_row_for_each_item_is_not_cut(spec, vectors):
    _, used, found = searched(spec, vectors, "ip", 3)
    assert used == 1
    assert (found.ids == searched(spec, vectors, "ip", 1)[2].ids).all()


def test_shards_of_a_shortlist_would_answer_otherwise(vectors, monkeypatch):
    """Without being told which methods answer from the whole, the ids differ: that is why they are told."""
    _, _, expected = searched("rescore(sign(), int8(), factor=2)", vectors, "ip", 1)
    monkeypatch.setattr(shards, "most", lambda method, count: count)
    _, used, found = searched("rescore(sign(), int8(), factor=2)", vectors, "ip", 3)
    assert used == 3
    assert (found.ids != expected.ids).any()


def test_a_table_as_long_as_a_shard_is_not_taken_for_rows():
    items = np.arange(16, dtype="f4").reshape(8, 2)
    codes, used = shards.encode(lambda rows: {"codes": rows, "table": np.zeros((4, 2))}, items, 2)
    assert used == 1
    assert codes["table"].shape == (4, 2)


@pytest.mark.parametrize(("n", "count"), [(10, 1), (10, 3), (10, 10), (3, 7), (1, 4)])
def test_every_item_lies_in_one_shard(n, count):
    parts = shards.cut(n, count)
    assert len(parts) == min(n, count)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(n))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("k", [1, 5, 40])
def test_equal_scores_go_to_the_lower_id_across_shards(k):
    scores = np.random.default_rng(0).integers(0, 4, (20, 60)).astype("f4")
    parts = shards.cut(60, 7)
    found = shards.merge([top_k(scores[:, part], min(k, 8)) for part in parts], [part.start for part in parts], k)
    if k <= 8:
        assert (found.ids == top_k(scores, k).ids).all()
    expected = np.sort(scores, axis=1)[:, ::-1]
    assert (found.scores[:, : min(k, 8)] == expected[:, : min(k, 8)]).all()
    assert not ((np.diff(found.scores, axis=1) == 0) & (np.diff(found.ids, axis=1) < 0)).any()


def test_what_a_shard_does_not_find_comes_last():
    none = np.array([[-1]]), np.array([[-np.inf]], "f4")
    least = np.array([[0]]), np.array([[-np.inf]], "f4")
    merged = shards.merge([Hits(*none), Hits(*least)], [0, 5], 2)
    assert merged.ids.tolist() == [[5, -1]]


def test_more_shards_than_items_and_more_answers_than_a_shard_has(vectors):
    _, used, found = searched("int8()", vectors[:6], "ip", 50, k=6)
    assert used == 6
    assert (np.sort(found.ids, axis=1) == np.arange(6)).all()
    assert (found.ids == searched("int8()", vectors[:6], "ip", 1, k=6)[2].ids).all()


def test_rows_of_sharded_and_unsharded_runs_are_equal(vectors, tmp_path):
    dataset = from_vectors(vectors, name="planted", metric="ip")
    requests = ["int8()", "pca(dim=8) | sign()", "rescore(sign(), int8())"]
    found = {}
    for count in (1, 3):
        store = Store(tmp_path / str(count))
        runner.run(dataset, requests, store.folder, shards=count, **FAST)
        found[count] = {row["request"]: row for row in store.rows()}
    for request in requests:
        one, three = found[1][request], found[3][request]
        assert one["status"] == "ok", one["reason"]
        for field in (
            "id",
            "status",
            "spec",
            "measurement",
            "codes",
            "kernel",
            "recall",
            "ties",
            "per_query",
            "health",
        ):
            assert one[field] == three[field], field
        weighed = [{name: value for name, value in row["bytes"].items() if name != "resident"} for row in (one, three)]
        assert weighed[0] == weighed[1]
        hits = [Store(tmp_path / count).hits(one["measurement"]) for count in ("1", "3")]
        assert all((hits[0][name] == hits[1][name]).all() for name in hits[0])
    assert [row["shards"] for row in found[1].values()] == [1, 1, 1]
    assert [row["shards"] for row in found[3].values()] == [3, 3, 1]


def test_no_shards_are_refused(vectors, tmp_path):
    with pytest.raises(BadInput, match="shards: expected at least 1"):
        runner.run(from_vectors(vectors), ["int8()"], tmp_path, shards=0, **FAST)
