"""Pruners: who is dropped, that none of the dropped is ever named, and what the map of the kept weighs."""

import itertools
from typing import ClassVar

import numpy as np
import pytest

from packbench import artefact
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.rows.data_importance import DataImportance, utility_gradient
from packbench.methods.rows.pruning import bitmap, selected, uniform_hash
from packbench.methods.rows.random_rows import RandomRows
from packbench.methods.rows.static_prune import StaticPrune
from packbench.methods.scalar.float32 import Float32
from packbench.methods.scalar.int8 import Int8
from packbench.spec import parse
from packbench.testing import MethodChecks

PRUNERS = (RandomRows, StaticPrune, DataImportance)


def normal(n, d=16, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def sample_of(items, metric="ip", queries=None):
    """Items, as many queries, and each query's nearest item as the one that is relevant to it."""
    queries = normal(200, items.shape[1], 5) if queries is None else queries
    near = search_exact(queries, items, metric, 1).ids[:, 0]
    pairs = np.stack([np.arange(len(queries)), near], axis=1)
    return Sample(items, metric, queries, {"pairs": pairs, "weights": np.linalg.norm(items, axis=1)})


def coded(method, items, sample):
    """The searcher over items, and the codes that were weighed."""
    shared = method.fit(sample)
    codes = dict(method.encode(items, shared))
    return method.open(artefact.for_search(codes), artefact.for_search(shared), sample.metric), codes


def kept(method, items, sample):
    """The ids of what a pruner keeps."""
    _, codes = coded(method, items, sample)
    return selected(codes["kept"], np.arange(int(np.bitwise_count(codes["kept"]).sum())))


class TestContract(MethodChecks):
    methods: ClassVar = [
        "static_prune(int8(), keep=0.3, by='norm')", "static_prune(pca(dim=16) | int8(), by='quality')",
        "random_rows(rescore(sign(), int8(), tier='disk'), keep=0.6)", "random_rows(int8(), keep=1.0)",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_ranks_lead_back_to_ids(n, share):
    flags = np.random.default_rng(n).random(n) < share
    words, true = bitmap(flags), np.flatnonzero(flags)
    assert words.nbytes == 8 * -(-n // 64)
    ranks = np.concatenate([np.arange(len(true)), [-1]])
    assert np.array_equal(selected(words, np.stack([ranks, ranks[::-1]])), [[*true, -1], [-1, *true[::-1]]])


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_the_answers_are_those_of_an_exact_search_among_the_kept(pruner, metric):
    items, queries = normal(500), normal(30, seed=1)
    sample = sample_of(items, metric)
    method = pruner(Float32(), keep=0.4)
    searcher, codes = coded(method, items, sample)
    ids = kept(method, items, sample)
    wanted = search_exact(queries, items[ids], metric, 10).ids
    assert 150 < len(ids) < 250
    assert np.array_equal(searcher.search(queries, 10).ids, ids[wanted])
    all_there_are = searcher.search(queries, len(ids) + 3).ids
    assert (all_there_are[:, -3:] == -1).all()
    assert (np.sort(all_there_are[:, :-3], axis=1) == ids).all()
    assert artefact.weigh(codes, {}, 500).payload == (64 * len(ids) + 64) / 500


@pytest.mark.parametrize("pruner", PRUNERS)
def test_whoever_keeps_everything_changes_nothing(pruner):
    items, other, queries = normal(300), 3 * normal(200, seed=3), normal(20, seed=1)
    sample = sample_of(items, "l2")
    here, _ = coded(pruner(Int8(), keep=1.0), other, sample)
    alone, _ = coded(Int8(), other, sample)
    one, two = here.search(queries, 10), alone.search(queries, 10)
    assert np.array_equal(one.ids, two.ids)
    assert np.array_equal(one.scores, two.scores)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_choice_does_not_depend_on_the_batch(pruner):
    items = normal(300, seed=3)
    method, sample = pruner(Int8(), keep=0.5), sample_of(normal(400))
    whole = set(kept(method, items, sample).tolist())
    parts = [start + kept(method, items[start : start + 100], sample) for start in (0, 100, 200)]
    assert whole == set(np.concatenate(parts).tolist())
    assert 100 < len(whole) < 200


def test_an_index_is_never_empty():
    low = np.float32(0.1) * normal(50, seed=2)
    method, sample = StaticPrune(Float32(), keep=0.5, by="norm"), sample_of(normal(200))
    assert kept(method, low, sample).tolist() == [int(np.argmax(np.linalg.norm(low, axis=1)))]
    assert len(kept(method, low[:0], sample)) == 0


def test_a_random_draw_costs_the_share_that_it_drops():
    items, queries = normal(4000), normal(200, seed=1)
    true = search_exact(queries, items, "ip", 10).ids
    draws = []
    for seed in range(3):
        method = RandomRows(Float32(), keep=0.6, seed=seed)
        found = coded(method, items, sample_of(normal(2000, seed=9)))[0].search(queries, 10).ids
        right = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)])
        # Of 2,000 answers about 1,600 are different items; five standard errors of their share.
        assert abs(right - 0.6) < 5 * np.sqrt(0.24 / 1200)
        draws.append(found)
    assert not np.array_equal(draws[0], draws[1])


def test_the_hash_is_uniform_and_of_content_alone():
    rows = normal(20_000, 4)
    drawn = np.sort(uniform_hash(rows, 0))
    assert np.abs(drawn - np.arange(20_000) / 20_000).max() < 1.95 / np.sqrt(20_000)  # Kolmogorov-Smirnov, 0.1%
    assert abs(np.corrcoef(uniform_hash(rows, 0), uniform_hash(rows, 1))[0, 1]) < 5 / np.sqrt(20_000)
    next_to = rows.copy()
    next_to[:, 3] = np.nextafter(rows[:, 3], np.float32(9))
    assert abs(np.corrcoef(uniform_hash(rows, 0), uniform_hash(next_to, 0))[0, 1]) < 5 / np.sqrt(20_000)
    assert np.array_equal(uniform_hash(rows[::-1], 0), uniform_hash(rows, 0)[::-1])
    zeros = np.zeros((1, 4), np.float32)
    assert uniform_hash(-zeros, 0) == uniform_hash(zeros, 0)


def planted_junk(metric):
    """Items, a third of which no query comes near; and the rows of these."""
    rng = np.random.default_rng(4)
    items, queries = normal(600), normal(400, seed=5)
    junk = np.sort(rng.choice(600, 200, replace=False))
    axis = np.zeros(16, np.float32)
    axis[0] = 1
    items[:, 0], queries[:, 0] = np.abs(items[:, 0]) + 2, np.abs(queries[:, 0]) + 2
    items[junk, 0] *= -3
    return items, queries, junk


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_what_no_query_comes_near_is_dropped_first(metric):
    items, queries, junk = planted_junk(metric)
    sample = Sample(items[:300], metric, queries)
    method = StaticPrune(Float32(), keep=2 / 3, by="occurrence")
    assert np.isin(kept(method, items[300:], sample), junk - 300).mean() < 0.02
    assert 150 < len(kept(method, items[300:], sample)) < 250


def test_estimates_that_came_with_the_sample_are_followed():
    items, _, junk = planted_junk("l2")
    weights = np.where(np.isin(np.arange(600), junk), 0.0, 1.0) + np.linspace(0, 0.1, 600)
    method = StaticPrune(Float32(), keep=2 / 3, by="quality")
    sample = Sample(items, "l2", None, {"weights": weights})
    assert np.array_equal(kept(method, items, sample), np.setdiff1d(np.arange(600), junk))
    near = items + np.float32(1e-3) * normal(600, seed=8)
    assert np.array_equal(kept(method, near, sample), np.setdiff1d(np.arange(600), junk))
    with pytest.raises(BadInput, match=r"shape \(3,\)"):
        method.fit(Sample(items, "l2", None, {"weights": np.ones(3)}))


@pytest.mark.parametrize("apart", [True, False])
def test_occurrence_counts_lists(apart):
    items, queries = normal(300), normal(200, seed=1) if apart else None
    method = StaticPrune(Float32(), k=5)
    learned, scores = method.learn(items, Sample(items, "ip", queries))
    if apart:
        lists = search_exact(queries, items, "ip", 5).ids
    else:
        scored = items @ items.T
        np.fill_diagonal(scored, -np.inf)
        # The floor of an item's list is set with itself among the six best, where it usually is the first.
        lists = [np.flatnonzero(row >= floor) for row, floor in zip(scored, learned["floors"], strict=True)]
        lists = np.concatenate(lists)
    counts = np.bincount(np.ravel(lists), minlength=300)
    assert np.array_equal(np.where(scores < 0, 0, np.floor(scores)), counts)
    assert len(np.unique(scores)) > 285, "equal counts are told apart, but for those that only just reach a list"


def test_the_gradient_of_the_expected_utility_is_exact():
    rng = np.random.default_rng(0)
    present, utility = rng.random((4, 8)), rng.standard_normal((4, 8))

    def expected(p, u, k):
        total = 0.0
        for world in itertools.product((0, 1), repeat=8):
            here = np.array(world, bool)
            total += np.prod(np.where(here, p, 1 - p)) * u[here][:k].sum() / k
        return total

    found = utility_gradient(present, utility, 3)
    for row, item in itertools.product(range(4), range(8)):
        one, none = present[row].copy(), present[row].copy()
        one[item], none[item] = 1, 0
        # The expectation is linear in each probability.
        assert found[row, item] == pytest.approx(
            expected(one, utility[row], 3) - expected(none, utility[row], 3), abs=1e-14
        )


def test_items_that_stand_before_the_relevant_ones_are_dropped():
    rng = np.random.default_rng(0)
    relevant, queries = normal(60, seed=1), None
    queries = np.repeat(relevant, 5, axis=0) + 0.3 * normal(300, seed=2)
    harmful = np.concatenate([relevant + 0.1 * normal(60, seed=seed) for seed in (3, 4)])
    items = np.concatenate([relevant, harmful])[rng.permutation(180)]
    near = search_exact(relevant, items, "l2", 1).ids[:, 0]  # where the relevant ones stand
    pairs = np.stack([np.arange(300), np.repeat(near, 5)], axis=1)
    method = DataImportance(Float32(), keep=1 / 3, k=1)
    sample = Sample(items, "l2", queries, {"pairs": pairs})
    assert np.array_equal(kept(method, items, sample), np.sort(near))
    # Without pairs for them, other items stay where they were.
    learned, _ = method.learn(items, Sample(items, "l2", queries, {"pairs": pairs[:5]}))
    assert (learned["importance"][near[1:]] == 0.5).mean() > 0.5


def test_pairs_outside_the_sample_are_refused():
    items, queries = normal(50), normal(10, seed=1)
    for pairs in ([[0, 50]], [[10, 0]], [[-1, 0]], np.zeros((0, 2))):
        with pytest.raises(BadInput, match="rows of 10 queries and 50 items"):
            DataImportance(Int8()).fit(Sample(items, "ip", queries, {"pairs": np.asarray(pairs)}))
    with pytest.raises(BadInput, match="queries and pairs"):
        DataImportance(Int8()).fit(Sample(items, "ip"))


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_fewer_items_get_larger_codes(pruner, d):
    answered = 0
    for at in (4.0, 16.0, 64.0, 512.0):
        try:
            found = list(pruner.for_budget(Budget(at, 1_000_000, d)))
        except BudgetTooSmall as error:
            assert error.least > at
            continue
        answered += 1
        assert [method.keep for method in found] == [0.9, 0.75, 0.5][-len(found) :]
        items = [method.code.planned_bytes(d)[0] for method in found]
        assert items == sorted(items)
        for method, item in zip(found, items, strict=True):
            share = method.keep + 0.05
            assert 1 / 8 + share * item + method.code.planned_bytes(d)[1] / 1e6 <= at * (1 + 1e-6)
    assert answered == 4


@pytest.mark.parametrize("spec", [
    "random_rows(int8(), keep=0)", "random_rows(int8(), keep=1.5)", "static_prune(int8(), by='age')",
    "static_prune(int8(), k=0)", "data_importance(int8(), depth=0)", "data_importance(int8(), rate=-1.0)",
])  # fmt: skip
def test_what_can_never_work_is_refused(spec):
    with pytest.raises(BadInput, match=r"expected|at least"):
        parse(spec)


def test_an_empty_sample_is_refused():
    with pytest.raises(BadInput, match="empty"):
        RandomRows(Int8()).fit(Sample(np.zeros((0, 4), np.float32)))
