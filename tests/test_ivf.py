"""Inverted lists: with all lists they answer as the code inside, with some as faiss does, and ids are on the scales."""

import gc
import tracemalloc
from typing import ClassVar

import faiss
import numpy as np
import pytest

from packbench import artefact
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import score_of, search_exact
from packbench.method import Sample
from packbench.methods.composite import ivf
from packbench.methods.composite.ivf import IVF
from packbench.methods.projection.linear import unit
from packbench.methods.scalar.float32 import Float32
from packbench.methods.scalar.int8 import Int8
from packbench.spec import parse
from packbench.testing import MethodChecks

METRICS = ("ip", "cosine", "l2")
CODES = ("float32()", "int8()", "int4(bits=3)", "sign()", "rabitq()", "pq(m=8)", "pq(m=16, bits=4)",
         "opq(m=8, niter=2)", "pca(dim=16) | int8()", "rescore(sign(), int8())")  # fmt: skip


def clustered(n, d=32, seed=0, clusters=12):
    """Rows about a few centres, some of them twice."""
    centres = 2 * np.random.default_rng(99).standard_normal((clusters, d))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, clusters, n)] + rng.standard_normal((n, d))
    rows[1::50] = rows[: len(rows[1::50])]
    return rows.astype(np.float32)


def opened(method, items, metric):
    """The searcher and the codes of items, fitted on others."""
    shared = method.fit(Sample(clustered(600, seed=7), metric))
    codes = dict(method.encode(items, shared))
    return method.open(artefact.for_search(codes), artefact.for_search(shared), metric), codes, shared


class TestContract(MethodChecks):
    methods: ClassVar = [
        "ivf(sign(), nlist=8, nprobe=8)", "ivf(pca(dim=16) | int8(), nlist=20, nprobe=5)",
        "rescore(ivf(sign(), nlist=8, nprobe=4), int8(), tier='disk')",
    ]  # fmt: skip


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("metric", METRICS)
def test_with_all_lists_it_answers_as_the_code_alone(code, metric):
    items, queries = clustered(500, seed=1), clustered(40, seed=2)
    here = opened(IVF(parse(code), nlist=9, nprobe=9), items, metric)[0].search(queries, 20)
    alone = opened(parse(code), items, metric)[0].search(queries, 20)
    assert np.allclose(here.scores, alone.scores, rtol=1e-4, atol=1e-4)
    # Sums are rounded by the shape of a matrix product, and faiss does not give equal scores to the lower id.
    same = [len(set(a) & set(b)) / 20 for a, b in zip(here.ids, alone.ids, strict=True)]
    assert np.mean(same) > 0.99


@pytest.mark.parametrize("code", ["pq(m=8)", "pca(dim=16) | int8()"])
@pytest.mark.parametrize("metric", METRICS)
def test_short_lists_searched_as_one_answer_as_one_after_the_other(code, metric, monkeypatch):
    items, queries = clustered(500, seed=1), clustered(40, seed=2)
    searcher = opened(IVF(parse(code), nlist=20, nprobe=3), items, metric)[0]
    joined = searcher.search(queries, 100)
    monkeypatch.setattr(ivf, "JOINED", 0)
    apart = searcher.search(queries, 100)
    assert (joined.ids < 0).any()
    assert np.allclose(joined.scores, apart.scores, rtol=1e-4, atol=1e-4)
    same = [len(set(a) & set(b)) / len(set(a)) for a, b in zip(joined.ids, apart.ids, strict=True)]
    assert np.mean(same) > 0.99


@pytest.mark.parametrize("joined", [ivf.JOINED, 0])
def test_equal_scores_of_several_lists_go_to_the_lower_id(joined, monkeypatch):
    monkeypatch.setattr(ivf, "JOINED", joined)
    code, items, queries = parse("pq(m=2, bits=1)"), clustered(500, seed=1), clustered(40, seed=2)
    here = opened(IVF(code, nlist=9, nprobe=9), items, "ip")[0].search(queries, 50).ids
    assert np.array_equal(here, opened(code, items, "ip")[0].search(queries, 50).ids)


@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_those_of_faiss(metric):
    items, queries = clustered(500, seed=1), clustered(40, seed=2)
    method = IVF(Float32(), nlist=20, nprobe=3)
    searcher, codes, shared = opened(method, items, metric)
    found = searcher.search(queries, 10)
    if metric == "cosine":
        items, queries = unit(items), unit(queries)
    nearest = search_exact(items, shared["centroids"], "l2", 1).ids[:, 0]
    assert np.array_equal(codes["lists"], nearest)
    quantiser = faiss.IndexFlat(32, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIVFFlat(quantiser, 32, 20, quantiser.metric_type)
    quantiser.add(unit(shared["centroids"]) if metric == "cosine" else shared["centroids"])
    index.is_trained, index.nprobe = True, 3
    lists = codes["lists"].astype(np.int64)
    index.add_core(500, faiss.swig_ptr(items), None, faiss.swig_ptr(lists))
    scores = score_of("l2" if metric == "l2" else "ip")(queries, items)
    # By scores, for rows that occur twice change places.
    wanted, given = (np.take_along_axis(scores, ids, axis=1) for ids in (index.search(queries, 10)[1], found.ids))
    assert np.allclose(wanted, given, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_every_further_list_finds_more(metric):
    items, queries = clustered(800, seed=1), clustered(60, seed=2)
    true = search_exact(queries, items, metric, 10).ids
    right = []
    for nprobe in (1, 2, 4, 8, 16):
        found = opened(IVF(Float32(), nlist=16, nprobe=nprobe), items, metric)[0].search(queries, 10).ids
        right.append([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)])
    assert (np.diff(right, axis=0) >= 0).all()
    assert 0.1 < np.mean(right[0]) < 0.97
    assert np.mean(right[-1]) > 0.999


def test_one_list_holds_the_neighbours_of_a_cluster():
    centres = 20 * np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    rng = np.random.default_rng(1)
    items, queries = (
        (np.repeat(centres, 30, axis=0) + rng.standard_normal((240, 16))).astype(np.float32) for _ in "12"
    )
    method = IVF(Float32(), nlist=8, nprobe=1)
    shared = method.fit(Sample(items, "l2"))
    codes = method.encode(items, shared)
    lists = codes["lists"].reshape(8, 30)
    whole = np.repeat((lists == lists[:, :1]).all(axis=1), 30)  # k-means may end with one cluster in two lists
    assert whole.mean() >= 6 / 8
    found = method.open(codes, shared, "l2").search(queries[whole], 10).ids
    wanted = search_exact(queries[whole], items, "l2", 10)
    # Distances that round alike may stand in another order.
    found_scores = -np.square(items[found] - queries[whole][:, None]).sum(axis=2)
    np.testing.assert_allclose(found_scores, wanted.scores, rtol=1e-3)
    assert (found == wanted.ids).mean() > 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_nearest_lists_are_searched_and_short_answers_end_in_none(metric):
    items, queries = clustered(300, seed=1), clustered(30, seed=2)
    searcher, codes, shared = opened(IVF(Int8(), nlist=20, nprobe=1), items, metric)
    found = searcher.search(queries, 200).ids
    near = np.unique(codes["lists"])
    for row, nearest in zip(found, score_of(metric)(queries, shared["centroids"][near]).argmax(axis=1), strict=True):
        own = np.flatnonzero(codes["lists"] == near[nearest])
        assert np.array_equal(np.sort(row[: len(own)]), own)
        assert (row[len(own) :] == -1).all()


def test_empty_lists_are_passed_over():
    for n in (0, 1, 5):
        searcher, _, _ = opened(IVF(Int8(), nlist=64, nprobe=8), clustered(n, seed=1), "ip")
        found = searcher.search(clustered(9, seed=2), 6).ids
        assert (np.sort(found, axis=1)[:, 6 - n :] == np.arange(n)).all()
        assert (found[:, n:] == -1).all()


def test_ids_are_on_the_scales():
    method = IVF(Int8(), nlist=16, nprobe=2)
    _, codes, shared = opened(method, clustered(500, seed=1), "ip")
    ledger = artefact.weigh(codes, shared, 500)
    assert (ledger.payload, ledger.shared, ledger.cold) == method.planned_bytes(32)
    assert ledger.payload == 32 + 4


# Lists that stay open as views and as copies, and lists that are opened when they are searched.
@pytest.mark.parametrize(("code", "n"), [("int8()", 5000), ("pq(m=32)", 20000), ("pq(m=8)", 5000)])
def test_what_search_holds_was_weighed(code, n):
    method, items = IVF(parse(code), nlist=16, nprobe=2), clustered(n, seed=1)
    _, codes, shared = opened(method, items, "ip")
    weighed = sum(array.nbytes for array in codes.values())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        searcher = method.open(codes, shared, "ip")
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.9 * weighed < held < 1.2 * weighed
    assert (searcher.search(items[:5], 3).ids[:, 0] >= 0).all()


def test_what_keeps_no_row_per_item_in_memory_is_refused():
    for code in ("faiss(factory='HNSW16')", "rescore(sign(), int8(), tier='disk')", "random_rows(int8())"):
        with pytest.raises(BadInput, match="one row of codes per item in memory"):
            opened(IVF(parse(code), nlist=8, nprobe=8), clustered(100), "ip")


def test_too_few_rows_and_impossible_probes_are_refused():
    with pytest.raises(BadInput, match="at least as many rows, got 63"):
        IVF(Int8()).fit(Sample(clustered(63)))
    for spec in ("ivf(int8(), nprobe=0)", "ivf(int8(), nlist=4, nprobe=5)"):
        with pytest.raises(BadInput, match="1 <= nprobe <= nlist"):
            parse(spec)
    _, codes, shared = opened(IVF(Int8(), nlist=8, nprobe=8), clustered(50), "ip")
    with pytest.raises(BadInput, match="fit again"):
        IVF(Int8(), nlist=8, nprobe=8).open(codes, shared, "cosine")


@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_ids_and_centroids_come_out_of_the_budget(d):
    for at in (4.0, 8.0, 64.0, 512.0):
        budget = Budget(at, 1_000_000, d)
        try:
            found = list(IVF.for_budget(budget))
        except BudgetTooSmall as error:
            assert at < 8
            assert error.least > at
            continue
        assert found
        assert all(budget.holds(*method.planned_bytes(d)) for method in found)
