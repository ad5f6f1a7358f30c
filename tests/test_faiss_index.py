"""Any faiss index as a method: the answers of faiss, its traps, and its bytes."""

from types import MappingProxyType

import faiss
import numpy as np
import pytest

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.codebook.adc import blas_distances
from packbench.methods.composite.faiss_index import Faiss
from packbench.methods.projection.linear import unit
from packbench.spec import parse
from packbench.testing import MethodChecks

FLAT = ("Flat", "SQ8", "SQ4", "SQfp16", "PQ8np", "PQ8x4np", "OPQ8_16,PQ8x4np", "RR32,RaBitQ4", "RaBitQ", "HR,EDEN2",
        "PCAR16,SQ8", "RQ3x4", "L2norm,SQ6")  # fmt: skip
WHOLE = ("HNSW16,Flat", "HNSW16,SQ8", "IVF8,Flat", "IVF8,PQ8x4np", "PQ8x4fs", "PQ8x4fs,RFlat", "PCA16,IVF8,SQ8",
         "RaBitQfs")  # fmt: skip


def vectors(n, d=32, seed=0):
    """Rows with a mean and of unequal length."""
    shape = np.random.default_rng(99)
    turn, mean = np.linalg.qr(shape.standard_normal((d, d)))[0], shape.standard_normal(d)
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, d)) * np.linspace(2, 0.3, d)) @ turn + mean
    return (rows * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


def built(method, metric, n=600, d=32):
    """Fit, code other items, and keep of the shared arrays what search is given."""
    shared = dict(method.fit(Sample(vectors(500, d), metric)))
    items = vectors(n, d, 1)
    codes = dict(method.encode(items, shared))
    return items, codes, {name: array for name, array in shared.items() if not name.startswith("build/")}


def overlap(one, other):
    return np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one, other, strict=True)])


class TestContract(MethodChecks):
    methods = ("faiss(factory='PCAR16,SQ8')", "faiss(factory='PQ8x4fs,RFlat', search='k_factor_rf=10')",
               "faiss(factory='HNSW16,Flat', search='efSearch=64')")  # fmt: skip
    known_failures = MappingProxyType(
        {("degenerate_items", methods[1]): "faiss FastScan names no item for a query of zeros under an inner product"}
    )
    n = 400


@pytest.mark.parametrize("factory", [*FLAT, *WHOLE])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_answers_are_those_of_faiss(factory, metric):
    items, codes, shared = built(Faiss(factory), metric)
    queries = vectors(30, seed=2)
    found = Faiss(factory).open(codes, shared, metric).search(queries, 10)

    sample = vectors(500)
    if metric == "cosine":
        sample, items, queries = unit(sample), unit(items), unit(queries)
    index = faiss.index_factory(32, factory, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    with blas_distances():
        if "PCA" in factory and metric != "l2":  # of which the method drops the mean
            transform = faiss.downcast_VectorTransform(faiss.downcast_index(index).chain.at(0))
            transform.train(sample)
            faiss.copy_array_to_vector(np.zeros(16, np.float32), transform.b)
        index.train(sample)
        index.add(items)
    scores = index.search(queries, 10)[0]
    # Sums round differently in matrix products, and of equal scores faiss keeps any: what is found has to score alike.
    everything = index.search(queries, len(items))
    own = [dict(zip(*pair, strict=True)) for pair in zip(everything[1].tolist(), everything[0].tolist(), strict=True)]
    kept = np.array([[names[one] for one in line] for names, line in zip(own, found.ids.tolist(), strict=True)])
    assert np.mean(np.isclose(kept, scores, rtol=1e-3, atol=1e-3)) > 0.995
    assert np.allclose(found.scores, -scores if metric == "l2" else scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("factory", FLAT)
def test_flat_codes_are_kept_by_item(factory):
    items, codes, shared = built(Faiss(factory), "l2", n=50)
    index = faiss.deserialize_index(shared["index"])
    assert index.ntotal == 0
    assert codes["codes"].shape == (50, index.sa_code_size())
    assert set(codes) == {"codes"}
    assert set(shared) == {"index", "unit"}
    assert len(items) == 50


@pytest.mark.parametrize("factory", WHOLE)
def test_other_indexes_are_kept_whole(factory):
    _, codes, shared = built(Faiss(factory), "l2", n=50)
    assert set(codes) == {"index"}
    assert not shared
    assert faiss.deserialize_index(codes["index"]).ntotal == 50


def test_a_graph_and_ids_are_weighed():
    for factory, more in (("HNSW16,Flat", 2 * 16 * 4), ("IVF8,Flat", 8)):
        sizes = [len(built(Faiss(factory), "l2", n=n)[1]["index"]) for n in (500, 1500)]
        assert (sizes[1] - sizes[0]) / 1000 >= 4 * 32 + more


def test_search_parameters_are_set():
    queries = vectors(40, seed=2)
    truth, right = None, []
    for search in ("nprobe=1", "nprobe=8"):
        method = Faiss("IVF8,Flat", search)
        items, codes, shared = built(method, "l2")
        truth = search_exact(queries, items, "l2", 10).ids if truth is None else truth
        right.append(overlap(method.open(codes, shared, "l2").search(queries, 10).ids, truth))
    assert right[0] < 0.9
    assert right[1] > 0.999
    assert str(method) == "faiss(factory='IVF8,Flat', search='nprobe=8')"
    assert parse(str(method)) == method


@pytest.mark.parametrize("factory", ["PCA32,Flat", "PCAR32,Flat", "PCA32,IVF4,Flat", "PCA32,SQ8,RFlat"])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_a_pca_does_not_take_the_mean_out_of_an_inner_product(factory, metric):
    method = Faiss(factory, {"PCA32,IVF4,Flat": "nprobe=4", "PCA32,SQ8,RFlat": "k_factor_rf=4"}.get(factory, ""))
    items, codes, shared = built(method, metric)
    queries = vectors(40, seed=2)
    truth = search_exact(queries, items, metric, 10).ids
    assert overlap(method.open(codes, shared, metric).search(queries, 10).ids, truth) > 0.98
    # What faiss does by itself, on the same vectors.
    index = faiss.index_factory(32, "PCA32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors(500))
    index.add(items)
    assert overlap(index.search(queries, 10)[1], search_exact(queries, items, "ip", 10).ids) < 0.8


@pytest.mark.parametrize("factory", ["LSH32", "ITQ16,LSH", "HNSW16,PQ8np"])
def test_what_ranks_by_l2_alone_serves_cosine_and_refuses_ip(factory):
    with pytest.raises(BadInput, match="ip"):
        Faiss(factory).fit(Sample(vectors(500), "ip"))
    items, codes, shared = built(Faiss(factory), "cosine")
    queries = vectors(40, seed=2)
    found = Faiss(factory).open(codes, shared, "cosine").search(queries, 10)
    # 32 and 16 bits say little; a blind draw of 10 from 600 would find 0.017.
    assert overlap(found.ids, search_exact(queries, items, "cosine", 10).ids) > 0.1


@pytest.mark.parametrize("factory", ["", "bogus", "PQ8x", "IVF16"])
def test_a_factory_string_that_does_not_parse_is_named(factory):
    with pytest.raises(ValueError, match="cannot parse"):
        Faiss(factory)
    with pytest.raises(BadInput, match="cannot parse"):
        parse(f"faiss(factory={factory!r})")


@pytest.mark.parametrize(("factory", "search", "n", "said"), [
    ("PQ7np", "", 500, "multiple of the number of subquantizers"),
    ("PQ8np", "", 20, "at least as large as number of clusters"),
    ("IVF64,Flat", "", 20, "number of clusters"),
    ("OPQ8,PQ8x4np", "", 31, "at least as many rows as coordinates"),
    ("OPQ8,IVF4,PQ8x4np", "", 31, "at least as many rows as coordinates"),
    ("OPQ8,PQ8x4np,RFlat", "", 31, "at least as many rows as coordinates"),
    ("SQ8", "nprobe=4", 500, "nprobe"),
    ("SQ8", "nonsense", 500, "nonsense"),
])  # fmt: skip
def test_what_faiss_cannot_do_is_said_in_one_sentence(factory, search, n, said):
    with pytest.raises(BadInput, match=said) as error:
        built_from = Faiss(factory, search).fit(Sample(vectors(n), "l2"))
        Faiss(factory, search).encode(vectors(20), built_from)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "MinMax,SQ8"])
def test_an_index_that_takes_no_items_is_refused(factory):
    shared = Faiss(factory).fit(Sample(vectors(100), "l2"))
    with pytest.raises(BadInput, match="does not encode"):
        Faiss(factory).encode(vectors(20), shared)


def test_other_metrics_and_widths_are_refused():
    _, codes, shared = built(Faiss("SQ8"), "l2")
    with pytest.raises(BadInput, match="fit again"):
        Faiss("SQ8").open(codes, shared, "ip")
    with pytest.raises(BadInput, match="16 coordinates"):
        Faiss("SQ8").encode(vectors(5, 16), shared)
    with pytest.raises(BadInput, match="maxsim"):
        Faiss("SQ8").fit(Sample(vectors(20), "maxsim"))


def test_a_budget_does_not_choose_a_factory_string():
    with pytest.raises(BadInput, match="needs a factory string"):
        Faiss.for_budget(Budget(64, 1_000_000, 384))


def test_many_queries_are_answered_as_one():
    for factory in ("Flat", "PQ8np", "RQ3x4"):
        method = Faiss(factory)
        _, codes, shared = built(method, "ip")
        searcher, queries = method.open(codes, shared, "ip"), vectors(40, seed=2)
        whole = searcher.search(queries, 10)
        alone = np.concatenate([searcher.search(queries[row : row + 1], 10).scores for row in range(40)])
        assert np.allclose(whole.scores, alone, rtol=1e-4, atol=1e-4)
