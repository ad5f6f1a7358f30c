"""The curve of reference: its distortion and its rate are those that theory gives."""

import numpy as np
import pytest

from packbench.gaussian import Gaussian, water_level


def rate(variances, level):
    return 0.5 * np.log2(np.maximum(variances / level, 1)).sum()


@pytest.mark.parametrize("bits", [0.5, 3.0, 40.0, 400.0])
def test_the_water_level_spends_the_bits(bits):
    variances = np.geomspace(4, 1e-3, 30)
    assert rate(variances, water_level(variances, bits)) == pytest.approx(bits)


def test_directions_without_variance_get_nothing():
    assert water_level(np.array([0.0, 0.0]), 8) == 0
    assert water_level(np.array([1.0, 0.0]), 1) == pytest.approx(0.25)


def test_error_is_the_distortion_of_the_rate():
    """D(R) of a Gaussian: the water level on each axis above it, the variance on those below."""
    rng = np.random.default_rng(0)
    variances = np.geomspace(4, 0.01, 16)
    turn, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    vectors = ((rng.standard_normal((40_000, 16)) * np.sqrt(variances)) @ turn.T + 3).astype(np.float32)
    for bits in (2.0, 12.0, 60.0):
        level = water_level(variances, bits)
        coded = Gaussian.of(vectors).code(vectors, bits)
        error = np.square(coded - vectors).sum(axis=1).mean()
        assert error == pytest.approx(np.minimum(variances, level).sum(), rel=0.02)


def test_one_variance_gives_the_textbook_figure():
    """At b bits per coordinate the error is 4^-b of the variance."""
    vectors = np.random.default_rng(1).standard_normal((20_000, 32)).astype(np.float32)
    for bits in (1, 2, 3):
        error = np.square(Gaussian.of(vectors).code(vectors, 32 * bits) - vectors).mean()
        assert error == pytest.approx(4.0**-bits, rel=0.03)


def test_same_seed_same_vectors():
    vectors = np.random.default_rng(2).standard_normal((100, 8)).astype(np.float32)
    own = Gaussian.of(vectors)
    assert np.array_equal(own.code(vectors, 16), own.code(vectors, 16))
    assert not np.array_equal(own.code(vectors, 16), own.code(vectors, 16, seed=1))
