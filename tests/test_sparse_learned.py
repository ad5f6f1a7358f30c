"""The proofs of the learned sparse codes: planted dictionaries, identities between methods, what each term is for."""

import dataclasses

import numpy as np
import pytest

from packbench.method import Sample
from packbench.methods.sparse.autoencoder import Recipe, train_autoencoder
from packbench.methods.sparse.csr import CSR
from packbench.methods.sparse.flops_sparse import FlopsSparse
from packbench.methods.sparse.k_sparse_ae import KSparseAE
from packbench.methods.sparse.sae_topk import SAETopK

torch = pytest.importorskip("torch")
ATOMS, D, ACTIVE = 24, 20, 2


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dictionary(atoms=ATOMS, d=D, seed=0):
    rows = np.random.default_rng(seed).standard_normal((atoms, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def planted(n=1500, atoms=None, active=ACTIVE, seed=1):
    """Return vectors made of a few atoms each, with positive weights, and the codes."""
    atoms = dictionary() if atoms is None else atoms
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, len(atoms)), np.float32)
    places = rng.permuted(np.tile(np.arange(len(atoms)), (n, 1)), axis=1)[:, :active]
    np.put_along_axis(codes, places, rng.uniform(1, 2, (n, active)).astype(np.float32), axis=1)
    return codes @ atoms, codes


def mean_max_cosine(atoms, found):
    atoms, found = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (atoms, found.astype(np.float32)))
    return (atoms @ found.T).max(axis=1).mean()


def codes_of(method, vectors, shared):
    index, values = method.keep(method.activations(vectors, shared))
    rows = np.zeros((len(vectors), method.atoms), np.float32)
    np.put_along_axis(rows, index.astype(np.intp), values, axis=1)
    return rows


def given(atoms):
    """Return the shared arrays of a tied autoencoder about the origin."""
    return {
        "atoms": atoms.astype(np.float16), "centre": np.zeros(atoms.shape[1], np.float32), "build/encoder": atoms,
        "build/bias": np.zeros(len(atoms), np.float32), "build/unit": np.zeros(1, np.uint8),
    }  # fmt: skip


@pytest.mark.parametrize(
    "method", [SAETopK(ACTIVE, 48), SAETopK(ACTIVE, 48, tied=True), KSparseAE(ACTIVE, 48), CSR(ACTIVE, 48)]
)
def test_a_planted_dictionary_is_found(method):
    vectors, _ = planted()
    found = method.fit(Sample(vectors))["atoms"]
    assert mean_max_cosine(dictionary(), found) > 0.95
    assert mean_max_cosine(dictionary(), dictionary(48, seed=5)) < 0.7


@pytest.mark.parametrize("method", [KSparseAE(3, D, bits=16), SAETopK(3, D, bits=16), CSR(3, D, bits=16)])
def test_planted_codes_over_an_orthonormal_dictionary_are_recovered(method):
    atoms = np.linalg.qr(dictionary(D, D))[0].astype(np.float32)
    vectors, codes = planted(50, atoms, 3)
    shared = given(atoms)
    np.testing.assert_allclose(codes_of(method, vectors, shared), codes, atol=1e-5)
    np.testing.assert_allclose(method.decode(method.encode(vectors, shared), shared), vectors, atol=4e-3)


def test_all_atoms_of_an_orthogonal_autoencoder_are_exact():
    atoms = np.linalg.qr(dictionary(D, D))[0].astype(np.float32)
    vectors = np.random.default_rng(3).standard_normal((30, D)).astype(np.float32)
    method = KSparseAE(D, D, bits=16, keep_length=False)
    shared = given(atoms)
    np.testing.assert_allclose(method.decode(method.encode(vectors, shared), shared), vectors, atol=8e-3)


def test_k_sparse_keeps_the_highest_even_below_zero():
    method = KSparseAE(2, 3, bits=16)
    index, values = method.keep(np.array([[-3.0, -1.0, -2.0], [5.0, -9.0, 1.0]], np.float32))
    assert index.tolist() == [[1, 2], [0, 2]]
    assert values.tolist() == [[-1, -2], [5, 1]]


def found_with(**terms):
    """Train on vectors that each are one of 48 atoms; tell how well these are found, and how many are used."""
    atoms = dictionary(48, 64)
    vectors, _ = planted(1500, atoms, 1)
    learned = train_autoencoder(vectors, Recipe(1, 48, 0, **terms))
    used = np.count_nonzero(codes_of(SAETopK(1, 48), vectors, learned).any(axis=0))
    return mean_max_cosine(atoms, learned["atoms"]), used


def test_starting_with_all_atoms_finds_more_of_them():
    terms = {"kept": "highest", "unit_atoms": False}
    assert found_with(anneal=True, **terms)[0] > found_with(anneal=False, **terms)[0] + 0.03


def test_idle_atoms_are_revived():
    (plain, plain_used), (revived, revived_used) = (found_with(tied=False, revive=weight) for weight in (0.0, 1 / 32))
    assert revived_used > plain_used + 4
    assert revived > 0.95 > plain + 0.1


def test_a_decoder_of_its_own_keeps_atoms_of_length_one():
    vectors, _ = planted(300)
    shared = SAETopK(ACTIVE, ATOMS).fit(Sample(vectors))
    np.testing.assert_allclose(np.linalg.norm(shared["atoms"].astype(np.float32), axis=1), 1, atol=2e-3)
    assert np.abs(shared["build/encoder"] - shared["atoms"]).max() > 0.05
    tied = SAETopK(ACTIVE, ATOMS, tied=True).fit(Sample(vectors))
    np.testing.assert_allclose(tied["build/encoder"], tied["atoms"], atol=1e-3)


def test_dictionaries_agree_more_where_agreement_is_asked_for():
    vectors = np.random.default_rng(2).standard_normal((400, D)).astype(np.float32)

    def agreement(weight):
        one, other = (
            SAETopK(ACTIVE, ATOMS, agreement=weight, seed=seed).fit(Sample(vectors))["atoms"].astype(np.float32)
            for seed in (0, 1)
        )
        return mean_max_cosine(one, other)

    plain = SAETopK(ACTIVE, ATOMS).fit(Sample(vectors))
    spelt = SAETopK(ACTIVE, ATOMS, agreement=0.0).fit(Sample(vectors))
    assert all(plain[name].tobytes() == spelt[name].tobytes() for name in plain)
    assert agreement(1.0) > agreement(0.0) + 0.02


def test_csr_without_contrast_is_a_tied_sae_where_4k_atoms_are_k():
    vectors, _ = planted(400)
    every = Recipe(ATOMS, ATOMS, 0, unit_atoms=False, revive=1 / 32)
    tied = train_autoencoder(vectors, every)
    csr = train_autoencoder(vectors, dataclasses.replace(every, wide=1 / 8, contrast=0.0))
    np.testing.assert_allclose(tied["atoms"].astype(np.float32), csr["atoms"].astype(np.float32), atol=0.02)


def test_codes_of_csr_never_oppose_each_other():
    vectors, _ = planted(400)
    method = CSR(4, ATOMS)
    codes = codes_of(method, vectors, method.fit(Sample(vectors)))
    assert (codes @ codes.T).min() >= 0


def test_contrast_tells_vectors_apart():
    vectors = (np.random.default_rng(2).standard_normal((400, D)) * np.linspace(2, 0.2, D)).astype(np.float32)

    def likeness(contrast):
        method = CSR(6, 48, contrast=contrast)
        codes = codes_of(method, vectors, method.fit(Sample(vectors)))
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        return (codes @ codes.T)[~np.eye(len(codes), dtype=bool)].mean()

    assert likeness(1.0) < likeness(0.0) - 0.02


def test_pairs_bring_the_codes_of_queries_to_their_items():
    rng = np.random.default_rng(4)
    items = rng.standard_normal((400, D)).astype(np.float32)
    # Queries lack the half of the coordinates that says most about an item's neighbours.
    queries = items + np.concatenate([2 * rng.standard_normal((400, D // 2)), np.zeros((400, D // 2))], axis=1)
    queries = queries.astype(np.float32)
    pairs = np.stack([np.arange(400)] * 2, axis=1)

    def hits(extras):
        method = CSR(8, 48, contrast=1.0, bits=16)
        shared = method.fit(Sample(items, "ip", queries, extras))
        found = method.open(method.encode(items, shared), shared, "ip").search(queries, 1).ids[:, 0]
        return np.mean(found == np.arange(400))

    assert hits({"pairs": pairs}) > hits({}) + 0.05


def test_codes_of_queries_are_weighed_with_their_encoder():
    codes, decoder = (CSR(4, 48, scorer=scorer) for scorer in ("codes", "decoder"))
    assert codes.planned_bytes(D)[1] - decoder.planned_bytes(D)[1] == 4 * 48


@pytest.mark.parametrize("bits", [4, 16])
def test_rebuilt_deviations_keep_their_length(bits):
    vectors = np.random.default_rng(2).standard_normal((300, D)).astype(np.float32) * 40
    method = SAETopK(4, ATOMS, bits=bits)
    shared = method.fit(Sample(vectors))

    def lengths(of):
        found = of.decode(of.encode(vectors, shared), shared) - shared["centre"]
        return np.linalg.norm(found, axis=1) / np.linalg.norm(vectors - shared["centre"], axis=1)

    np.testing.assert_allclose(lengths(method), 1, atol=2e-3)
    assert lengths(dataclasses.replace(method, keep_length=False)).mean() < 0.9


@pytest.mark.parametrize("method", [SAETopK(4, ATOMS), FlopsSparse(4, ATOMS), CSR(4, ATOMS, scorer="decoder")])
def test_the_sparse_scan_scores_what_decode_rebuilds(method):
    vectors, _ = planted(200)
    shared = method.fit(Sample(vectors))
    codes = method.encode(vectors, shared)
    hits = method.open(codes, shared, "ip").search(vectors[:5], 7)
    scores = vectors[:5] @ (method.decode(codes, shared) - shared["centre"]).T
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :7], rtol=1e-4, atol=1e-4)


def saturated(vectors, flops, steered=False, k=6, atoms=48):
    learned = train_autoencoder(
        vectors, Recipe(k, atoms, 0, unit_atoms=False, saturated=True, flops=flops, steered=steered)
    )
    return np.maximum(FlopsSparse(k, atoms).activations(vectors, learned), 0)


def test_activations_grow_with_the_logarithm_whatever_the_unit():
    vectors = np.random.default_rng(2).standard_normal((50, D)).astype(np.float32)
    atoms, length = dictionary(), np.array([2.0], np.float32)
    shared = given(atoms) | {"build/length": length}
    found = FlopsSparse(4, ATOMS).activations(vectors, shared)
    np.testing.assert_allclose(found, 2 * np.log1p(np.maximum(vectors @ atoms.T, 0) / 2), rtol=1e-4, atol=1e-5)


def test_the_flops_weight_decides_between_dense_and_empty():
    vectors = np.random.default_rng(2).standard_normal((400, D)).astype(np.float32)
    share = [np.mean(saturated(vectors, weight) > 0) for weight in (1e-9, 1.0, 1e4)]
    assert share[0] > 0.6 > share[1] > share[2]
    assert share[2] < 0.05


def test_a_steered_flops_weight_leaves_k_activations_on_average():
    vectors = np.random.default_rng(2).standard_normal((400, D)).astype(np.float32)
    assert 4 < np.mean(np.sum(saturated(vectors, 0.1, steered=True) > 0, axis=1)) < 8


def test_flops_make_postings_of_more_equal_length():
    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal((400, D)) * np.linspace(2, 0.2, D)).astype(np.float32)
    flops = (saturated(vectors, 0.1, steered=True) > 0).sum(axis=0)
    plain = codes_of(SAETopK(6, 48), vectors, train_autoencoder(vectors, Recipe(6, 48, 0)))
    postings = (plain > 0).sum(axis=0)
    assert flops.std() / flops.mean() < postings.std() / postings.mean()
