"""Hold the scaled, residual, mixed and learned bit codes to the identities and planted structures they are built on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.items import Array
from packbench.method import Codec, Method, Sample, Searcher
from packbench.methods.binary import billm, ksh
from packbench.methods.binary.billm import BiLLM
from packbench.methods.binary.hamming import pack_signs, unpack_signs
from packbench.methods.binary.instance_threshold import InstanceThreshold
from packbench.methods.binary.ksh import KSH
from packbench.methods.binary.mixed_dim_1b4b import MixedDim1b4b
from packbench.methods.binary.onebit_svid import OnebitSvid
from packbench.methods.binary.pb_salient import PBSalient
from packbench.methods.binary.residual_binary import MultibasisBinary, ResidualBinary, optimise, residual_signs
from packbench.methods.binary.sigma_delta_rff import SigmaDeltaRFF, sigma_delta
from packbench.methods.binary.sign import Sign
from packbench.methods.binary.sign_lowrank import SignLowrank
from packbench.methods.binary.sign_median import SignMedian
from packbench.methods.binary.sign_scale import SignScale
from packbench.methods.binary.signs import sign_sums
from packbench.methods.binary.stochastic_sign import StochasticSign
from packbench.methods.binary.ternary import Ternary
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8
from packbench.spec import parse

CODECS = [
    "sign_scale()",
    "sign_scale(scope='dim')",
    "sign_scale(scope='dim', centre='zero')",
    "sign_scale(scope='block', block=16)",
    "sign_scale(centre='row')",
    "sign_scale(scope='block', block=8, centre='row')",
    "sign_median()",
    "sign_median(threshold='mean')",
    "ternary()",
    "ternary(rule='absmedian', centre='zero')",
    "residual_binary(orders=3)",
    "residual_binary(orders=1, centre='zero')",
    "multibasis_binary()",
    "onebit_svid()",
    "onebit_svid(centre='zero')",
    "sign_lowrank(rank=5)",
    "sign_lowrank(rank=0, centre='zero')",
    "mixed_dim_1b4b()",
    "mixed_dim_1b4b(rho=1.0)",
    "mixed_dim_1b4b(rho=0.0, centre='zero')",
    "pb_salient()",
    "pb_salient(rho=0.4, rule='hessian')",
    "pb_salient(rho=0.0)",
    "pb_salient(rho=1.0)",
    "billm(salient=5)",
    "billm(salient=0, compensate=False, centre='zero')",
    "stochastic_sign(draws=3)",
]
SYMMETRIC = [
    "sign_scale(scorer='symmetric')",
    "sign_scale(scope='dim', scorer='symmetric')",
    "sign_median(scorer='symmetric')",
]
OTHERS = [
    "instance_threshold()",
    "instance_threshold(scorer='symmetric')",
    "ksh(bits=20, anchors=40, scorer='asymmetric')",
    "sigma_delta_rff(blocks=101, length=7)",
    "sigma_delta_rff(blocks=101, length=3, scorer='symmetric')",
]


def gaussian(n: int, d: int, seed: int = 0) -> Array:
    """Draw vectors whose variance falls along hidden directions, off the origin."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((d, d)) * (0.9 ** np.arange(d))[:, None]
    return (rng.standard_normal((n, d)) @ mixing + 0.3).astype(np.float32)


def normal(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def sample(items: Array, metric: str = "ip", queries: Array | None = None) -> Sample:
    return Sample(items, metric, gaussian(200, items.shape[1], 7) if queries is None else queries)


def decoded(method: Codec, items: Array, metric: str = "ip", fit_on: Array | None = None) -> Array:
    shared = method.fit(sample(items if fit_on is None else fit_on, metric))
    return method.decode(method.encode(items, shared), shared)


def opened(method: Method, items: Array, metric: str) -> Searcher:
    shared = method.fit(sample(items, metric))
    return method.open(method.encode(items, shared), shared, metric)


def error(method: Codec, items: Array) -> float:
    """Return the mean squared error relative to the mean square."""
    return float(np.mean((items - decoded(method, items)) ** 2) / np.mean(items**2))


def recall(found: Array, wanted: Array) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, wanted, strict=True)]))


# What holds for all


@pytest.mark.parametrize("spec", CODECS + SYMMETRIC + OTHERS)
def test_specs_read_back_and_the_formula_is_what_is_weighed(spec: str) -> None:
    method = parse(spec)
    assert parse(str(method)) == method
    for d in (33, 64, 71):
        items = gaussian(120, d)
        shared = method.fit(sample(items))
        codes = method.encode(items, shared)
        assert all(len(array) == 120 for array in codes.values())
        item = sum(array.nbytes for array in codes.values()) / 120
        whole = sum(array.nbytes for name, array in shared.items() if not name.startswith("build/"))
        assert (item, whole, 0) == method.planned_bytes(d)


@pytest.mark.parametrize("spec", CODECS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_scans_rank_as_the_decoded_vectors_do(spec: str, metric: str) -> None:
    items, queries = gaussian(300, 71), gaussian(8, 71, seed=1)
    method = parse(spec)
    assert isinstance(method, Codec)
    shared = method.fit(sample(items, metric))
    codes = method.encode(items, shared)
    wanted = search_exact(queries, method.decode(codes, shared), metric, 10).ids
    searcher = method.open(codes, shared, metric)
    scans = np.concatenate([searcher.search(queries[i : i + 1], 10).ids for i in range(8)])
    assert recall(searcher.search(queries, 10).ids, wanted) > 0.97
    assert recall(scans, wanted) > 0.97


@pytest.mark.parametrize("spec", SYMMETRIC + OTHERS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_neighbours_are_found_under_each_metric(spec: str, metric: str) -> None:
    items, queries = gaussian(600, 40), gaussian(30, 40, seed=1)
    found = opened(parse(spec), items, metric).search(queries, 10).ids
    assert recall(found, search_exact(queries, items, metric, 10).ids) > 0.15  # a blind draw: 0.017


def test_vectors_of_another_width_are_refused() -> None:
    items = gaussian(100, 33)
    for spec in ("sign_scale()", "sign_median()", "instance_threshold()", "ksh(bits=8, anchors=20)", OTHERS[-1]):
        method = parse(spec)
        shared = method.fit(sample(items))
        with pytest.raises(BadInput, match="34"):
            method.encode(gaussian(5, 34), shared)
        with pytest.raises(BadInput):
            method.open(method.encode(items, shared), shared, "ip").search(gaussian(2, 50), 3)


@pytest.mark.parametrize("d", [5, 64, 130, 200])
def test_sign_sums_read_the_bits_in_the_order_of_this_folder(d: int) -> None:
    rows, weights = normal(9, d), normal(1, d, seed=1)
    assert np.allclose(sign_sums(pack_signs(rows), weights), weights @ np.where(rows > 0, 1, -1).T, atol=1e-4)


# sign_scale, sign_median, onebit_svid, instance_threshold: where to cut and what a sign stands for


def test_sign_scale_leaves_what_theory_says_and_its_scale_is_the_best() -> None:
    items = normal(400, 256)
    assert error(SignScale(centre="zero"), items) == pytest.approx(1 - 2 / np.pi, abs=0.005)
    method = SignScale(centre="zero")
    shared = method.fit(sample(items))
    codes = method.encode(items, shared)
    best = np.sum((items - method.decode(codes, shared)) ** 2)
    for factor in (0.98, 1.02):
        moved = codes | {"scale": (codes["scale"] * factor).astype(np.float16)}
        assert np.sum((items - method.decode(moved, shared)) ** 2) > best


def test_smaller_scopes_and_a_centre_lower_the_error_where_there_is_something_to_win() -> None:
    uneven = normal(300, 64) * np.repeat([3.0, 1.0, 0.3, 0.1], 16).astype(np.float32)
    assert error(SignScale("dim"), uneven) < 0.8 * error(SignScale(), uneven)
    assert error(SignScale("block", block=16), uneven) < 0.8 * error(SignScale(), uneven)
    shifted = normal(300, 64) + normal(1, 64, seed=5) * 2
    assert error(SignScale(), shifted) < 0.5 * error(SignScale(centre="zero"), shifted)
    offset = normal(300, 64) + 3 * normal(300, 1, seed=6)
    assert error(SignScale(centre="row"), offset) < 0.5 * error(SignScale(), offset)


def test_symmetric_scores_are_scaled_hamming_distances() -> None:
    items, queries = normal(200, 40), normal(6, 40, seed=1)
    method = SignScale(scorer="symmetric", centre="zero")
    hits = opened(method, items, "ip").search(queries, 5)
    agreement = np.where(queries > 0, 1, -1) @ np.where(items > 0, 1, -1).T  # d - 2 Hamming
    scores = np.abs(queries).mean(axis=1)[:, None] * np.abs(items).mean(axis=1) * agreement
    assert np.allclose(hits.scores, -np.sort(-scores, axis=1)[:, :5], rtol=2e-3)
    items = items * np.linspace(0.1, 3, 40, dtype=np.float32)
    hits = opened(SignScale("dim", "symmetric", "zero"), items, "ip").search(queries, 5)
    scores = (np.where(queries > 0, 1, -1) * np.abs(items).mean(axis=0) ** 2) @ np.where(items > 0, 1, -1).T
    assert np.allclose(hits.scores, -np.sort(-scores, axis=1)[:, :5], rtol=1e-4)


def test_median_bits_are_one_for_half_of_the_items_and_symmetric_dims_give_sign_scale() -> None:
    for n in (400, 401):
        items = gaussian(n, 33) ** 3
        shared = SignMedian().fit(sample(items))
        ones = (unpack_signs(SignMedian().encode(items, shared)["signs"], 33) > 0).sum(axis=0)
        assert np.all(np.abs(ones - n / 2) <= 1)
    half = np.abs(normal(200, 20)) + 0.1
    mirrored = np.concatenate([half, -half])
    assert np.allclose(decoded(SignMedian(), mirrored), decoded(SignScale("dim"), mirrored), atol=1e-5)


def test_onebit_svid_is_exact_for_rank_one_magnitudes_and_never_worse_than_one_side_alone() -> None:
    rng = np.random.default_rng(0)
    items = rng.choice([-1.0, 1.0], (150, 30)) * rng.uniform(0.5, 2, (150, 1)) * rng.uniform(0.1, 3, 30)
    assert np.allclose(decoded(OnebitSvid("zero"), items), items, rtol=2e-3)
    items = gaussian(500, 48)
    one = error(OnebitSvid(), items)
    assert one <= error(SignScale(), items) + 1e-5
    assert one <= error(SignScale("dim"), items) + 1e-5


def test_instance_thresholds_remove_an_offset_of_the_item_and_nothing_else() -> None:
    items = normal(300, 60)
    mean_only = Sign(threshold="mean")
    assert np.array_equal(
        InstanceThreshold("none").encode(items, InstanceThreshold("none").fit(sample(items)))["codes"],
        mean_only.encode(items, mean_only.fit(sample(items)))["codes"],
    )
    moved = items + 4 * normal(300, 1, seed=3)
    for moments in ("mean", "third"):
        method = InstanceThreshold(moments)
        bits = unpack_signs(method.encode(moved, method.fit(sample(moved)))["codes"], 60)
        assert np.mean(bits == np.where(items - items.mean(axis=1, keepdims=True) > 0, 1, -1)) > 0.95
    plain = unpack_signs(mean_only.encode(moved, mean_only.fit(sample(moved)))["codes"], 60)
    assert np.mean(plain == np.where(items > 0, 1, -1)) < 0.75


# ternary, residual_binary, multibasis_binary: more than a bit


@pytest.mark.parametrize(
    ("rule", "fitted", "own"),
    [("twn", 0.190, 0.190), ("statistics", 0.194, 0.199), ("absmean", 0.212, 0.262), ("absmedian", 0.227, 0.317)],
)
def test_ternary_leaves_the_error_known_for_a_gaussian(rule: str, fitted: float, own: float) -> None:
    items = normal(300, 500)
    assert error(Ternary(rule, centre="zero"), items) == pytest.approx(fitted, abs=0.003)
    assert error(Ternary(rule, least_squares=False, centre="zero"), items) == pytest.approx(own, abs=0.004)


def test_residual_orders_leave_the_error_known_for_a_gaussian_and_longer_codes_begin_with_shorter() -> None:
    items = normal(300, 400)
    found = [error(ResidualBinary(orders, "zero"), items) for orders in (1, 2, 3, 4)]
    assert found == pytest.approx([0.362, 0.129, 0.057, 0.032], abs=0.006)
    codes = [ResidualBinary(orders).encode(items, ResidualBinary(orders).fit(sample(items))) for orders in (2, 4)]
    assert np.array_equal(codes[1]["signs"][:, :100], codes[0]["signs"])
    assert np.array_equal(codes[1]["scale"][:, :2], codes[0]["scale"])


def test_optimised_bases_leave_less_at_every_turn_and_the_error_known_for_a_gaussian() -> None:
    items = normal(100, 400)
    for orders, known in ((2, 0.116), (3, 0.036)):
        start = residual_signs(items, orders)
        errors = []
        for turns in (0, 1, 2, 5, 30):
            signs, scales = optimise(items, *start, turns)
            errors.append(np.mean((items - np.einsum("nk,nkd->nd", scales, signs)) ** 2, axis=1))
        assert all(np.all(after <= before + 1e-7) for before, after in pairwise(errors))
        assert errors[-1].mean() == pytest.approx(known, abs=0.004)
        assert errors[-1].mean() < 0.92 * errors[0].mean()
        assert error(MultibasisBinary(orders, 30, "zero"), items) == pytest.approx(errors[-1].mean(), rel=0.01)


def test_two_bases_find_two_planted_ones() -> None:
    rng = np.random.default_rng(2)
    items = (rng.choice([-1.0, 1.0], (50, 80)) + 0.75 * rng.choice([-1.0, 1.0], (50, 80))).astype(np.float32)
    assert np.allclose(decoded(MultibasisBinary(centre="zero"), items), items, atol=2e-3)
    assert error(ResidualBinary(centre="zero"), items) > 1e-4


# sign_lowrank, mixed_dim_1b4b, pb_salient, billm: some coordinates get more


def test_sign_lowrank_is_exact_for_low_rank_and_sign_scale_without_components() -> None:
    rng = np.random.default_rng(0)
    items = (rng.standard_normal((200, 4)) @ rng.standard_normal((4, 40)) + 2).astype(np.float32)
    assert error(SignLowrank(4), items) < 1e-5
    assert error(SignLowrank(3), items) > 1e-3
    items = gaussian(150, 40)
    assert np.array_equal(decoded(SignLowrank(0), items), decoded(SignScale(), items))
    assert error(SignLowrank(8), items) < 0.8 * error(SignLowrank(0), items)


def test_mixed_dims_end_in_int4_and_sign_scale_and_choose_what_matters() -> None:
    items = gaussian(200, 41)
    assert np.array_equal(decoded(MixedDim1b4b(0.0), items), decoded(SignScale(), items))
    assert np.array_equal(decoded(MixedDim1b4b(1.0, "zero"), items), decoded(Int4(), items))
    items, queries = normal(300, 40), normal(200, 40, seed=1)
    items[:, [3, 17]] *= 5
    queries[:, [8, 30]] *= 5
    shared = MixedDim1b4b(0.1).fit(sample(items, queries=queries))
    assert shared["chosen"].tolist() == [3, 8, 17, 30]
    with pytest.raises(BadInput, match="fit queries"):
        MixedDim1b4b().fit(Sample(items))


def test_salient_coordinates_end_in_int8_and_sign_scale_and_spikes_are_kept() -> None:
    items = gaussian(200, 41)
    assert np.array_equal(decoded(PBSalient(0.0), items), decoded(SignScale(), items))
    whole = Int8(granularity="vector", symmetric=True)
    assert np.allclose(decoded(PBSalient(1.0, centre="zero"), items), decoded(whole, items), atol=2e-3)
    for d, rho in ((40, 0.05), (40, 0.4)):  # a list of places, and a mask
        items = normal(200, d)
        method = PBSalient(rho, centre="zero")
        places = np.argsort(np.random.default_rng(1).random((200, d)), axis=1)[:, : round(rho * d)]
        np.put_along_axis(items, places, 30.0 + places, axis=1)
        shared = method.fit(sample(items))
        codes = method.encode(items, shared)
        wanted = np.zeros((200, d), bool)
        np.put_along_axis(wanted, places, True, axis=1)
        assert np.array_equal(method._chosen(codes, d), wanted)
        assert np.allclose(method.decode(codes, shared)[wanted], items[wanted], atol=0.3)


def test_queries_decide_what_is_salient_under_the_hessian_rule() -> None:
    items, queries = normal(100, 20), normal(300, 20, seed=1)
    queries[:, 4] *= 6
    method = PBSalient(0.1, "hessian", "zero")
    shared = method.fit(sample(items, queries=queries))
    assert method._chosen(method.encode(items, shared), 20)[:, 4].mean() > 0.9
    assert method.needed() == {"queries"}
    assert PBSalient().needed() == frozenset()


def test_billm_without_salient_dims_is_a_two_bit_quantiser() -> None:
    items = normal(150, 500)
    found = error(BiLLM(0, False, "zero"), items)
    assert found == pytest.approx(0.117, abs=0.004)
    # The groups as the paper forms them, by magnitude alone, leave no less.
    factors = billm.two_groups(items)
    assert np.all(np.abs(factors[:, 2]) + factors[:, 3] > factors[:, 1])


def test_billm_chooses_planted_dims_and_compensation_serves_the_queries() -> None:
    items, queries = normal(300, 40), normal(300, 40, seed=1)
    items[:, 5] *= 4
    queries[:, 9] *= 3
    shared = BiLLM(2).fit(sample(items, queries=queries))
    assert shared["salient"].tolist() == [5, 9]
    mixing = normal(200, 200, seed=4) * 0.97 ** np.arange(200)[:, None].astype(np.float32)
    items, queries = normal(200, 200), normal(2000, 200, seed=1) @ mixing
    left = []
    for compensate in (False, True):
        method = BiLLM(4, compensate, "zero")
        shared = method.fit(sample(items, queries=queries[:1000]))
        off = method.decode(method.encode(items, shared), shared) - items
        left.append(np.mean((queries[1000:] @ off.T) ** 2))
    assert left[1] < 0.9 * left[0]
    moment = np.cov(queries.T)
    assert np.allclose(billm._handed_on(moment)[:128, 128:] @ moment[128:, 128:], moment[:128, 128:])


# ksh, sigma_delta_rff, stochastic_sign: learned and random bits


def test_every_bit_that_counts_lowers_what_is_left_and_the_first_splits_two_clusters() -> None:
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 100)
    items = (rng.standard_normal((200, 16)) * 0.3 + 3 * side[:, None] / 4).astype(np.float32)
    method = KSH(6, anchors=40, near=0.4, far=0.5)
    shared = method.fit(sample(items))
    first = unpack_signs(method.encode(items, shared)["codes"], 6)[:, 0]
    assert abs(first @ side) == 200
    features = rng.standard_normal((150, 30)) + 1
    likeness = ksh.alike(-np.abs(np.subtract.outer(features[:, 0], features[:, 0])), 0.2, 0.3)
    _, norms, taken = ksh.learn(features - features.mean(axis=0), likeness, 8)
    assert norms[0] == pytest.approx(64 * np.count_nonzero(likeness))
    assert taken[0]
    assert sum(taken) >= 4
    assert all((after < before) == took for before, after, took in zip(norms, norms[1:], taken, strict=False))


@pytest.mark.parametrize("steps", [0, 15])  # eigenvectors alone, and with the ascent
def test_planted_bits_are_learnt_and_nothing_is_taken_where_there_is_nothing(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ksh, "STEPS", steps)
    rng = np.random.default_rng(0)
    planted = np.where(rng.standard_normal((200, 2)) > 0, 1.0, -1.0)
    features = np.concatenate([planted + 0.1 * rng.standard_normal((200, 2)), rng.standard_normal((200, 8))], axis=1)
    # Two bits, one after the other, leave 0.2² of 1.2² and of 0.8²; finding one of them leaves 0.68 / 2.08 at least.
    _, norms, taken = ksh.learn(features, (planted * [0.6, 0.4]) @ planted.T, 2)
    assert norms[-1] < 0.06 * norms[0]
    assert taken == [True, True]
    _, norms, taken = ksh.learn(features, np.zeros((200, 200)), 3)
    assert taken == [False] * 3
    assert norms == [0.0] * 4


def test_likeness_is_of_exact_neighbours() -> None:
    line = np.arange(10.0)
    labels = ksh.alike(-np.abs(np.subtract.outer(line, line)), 0.2, 0.5)
    assert np.array_equal(labels, labels.T)
    assert labels[4, [3, 4, 5]].tolist() == [1, 1, 1]
    assert labels[0, 9] == -1


def test_too_few_rows_for_the_anchors_are_refused() -> None:
    with pytest.raises(BadInput, match="set anchors lower"):
        KSH(8).fit(sample(gaussian(100, 20)))


def test_carried_errors_stay_within_one_and_sums_follow_the_features() -> None:
    features = np.cos(np.random.default_rng(0).uniform(0, 7, (50, 600))).astype(np.float32)
    ones, largest = sigma_delta(features, 15)
    assert largest <= 1 + 1e-5
    # What two neighbouring blocks' borders carry is all by which a sum can differ.
    assert np.abs(2.0 * ones - 15 - features.reshape(50, 40, 15).sum(axis=2)).max() <= 2 + 1e-4


def test_kernel_estimates_are_nearly_as_good_as_those_of_float_features() -> None:
    items, queries = normal(60, 12), normal(20, 12, seed=1)
    distances = np.sum((queries[:, None] - items[None]) ** 2, axis=2)
    kernel = np.exp(-distances / (2 * items.var(axis=0, dtype=np.float64).sum()))
    off = []
    for seed in range(8):  # all pairs share their features, so that one draw says little
        method = SigmaDeltaRFF(256, 15, seed=seed)
        shared = method.fit(Sample(items, "l2"))
        hits = method.open(method.encode(items, shared), shared, "l2").search(queries, 60)
        quantised = np.zeros((20, 60))
        np.put_along_axis(quantised, hits.ids, hits.scores, axis=1)
        weights, phases = shared["directions"][:, :12].T, shared["phases"]
        sums = [np.cos(x @ weights + phases).reshape(len(x), 256, 15).sum(axis=2) for x in (queries, items)]
        floats = 2 / 256 * (sums[0] @ sums[1].T) / 15
        off.append([np.mean((estimate - kernel) ** 2) for estimate in (quantised, floats)])
    with_bits, without = np.sqrt(np.mean(off, axis=0))
    assert with_bits < 0.085
    assert with_bits < 1.15 * without


def test_kernels_rank_inner_products_of_vectors_of_many_lengths() -> None:
    lengths = np.random.default_rng(3).uniform(0.2, 3, (400, 1)).astype(np.float32)
    items, queries = normal(400, 8) * lengths, normal(20, 8, seed=1)
    method = SigmaDeltaRFF(600, 7)
    wanted = search_exact(queries, items, "ip", 10).ids
    assert recall(opened(method, items, "ip").search(queries, 10).ids, wanted) > 0.7  # by distance alone 0.53


def test_stochastic_signs_are_right_on_average_and_vary_as_stated() -> None:
    items = np.tile(np.linspace(-0.9, 0.9, 19, dtype=np.float32), (1, 1))
    fit_on = np.ones((4, 19), np.float32)
    drawn = []
    for seed in range(800):
        method = StochasticSign(2, reach=1.0, centre="zero", seed=seed)
        shared = method.fit(sample(fit_on))
        drawn.append(method.decode(method.encode(items, shared), shared)[0])
    assert np.allclose(np.mean(drawn, axis=0), items[0], atol=0.11)
    assert np.allclose(np.var(drawn, axis=0), (1 - items[0] ** 2) / 2, atol=0.09)


def test_more_draws_leave_less_and_draws_do_not_depend_on_the_batch() -> None:
    items = normal(200, 64)
    found = [error(StochasticSign(draws), items) for draws in (1, 4, 16)]
    assert found[0] > 2 * found[1] > 4 * found[2]
    method = StochasticSign(3)
    shared = method.fit(sample(items))
    assert np.array_equal(method.encode(items[50:51], shared)["signs"], method.encode(items, shared)["signs"][50:51])
