"""Transforms in front of a code: which ranking they keep, what they weigh, and how they fill a budget."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import Chain, Sample, Transform, parts_of
from packbench.registry import get
from packbench.spec import parse

pytestmark = pytest.mark.filterwarnings("error")  # a division by zero is a bug even where its result is not used

METRICS = ("ip", "cosine", "l2")
NAMES = ("random_dims", "random_projection", "truncate", "pca", "random_rotation", "centre")
# With all dimensions kept, each of these is exact; the floor is of recall@10 with 20 of 32 dimensions.
SPECS = {
    "random_dims(dim={})": 0.2,
    "random_projection(dim={})": 0.2,
    "truncate(dim={})": 0.2,
    "pca(dim={})": 0.85,
    "random_rotation()": 0.999,
    "centre()": 0.999,
}


def items(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Draw correlated vectors of unequal lengths with a mean far from zero, where careless centring shows."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0] * np.geomspace(1, 0.05, d)[:, None]
    vectors = rng.standard_normal((n, d)) @ mixing + 0.5 * np.random.default_rng(5).standard_normal(d)
    return (vectors * rng.lognormal(0, 0.2, (n, 1))).astype(np.float32)


def fitted(spec: str, vectors: np.ndarray, metric: str = "ip") -> tuple[Transform, dict]:
    transform = parse(spec)
    assert isinstance(transform, Transform)
    return transform, dict(transform.fit(Sample(vectors, metric)))


def answers(spec: str, vectors: np.ndarray, queries: np.ndarray, metric: str, k: int = 10) -> np.ndarray:
    transform, shared = fitted(spec, vectors, metric)
    return transform.open(transform.encode(vectors, shared), shared, metric).search(queries, k).ids


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", METRICS)
def test_ranking_with_all_and_with_some_dimensions(spec: str, metric: str) -> None:
    vectors, queries = items(1200, 32), items(60, 32, seed=2)
    truth = search_exact(queries, vectors, metric, 10).ids
    if "projection" not in spec:
        assert recall(answers(spec.format(32), vectors, queries, metric), truth) > 0.999
    some = recall(answers(spec.format(20), vectors, queries, metric), truth)
    assert some > SPECS[spec]
    coded = parse(f"{spec.format(20)} | int8()")
    shared = coded.fit(Sample(vectors, metric))
    found = coded.open(coded.encode(vectors, shared), shared, metric).search(queries, 10).ids
    assert recall(found, truth) > some - 0.08


@pytest.mark.parametrize("spec", ["pca(dim=32)", "centre()"])
def test_an_inner_product_keeps_the_term_of_the_mean(spec: str) -> None:
    vectors, queries = items(1200, 32), items(60, 32, seed=2)
    truth = search_exact(queries, vectors, "ip", 10).ids
    transform, shared = fitted(spec, vectors)
    both = search_exact(transform.apply(queries, shared), transform.apply(vectors, shared), "ip", 10).ids
    assert recall(both, truth) < 0.8  # what a chain that centres both sides would answer
    assert recall(answers(spec, vectors, queries, "ip"), truth) > 0.999


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [17, 40])
def test_formula_is_what_the_arrays_weigh(spec: str, metric: str, d: int) -> None:
    vectors = items(30, d)
    transform, shared = fitted(spec.format(9), vectors, metric)
    assert sum(array.nbytes for array in shared.values()) == transform.shared_bytes(d)
    mapped = transform.apply(vectors, shared)
    assert mapped.shape == (30, transform.dim_after(d)) and mapped.dtype == np.float32
    assert transform.planned_bytes(d) == (mapped.nbytes / 30, transform.shared_bytes(d), 0)
    assert str(parse(str(transform))) == str(transform) == spec.format(9)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_do_not_depend_on_the_batch(spec: str, metric: str) -> None:
    vectors = items(700, 90)
    vectors[11] = 0
    vectors.flags.writeable = False
    transform, shared = fitted(spec.format(33), vectors, metric)
    whole = transform.apply(vectors, shared)
    parts = [transform.apply(vectors[rows], shared) for rows in (slice(0, 123), slice(123, 124), slice(124, 700))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert transform.apply(vectors[:0], shared).shape == (0, whole.shape[1])
    assert transform.apply_queries(vectors[:0], shared).shape == (0, whole.shape[1])
    other = np.asfortranarray(np.repeat(vectors, 2, axis=1))[:, ::2].astype(np.float64)
    np.testing.assert_array_equal(transform.apply(other, shared), whole)
    again = fitted(spec.format(33), vectors, metric)[1]
    assert all(np.array_equal(array, again[name]) for name, array in shared.items())
    with pytest.raises(BadInput, match="row 2 "):
        transform.apply(np.where(np.arange(700)[:, None] == 2, np.inf, vectors), shared)


@pytest.mark.parametrize("spec", ["random_dims(dim=41)", "truncate(dim=41)", "pca(dim=41)"])
def test_more_dimensions_than_there_are_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="only 40 coordinates"):
        fitted(spec, items(50, 40))


@pytest.mark.parametrize("name", ["random_dims", "random_projection", "truncate", "pca"])
def test_no_dimensions_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="at least 1"):
        parse(f"{name}(dim=0)")


@pytest.mark.parametrize("spec", ["pca(dim=3)", "centre()"])
def test_an_empty_sample_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="fit sample is empty"):
        fitted(spec, items(5, 4)[:0])


def test_pca_is_that_of_scikit_learn() -> None:
    vectors = items(800, 24)
    reference = PCA(10, svd_solver="full").fit(vectors.astype(np.float64))
    transform, shared = fitted("pca(dim=10)", vectors, "l2")
    signs = np.sign((reference.components_ * shared["components"]).sum(axis=1))
    np.testing.assert_allclose(shared["components"] * signs[:, None], reference.components_, atol=1e-5)
    mapped = transform.apply(vectors, shared)
    np.testing.assert_allclose(mapped.var(axis=0, ddof=1), reference.explained_variance_, rtol=1e-4)
    largest = np.abs(shared["components"]).argmax(axis=1)
    assert (shared["components"][np.arange(10), largest] > 0).all()
    # Any number of dimensions is a prefix of one fit.
    np.testing.assert_array_equal(fitted("pca(dim=4)", vectors, "l2")[1]["components"], shared["components"][:4])


@pytest.mark.parametrize("spec", ["pca(dim=24)", "centre()"])
def test_cosine_is_learned_and_applied_on_unit_vectors(spec: str) -> None:
    vectors = items(300, 24)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    transform, shared = fitted(spec, vectors, "cosine")
    expected = fitted(spec, unit, "ip")[1]
    for name in set(shared) - {"rule"}:
        np.testing.assert_allclose(shared[name], expected[name], atol=1e-4)
    np.testing.assert_allclose(transform.apply(vectors, shared), transform.apply(unit, expected), atol=1e-4)
    queries = transform.apply_queries(vectors, shared)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-4)
    assert transform.metric_after("cosine") == "ip"


def test_pca_keeps_distances_and_finds_the_rank() -> None:
    vectors = items(300, 20)
    transform, shared = fitted("pca(dim=20)", vectors, "l2")
    mapped = transform.apply(vectors, shared)
    np.testing.assert_allclose(np.linalg.norm(mapped[1:] - mapped[:-1], axis=1),
                               np.linalg.norm(vectors[1:] - vectors[:-1], axis=1), rtol=1e-4)  # fmt: skip
    np.testing.assert_allclose(transform.apply_queries(vectors, shared), mapped, atol=1e-4)
    rng = np.random.default_rng(3)
    flat = (rng.standard_normal((400, 5)) @ rng.standard_normal((5, 30)) + rng.standard_normal(30)).astype(np.float32)
    queries = rng.standard_normal((40, 30)).astype(np.float32)
    for metric in ("ip", "l2"):
        truth = search_exact(queries, flat, metric, 10).ids
        assert recall(answers("pca(dim=5)", flat, queries, metric), truth) > 0.99
        assert recall(answers("pca(dim=4)", flat, queries, metric), truth) < 0.95


def test_pca_works_on_fewer_rows_than_dimensions() -> None:
    vectors = items(40, 64)
    transform, shared = fitted("pca(dim=50)", vectors[:3])
    components = shared["components"]
    np.testing.assert_allclose(components @ components.T, np.eye(50), atol=1e-5)
    assert np.isfinite(transform.apply(vectors, shared)).all()
    assert transform.apply(vectors, fitted("pca(dim=50)", vectors[:1])[1]).shape == (40, 50)


def test_truncation_after_a_rotation_to_principal_axes_is_pca() -> None:
    vectors, queries = items(500, 16), items(20, 16, seed=2)
    chain = parse("pca(dim=16) | truncate(dim=5)")
    shared = chain.fit(Sample(vectors))
    found = chain.open(chain.encode(vectors, shared), shared, "ip").search(queries, 10).ids
    np.testing.assert_array_equal(found, answers("pca(dim=5)", vectors, queries, "ip"))
    np.testing.assert_array_equal(parse("truncate(dim=3)").apply(vectors, {}), vectors[:, :3])


def test_random_projection_keeps_inner_products_with_the_stated_variance() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 64)).astype(np.float32)
    kept = []
    for seed in range(600):
        transform, shared = fitted(f"random_projection(dim=20, seed={seed})", x[None])
        kept.append(float(transform.apply(x[None], shared)[0] @ transform.apply_queries(y[None], shared)[0]))
    variance = ((x @ x) * (y @ y) + (x @ y) ** 2) / 20
    assert np.mean(kept) == pytest.approx(float(x @ y), abs=4 * float(variance / 600) ** 0.5)
    assert np.var(kept) == pytest.approx(float(variance), rel=0.25)


def test_random_rotation_is_one_and_is_not_made_of_the_items() -> None:
    plain = np.random.default_rng(0).standard_normal((500, 48)).astype(np.float32)
    transform, shared = fitted("random_rotation()", plain)
    rotation = shared["rotation"].astype(np.float64)
    assert np.abs(rotation @ rotation.T - np.eye(48)).max() < 1e-6
    other = fitted("random_rotation(seed=1)", plain)[1]["rotation"]
    assert np.abs(other - rotation).max() > 0.1
    # Had the rotation been drawn from the stream that made these items, it would line the first of them up.
    mapped = transform.apply(plain, shared)
    assert np.abs(mapped[:48]).max() < 6
    np.testing.assert_allclose(mapped @ mapped.T, plain @ plain.T, atol=1e-3)


def test_random_dims_are_distinct_and_follow_the_seed() -> None:
    vectors = items(10, 50)
    first, second = (fitted(f"random_dims(dim=20, seed={seed})", vectors)[1]["indices"] for seed in (0, 1))
    assert len(set(first.tolist())) == 20 and first.dtype == np.uint16 and first.tolist() != second.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_centring_chains_into_codes(metric: str) -> None:
    vectors, queries = items(1500, 32), items(60, 32, seed=2)
    truth = search_exact(queries, vectors, metric, 10).ids
    for spec in ("centre() | random_rotation() | int8()", "pca(dim=32) | centre() | float16()"):
        chain = parse(spec)
        shared = chain.fit(Sample(vectors, metric))
        found = chain.open(chain.encode(vectors, shared), shared, metric).search(queries, 10).ids
        assert recall(found, truth) > 0.95


def test_a_metric_without_a_rule_is_refused() -> None:
    with pytest.raises(BadInput, match="centring is defined for"):
        fitted("centre()", items(5, 4), "maxsim")


@pytest.mark.parametrize("name", NAMES)
def test_every_budget_is_answered(name: str) -> None:
    for d in (64, 383, 384, 1024):
        for nbytes in (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 2048):
            budget = Budget(nbytes, 1_000_000, d)
            try:
                found = list(get(name).for_budget(budget))
            except BudgetTooSmall as error:
                assert name in ("random_rotation", "centre") and nbytes < error.least < 0.26 * d + 5
                assert list(get(name).for_budget(Budget(error.least, 1_000_000, d)))
                continue
            assert found
            for method in found:
                assert isinstance(method, Chain) and parse(str(method)) == method
                assert budget.holds(*method.planned_bytes(d))
                assert isinstance(parts_of(method)[0], get(name))


@pytest.mark.parametrize("name", ["random_dims", "random_projection", "truncate", "pca"])
def test_compositions_use_the_bytes_they_are_given(name: str) -> None:
    vectors = items(64, 96)
    for nbytes in (4, 16, 48, 95):
        budget = Budget(nbytes, 1_000_000, 96)
        chains = list(get(name).for_budget(budget))
        if nbytes < 48:
            assert [str(chain).split(" | ")[1] for chain in chains] == ["int8()", "int4()", "float16()"]
        for chain in chains:
            shared = chain.fit(Sample(vectors))
            item = sum(array.nbytes for array in chain.encode(vectors, shared).values()) / 64
            common = sum(array.nbytes for array in shared.values())
            assert (item, common) == chain.planned_bytes(96)[:2]
            whole = f"dim=96) | int4(bits={int(8 * nbytes / 96)}" in str(chain)
            assert whole or (item + common / budget.n > nbytes - 2.1 and budget.holds(item, common))


def test_the_best_affordable_code_keeps_all_dimensions_first() -> None:
    def first(nbytes: float) -> str:
        return str(next(iter(get("truncate").for_budget(Budget(nbytes, 1_000_000, 64)))))

    assert first(256) == "truncate(dim=64) | float32()"
    assert first(130) == "truncate(dim=64) | float16()"
    assert first(65) == "truncate(dim=64) | int8()"
    assert first(50) == "truncate(dim=64) | int4(bits=6)"
    assert first(30) == "truncate(dim=29) | int8()"
