"""Transform coding: bits by reverse water-filling, paths by search over all codes, errors by theory."""

import itertools

import numpy as np
import pytest

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.codebook import transform_coding, trellis
from packbench.methods.codebook.transform_coding import TransformCoding, bases, query_moment, second_moment
from packbench.methods.codebook.trellis import design
from packbench.methods.codebook.waterfilling import allocate
from packbench.methods.scalar.turboquant_mse import gaussian_levels

SPECTRUM = np.exp(-6 * np.arange(64) / 64)


def gaussian(n, seed, spectrum=SPECTRUM):
    """Draw rows with a planted spectrum, in a random rotation that is the same for every seed."""
    d = len(spectrum)
    rotation = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    return ((np.random.default_rng(seed).standard_normal((n, d)) * np.sqrt(spectrum)) @ rotation).astype("f4")


def error_of(method, fitted_to, items, metric="ip", queries=None):
    shared = method.fit(Sample(fitted_to, metric, queries))
    return items - method.decode(method.encode(items, shared), shared)


def shannon(spectrum, bits):
    """Return the water level and the distortion of reverse water-filling with real-valued bits."""
    low, high = 0.0, spectrum.max()
    for _ in range(200):
        level = (low + high) / 2
        if np.log2(np.maximum(spectrum / level, 1)).sum() / 2 > bits:
            low = level
        else:
            high = level
    return high, np.minimum(spectrum, high).sum()


def test_the_scalar_code_errs_as_reverse_waterfilling_predicts():
    nbytes = 12
    bits, _ = trellis.plan(SPECTRUM, 8 * nbytes, memory=False)
    predicted = sum(v * design(1, int(b), False)[1] for v, b in zip(SPECTRUM, bits, strict=True))
    error = error_of(TransformCoding(nbytes, "scalar", 0.0), gaussian(6000, 0), gaussian(4000, 1))
    measured = np.square(error).sum(1).mean()
    assert measured == pytest.approx(predicted, rel=0.03)
    level, least = shannon(SPECTRUM, 8 * nbytes)
    assert least < measured < 2.72 * least
    coded = SPECTRUM[bits > 0]
    # No axis above the water goes without bits for long, and none below it has any.
    assert coded.min() > level and bits[4 * level < SPECTRUM].all()


@pytest.mark.parametrize("nbytes", [4, 12, 24])
def test_the_trellis_errs_as_designed_and_less_than_scalars(nbytes):
    items = gaussian(1500, 1)
    error = np.square(error_of(TransformCoding(nbytes, weight=0.0), gaussian(6000, 0), items)).sum(1).mean()
    scalar = np.square(error_of(TransformCoding(nbytes, "scalar", 0.0), gaussian(6000, 0), items)).sum(1).mean()
    least = shannon(SPECTRUM, 8 * nbytes)[1]
    assert least < error < 0.95 * scalar
    bits, _ = trellis.plan(SPECTRUM, 8 * nbytes)
    follows = np.append((bits[1:] == 0) & np.isin(bits[:-1], (1, 3)) & (np.arange(63) % 2 == 0), False)
    predicted = sum(
        v * (design(2, int(bits[j]))[1] if follows[j] else design(2, int(bits[j - 1]))[1] if j and follows[j - 1]
             else design(1, int(bits[j]))[1])
        for j, v in enumerate(SPECTRUM)
    )  # fmt: skip
    # Above it by what the first coordinates lack, which have none before them.
    assert 0.98 * predicted < error < 1.08 * predicted


@pytest.mark.parametrize("bits", range(1, 9))
def test_designed_values_lie_between_lloyd_max_and_shannon(bits):
    values, error = design(1, bits)
    scalar = design(1, bits, memory=False)[1]
    assert 4.0**-bits < error <= scalar * (1 + 1e-12) and (bits == 8 or error < 0.93 * scalar)
    assert values.shape == (1, 256)
    np.testing.assert_allclose(np.unique(design(1, bits, memory=False)[0]), gaussian_levels(bits))


@pytest.mark.parametrize("bits", [1, 3])
def test_two_axes_that_share_bits_err_less_than_two_that_split_them(bits):
    split = (design(1, bits // 2)[1] + design(1, bits - bits // 2)[1]) / 2
    assert 2.0**-bits < design(2, bits)[1] < 0.9 * split


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("dim", [33, 64, 384])
def test_bits_sum_to_the_budget(dim, memory):
    variances = np.exp(-5 * np.arange(dim) / dim)
    for total in (8, 64, 200, 8 * dim - 8, 8 * dim):
        bits, values = trellis.plan(variances, total, memory)
        assert bits.sum() == total and bits.max() <= 8 and values.shape == (dim, 256)
    with pytest.raises(ValueError, match="more than"):
        trellis.plan(variances, 8 * dim + 1, memory)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("each", [1, 2, 4, 7])
def test_equal_variances_get_equal_bits(each, memory):
    assert (trellis.plan(np.ones(48), 48 * each, memory)[0] == each).all()


def test_allocation_is_the_best_of_all():
    rng = np.random.default_rng(3)
    cost = np.arange(5)
    for _ in range(20):
        # Errors that fall ever less, for which a price per bit finds the optimum.
        errors = rng.exponential(size=(5, 1)) * 0.3**cost
        for total in (3, 8, 14):
            chosen = allocate(errors, cost, total)
            every = [c for c in itertools.product(range(5), repeat=5) if sum(c) == total]
            best = min(sum(errors[unit, c] for unit, c in enumerate(choice)) for choice in every)
            assert sum(chosen) == total
            assert sum(errors[np.arange(5), chosen]) == pytest.approx(best)


@pytest.mark.parametrize("bits", [[3, 0, 2, 1, 2], [8, 4], [1] * 12, [5, 3, 1, 0, 1], [2, 0, 0, 6]])
def test_the_path_is_the_best_of_all_codes(bits):
    bits = np.array(bits, np.uint8)
    total, rng = int(bits.sum()), np.random.default_rng(1)
    codebook = rng.standard_normal((len(bits), 256)).astype("f4")
    rows = rng.standard_normal((50, len(bits))).astype("f4")
    words = np.arange(2**total) << (-total % 8)
    every = words.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 4 - (total + 7) // 8 :]
    decoded = trellis.look_up(every, codebook, bits)
    best = np.square(rows[:, None] - decoded).sum(2).argmin(1)
    np.testing.assert_array_equal(trellis.encode(rows, codebook, bits), every[best])


def test_windows_are_the_last_eight_bits():
    bits = np.array([3, 0, 7, 1, 4, 8], np.uint8)
    codes = np.random.default_rng(0).integers(0, 256, (20, 3)).astype(np.uint8)
    stream = np.concatenate([np.zeros((20, 8), np.uint8), np.unpackbits(codes, axis=1)], axis=1)
    ends = np.cumsum(bits.astype(int)) + 8
    expected = np.stack([np.packbits(stream[:, end - 8 : end], axis=1)[:, 0] for end in ends], axis=1)
    np.testing.assert_array_equal(trellis.windows_of(codes, bits), expected)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("coder", ["trellis", "scalar"])
def test_scans_agree_with_decoded_vectors(metric, coder):
    items, queries = gaussian(700, 1) + np.float32(0.3), gaussian(9, 2)
    method = TransformCoding(10, coder)
    shared = method.fit(Sample(gaussian(900, 0) + np.float32(0.3), metric))
    codes = method.encode(items, shared)
    searcher = method.open(codes, {k: v for k, v in shared.items() if not k.startswith("build/")}, metric)
    # Unit vectors are coded under cosine, and searched by inner products.
    decoded = method.decode(codes, shared)
    expected = search_exact(queries, decoded, "l2" if metric == "l2" else "ip", 5).ids
    for rows in (slice(0, 9), slice(0, 1), slice(3, 5)):
        found = searcher.search(queries[rows], 5).ids
        assert np.mean(found == expected[rows]) > 0.95


@pytest.mark.parametrize("rows", [40, 300, 3000])
def test_values_adapt_to_clusters_and_not_to_noise(rows, monkeypatch):
    def errors(nbytes, draw):
        found = []
        for prior in (transform_coding.PRIOR, 1e12):
            monkeypatch.setattr(transform_coding, "PRIOR", prior)
            error = error_of(TransformCoding(nbytes, weight=0.0), draw(rows, 0), draw(1500, 1))
            found.append(np.square(error).sum(1).mean())
            monkeypatch.undo()
        return found

    def clustered(n, seed):
        centres = 3 * np.random.default_rng(7).standard_normal((20, 24))
        rng = np.random.default_rng(seed)
        return (centres[rng.integers(0, 20, n)] + 0.3 * rng.standard_normal((n, 24))).astype("f4")

    adapted, designed = errors(4, clustered)
    assert adapted < (0.7 if rows == 3000 else 1.0) * designed
    for nbytes in (4, 24):
        adapted, designed = errors(nbytes, gaussian)
        assert adapted < 1.003 * designed


def test_the_bases_are_dual_and_orthogonal_without_weights():
    residuals = gaussian(500, 0)
    moment = np.cov(gaussian(300, 5).T) + np.eye(64)
    forward, backward = bases(residuals, moment, 64)
    np.testing.assert_allclose(forward @ backward.T, np.eye(64), atol=1e-6)
    forward, backward = bases(residuals, np.eye(64), 10)
    np.testing.assert_allclose(forward, backward, atol=1e-9)
    np.testing.assert_allclose(forward @ forward.T, np.eye(10), atol=1e-9)


def test_weights_lower_the_error_of_inner_products():
    rng = np.random.default_rng(4)
    directions = np.linalg.qr(rng.standard_normal((64, 8)))[0]
    queries = (rng.standard_normal((2000, 8)) @ directions.T).astype("f4")
    fitted, items = gaussian(3000, 0), gaussian(800, 1)
    plain, weighted = (
        np.square(error_of(TransformCoding(8, weight=w), fitted, items, "ip", queries[:1000]) @ queries[1000:].T).mean()
        for w in (0.0, 0.8)
    )
    assert weighted < 0.7 * plain


def test_few_queries_hardly_move_what_is_expected_of_them():
    spectrum = np.linspace(0.5, 2, 64)
    items, queries = gaussian(2000, 1), gaussian(9000, 2, spectrum)
    truth, moments = {}, {}
    for name, vectors in (("items", items), ("queries", queries)):
        truth[name] = second_moment(vectors)[0]
    for rows in (0, 1, 5, 50, 500, 9000):
        moments[rows] = query_moment(items, Sample(items, "ip", queries[:rows]))
        assert np.trace(moments[rows]) == pytest.approx(64)
    np.testing.assert_array_equal(moments[0], truth["items"])
    np.testing.assert_array_equal(moments[1], truth["items"])
    wrong = {rows: np.square(moment - truth["queries"]).sum() for rows, moment in moments.items()}
    # Never worse than the items alone, ever better, and not far from the whole truth in the end.
    assert all(after <= before for before, after in itertools.pairwise(wrong.values()))
    assert wrong[9000] < 0.01 * wrong[0]
    # Five say next to nothing, and by themselves they would be far off.
    assert wrong[5] < 0.2 * np.square(second_moment(queries[:5])[0] - truth["queries"]).sum()


def test_distances_are_not_weighted():
    shared = TransformCoding(6).fit(Sample(gaussian(300, 0), "l2", gaussian(50, 1)))
    assert "build/basis" not in shared


@pytest.mark.parametrize("d", [33, 64, 384, 768, 1024])
def test_budgets_are_filled(d):
    for size in (4, 16, 33, 64, 100.5, 192, 512):
        for method in TransformCoding.for_budget(Budget(size, 1_000_000, d)):
            item, shared, _ = method.planned_bytes(d)
            assert item + shared / 1e6 <= size
            more = TransformCoding(method.nbytes + 1).planned_bytes(d)
            assert method.nbytes == d or more[0] + more[1] / 1e6 > size


def test_impossible_arguments_are_refused():
    for bad in ({"nbytes": 0}, {"nbytes": 4, "coder": "none"}, {"nbytes": 4, "weight": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            TransformCoding(**bad)
    with pytest.raises(BadInput, match="fill 4 bytes"):
        TransformCoding(5).fit(Sample(np.ones((9, 4), "f4")))
    with pytest.raises(BadInput, match="empty"):
        TransformCoding(2).fit(Sample(np.ones((0, 4), "f4")))
