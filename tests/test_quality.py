"""Recall with ties, and relevance metrics: equal to slow loops, closed forms and simulation."""

import ir_measures
import numpy as np
import pytest

from packbench.dataset import Dataset
from packbench.errors import Disqualified
from packbench.exact import search_exact
from packbench.quality import Judge, Relevance, check_hits
from packbench.truth import truth_of, without

RNG = np.random.default_rng(7)


def judge_of(items, queries, metric, tmp_path):
    return Judge(queries, items, metric, truth_of(queries, items, metric, cache=tmp_path))


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_recall_equals_a_slow_loop_over_float64_scores(metric, tmp_path):
    items, queries = RNG.standard_normal((400, 12)).astype("f4"), RNG.standard_normal((30, 12)).astype("f4")
    noisy = items + 0.5 * RNG.standard_normal(items.shape).astype("f4")
    answers = search_exact(queries, noisy, metric, 100).ids
    judge = judge_of(items, queries, metric, tmp_path)
    x, q = items.astype("f8"), queries.astype("f8")
    for row in range(30):
        scores = {
            "ip": x @ q[row],
            "cosine": x @ q[row] / np.linalg.norm(x, axis=1),
            "l2": -((x - q[row]) ** 2).sum(1),
        }[metric]
        for k in (1, 10, 100):
            expected = len(set(np.argsort(-scores)[:k]) & set(answers[row, :k]))
            assert judge.recall(answers, k).right[row] == expected


def test_exact_duplicates_of_the_kth_neighbour_count_as_right(tmp_path):
    items = RNG.standard_normal((300, 8)).astype("f4")
    queries = RNG.standard_normal((1, 8)).astype("f4")
    best = search_exact(queries, items, "l2", 10).ids
    items = np.concatenate([items, items[best[:, 9]]])  # a twin of the tenth neighbour
    judge = judge_of(items, queries, "l2", tmp_path)
    swapped = best.copy()
    swapped[:, 9] = 300
    assert (judge.recall(swapped, 10).right == 10).all()
    assert (judge.recall(best, 10).right == 10).all()


def test_ties_through_every_spare_candidate_are_judged_by_score(tmp_path):
    items = np.zeros((500, 4), "f4")
    items[0] = 1
    queries = np.ones((2, 4), "f4")
    judge = judge_of(items, queries, "l2", tmp_path)
    answers = np.array([[0, *range(400, 409)], [*range(400, 410)]])
    assert judge.recall(answers, 10).right.tolist() == [10, 10]
    assert judge.recall(answers, 1).right.tolist() == [1, 0]


def test_a_wrong_neighbour_is_not_let_in_by_an_absolute_tolerance(tmp_path):
    items = (np.arange(50, dtype="f4")[:, None] * np.float32(1e-5)) * np.ones((1, 4), "f4")
    queries = np.zeros((1, 4), "f4")
    judge = judge_of(items, queries, "l2", tmp_path)
    assert judge.recall(np.array([[11, 12, 13, 14, 15, 16, 17, 18, 19, 20]]), 10).right[0] == 0


def test_tie_bounds_equal_brute_force_over_orders(tmp_path):
    items, queries = RNG.standard_normal((60, 6)).astype("f4"), RNG.standard_normal((8, 6)).astype("f4")
    judge = judge_of(items, queries, "ip", tmp_path)
    coarse = np.round(queries @ items.T * 0.7)
    ids = np.argsort(-coarse, axis=1, kind="stable")
    scores = np.take_along_axis(coarse, ids, 1).astype("f4")
    found = judge.recall(ids, 10, scores)
    right = np.argsort(-(queries @ items.T), axis=1)[:, :10]
    for row in range(8):
        draws = []
        for _ in range(3000):
            order = np.lexsort((RNG.random(60), -coarse[row]))[:10]
            draws.append(len(set(order) & set(right[row])) / 10)
        assert found.worst[row] <= min(draws) + 1e-9
        assert found.best[row] >= max(draws) - 1e-9
        assert found.expected[row] == pytest.approx(np.mean(draws), abs=0.02)


def test_bounds_stay_open_where_the_tied_group_runs_past_the_answers(tmp_path):
    items, queries = RNG.standard_normal((60, 6)).astype("f4"), RNG.standard_normal((4, 6)).astype("f4")
    judge = judge_of(items, queries, "ip", tmp_path)
    ids = np.tile(np.arange(12), (4, 1))
    found = judge.recall(ids, 10, np.zeros((4, 12), "f4"))
    assert (found.worst == 0).all() and (found.best == 1).all()


def test_fewer_items_than_k(tmp_path):
    items, queries = RNG.standard_normal((6, 4)).astype("f4"), RNG.standard_normal((3, 4)).astype("f4")
    judge = judge_of(items, queries, "ip", tmp_path)
    ids = search_exact(queries, items, "ip", 6).ids
    assert (judge.recall(ids, 10).per_query == 1).all()


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([[0, 1, 1]], "duplicate"),
        ([[0, 1, 9]], "id 9"),
        ([[0, -2, 1]], "id -2"),
        ([[0, -1, 1]], "after a -1"),
        ([[0, 1]], "shape"),
        ([[0.0, 1.0, 2.0]], "type"),
    ],
)
def test_dishonest_answers_are_refused(ids, told):
    with pytest.raises(Disqualified, match=told):
        check_hits(np.array(ids), 1, 3, 5)


def test_missing_answers_may_fill_the_end():
    check_hits(np.array([[4, 2, -1]]), 1, 3, 5)


def test_own_rows_are_taken_out_of_truth_and_answers(tmp_path):
    items = RNG.standard_normal((50, 5)).astype("f4")
    truth = truth_of(items, items, "l2", np.arange(50), cache=tmp_path)
    assert not (truth.ids == np.arange(50)[:, None]).any()
    assert without(np.array([[3, 1, 2]]), np.array([1])).tolist() == [[3, 2, -1]]
    assert without(np.array([[3, 1, 2]]), np.array([-1])).tolist() == [[3, 1, 2]]


def test_truth_is_computed_once_and_a_torn_cache_is_made_again(tmp_path):
    items, queries = RNG.standard_normal((50, 5)).astype("f4"), RNG.standard_normal((3, 5)).astype("f4")
    first = truth_of(queries, items, "ip", cache=tmp_path)
    (file,) = (tmp_path / "truth").glob("*.npz")
    stamp = file.stat().st_mtime_ns
    assert (truth_of(queries, items, "ip", cache=tmp_path).ids == first.ids).all()
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:100])
    assert (truth_of(queries, items, "ip", cache=tmp_path).ids == first.ids).all()
    truth_of(queries, items, "l2", cache=tmp_path)
    assert len(list((tmp_path / "truth").glob("*.npz"))) == 2


def test_relevance_equals_ir_measures():
    rng = np.random.default_rng(7)
    items, n = np.eye(200, dtype="f4"), 200
    grades = {f"q{row}": {f"d{i}": int(rng.integers(-1, 4)) for i in rng.choice(n, 9, replace=False)}
              for row in range(40)}  # fmt: skip
    dataset = Dataset(
        name="toy", metric="ip", items=items, fit=items, queries=items[:40], validation=items[40:50],
        item_ids=[f"d{i}" for i in range(n)], query_ids=list(grades), qrels=grades,
    )  # fmt: skip
    ids = np.array([rng.permutation(n)[:100] for _ in grades])
    ids[-1] = [(i + 100) % n for i in range(100)]
    ids[5, 40:] = -1
    run = {query: {f"d{i}": -float(at) for at, i in enumerate(answers) if i >= 0}
           for query, answers in zip(grades, ids, strict=True)}  # fmt: skip
    wanted = {"nDCG@10": ir_measures.nDCG @ 10, "MRR@10": ir_measures.RR @ 10, "Recall@100": ir_measures.R @ 100}
    found = Relevance(dataset).per_query(ids)
    assert found.keys() == wanted.keys()
    for name, measure in wanted.items():
        told = {value.query_id: value.value for value in ir_measures.iter_calc([measure], grades, run)}
        assert found[name] == pytest.approx([told[query] for query in grades], abs=1e-12)
    assert 0 < np.count_nonzero(found["MRR@10"]) < len(grades)


def test_relevance_equals_the_closed_form():
    items = np.eye(12, dtype="f4")
    dataset = Dataset(
        name="toy", metric="ip", items=items, fit=items, queries=items[:3], validation=items[3:5],
        item_ids=[f"d{i}" for i in range(12)], query_ids=["a", "b", "c"],
        qrels={"a": {"d4": 1}, "b": {"d0": 1, "d1": 2}},
    )  # fmt: skip
    ids = np.array([[1, 2, 4, *range(5, 12)], [1, 0, *range(2, 10)], [0, 1, 2, *range(3, 10)]])
    found = Relevance(dataset).per_query(ids)
    assert Relevance(dataset).judged == [0, 1]
    assert found["MRR@10"] == pytest.approx([1 / 3, 1])
    assert found["nDCG@10"] == pytest.approx([1 / np.log2(4), 1])
    assert found["Recall@100"] == pytest.approx([1, 1])
