"""Peers, where their packages are installed: the answers of the library itself, from bytes that were weighed."""

import importlib.util
from typing import ClassVar

import numpy as np
import pytest

from packbench import artefact, registry
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import Sample, imports_of
from packbench.methods.composite.scann_index import ScaNN, packed, unpacked
from packbench.methods.composite.turbovec_index import PAGE, TurboVec, changed_pages, restored_pages
from packbench.methods.composite.usearch_index import USearch
from packbench.methods.projection.linear import unit
from packbench.spec import parse
from packbench.testing import MethodChecks

PEERS = (TurboVec, USearch, ScaNN)
METRICS = ("ip", "cosine", "l2")


def needs(package):
    """Skip what needs a package of the extra `peers` that is not installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed: pip install 'packbench[peers]'"
    )


def vectors(n, d=32, seed=0):
    """Rows about a few centres, with a mean and of unequal length."""
    shape = np.random.default_rng(99)
    centres = shape.standard_normal((10, d)) + 0.5 * shape.standard_normal(d)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, 10, n)] + 0.7 * rng.standard_normal((n, d))
    return (rows * rng.uniform(0.7, 1.4, (n, 1))).astype(np.float32)


def built(method, metric, n=500, d=32):
    """Fit, code other items, and keep of the shared arrays what search is given."""
    shared = dict(method.fit(Sample(vectors(600, d), metric)))
    items = vectors(n, d, 1)
    return items, dict(method.encode(items, shared)), artefact.for_search(shared), shared


def recall(method, metric, k=10, n=500, d=32):
    items, codes, shared, _ = built(method, metric, n, d)
    queries = vectors(60, d, 2)
    found = method.open(codes, shared, metric).search(queries, k).ids
    true = search_exact(queries, items, metric, k).ids
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(found, true, strict=True)])


@needs("turbovec")
class TestTurboVec(MethodChecks):
    methods: ClassVar = [TurboVec, "turbovec(bits=2, calibrate=False)", "turbovec(bits=3)"]


@needs("usearch")
class TestUSearch(MethodChecks):
    methods: ClassVar = [USearch, "usearch(dtype='e4m3', connectivity=4)"]


@needs("scann")
class TestScaNN(MethodChecks):
    methods: ClassVar = [ScaNN, "scann(block=3, threshold=0.0)"]


def test_what_a_peer_imports_is_told_without_importing_it():
    for cls, package in zip(PEERS, ("turbovec", "usearch", "scann"), strict=True):
        assert registry.get(cls.name) is cls
        assert imports_of(cls()) == [package]
        assert cls.kind == "peer"
        assert "external peer" in cls.summary()


@pytest.mark.parametrize("cls", PEERS)
@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_budgets_are_answered_without_the_library(cls, d):
    enough = False
    for at in (4.0, 16.0, 64.0, 128.0, 512.0):
        try:
            found = list(cls.for_budget(Budget(at, 1_000_000, d)))
        except BudgetTooSmall as error:
            assert not enough
            assert at < error.least < 70
            continue
        enough = True
        assert all(parse(str(method)) == method for method in found)
    assert enough


@pytest.mark.parametrize("spec", [
    "turbovec(bits=5)", "usearch(dtype='f8')", "usearch(connectivity=1)", "usearch(expansion=0)", "scann(block=0)",
    "scann(threshold=1.0)",
])  # fmt: skip
def test_what_can_never_work_is_refused(spec):
    with pytest.raises(BadInput, match="expected"):
        parse(spec)


@pytest.mark.parametrize("size", [PAGE * 5, PAGE * 5 + 3, 10])
def test_bytes_are_restored_from_what_changed(size):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, size).astype(np.uint8)
    full = np.concatenate([base, rng.integers(0, 256, 99).astype(np.uint8)])
    full[[0, size // 2, size - 1]] ^= 1
    codes = changed_pages(full, base)
    assert np.array_equal(restored_pages(codes, base), full)
    assert sum(array.nbytes for array in codes.values()) <= 3 * (PAGE + 4) + 99 + PAGE
    assert changed_pages(base, base)["pages"].size == 0


def test_nibbles_are_packed():
    codes = np.random.default_rng(0).integers(0, 16, (7, 5)).astype(np.uint8)
    assert packed(codes).shape == (7, 3)
    assert np.array_equal(unpacked(packed(codes), 5), codes)
    assert np.array_equal(unpacked(packed(codes[:, :4]), 4), codes[:, :4])


@needs("turbovec")
@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("n", [20, 500])
def test_turbovec_answers_as_the_library(metric, n):
    from turbovec import TurboQuantIndex

    items, codes, shared, _ = built(TurboVec(calibrate=False), metric, n)
    queries = vectors(30, seed=2)
    found = TurboVec(calibrate=False).open(codes, shared, metric).search(queries, 10)
    index = TurboQuantIndex(dim=32, bit_width=4)
    index.add(unit(items) if metric == "cosine" else items)
    scores, ids = index.search(unit(queries) if metric == "cosine" else queries, k=10)
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.scores, scores)


@needs("turbovec")
@pytest.mark.parametrize(("bits", "least"), [(2, 0.55), (4, 0.85)])
def test_turbovec_serves_every_metric_at_its_bytes(bits, least):
    for metric in METRICS:
        assert recall(TurboVec(bits), metric) > least
    grown = [sum(array.nbytes for array in built(TurboVec(bits), "ip", n)[1].values()) for n in (320, 3200)]
    assert abs((grown[1] - grown[0]) / 2880 - (32 * bits / 8 + 4)) < 0.2


@needs("turbovec")
def test_turbovec_shares_no_items():
    one, other = (TurboVec().encode(vectors(n, seed=1), built(TurboVec(), "l2")[3]) for n in (64, 640))
    assert 9 < len(other["rest"]) / max(len(one["rest"]), 1) < 11


@needs("usearch")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["f32", "f16", "e4m3"])
def test_usearch_answers_as_the_library(metric, dtype):
    from usearch.index import Index

    method = USearch(dtype, 8, 40)
    items, codes, shared, _ = built(method, metric)
    queries = vectors(30, seed=2)
    found = method.open(codes, shared, metric).search(queries, 10)
    named = {"ip": "ip", "cosine": "cos", "l2": "l2sq"}[metric]
    index = Index(ndim=32, metric=named, dtype=dtype, connectivity=8, expansion_search=40)
    index.add(np.arange(500), items, threads=1)
    wanted = index.search(queries, 10, threads=1)
    assert np.array_equal(found.ids, wanted.keys.astype(np.int64))
    assert np.array_equal(found.scores, -wanted.distances)
    assert recall(method, metric) > (0.85 if dtype == "e4m3" else 0.97)


@needs("usearch")
def test_usearch_weighs_vectors_and_links():
    for dtype, size in (("f32", 4), ("f16", 2), ("e4m3", 1)):
        for connectivity in (4, 16):
            method = USearch(dtype, connectivity)
            weighed = built(method, "ip", 2000)[1]["index"].nbytes / 2000
            links = 19 + 8 * connectivity + 4 / connectivity
            assert abs(weighed - 32 * size - links) < 3
    assert not built(USearch(), "ip")[2], "what search needs is in the index"


@needs("usearch")
def test_usearch_searches_as_widely_as_asked():
    few, many = (recall(USearch("f32", 4, expansion), "l2", n=3000) for expansion in (1, 400))
    assert many > few + 0.05


@needs("usearch")
def test_usearch_i8_is_for_unit_vectors():
    with pytest.raises(BadInput, match="unit length"):
        USearch("i8").fit(Sample(vectors(50), "ip"))
    USearch("i8").fit(Sample(unit(vectors(50)), "ip"))
    assert recall(USearch("i8"), "cosine") > 0.9


@needs("scann")
@pytest.mark.parametrize("metric", METRICS)
def test_scann_answers_as_the_library(metric):
    from scann import scann_ops_pybind

    items, _, _, _ = built(ScaNN(), metric)
    if metric == "cosine":
        items = unit(items)
    # Fitted on the items themselves, it is the searcher that the library builds of them.
    method = ScaNN(block=2)
    shared = dict(method.fit(Sample(items, metric)))
    codes = method.encode(items, shared)
    queries = vectors(30, seed=2)
    found = method.open(codes, artefact.for_search(shared), metric).search(queries, 10)
    threshold = np.nan if metric == "l2" else 0.2 * float(np.linalg.norm(items, axis=1).mean())
    builder = scann_ops_pybind.builder(items, 10, "squared_l2" if metric == "l2" else "dot_product")
    searcher = builder.set_n_training_threads(1).score_ah(2, anisotropic_quantization_threshold=threshold).build()
    ids, scores = searcher.search_batched(queries)
    assert np.allclose(found.scores, -scores if metric == "l2" else scores, rtol=1e-5)
    assert np.mean(found.ids == ids) > 0.99
    assert codes["codes"].shape == (500, 8)
    assert recall(method, metric) > 0.5


@needs("scann")
def test_scann_learns_for_near_neighbours():
    """The loss that weighs errors along an item more changes codes, and finds more under an inner product."""
    alike, weighted = (recall(ScaNN(threshold=threshold), "cosine", n=3000, d=64) for threshold in (0.0, 0.2))
    assert weighted > alike + 0.03


@pytest.mark.parametrize("cls", PEERS)
def test_what_was_fitted_for_another_metric_or_width_is_refused(cls):
    if importlib.util.find_spec(cls.imports[0]) is None:
        pytest.skip(f"{cls.imports[0]} is not installed")
    _, codes, shared, fitted = built(cls(), "l2", 50)
    with pytest.raises(BadInput, match="fit again"):
        cls().open(codes, shared, "ip")
    with pytest.raises(BadInput, match="coordinates do not match"):
        cls().encode(vectors(5, 64), fitted)
    with pytest.raises(BadInput, match="maxsim"):
        cls().fit(Sample(vectors(20), "maxsim"))
