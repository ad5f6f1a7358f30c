"""Codes that weigh errors by what they do to scores, and codes of mixed widths and formats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from packbench.errors import BadInput
from packbench.exact import METRICS, search_exact
from packbench.method import Codec, Sample
from packbench.methods.scalar.mixed_bits_ilp import allocate
from packbench.methods.scalar.mixed_format_search import FORMATS, fitted
from packbench.methods.scalar.packing import unpack
from packbench.methods.scalar.score_error import score_moment, shrinkage
from packbench.methods.scalar.streams import look_up_widths, pack_widths
from packbench.spec import parse

pytestmark = pytest.mark.filterwarnings("error")


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def decaying_queries(n: int, d: int, seed: int = 1) -> np.ndarray:
    """Draw queries whose second moment falls off along rotated axes."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(7).standard_normal((d, d)))[0]
    return (rng.standard_normal((n, d)) * 0.8 ** np.arange(d) @ axes).astype(np.float32)


def decoded(method: Codec, sample: Sample, items: np.ndarray) -> np.ndarray:
    shared = method.fit(sample)
    return method.decode(method.encode(items, shared), shared)


def score_error(queries: np.ndarray, items: np.ndarray, approximate: np.ndarray) -> float:
    """Return the mean squared error of scores over their mean square."""
    return float(np.square(queries @ (items - approximate).T).mean() / np.square(queries @ items.T).mean())


def squared_error(items: np.ndarray, approximate: np.ndarray) -> float:
    return float(np.square(items - approximate).sum() / np.square(items).sum())


# What an error does to scores


def test_shrinkage_is_that_of_ledoit_and_wolf():
    for n in (3, 40, 4000):
        queries = decaying_queries(n, 24).astype(np.float64)
        wanted = ledoit_wolf_shrinkage(queries, assume_centered=True)
        assert shrinkage(queries, queries.T @ queries / n) == pytest.approx(wanted, rel=1e-9)


def test_few_queries_say_little_and_many_say_what_they_are():
    method, items = parse("gptq()"), gaussian(50, 24)
    few = score_moment(method, Sample(items, "ip", decaying_queries(3, 24)))
    assert np.linalg.cond(few) < 1e4
    many = decaying_queries(200_000, 24)
    assert np.diag(score_moment(method, Sample(items, "ip", many))) == pytest.approx(
        np.diag(many.T @ many / len(many)), rel=0.5
    )
    none = score_moment(method, Sample(items, "ip", np.zeros((5, 24), np.float32)))
    assert np.array_equal(none, np.eye(24))
    with pytest.raises(BadInput, match="needs sample queries"):
        score_moment(method, Sample(items))


def test_the_moment_of_distances_is_that_of_their_first_order_error():
    items, queries = gaussian(300, 12) + 3, decaying_queries(3000, 12)
    found = score_moment(parse("gptq()"), Sample(items, "l2", queries))
    differences = (items[:, None] - queries[None]).reshape(-1, 12).astype(np.float64)
    wanted = differences.T @ differences / len(differences)
    assert found == pytest.approx(wanted, abs=0.02 * np.trace(wanted) / 12)


# gptq and gpfq


def unit_queries(d: int) -> np.ndarray:
    """Return queries whose second moment is exactly the identity."""
    return (np.sqrt(d) * np.eye(d)).astype(np.float32)


@pytest.mark.parametrize("name", ["gptq", "gpfq"])
@pytest.mark.parametrize("bits", [2, 4])
def test_without_correlation_feedback_is_plain_rounding(name, bits):
    items, d = gaussian(300, 16), 16
    method, plain = parse(f"{name}(bits={bits})"), parse(f"int4(bits={bits})")
    shared = method.fit(Sample(items, "ip", unit_queries(d)))
    wanted = plain.encode(items, {name: shared[name] for name in ("low", "step")})
    assert np.array_equal(method.encode(items, shared)["codes"], wanted["codes"])


def textbook_gptq(rows, moments, low, step, top):
    """Quantise columns in order with the upper Cholesky factor of the inverse."""
    upper = np.linalg.cholesky(np.linalg.inv(moments)).T
    left, found = rows.astype(np.float64), np.empty(rows.shape)
    for j in range(rows.shape[1]):
        found[:, j] = low[j] + step[j] * np.clip(np.rint((left[:, j] - low[j]) / step[j]), 0, top)
        left[:, j:] -= ((left[:, j] - found[:, j]) / upper[j, j])[:, None] * upper[j, j:]
    return found


def textbook_gpfq(rows, queries, low, step, top):
    """Follow the path of scores with one state per query."""
    found, state = np.empty(rows.shape), np.zeros((len(rows), len(queries)))
    for j, column in enumerate(queries.T):
        state += rows[:, j, None] * column
        asked = state @ column / (column @ column)
        found[:, j] = low[j] + step[j] * np.clip(np.rint((asked - low[j]) / step[j]), 0, top)
        state -= found[:, j, None] * column
    return found


@pytest.mark.parametrize("name", ["gptq", "gpfq"])
def test_feedback_is_that_of_the_papers(name):
    items, queries = gaussian(200, 20), decaying_queries(500, 20)
    sample = Sample(items, "ip", queries)
    method = parse(f"{name}(bits=3)")
    shared = method.fit(sample)
    moments, order = score_moment(method, sample), shared["build/order"].astype(int)
    low, step = shared["low"].astype(np.float64)[order], shared["step"].astype(np.float64)[order]
    moments = moments[np.ix_(order, order)]
    if name == "gptq":
        wanted = textbook_gptq(items[:, order], moments, low, step, 7)
    else:
        # Any queries of these second moments give the same path.
        wanted = textbook_gpfq(items[:, order], np.linalg.cholesky(moments).T, low, step, 7)
    found = method.decode(method.encode(items, shared), shared)[:, order]
    same = np.isclose(found, wanted, atol=1e-4).all(axis=1)
    assert same.mean() > 0.98  # a tie is rounded by the last digit, and the rest of a row follows it


@pytest.mark.parametrize(("name", "gain"), [("gptq", 0.5), ("gpfq", 0.7)])
def test_score_error_falls_while_squared_error_rises(name, gain):
    items, sample_items = gaussian(500, 32), gaussian(2000, 32, 5)
    sample = Sample(sample_items, "ip", decaying_queries(2000, 32))
    unseen = decaying_queries(400, 32, seed=9)
    plain = decoded(parse("int4(bits=2)"), sample, items)
    scored = decoded(parse(f"{name}(bits=2)"), sample, items)
    assert score_error(unseen, items, scored) < gain * score_error(unseen, items, plain)
    assert squared_error(items, scored) > squared_error(items, plain)


def test_counting_on_what_follows_beats_following_the_path():
    items = gaussian(500, 32)
    sample = Sample(gaussian(2000, 32, 5), "ip", decaying_queries(2000, 32))
    unseen = decaying_queries(400, 32, seed=9)
    errors = [score_error(unseen, items, decoded(parse(f"{name}(bits=2)"), sample, items)) for name in ("gptq", "gpfq")]
    assert errors[0] < errors[1]


# kvquant


def test_all_coordinates_kept_apart_are_float16():
    items = gaussian(200, 24)
    found = decoded(parse("kvquant(bits=2, rho=1.0, weight='none')"), Sample(items), items)
    assert np.abs(found - items).max() <= 2.0**-11 * np.abs(items).max()


def test_levels_without_weights_are_those_of_lloyd_and_max():
    items = np.clip(gaussian(3000, 8), -2, 2)  # every range is [-2, 2], so that normalising changes nothing
    items[:2] = [[-2.0], [2.0]] * np.ones((2, 8))
    for bits in (2, 3):
        shared = parse(f"kvquant(bits={bits}, rho=0.0, weight='none')").fit(Sample(items))
        wanted = parse(f"lloyd_max(bits={bits}, granularity='global')").fit(Sample(items))
        levels = shared["levels"] * shared["scale"][0] + shared["offset"][0]
        assert np.sort(levels) == pytest.approx(wanted["levels"].ravel(), abs=0.02)


def test_spikes_kept_apart_leave_the_error_of_clean_items():
    clean, rows = gaussian(1600, 200), np.arange(1600)
    spiked = clean.copy()
    spiked[rows, rows % 200] = np.where(rows // 200 % 2, -40, 40)  # one in each item, eight in each dimension
    reference = squared_error(clean, decoded(parse("kvquant(bits=2, rho=0.0, weight='none')"), Sample(clean), clean))
    errors = [
        np.square(spiked - decoded(parse(f"kvquant(bits=2, rho={rho}, weight='none')"), Sample(spiked), spiked)).sum()
        / np.square(clean).sum()
        for rho in (0.01, 0.0)
    ]
    assert errors[0] < 1.1 * reference
    assert errors[1] > 2 * reference


def test_levels_serve_the_dimensions_that_queries_ask_for():
    items = gaussian(3000, 16)
    # Two clusters in dimensions of the same range as eight Gaussian ones.
    items[:, 8:] = np.sign(items[:, 8:]) * (np.abs(items[:, :8]).max() - 0.05 * np.abs(items[:, 8:]))
    queries = np.concatenate([gaussian(500, 8), 1e-3 * gaussian(500, 8)], axis=1)
    sample = Sample(items, "ip", queries)
    errors = [
        score_error(queries, items, decoded(parse(f"kvquant(bits=2, rho=0.0, weight='{weight}')"), sample, items))
        for weight in ("queries", "none")
    ]
    assert errors[0] < 0.9 * errors[1]


def test_norm_restores_the_moments_of_every_dimension():
    items = gaussian(4000, 6) * np.linspace(0.5, 3, 6, dtype=np.float32) + 1
    found = decoded(parse("kvquant(bits=2, rho=0.0, weight='none', norm=True)"), Sample(items), items)
    assert found.mean(axis=0) == pytest.approx(items.mean(axis=0), abs=1e-3)
    assert found.std(axis=0) == pytest.approx(items.std(axis=0), rel=1e-3)


# lq_lowrank_quant


def test_items_of_low_rank_are_kept_exactly():
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((5, 48))
    items, others = ((rng.standard_normal((300, 5)) @ basis).astype(np.float32) for _ in range(2))
    for weight, queries in (("none", None), ("queries", decaying_queries(200, 48))):
        method = parse(f"lq_lowrank_quant(rank=5, bits=2, weight='{weight}')")
        found = decoded(method, Sample(items, "ip", queries), others)
        assert squared_error(others, found) < 1e-6  # what float16 coefficients leave


@pytest.mark.parametrize("bits", [2, 4])
def test_low_rank_and_rest_together_are_no_worse_than_either(bits):
    rng = np.random.default_rng(0)
    items = (
        rng.standard_normal((800, 64)) * 0.9 ** np.arange(64) @ np.linalg.qr(rng.standard_normal((64, 64)))[0]
    ).astype(np.float32)
    both = squared_error(
        items, decoded(parse(f"lq_lowrank_quant(rank=6, bits={bits}, weight='none')"), Sample(items), items)
    )
    rest = squared_error(items, decoded(parse(f"normal_float(bits={bits})"), Sample(items), items))
    values = np.square(np.linalg.svd(items, compute_uv=False))
    assert both < min(rest, values[6:].sum() / values.sum())


def test_turns_lower_the_error_of_taking_the_low_rank_part_alone():
    rng = np.random.default_rng(0)
    items = (rng.standard_normal((800, 64)) * 0.95 ** np.arange(64)).astype(np.float32)
    items = items @ np.linalg.qr(rng.standard_normal((64, 64)))[0].astype(np.float32)
    together = squared_error(
        items, decoded(parse("lq_lowrank_quant(rank=6, bits=2, weight='none')"), Sample(items), items)
    )
    directions = np.linalg.svd(items, full_matrices=False)[2][:6]
    rest = items - items @ directions.T @ directions
    apart = np.square(rest - decoded(parse("normal_float(bits=2)"), Sample(rest), rest)).sum() / np.square(items).sum()
    assert together < 0.825 * apart  # 0.835 after a single turn of fit


# mixed_bits_ilp


def test_widths_round_trip_and_are_read_as_they_lie():
    rng = np.random.default_rng(0)
    for widths in ([3, 0, 8, 1, 5, 7, 2, 0], [0, 0], [8, 8, 8], [1] * 17):
        of = np.array(widths)
        integers = rng.integers(0, 2**of, (50, len(of))).astype(np.uint8)
        nbytes = max(-(-int(of.sum()) // 8), 1)
        values = np.concatenate([np.arange(2.0**width) for width in widths])
        packed = pack_widths(integers, of, nbytes)
        assert np.array_equal(look_up_widths(packed, of, values), integers)
        first = "".join(f"{value:0{width}b}"[::-1] for value, width in zip(integers[0], widths, strict=True) if width)
        assert "".join(f"{byte:08b}"[::-1] for byte in packed[0]).rstrip("0") == first.rstrip("0")


def test_the_integer_program_is_solved_exactly():
    rng = np.random.default_rng(0)
    for _ in range(5):
        errors = rng.random((5, 4))  # not convex, not even decreasing: greedy steps would fail
        for bits in (0, 3, 7, 15):
            choices = [pick for pick in itertools.product(range(4), repeat=5) if sum(pick) <= bits]
            best = min(choices, key=lambda pick: sum(errors[at, width] for at, width in enumerate(pick)))
            assert tuple(allocate(errors, bits, np.arange(4))) == best


def test_dimensions_alike_share_alike_and_others_by_what_they_vary():
    items = gaussian(3000, 16)
    alike = parse("mixed_bits_ilp(nbytes=6, weight='none')").fit(Sample(items))
    assert np.array_equal(widths_of(alike), np.full(16, 3))
    stretched = items * np.repeat([4, 1], 8).astype(np.float32)  # two bits more: a factor of 4 in deviation
    assert np.array_equal(
        widths_of(parse("mixed_bits_ilp(nbytes=8, weight='none')").fit(Sample(stretched))), np.repeat([5, 3], 8)
    )
    queries = gaussian(3000, 16) * np.repeat([1, 16], 8).astype(np.float32)
    asked = widths_of(parse("mixed_bits_ilp(nbytes=8)").fit(Sample(stretched, "ip", queries)))
    assert np.array_equal(asked, np.repeat([3, 5], 8))


def test_more_bytes_bring_less_error():
    items = gaussian(2000, 16) * np.linspace(3, 0.1, 16, dtype=np.float32)
    errors = [
        squared_error(items, decoded(parse(f"mixed_bits_ilp(nbytes={nbytes}, weight='none')"), Sample(items), items))
        for nbytes in (1, 2, 4, 8, 16)
    ]
    assert all(fewer > more for fewer, more in itertools.pairwise(errors))
    assert errors[-1] < 1e-3
    plain = squared_error(items, decoded(parse("lloyd_max(bits=2)"), Sample(items), items))
    assert errors[2] < 0.5 * plain  # 32 bits either way


def widths_of(shared) -> np.ndarray:
    return unpack(shared["widths"][None], 4, len(shared["mean"]))[0]


# dint4


def test_half_steps_keep_small_values_from_vanishing():
    steps = np.array([[6, 0.24, -0.24, 0.26, -0.26, 0.7, 0.8, -3.4]], np.float32)
    found = decoded(parse("dint4(block=0)"), Sample(steps), steps)
    assert found[0] == pytest.approx([6, 0, 0, 0.5, -0.5, 0.5, 1, -3])


def test_half_steps_pay_where_tails_are_heavy_and_not_where_values_are_even():
    rng = np.random.default_rng(0)

    def integers(rows: np.ndarray) -> np.ndarray:
        step = np.abs(rows).max(axis=1, keepdims=True) / 7
        return np.rint(rows / step) * step

    for rows, gains in ((rng.laplace(size=(500, 128)), True), (rng.uniform(-1, 1, (500, 128)), False)):
        items = rows.astype(np.float32)
        half, whole = decoded(parse("dint4(block=0)"), Sample(items), items), integers(items)
        assert (squared_error(items, half) < squared_error(items, whole)) == gains


# const_outlier and scale_migration


def answers(method, sample: Sample, items: np.ndarray, queries: np.ndarray) -> np.ndarray:
    shared = method.fit(sample)
    return method.open(method.encode(items, shared), shared, sample.metric).search(queries, 10).ids


def recall(found: np.ndarray, queries: np.ndarray, items: np.ndarray, metric: str) -> float:
    true = search_exact(queries, items, metric, 10).ids
    return float(np.mean([np.isin(ids, wanted).mean() for ids, wanted in zip(found, true, strict=True)]))


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_constant_dimension_costs_nothing_once_it_is_taken_out(metric):
    clean, queries = gaussian(1000, 32), gaussian(50, 32, 1)
    planted = clean.copy()
    planted[:, 7] = 100 + 1e-3 * clean[:, 7]
    asked = queries.copy()
    asked[:, 7] = 100 if metric == "l2" else queries[:, 7]
    clean[:, 7] = 0
    queries[:, 7] = 0
    coded = "int4(granularity='vector')"
    wanted = recall(answers(parse(coded), Sample(clean, metric), clean, queries), queries, clean, metric)
    spoilt = recall(answers(parse(coded), Sample(planted, metric), planted, asked), queries, clean, metric)
    mended = answers(parse(f"const_outlier() | {coded}"), Sample(planted, metric), planted, asked)
    assert spoilt < 0.5 * wanted
    assert recall(mended, queries, clean, metric) > wanted - 0.03


def test_dimensions_that_vary_as_they_lie_are_left_alone():
    items = gaussian(500, 8) + np.array([0, 1, 2, 20, 0, 0, 0, -20], np.float32)
    constant = parse("const_outlier()").fit(Sample(items))["constant"]
    assert np.array_equal(np.flatnonzero(constant), [3, 7])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_migration_leaves_scores_as_they_are(metric, alpha):
    items, queries = gaussian(300, 24) * np.geomspace(0.1, 30, 24, dtype=np.float32), gaussian(40, 24, 1)
    method = parse(f"scale_migration(alpha={alpha})")
    shared = method.fit(Sample(items, metric, queries))
    before = METRICS[metric](queries, items)
    after = METRICS[method.metric_after(metric)](method.apply_queries(queries, shared), method.apply(items, shared))
    assert after == pytest.approx(before, rel=1e-4, abs=1e-4 * float(np.abs(before).max()))


def test_migration_frees_the_scale_of_a_vector_from_a_hot_dimension():
    items, queries = gaussian(1000, 32), gaussian(200, 32, 1)
    items[:, 3] *= 50
    queries[:, 3] /= 50
    sample = Sample(items, "ip", queries)
    plain = recall(answers(parse("int4(granularity='vector')"), sample, items, queries), queries, items, "ip")
    found = answers(parse("scale_migration() | int4(granularity='vector')"), sample, items, queries)
    assert recall(found, queries, items, "ip") > plain + 0.3


# bitplane


def test_planes_of_a_coarser_code_come_first_and_all_eight_are_int8():
    items = gaussian(200, 33)
    codes = {0: np.empty((200, 0), np.uint8)}
    for planes in range(1, 9):
        method = parse(f"bitplane(planes={planes})")
        shared = method.fit(Sample(items))
        codes[planes] = method.encode(items, shared)["codes"]
        assert np.array_equal(codes[planes][:, : codes[planes - 1].shape[1]], codes[planes - 1])
    assert decoded(parse("bitplane(planes=8)"), Sample(items), items) == pytest.approx(
        decoded(parse("int8()"), Sample(items), items), abs=1e-5
    )


def test_what_is_missing_is_taken_at_its_middle():
    items = gaussian(4000, 16)
    errors = [
        squared_error(items, decoded(parse(f"bitplane(planes={planes})"), Sample(items), items)) for planes in (2, 3, 4)
    ]
    step = 2 * np.abs(items).max(axis=0).mean() / 255
    for planes, error in zip((3, 4), errors[1:], strict=True):
        assert error == pytest.approx((step * 2 ** (8 - planes)) ** 2 / 12, rel=0.2)
    clipped = squared_error(items, decoded(parse("bitplane(planes=2, clip=0.023)"), Sample(items), items))
    assert clipped < 0.13 < errors[0]  # an even grid of four levels reaches 0.1188 on a Gaussian


# fdb_dual


def test_two_planes_begin_with_levels_at_zero_and_twice_the_scale():
    items = gaussian(200, 4000)
    found = decoded(parse("fdb_dual(iterations=0, centre='zero')"), Sample(items), items)
    scale = np.sqrt(np.square(items).mean(axis=1))
    for row, s in zip(found[:5], scale, strict=False):
        assert np.unique(row) == pytest.approx([-s, 0, s, 2 * s], rel=1e-3)
    assert squared_error(items, found) == pytest.approx(0.149, abs=0.003)


def test_fitted_factors_lower_the_error():
    items = gaussian(200, 256)
    errors = [
        squared_error(items, decoded(parse(f"fdb_dual(iterations={turns}, centre='zero')"), Sample(items), items))
        for turns in (0, 1, 10)
    ]
    assert errors[0] > errors[1] > errors[2]
    planted = np.random.default_rng(0).choice([-1.25, 0, 0.75, 2], (50, 640)).astype(np.float32)  # -1.25 + 2 = 0.75
    assert squared_error(planted, decoded(parse("fdb_dual(centre='zero')"), Sample(planted), planted)) < 1e-9


# mixed_format_search


def test_bounded_blocks_take_integers_and_heavy_tails_floats():
    rng = np.random.default_rng(0)
    even, heavy = rng.uniform(-1, 1, (1000, 16)), rng.standard_t(3, (1000, 16))
    items = np.concatenate([even, heavy], axis=1).astype(np.float32)
    for nbytes, wanted in ((16, ["int4", "e2m1"]), (32, ["int8", "e4m3"])):
        shared = parse(f"mixed_format_search(nbytes={nbytes})").fit(Sample(items))
        assert [list(FORMATS)[of] for of in shared["formats"]] == wanted


def test_the_choice_of_formats_is_that_of_trying_all():
    rng = np.random.default_rng(0)
    items = (rng.standard_t(4, (300, 13)) * rng.uniform(0.2, 5, 13)).astype(np.float32)
    method = parse("mixed_format_search(nbytes=9, block=4)")
    error = squared_error(items, decoded(method, Sample(items), items))
    best = np.inf
    for pick in itertools.product(FORMATS.values(), repeat=4):
        sizes = [4, 4, 4, 1]
        if sum(bits * size for (bits, _), size in zip(pick, sizes, strict=True)) <= 72:
            cuts = np.split(items.astype(np.float64), [4, 8, 12], axis=1)
            total = sum(fitted(cut, values)[0] for cut, (_, values) in zip(cuts, pick, strict=True))
            best = min(best, total / np.square(items).sum())
    assert error == pytest.approx(best, rel=1e-4)


# local_pca


def test_a_union_of_subspaces_is_exact_where_one_subspace_is_not():
    rng = np.random.default_rng(0)
    bases, middles = rng.standard_normal((4, 3, 32)), 6 * rng.standard_normal((4, 32))

    def draw(n: int) -> np.ndarray:
        of = rng.integers(0, 4, n)
        return (np.einsum("nr,nrd->nd", rng.standard_normal((n, 3)), bases[of]) + middles[of]).astype(np.float32)

    fit, items = draw(1000), draw(300)
    found = decoded(parse("local_pca(cells=4, dim=3, bits=16)"), Sample(fit), items)
    assert squared_error(items, found) < 1e-6
    one = decoded(parse("local_pca(cells=1, dim=3, bits=16)"), Sample(fit), items)
    assert squared_error(items, one) > 0.01
    coarse = squared_error(items, decoded(parse("local_pca(cells=4, dim=3, bits=8)"), Sample(fit), items))
    assert coarse < 1e-3
