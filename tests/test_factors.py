"""What fits have in common is computed once: the same to the last bit, and counted as the work of those who use it."""

import numpy as np
import pytest

from packbench import Sample, factors, parse


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(factors, "_known", {})
    monkeypatch.setattr(factors, "_handed", [])


def vectors(n=300, d=24):
    rng = np.random.default_rng(3)
    return (rng.standard_normal((n, d)) * np.geomspace(2, 0.1, d) + 0.5).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", ["pca(dim=8)", "svd(dim=8)", "remove_top_pcs()", "random_rotation()"])
def test_what_is_handed_out_is_what_would_be_computed(spec, metric, tmp_path):
    sample = Sample(vectors(), metric)
    alone = parse(spec).fit(sample)
    assert factors.handed_seconds() == 0
    factors.stage(tmp_path / "staged", sample.items, metric, seed=0)
    factors.use(tmp_path / "staged")
    shared = parse(spec).fit(sample)
    assert factors.handed_seconds() > 0
    assert all(np.array_equal(alone[name], shared[name]) for name in alone)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in shared.values())


def test_another_sample_gets_its_own(tmp_path):
    """Content decides: vectors that a transform has changed are not those of the staged sample."""
    factors.stage(tmp_path / "staged", vectors(), "ip", seed=0)
    factors.use(tmp_path / "staged")
    moved = vectors() * np.float32(1.0001)
    assert np.allclose(factors.moment(moved), (moved.astype(float).T @ moved) / len(moved), rtol=1e-12)
    assert factors.handed_seconds() == 0
    assert not np.array_equal(factors.random_orthogonal(24, 1), factors.random_orthogonal(24, 0))


def test_moments_and_eigenvectors_are_those_of_the_definition():
    x, mean = vectors().astype(float), vectors().mean(axis=0, dtype=np.float64)
    weights = np.linspace(1, 2, len(x))
    weights /= weights.sum()
    about = x - mean
    assert np.allclose(factors.moment(vectors(), mean), about.T @ about / len(x))
    assert np.allclose(factors.moment(vectors(), mean, weights), about.T @ (about * weights[:, None]))
    values, rows = factors.leading(factors.moment(vectors()), 5)
    assert np.allclose(rows @ factors.moment(vectors()) @ rows.T, np.diag(values), atol=1e-10)
    assert (np.diff(values) <= 0).all() and (rows.max(axis=1) >= -rows.min(axis=1)).all()


def test_no_folder_and_a_wide_sample_leave_everything_as_it_was(tmp_path):
    factors.use(tmp_path / "missing")
    factors.stage(tmp_path / "wide", np.ones((3, factors.MOST + 1), np.float32), "ip", seed=0)
    factors.use(tmp_path / "wide")
    assert len(list((tmp_path / "wide").iterdir())) == 1
    assert factors._known == {}
