"""Exact search and top-k: equal to sorting, ties to the lower id, the same alone and in a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packbench.errors import BadInput
from packbench.exact import ExactSearcher, reference, score_of, scores_of_pairs, search_exact
from packbench.items import Ragged, as_vectors
from packbench.topk import TopK, top_k

RNG = np.random.default_rng(3)
ITEMS = RNG.standard_normal((3000, 24)).astype("f4")
QUERIES = RNG.standard_normal((7, 24)).astype("f4")


@given(st.lists(st.integers(-3, 3), min_size=0, max_size=30), st.integers(1, 12), st.integers(1, 9))
def test_top_k_equals_a_stable_sort_in_any_blocks(values, k, block):
    scores = np.array([values], "f4").reshape(1, len(values))
    kept = TopK(1, k)
    for first in range(0, len(values), block):
        kept.add(scores[:, first : first + block], first)
    order = np.argsort(-scores[0], kind="stable")[:k]
    expected = np.full(k, -1)
    expected[: len(order)] = order
    assert kept.hits().ids[0].tolist() == expected.tolist()


def test_nan_scores_are_never_best():
    assert top_k(np.array([[np.nan, 1, np.nan, 0]], "f4"), 3).ids.tolist() == [[1, 3, -1]]


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_the_searcher_agrees_with_float64(metric):
    found = ExactSearcher(ITEMS, metric).search(QUERIES, 10)
    alone = [ExactSearcher(ITEMS, metric).search(QUERIES[i : i + 1], 10).ids[0].tolist() for i in range(7)]
    exact = score_of(metric)(QUERIES.astype("f8"), ITEMS.astype("f8"))
    expected = np.argsort(-exact, axis=1)[:, :10]
    assert (found.ids == expected).all()
    assert alone == expected.tolist()
    assert (search_exact(QUERIES, ITEMS, metric, 10).ids == expected).all()
    pairs = scores_of_pairs(QUERIES, ITEMS, expected, metric)
    assert pairs == pytest.approx(np.take_along_axis(exact, expected, 1))


def test_maxsim_equals_a_slow_loop():
    lengths = RNG.integers(1, 6, 40)
    items = Ragged(RNG.standard_normal((lengths.sum(), 8)).astype("f4"), np.concatenate([[0], np.cumsum(lengths)]))
    queries = Ragged(RNG.standard_normal((9, 8)).astype("f4"), np.array([0, 4, 9]))
    found = score_of("maxsim")(queries, items)
    slow = [[sum(max(t @ x for x in item) for t in query) for item in items] for query in queries]
    assert found == pytest.approx(np.array(slow), rel=1e-5)


def test_the_reference_is_scaled_where_it_would_not_fit():
    exact, scale = reference(1000, 16, "ip", limit_bytes=16 * 4 * 100)
    assert scale == 10
    assert exact.search(QUERIES[:, :16], 200).ids[0].max() == 99


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(BadInput, match="ip, cosine, l2"):
        score_of("dot")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    vectors = ITEMS.copy()
    vectors[1234, 5] = bad
    with pytest.raises(BadInput, match="row 1234"):
        as_vectors(vectors)


def test_ragged_items_slice_like_arrays():
    items = Ragged(np.arange(10), np.array([0, 3, 3, 10]))
    assert len(items) == 3
    assert items[2].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert items[1:3].offsets.tolist() == [0, 0, 7]
    assert len(items[5:9]) == 0
    with pytest.raises(BadInput, match="decrease"):
        Ragged(np.arange(3), np.array([0, 2, 1]))
