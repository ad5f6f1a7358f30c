"""Codes that treat every coordinate on its own: casts, integer grids, rotated Lloyd-Max levels."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.method import Codec, Sample
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.kernels import scan_halves
from packbench.methods.scalar.packing import (
    _reach,
    _readable,
    field_sums,
    look_up,
    pack,
    packed_bytes,
    row_sums,
    unpack,
    weighted_sums,
)
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.spec import parse

pytestmark = pytest.mark.filterwarnings("error")  # a division by zero is a bug even where its result is not used

METRICS = ("ip", "cosine", "l2")
# Each with a floor of recall@10 on the vectors below, a few points under what it reaches under any metric.
FLOORS = {
    "float16()": 0.99,
    "bfloat16()": 0.97,
    "int8()": 0.97,
    "int8(symmetric=True)": 0.97,
    "int8(granularity='vector')": 0.97,
    "int8(granularity='vector', symmetric=True)": 0.97,
    "int8(granularity='global')": 0.94,
    "int8(granularity='global', symmetric=True, clip=1e-05)": 0.93,
    "int8(clip=0.001)": 0.94,
    "int4()": 0.80,
    "int4(symmetric=True)": 0.78,
    "int4(granularity='vector')": 0.78,
    "int4(granularity='vector', symmetric=True)": 0.76,
    "int4(granularity='global', search=False)": 0.55,
    "int4(bits=2)": 0.40,
    "int4(bits=3, granularity='global', symmetric=True)": 0.50,
    "int4(bits=5, granularity='vector')": 0.87,
    "int4(bits=6)": 0.92,
    "int4(bits=7)": 0.95,
    "turboquant_mse(bits=1)": 0.28,
    "turboquant_mse(bits=2, wide=30)": 0.55,
    "turboquant_mse()": 0.82,
    "turboquant_mse(bits=8)": 0.97,
}


def correlated(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Draw vectors with a spectrum, a mean and lengths that differ, as embeddings have."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).standard_normal((d, d)) * np.linspace(1.5, 0.3, d)
    vectors = rng.standard_normal((n, d)) @ mixing.T / np.sqrt(d) + 0.2
    return (vectors * rng.lognormal(0, 0.1, (n, 1))).astype(np.float32)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def relative_mse(method: Codec, vectors: np.ndarray) -> float:
    shared = method.fit(Sample(vectors))
    off = method.decode(method.encode(vectors, shared), shared) - vectors
    return float((off**2).sum() / (vectors**2).sum())


def coded(spec: str, vectors: np.ndarray, metric: str = "ip") -> tuple[Codec, dict, dict]:
    method = parse(spec)
    assert isinstance(method, Codec)
    shared = method.fit(Sample(vectors, metric))
    return method, dict(shared), dict(method.encode(vectors, shared))


@pytest.mark.parametrize("spec", FLOORS)
def test_spec_round_trip(spec: str) -> None:
    assert str(parse(spec)) == spec


@pytest.mark.parametrize("spec", FLOORS)
@pytest.mark.parametrize("d", [37, 64, 130])
def test_formula_is_what_the_arrays_weigh(spec: str, d: int) -> None:
    method, shared, codes = coded(spec, correlated(40, d))
    item, common, cold = method.planned_bytes(d)
    assert sum(array.nbytes for array in codes.values()) == 40 * item
    assert sum(array.nbytes for array in shared.values()) == common
    assert cold == 0


@pytest.mark.parametrize("spec", FLOORS)
@pytest.mark.parametrize("metric", METRICS)
def test_search_ranks_by_the_metric(spec: str, metric: str) -> None:
    vectors, queries = correlated(1500, 96), correlated(40, 96, seed=2)
    method, shared, codes = coded(spec, vectors, metric)
    searcher = method.open(codes, shared, metric)
    truth = search_exact(queries, vectors, metric, 10).ids
    batch = searcher.search(queries, 10)
    single = np.concatenate([searcher.search(query[None], 10).ids for query in queries])
    assert recall(batch.ids, truth) > FLOORS[spec]
    # The compiled scan and BLAS round differently, so that only near ties may change places.
    assert recall(single, batch.ids) > 0.99
    assert batch.ids.dtype == np.int64 and np.all(np.diff(batch.scores, axis=1) <= 0)


@pytest.mark.parametrize("spec", [spec for spec in FLOORS if not spec.startswith("turboquant")])
@pytest.mark.parametrize("metric", METRICS)
def test_scan_scores_what_decode_returns(spec: str, metric: str) -> None:
    vectors, query = correlated(300, 67), correlated(1, 67, seed=3)
    method, shared, codes = coded(spec, vectors, metric)
    decoded = method.decode(codes, shared).astype(np.float64)
    found = method.open(codes, shared, metric).search(query, 300)
    expected = search_exact(query, decoded, metric, 300)
    order = np.argsort(found.ids[0])
    scores = expected.scores[0][np.argsort(expected.ids[0])]
    if metric == "cosine":
        scores = scores * np.linalg.norm(query)
    if metric == "l2":
        scores = scores + (query**2).sum()
    np.testing.assert_allclose(found.scores[0][order], scores, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("spec", FLOORS)
def test_codes_do_not_depend_on_the_batch(spec: str) -> None:
    vectors = correlated(301, 70)
    method, shared, codes = coded(spec, vectors)
    halves = [method.encode(vectors[:97], shared), method.encode(vectors[97:], shared)]
    for name, array in codes.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), array)


@pytest.mark.parametrize("spec", FLOORS)
@pytest.mark.parametrize("metric", METRICS)
def test_awkward_input(spec: str, metric: str) -> None:
    vectors = correlated(50, 33)
    vectors[4] = vectors[5]
    vectors[:, 7] = 0.25
    vectors[:, 8] = 0
    vectors[3] = 0
    frozen = vectors.copy()
    frozen.flags.writeable = False
    method = parse(spec)
    assert isinstance(method, Codec)
    shared = method.fit(Sample(frozen[4:], metric))  # without the zero row, two dimensions are constant
    codes = method.encode(frozen, shared)
    assert np.isfinite(method.decode(codes, shared)).all()
    searcher = method.open(codes, shared, metric)
    for queries in (vectors[:1], vectors[:9], np.zeros((1, 33), np.float32)):
        ids = searcher.search(queries, 60).ids
        assert (np.sort(ids, axis=1)[:, 10:] == np.arange(50)).all() and (ids == -1).sum() == 10 * len(queries)
    empty = method.encode(vectors[:0], shared)
    assert (method.open(empty, shared, metric).search(vectors[:2], 3).ids == -1).all()
    assert method.decode(empty, shared).shape == (0, 33)
    one = method.open(method.encode(vectors[:1], shared), shared, metric)
    assert one.search(vectors[:5], 2).ids[:, 0].tolist() == [0] * 5
    with pytest.raises(BadInput, match="row 1 "):
        method.encode(np.where(np.arange(50)[:, None] == 1, np.nan, vectors), shared)
    strided = np.asfortranarray(np.repeat(vectors, 2, axis=1))[:, ::2].astype(np.float64)
    for name, array in method.encode(strided, shared).items():
        np.testing.assert_array_equal(array, codes[name])


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), d=st.integers(0, 200), n=st.integers(0, 5), seed=st.integers(0, 9))
def test_packing_is_tight_and_reversible(bits: int, d: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(0, 2**bits, (n, d), dtype=np.uint8)
    packed = pack(integers, bits)
    assert packed.shape == (n, packed_bytes(bits, d)) == (n, -(-bits * d // 8))
    np.testing.assert_array_equal(unpack(packed, bits, d), integers)
    weights, table = rng.standard_normal((4, d)).astype(np.float32), rng.standard_normal(2**bits).astype(np.float32)
    c = integers.astype(np.float64)
    scale = 1e-5 * 4.0**bits * max(d, 1)
    np.testing.assert_allclose(weighted_sums(packed, bits, weights[0]), c @ weights[0], atol=scale)
    np.testing.assert_array_equal(look_up(integers, table), table[integers])
    for values, entries in ((c, None), (table[integers], table)):
        q, step, low, more = weights
        expected = np.stack([values @ q, ((low + step * values) ** 2).sum(axis=1), values @ more], axis=1)
        found = row_sums(packed, bits, (q, step, low, more), entries)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=scale)


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize(("d", "block"), [(1, 8), (61, 8), (384, 32), (100, 40), (300, 64), (300, 256)])
def test_sums_take_the_scale_of_a_block(bits: int, d: int, block: int) -> None:
    rng = np.random.default_rng(bits)
    integers = rng.integers(0, 2**bits, (9, d), dtype=np.uint8)
    table, scales = rng.standard_normal(2**bits).astype(np.float32), rng.random((9, -(-d // block))).astype(np.float32)
    values = table[integers] * np.repeat(scales, block, axis=1)[:, :d]
    q, step = rng.standard_normal((2, d)).astype(np.float32)
    found = row_sums(pack(integers, bits), bits, (q, step), table, scales, block)
    expected = np.stack([values @ q, ((step * values) ** 2).sum(axis=1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "entries"), [(4, 16), (8, 8), (8, 32), (8, 64), (8, 256)])
@pytest.mark.parametrize(("n", "nbytes"), [(1, 1), (16, 64), (37, 63), (50, 7), (70, 130)])
def test_fields_select_entries_of_their_own_tables(width: int, entries: int, n: int, nbytes: int) -> None:
    rng = np.random.default_rng(n)
    codes = rng.integers(0, 256 if width == 4 else entries, (n, nbytes), dtype=np.uint8)
    numbers = np.stack([codes & 15, codes >> 4], axis=2).reshape(n, -1) if width == 4 else codes
    tables = rng.standard_normal((2, numbers.shape[1], entries)).astype(np.float32)
    expected = tables[:, np.arange(numbers.shape[1]), numbers].sum(axis=2)
    np.testing.assert_allclose(field_sums(codes, width, tables), expected, atol=1e-4)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_sum_does_not_depend_on_where_its_row_lies(bits: int) -> None:
    rng = np.random.default_rng(bits)
    packed = np.tile(pack(rng.integers(0, 2**bits, (1, 93), dtype=np.uint8), bits), (101, 1))
    weights, table = rng.standard_normal((2, 93)).astype(np.float32), rng.standard_normal(2**bits).astype(np.float32)
    for entries in (None, table):
        assert len(np.unique(row_sums(packed, bits, tuple(weights), entries), axis=0)) == 1
    tables = rng.standard_normal((1, 2 * packed.shape[1], 16)).astype(np.float32)
    assert len(np.unique(field_sums(packed, 4, tables))) == 1


@given(st.integers(1, 8), st.integers(1, 300), st.integers(1, 40), st.sampled_from([1, 16]))
@settings(max_examples=60, deadline=None)
def test_no_row_is_read_past_the_end_of_memory(bits: int, d: int, n: int, step: int) -> None:
    packed = np.arange(n * packed_bytes(bits, d), dtype=np.uint32).astype(np.uint8).reshape(n, -1)
    reach, seen = _reach(bits, d), 0
    for part, rows in _readable(packed, step, reach):
        count = -(-(part.stop - part.start) // step) * step
        assert part.start == seen and rows.size >= (count - step) * packed.shape[1] + reach
        np.testing.assert_array_equal(rows[: part.stop - part.start], packed[part])
        seen = part.stop
    assert seen == n
    chunks, ends, start = -(-d // 128), [d // 8 * bits + 8], 0
    for width in (8,) if bits == 8 else (4, 2, 1):
        if bits & width:
            ends.append(start + 16 * width * chunks)
            start += d // 8 * width
    assert reach >= max(ends)


@pytest.mark.parametrize("half", [True, False])
def test_sixteen_bit_floats_widen_to_what_they_are(half: bool) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    values = (
        patterns.view(np.float16).astype(np.float32) if half else (patterns.astype(np.uint32) << 16).view(np.float32)
    )
    finite = np.isfinite(values)
    np.testing.assert_array_equal(widened(patterns[finite], half), values[finite])
    usual = patterns[np.abs(np.where(finite, values, np.inf)) < 1e15]
    rows = np.random.default_rng(0).permutation(usual)[: len(usual) // 31 * 31].reshape(-1, 31)
    exact = widened(rows, half).astype(np.float64)
    query = np.random.default_rng(1).standard_normal(31).astype(np.float32)
    dots, squares = np.empty((2, len(rows)), np.float32)
    for norms in (dots[:0], squares):
        dots[:] = np.nan
        scan_halves(rows.view(np.int16), half, query, dots, norms)
        assert (np.abs(dots - exact @ query) <= 1e-5 * np.abs(exact).max(axis=1)).all()
    np.testing.assert_allclose(squares, (exact**2).sum(axis=1), rtol=1e-5)


def test_float16_is_ieee_rounding() -> None:
    values = np.concatenate([np.geomspace(6.2e-5, 65504, 4000), [0, 1e-7, 3e-6, 65519, 1e30]]).astype(np.float32)
    vectors = np.stack([values, -values])
    method, shared, codes = coded("float16()", vectors)
    decoded = method.decode(codes, shared)
    assert codes["codes"].dtype == np.float16
    assert (np.abs(decoded - vectors)[:, :4000] <= 2.0**-11 * np.abs(vectors[:, :4000])).all()
    # Subnormal numbers included, widening is what numpy makes of the code, and a second coding changes nothing.
    np.testing.assert_array_equal(decoded, codes["codes"].astype(np.float32))
    np.testing.assert_array_equal(method.encode(decoded, shared)["codes"], codes["codes"])
    assert decoded[0, -2:].tolist() == [65504, 65504]


def test_bfloat16_rounds_to_nearest_even_over_the_range_of_float32() -> None:
    values = np.concatenate([np.geomspace(1e-37, 1e38, 4000), [1e30, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8]])
    vectors = np.stack([values, -values]).astype(np.float32)
    method, shared, codes = coded("bfloat16()", vectors)
    decoded = method.decode(codes, shared).astype(np.float64)
    assert codes["codes"].dtype == np.uint16 and np.isfinite(decoded).all()
    assert (np.abs(decoded - vectors) <= 2.0**-8 * np.abs(vectors.astype(np.float64))).all()
    assert decoded[0, -2:].tolist() == [1, 1 + 2**-6]  # ties go to the even last bit


def test_int8_agrees_with_faiss_sq8() -> None:
    vectors, queries = correlated(2000, 48), correlated(100, 48, seed=2)
    method, shared, codes = coded("int8()", vectors)
    index = faiss.IndexScalarQuantizer(48, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    theirs = index.sq.compute_codes(vectors).astype(int)
    assert np.abs(theirs - codes["codes"]).max() <= 1
    truth = search_exact(queries, vectors, "ip", 10).ids
    ours = recall(method.open(codes, shared, "ip").search(queries, 10).ids, truth)
    assert ours >= recall(index.search(queries, 10)[1], truth) - 0.005


@pytest.mark.parametrize("spec", [spec for spec in FLOORS if spec.startswith("int")])
def test_grid_error_is_half_a_step_and_coding_is_idempotent(spec: str) -> None:
    vectors = correlated(200, 50)
    method, shared, codes = coded(spec, vectors)
    decoded = method.decode(codes, shared)
    again = method.decode(method.encode(decoded, shared), shared)
    step = codes["scale"][:, -1:].astype(np.float32) if "scale" in codes else shared["step"]
    if "scale" not in codes:
        np.testing.assert_allclose(again, decoded, atol=1e-5)
    bound = step * 0.5001 + 1e-6
    if "int8" in spec and "clip" not in spec:
        assert (np.abs(decoded - vectors) <= bound).all()
    else:  # inside the range, which the greatest and least decoded values span
        low, high = (decoded.min(), decoded.max()) if "global" in spec else (-np.inf, np.inf)
        axis = 1 if "vector" in spec else 0
        low = decoded.min(axis=axis, keepdims=True) if "global" not in spec else low
        high = decoded.max(axis=axis, keepdims=True) if "global" not in spec else high
        inside = (vectors >= low) & (vectors <= high)
        assert inside.mean() > 0.5 and (np.abs(decoded - vectors) <= bound)[inside].all()


@pytest.mark.parametrize("spec", ["int8()", "int8(granularity='global')", "int8(symmetric=True)", "int4(search=False)"])
def test_items_outside_the_learned_range_saturate(spec: str) -> None:
    vectors = correlated(500, 20)
    method, shared, _ = coded(spec, vectors)
    decoded = method.decode(method.encode(np.stack([vectors[0] + 1e6, vectors[0] - 1e6]), shared), shared)
    if "global" in spec:
        expected = np.array([np.full(20, vectors.max()), np.full(20, vectors.min())])
    elif "symmetric" in spec:
        expected = np.abs(vectors).max(axis=0) * np.array([[1], [-1]])
    else:
        expected = np.stack([vectors.max(axis=0), vectors.min(axis=0)])
    np.testing.assert_allclose(decoded, expected, rtol=1e-5, atol=1e-5)


def test_error_of_grids_on_a_gaussian() -> None:
    normal = np.random.default_rng(0).standard_normal((800, 256)).astype(np.float32)
    assert relative_mse(parse("int8(granularity='vector')"), normal) < 5e-5
    step = np.ptp(normal, axis=0) / 255
    assert relative_mse(parse("int8()"), normal) == pytest.approx(np.mean(step**2) / 12, rel=0.01)
    full = relative_mse(parse("int4(granularity='vector', symmetric=True, search=False)"), normal)
    one = relative_mse(parse("int4(granularity='global', symmetric=True)"), normal)
    own = relative_mse(parse("int4(granularity='vector', symmetric=True)"), normal)
    assert full == pytest.approx(0.0160, rel=0.03)
    assert one == pytest.approx(0.0129, rel=0.02)
    assert own < one  # a range fitted to each vector does better than the best range for all
    # With all 16 levels the search finds the optimal uniform quantiser of a Gaussian (0.01154).
    assert relative_mse(parse("int4()"), normal) == pytest.approx(0.01154, rel=0.02)
    assert relative_mse(parse("int4(bits=2)"), normal) == pytest.approx(0.11885, rel=0.02)


def test_search_for_the_range_finds_what_a_slow_one_finds() -> None:
    skewed = -np.random.default_rng(0).exponential(size=(3000, 3)).astype(np.float32) + 2
    method, shared, codes = coded("int4(bits=3)", skewed)
    errors = ((method.decode(codes, shared) - skewed) ** 2).mean(axis=0)
    for column, error in zip(skewed.T.astype(np.float64), errors, strict=True):
        middle, slow = column.mean(), []
        for width in np.linspace(0.02, 1, 400) * np.abs(column - middle).max():
            step = 2 * width / 7
            level = np.clip(np.rint((column - middle + width) / step), 0, 7)
            slow.append(np.mean((middle - width + step * level - column) ** 2))
        assert min(slow) * 0.999 < error < min(slow) * 1.02


def test_search_for_the_range_resists_outliers() -> None:
    vectors = correlated(2000, 40)
    vectors[0] *= 10
    errors = {}
    for search in (True, False):
        method, shared, codes = coded(f"int4(search={search})", vectors)
        errors[search] = np.mean((method.decode(codes, shared) - vectors)[1:] ** 2)
    assert errors[True] < errors[False] / 3


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_fit_samples_work_and_empty_ones_are_refused(n: int) -> None:
    vectors = correlated(30, 12)
    for spec in FLOORS:
        if "wide=30" not in spec:
            method = parse(spec)
            shared = method.fit(Sample(vectors[:n]))
            assert method.open(method.encode(vectors, shared), shared, "ip").search(vectors[:2], 5).ids.shape == (2, 5)
    with pytest.raises(BadInput, match="fit sample is empty"):
        parse("int8()").fit(Sample(vectors[:0]))


@pytest.mark.parametrize(
    "spec",
    ["int8(granularity='row')", "int8(clip=0.5)", "int8(granularity='vector', clip=0.1)", "int4(bits=1)",
     "int4(bits=8)", "int4(granularity='x')", "turboquant_mse(bits=0)", "turboquant_mse(bits=9)",
     "turboquant_mse(bits=8, wide=1)", "turboquant_mse(wide=-1)"],
)  # fmt: skip
def test_impossible_configurations_are_refused(spec: str) -> None:
    with pytest.raises(BadInput):
        parse(spec)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.3634), (2, 0.1175), (3, 0.03455), (4, 0.0095)])
def test_turboquant_error_does_not_depend_on_the_data(bits: int, expected: float) -> None:
    # The seed is that of the method on purpose: the rotation must not be made of the numbers that made the items.
    rng = np.random.default_rng(0)
    anisotropic = (rng.standard_normal((400, 256)) * np.geomspace(100, 0.01, 256) + 3).astype(np.float32)
    assert relative_mse(parse(f"turboquant_mse(bits={bits})"), anisotropic) == pytest.approx(expected, rel=0.02)


def test_turboquant_widths_mix() -> None:
    vectors = correlated(300, 128)
    errors = [relative_mse(parse(f"turboquant_mse(bits=2, wide={wide})"), vectors) for wide in (0, 64, 127)]
    assert errors[1] == pytest.approx((0.1175 + 0.03455) / 2, rel=0.05)
    assert errors[2] < errors[1] < errors[0]
    with pytest.raises(BadInput, match="at most the number of coordinates"):
        parse("turboquant_mse(bits=2, wide=129)").fit(Sample(vectors))


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_means_of_their_cells(bits: int) -> None:
    levels = gaussian_levels(bits)
    assert len(levels) == 2**bits and np.all(np.diff(levels) > 0)
    np.testing.assert_allclose(levels, -levels[::-1])
    # The means by numerical integration, which shares nothing with the closed form inside.
    x = np.linspace(-9, 9, 2_000_001)
    density = np.exp(-x * x / 2)
    cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
    means = np.bincount(cell, x * density) / np.bincount(cell, density)
    np.testing.assert_allclose(levels, means, atol=2e-5)


def test_turboquant_scores_are_calibrated() -> None:
    vectors, queries = correlated(2000, 64), correlated(8, 64, seed=4)
    for metric in ("ip", "l2"):
        method, shared, codes = coded("turboquant_mse(bits=2)", vectors, metric)
        found = method.open(codes, shared, metric).search(queries, 2000)
        exact = search_exact(queries, vectors, metric, 2000)
        place = np.argsort(found.ids, axis=1)
        ours = np.take_along_axis(found.scores, place, axis=1)
        theirs = np.take_along_axis(exact.scores, np.argsort(exact.ids, axis=1), axis=1)
        if metric == "l2":
            theirs += (queries**2).sum(axis=1)[:, None]
        slope = (ours * theirs).sum() / (theirs**2).sum()
        assert slope == pytest.approx(1, abs=0.03)  # 0.88 without the division by the shrinkage


BYTES = (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8", "int4", "turboquant_mse"])
def test_every_budget_is_answered(name: str) -> None:
    from packbench.registry import get

    for d in (64, 383, 384, 1024):
        for nbytes in BYTES:
            budget = Budget(nbytes, 1_000_000, d)
            try:
                found = list(get(name).for_budget(budget))
            except BudgetTooSmall as error:
                assert error.least > nbytes
                assert list(get(name).for_budget(Budget(error.least, 1_000_000, d)))
                continue
            assert found
            for method in found:
                item, shared, cold = method.planned_bytes(d)
                assert budget.holds(item, shared, cold) and parse(str(method)) == method
            if name == "turboquant_mse" and nbytes < d:
                assert nbytes - 1.01 < item + shared / budget.n


def test_int4_finds_the_width_for_a_budget() -> None:
    from packbench.methods.scalar.int4 import Int4

    assert next(iter(Int4.for_budget(Budget(200, 1_000_000, 384)))) == Int4(bits=4)
    assert next(iter(Int4.for_budget(Budget(192, 1_000_000, 384)))) == Int4(bits=4, granularity="global")
    assert next(iter(Int4.for_budget(Budget(250, 1_000_000, 384)))) == Int4(bits=5)
