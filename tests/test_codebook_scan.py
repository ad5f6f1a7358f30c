"""Scans by look-up tables: ids and scores of a float scan, ties to the lower id, in any number of shards."""

import os
import subprocess
import sys

import numpy as np
import pytest

from packbench import artefact, shards
from packbench.method import Sample
from packbench.methods.codebook import adc, scan, trellis
from packbench.methods.codebook.additive import pack
from packbench.methods.codebook.scan import TableSearcher, packed_starts, packed_tables
from packbench.spec import parse
from packbench.topk import top_k

SHAPES = [(1, 37), (2, 21), (3, 11), (4, 33), (5, 7), (6, 21), (7, 9), (8, 16), (8, 300)]  # bits, indices
METHODS = (
    "pq(m=4)", "pq(m=8, bits=4)", "pq(m=5, bits=6)", "pq(m=1, bits=9)", "opq(m=4, niter=1)", "random_codebook(m=4)",
    "rq(m=3, bits=6, beam=1, train_beam=1)", "rq(m=3, norm_bits=8, beam=1, train_beam=1)", "prq(blocks=4, m=2, bits=4)",
    "lsq(m=4, rounds=1, restarts=1)", "vq_opq_residual(m=4, words=8)", "transform_coding(nbytes=4)",
)  # fmt: skip


def planted(bits, m, n, queries=3, seed=0):
    """Return packed codes of n items, tables, and the float64 scores that they stand for."""
    rng = np.random.default_rng([seed, bits, m])
    indices = rng.integers(0, 2**bits, (n, m))
    scale = np.linspace(2, 0.01, m, dtype=np.float32)[:, None]
    tables = rng.standard_normal((queries, m, 2**bits), dtype=np.float32) * scale
    scores = tables.astype(float)[:, np.arange(m), indices].sum(axis=2)
    return pack(indices, bits), tables, scores


def opened(codes, tables, bits):
    found = packed_tables(tables, bits)
    return TableSearcher(codes, packed_starts(tables.shape[1], bits), lambda queries: found[: len(queries)])


@pytest.mark.parametrize("n", [1, 255, 3000])
@pytest.mark.parametrize(("bits", "m"), SHAPES)
def test_the_best_are_those_of_a_float_scan(bits, m, n):
    codes, tables, scores = planted(bits, m, n)
    searcher = opened(codes, tables, bits)
    for k in (1, 10, 200):
        hits = searcher.search(np.zeros((3, 1), np.float32), k)
        best = np.sort(scores, axis=1)[:, ::-1][:, :k]
        found = np.take_along_axis(scores, hits.ids[:, : min(k, n)], axis=1)
        np.testing.assert_allclose(found, best, rtol=0, atol=1e-4)
        np.testing.assert_allclose(hits.scores[:, : min(k, n)], found, rtol=0, atol=1e-4)
        assert (hits.ids[:, n:] == -1).all()


@pytest.mark.parametrize(("bits", "m"), [(4, 32), (8, 16)])
def test_bounds_are_above_scores_and_close(bits, m):
    codes, tables, scores = planted(bits, m, 40_000)
    packed = packed_tables(tables, bits)
    assert packed.shape == (3, m, 2**bits)
    rounded, steps, highest = np.empty(packed.shape, np.uint8), np.empty(3), np.empty(3)
    scan._round(packed, rounded, steps, highest)
    indices = adc.unpack(codes, m, bits)
    bounds = highest[:, None] + steps[:, None] * rounded[:, np.arange(m), indices].sum(axis=2)
    assert (bounds > scores).all()
    finest = (packed.max(axis=2) - packed.min(axis=2)).max(axis=1) / 255
    assert ((bounds - scores).max(axis=1) < m * finest).all()


def test_one_table_may_dwarf_the_others_or_all_be_constant():
    codes, tables, scores = planted(8, 12, 2000)
    tables[:, 0] *= 1000
    indices = codes.astype(int)
    scores = tables.astype(float)[:, np.arange(12), indices].sum(axis=2)
    hits = opened(codes, tables, 8).search(np.zeros((3, 1), np.float32), 20)
    np.testing.assert_allclose(hits.scores, np.sort(scores, axis=1)[:, :-21:-1], rtol=1e-5)
    hits = opened(codes, np.full_like(tables, 0.1), 8).search(np.zeros((3, 1), np.float32), 20)
    assert (hits.ids == np.arange(20)).all()
    assert len(np.unique(hits.scores)) == 1


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("spec", METHODS)
def test_duplicates_go_to_the_lower_id_in_any_number_of_shards(spec, metric):
    rng = np.random.default_rng(3)
    distinct = rng.standard_normal((600, 16)).astype("f4")
    vectors = distinct[rng.integers(0, 40, 1501)]
    method = parse(spec)
    shared = method.fit(Sample(distinct, metric, queries=distinct[:50]))
    codes = artefact.for_search(method.encode(vectors, shared))
    kept = artefact.for_search(shared)
    for queries in (distinct[100:103], distinct[100:140]):
        whole = shards.open_shards(method, codes, kept, metric, len(vectors), 1).search(queries, 60)
        assert (np.diff(whole.scores, axis=1) == 0).any()
        assert not ((np.diff(whole.scores, axis=1) == 0) & (np.diff(whole.ids, axis=1) < 0)).any()
        # Of the items whose score is the last one's, the lowest ids are there.
        everything = shards.open_shards(method, codes, kept, metric, len(vectors), 1).search(queries, len(vectors))
        assert (everything.ids[:, :60] == whole.ids).all()
        for count in (2, 3, 7):
            found = shards.open_shards(method, codes, kept, metric, len(vectors), count).search(queries, 60)
            assert (found.ids == whole.ids).all()
            if not (spec.startswith("transform") and len(queries) > trellis.FEW) and "bits=9" not in spec:
                assert (found.scores == whole.scores).all()


def test_an_index_of_faiss_gives_ties_to_the_lower_id():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((40, 16)).astype("f4")[rng.integers(0, 40, 1501)]
    method = parse("faiss(factory='PQ4x4')")
    shared = method.fit(Sample(rng.standard_normal((600, 16)).astype("f4"), "ip"))
    searcher = method.open(method.encode(vectors, shared), shared, "ip")
    queries = vectors[:20]
    scores = np.full((20, len(vectors)), -np.inf, np.float32)
    everything = searcher.search(queries, len(vectors))
    np.put_along_axis(scores, everything.ids, everything.scores, axis=1)
    for k in (1, 10, 60):
        assert (searcher.search(queries, k).ids == top_k(scores, k).ids).all()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_batches_of_trellis_codes_are_decoded_to_the_same_scores(metric):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((700, 24)).astype("f4") * np.linspace(2, 0.2, 24, dtype="f4")
    method = parse("transform_coding(nbytes=7)")
    shared = method.fit(Sample(vectors, metric))
    searcher = method.open(method.encode(vectors, shared), artefact.for_search(shared), metric)
    queries = rng.standard_normal((trellis.FEW + 1, 24)).astype("f4")
    batch, few = searcher.search(queries, 9), searcher.search(queries[:3], 9)
    assert (batch.ids[:3] == few.ids).all()
    np.testing.assert_allclose(batch.scores[:3], few.scores, rtol=1e-5, atol=1e-4)


GENERIC = """
import numpy as np, sys
from packbench.methods.codebook.scan import TableSearcher, packed_tables, packed_starts
given = np.load(sys.argv[1])
for name, bits in (("bytes", 8), ("windows", 6), ("pairs", 4)):
    tables = packed_tables(given[name + "_tables"], bits)
    hits = TableSearcher(given[name], packed_starts(given[name + "_tables"].shape[1], bits), lambda q: tables).search(
        np.zeros((len(tables), 1), np.float32), 20)
    assert (hits.ids == given[name + "_ids"]).all() and (hits.scores == given[name + "_scores"]).all(), name
print("equal")
"""


def test_a_processor_without_wide_registers_finds_the_same(tmp_path):
    given = {}
    for name, bits, m in (("bytes", 8, 16), ("windows", 6, 21), ("pairs", 4, 33)):
        codes, tables, _ = planted(bits, m, 3000)
        hits = opened(codes, tables, bits).search(np.zeros((3, 1), np.float32), 20)
        given |= {name: codes, f"{name}_tables": tables, f"{name}_ids": hits.ids, f"{name}_scores": hits.scores}
    np.savez(tmp_path / "given.npz", **given)
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", GENERIC, str(tmp_path / "given.npz")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr
