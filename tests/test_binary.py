"""Hold the bit codes against slow loops, faiss and the theory they are built on."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.items import Array
from packbench.method import Hits, Method, Sample, Searcher
from packbench.methods.binary import hamming
from packbench.methods.binary.hamming import AsymmetricSearcher, HammingSearcher, pack_signs, unpack_signs
from packbench.methods.binary.itq import ITQ, learn_rotation
from packbench.methods.binary.linear import project, random_rotation
from packbench.methods.binary.lsh import LSH
from packbench.methods.binary.rabitq import RaBitQ
from packbench.methods.binary.sign import Sign
from packbench.registry import get
from packbench.spec import parse

METHODS = [
    "sign()",
    "sign(scorer='asymmetric')",
    "sign(threshold='mean')",
    "sign(threshold='mean', scorer='asymmetric')",
    "lsh(bits=50)",
    "lsh(bits=96, scorer='asymmetric')",
    "itq(bits=20, iterations=5)",
    "itq(bits=31, iterations=5, scorer='asymmetric')",
    "rabitq()",
    "rabitq(bits=2, query_bits=4)",
    "rabitq(bits=5)",
    "rabitq(bits=8)",
]
D = 37  # no multiple of 8


def gaussian(n: int, d: int, seed: int = 0) -> Array:
    """Draw vectors whose variance falls along hidden directions, off the origin."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((d, d)) * (0.9 ** np.arange(d))[:, None]
    return (rng.standard_normal((n, d)) @ mixing + 0.3).astype(np.float32)


def opened(method: Method, items: Array, metric: str, fit_on: Array | None = None) -> Searcher:
    shared = method.fit(Sample(items if fit_on is None else fit_on, metric=metric))
    return method.open(method.encode(items, shared), shared, metric)


def recall(hits: Hits, truth: Array) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(hits.ids, truth, strict=True)]))


def ranked(scores: Array, k: int) -> Array:
    """Return the ids of the k highest scores of each row, equal ones in order of id."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


# The searchers


def test_bits_are_packed_least_significant_first() -> None:
    values = np.array([[1, -1, 0, 2, -3, 0, 0, 5, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    assert pack_signs(values).tolist() == [[0b10001001, 1], [0, 0]]
    assert unpack_signs(pack_signs(values), 9).tolist()[0] == [1, -1, -1, 1, -1, -1, -1, 1, 1]


@pytest.mark.parametrize("d", [7, 64, 100, 130])
@pytest.mark.parametrize("n", [0, 1, 30, 5000])
@pytest.mark.parametrize("k", [1, 10, 40])
def test_hamming_equals_a_slow_scan_and_ties_go_to_the_lower_id(d: int, n: int, k: int) -> None:
    rng = np.random.default_rng(d + n)
    codes, queries = rng.standard_normal((n, d)) > 0, rng.standard_normal((9, d)).astype(np.float32)
    hits = HammingSearcher(np.packbits(codes, axis=1, bitorder="little"), lambda q: q).search(queries, k)
    distances = ((queries > 0)[:, None] != codes[None]).sum(axis=2)
    expected = ranked(-distances, k)
    assert hits.ids.shape == (9, k)
    assert np.array_equal(hits.ids[:, : min(n, k)], expected)
    assert np.array_equal(hits.scores[:, : min(n, k)], d - 2 * np.take_along_axis(distances, expected, axis=1))
    assert np.all(hits.ids[:, n:] == -1)
    assert np.all(np.isneginf(hits.scores[:, n:]))


@pytest.mark.parametrize("d", [7, 64, 100])
@pytest.mark.parametrize("n", [0, 1, 30, 3000])
def test_asymmetric_equals_the_float_sum_over_the_bits(d: int, n: int) -> None:
    rng = np.random.default_rng(d + n)
    signs = np.where(rng.standard_normal((n, d)) > 0, 1.0, -1.0)
    if n:
        signs[n // 2 :] = signs[: n - n // 2]  # each code twice: ties everywhere
    queries = rng.standard_normal((9, d)).astype(np.float32)
    hits = AsymmetricSearcher(pack_signs(signs), lambda q: q).search(queries, 10)
    scores = queries.astype(np.float64) @ signs.T
    width = min(n, 10)
    found = np.take_along_axis(scores, hits.ids[:, :width], axis=1)
    assert np.allclose(hits.scores[:, :width], found, atol=1e-4)
    assert np.allclose(found, -np.sort(-scores, axis=1)[:, :width], atol=1e-4)
    assert np.all(hits.ids[:, n:] == -1)
    for row in hits.ids[:, : 2 * (width // 2)].reshape(9, -1, 2) if n == 3000 and d > 7 else []:
        assert np.array_equal(row[:, 1], row[:, 0] + n // 2)  # the twin follows, never leads


def test_asymmetric_is_right_for_queries_that_defeat_rounded_tables() -> None:
    items = np.where(np.random.default_rng(0).standard_normal((500, 64)) > 0, 1, -1)
    queries = np.zeros((3, 64), np.float32)
    queries[1, 0], queries[2] = 1e30, 1e-30
    hits = opened(Sign(scorer="asymmetric"), items, "ip").search(queries, 5)
    assert hits.ids[0].tolist() == [0, 1, 2, 3, 4]
    assert np.all(items[hits.ids[1], 0] == 1)
    assert np.all((hits.ids >= 0) & (hits.ids < 500))


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(BadInput, match="20 coordinates"):
        opened(Sign(), gaussian(20, 64), "ip").search(gaussian(2, 20), 3)


# sign


@pytest.mark.parametrize("scorer", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_sign_ranks_exactly_where_items_are_signs(scorer: str, metric: str) -> None:
    rng = np.random.default_rng(1)
    items = np.where(rng.standard_normal((700, 60)) > 0, 0.5, -0.5).astype(np.float32)
    queries = np.where(rng.standard_normal((20, 60)) > 0, 0.5, -0.5).astype(np.float32)
    hits = opened(Sign(scorer=scorer), items, metric).search(queries, 10)
    assert np.array_equal(hits.ids, ranked(queries.astype(np.float64) @ items.T, 10))
    self_hits = opened(Sign(), items, metric).search(items[:5], 1)
    assert self_hits.scores.ravel().tolist() == [60.0] * 5


def test_sign_with_the_mean_does_not_see_a_shift_and_zero_does() -> None:
    items = gaussian(300, 40)
    for threshold, same in (("mean", True), ("zero", False)):
        method = Sign(threshold)
        codes = [method.encode(x, method.fit(Sample(x, metric="l2")))["codes"] for x in (items, items + np.float32(4))]
        assert (np.mean(codes[0] != codes[1]) < 1e-3) == same


def test_under_ip_the_query_keeps_the_mean_and_under_l2_it_does_not() -> None:
    items, query = gaussian(400, 40) + np.float32(1), gaussian(6, 40, seed=3) + np.float32(1)
    mean = items.mean(axis=0)
    signs = np.where(items > mean, 1.0, -1.0)
    for metric, real in (("ip", query), ("l2", query - mean)):
        hits = opened(Sign("mean", "asymmetric"), items, metric).search(query, 5)
        assert np.array_equal(hits.ids, ranked(real @ signs.T, 5))


# lsh


def test_lsh_has_the_codes_of_faiss_for_the_same_hyperplanes() -> None:
    items = gaussian(500, 48)
    method = LSH(bits=48)
    shared = method.fit(Sample(items))
    index = faiss.IndexLSH(48, 48, True)
    faiss.copy_array_to_vector(np.ascontiguousarray(shared["hyperplanes"].T).ravel(), index.rrot.A)
    index.add(items)
    theirs = faiss.vector_to_array(index.codes).reshape(500, 6)
    assert np.array_equal(method.encode(items, shared)["codes"], theirs)


def test_lsh_bits_collide_as_the_angle_says_and_the_asymmetric_estimate_is_unbiased() -> None:
    rng = np.random.default_rng(4)
    x, q = rng.standard_normal((2, 24))
    cosine = x @ q / np.linalg.norm(x) / np.linalg.norm(q)
    method = LSH(bits=60_000)
    shared = method.fit(Sample(x[None]))
    bits = unpack_signs(method.encode(np.stack([x, q]), shared)["codes"], method.bits)
    assert abs(np.mean(bits[0] == bits[1]) - (1 - np.arccos(cosine) / np.pi)) < 0.008  # 4 standard deviations
    estimate = np.sqrt(np.pi / 2) / method.bits * np.linalg.norm(x) * (q @ shared["hyperplanes"]) @ bits[0]
    assert abs(estimate - x @ q) < 4 * np.sqrt(np.pi / 2 / method.bits) * np.linalg.norm(x) * np.linalg.norm(q)


def test_lsh_improves_with_bits_past_the_dimension() -> None:
    items, queries = gaussian(600, 32), gaussian(40, 32, seed=7)
    truth = search_exact(queries, items, "cosine", 10).ids
    found = [recall(opened(LSH(bits, "asymmetric"), items, "cosine").search(queries, 10), truth) for bits in (32, 512)]
    assert found[1] > found[0] + 0.2


# itq


def test_itq_loss_never_increases_and_stays_0_at_planted_corners() -> None:
    rng = np.random.default_rng(5)
    _, losses = learn_rotation(rng.standard_normal((400, 16)), random_rotation(16, 0), 20)
    assert np.all(np.diff(losses) <= 1e-9 * losses[0])
    assert losses[-1] < 0.98 * losses[0]
    planted = random_rotation(16, 3).astype(np.float64)
    corners = np.where(rng.standard_normal((400, 16)) > 0, 1.0, -1.0)
    rotation, losses = learn_rotation(corners @ planted.T, planted, 10)
    assert max(losses) < 1e-6
    assert np.allclose(rotation, planted, atol=1e-6)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_itq_beats_lsh_at_half_the_dimension(metric: str) -> None:
    items, queries = gaussian(1500, 48), gaussian(60, 48, seed=8)
    truth = search_exact(queries, items, metric, 10).ids
    by_itq = recall(opened(ITQ(24), items, metric).search(queries, 10), truth)
    by_lsh = np.mean([recall(opened(LSH(24, seed=s), items, metric).search(queries, 10), truth) for s in range(4)])
    assert by_itq > by_lsh + 0.02


def test_itq_with_more_bits_than_rows_still_works_and_with_more_than_dimensions_is_refused() -> None:
    items = gaussian(100, 40)
    assert opened(ITQ(40), items, "l2", fit_on=items[:10]).search(items[:3], 5).ids.shape == (3, 5)
    with pytest.raises(BadInput, match="at most one bit"):
        ITQ(41).fit(Sample(items))


# rabitq


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_rabitq_agrees_with_faiss_on_the_same_rotation(bits: int, metric: str) -> None:
    items, queries = gaussian(2000, 44), gaussian(100, 44, seed=9)
    method = RaBitQ(bits, seed=3)
    shared = method.fit(Sample(items, metric=metric))
    hits = method.open(method.encode(items, shared), shared, metric).search(queries, 10)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexRaBitQ(44, kind, bits)
    index.qb = 8
    index.train(items @ shared["rotation"])
    index.add(items @ shared["rotation"])
    truth = search_exact(queries, items, metric, 10).ids
    theirs = index.search(queries @ shared["rotation"], 10)[1]
    assert abs(recall(hits, truth) - recall(Hits(theirs, hits.scores), truth)) <= 0.005
    assert np.mean(hits.ids == theirs) > 0.97


@pytest.mark.parametrize("bits", [1, 3])
def test_rabitq_estimates_are_unbiased_over_rotations(bits: int) -> None:
    rng = np.random.default_rng(6)
    items, query = rng.standard_normal((6, 48)).astype(np.float32), rng.standard_normal((1, 48)).astype(np.float32)
    runs = []
    for seed in range(300):
        hits = opened(RaBitQ(bits, seed=seed), items, "ip", fit_on=items[:1] * 0).search(query, 6)
        runs.append(hits.scores[0][np.argsort(hits.ids[0])])
    error = np.array(runs) - query @ items.T
    assert np.all(np.abs(error.mean(axis=0)) < 4 * error.std(axis=0) / np.sqrt(300))
    assert np.all(error.std(axis=0) < {1: 7.0, 3: 1.5}[bits])


def test_rabitq_signs_lie_at_cosine_080_and_errors_respect_the_bound() -> None:
    rng = np.random.default_rng(7)
    d = 256
    items, queries = (rng.standard_normal((n, d)).astype(np.float32) for n in (400, 50))
    method = RaBitQ()
    shared = method.fit(Sample(items * 0))
    codes = method.encode(items, shared)
    signs = unpack_signs(codes["codes"][:, : d // 8], d)
    rotated = items @ shared["rotation"]
    kappa = np.einsum("ij,ij->i", rotated, signs) / np.linalg.norm(rotated, axis=1) / np.sqrt(d)
    assert abs(kappa.mean() - 0.80) < 0.005
    hits = method.open(codes, shared, "ip").search(queries, 400)
    estimates = np.take_along_axis(hits.scores, np.argsort(hits.ids, axis=1), axis=1)
    spread = np.sqrt((1 - kappa**2) / kappa**2 / (d - 1)) * np.linalg.norm(items, axis=1)
    bound = 1.9 * spread * np.linalg.norm(queries, axis=1)[:, None]
    assert 0.045 < np.mean(np.abs(estimates - queries @ items.T) > bound) < 0.07


def test_rabitq_codes_serve_the_metric_they_were_made_for() -> None:
    items = gaussian(50, 16)
    method = RaBitQ()
    shared = method.fit(Sample(items, metric="ip"))
    with pytest.raises(BadInput, match="'ip'"):
        method.open(method.encode(items, shared), shared, "l2")


def test_random_rotation_is_orthogonal_and_project_ignores_the_batch() -> None:
    rotation = random_rotation(33, 0)
    assert np.allclose(rotation @ rotation.T, np.eye(33), atol=1e-5)
    items = gaussian(203, 33)
    whole = project(items, rotation)
    assert np.allclose(whole, items @ rotation, atol=1e-5)
    assert all(np.array_equal(project(items[i : i + 1], rotation)[0], whole[i]) for i in range(203))


# What holds for all of them


@pytest.mark.parametrize("spec", METHODS)
def test_specs_round_trip(spec: str) -> None:
    assert str(parse(spec)) == spec
    assert parse(str(parse(spec))) == parse(spec)


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("d", [D, 40, 64])
def test_bytes_are_as_planned(spec: str, d: int) -> None:
    method, items = parse(spec), gaussian(20, d)
    shared = method.fit(Sample(items))
    codes = method.encode(items, shared)
    weighed = sum(a.nbytes for a in codes.values()) / 20, float(sum(a.nbytes for a in shared.values())), 0.0
    assert method.planned_bytes(d) == weighed


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_rows_do_not_depend_on_their_batch_or_layout(spec: str, metric: str) -> None:
    method, items = parse(spec), gaussian(101, D)
    items[7], items[8, 3:9], items[9] = 0, items[10, 3:9], items[10]
    shared = method.fit(Sample(items, metric=metric))
    whole = method.encode(items, shared)["codes"]
    pieces = [items[:50], np.asfortranarray(items[50:100]), items[100:].astype(np.float64)]
    pieces[0].flags.writeable = False
    assert np.array_equal(np.concatenate([method.encode(piece, shared)["codes"] for piece in pieces]), whole)
    assert np.array_equal(whole[9], whole[10])
    half = items.astype(np.float16)
    assert np.array_equal(method.encode(half, shared)["codes"], method.encode(half.astype(np.float32), shared)["codes"])
    again = method.fit(Sample(items, metric=metric))
    assert all(np.array_equal(again[name], shared[name]) for name in shared)


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_few_constant_zero_and_duplicate_rows(spec: str, metric: str) -> None:
    method, items = parse(spec), gaussian(40, D)
    items[:, 5], items[3] = 1, 0
    items[20:] = items[:20]
    shared = method.fit(Sample(items, metric=metric))
    for n in (0, 1, 40):
        codes = method.encode(items[:n], shared)
        assert len(codes["codes"]) == n
        for queries in (items[:0], items[2:3], items[:30]):
            hits = method.open(codes, shared, metric).search(queries, 50)
            assert hits.ids.shape == hits.scores.shape == (len(queries), 50)
            assert hits.ids.dtype == np.int64
            assert hits.scores.dtype == np.float32
            assert np.array_equal(np.sort(hits.ids, axis=1)[:, 50 - n :], np.tile(np.arange(n), (len(queries), 1)))
            assert np.all(hits.ids[:, n:] == -1)
            assert np.all(np.diff(hits.scores[:, :n], axis=1) <= 0)


FLOORS = {"sign": 0.2, "lsh": 0.2, "itq": 0.3, "rabitq": 0.4}


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(
    "spec",
    ["sign(threshold='mean')", "sign(threshold='mean', scorer='asymmetric')", "lsh(bits=64)", "itq(bits=48)",
     "itq(bits=48, scorer='asymmetric')", "rabitq()", "rabitq(bits=4)", "rabitq(bits=8)"],
)  # fmt: skip
def test_every_metric_ranks(spec: str, metric: str) -> None:
    # One length, so that codes of directions are not asked for lengths.
    items, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gaussian(1500, 48), gaussian(60, 48, 1)))
    if metric == "cosine":
        items, queries = items * np.linspace(0.2, 5, 1500)[:, None], queries * 3
    truth = search_exact(queries, items, metric, 10).ids
    floor = {"rabitq(bits=4)": 0.85, "rabitq(bits=8)": 0.98}.get(spec, FLOORS[spec.split("(")[0]])
    assert recall(opened(parse(spec), items, metric).search(queries, 10), truth) > floor


@pytest.mark.parametrize(
    "spec",
    ["sign(threshold='mean')", "sign(threshold='mean', scorer='asymmetric')", "itq(bits=40, iterations=5)",
     "itq(bits=40, iterations=5, scorer='asymmetric')", "rabitq()", "rabitq(bits=4)"],
)  # fmt: skip
def test_cosine_does_not_see_lengths(spec: str) -> None:
    items, queries = gaussian(300, 40), gaussian(10, 40, seed=5)
    lengths = np.random.default_rng(2).uniform(0.5, 3, (300, 1)).astype(np.float32)
    plain = opened(parse(spec), items, "cosine").search(queries, 10)
    scaled = opened(parse(spec), items * lengths, "cosine").search(queries * 7, 10)
    assert np.mean(plain.ids == scaled.ids) > 0.95
    assert np.allclose(plain.scores, scaled.scores, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["sign", "lsh", "itq", "rabitq"])
@pytest.mark.parametrize("d", [64, 385, 1024])
def test_a_budget_is_met_or_refused_with_the_least(name: str, d: int) -> None:
    sizes: dict[int, float] = {}
    for nbytes in (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512):
        budget = Budget(nbytes, 1_000_000, d)
        try:
            found = list(get(name).for_budget(budget))
        except BudgetTooSmall as refusal:
            assert refusal.least > nbytes
            continue
        item, shared, _ = found[0].planned_bytes(d)
        assert 0 < len(found) <= 3
        assert all(budget.holds(*method.planned_bytes(d)) for method in found)
        sizes[nbytes] = item + shared / 1e6
    assert list(sizes.values()) == sorted(sizes.values())
    if name == "lsh":
        assert all(nbytes - 1.1 - 0.032 * d / 1000 < used for nbytes, used in sizes.items())


@pytest.mark.parametrize(
    "spec",
    ["sign(threshold='median')", "sign(scorer='both')", "lsh(bits=0)", "itq(bits=0)", "rabitq(bits=9)",
     "rabitq(query_bits=0)", "lsh(bits=8, scorer='x')", "itq(bits=8, iterations=-1)"],
)  # fmt: skip
def test_impossible_configurations_are_refused(spec: str) -> None:
    with pytest.raises(BadInput):
        parse(spec)


def test_blocks_of_the_scan_are_crossed() -> None:
    # The scan moves on every 2048 items: the nearest sit on both sides of the seams.
    items = np.where(np.random.default_rng(0).standard_normal((6200, 72)) > 0, 1.0, -1.0)
    target = -items[0]
    for at in (2047, 2048, 4095, 4096, 6199):
        items[at] = target
    hits = hamming.open_bits(pack_signs(items), "symmetric", lambda q: q).search(target[None], 5)
    assert hits.ids[0].tolist() == [2047, 2048, 4095, 4096, 6199]
    assert hits.scores[0].tolist() == [72.0] * 5


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [("sign()", 0.54, 0.62), ("sign(scorer='asymmetric')", 0.66, 0.73), ("lsh(bits=384)", 0.46, 0.56),
     ("itq(bits=384, scorer='asymmetric')", 0.70, 0.77), ("rabitq()", 0.69, 0.75), ("rabitq(bits=2)", 0.82, 0.88),
     ("rabitq(bits=4)", 0.93, 0.97)],
)  # fmt: skip
def test_recall_on_text_embeddings_is_where_it_is_known_to_be(spec: str, low: float, high: float) -> None:
    folder = os.environ.get("PACKBENCH_DATA")
    if folder is None:
        pytest.skip("PACKBENCH_DATA names no folder of data sets")
    path = Path(folder) / "beir_scifact" / "all-MiniLM-L6-v2"
    items, queries = (np.load(path / f"{part}_f16.npy").astype(np.float32) for part in ("corpus", "queries"))
    truth = search_exact(queries, items, "cosine", 10).ids
    assert low < recall(opened(parse(spec), items, "cosine").search(queries, 10), truth) < high
