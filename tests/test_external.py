import json

import h5py
import numpy as np
import pytest

import packbench
from packbench.leaderboard.external import EPSILON, HEADINGS, read_external


def card(**more):
    """Write a card as `bitbudget run` does."""
    rows = [
        {"method": "binary", "axis": "quantisation", "bytes": 128.0, "ndcg": 0.51, "recall": 0.6, "pct_float": 99.0}
    ]
    return {"embedder": "mxbai", "corpora": ["scifact"], "dim": 1024, "per_corpus": {"scifact": rows},
            "aggregate": [{"method": "binary", "bytes": 128.0, "ndcg": 0.9, "n_corpora": 1}]} | more  # fmt: skip


def put(file, found):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    return file


def test_bitbudget_card(tmp_path):
    file = put(tmp_path / "card_mxbai.json", card())
    ndcg, recall = read_external(file)
    assert (ndcg.dataset, ndcg.label, ndcg.bytes_per_item) == ("scifact/mxbai", "binary", 128.0)
    assert (ndcg.metric, ndcg.value, recall.metric, recall.value) == ("nDCG@10", 0.51, "recall@10", 0.6)
    assert {row.origin for row in (ndcg, recall)} == {"BitBudget"}
    assert ndcg.cells() == ("scifact/mxbai", "binary", "128.0", "nDCG@10", "0.5100",
                            "relevance judgements, gain 2^grade - 1", f"BitBudget, {file}")  # fmt: skip
    assert len(ndcg.cells()) == len(HEADINGS)


def test_bitbudget_index_card(tmp_path):
    rows = [{"method": "ivfpq", "axis": "organisation", "bytes": 16.0, "recall": 0.4, "qps": 9.0}]
    found = {"source": "mxbai x scifact", "k": 20, "dim": 64, "n": 1000, "rows": rows}
    (row,) = read_external(put(tmp_path / "index_card.json", found))
    assert (row.dataset, row.label, row.bytes_per_item, row.metric, row.value) == (
        "mxbai x scifact", "ivfpq", 16.0, "recall@20", 0.4)  # fmt: skip


def test_a_mean_of_nothing_is_blank(tmp_path):
    found = card()
    found["per_corpus"]["scifact"][0]["ndcg"] = float("nan")
    row = read_external(put(tmp_path / "card.json", found))[0]
    assert row.value is None
    assert row.cells()[4] == "–"


SCORES = {"ndcg_at_10": 0.27, "mrr_at_10": 0.18, "recall_at_100": 0.86, "recall_at_10": 0.5, "rankings": {}}


@pytest.mark.parametrize(
    ("method", "dim", "nbytes"),
    [
        ("32_full", 1024, 4096.0), ("16_bfloat16", 192, 384.0), ("8_float8m2", 768, 768.0), ("4_percentile", 64, 32.0),
        ("2_equal_distance", 1024, 256.0), ("1_binary_zero", 1024, 128.0), ("8192_lsh", 768, 1024.0),
        ("128_2_pq", 1024, 32.0), ("1024_8_pq", 1024, 1024.0), ("96_pca", 768, 384.0), ("something", 768, None),
    ],
)  # fmt: skip
def test_corect(tmp_path, method, dim, nbytes):
    put(tmp_path / "JinaV3Wrapper" / "arguana" / f"dim={dim}" / f"q={method}" / "arguana.json", SCORES)
    put(tmp_path / "JinaV3Wrapper" / "passage" / f"dim={dim}" / f"q={method}" / "10000.json", SCORES)
    rows = read_external(tmp_path)
    assert [(row.metric, row.value) for row in rows[:3]] == [("nDCG@10", 0.27), ("MRR@10", 0.18), ("Recall@100", 0.86)]
    assert {row.bytes_per_item for row in rows} == {nbytes}
    assert [row.dataset for row in rows[::3]] == ["arguana/JinaV3Wrapper", "passage/10000/JinaV3Wrapper"]
    assert rows[0].label == f"{method}, dim={dim}"


def ann(folder, neighbours, distances, **attributes):
    """Write a result as ann-benchmarks stores it."""
    about = {"algo": "made", "name": "Made(b=1)", "dataset": "made-2-euclidean", "count": 4, "index_size": 2.0,
             "best_search_time": 0.001, "batch_mode": False}  # fmt: skip
    file = folder / "made" / "b_1.hdf5"
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as run:
        for name, value in (about | attributes).items():
            run.attrs[name] = value
        run.create_dataset("times", data=np.full(len(neighbours), 0.001, "f"))
        run.create_dataset("neighbors", data=np.asarray(neighbours, "i"))
        run.create_dataset("distances", data=np.asarray(distances, "f"))
    return file


def ann_truth(folder, distances, items=64, name="made-2-euclidean"):
    file = folder / f"{name}.hdf5"
    with h5py.File(file, "w") as dataset:
        dataset.attrs["distance"] = "euclidean"
        dataset.create_dataset("train", data=np.zeros((items, 2), "f"))
        dataset.create_dataset("test", data=np.zeros((len(distances), 2), "f"))
        dataset.create_dataset("distances", data=np.asarray(distances, float))
    return file


NEIGHBOURS = [[3, 5, 9, 1], [2, 4, -1, -1]]
DISTANCES = [[1.0, 2.0, 4.0 + 0.9 * EPSILON, 4.0 + 1.1 * EPSILON], [1.0, 1.5, np.inf, np.inf]]
TRUE = [[1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 1.5, 1.6, 1.7, 9.0]]


def test_ann_benchmarks(tmp_path):
    """Right is what lies within the distance of the k-th and 0.001: three of four, then two of four."""
    file = ann(tmp_path, NEIGHBOURS, DISTANCES)
    (row,) = read_external(file, ann_truth(tmp_path, TRUE))
    assert row.value == pytest.approx(5 / 8)
    assert row.bytes_per_item == 2.0 * 1024 / 64
    assert (row.origin, row.dataset, row.label, row.metric) == (
        "ann-benchmarks", "made-2-euclidean", "Made(b=1) (made)", "recall@4")  # fmt: skip
    assert "k-nn rule: distance at most the k-th true one + 0.001" in row.how


def test_ann_benchmarks_without_the_truth(tmp_path):
    file = ann(tmp_path, NEIGHBOURS, DISTANCES)
    for truth in (None, ann_truth(tmp_path, TRUE, name="other-2-euclidean")):
        (row,) = read_external(file, truth)
        assert (row.value, row.bytes_per_item) == (None, None)
        assert row.how == "blank: no true neighbours given (made-2-euclidean.hdf5)"
        assert row.cells()[2] == row.cells()[4] == "–"


def test_ann_benchmarks_of_sets_and_shrinking_processes(tmp_path):
    file = ann(tmp_path, NEIGHBOURS, DISTANCES)
    truth = ann_truth(tmp_path, TRUE)
    with h5py.File(truth, "a") as dataset:
        dataset.create_dataset("size_train", data=[2] * 32)
    (row,) = read_external(file, truth)
    assert row.bytes_per_item == 2.0 * 1024 / 32
    (row,) = read_external(ann(tmp_path, NEIGHBOURS, DISTANCES, index_size=-4.0), truth)
    assert row.bytes_per_item is None


def test_a_folder_is_read_whole(tmp_path):
    ann(tmp_path, NEIGHBOURS, DISTANCES)
    put(tmp_path / "card.json", card())
    (tmp_path / "README.md").write_text("not read")
    assert [row.origin for row in read_external(tmp_path)] == ["BitBudget", "BitBudget", "ann-benchmarks"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"a": 1}, "no BitBudget card, no CoRECT scores"),
        ([1, 2], "no BitBudget card, no CoRECT scores"),
        (card(per_corpus={"scifact": [{"method": "x"}]}), r"KeyError: 'bytes'"),
        (card(per_corpus=[]), "damaged"),
        (card(per_corpus={"scifact": [{"method": "x", "bytes": -1, "ndcg": 0.1, "recall": 0.1}]}), "bytes is -1"),
        (card(per_corpus={"scifact": [{"method": "x", "bytes": 1, "ndcg": 1.5, "recall": 0.1}]}), "ndcg is 1.5"),
        (card(per_corpus={"scifact": [{"method": "x", "bytes": "8", "ndcg": 0.5, "recall": 0.1}]}), "bytes is '8'"),
        (SCORES, "CoRECT says in folders what it scored"),
    ],
)
def test_other_json_is_refused(tmp_path, found, words):
    file = put(tmp_path / "found.json", found)
    with pytest.raises(packbench.BadInput, match=words) as refused:
        read_external(file)
    assert str(file) in str(refused.value)


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(packbench.BadInput, match=r"holds no \.json or \.hdf5 or \.h5 files"):
        read_external(tmp_path)
    for name, words in (("missing.json", "cannot be read"), ("missing.hdf5", "no such file")):
        with pytest.raises(packbench.BadInput, match=words):
            read_external(tmp_path / name)
    for name, words in (("torn.json", "damaged"), ("torn.hdf5", "no result of ann-benchmarks")):
        (tmp_path / name).write_bytes(b'{"per_corpus": \xff')
        with pytest.raises(packbench.BadInput, match=words):
            read_external(tmp_path / name)


def test_results_of_ann_benchmarks_must_hold_together(tmp_path):
    truth = ann_truth(tmp_path, TRUE)
    twice = ann(tmp_path, [[3, 3, 9, 1], [2, 4, -1, -1]], DISTANCES)
    with pytest.raises(packbench.BadInput, match="names a neighbour twice"):
        read_external(twice, truth)
    with pytest.raises(packbench.BadInput, match="do not agree"):
        read_external(ann(tmp_path, NEIGHBOURS, DISTANCES, count=5), truth)
    with pytest.raises(packbench.BadInput, match="no result of ann-benchmarks"):
        read_external(truth)
    file = ann(tmp_path, NEIGHBOURS[:1], DISTANCES[:1])
    with pytest.raises(packbench.BadInput, match="do not belong together"):
        read_external(file, truth)
    (tmp_path / "torn").mkdir()
    torn = tmp_path / "torn" / truth.name
    torn.write_bytes(b"torn")
    with pytest.raises(packbench.BadInput, match="no data set of ann-benchmarks"):
        read_external(file, torn)
