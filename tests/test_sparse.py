"""Codes of few entries: packed positions, learnt levels, and the methods that choose what to keep."""

from __future__ import annotations

import numpy as np
import pytest

from packbench.budget import Budget
from packbench.exact import search_exact
from packbench.method import Codec, Sample
from packbench.methods.sparse.dictionary_omp import DictionaryOMP, pursue
from packbench.methods.sparse.lowrank_plus_sparse import LowRankPlusSparse
from packbench.methods.sparse.magnitude_prune import MagnitudePrune
from packbench.methods.sparse.random_mask import RandomMask
from packbench.methods.sparse.support import (
    SparseFormat,
    SparseSearcher,
    densify,
    fitting_formats,
    index_dtype,
    pack_index,
    packed_index_bytes,
    sparse_bytes,
    top_k_rows,
    unpack_index,
)
from packbench.methods.sparse.wta_binary import WTABinary

METRICS = ("ip", "cosine", "l2")


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 7]).standard_normal((n, d)).astype(np.float32)


def squared_error(method: Codec, vectors: np.ndarray) -> float:
    shared = method.fit(Sample(vectors))
    return float(((method.decode(method.encode(vectors, shared), shared) - vectors) ** 2).sum())


@pytest.mark.parametrize("width", [1, 2, 33, 256, 257, 3000, 70000])
def test_positions_come_back_in_any_layout(width: int) -> None:
    rng = np.random.default_rng(width)
    for k in {1, 2, min(width, 9), width // 12, width // 3, width - 1, width} & set(range(1, min(width, 2000) + 1)):
        drawn = [np.sort(rng.choice(width, k, replace=False)) for _ in range(20)]
        index = np.stack([*drawn, np.arange(k), np.arange(width - k, width)])
        packed = pack_index(index, width)
        assert packed.shape == (22, packed_index_bytes(k, width))
        np.testing.assert_array_equal(unpack_index(packed, k, width), index)
    assert packed_index_bytes(width, width) == 0


def test_positions_take_no_more_than_a_list_or_a_mask() -> None:
    for k in range(1, 384):
        assert packed_index_bytes(k, 384) <= min(-(-9 * k // 8), 48)
    assert packed_index_bytes(49, 384) == 31  # 2 low bits each, and 49 ones among 95 zeros: 242 bits
    assert sparse_bytes(10, 384, 2) == 40
    assert index_dtype(256) is np.uint8
    assert index_dtype(257) is np.uint16


def test_positions_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        pack_index(np.array([[3, 3]]), 9)


def test_top_k_rows_takes_the_largest_and_of_equals_the_first() -> None:
    rows = gaussian(200, 50)
    rows[::2] = np.round(rows[::2])
    index, values = top_k_rows(rows, 11)
    np.testing.assert_array_equal(index, np.sort(np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :11], axis=1))
    np.testing.assert_array_equal(values, np.take_along_axis(rows, index.astype(np.int64), axis=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_searcher_ranks_as_decoded_vectors(metric: str, bits: int) -> None:
    vectors, queries = gaussian(900, 60), gaussian(70, 60, 1)
    stored = SparseFormat(13, 60, bits)
    index, values = top_k_rows(vectors, 13)
    shared = stored.learn(values)
    codes = stored.code(index, values, shared)
    expected = search_exact(queries, stored.rows(codes, shared), metric, 5).ids
    searcher = stored.searcher(codes, shared, metric)
    assert (searcher.search(queries, 5).ids == expected).mean() > 0.99
    assert (searcher.search(queries[:1], 5).ids == expected[:1]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_searcher_takes_plain_positions_scales_norms_and_a_mean(metric: str) -> None:
    rng = np.random.default_rng(3)
    atoms, mean = gaussian(90, 20, 2), np.full(20, 0.5, np.float32)
    index, values = top_k_rows(gaussian(500, 90), 6)
    scale = rng.uniform(0.5, 2, 500).astype(np.float16)
    rows = densify(index, values * scale[:, None], 90) @ atoms
    about = mean if metric != "l2" else np.zeros(20, np.float32)
    searcher = SparseSearcher(
        index, values, 90, metric, scale=scale, norms=np.linalg.norm(rows + about, axis=1),
        map_queries=lambda q: q @ atoms.T, constants=lambda q: q @ mean,
    )  # fmt: skip
    queries = gaussian(30, 20, 4)
    found = searcher.search(queries, 5).ids
    assert (found == search_exact(queries, rows + about, metric, 5).ids).mean() > 0.99


def test_magnitude_prune_keeps_the_largest_and_all_of_them_exactly() -> None:
    vectors = gaussian(300, 40)
    method = MagnitudePrune(7, bits=16)
    shared = method.fit(Sample(vectors))
    rows = method.decode(method.encode(vectors, shared), shared)
    largest = np.abs(vectors) >= np.sort(np.abs(vectors), axis=1)[:, -7:-6]
    np.testing.assert_array_equal(rows, np.where(largest, vectors.astype(np.float16), 0).astype(np.float32))
    whole = MagnitudePrune(40, bits=16)
    shared = whole.fit(Sample(vectors))
    codes = whole.encode(vectors, shared)
    np.testing.assert_array_equal(whole.decode(codes, shared), vectors.astype(np.float16).astype(np.float32))
    assert codes["index"].size == 0


@pytest.mark.parametrize("budget", [8.0, 16.0, 50.0, 64.0, 128.0, 300.0])
def test_formats_fill_a_budget_to_within_one_entry(budget: float) -> None:
    for one in fitting_formats(Budget(budget, 10**6, 384), 384):
        assert one.item_bytes() <= budget
        if one.k < 384:
            assert SparseFormat(one.k + 1, 384, one.bits).item_bytes() + one.shared_bytes() / 10**6 > budget


def test_the_first_format_is_near_the_best_for_normal_coordinates() -> None:
    vectors = gaussian(400, 384)
    for budget in (16.0, 64.0, 128.0):
        formats = fitting_formats(Budget(budget, 10**6, 384), 384)
        errors = [squared_error(MagnitudePrune(one.k, one.bits), vectors) for one in formats]
        assert errors[0] <= 1.05 * min(errors)
        assert errors[0] < 0.9 * max(errors)


def test_random_masks_lose_to_the_largest_of_as_many() -> None:
    vectors = gaussian(300, 64)
    for mask in ("shared", "item"):
        lost = [squared_error(RandomMask(16, 16, mask, seed), vectors) for seed in range(5)]
        kept = 1 - np.mean(lost) / (vectors**2).sum()
        assert abs(kept - 16 / 64) < 0.02
        assert min(lost) > 1.3 * squared_error(MagnitudePrune(16, 16), vectors)


def test_random_masks_are_uniform_and_of_items_follow_the_item() -> None:
    vectors = gaussian(2000, 64)
    vectors[1] = vectors[0]
    method = RandomMask(16, 16, "item")
    shared = method.fit(Sample(vectors))
    index = unpack_index(method.encode(vectors, shared)["index"], 16, 64)
    np.testing.assert_array_equal(index[0], index[1])
    counts = np.bincount(index.ravel(), minlength=64)
    assert abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)
    assert len(np.unique(index, axis=0)) == 1999
    masks = np.stack([RandomMask(16, seed=seed).fit(Sample(vectors[:20]))["mask"] for seed in range(100)])
    assert abs(np.bincount(masks.ravel(), minlength=64) - 25).max() < 5 * np.sqrt(25 * 0.75)


def test_pursuit_recovers_planted_codes_and_leaves_an_orthogonal_residual() -> None:
    rng = np.random.default_rng(0)
    atoms = gaussian(200, 100)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    index = np.sort(rng.permuted(np.tile(np.arange(200), (150, 1)), axis=1)[:, :5], axis=1)
    values = (rng.uniform(1, 2, (150, 5)) * rng.choice([-1, 1], (150, 5))).astype(np.float32)
    found, fitted = pursue(densify(index, values, 200) @ atoms, atoms, 5)
    same = (found == index).all(axis=1)
    assert same.mean() > 0.9
    np.testing.assert_allclose(fitted[same], values[same], atol=1e-3)
    vectors = gaussian(100, 100, 5)
    found, fitted = pursue(vectors, atoms, 20)
    residual = vectors - densify(found, fitted, 200) @ atoms
    assert np.abs(np.einsum("nkd,nd->nk", atoms[found], residual)).max() < 1e-3
    assert (np.diff(found, axis=1) > 0).all()


def test_pursuit_is_exact_once_the_atoms_span_all() -> None:
    vectors = gaussian(100, 24)
    method = DictionaryOMP(24, 60, bits=16)
    assert squared_error(method, vectors) < 1e-5 * (vectors**2).sum()


def test_a_learnt_dictionary_beats_coordinates_at_equal_entries() -> None:
    rng = np.random.default_rng(1)
    truth = gaussian(48, 32, 1)
    index = rng.permuted(np.tile(np.arange(48), (1200, 1)), axis=1)[:, :3]
    vectors = densify(index, rng.standard_normal((1200, 3)).astype(np.float32), 48) @ truth
    method = DictionaryOMP(6, 48, bits=16)
    shared = method.fit(Sample(vectors[:800]))
    off = method.decode(method.encode(vectors[800:], shared), shared) - vectors[800:]
    plain = squared_error(MagnitudePrune(6, bits=16), vectors[800:])
    assert (off**2).sum() < 0.4 * plain


def test_under_cosine_atoms_make_vectors_of_unit_length() -> None:
    vectors = gaussian(200, 24) * np.linspace(0.1, 9, 200)[:, None].astype(np.float32)
    for bits in (3, 16):
        method = DictionaryOMP(4, 48, bits=bits)
        shared = method.fit(Sample(vectors, "cosine"))
        codes = method.encode(vectors, shared)
        rows = method.decode(codes, shared)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
        found = method.open(codes, shared, "cosine").search(vectors[:40], 5).ids
        assert (found == search_exact(vectors[:40], rows, "cosine", 5).ids).mean() > 0.95


@pytest.mark.parametrize("support", ["largest", "seeded"])
def test_low_rank_and_rest_are_exact_where_either_is_all(support: str) -> None:
    vectors = gaussian(200, 20)
    for rank, s in ((20, 1), (1, 20)):
        error = squared_error(LowRankPlusSparse(rank, s, 16, support), vectors)
        assert error < 1e-5 * (vectors**2).sum()


def test_low_rank_and_rest_are_fitted_with_falling_error() -> None:
    rng = np.random.default_rng(2)
    vectors = (gaussian(400, 3) @ gaussian(3, 40, 1)).astype(np.float32)
    spikes = rng.random(vectors.shape) < 0.05
    vectors[spikes] += 20
    supports = np.sort(rng.permuted(np.tile(np.arange(40), (400, 1)), axis=1)[:, :6], axis=1)
    for given in (None, supports):
        basis, errors = LowRankPlusSparse(3, 6).decompose(vectors, given)
        assert (np.diff(errors) <= 1e-4 * errors[0]).all()
        np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-5)
    largest, seeded = (squared_error(LowRankPlusSparse(3, 6, 8, kind), vectors) for kind in ("largest", "seeded"))
    assert largest < 0.5 * seeded


@pytest.mark.parametrize("support", ["largest", "seeded"])
def test_low_rank_and_rest_are_searched_as_decoded(support: str) -> None:
    vectors, queries = gaussian(500, 30), gaussian(20, 30, 1)
    method = LowRankPlusSparse(8, 5, 4, support)
    shared = method.fit(Sample(vectors))
    codes = method.encode(vectors, shared)
    expected = search_exact(queries, method.decode(codes, shared), "ip", 5).ids
    assert (method.open(codes, shared, "ip").search(queries, 5).ids == expected).mean() > 0.99
    assert len({method.encode(vectors, shared)["low/values"].tobytes() for _ in range(2)}) == 1


def test_winners_overlap_with_themselves_in_k_and_with_others_by_chance() -> None:
    vectors = gaussian(400, 64)
    method = WTABinary(32, 512, density=64, scorer="symmetric")
    # One coordinate for each projection, so that winners of independent vectors are independent.
    wide = gaussian(400, 512, 9)
    shared = {"coordinates": np.arange(512, dtype=np.uint16)[:, None]}
    scores = method.open(method.encode(wide, shared), shared, "ip").search(wide, 400)
    assert (scores.scores[:, 0] == 32).all()
    assert (scores.ids[:, 0] == np.arange(400)).all()
    assert abs(scores.scores[:, 1:].mean() - 32 * 32 / 512) < 0.05
    learnt = method.fit(Sample(vectors))
    assert all(len(np.unique(row)) == 64 for row in learnt["coordinates"])


def test_winners_of_all_coordinates_tell_nothing() -> None:
    vectors = gaussian(50, 30)
    method = WTABinary(30, 30, density=1, scorer="symmetric")
    shared = {"coordinates": np.arange(30, dtype=np.uint8)[:, None]}
    found = method.open(method.encode(vectors, shared), shared, "ip").search(vectors, 5)
    assert (found.scores == 30).all()


def test_winners_are_the_largest_not_those_of_largest_magnitude() -> None:
    vectors = np.array([[-9.0, 1.0, 2.0, -8.0]], np.float32)
    shared = {"coordinates": np.arange(4, dtype=np.uint8)[:, None]}
    codes = WTABinary(2, 4, density=1).encode(vectors, shared)["codes"]
    np.testing.assert_array_equal(unpack_index(codes, 2, 4), [[1, 2]])
