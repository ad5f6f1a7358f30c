"""Learned transforms and codes: what was planted is found, and what theory says a method equals, it equals."""

import numpy as np
import pytest

pytest.importorskip("torch")

from packbench.exact import search_exact
from packbench.method import Sample
from packbench.methods.projection.least_volume_ae import LeastVolumeAE
from packbench.methods.projection.mlp import even_batch, orthonormal, principal
from packbench.methods.projection.mrl_adapter import MRLAdapter
from packbench.methods.projection.nested_dropout_ae import NestedDropoutAE
from packbench.methods.projection.pca import PCA
from packbench.methods.projection.projective_distill import ProjectiveDistill, ridge_map
from packbench.methods.projection.tldr import TLDR, nearest


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
    def test_it_spans_what_neighbours_share(self):
        rng = np.random.default_rng(3)
        axes = rotation(12, 4)
        families = np.repeat(rng.standard_normal((200, 3)), 6, axis=0) @ axes[:3]
        rows = np.asarray(families + 0.2 * rng.standard_normal((1200, 12)), np.float32)
        method = TLDR(3, start="random", projector=128, epochs=100, rate=1e-2)
        found = method.fit(Sample(rows, "l2"))["outer"]
        assert angles(found, axes[:3]).max() < 5
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)

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


def test_helpers_of_encoders():
    rows = np.random.default_rng(0).standard_normal((3, 5))
    found = orthonormal(rows)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-6)
    assert angles(found, rows).max() < 0.1
    assert even_batch(1000, 512, 0) == 450
    assert even_batch(1, 512, 0) == 1
