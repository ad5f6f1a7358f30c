"""Hold the scans of packed signs against plain arithmetic, whatever the width, number and place of the items."""

from __future__ import annotations

import tracemalloc

import faiss
import numpy as np
import pytest

from packbench.errors import BadInput
from packbench.items import Array, blocks
from packbench.method import Hits, Sample, rows_of
from packbench.methods.binary.hamming import pack_signs, sign_agreements
from packbench.methods.binary.planes import bit_planes, estimates
from packbench.methods.binary.rabitq import RaBitQ
from packbench.methods.binary.signs import sign_sums
from packbench.shards import cut, open_shards
from packbench.spec import parse

WIDTHS = [1, 7, 8, 63, 64, 65, 100, 128, 384, 513, 1030]
COUNTS = [0, 1, 7, 8, 9, 31, 32, 33, 64, 65, 1000]


def normal(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def signs_of(rows: Array) -> Array:
    return np.where(rows > 0, 1.0, -1.0)


@pytest.mark.parametrize("d", [*WIDTHS, 2056, 5000])
def test_sums_over_signs_are_those_of_a_float_product(d: int) -> None:
    queries = normal(3, d, seed=1)
    for n in COUNTS:
        rows = normal(n, d)
        found = sign_sums(pack_signs(rows), queries)
        assert found.shape == (3, n)
        assert found.dtype == np.float32
        assert np.allclose(found, queries.astype(np.float64) @ signs_of(rows).T, atol=3e-6 * d**0.5 * 4)
        assert np.array_equal(sign_sums(pack_signs(rows), queries[1:2])[0], found[1])


def test_sums_of_numbers_of_few_bits_are_exact_and_tie() -> None:
    rows, queries = normal(500, 200), np.random.default_rng(2).integers(-64, 65, (4, 200)) / np.float32(32)
    assert np.array_equal(sign_sums(pack_signs(rows), queries), queries @ signs_of(rows).T)


def test_one_large_coordinate_costs_the_others_no_more_than_a_float_sum_does() -> None:
    rows, queries = normal(300, 64), normal(2, 64, seed=1)
    queries[:, 5] = 1e4
    error = np.abs(sign_sums(pack_signs(rows), queries) - queries.astype(np.float64) @ signs_of(rows).T)
    assert error.max() < 64 * 1e4 * np.finfo(np.float32).eps
    assert np.array_equal(sign_sums(pack_signs(rows), queries * 0), np.zeros((2, 300)))


@pytest.mark.parametrize("d", [100, 384])
def test_a_sum_does_not_depend_on_where_its_row_lies(d: int) -> None:
    codes, queries = pack_signs(normal(777, d)), normal(5, d, seed=1)
    whole = sign_sums(codes, queries)
    for part in (slice(3, 776), slice(700, 701), slice(100, 140)):
        assert np.array_equal(sign_sums(codes[part], queries), whole[:, part])
    wide = np.concatenate([codes, codes, codes], axis=1)[:, codes.shape[1] : 2 * codes.shape[1]]
    assert np.array_equal(sign_sums(wide, queries), whole)  # rows with other bytes between them
    assert np.array_equal(sign_sums(np.asfortranarray(codes), queries), whole)


@pytest.mark.parametrize("d", WIDTHS)
def test_agreements_are_bits_less_twice_the_hamming_distance(d: int) -> None:
    queries = normal(3, d, seed=1)
    for n in COUNTS:
        rows = normal(n, d)
        assert np.array_equal(sign_agreements(pack_signs(rows), queries), signs_of(queries) @ signs_of(rows).T)


@pytest.mark.parametrize("d", [*WIDTHS, 256, 768, 1024, 2056, 5000])
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_estimates_are_made_of_the_ones_and_the_sum_of_levels(d: int, bits: int) -> None:
    rng = np.random.default_rng(d)
    levels = np.tile(rng.integers(0, 2**bits, d), (3, 1))
    planes = bit_planes(levels, bits)
    terms = np.array([[1, 0, 0, 0, 0, np.inf], [0, 1, 0, 0, 0, np.inf], [0.5, -0.25, 3, -2, 7, 1]])
    for n in [*COUNTS, 130]:
        rows, factors = normal(n, d) > 0, normal(n, 2, seed=1)
        codes = np.concatenate([pack_signs(rows), factors.view(np.uint8)], axis=1)
        found = estimates(codes, planes, terms)
        offset, multiplier = factors.astype(np.float64).T
        ones, sums = rows.sum(axis=1), rows @ levels[0]
        score = np.minimum((0.5 * ones - 0.25 * sums + 3) * multiplier - 2 * offset + 7, 1)
        assert np.array_equal(found, np.stack([ones * multiplier, sums * multiplier, score]).astype(np.float32))


@pytest.mark.parametrize("d", [100, 384])
def test_an_estimate_does_not_depend_on_where_its_row_lies(d: int) -> None:
    codes = np.concatenate([pack_signs(normal(777, d)), normal(777, 2).view(np.uint8)], axis=1)
    planes = bit_planes(np.random.default_rng(1).integers(0, 256, (2, d)), 8)
    terms = np.random.default_rng(2).standard_normal((2, 6))
    whole = estimates(codes, planes, terms)
    for part in (slice(3, 776), slice(700, 701), slice(100, 140), slice(1, None, 2)):
        assert np.array_equal(estimates(codes[part], planes, terms), whole[:, part])
    wide = np.concatenate([codes, codes, codes], axis=1)[:, codes.shape[1] : 2 * codes.shape[1]]
    assert np.array_equal(estimates(wide, planes, terms), whole)  # rows with other bytes between them
    assert np.array_equal(estimates(np.asfortranarray(codes), planes, terms), whole)


def test_weights_of_another_width_are_refused() -> None:
    with pytest.raises(BadInput, match="17 weights do not match 2 bytes"):
        sign_sums(np.zeros((3, 2), np.uint8), np.zeros((1, 17), np.float32))


@pytest.mark.parametrize("spec", ["sign()", "sign_scale()", "rabitq()"])
def test_searchers_keep_no_copy_of_the_codes(spec: str) -> None:
    items, method = normal(150_000, 100), parse(spec)  # no whole number of words
    shared = method.fit(Sample(items[:50]))
    codes = method.encode(items, shared)
    size = sum(array.nbytes for array in codes.values())
    method.open(codes, shared, "ip").search(items[:1], 5)  # compiles
    tracemalloc.start()
    searcher = method.open(codes, shared, "ip")
    searcher.search(items[:1], 5)
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < size / 20
    assert most < 0.9 * size


@pytest.mark.parametrize("together", [1, 7])
@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
def test_rabitq_scores_are_faiss_estimates(bits: int, metric: str, together: int) -> None:
    items, queries = normal(400, 52) + 1, normal(7, 52, seed=1)
    method = RaBitQ(bits)
    shared = method.fit(Sample(items, metric=metric))
    searcher = method.open(method.encode(items, shared), shared, metric)
    found = [searcher.search(queries[part], 20) for part in blocks(7, together)]
    hits = Hits(np.concatenate([hit.ids for hit in found]), np.concatenate([hit.scores for hit in found]))
    index = faiss.IndexRaBitQ(52, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT, bits)
    faiss.copy_array_to_vector(shared["centre"], index.center)
    index.is_trained, index.qb = True, 8
    scale = np.linalg.norm(queries, axis=1, keepdims=True) if metric == "cosine" else 1
    codes = method.encode(items, shared)["codes"]
    faiss.copy_array_to_vector(codes.ravel(), index.codes)
    index.ntotal = len(items)
    theirs, ids = index.search(np.ascontiguousarray(queries / scale @ shared["rotation"], np.float32), 400)
    for row in range(7):
        known = dict(zip(ids[row].tolist(), theirs[row].tolist(), strict=True))
        expected = [known[i] for i in hits.ids[row].tolist() if i in known]
        given = [score for score, i in zip(hits.scores[row], hits.ids[row], strict=True) if i in known]
        assert len(expected) > 15
        assert np.allclose(given, np.array(expected) * (-1 if metric == "l2" else 1), atol=2e-4)


@pytest.mark.parametrize("spec", ["rabitq()", "rabitq(bits=3)", "sign()", "sign(scorer='asymmetric')", "sign_scale()"])
@pytest.mark.parametrize("together", [1, 9])
def test_equal_items_rank_by_id_and_alike_in_any_number_of_shards(spec: str, together: int) -> None:
    few = normal(60, 40)
    items, queries = np.tile(few, (10, 1)), normal(together, 40, seed=1)  # ten times each
    method = parse(spec)
    shared = method.fit(Sample(items))
    codes = method.encode(items, shared)
    whole = method.open(codes, shared, "ip").search(queries, 50)
    groups = (
        whole.ids[:, :50].reshape(together, 5, 10)
        if "sign()" not in spec
        else np.sort(whole.ids)[:, :0].reshape(together, 0, 10)
    )
    assert (np.diff(groups, axis=2) == 60).all()
    for shards in (2, 7):
        parts = open_shards(method, codes, shared, "ip", len(items), shards).search(queries, 50)
        assert np.array_equal(parts.ids, whole.ids)
        assert np.array_equal(parts.scores, whole.scores)
    assert len(cut(len(items), 7)) == 7
    one = method.open(rows_of(codes, slice(0, 1)), shared, "ip").search(queries, 3)
    assert one.ids.tolist() == [[0, -1, -1]] * together
