"""The proofs of an online orthogonal dictionary, of convex combinations of anchors and of predicted sparse codes."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.decomposition import sparse_encode
from threadpoolctl import threadpool_limits

from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.sparse.convex_anchors import ConvexAnchors, in_bytes, nearest_combination, onto_simplex
from packbench.methods.sparse.online_odl import OnlineODL
from packbench.methods.sparse.psd import FEW, PSD, PULL, sparse_codes
from packbench.methods.sparse.support import unpack_index


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def gaussian(n, d, seed=0):
    return np.random.default_rng([seed, 7]).standard_normal((n, d)).astype(np.float32)


def sparse(n, count, active, seed=0):
    """Return codes (n, count) with `active` entries of random place and sign, of size one to two."""
    rng = np.random.default_rng([seed, 11])
    codes = np.zeros((n, count), np.float32)
    places = rng.permuted(np.tile(np.arange(count), (n, 1)), axis=1)[:, :active]
    values = rng.uniform(1, 2, places.shape) * rng.choice([-1, 1], places.shape)
    np.put_along_axis(codes, places, values.astype(np.float32), axis=1)
    return codes


def rebuilt(method, vectors, shared):
    return method.decode(method.encode(vectors, shared), shared)


def explained(method, vectors, shared):
    about = vectors - vectors.mean(axis=0)
    return 1 - np.square(rebuilt(method, vectors, shared) - vectors).sum() / np.square(about).sum()


# online_odl


def test_a_planted_orthogonal_dictionary_is_recovered_up_to_sign_and_order():
    truth = np.linalg.qr(gaussian(16, 16, 1))[0]
    learnt = OnlineODL(3).learn(sparse(3000, 16, 3) @ truth.T)
    agreement = np.abs(learnt.T @ truth)
    assert sorted(agreement.argmax(axis=0)) == list(range(16))
    assert agreement.max(axis=0).min() > 0.99
    np.testing.assert_allclose(learnt.T @ learnt, np.eye(16), atol=1e-5)


def test_the_stream_is_read_once():
    read = []

    class Stream(np.ndarray):
        def __getitem__(self, rows):
            read.extend(rows)
            return np.asarray(self)[rows]

    OnlineODL(3).learn(gaussian(2345, 8).view(Stream))
    assert sorted(read) == list(range(2345))


def test_all_coordinates_in_an_orthogonal_dictionary_are_exact_and_fewer_lose_their_energy():
    vectors = gaussian(300, 24)
    whole = OnlineODL(24, bits=16)
    shared = whole.fit(Sample(vectors))
    np.testing.assert_allclose(rebuilt(whole, vectors, shared), vectors, atol=5e-3)
    few = OnlineODL(5, bits=16)
    products = np.sort(np.abs(vectors @ few.fit(Sample(vectors))["atoms"].astype(np.float32).T), axis=1)
    lost = np.square(rebuilt(few, vectors, shared) - vectors).sum(axis=1)
    np.testing.assert_allclose(lost, np.square(products[:, :-5]).sum(axis=1), rtol=5e-3)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_coordinates_in_the_dictionary_are_searched_as_decoded(metric):
    vectors, queries = gaussian(400, 20), gaussian(30, 20, 1)
    method = OnlineODL(6, bits=4)
    shared = method.fit(Sample(vectors, metric))
    codes = method.encode(vectors, shared)
    found = method.open(codes, shared, metric).search(queries, 5).ids
    assert (found == search_exact(queries, method.decode(codes, shared), metric, 5).ids).mean() > 0.97


# convex_anchors


def given(anchors, temperature=1.0):
    return {
        "anchors": anchors.astype(np.float16), "rule": np.zeros(1, np.uint8),
        "build/temperature": np.array([temperature], np.float32),
    }  # fmt: skip


def distances(vectors, anchors):
    return np.square(vectors[:, None] - anchors.astype(np.float16).astype(np.float32)).sum(axis=2)


def test_one_anchor_is_the_nearest():
    vectors, anchors = gaussian(500, 12), gaussian(30, 12, 1)
    for weights in ("softmax", "least_squares"):
        method, shared = ConvexAnchors(1, 30, weights=weights), given(anchors)
        codes = method.encode(vectors, shared)
        found = unpack_index(codes["index"], 1, 30)[:, 0]
        np.testing.assert_array_equal(found, distances(vectors, anchors).argmin(axis=1))
        assert (codes["weights"] == 255).all()
        np.testing.assert_array_equal(method.decode(codes, shared), shared["anchors"][found].astype(np.float32))


def test_weights_are_softmax_probabilities_of_the_most_probable_rescaled():
    vectors, anchors = gaussian(50, 12), gaussian(30, 12, 1)
    every = softmax(-distances(vectors, anchors) / 3.0, axis=1)
    for k in (5, 30):
        kept = np.where(every >= np.sort(every, axis=1)[:, 30 - k : 31 - k], every, 0)
        expected = kept / kept.sum(axis=1, keepdims=True) @ anchors
        found = rebuilt(ConvexAnchors(k, 30), vectors, given(anchors, 3.0))
        np.testing.assert_allclose(found, expected, atol=k * np.abs(anchors).max() / 255)
        assert np.abs(found - expected).mean() < 0.01


def test_the_temperature_is_that_of_least_error():
    vectors = gaussian(600, 12)
    method = ConvexAnchors(6, 40)
    shared = method.fit(Sample(vectors))
    best, *others = (
        explained(method, vectors, shared | {"build/temperature": shared["build/temperature"] * factor})
        for factor in (1, 0.25, 0.6, 1.6, 4)
    )
    assert best > max(others)


def test_combinations_of_few_anchors_are_nearly_exact_by_least_squares():
    anchors = gaussian(16, 20, 1)
    parts = np.abs(sparse(200, 16, 3))
    vectors = (parts / parts.sum(axis=1, keepdims=True)) @ anchors
    lost = {
        weights: 1 - explained(ConvexAnchors(3, 16, weights=weights), vectors, given(anchors, 2.0))
        for weights in ("least_squares", "softmax")
    }
    assert lost["least_squares"] < 1e-3
    assert lost["softmax"] > 0.02


def test_rows_are_projected_onto_the_nearest_face_of_the_simplex():
    rows = gaussian(40, 5)

    def nearest_of(entries):
        level = brentq(lambda level: np.maximum(entries - level, 0).sum() - 1, entries.min() - 2, entries.max())
        return np.maximum(entries - level, 0)

    for k in (1, 2, 5):
        found = onto_simplex(rows, k)
        assert (np.count_nonzero(found, axis=1) <= k).all()
        for row, reached in zip(rows, found, strict=True):
            tried = []
            for face in itertools.combinations(range(5), k):
                point = np.zeros(5)
                point[list(face)] = nearest_of(row[list(face)])
                tried.append(point)
            best = min(tried, key=lambda point: np.square(point - row).sum())
            np.testing.assert_allclose(reached, best, atol=1e-5)


def test_descent_ends_where_no_corner_is_nearer():
    anchors, vectors = gaussian(12, 6, 1), 0.3 * gaussian(60, 6)
    weights = nearest_combination(vectors @ anchors.T, anchors @ anchors.T, 12)
    slope = (weights @ anchors - vectors) @ anchors.T
    gap = (weights * slope).sum(axis=1) - slope.min(axis=1)  # Frank-Wolfe's, zero at the optimum
    assert gap.max() < 0.05


def test_bytes_of_weights_add_up_and_are_the_nearest():
    weights = np.random.default_rng(0).dirichlet(np.ones(7), 300)
    found = in_bytes(weights)
    assert found.dtype == np.uint8
    assert (found.sum(axis=1, dtype=np.int64) == 255).all()
    assert np.abs(found - 255 * weights).max() < 1


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_combinations_are_searched_as_decoded(metric):
    vectors, queries = gaussian(400, 20) + 1, gaussian(30, 20, 1)
    method = ConvexAnchors(4, 30)
    shared = method.fit(Sample(vectors, metric))
    codes = method.encode(vectors, shared)
    hits = method.open(codes, shared, metric).search(queries, 5)
    expected = search_exact(queries, method.decode(codes, shared), "l2" if metric == "l2" else "ip", 5)
    assert (hits.ids == expected.ids).mean() > 0.97
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-3, atol=1e-3)


def test_under_cosine_the_length_of_an_item_is_not_coded():
    vectors = gaussian(300, 12)
    method = ConvexAnchors(4, 30)
    shared = method.fit(Sample(vectors, "cosine"))
    one, other = method.encode(vectors, shared), method.encode(vectors * 8, shared)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_more_anchors_than_rows_are_refused():
    with pytest.raises(BadInput, match="only 30 rows; choose count"):
        ConvexAnchors(4, 31).fit(Sample(gaussian(30, 8)))


# psd


def test_sparse_codes_are_those_of_coordinate_descent():
    vectors, atoms, start = gaussian(40, 15), gaussian(24, 15, 1), 0.1 * gaussian(40, 24, 2)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    for pull in (0.0, 0.7):
        found = sparse_codes(vectors, atoms, start, 0.8, pull, 2000)
        # The pull is a second set of coordinates.
        longer = np.concatenate([vectors, np.sqrt(pull) * start], axis=1)
        wide = np.concatenate([atoms, np.sqrt(pull) * np.eye(24)], axis=1)
        wanted = sparse_encode(longer, wide, algorithm="lasso_cd", alpha=0.4, max_iter=20000)
        np.testing.assert_allclose(found, wanted, atol=5e-3)
        assert 0.1 < np.mean(found == 0) < 0.95


@pytest.fixture(scope="module")
def trained():
    pytest.importorskip("torch")
    atoms = gaussian(32, 48, 3)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    vectors = sparse(500, 32, 3) @ atoms
    return atoms, vectors, PSD(5, 48, bits=16, keep_length=False).fit(Sample(vectors))


def test_a_planted_dictionary_is_found(trained):
    atoms, _, shared = trained
    learnt = shared["atoms"].astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(learnt, axis=1), 1, atol=2e-3)
    assert np.abs(atoms @ learnt.T).max(axis=1).mean() > 0.9


def test_predicted_codes_explain_nine_tenths_of_what_exact_ones_do(trained):
    _, vectors, shared = trained
    predicted, exact = (
        explained(PSD(5, 48, bits=16, exact=exact, keep_length=False), vectors, shared) for exact in (False, True)
    )
    assert exact > 0.6
    assert predicted > 0.9 * exact


def test_the_weight_of_sparsity_is_steered_to_k_entries(trained):
    _, vectors, shared = trained
    atoms, about = shared["atoms"].astype(np.float32), vectors - shared["centre"]
    predicted = PSD(5, 48).activations(vectors, shared)
    codes = sparse_codes(about, atoms, predicted, shared["build/sparsity"][0], PULL, FEW)
    assert 4 < np.count_nonzero(codes) / len(codes) < 6


def test_predictions_are_kept_by_magnitude_and_are_never_beyond_the_gain(trained):
    _, vectors, shared = trained
    method = PSD(4, 48)
    predicted = method.activations(vectors * 100, shared)
    assert (np.abs(predicted) <= np.abs(shared["build/gain"]) * (1 + 1e-5)).all()
    places, values = method.keep(np.array([[0.5, -3.0, 0.1, -1.0, 2.0, 0.2]], np.float32))
    assert places.tolist() == [[0, 1, 3, 4]]
    assert values.tolist() == [[0.5, -3.0, -1.0, 2.0]]


def test_exact_codes_do_not_depend_on_their_batch(trained):
    _, vectors, shared = trained
    method = PSD(5, 48, bits=16, exact=True)
    whole, part = method.encode(vectors, shared), method.encode(vectors[7:8], shared)
    assert all(np.array_equal(whole[name][7:8], part[name]) for name in whole)
