"""Product, optimised product and residual quantisation: recovered structure, agreement with faiss, bytes."""

import itertools
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.codebook import adc
from packbench.methods.codebook.opq import OPQ
from packbench.methods.codebook.pq import PQ
from packbench.methods.codebook.rq import RQ
from packbench.spec import parse
from packbench.testing import MethodChecks

LADDER = (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
SPECS = ("pq(m=4)", "pq(m=5, bits=6)", "pq(m=9, bits=4)", "opq(m=4)", "opq(m=4, dim=8)", "opq(m=3, bits=4)", "rq(m=3)",
         "rq(m=5, bits=5, norm_bits=8)", "rq(m=4, bits=4, norm_bits=32)")  # fmt: skip


def gaussian(n, d, seed=0):
    """Correlated rows whose axes of variance are not the coordinates."""
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(2, 0.2, d)
    return (rows @ turn + 0.1).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def built(method, rows, items=None, metric="ip"):
    """Fit on rows and code the items; both as search is given them."""
    shared = dict(method.fit(Sample(rows, metric)))
    return dict(method.encode(rows if items is None else items, shared)), shared


def distortion(method, rows, items=None):
    codes, shared = built(method, rows, items)
    return float(np.mean((method.decode(codes, shared) - (rows if items is None else items)) ** 2))


def overlap(one, other):
    return np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one, other, strict=True)])


class TestContract(MethodChecks):
    """What the registry's own contract test does not reach: other numbers of bits, padding, norms."""

    methods = ("pq(m=5, bits=6)", "pq(m=9, bits=4)", "opq(m=3, bits=4)", "rq(m=5, bits=5, norm_bits=8)")
    n = 400

    # The registry's contract test holds these for each method; processes are slow to start.
    test_survives_in_processes_of_its_own = None
    test_small_samples_never_crash = None


@pytest.mark.parametrize("spec", SPECS)
def test_spec_round_trip(spec):
    assert str(parse(spec)) == spec


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("d", [12, 16, 33])
def test_bytes_are_those_planned(spec, d):
    method = parse(spec)
    codes, shared = built(method, gaussian(300, d))
    item, fixed, cold = method.planned_bytes(d)
    assert sum(array.nbytes for array in codes.values()) / 300 == item
    assert sum(array.nbytes for array in shared.values()) == fixed
    assert cold == 0


@pytest.mark.parametrize("cls", [PQ, OPQ, RQ])
@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_every_budget_is_filled_by_what_fits(cls, d):
    before = 0.0
    for at in LADDER:
        budget = Budget(at, 1_000_000, d)
        try:
            found = list(cls.for_budget(budget))
        except BudgetTooSmall:
            pytest.fail(f"{at} bytes hold a codebook of {d} coordinates")
        assert len(found) == len(set(found))
        for method in found:
            assert budget.holds(*method.planned_bytes(d))
            assert parse(str(method)) == method
            assert method.m <= d or cls is RQ
        assert found[0].planned_bytes(d)[0] >= before
        before = found[0].planned_bytes(d)[0]


def test_a_budget_that_holds_no_codebook_says_what_would():
    for cls, smallest in ((PQ, PQ(1, 4)), (OPQ, OPQ(1, 8, 1)), (RQ, RQ(1, 4))):
        with pytest.raises(BudgetTooSmall) as error:
            list(cls.for_budget(Budget(4, 100, 64)))
        item, shared, _ = smallest.planned_bytes(64)
        assert error.value.least == item + shared / 100
        assert list(cls.for_budget(Budget(error.value.least * (1 + 1e-9), 100, 64)))


def test_pq_takes_all_bytes_that_the_codebook_leaves():
    assert next(iter(PQ.for_budget(Budget(16, 1_000_000, 384)))) == PQ(15)
    assert next(iter(PQ.for_budget(Budget(512, 1_000_000, 384)))) == PQ(384)


@pytest.mark.parametrize("build", [lambda: PQ(0), lambda: PQ(4, 0), lambda: PQ(4, 17), lambda: OPQ(4, dim=9),
                                   lambda: OPQ(4, niter=-1), lambda: OPQ(4, start="random"), lambda: RQ(0),
                                   lambda: RQ(2, beam=0), lambda: RQ(2, norm_bits=4)])  # fmt: skip
def test_numbers_that_cannot_work_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


def test_more_blocks_than_coordinates_are_refused():
    for method in (PQ(9), OPQ(9), OPQ(4, dim=12)):
        with pytest.raises(BadInput, match="8 coordinates"):
            method.fit(Sample(gaussian(50, 8)))


@pytest.mark.parametrize("method", [PQ(2), OPQ(2), RQ(2)])
def test_codes_serve_the_metric_they_were_fitted_for(method):
    rows = gaussian(300, 8)
    codes, shared = built(method, rows, metric="cosine")
    with pytest.raises(BadInput, match="fit again"):
        method.open(codes, shared, "ip")
    codes, shared = built(method, rows, metric="l2")
    with pytest.raises(BadInput, match="fit again"):
        method.open(codes, shared, "cosine")
    with pytest.raises(BadInput, match="7 coordinates"):
        method.encode(rows[:, :7], shared)


# Search


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_look_ups_are_scores_of_decoded_vectors(spec, metric):
    method, items, queries = parse(spec), gaussian(700, 18, 1), gaussian(20, 18, 2)
    codes, shared = built(method, gaussian(400, 18), items, metric)
    decoded = method.decode(codes, shared)
    found = method.open(codes, shared, metric).search(queries, 10)
    scores = queries @ decoded.T
    if metric == "l2":
        scores = 2 * scores - np.sum(decoded**2, axis=1) - np.sum(queries**2, axis=1)[:, None]
    exact = np.take_along_axis(scores, found.ids, axis=1)
    best = -np.sort(-scores, axis=1)[:, :10]
    if metric == "l2" and spec.startswith("opq"):  # distances in the rotated space, up to a constant of the query
        exact, best, found_scores = (array - array[:, :1] for array in (exact, best, found.scores))
    else:
        found_scores = found.scores
    # A norm of 8 bits is one of 256 values.
    close = 0.3 if "norm_bits=8" in spec and metric == "l2" else 1e-5
    scale = np.abs(scores).max()
    assert np.abs(found_scores - exact).max() < close * scale
    assert np.abs(exact - best).max() < close * scale


@pytest.mark.parametrize("spec", ["pq(m=16)", "opq(m=16)", "rq(m=8)", "pq(m=16, bits=4)", "rq(m=8, norm_bits=8)",
                                  "rq(m=8, norm_bits=32)"])  # fmt: skip
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_neighbours_are_found_under_every_metric(spec, metric):
    items, queries = gaussian(800, 16, 1), gaussian(50, 16, 2)
    items *= np.linspace(0.5, 2, len(items), dtype=np.float32)[:, None]  # lengths that tell the metrics apart
    method = parse(spec)
    codes, shared = built(method, items, metric=metric)
    found = method.open(codes, shared, metric).search(queries, 10)
    assert overlap(found.ids, search_exact(queries, items, metric, 10).ids) > (0.7 if "bits=4" in spec else 0.85)


@pytest.mark.parametrize("spec", ["pq(m=8)", "opq(m=8)", "rq(m=8)", "pq(m=8, bits=4)"])
def test_few_items_none_and_queries_of_zeros(spec):
    method, rows = parse(spec), gaussian(300, 16)
    codes, shared = built(method, rows)
    few = {"codes": codes["codes"][:3]}
    found = method.open(few, shared, "ip").search(np.zeros((2, 16), np.float32), 5)
    assert sorted(found.ids[0][:3].tolist()) == [0, 1, 2]
    assert (found.ids[:, 3:] == -1).all() and (found.scores[:, 3:] == -np.inf).all()
    none = method.encode(rows[:0], shared)
    assert (method.open(none, shared, "ip").search(rows[:2], 5).ids == -1).all()
    assert method.decode(none, shared).shape == (0, 16)
    assert method.open(codes, shared, "ip").search(np.zeros((1, 16), np.float32), 300).ids.min() >= 0
    assert method.open(codes, shared, "ip").search(rows[:0], 5).ids.shape == (0, 5)


def test_fast_scan_gives_equal_scores_to_the_lower_id():
    rows = np.repeat(gaussian(8, 16), 50, axis=0)
    method = PQ(8, 4)
    codes, shared = built(method, rows)
    found = method.open(codes, shared, "ip").search(rows[::50], 10)
    assert (np.diff(found.ids, axis=1) > 0).all()
    assert (found.ids[:, 0] % 50 == 0).all()


@pytest.mark.parametrize("spec", ["pq(m=8)", "rq(m=6)", "pq(m=8, bits=4)"])
def test_many_queries_are_answered_as_one(spec, monkeypatch):
    monkeypatch.setattr(adc, "TABLE_BYTES", 1)  # a part for every query
    method, rows = parse(spec), gaussian(300, 16)
    codes, shared = built(method, rows)
    parts = method.open(codes, shared, "ip").search(rows[:20], 10)
    monkeypatch.undo()
    whole = method.open(codes, shared, "ip").search(rows[:20], 10)
    assert np.allclose(parts.scores, whole.scores, atol=1e-5)


def test_faiss_settings_are_put_back(monkeypatch):
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 777)
    with pytest.raises(ZeroDivisionError), adc.blas_distances():
        assert faiss.cvar.distance_compute_blas_threshold == 1
        _ = 1 / 0
    assert faiss.cvar.distance_compute_blas_threshold == 777
    with adc.blas_distances(False):
        assert faiss.cvar.distance_compute_blas_threshold == 777


# Product quantisation


@given(st.integers(1, 40), st.integers(1, 40))
def test_spread_is_undone_and_keeps_inner_products(d, m):
    m = min(m, d)
    rows = np.random.default_rng(0).standard_normal((4, d)).astype(np.float32)
    padded = adc.spread(rows, m)
    assert padded.shape == (4, m * -(-d // m))
    assert np.array_equal(adc.gathered(padded, m, d), rows)
    assert np.allclose(padded @ padded.T, rows @ rows.T, atol=1e-4)
    used = (padded.reshape(4, m, -1) != 0).sum(axis=2)
    assert used.min() >= d // m  # no block of padding alone


@given(st.integers(1, 9), st.integers(1, 12))
def test_packed_codes_are_read_back(m, bits):
    indices = np.random.default_rng(0).integers(0, 1 << bits, (5, m))
    codebook = np.zeros((m, 1 << bits, 1), np.float32)
    codebook[:, :, 0] = np.arange(1 << bits)
    codes = adc.assign(indices.astype(np.float32), codebook)
    assert codes.shape == (5, -(-m * bits // 8))
    assert np.array_equal(adc.unpack(codes, m, bits), indices)
    assert np.array_equal(adc.decode(codes, codebook), indices)


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("dsub", [*range(1, 10), 12, 16, 33])
@pytest.mark.parametrize(("n_queries", "m", "bits"), [(1, 7, 8), (3, 2, 1), (17, 5, 4)])
def test_look_up_tables_are_products_and_distances(metric, dsub, n_queries, m, bits):
    rng = np.random.default_rng([n_queries, dsub])
    codebook, queries = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((m, 1 << bits, dsub), (n_queries, m * dsub))
    )
    codebook.flags.writeable = queries.flags.writeable = False  # as they are in a file
    blocked, words = queries.astype(float).reshape(n_queries, m, 1, dsub), codebook.astype(float)[None]
    wanted = -np.square(blocked - words).sum(axis=3) if metric == "l2" else (blocked * words).sum(axis=3)
    tables = adc.product_tables(queries, codebook, metric)
    assert tables.dtype == np.float32
    assert tables.flags.c_contiguous
    assert np.allclose(tables, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("m", [4, 5])
def test_pq_few_distinct_blocks_are_coded_without_error(m):
    rng = np.random.default_rng(0)
    d = 16
    values = rng.standard_normal((16, d)).astype(np.float32)
    # Every coordinate of a block comes from the same one of 16 rows: 16 sub-vectors a block, 16^m vectors.
    edges = np.arange(m + 1) * d // m
    rows = np.hstack([values[rng.integers(0, 16, 2000), low:high] for low, high in itertools.pairwise(edges)])
    assert distortion(PQ(m, 4), rows) == 0
    assert distortion(PQ(m, 8), rows[:100]) == 0


def test_pq_one_block_of_as_many_centroids_as_rows_is_the_data():
    rows = gaussian(64, 8)
    assert distortion(PQ(1, 6), rows) == 0


@pytest.mark.parametrize(("d", "m", "bits"), [(32, 4, 8), (32, 8, 4), (48, 2, 6), (32, 16, 8)])
def test_pq_agrees_with_faiss(d, m, bits):
    rows, items, queries = gaussian(1500, d), gaussian(1000, d, 1), gaussian(30, d, 2)
    method = PQ(m, bits, seed=3)
    codes, shared = built(method, rows, items)
    index = faiss.IndexPQ(d, m, bits, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(shared["codebook"].ravel(), index.pq.centroids)
    index.is_trained = True
    index.add(items)
    assert np.mean(faiss.vector_to_array(index.codes) != codes["codes"].ravel()) < 1e-3  # ties round either way
    found = method.open(codes, shared, "ip").search(queries, 10)
    # Many items have equal codes, and of equal scores faiss keeps any.
    assert np.allclose(found.scores, index.search(queries, 10)[0], rtol=1e-5, atol=1e-5)


def test_pq_seed_changes_the_codebook():
    rows = gaussian(600, 8)
    assert not np.array_equal(PQ(2, 4).fit(Sample(rows))["codebook"], PQ(2, 4, 1).fit(Sample(rows))["codebook"])


# Optimised product quantisation


@pytest.mark.parametrize(("spec", "d"), [("opq(m=4)", 16), ("opq(m=5)", 17), ("opq(m=4, dim=8)", 16),
                                         ("opq(m=4, start='identity')", 16), ("opq(m=4)", 40)])  # fmt: skip
@pytest.mark.parametrize("n", [30, 500])
def test_opq_rotation_is_orthonormal(spec, d, n):
    method = parse(spec)
    rotation = method.fit(Sample(gaussian(n, d)))["rotation"].astype(np.float64)
    assert np.abs(rotation @ rotation.T - np.eye(len(rotation))).max() < 1e-5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data", ["turned", "white", "axes"])
def test_opq_never_loses_to_pq_from_the_same_start(data, seed):
    white = np.random.default_rng(seed).standard_normal((500, 16))
    rows = {"turned": gaussian(500, 16, seed), "white": white, "axes": white * np.geomspace(4, 0.1, 16)}[data]
    rows = rows.astype(np.float32)
    start = distortion(OPQ(4, 6, niter=0, start="identity"), rows)
    assert distortion(OPQ(4, 6, start="identity"), rows) <= start * (1 + 1e-6)
    assert np.isclose(start, distortion(PQ(4, 6), rows))  # which is what it is under R = I


def test_opq_more_rounds_never_raise_the_distortion():
    rows = gaussian(600, 16)
    for start in ("pca", "identity"):
        found = [distortion(OPQ(4, 5, niter=niter, start=start), rows) for niter in (0, 1, 2, 5, 20)]
        assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(found))
        assert found[-1] < 0.99 * found[0]


def test_opq_undoes_a_planted_rotation():
    rng = np.random.default_rng(0)
    blocks = rng.standard_normal((4, 16, 4)).astype(np.float32) * np.array([4, 2, 1, 0.5], np.float32)
    rows = np.hstack([block[rng.integers(0, 16, 4000)] for block in blocks])
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    assert distortion(PQ(4, 4), rows) < 1e-6  # the structure is one of blocks
    turned = rows @ turn
    found = distortion(OPQ(4, 4), turned)
    assert found < 0.6 * distortion(PQ(4, 4), turned)


def test_opq_best_start_is_the_better_one():
    turned, axes = gaussian(500, 16), np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    axes = np.hstack([np.repeat(axes[:, :4], 2, axis=1), np.repeat(axes[:, 4:8], 2, axis=1)])  # pairs that agree
    for rows in (turned, axes):
        found = {start: distortion(OPQ(4, 6, niter=0, start=start), rows) for start in ("best", "pca", "identity")}
        assert found["best"] == min(found["pca"], found["identity"])


def test_opq_balances_the_product_of_variances():
    logs = np.array([7.5, 2.5, 2.25, 2, 0.25, 0])  # of standard deviations, to base 2
    rows = (np.random.default_rng(0).standard_normal((20000, 6)) * 2**logs).astype(np.float32)
    rotation = OPQ(2, 4, niter=0, start="pca").fit(Sample(rows))["rotation"]
    found = np.log2(np.std(rows @ rotation.T, axis=0)).reshape(2, 3).sum(axis=1)
    assert np.allclose(
        np.sort(found), [6.75, 7.75], atol=0.2
    )  # the first axis with the last two; in order: 12.25, 2.25


@pytest.mark.parametrize("niter", [0, 20])
def test_opq_narrower_keeps_the_axes_of_variance(niter):
    rows = gaussian(800, 16)
    wide, narrow = OPQ(4, 6, niter=niter), OPQ(4, 6, 8, niter)
    assert narrow.fit(Sample(rows))["rotation"].shape == (8, 16)
    values = np.sort(np.linalg.eigvalsh(rows.T @ rows))[::-1]
    lost = values[8:].sum() / values.sum()
    relative = distortion(narrow, rows) / np.mean(rows**2)
    assert lost < relative < distortion(wide, rows) / np.mean(rows**2) + lost


def test_opq_searches_as_the_index_that_faiss_makes_of_it():
    rows, items, queries = gaussian(800, 24), gaussian(900, 24, 1), gaussian(30, 24, 2)
    method = OPQ(6)
    codes, shared = built(method, rows, items)
    transform = faiss.LinearTransform(24, 24, False)
    faiss.copy_array_to_vector(shared["rotation"].ravel(), transform.A)
    transform.is_trained = True
    inner = faiss.IndexPQ(24, 6, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(shared["codebook"].ravel(), inner.pq.centroids)
    inner.is_trained = True
    index = faiss.IndexPreTransform(transform, inner)
    index.add(items)
    assert np.mean(faiss.vector_to_array(inner.codes) != codes["codes"].ravel()) < 1e-3
    found = method.open(codes, shared, "ip").search(queries, 10)
    assert overlap(found.ids, index.search(queries, 10)[1]) > 0.995


def test_opq_loses_nothing_against_the_training_of_faiss():
    rows, items, queries = gaussian(1200, 24), gaussian(1500, 24, 1), gaussian(100, 24, 2)
    index = faiss.index_factory(24, "OPQ6,PQ6x6np", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(items)
    theirs = np.mean((index.sa_decode(index.sa_encode(items)) - items) ** 2)
    method = OPQ(6, 6)
    codes, shared = built(method, rows, items)
    assert np.mean((method.decode(codes, shared) - items) ** 2) < 1.01 * theirs
    truth = search_exact(queries, items, "ip", 10).ids
    ours = overlap(method.open(codes, shared, "ip").search(queries, 10).ids, truth)
    assert ours > overlap(index.search(queries, 10)[1], truth) - 0.005


# Residual quantisation


def test_rq_loses_nothing_against_the_training_of_faiss():
    rows, items = gaussian(3000, 64), gaussian(1000, 64, 1)
    theirs = faiss.ResidualQuantizer(64, 6, 6)
    theirs.train_type = theirs.Train_progressive_dim | theirs.Skip_codebook_tables
    theirs.cp.niter, theirs.max_beam_size = 10, 2
    theirs.train(rows)
    method, lost = RQ(6, 6), []
    shared = dict(method.fit(Sample(rows)))
    for codebook in (shared["codebook"], faiss.vector_to_array(theirs.codebooks).reshape(6, 64, 64)):
        both = shared | {"codebook": codebook}
        lost.append(np.mean((method.decode(dict(method.encode(items, both)), both) - items) ** 2))
    assert lost[0] < 1.02 * lost[1]


@pytest.mark.parametrize(("n", "d"), [(300, 320), (2000, 8), (1000, 100)])
def test_rq_of_one_level_is_as_good_as_k_means(n, d):
    rows = gaussian(n, d)
    kmeans = faiss.Kmeans(d, 32, niter=25, seed=0, min_points_per_centroid=1)
    kmeans.train(rows)
    codes, shared = built(RQ(1, 5), rows)
    squares = ((rows[:, None] - shared["codebook"][0]) ** 2).sum(axis=2)
    assert squares.min(axis=1).sum() < 1.02 * kmeans.obj[-1]
    assert np.mean(adc.unpack(codes["codes"], 1, 5)[:, 0] == squares.argmin(axis=1)) > 0.99


def test_rq_every_level_lowers_the_distortion():
    rows = gaussian(600, 16)
    found = [distortion(RQ(m, 4), rows) for m in range(1, 7)]
    assert all(later < 0.97 * earlier for earlier, later in itertools.pairwise(found))


def test_rq_beam_of_one_is_greedy_and_a_wider_one_no_worse():
    rows = gaussian(600, 16)
    greedy = RQ(4, 5, beam=1, train_beam=1)
    shared = dict(greedy.fit(Sample(rows)))
    codes = dict(greedy.encode(rows, shared))
    residual, wanted = rows.copy(), []
    for level in shared["codebook"]:
        distances = ((residual[:, None] - level) ** 2).sum(axis=2)
        wanted.append(distances.argmin(axis=1))
        residual -= level[wanted[-1]]
    assert np.mean(adc.unpack(codes["codes"], 4, 5) != np.stack(wanted, axis=1)) < 1e-3
    wide = RQ(4, 5, beam=16, train_beam=1)
    lost = [np.mean((m.decode(dict(m.encode(rows, shared)), shared) - rows) ** 2) for m in (greedy, wide)]
    assert lost[1] < 0.99 * lost[0]


def test_rq_recovers_planted_levels():
    rng = np.random.default_rng(0)
    coarse, fine = 10 * rng.standard_normal((4, 8)), 0.5 * rng.standard_normal((4, 8))
    first, second = np.repeat(np.arange(4), 64), np.tile(np.arange(4), 64)
    rows = (coarse[first] + fine[second]).astype(np.float32)
    # k-means from a random start may take two of four clusters for one; some start does not, at both levels.
    method = min((RQ(2, 2, train_beam=1, seed=seed) for seed in range(20)), key=lambda method: distortion(method, rows))
    codes, shared = built(method, rows)
    assert np.mean((method.decode(codes, shared) - rows) ** 2) < 1e-10 * np.mean(rows**2)
    for level, planted in enumerate((first, second)):
        found = adc.unpack(codes["codes"], 2, 2)[:, level]
        assert len(set(zip(found.tolist(), planted.tolist(), strict=True))) == 4  # one name for another


@pytest.mark.parametrize("norm_bits", [0, 32])
def test_rq_agrees_with_faiss(norm_bits):
    rows, items, queries = gaussian(900, 16), gaussian(700, 16, 1), gaussian(30, 16, 2)
    method = RQ(4, 6, beam=5, train_beam=5, norm_bits=norm_bits, seed=2)
    metric = "l2" if norm_bits else "ip"
    codes, shared = built(method, rows, items, metric)
    kind = faiss.AdditiveQuantizer.ST_norm_float if norm_bits else faiss.AdditiveQuantizer.ST_LUT_nonorm
    measure = faiss.METRIC_L2 if norm_bits else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexResidualQuantizer(16, 4, 6, measure, kind)
    faiss.copy_array_to_vector(shared["codebook"].ravel(), index.rq.codebooks)
    index.rq.max_beam_size, index.rq.is_trained, index.is_trained = 5, True, True
    with adc.blas_distances():
        index.add(items)
    theirs = faiss.vector_to_array(index.codes).reshape(len(items), -1)
    assert np.mean((theirs[:, :3] != codes["codes"][:, :3]).any(axis=1)) < 5e-3
    found = method.open(codes, shared, metric).search(queries, 10)
    assert overlap(found.ids, index.search(queries, 10)[1]) > 0.995


@pytest.mark.parametrize("spec", ["pq(m=2)", "opq(m=2)", "rq(m=3)", "rq(m=2, norm_bits=8)", "pq(m=2, bits=4)"])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_samples_smaller_than_a_codebook(spec, n):
    method, rows = parse(spec), gaussian(n, 12)
    codes, shared = built(method, rows)
    if n <= 16 and not spec.startswith("opq"):
        assert np.allclose(method.decode(codes, shared), rows, atol=1e-4)
    found = method.open(codes, shared, "ip").search(rows, 1)
    assert found.ids.min() >= 0


@pytest.mark.parametrize("spec", ["pq(m=1)", "pq(m=4)", "opq(m=2)", "rq(m=32, bits=6)"])
def test_codes_do_not_depend_on_the_batch_where_centroids_repeat(spec):
    method, items = parse(spec), gaussian(1000, 32, 1)
    shared = dict(method.fit(Sample(gaussian(20, 32))))
    codes = method.encode(items, shared)["codes"]
    order = np.random.default_rng(0).permutation(len(items))
    assert np.mean(method.encode(items[order], shared)["codes"] != codes[order]) < 1e-4
    assert np.array_equal(method.encode(items[:37], shared)["codes"], codes[:37])


@pytest.mark.parametrize("method", [PQ(2), OPQ(2), RQ(2)])
def test_an_empty_sample_is_refused(method):
    with pytest.raises(BadInput, match="empty"):
        method.fit(Sample(np.zeros((0, 8), np.float32)))


@pytest.mark.parametrize("method", [OPQ(2, 4), RQ(2, 4)])
def test_large_samples_are_thinned(method, monkeypatch):
    rows = gaussian(400, 8)
    whole = method.fit(Sample(rows))["codebook"]
    monkeypatch.setattr(sys.modules[type(method).__module__], "ROWS_PER_CENTROID", 4)
    thinned = method.fit(Sample(rows))["codebook"]
    assert not np.array_equal(thinned, whole)
    chosen = np.sort(np.random.default_rng(0).choice(400, 64, replace=False))
    assert np.array_equal(thinned, method.fit(Sample(rows[chosen]))["codebook"])
