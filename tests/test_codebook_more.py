"""Controls, additive and residual codes, merged blocks and lossless stages: recovered structure and identities."""

from __future__ import annotations

import dataclasses
from typing import Any

import faiss
import numpy as np
import pytest

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.items import Array, Items
from packbench.method import Hits, Method, Sample
from packbench.methods.codebook import adc, rans
from packbench.methods.codebook.additive import decode, pack, without_repeats
from packbench.methods.codebook.additive_pv import AdditivePV
from packbench.methods.codebook.block_dedup import BlockDedup
from packbench.methods.codebook.entropy_coding import EntropyCoding
from packbench.methods.codebook.local_search import alternate, beam_search, least_squares, refine, summed
from packbench.methods.codebook.lsq import LSQ
from packbench.methods.codebook.opq import OPQ
from packbench.methods.codebook.pq import PQ
from packbench.methods.codebook.prq import PRQ
from packbench.methods.codebook.random_codebook import RandomCodebook
from packbench.methods.codebook.rq import RQ
from packbench.methods.codebook.semantic_id import PrefixSearcher, SemanticId
from packbench.methods.codebook.vq_opq_residual import VQOPQResidual
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8
from packbench.spec import parse
from packbench.testing import MethodChecks

CODECS = ("random_codebook(m=5)", "prq(blocks=4, bits=5)", "prq(blocks=5, m=3, bits=4)", "lsq(m=6)", "lsq(m=3, bits=6)",
          "vq_opq_residual(m=4, words=16)", "semantic_id(m=5, keep=1.0)", "additive_pv(m=6)")  # fmt: skip


class TestContract(MethodChecks):
    """What the registry's own contract test does not reach: other numbers of bits, padding, ways to scan."""

    methods = ("pq(m=9, bits=4, scan='rounded')", "prq(blocks=5, m=3, bits=5)", "entropy_coding(lvq())")  # fmt: skip

    # The registry's contract test holds these for each method; processes are slow to start.
    test_survives_in_processes_of_its_own = None
    test_small_samples_never_crash = None
    test_a_budget_is_answered_in_time = None


def gaussian(n: int, d: int, seed: int = 0) -> Array:
    """Return correlated rows whose axes of variance are not the coordinates."""
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(2, 0.2, d)
    return (rows @ turn + 0.1).astype(np.float32)


def built(method: Method, rows: Items, items: Items | None = None, metric: str = "ip", queries: Array | None = None):
    """Fit on rows and code the items; both as encode and search are given them."""
    shared = dict(method.fit(Sample(rows, metric, queries)))
    return dict(method.encode(rows if items is None else items, shared)), shared


def distortion(method: Any, rows: Array, items: Array | None = None) -> float:
    codes, shared = built(method, rows, items)
    return float(np.mean((method.decode(codes, shared) - (rows if items is None else items)) ** 2))


def recall(found: Hits, true: Array) -> float:
    return float(np.mean([np.isin(ids, wanted).mean() for ids, wanted in zip(found.ids, true, strict=True)]))


@pytest.mark.parametrize("spec", CODECS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_look_ups_are_scores_of_decoded_vectors(spec, metric):
    method: Any = parse(spec)
    items, queries = gaussian(300, 18, 1), gaussian(12, 18, 2)
    codes, shared = built(method, gaussian(300, 18), items, metric, gaussian(60, 18, 3))
    searchable = {name: array for name, array in shared.items() if not name.startswith("build/")}
    decoded = method.decode(codes, searchable)
    for some in (queries, queries[:2]):
        found = method.open(codes, searchable, metric).search(some, 10)
        # Codes of cosine are those of unit vectors, and scored by their inner products.
        wanted = search_exact(some, decoded, metric if metric == "l2" else "ip", 10)
        assert np.allclose(found.scores, wanted.scores, atol=1e-4 * np.abs(wanted.scores).max())


@pytest.mark.parametrize("cls", [RandomCodebook, PRQ, LSQ, VQOPQResidual, SemanticId, AdditivePV, EntropyCoding])
@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_every_budget_is_answered_by_what_fits(cls, d):
    for at in (4, 8, 16, 32, 64, 128, 256, 512):
        budget = Budget(at, 1_000_000, d)
        found = list(cls.for_budget(budget))
        assert found and len(found) == len(set(found))
        for method in found:
            assert parse(str(method)) == method
            if cls is not EntropyCoding:
                assert budget.holds(*method.planned_bytes(d))


@pytest.mark.parametrize("build", [lambda: PQ(4, 8, scan="float"), lambda: PQ(4, 4, scan="fast"), lambda: PRQ(0),
                                   lambda: PRQ(2, beam=0), lambda: LSQ(2, ridge=0), lambda: LSQ(2, rounds=-1),
                                   lambda: VQOPQResidual(2, words=257), lambda: VQOPQResidual(2, rounds=-1),
                                   lambda: SemanticId(2, prefix=0), lambda: SemanticId(2, keep=0),
                                   lambda: BlockDedup(-1), lambda: BlockDedup(sim=0), lambda: AdditivePV(2, weight=1),
                                   lambda: AdditivePV(2, cap=0), lambda: AdditivePV(2, ridge=0)])  # fmt: skip
def test_numbers_that_cannot_work_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


# Fast scan


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("m", [8, 9])
def test_rounded_scan_is_that_of_faiss(metric, m):
    """With the same codebook, faiss's own FastScan index gives the same answers."""
    items, queries, method = gaussian(1000, 8 * m, 1), gaussian(20, 8 * m, 2), PQ(m, 4, scan="rounded")
    codes, shared = built(method, items, metric=metric)
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexPQFastScan(8 * m, m, 4, measure)
    index.pq, index.is_trained = adc.product_quantiser(shared["codebook"]), True
    index.add(items)
    searcher = method.open(codes, shared, metric)
    found, (scores, ids) = searcher.search(queries, 10), index.search(queries, 10)
    assert searcher.kernel == "faiss FastScan 4 bit, rounded"
    assert recall(found, ids) > 0.995
    assert np.allclose(found.scores, -scores if metric == "l2" else scores, rtol=1e-4)
    auto = PQ(m, 4).open(codes, shared, metric).search(queries, 10)
    exact = dataclasses.replace(method, scan="float").open(codes, shared, metric).search(queries, 10)
    assert recall(auto, exact.ids) > 0.995
    true = search_exact(queries, items, metric, 10).ids
    assert abs(recall(found, true) - recall(exact, true)) < 0.02


def test_ways_to_scan_share_codes_and_bytes():
    rows = gaussian(200, 16)
    for scan in ("rounded", "float"):
        method = PQ(9, 4, scan=scan)
        (codes, shared), (plain, also) = built(method, rows), built(PQ(9, 4), rows)
        assert np.array_equal(codes["codes"], plain["codes"]) and np.array_equal(shared["codebook"], also["codebook"])
        assert method.planned_bytes(16) == PQ(9, 4).planned_bytes(16)
        zero = method.open(codes, shared, "ip").search(np.zeros((1, 16), np.float32), 200)
        assert sorted(zero.ids[0].tolist()) == list(range(200))


# Random codebooks


def test_k_means_from_the_drawn_rows_never_ends_worse():
    rows, gaps = gaussian(600, 12), []
    for seed in range(5):
        method = RandomCodebook(3, 5, seed=seed)
        shared = method.fit(Sample(rows))
        blocks = np.split(rows, 3, axis=1)
        for block, words in zip(blocks, shared["codebook"], strict=True):
            assert all((block == word).all(axis=1).any() for word in words)
        before = distortion(method, rows)
        codebook = shared["codebook"].copy()
        for _ in range(10):
            codes = adc.unpack(adc.assign(rows, codebook), 3, 5)
            for book, block in enumerate(blocks):
                for word in np.unique(codes[:, book]):
                    codebook[book, word] = block[codes[:, book] == word].mean(axis=0)
        after = float(np.mean((adc.decode(adc.assign(rows, codebook), codebook) - rows) ** 2))
        gaps.append(before - after)
    assert min(gaps) > 0.02 * before


# Product-residual quantisation


def test_one_block_is_residual_and_one_level_product_quantisation():
    rows, items = gaussian(900, 16), gaussian(200, 16, 1)
    one_block, residual = PRQ(1, 3, 5), RQ(3, 5, train_beam=1)
    assert distortion(one_block, rows, items) == pytest.approx(distortion(residual, rows, items), rel=0.05)
    assert distortion(PRQ(4, 1, 5), rows, items) == pytest.approx(distortion(PQ(4, 5), rows, items), rel=0.03)
    codes, shared = built(PRQ(4, 1, 5), rows, items)
    assert np.array_equal(codes["codes"], adc.assign(items, shared["codebook"]))


def test_product_residual_codes_are_those_of_faiss():
    rows, items, queries = gaussian(900, 16), gaussian(400, 16, 1), gaussian(300, 16, 2)
    method = PRQ(4, 2, 6)
    codes, shared = built(method, rows, items)
    index: Any = faiss.index_factory(16, "PRQ4x2x6", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(items)
    true = search_exact(queries, items, "ip", 10).ids
    ours = recall(method.open(codes, shared, "ip").search(queries, 10), true)
    # faiss keeps five residuals in training as well.
    assert ours > recall(Hits(index.search(queries, 10)[1], true), true) - 0.03
    theirs = faiss.vector_to_array(index.prq.codebooks).reshape(shared["codebook"].shape)
    same = {"codebook": theirs, "d": shared["d"], "unit": shared["unit"]}
    mine = dataclasses.replace(method, beam=5).encode(items, same)["codes"]  # faiss's own beam
    assert np.mean(mine == index.prq.compute_codes(items)) > 0.995


# Additive codes


def planted(n: int, m: int, ksub: int, d: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    codebook = rng.standard_normal((m, ksub, d)).astype(np.float32)
    codes = rng.integers(ksub, size=(n, m))
    return summed(codes, codebook), codebook, codes


def test_planted_sums_are_recovered_better_than_by_residuals():
    # How near one fit comes to the planted words is chance: of eight, between a fifth and three quarters is left.
    several = [planted(1500, 3, 8, 16, seed)[0] for seed in range(8)]
    errors = [[distortion(method, rows) for rows in several] for method in (LSQ(3, 3, ridge=0.01, rounds=15), RQ(3, 3))]
    assert sum(errors[0]) < 0.55 * sum(errors[1])


def test_local_search_finds_planted_words():
    rows, codebook, codes = planted(300, 4, 8, 24)
    wrong = np.random.default_rng(1).integers(8, size=codes.shape)
    found, gains = refine(rows, codebook, wrong, 32, 0)
    errors = [np.square(rows - summed(some, codebook)).sum(axis=1) for some in (wrong, found)]
    assert np.allclose(gains, errors[0] - errors[1], atol=1e-2)
    assert np.mean(found == codes) > 0.95
    alone = np.concatenate([refine(rows[i : i + 1], codebook, wrong[i : i + 1], 32, 0)[0] for i in range(40)])
    assert np.array_equal(alone, found[:40])


def test_local_search_from_residual_codes_never_ends_worse():
    rows = gaussian(400, 16)
    codebook = RQ(4, 4).fit(Sample(rows))["codebook"]
    codes = beam_search(rows, codebook, beam=1)
    found, gains = refine(rows, codebook, codes, 8, 0)
    errors = [np.square(rows - summed(some, codebook)).sum(axis=1) for some in (codes, found)]
    assert gains.min() >= 0 and (errors[1] <= errors[0] + 1e-3).all()
    assert errors[1].sum() < 0.99 * errors[0].sum()


@pytest.mark.parametrize("cap", [1.0, 0.2])
def test_no_step_raises_the_objective(cap):
    rows = gaussian(500, 12)
    told: list[float] = []
    start = RQ(4, 4).fit(Sample(rows))["codebook"]
    alternate(rows, start, 5, 4, 1.0, 0, cap=cap, watch=told.append)
    assert len(told) == 10
    assert (np.diff(told) <= 1e-5 * told[0]).all()
    assert told[-1] < 0.97 * told[0]


def test_additive_codes_err_no_more_than_those_of_faiss():
    rows, items = gaussian(1200, 12), gaussian(300, 12, 1)
    theirs: Any = faiss.LocalSearchQuantizer(12, 4, 4)
    theirs.train(rows)
    error = np.mean((theirs.decode(theirs.compute_codes(items)) - items) ** 2)
    assert distortion(LSQ(4, 4, ridge=0.1, rounds=10), rows, items) < 1.03 * error


def test_words_are_the_least_squares_solution():
    rows, _, codes = planted(400, 3, 4, 6)
    rows = rows + np.random.default_rng(2).standard_normal(rows.shape).astype(np.float32)
    chosen = np.concatenate([np.eye(4)[codes[:, book]] for book in range(3)], axis=1)
    held = np.concatenate([chosen, np.sqrt(2.0) * np.eye(12)])
    wanted = np.linalg.lstsq(held, np.concatenate([rows, np.zeros((12, 6))]), rcond=None)[0]
    assert np.allclose(least_squares(rows, codes, 3, 4, 2.0).reshape(12, 6), wanted, atol=1e-4)


def test_packed_sums_are_decoded():
    rows, codebook, codes = planted(50, 5, 8, 7)
    packed = pack(codes, 3)
    assert np.array_equal(adc.unpack(packed, 5, 3), codes)
    assert np.allclose(decode(packed, codebook), rows, atol=1e-5)
    codebook[2, 5] = codebook[2, 1]
    assert not without_repeats(codebook)[2, 5].any() and without_repeats(codebook)[2, 1].any()


# Score-aware additive codes


def test_without_queries_it_is_additive_quantisation():
    rows = gaussian(400, 12)
    score_aware, plain = AdditivePV(4, 4, weight=0.0, cap=1.0, rounds=3), LSQ(4, 4, rounds=3)
    assert score_aware.needed() == frozenset() and AdditivePV(4).needed() == {"queries"}
    (codes, shared), (wanted, also) = built(score_aware, rows), built(plain, rows)
    assert np.allclose(shared["codebook"], also["codebook"], atol=1e-5)
    assert np.mean(codes["codes"] == wanted["codes"]) > 0.99
    with pytest.raises(BadInput, match="fit queries"):
        AdditivePV(4, 4).fit(Sample(rows))


def test_scores_err_less_where_queries_look():
    """Queries that see a few directions only: the words are spent on these."""
    rows, items = gaussian(800, 16), gaussian(300, 16, 1)
    seen = np.random.default_rng(5).standard_normal((260, 3)) @ np.random.default_rng(6).standard_normal((3, 16))
    fit_queries, queries = np.float32(seen[:200]), np.float32(seen[200:])
    errors = []
    for weight in (0.0, 0.9):
        method = AdditivePV(4, 4, weight=weight)
        codes, shared = built(method, rows, items, queries=fit_queries)
        errors.append(np.mean((queries @ (method.decode(codes, shared) - items).T) ** 2))
    assert errors[1] < 0.7 * errors[0]


# A coarse word and a rotated residual


def test_one_word_is_optimised_product_quantisation_about_the_mean():
    rows, items = gaussian(700, 12), gaussian(100, 12, 1)
    codes, shared = built(VQOPQResidual(3, words=1, rounds=0), rows, items)
    centre = rows.mean(axis=0)
    inner = OPQ(3)
    kept = inner.fit(Sample(rows - shared["words"][0], "l2"))
    assert np.allclose(shared["words"][0], centre, atol=1e-5)
    assert np.array_equal(codes["codes"][:, 1:], inner.encode(items - shared["words"][0], kept)["codes"])
    assert not codes["codes"][:, 0].any()


def test_residuals_of_few_kinds_are_coded_without_error():
    rng = np.random.default_rng(0)
    words = 50 * rng.standard_normal((4, 8))
    offsets = np.concatenate([rng.standard_normal((5, 8)), -rng.standard_normal((5, 8))])
    offsets -= offsets.mean(axis=0)
    rows = np.float32((words[:, None] + offsets).reshape(40, 8))
    assert distortion(VQOPQResidual(2, words=4), np.repeat(rows, 10, axis=0)) < 1e-6


def test_rotation_behind_the_coarse_stage_differs_from_one_in_front():
    """Each cluster's residuals lie along turned axes: opq, which rotates whole vectors, sees the clusters first."""
    rng = np.random.default_rng(0)
    words = 20 * rng.standard_normal((16, 12))
    rows, items = (np.float32(words[rng.integers(16, size=n)] + gaussian(n, 12, n)) for n in (900, 200))
    assert distortion(VQOPQResidual(3, words=16), rows, items) < 0.8 * distortion(OPQ(4), rows, items)


@pytest.mark.parametrize("seed", [0, 7, 9])
def test_moving_the_words_never_ends_worse(seed):
    # From seeds 7 and 9, two more rounds end worse than none.
    rows = np.random.default_rng(seed).standard_normal((600, 12)).astype(np.float32)
    before, after = (distortion(VQOPQResidual(2, 16, 4, rounds), rows) for rounds in (0, 2))
    assert after <= before * (1 + 1e-6)


# Coarse-to-fine codes


def test_greedy_levels_are_residual_quantisation():
    rows = gaussian(500, 12)
    codes, shared = built(SemanticId(4, 5), rows)
    wanted, also = built(RQ(4, 5, beam=1, train_beam=1), rows)
    assert np.array_equal(codes["codes"], wanted["codes"]) and np.array_equal(shared["codebook"], also["codebook"])
    # A prefix of a code is the code of fewer levels.
    assert np.array_equal(adc.unpack(codes["codes"], 4, 5)[:, 0], built(SemanticId(1, 5), rows)[0]["codes"][:, 0])


def test_items_that_share_a_prefix_are_nearer_than_random_ones():
    rows = gaussian(600, 12)
    first, second = adc.unpack(built(SemanticId(4, 5), rows)[0]["codes"], 4, 5)[:, :2].T
    distances = np.square(rows[:, None] - rows[None]).sum(axis=2)
    apart = ~np.eye(len(rows), dtype=bool)
    one = (first[:, None] == first) & apart
    both = one & (second[:, None] == second)
    assert distances[both].mean() < 0.8 * distances[one].mean() < 0.6 * distances[apart].mean()


def test_a_prefix_leaves_out_what_scores_low_by_it():
    sums, codebook, codes = planted(500, 6, 32, 10)
    queries = np.random.default_rng(1).standard_normal((10, 10)).astype(np.float32)
    whole = PrefixSearcher(pack(codes, 5), codebook, 6, 1.0).search(queries, 10)
    assert np.allclose(whole.scores, search_exact(queries, sums, "ip", 10).scores, rtol=1e-4)
    some = PrefixSearcher(pack(codes, 5), codebook, 1, 0.2).search(queries, 10)
    for row, query in enumerate(queries):
        by_prefix = (codebook[0] @ query)[codes[:, 0]]
        left = np.flatnonzero(by_prefix >= np.partition(by_prefix, 400)[400])
        wanted = search_exact(query[None], sums[left], "ip", 10)
        assert np.array_equal(some.ids[row], left[wanted.ids[0]])


# Merged blocks


@pytest.mark.parametrize("width", [0, 4, 5])
def test_equal_blocks_are_kept_once_and_nothing_is_lost(width):
    rows = np.repeat(gaussian(20, 12), 10, axis=0)[np.random.default_rng(0).permutation(200)]
    rows[0], rows[1] = 0.0, -0.0
    method = BlockDedup(width)
    codes, shared = built(method, rows)
    count = -(-12 // (width or 12))
    assert len(codes["blocks"]) <= 21 * count
    assert codes["pointers"].nbytes == 4 * 200 * count
    found = method.open(codes, shared, "ip").search(np.eye(12, dtype=np.float32), 200)
    for axis, (ids, scores) in enumerate(zip(found.ids, found.scores, strict=True)):
        assert np.array_equal(scores, rows[ids, axis])


def test_near_blocks_are_merged_as_far_as_told():
    rng = np.random.default_rng(0)
    kinds = gaussian(10, 20)
    rows = np.repeat(kinds, 20, axis=0) + rng.uniform(-0.004, 0.004, (200, 20)).astype(np.float32)
    rows[:, 0] += np.arange(200)  # one coordinate of twenty differs in all
    assert len(built(BlockDedup(), rows)[0]["blocks"]) == 200
    assert len(built(BlockDedup(fp=0.01), rows)[0]["blocks"]) == 200
    rows[:, 0] = kinds[0, 0] + rng.choice([0.0, 0.02], 200)
    codes, shared = built(BlockDedup(fp=0.01, sim=0.9), rows)
    assert 10 <= len(codes["blocks"]) <= 14
    assert len(built(BlockDedup(fp=0.001, sim=0.9), rows)[0]["blocks"]) > 100
    found = BlockDedup().open(codes, shared, "ip").search(np.eye(20, dtype=np.float32)[1:], 200)
    for axis, (ids, scores) in enumerate(zip(found.ids, found.scores, strict=True), 1):
        assert np.abs(scores - rows[ids, axis]).max() <= 0.0101


def test_a_budget_below_the_vectors_is_refused():
    with pytest.raises(BudgetTooSmall) as error:
        BlockDedup.for_budget(Budget(64, 1_000_000, 64))
    assert list(BlockDedup.for_budget(Budget(error.value.least, 1_000_000, 64))) == [BlockDedup()]


# The lossless stage


def skewed(n: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(128, np.linspace(1, 40, width), (n, width)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 2, 3, 17, 300])
def test_bytes_come_back_and_cost_what_they_say(width):
    rows = np.concatenate([skewed(300, width), np.random.default_rng(1).integers(0, 256, (20, width)).astype(np.uint8)])
    tables = rans.frequencies(skewed(2000, width, 1))
    values, lengths = rans.encode(rows, tables)
    assert len(values) == lengths.sum() and lengths.max() <= width
    assert np.array_equal(rans.decode(values, lengths, tables, rans.starts(tables)), rows)
    shrunk = lengths < width
    bits = rans.information(rows, tables)[shrunk]
    # The byte coded first may cost nothing, or all the bits of a frequency.
    assert (8 * lengths[shrunk] >= bits - rans.PRECISION).all()
    assert (8 * lengths[shrunk] <= 1.001 * bits + rans.PRECISION + 8).all()


def test_tables_are_near_the_entropy_of_what_they_learnt_from():
    rows, fresh = skewed(4000, 40), skewed(4000, 40, 1)
    tables = rans.frequencies(rows)
    assert (tables.sum(axis=1) == rans.TOTAL).all() and tables.min() >= 1
    shares = [np.bincount(column, minlength=256) / len(rows) for column in fresh.T]
    entropy = sum(-(share[share > 0] * np.log2(share[share > 0])).sum() for share in shares)
    coded = 8 * rans.encode(fresh, tables)[1].mean()
    assert entropy < rans.information(fresh, tables).mean() < 1.015 * entropy
    assert entropy < coded <= 1.015 * entropy + 16


def test_even_codes_do_not_shrink():
    rows = np.random.default_rng(0).integers(0, 256, (3000, 24)).astype(np.uint8)
    values, lengths = rans.encode(rows, rans.frequencies(rows))
    assert len(values) / len(rows) > 0.99 * 24
    assert lengths.max() <= 24


@pytest.mark.parametrize("inner", [Int4(), Int8(), parse("lvq()"), PQ(4, 6), parse("sign()")])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_answers_are_those_of_the_inner_method(inner, metric, monkeypatch):
    monkeypatch.setattr("packbench.methods.codebook.entropy_coding.ROWS", 97)
    items, queries = gaussian(400, 16, 1), gaussian(12, 16, 2)
    codes, shared = built(EntropyCoding(inner), gaussian(300, 16), items, metric)
    plain, also = built(inner, gaussian(300, 16), items, metric)
    found = EntropyCoding(inner).open(codes, shared, metric).search(queries, 10)
    wanted = inner.open(plain, also, metric).search(queries, 10)
    assert np.allclose(found.scores, wanted.scores, rtol=1e-5, atol=1e-5)
    assert np.mean(found.ids == wanted.ids) > 0.9


def test_bell_shaped_codes_shrink():
    items = gaussian(2000, 96, 1)
    codes, _ = built(EntropyCoding(Int4()), items)
    assert sum(array.nbytes for array in codes.values()) < 0.96 * 2000 * 48
    assert codes["lengths"].dtype == np.uint8
