"""Learned transforms and codes: what was planted is found, and what theory says a method equals, it equals."""

import numpy as np
import pytest

pytest.importorskip("torch")

from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.binary.bebr import BEBR
from packbench.methods.binary.binary_autoencoder import LOSSES, MODES, BinaryAutoencoder, starting
from packbench.methods.binary.hamming import pack_signs, unpack_signs
from packbench.methods.binary.sign import Sign
from packbench.methods.codebook.dimco_head import DimcoHead, DimcoHeadPL
from packbench.methods.codebook.qlae import QLAE
from packbench.methods.projection.least_volume_ae import LeastVolumeAE
from packbench.methods.projection.mlp import even_batch, orthonormal, principal
from packbench.methods.projection.mrl_adapter import MRLAdapter
from packbench.methods.projection.nested_dropout_ae import NestedDropoutAE
from packbench.methods.projection.pca import PCA
from packbench.methods.projection.projective_distill import ProjectiveDistill, ridge_map
from packbench.methods.projection.tldr import TLDR, nearest
from packbench.methods.scalar.lloyd_max import LloydMax


def angles(one, two):
    """Return the principal angles in degrees between the row spaces of two matrices."""
    q, r = (np.linalg.qr(np.asarray(rows, np.float64).T)[0] for rows in (one, two))
    return np.degrees(np.arccos(np.clip(np.linalg.svd(q.T @ r, compute_uv=False), -1, 1)))


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0].T


def spectrum(n, scales, seed):
    """Return n Gaussian rows with the given standard deviations along the rows of a rotation, and that rotation."""
    axes = rotation(len(scales), seed)
    rows = np.random.default_rng(seed + 1).standard_normal((n, len(scales))) * scales
    return np.asarray(rows @ axes, np.float32), axes


class TestTLDR:
    def test_from_a_random_start_it_spans_what_neighbours_share(self):
        rng = np.random.default_rng(3)
        axes = rotation(8, 4)
        families = np.repeat(rng.standard_normal((300, 4)), 6, axis=0) @ axes[:4]
        rows = np.asarray(families + 0.3 * rng.standard_normal((1800, 8)), np.float32)
        turns = []
        for epochs in (0, 60):
            method = TLDR(4, start="random", projector=192, epochs=epochs, rate=1e-2)
            found = method.fit(Sample(rows, "l2"))["outer"]
            np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-5)
            turns.append(angles(found, axes[:4]).max())
        assert turns[0] > 60
        assert turns[1] < 10

    def test_neighbours_are_others(self):
        rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
        rows[10:20] = rows[10]
        found = nearest(rows, "l2", 3)
        assert found.shape == (50, 3)
        assert not (found == np.arange(50)[:, None]).any()
        assert np.isin(found[10:20], np.arange(10, 20)).all()


class TestNestedDropoutAE:
    @pytest.mark.parametrize("law", ["uniform", "geometric"])
    def test_a_linear_one_is_pca_axis_by_axis(self, law):
        rows, _ = spectrum(1500, 4 * 0.7 ** np.arange(12), 7)
        sample = Sample(rows + 5, "l2")
        found = NestedDropoutAE(5, law=law).fit(sample)["outer"]
        true = PCA(5).fit(sample)["components"]
        assert np.abs(np.einsum("ij,ij->i", found, true)).min() > 0.99


class TestLeastVolumeAE:
    def test_a_linear_one_spans_principal_components(self):
        rows, _ = spectrum(1500, np.r_[4, 3, 2.5, 2, 0.5 * np.ones(8)], 7)
        found = LeastVolumeAE(4).fit(Sample(rows, "l2"))["outer"]
        assert angles(found, PCA(4).fit(Sample(rows, "l2"))["components"]).max() < 5

    def test_latents_that_are_not_needed_are_emptied(self):
        rows, axes = spectrum(1500, np.r_[np.linspace(3, 2, 4), np.zeros(12)], 7)
        method = LeastVolumeAE(10, penalty=1.0, epochs=100)
        spread = np.asarray(method.apply(rows, method.fit(Sample(rows, "l2")))).std(axis=0)
        assert spread[3] > 20 * spread[4]
        few = LeastVolumeAE(4, width=10, penalty=1.0, epochs=100).fit(Sample(rows, "l2"))["outer"]
        assert angles(few @ axes[:4].T @ axes[:4], axes[:4]).max() < 5

    def test_hidden_units_run_in_numpy_as_in_training(self):
        rows, _ = spectrum(600, np.r_[np.linspace(3, 2, 4), 0.1 * np.ones(8)], 7)
        method = LeastVolumeAE(4, hidden=64)
        shared = method.fit(Sample(rows + 2, "l2"))
        queries, items = method.apply_queries(rows[:50] + 2, shared), method.apply(rows + 2, shared)
        true = search_exact(rows[:50], rows, "l2", 10).ids
        found = search_exact(queries, items, method.metric_after("ip"), 10).ids
        assert np.mean([np.isin(one, two).mean() for one, two in zip(found, true, strict=True)]) > 0.7
        assert sum(array.nbytes for array in shared.values()) == method.shared_bytes(12)
        # A power of two scales floats exactly, and so all that is learnt from them.
        longer = method.fit(Sample(64 * (rows + 2), "l2"))
        np.testing.assert_allclose(method.apply(64 * (rows + 2), longer), 64 * items, rtol=1e-4, atol=1e-3)


class TestProjectiveDistill:
    def test_components_are_those_of_pca_and_the_mean_stays(self):
        rows, _ = spectrum(300, 0.8 ** np.arange(10), 1)
        sample, method = Sample(rows + 3, "ip"), ProjectiveDistill(4)
        components = PCA(4).fit(sample)["components"]
        shared = method.fit(sample)
        np.testing.assert_allclose(method.apply(rows + 3, shared), (rows + 3) @ components.T, atol=1e-4)
        np.testing.assert_allclose(method.apply_queries(rows, shared), rows @ components.T, atol=1e-4)

    @pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
    def test_a_student_that_is_a_linear_map_is_mapped_back(self, metric):
        rng = np.random.default_rng(0)
        rows, _ = spectrum(300, 0.8 ** np.arange(10), 1)
        if metric == "cosine":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            mixing = rotation(10, 2).astype(np.float32)  # lengths are taken off on both sides
        else:
            mixing = (rotation(10, 2) * np.linspace(1, 3, 10)).astype(np.float32)
        small = rows @ mixing
        sample = Sample(rows, metric, extras={"versions": small})
        method = ProjectiveDistill(4, student=10, ridge=0.0)
        shared = method.fit(sample)
        asked = rng.permutation(300)[:20]
        np.testing.assert_allclose(
            method.apply_queries(small[asked], shared), np.asarray(method.apply(rows, shared))[asked], atol=1e-4
        )
        assert method.needed() == {"versions"}
        assert sum(array.nbytes for array in shared.values()) == method.shared_bytes(10)

    def test_ridge_map_has_the_least_penalised_error(self):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((50, 6)), rng.standard_normal((50, 3))
        found = ridge_map(x, y, 0.5).astype(np.float64)
        weight = 0.5 * np.trace(x.T @ x) / 6
        slope = (found @ x.T - y.T) @ x + weight * found
        np.testing.assert_allclose(slope, 0, atol=1e-3)


class TestMRLAdapter:
    def test_reconstruction_gives_the_prefix_spaces_of_principal_components(self):
        rows, _ = spectrum(2000, np.r_[4 * np.ones(16), 2 * np.ones(8), 0.4 * np.ones(8)], 5)
        method = MRLAdapter(24, loss="reconstruction", start="identity", epochs=150)
        found = method.fit(Sample(rows, "ip"))["matrix"]
        true = principal(rows, 24)
        assert angles(found[:16], true[:16]).max() < 5
        assert angles(found, true).max() < 5

    @pytest.mark.parametrize("loss", ["similarity", "pairs", "reconstruction"])
    def test_nothing_is_lost_at_full_width(self, loss):
        rows, _ = spectrum(200, 0.9 ** np.arange(20), 5)
        pairs = np.stack([np.arange(50), np.arange(50)], axis=1)
        shared = MRLAdapter(20, loss=loss).fit(Sample(rows, "ip", rows[:50] + 0.1, {"pairs": pairs}))
        mapped = MRLAdapter(20).apply(rows, shared)
        np.testing.assert_allclose(mapped @ mapped.T, rows @ rows.T, atol=1e-4)

    @pytest.mark.parametrize("loss", ["similarity", "pairs"])
    def test_directions_that_no_query_asks_about_make_room(self, loss):
        items, axes = spectrum(600, np.r_[2 * np.ones(8), np.ones(8), 0.1 * np.ones(16)], 5)
        rng = np.random.default_rng(6)
        asked = np.asarray(rng.standard_normal((500, 8)) @ axes[8:16], np.float32)
        pairs = np.stack([np.arange(400), search_exact(asked[:400], items, "ip", 1).ids[:, 0]], axis=1)
        sample = Sample(items, "ip", asked[:400], {"pairs": pairs})
        true = search_exact(asked[400:], items, "ip", 10).ids

        def recall(method):
            shared = method.fit(sample)
            found = search_exact(method.apply_queries(asked[400:], shared), method.apply(items, shared), "ip", 10).ids
            return np.mean([np.isin(one, two).mean() for one, two in zip(found, true, strict=True)])

        assert recall(MRLAdapter(8, loss=loss, start="identity", epochs=60)) > recall(PCA(8)) + 0.3


def recall(method, sample, items, queries):
    """Return recall@10 under the metric of the sample, search being given what a search is given."""
    shared = method.fit(sample)
    served = {name: array for name, array in shared.items() if not name.startswith("build/")}
    found = method.open(method.encode(items, shared), served, sample.metric).search(queries, 10).ids
    true = search_exact(queries, items, sample.metric, 10).ids
    return np.mean([np.isin(one, two).mean() for one, two in zip(found, true, strict=True)])


class TestBEBR:
    @pytest.mark.parametrize("scorer", ["symmetric", "asymmetric"])
    def test_without_loops_and_with_the_identity_it_is_sign(self, scorer):
        rows = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
        shared = {"W0": np.eye(20, dtype=np.float32), "mean": np.zeros(20, np.float32), "unit": np.zeros(1, np.uint8)}
        method, control = BEBR(20, loops=0, scorer=scorer), Sign(scorer=scorer)
        codes, true = method.encode(rows, shared), control.encode(rows, {})
        assert np.array_equal(codes["codes"], true["codes"])
        one = method.open(codes, shared, "ip").search(rows[:8], 10)
        two = control.open(true, {}, "ip").search(rows[:8], 10)
        np.testing.assert_allclose(one.scores, two.scores, rtol=1e-5)

    def test_levels_are_evenly_spaced_and_scored_as_such(self):
        rows, _ = spectrum(300, np.ones(8), 2)
        method = BEBR(8, loops=2, scorer="symmetric", epochs=1)
        shared = method.fit(Sample(rows, "ip"))
        codes = method.encode(rows, shared)
        signs = unpack_signs(codes["codes"], 24).reshape(300, 3, 8)
        levels = np.einsum("npd,p->nd", signs, [1, 0.5, 0.25])
        assert np.array_equal(np.unique(levels), np.arange(-1.75, 2, 0.5))
        found = method.open(codes, shared, "ip").search(rows[:5], 300)
        for row in range(5):
            np.testing.assert_allclose(found.scores[row], (levels @ levels[row])[found.ids[row]], atol=1e-4)

    @pytest.mark.parametrize("scorer", ["symmetric", "asymmetric"])
    def test_each_loop_tells_more(self, scorer):
        rows, _ = spectrum(800, np.linspace(2, 1, 12), 2)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sample = Sample(rows[:500], "ip")
        found = [recall(BEBR(12, loops, scorer), sample, rows[100:], rows[:100]) for loops in range(3)]
        assert found[0] + 0.08 < found[1]
        assert found[1] + 0.03 < found[2]

    def test_training_on_pairs_turns_to_what_pairs_share(self):
        rng = np.random.default_rng(6)
        items, axes = spectrum(600, np.r_[2 * np.ones(8), np.ones(8)], 5)
        asked = np.asarray(items @ axes[8:].T @ axes[8:] + 2 * rng.standard_normal((600, 8)) @ axes[:8], np.float32)
        pairs = np.stack([np.arange(500), np.arange(500)], axis=1)
        sample = Sample(items, "ip", asked[:500], {"pairs": pairs})

        def place(method):
            """Return how often the paired item is among the best fifty of an unseen query."""
            shared = method.fit(sample)
            found = method.open(method.encode(items, shared), shared, "ip").search(asked[500:], 50).ids
            return np.mean([row in ids for row, ids in zip(range(500, 600), found, strict=True)])

        untrained = BEBR(8, 1, positives="pairs", epochs=0)
        assert place(BEBR(8, 1, positives="pairs", epochs=40, rate=1e-2)) > place(untrained) + 0.3


class TestBinaryAutoencoder:
    @pytest.fixture
    def planted(self):
        bits = np.where(np.random.default_rng(0).random((1200, 6)) > 0.5, 1, -1)
        return bits, np.asarray(bits @ rotation(16, 1)[:6] + 3, np.float32)

    # From a turned start the modes without noise may stop at another turn than that of the bits.
    @pytest.mark.parametrize("mode", ["bernoulli", "sign"])
    def test_planted_bits_are_found_but_for_order_and_sign(self, planted, mode):
        bits, rows = planted
        method = BinaryAutoencoder(6, mode=mode, epochs=60)
        shared = method.fit(Sample(rows, "l2"))
        codes = method.encode(rows, shared)
        likeness = np.abs(unpack_signs(codes["codes"], 6).T @ bits) / len(rows)
        assert np.array_equal(likeness > 0.99, likeness > 0.5)
        assert (likeness > 0.99).sum(axis=0).tolist() == [1] * 6
        assert np.abs(method.decode(codes, shared) - rows).max() < 0.05

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("mode", MODES)
    def test_training_lowers_the_error(self, planted, mode, loss):
        rows = planted[1]
        errors = []
        for epochs in (0, 40):
            method = BinaryAutoencoder(6, mode=mode, loss=loss, epochs=epochs)
            shared = method.fit(Sample(rows, "l2"))
            errors.append(np.square(method.decode(method.encode(rows, shared), shared) - rows).mean())
        assert errors[1] < 0.8 * errors[0]

    @pytest.mark.parametrize("bits", [16, 24])
    def test_untrained_it_is_the_sign_of_a_turned_vector(self, bits):
        rows, _ = spectrum(400, np.linspace(2, 1, 16), 2)
        shared = BinaryAutoencoder(bits, epochs=0).fit(Sample(rows, "ip"))
        begin = starting(rows - shared["mean"], bits, 0)
        np.testing.assert_allclose(begin @ begin.T, np.eye(16), atol=1e-5)
        codes = BinaryAutoencoder(bits).encode(rows, shared)["codes"]
        assert np.array_equal(codes, pack_signs((rows - shared["mean"]) @ begin))

    def test_scores_are_inner_products_with_what_is_decoded(self):
        rows, _ = spectrum(400, np.linspace(2, 1, 16), 2)
        method = BinaryAutoencoder(16, epochs=2, scorer="asymmetric")
        shared = method.fit(Sample(rows, "ip"))
        codes = method.encode(rows, shared)
        found = method.open(codes, shared, "ip").search(rows[:5], 10)
        dots = rows[:5] @ (method.decode(codes, shared) - shared["mean"]).T
        np.testing.assert_allclose(found.scores, np.take_along_axis(dots, found.ids, axis=1), atol=1e-3)


class TestQLAE:
    def test_the_identity_is_lloyd_max(self):
        rows = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
        sample, method, control = Sample(rows, "l2"), QLAE(12, bits=3, encoder="identity"), LloydMax(3)
        shared, true = method.fit(sample), control.fit(sample)
        codes, wanted = method.encode(rows, shared), control.encode(rows, true)
        assert np.array_equal(codes["codes"], wanted["codes"])
        assert np.array_equal(method.decode(codes, shared), control.decode(wanted, true))

    def test_planted_factors_are_found_one_per_latent(self):
        rng = np.random.default_rng(0)
        factors = rng.integers(0, 4, (1500, 4))
        # Chance correlations of the factors turn the principal components that training starts from.
        rows = np.asarray((factors - 1.5) * [1.3, 1.2, 1.1, 1] @ rotation(12, 1)[:4] + 2, np.float32)
        errors = []
        for epochs in (0, 100):
            method = QLAE(4, bits=2, turn=False, epochs=epochs)
            shared = method.fit(Sample(rows, "l2"))
            errors.append(np.abs(method.decode(method.encode(rows, shared), shared) - rows).max())
        assert errors[1] < 0.1 < errors[0]
        latents = (rows - shared["mean"]) @ shared["build/encoder"].T
        likeness = np.abs(np.corrcoef(latents.T, factors.T)[:4, 4:])
        assert (likeness > 0.99).sum(axis=0).tolist() == [1] * 4

    @pytest.mark.parametrize("metric", ["ip", "l2"])
    def test_scores_are_those_of_what_is_decoded(self, metric):
        rows, _ = spectrum(400, np.linspace(2, 1, 16), 2)
        method = QLAE(10, bits=3, epochs=3)
        shared = method.fit(Sample(rows, metric))
        codes = method.encode(rows, shared)
        found = method.open(codes, shared, metric).search(rows[:9], 400)
        true = search_exact(rows[:9], method.decode(codes, shared), metric, 400)
        assert np.mean(found.ids[:, :10] == true.ids[:, :10]) > 0.9


class TestDimcoHead:
    @pytest.fixture
    def blobs(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 16, 2000)
        # Four numbers of 2 bits name a class; spread in other directions says nothing of it.
        rows = 3 * rng.standard_normal((16, 24))[labels] + rng.standard_normal((2000, 24))
        return np.asarray(rows, np.float32), labels

    def test_classes_have_codes_of_their_own_and_all_ways_are_used(self, blobs):
        rows, labels = blobs
        method = DimcoHead(positions=4, bits=2)
        shared = method.fit(Sample(rows, "ip", extras={"labels": labels + 7}))
        codes = method.encode(rows, shared)["codes"][:, 0]
        common = [np.bincount(codes[labels == one]).argmax() for one in range(16)]
        assert len(set(common)) == 16
        assert np.mean(codes == np.array(common)[labels]) > 0.95
        symbols = (codes[:, None] >> np.arange(0, 8, 2)) & 3
        for column in symbols.T:
            shares = np.bincount(column, minlength=4) / len(column)
            assert -(shares * np.log2(shares + 1e-9)).sum() > 1.6
        found = method.open({"codes": codes[:, None]}, shared, "ip").search(rows[:200], 10).ids
        assert np.mean(labels[found] == labels[:200, None]) > 0.95

    def test_scores_are_logarithms_of_chances(self, blobs):
        rows, labels = blobs
        method = DimcoHead(positions=3, bits=3, epochs=2)
        shared = method.fit(Sample(rows, "ip", extras={"labels": labels}))
        codes = method.encode(rows[:50], shared)
        logits = (rows @ shared["weights"] + shared["offset"]).reshape(-1, 3, 8)
        chances = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        symbols = logits[:50].argmax(axis=2)
        found = method.open(codes, shared, "ip").search(rows[100:103], 50)
        for row in range(3):
            wanted = chances[100 + row][np.arange(3), symbols].sum(axis=1)
            np.testing.assert_allclose(found.scores[row], wanted[found.ids[row]], atol=1e-3)

    def test_labels_are_asked_for_and_clusters_stand_in(self, blobs):
        rows, labels = blobs
        with pytest.raises(BadInput, match="labels"):
            DimcoHead(positions=4).fit(Sample(rows, "ip"))
        method = DimcoHeadPL(positions=4, clusters=16)
        shared = method.fit(Sample(rows, "ip"))
        found = method.open(method.encode(rows, shared), shared, "ip").search(rows[:200], 10).ids
        assert np.mean(labels[found] == labels[:200, None]) > 0.8


def test_helpers_of_encoders():
    rows = np.random.default_rng(0).standard_normal((3, 5))
    found = orthonormal(rows)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-6)
    assert angles(found, rows).max() < 0.1
    assert even_batch(1000, 512, 0) == 450
    assert even_batch(1, 512, 0) == 1
