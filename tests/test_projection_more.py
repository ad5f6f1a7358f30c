"""Further transforms in front of a code, and prefixes searched in turn: what each is known to keep, find or give up."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import COLD, Sample, Transform
from packbench.methods.projection import householder_proj, monarch_rotation
from packbench.methods.projection.hadamard_rotation import mix
from packbench.methods.projection.omp_dims import picks
from packbench.registry import get
from packbench.spec import parse
from packbench.testing import MethodChecks, run_checks

pytestmark = pytest.mark.filterwarnings("error")

METRICS = ("ip", "cosine", "l2")
# Exact with all dimensions under these metrics.
EXACT = {
    "hadamard_rotation()": METRICS,
    "hadamard_rotation(rounds=3)": METRICS,
    "srht(dim={})": METRICS,
    "top_variance_dims(dim={})": METRICS,
    "svd(dim={})": METRICS,
    "pca_whiten(dim={}, queries='dual')": ("ip", "cosine"),
    "pca_whiten(dim={}, queries='dual', zca=True)": ("ip", "cosine"),
    "count_sketch(dim={}, balanced=True)": METRICS,
    "query_aware_svd(dim={})": ("ip", "cosine"),
    "query_aware_svd(dim={}, power=1.0)": ("ip", "cosine"),
    "relative_anchors(dim={}, nystrom=True)": METRICS,
    "dct_select(dim={})": METRICS,
    "omp_dims(dim={})": METRICS,
    "omp_dims(dim={}, decoder=True)": METRICS,
    "monarch_rotation()": METRICS,
    "monarch_rotation(start='random')": METRICS,
    "householder_proj(dim={}, reflections=8, steps=3)": METRICS,
}
# Inexact by nature: floors of recall@10 with all of 32 dimensions.
OTHERS = {
    "pca_whiten(dim={})": 0.15,
    "zipf_whiten(dim={})": 0.15,
    "very_sparse_rp(dim={})": 0.1,
    "very_sparse_rp(dim={}, s=1.0)": 0.1,
    "count_sketch(dim={})": 0.1,
    "relative_anchors(dim={})": 0.1,
    "relative_anchors(dim={}, anchors='farthest')": 0.1,
    "relative_anchors(dim={}, anchors='kmeans')": 0.1,
    "remove_top_pcs()": 0.15,
    "remove_top_pcs(count=2)": 0.1,
    "cca(dim={})": 0.1,
}
NAMES = sorted({spec.partition("(")[0] for spec in (*EXACT, *OTHERS)})


def items(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Draw correlated vectors of unequal lengths with a mean far from zero."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0] * np.geomspace(1, 0.1, d)[:, None]
    vectors = rng.standard_normal((n, d)) @ mixing + 0.3 * np.random.default_rng(5).standard_normal(d)
    return (vectors * rng.lognormal(0, 0.2, (n, 1))).astype(np.float32)


def sample_of(vectors: np.ndarray, metric: str = "ip", queries: np.ndarray | None = None) -> Sample:
    n, d = vectors.shape
    asked = items(300, d, seed=9) if queries is None else queries
    nearest = search_exact(asked, vectors, "cosine", 1).ids[:, 0]
    pairs = np.stack([np.arange(len(asked)), nearest], axis=1)
    return Sample(vectors, metric, asked, {"pairs": pairs, "weights": np.linspace(1, 3, n)})


def fitted(
    spec: str, vectors: np.ndarray, metric: str = "ip", asked: np.ndarray | None = None
) -> tuple[Transform, dict]:
    transform = parse(spec)
    assert isinstance(transform, Transform)
    return transform, dict(transform.fit(sample_of(vectors, metric, asked)))


def held(shared: dict) -> dict:
    return {name: array for name, array in shared.items() if not name.startswith("build/")}


def answers(
    spec: str, vectors: np.ndarray, queries: np.ndarray, metric: str, asked: np.ndarray | None = None
) -> np.ndarray:
    transform, shared = fitted(spec, vectors, metric, asked)
    codes = transform.encode(vectors, shared)
    return transform.open(codes, held(shared), metric).search(queries, 10).ids


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("spec", EXACT)
@pytest.mark.parametrize("d", [32, 33])
def test_all_dimensions_give_the_exact_ranking(spec: str, d: int) -> None:
    vectors, queries = items(500, d), items(40, d, seed=2)
    for metric in EXACT[spec]:
        truth = search_exact(queries, vectors, metric, 10).ids
        assert recall(answers(spec.format(d), vectors, queries, metric), truth) > 0.997, metric


@pytest.mark.parametrize("spec", OTHERS)
def test_others_rank_above_chance(spec: str) -> None:
    vectors, queries = items(500, 32), items(40, 32, seed=2)
    for metric in METRICS:
        truth = search_exact(queries, vectors, metric, 10).ids
        assert recall(answers(spec.format(32), vectors, queries, metric), truth) > OTHERS[spec], metric


@pytest.mark.parametrize("spec", [*EXACT, *OTHERS])
def test_formula_rows_and_repeats(spec: str) -> None:
    for d in (17, 40):
        vectors = items(300, d)
        vectors[11] = 0
        vectors.flags.writeable = False
        text = spec.format(d if "zca" in spec else 9)
        transform, shared = fitted(text, vectors)
        assert sum(array.nbytes for array in held(shared).values()) == transform.shared_bytes(d)
        whole = transform.apply(vectors, shared)
        assert whole.shape == (300, transform.dim_after(d)) and whole.dtype == np.float32
        assert transform.planned_bytes(d) == (whole.nbytes / 300, transform.shared_bytes(d), 0)
        assert str(parse(str(transform))) == str(transform) == text
        parts = [transform.apply(vectors[rows], shared) for rows in (slice(0, 123), slice(123, 124), slice(124, 300))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        asked = transform.apply_queries(vectors, held(shared))
        assert asked.dtype == np.float32 and asked.shape == whole.shape
        np.testing.assert_allclose(
            transform.apply_queries(vectors[5:6], held(shared))[0], asked[5], rtol=1e-3, atol=1e-4 * np.abs(asked).max()
        )
        assert transform.apply(vectors[:0], shared).shape == (0, whole.shape[1])
        assert transform.apply_queries(vectors[:0], held(shared)).shape == (0, whole.shape[1])
        again = fitted(text, vectors)[1]
        assert all(array.tobytes() == again[name].tobytes() for name, array in shared.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_budget_is_answered(name: str) -> None:
    for d in (64, 383):
        for nbytes in (4, 32, 128, 512, 2048):
            budget = Budget(nbytes, 1_000_000, d)
            try:
                found = list(get(name).for_budget(budget))
            except BudgetTooSmall as error:
                assert name in ("hadamard_rotation", "monarch_rotation", "remove_top_pcs")
                assert nbytes < error.least < 0.26 * d + 5
                continue
            assert found
            for method in found:
                assert parse(str(method)) == method and budget.holds(*method.planned_bytes(d))


@pytest.mark.parametrize("spec", [spec for spec in EXACT if "dim={}" in spec and "sketch" not in spec])
def test_more_dimensions_than_there_are_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match=r"only 12|dim must be"):
        fitted(spec.format(13), items(12, 12))


@pytest.mark.parametrize("name", NAMES)
def test_too_small_a_sample_is_refused_or_survived(name: str) -> None:
    spec = next(spec for spec in (*EXACT, *OTHERS) if spec.startswith(name + "(")).format(4)
    transform, shared = fitted(spec, items(6, 20))
    assert np.isfinite(transform.apply(items(30, 20), shared)).all()
    try:
        fitted(spec, items(6, 20)[:0])
    except BadInput as error:
        assert "the fit sample" in str(error)
    else:
        assert name in ("hadamard_rotation", "srht", "count_sketch", "very_sparse_rp")


def test_hadamard_spreads_one_coordinate_over_all_and_pads_nothing() -> None:
    transform, shared = fitted("hadamard_rotation()", items(3, 64))
    spread = transform.apply(np.eye(64, dtype=np.float32), shared)
    np.testing.assert_allclose(np.abs(spread), 1 / 8, rtol=1e-6)
    assert shared["signs"].nbytes == 8
    for d in (1, 3, 96, 384):
        transform, shared = fitted("hadamard_rotation(rounds=2)", items(3, d))
        rotation = mix(np.eye(d, dtype=np.float32), shared["signs"])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=2e-6)
        if d > 3:
            assert (np.abs(rotation) > 1e-7).mean() > 0.85  # blocks that overlap mix all coordinates
    other = fitted("hadamard_rotation(seed=1)", items(3, 64))[1]["signs"]
    assert not np.array_equal(other, fitted("hadamard_rotation()", items(3, 64))[1]["signs"])


def kept_products(spec: str, x: np.ndarray, y: np.ndarray, draws: int) -> np.ndarray:
    found = []
    for seed in range(draws):
        transform = parse(spec.format(seed))
        shared = transform.fit(Sample(x[None]))
        found.append(float(transform.apply(x[None], shared)[0] @ transform.apply_queries(y[None], shared)[0]))
    return np.array(found)


@pytest.mark.parametrize(("spec", "extra"), [
    ("very_sparse_rp(dim=20, s=8.0, seed={})", 8 - 3),
    ("very_sparse_rp(dim=20, s=1.0, seed={})", 1 - 3),
    ("count_sketch(dim=20, seed={})", -2),
])  # fmt: skip
def test_sparse_sketches_keep_inner_products_with_the_stated_variance(spec: str, extra: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 64)).astype(np.float32) + 0.5  # of one sign mostly, where signs that lean show
    kept = kept_products(spec, x, y, 700)
    variance = float((x @ x) * (y @ y) + (x @ y) ** 2 + extra * np.sum(x**2 * y**2)) / 20
    assert np.mean(kept) == pytest.approx(float(x @ y), abs=4 * (variance / 700) ** 0.5)
    assert np.var(kept) == pytest.approx(variance, rel=0.25)


def test_srht_keeps_inner_products_in_expectation_on_spiky_vectors() -> None:
    x = np.zeros(48, np.float32)
    x[3], x[40] = 5, 1
    y = x + 0.1
    kept = kept_products("srht(dim=12, seed={})", x, y, 400)
    assert np.mean(kept) == pytest.approx(float(x @ y), abs=4 * kept.std() / 20)
    sparse = kept_products("very_sparse_rp(dim=12, seed={})", x, y, 400)
    assert np.abs(kept - x @ y).max() < np.abs(sparse - x @ y).max() and kept.var() < 0.5 * sparse.var()


def test_very_sparse_rp_of_s_one_is_a_projection_of_signs() -> None:
    transform, shared = fitted("very_sparse_rp(dim=6, s=1.0)", items(3, 10))
    matrix = transform.apply(np.eye(10, dtype=np.float32), shared)
    np.testing.assert_allclose(np.abs(matrix), 1 / np.sqrt(6), rtol=1e-6)
    places = fitted("very_sparse_rp(dim=200)", items(3, 400))[1]["places"]
    assert len(places) == pytest.approx(200 * 400 / 20, rel=0.07)
    assert np.mean(places > 0) == pytest.approx(0.5, abs=0.04)


def test_balanced_buckets_differ_by_one_at_most() -> None:
    buckets = fitted("count_sketch(dim=7, balanced=True)", items(3, 30))[1]["buckets"]
    assert set(np.bincount(buckets, minlength=7)) == {4, 5}


def test_top_variance_finds_what_varies_and_energy_what_is_large() -> None:
    rng = np.random.default_rng(0)
    vectors = np.ones((200, 30), np.float32)
    vectors[:, 4] = 9
    vectors[:, [2, 17, 29]] += rng.standard_normal((200, 3)).astype(np.float32)
    assert fitted("top_variance_dims(dim=3)", vectors)[1]["indices"].tolist() == [2, 17, 29]
    assert 4 in fitted("top_variance_dims(dim=1, by='energy')", vectors)[1]["indices"]
    queries = rng.standard_normal((20, 30)).astype(np.float32)
    truth = search_exact(queries, vectors, "l2", 10).ids
    assert recall(answers("top_variance_dims(dim=3)", vectors, queries, "l2"), truth) == 1
    # Importance is not variance: what queries ask for may hardly vary.
    vectors[:, 11] += 0.3 * rng.standard_normal(200).astype(np.float32)
    asked = np.zeros((5, 30), np.float32)
    asked[:, 11] = [1, 2, -1, -2, 3]
    truth = search_exact(asked, vectors, "ip", 10).ids
    assert recall(answers("top_variance_dims(dim=3)", vectors, asked, "ip"), truth) < 0.3


def test_svd_is_the_best_of_its_rank() -> None:
    rng = np.random.default_rng(3)
    flat = (rng.standard_normal((300, 5)) @ rng.standard_normal((5, 30))).astype(np.float32)
    transform, shared = fitted("svd(dim=5)", flat)
    np.testing.assert_allclose(transform.apply(flat, shared) @ shared["components"], flat, atol=1e-4)
    vectors = items(300, 30)
    singular = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    transform, shared = fitted("svd(dim=12)", vectors)
    missing = vectors - transform.apply(vectors, shared) @ shared["components"]
    assert float((missing.astype(np.float64) ** 2).sum()) == pytest.approx(float((singular[12:] ** 2).sum()), rel=1e-4)
    transform, shared = fitted("svd(dim=12, soft_threshold=0.2)", vectors)
    shrunk = np.linalg.svd(transform.apply(vectors, shared).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(shrunk, np.maximum(singular[:12] - 0.2 * singular[0], 0), atol=1e-3)


def test_whitening_gives_the_identity_and_none_of_it_pca() -> None:
    vectors = items(800, 24)
    transform, shared = fitted("pca_whiten(dim=24, queries='dual')", vectors)
    white = transform.apply(vectors, shared).astype(np.float64)
    np.testing.assert_allclose(np.cov(white.T, ddof=0), np.eye(24), atol=1e-3)
    zca, with_axes = fitted("pca_whiten(dim=24, queries='dual', zca=True)", vectors)
    np.testing.assert_allclose(np.cov(zca.apply(vectors, with_axes).T, ddof=0), np.eye(24), atol=1e-3)
    np.testing.assert_allclose(with_axes["matrix"], with_axes["matrix"].T, atol=1e-4)
    plain, mapped = fitted("pca_whiten(dim=10, queries='dual', power=0.0)", vectors)
    pca, components = fitted("pca(dim=10)", vectors)
    np.testing.assert_allclose(plain.apply(vectors, mapped), pca.apply(vectors, components), atol=1e-4)
    np.testing.assert_allclose(plain.apply_queries(vectors, mapped), pca.apply_queries(vectors, components), atol=1e-4)
    same, of_unit = fitted("pca_whiten(dim=10)", vectors)
    lengths = np.linalg.norm(same.apply_queries(3 * vectors, of_unit), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    np.testing.assert_allclose(same.apply_queries(3 * vectors, of_unit), same.apply(vectors, of_unit), atol=1e-4)
    with pytest.raises(BadInput, match="distances do not"):
        fitted("pca_whiten(dim=4, queries='dual')", vectors, "l2")
    with pytest.raises(BadInput, match="all equal"):
        fitted("pca_whiten(dim=4)", np.repeat(vectors[:1], 50, axis=0))


def test_zipf_whitening_weighs_items_and_is_plain_where_all_weigh_the_same() -> None:
    vectors = items(500, 16)
    frequencies = 1 / np.arange(1, 501)
    transform = parse("zipf_whiten(dim=16)")
    shared = transform.fit(Sample(vectors, extras={"weights": frequencies}))
    white = transform.apply(vectors, shared).astype(np.float64)
    p = frequencies / frequencies.sum()
    np.testing.assert_allclose(p @ white, 0, atol=1e-4)
    np.testing.assert_allclose((white * p[:, None]).T @ white, np.eye(16), atol=1e-3)
    assert np.abs(np.cov(white.T) - np.eye(16)).max() > 0.1
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    uniform = transform.fit(Sample(unit, extras={"weights": np.full(500, 7)}))
    np.testing.assert_allclose(uniform["matrix"], fitted("pca_whiten(dim=16)", unit)[1]["matrix"], rtol=1e-3, atol=1e-3)
    for extras in ({}, {"weights": frequencies[:3]}, {"weights": -frequencies}):
        with pytest.raises(BadInput, match="weights"):
            transform.fit(Sample(vectors, extras=extras))


def test_query_aware_svd_keeps_what_queries_ask_for() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((600, 24)) * np.geomspace(3, 0.5, 24)).astype(np.float32)
    # Queries look at the directions of little variance.
    queries = (rng.standard_normal((300, 24)) * np.geomspace(0.1, 3, 24)).astype(np.float32)
    for metric in ("ip", "cosine"):
        truth = search_exact(queries[200:], vectors, metric, 10).ids
        plain, aware = (answers(spec, vectors, queries[200:], metric, asked=queries[:200])
                        for spec in ("svd(dim=8)", "query_aware_svd(dim=8)"))  # fmt: skip
        assert recall(aware, truth) > recall(plain, truth) + 0.3
    scores = queries @ vectors.T

    def error(power: float) -> float:
        transform, shared = fitted(f"query_aware_svd(dim=8, power={power}, ridge=1e-9)", vectors, asked=queries)
        return float(
            np.linalg.norm(transform.apply_queries(queries, shared) @ transform.apply(vectors, shared).T - scores)
        )

    left, singular, right = np.linalg.svd(scores.astype(np.float64), full_matrices=False)
    best = float(np.linalg.norm((left[:, 8:] * singular[8:]) @ right[8:]))
    assert error(0.5) == pytest.approx(best, rel=1e-4)  # no rank-8 scores are nearer
    assert min(error(0.0), error(1.0)) > 1.001 * best
    isotropic = np.eye(24, dtype=np.float32)
    aware = fitted("query_aware_svd(dim=8)", vectors, asked=isotropic)[1]["matrix"]
    plain = fitted("svd(dim=8)", vectors)[1]["components"]
    np.testing.assert_allclose(aware / np.linalg.norm(aware, axis=1, keepdims=True), plain, atol=1e-4)
    with pytest.raises(BadInput, match="needs sample queries"):
        parse("query_aware_svd(dim=8)").fit(Sample(vectors))


def test_query_aware_svd_ranks_distances() -> None:
    vectors, queries = items(500, 24) + 2, items(40, 24, seed=2) + 2
    truth = search_exact(queries, vectors, "l2", 10).ids
    assert recall(answers("query_aware_svd(dim=24)", vectors, queries, "l2", asked=items(200, 24, 7) + 2), truth) > 0.95


def test_removing_a_planted_common_direction_returns_the_clean_neighbours() -> None:
    rng = np.random.default_rng(0)
    common = np.linalg.qr(rng.standard_normal((40, 40)))[0][0]
    clean, asked = rng.standard_normal((2, 400, 40))
    clean, asked = clean - np.outer(clean @ common, common), asked[:30] - np.outer(asked[:30] @ common, common)
    vectors = (clean + np.outer(100 * rng.standard_normal(400), common)).astype(np.float32)
    queries = (asked + 5 * common).astype(np.float32)
    for metric in ("ip", "l2"):
        truth = search_exact(asked, clean, metric, 10).ids
        assert recall(search_exact(queries, vectors, metric, 10).ids, truth) < 0.3
        assert recall(answers("remove_top_pcs(count=1)", vectors, queries, metric), truth) > 0.95
    transform, shared = fitted("remove_top_pcs(count=1)", vectors)
    assert np.abs(transform.apply_queries(queries, shared) @ common).max() < 0.1
    assert parse("remove_top_pcs()").shared_bytes(384) == 4 * 384 * 5 + 1
    with pytest.raises(BadInput, match="nothing would be left"):
        fitted("remove_top_pcs(count=40)", vectors)


@pytest.mark.parametrize("way", ["random", "farthest", "kmeans"])
def test_relative_descriptions_outlive_rotation_and_scaling(way: str) -> None:
    vectors = items(300, 20)
    turned = (2.5 * vectors @ np.linalg.qr(np.random.default_rng(4).standard_normal((20, 20)))[0]).astype(np.float32)
    one, other = (
        transform.apply(rows, shared)
        for rows in (vectors, turned)
        for transform, shared in [fitted(f"relative_anchors(dim=12, anchors='{way}')", rows, "cosine")]
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    if way != "kmeans":
        assert ((one > 1 - 1e-5).sum(axis=0) == 1).all()  # each anchor is one row of the sample
    if way == "farthest":
        upright = np.abs(vectors)
        upright[:2] = 0  # as far from all others as can be, and from itself
        anchors = fitted("relative_anchors(dim=12, anchors='farthest')", upright)[1]["anchors"]
        assert (anchors == 0).all(axis=1).sum() == 2
    with pytest.raises(BadInput, match="only 5 rows"):
        fitted("relative_anchors(dim=12)", vectors[:5])


def test_nystrom_anchors_keep_products_of_what_they_span() -> None:
    rng = np.random.default_rng(3)
    flat = (rng.standard_normal((200, 6)) @ rng.standard_normal((6, 25))).astype(np.float32)
    transform, shared = fitted("relative_anchors(dim=9, nystrom=True)", flat)  # three more than the rank
    mapped = transform.apply(flat, shared)
    np.testing.assert_allclose(mapped @ mapped.T, flat @ flat.T, atol=1e-3)


def test_dct_keeps_smooth_vectors_in_few_columns() -> None:
    rng = np.random.default_rng(0)
    waves = np.cos(np.pi * (np.arange(48) + 0.5)[None] * np.array([[1], [3], [4], [9]]) / 48)
    smooth = (rng.standard_normal((200, 4)) @ waves).astype(np.float32)
    for mass in (1, 2):
        transform, shared = fitted(f"dct_select(dim=4, mass={mass})", smooth)
        assert shared["indices"].tolist() == [1, 3, 4, 9]
        mapped = transform.apply(smooth, shared)
        np.testing.assert_allclose(mapped @ mapped.T, smooth @ smooth.T, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(mapped, transform.apply_queries(smooth, shared), atol=1e-4)
        np.testing.assert_allclose(mapped, dct(smooth, norm="ortho")[:, [1, 3, 4, 9]], atol=1e-4)


def test_omp_reconstructs_the_rank_and_picks_no_duplicate() -> None:
    rng = np.random.default_rng(2)
    flat = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 8))
    vectors = np.hstack([flat, flat, flat]).astype(np.float32)
    chosen = picks(vectors.T.astype(np.float64) @ vectors, 5)
    assert len(set(chosen % 8)) == 5
    rest = vectors - vectors[:, chosen] @ np.linalg.lstsq(vectors[:, chosen], vectors, rcond=None)[0]
    assert np.abs(rest).max() < 1e-4
    filled = picks(vectors.T.astype(np.float64) @ vectors, 24)
    assert filled[:5].tolist() == chosen.tolist() and filled[5:].tolist() == sorted(
        set(range(24)) - set(chosen.tolist())
    )
    queries = rng.standard_normal((30, 24)).astype(np.float32)
    for metric in METRICS:
        truth = search_exact(queries, vectors, metric, 10).ids
        for dim in (5, 7):
            assert recall(answers(f"omp_dims(dim={dim}, decoder=True)", vectors, queries, metric), truth) > 0.99
    np.testing.assert_array_equal(picks(np.diag([1.0, 4.0, 2.0]), 2), [1, 2])


def test_cca_finds_the_shared_factors_and_nothing_after() -> None:
    rng = np.random.default_rng(0)
    n, d = 3000, 16
    factors = rng.standard_normal((n, 3))
    sides = []
    for _ in range(2):
        view = 2 * factors @ np.linalg.qr(rng.standard_normal((d, d)))[0][:3] + 0.5 * rng.standard_normal((n, d))
        sides.append((view / np.linalg.norm(view, axis=1, keepdims=True)).astype(np.float32))
    order = rng.permutation(n)
    pairs = np.stack([np.arange(n), order], axis=1)
    sample = Sample(sides[1][np.argsort(order)], "cosine", sides[0], {"pairs": pairs})
    transform = parse("cca(dim=8, ridge=1e-6)")
    shared = transform.fit(sample)
    asked, found = transform.apply_queries(sides[0], held(shared)), transform.apply(sides[1], shared)
    for side in (asked, found):
        np.testing.assert_allclose(np.cov(side.T), np.eye(8), atol=2e-2)
    correlations = [np.corrcoef(asked[:, j], found[:, j])[0, 1] for j in range(8)]
    assert min(correlations[:3]) > 0.85 and max(map(abs, correlations[3:])) < 0.15
    three = parse("cca(dim=3)")
    shared = three.fit(sample)
    ids = three.open(three.encode(sides[1], shared), held(shared), "cosine").search(sides[0][:50], 100).ids
    wrong = search_exact(sides[0][:50], sides[1], "cosine", 100).ids
    hits = [np.mean([row in listed for row, listed in enumerate(lists)]) for lists in (ids, wrong)]
    assert hits[0] > hits[1] + 0.4
    for extras in ({}, {"pairs": pairs[:, :1]}, {"pairs": pairs + 1}, {"pairs": pairs + 0.5}):
        with pytest.raises(BadInput, match="pair"):
            transform.fit(Sample(sides[1], "ip", sides[0], extras))


@pytest.mark.parametrize("d", [16, 12, 7])
def test_monarch_projection_is_idempotent(d: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((d, d))
    once = monarch_rotation.dense(*monarch_rotation.nearest(matrix))
    twice = monarch_rotation.dense(*monarch_rotation.nearest(once))
    np.testing.assert_allclose(once, twice, atol=1e-12)
    g, h = monarch_rotation.split(d)
    inner, outer = rng.standard_normal((g, h, h)), rng.standard_normal((h, g, g))
    whole = monarch_rotation.dense(inner, outer)
    np.testing.assert_allclose(monarch_rotation.dense(*monarch_rotation.nearest(whole)), whole, atol=1e-12)
    near = matrix + 1e-3 * rng.standard_normal((d, d))
    assert np.linalg.norm(matrix - once) <= np.linalg.norm(
        matrix - monarch_rotation.dense(*monarch_rotation.nearest(near))
    )
    transform, shared = fitted("monarch_rotation()", items(50, d))
    rotation = transform.apply(np.eye(d, dtype=np.float32), shared)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-5)
    np.testing.assert_allclose(transform.apply_queries(np.eye(d, dtype=np.float32), shared), rotation, atol=1e-5)


def test_monarch_keeps_a_rotation_that_is_one() -> None:
    rng = np.random.default_rng(0)
    blocks = [np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(8)]
    rotation = monarch_rotation.dense(np.stack(blocks[:4]), np.stack(blocks[4:]))
    vectors = (rng.standard_normal((4000, 16)) * np.geomspace(4, 0.1, 16) @ rotation).astype(np.float32)
    transform, shared = fitted("monarch_rotation()", vectors)
    variances = transform.apply(vectors, shared).var(axis=0)
    np.testing.assert_allclose(variances[:8], (np.geomspace(4, 0.1, 16) ** 2)[:8], rtol=0.15)


def test_householder_is_orthonormal_and_starts_where_svd_ends() -> None:
    vectors = items(400, 24)
    transform, shared = fitted("householder_proj(dim=6)", vectors)
    plain = fitted("svd(dim=6)", vectors)[1]["components"].astype(np.float64)
    matrix = householder_proj.projection(shared["reflectors"], 6)
    np.testing.assert_allclose(matrix @ matrix.T, plain.T @ plain, atol=1e-4)
    gram = vectors.T.astype(np.float64) @ vectors
    scores = [gram]
    for steps in (0, 2, 5, 40):
        transform, shared = fitted(f"householder_proj(dim=10, reflections=3, steps={steps})", vectors)
        matrix = householder_proj.projection(shared["reflectors"], 10)
        assert np.abs(matrix.T @ matrix - np.eye(10)).max() < 1e-5
        kept = matrix @ matrix.T
        scores.append(np.trace(gram @ gram - 2 * gram @ kept @ gram + gram @ kept @ gram @ kept))
        np.testing.assert_allclose(transform.apply_queries(vectors, shared), vectors @ matrix, atol=1e-4)
    assert scores[1] > scores[2] > scores[3] > scores[4]  # training only gains


@pytest.mark.parametrize("metric", METRICS)
def test_prefixes_in_turn_end_in_the_exact_ranking(metric: str) -> None:
    vectors, queries = items(400, 33), items(30, 33, seed=2)
    truth = search_exact(queries, vectors, metric, 10).ids
    for funnel in (False, True):
        for code, floor in (("float32()", 1.0), ("int8()", 0.93)):
            method = parse(f"mrl_adaptive({code}, dim=4, factor=4000, funnel={funnel})")
            shared = method.fit(Sample(vectors, metric))
            codes = method.encode(vectors, shared)
            found = method.open(codes, shared, metric).search(queries, 10)
            assert recall(found.ids, truth) >= floor
            weighed = sum(array.nbytes for array in codes.values()) / 400
            assert (weighed, sum(array.nbytes for array in shared.values()), 0) == method.planned_bytes(33)
    short = parse("mrl_adaptive(float32(), dim=4, factor=2)")
    codes = short.encode(vectors, {})
    listed = search_exact(queries[:, :4], vectors[:, :4], metric, 20).ids
    found = short.open(codes, {}, metric).search(queries, 10).ids
    assert all(set(ids) <= set(first) for ids, first in zip(found, listed, strict=True))
    assert 0 < recall(found, truth) < 1
    np.testing.assert_allclose(short.decode(codes, {}), vectors)


def test_a_funnel_halves_its_list_while_it_doubles_its_prefix() -> None:
    method = parse("mrl_adaptive(float32(), dim=4, factor=8, funnel=True)")
    vectors, queries = items(400, 40), items(5, 40, seed=2)
    searcher = method.open(method.encode(vectors, {}), {}, "ip")
    assert searcher.stages(40, 10) == [(8, 40), (16, 20), (32, 10), (40, 10)]
    listed = [search_exact(queries[:, :4], vectors[:, :4], "ip", 80).ids]
    for prefix, kept in searcher.stages(40, 10):
        scores = np.einsum("qd,qnd->qn", queries[:, :prefix], vectors[listed[-1]][..., :prefix])
        listed.append(np.take_along_axis(listed[-1], np.argsort(-scores, axis=1)[:, :kept], axis=1))
    assert [set(ids) for ids in searcher.search(queries, 10).ids] == [set(ids) for ids in listed[-1]]


def test_the_rest_may_lie_on_disk() -> None:
    vectors, queries = items(300, 24), items(10, 24, seed=2)
    answers_of = []
    for tier in ("ram", "disk"):
        method = parse(f"mrl_adaptive(float16(), dim=6, tier='{tier}')")
        codes = method.encode(vectors, method.fit(Sample(vectors)))
        cold = sum(array.nbytes for name, array in codes.items() if name.startswith(COLD)) / 300
        warm = sum(array.nbytes for name, array in codes.items() if not name.startswith(COLD)) / 300
        assert (warm, 0, cold) == method.planned_bytes(24) == ((48, 0, 0) if tier == "ram" else (12, 0, 36))
        searcher = method.open(codes, {}, "ip")
        answers_of.append(searcher.search(queries, 5).ids)
        assert searcher.cold_bytes_per_query(5) == (0 if tier == "ram" else 50 * 36)
    np.testing.assert_array_equal(*answers_of)
    with pytest.raises(BadInput, match="must leave some"):
        parse("mrl_adaptive(int8(), dim=24)").fit(Sample(vectors))
    for cold in (0.0, 4096.0):
        for nbytes in (100, 256, 2048):
            found = list(get("mrl_adaptive").for_budget(Budget(nbytes, 1_000_000, 384, cold)))
            assert found and all("tier='disk'" in str(method) for method in found[:1]) == (cold > 0)
    with pytest.raises(BudgetTooSmall):
        list(get("mrl_adaptive").for_budget(Budget(4, 1_000_000, 384)))


class WithMore(MethodChecks):
    """Give fit the pairs and weights that it may need; the checks that make samples of their own are left out."""

    test_degenerate_items = None
    test_inputs_are_accepted_and_left_alone = None
    test_nan_and_infinity_are_refused = None

    def make_sample(self, n: int, d: int, metric: str, seed: int) -> Sample:
        return sample_of(self.make_items(n, d, seed), metric, self.make_queries(200, d, seed + 1))


@pytest.mark.parametrize("spec", ["query_aware_svd(dim=8)", "omp_dims(dim=8, decoder=True)"])
def test_the_contract_holds_where_search_is_not_given_the_map_of_items(spec: str) -> None:
    findings = run_checks(spec)
    assert not [finding for finding in findings if not finding.passed], findings


@pytest.mark.parametrize("spec", ["cca(dim=8)", "zipf_whiten(dim=8)"])
def test_the_contract_holds_where_fit_needs_more(spec: str) -> None:
    findings = run_checks(spec, WithMore)
    assert not [finding for finding in findings if not finding.passed], findings
