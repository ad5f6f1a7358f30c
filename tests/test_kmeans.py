"""k-means over all blocks at once: distortion beside that of faiss, special rules, threads, rounds that never lose."""

from typing import Any

import faiss
import numpy as np
import pytest

from packbench.errors import BadInput
from packbench.method import Sample
from packbench.methods.codebook import adc
from packbench.methods.codebook.kmeans import few_values, named, step, train
from packbench.methods.codebook.opq import OPQ
from packbench.methods.codebook.pq import PQ
from packbench.methods.codebook.prq import PRQ
from packbench.methods.codebook.rq import RQ

DISTINCT = 40


def rows_of(kind, n, d, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d))
    if kind == "correlated":
        rows = rows * np.geomspace(1, 0.05, d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    elif kind == "clustered":
        rows = rng.standard_normal((150, d))[rng.integers(0, 150, n)] * 3 + 0.3 * rows
    elif kind == "half repeated":
        rows[::2] = rows[0]
    elif kind == "constant":
        rows[:, 1::2] = 3
    elif kind == "far away":
        rows += 300
    elif kind == "sorted":
        rows = rows[np.argsort(rows[:, 0])]
    return rows.astype(np.float32)


def distortion(rows, codebook):
    return float(np.square(rows - adc.decode(adc.assign(rows, codebook), codebook)).mean(dtype=np.float64))


def learnt_by_faiss(rows, m, bits, seed=0):
    quantiser: Any = faiss.ProductQuantizer(rows.shape[1], m, bits)
    quantiser.cp.niter, quantiser.cp.min_points_per_centroid, quantiser.cp.seed = 25, 1, 1234 + seed
    with adc.blas_distances():
        quantiser.train(np.ascontiguousarray(rows))
    return faiss.vector_to_array(quantiser.centroids).reshape(m, 1 << bits, -1).copy()


def against_faiss(rows, m, bits):
    """Our distortion over that of faiss, both the mean of three seeds."""
    ours = np.mean([distortion(rows, train(rows, m, bits, seed)) for seed in range(3)])
    return ours / np.mean([distortion(rows, learnt_by_faiss(rows, m, bits, seed)) for seed in range(3)])


# Distortion


@pytest.mark.parametrize(
    "kind", ["isotropic", "correlated", "clustered", "half repeated", "constant", "far away", "sorted"]
)
@pytest.mark.parametrize(("n", "bits"), [(700, 7), (5000, 7), (6000, 4)])
def test_distortion_is_no_worse_than_that_of_faiss(kind, n, bits):
    assert against_faiss(rows_of(kind, n, 32), 4, bits) < 1.01


@pytest.mark.parametrize("dsub", [1, 2, 3, 5, 12, 32, 96])
def test_blocks_of_any_width(dsub):
    assert against_faiss(rows_of("isotropic", 3000, 3 * dsub), 3, 6) < 1.01


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 9, 10])
def test_any_number_of_centroids(bits):
    assert against_faiss(rows_of("isotropic", 5000, 18), 3, bits) < 1.01


@pytest.mark.parametrize("n", [66, 70, 90, 130, 200])
def test_hardly_more_rows_than_centroids(n):
    assert against_faiss(rows_of("isotropic", n, 18), 3, 6) < 1.05


def test_clusters_are_found_that_a_random_start_misses():
    rows = rows_of("clustered", 5000, 16)
    assert against_faiss(rows, 2, 8) < 0.9


# Rules


@pytest.mark.parametrize("n", [1, 5, 63, 64])
def test_no_more_rows_than_centroids_are_the_codebook(n):
    rows = rows_of("isotropic", n, 12)
    codebook = train(rows, 3, 6, 0)
    for block in range(3):
        values = np.unique(rows[:, 4 * block : 4 * block + 4], axis=0)
        assert np.array_equal(codebook[block, :n], values)
        assert not codebook[block, n:].any()


def test_few_distinct_values_are_coded_without_error():
    rng = np.random.default_rng(0)
    rows = rows_of("isotropic", 3000, 12)
    rows[:, 4:8] = rows[:DISTINCT, 4:8][rng.integers(0, DISTINCT, 3000)]
    rows[:, 8:] = 0
    codebook = train(rows, 3, 6, 0)
    lost = np.square(rows - adc.decode(adc.assign(rows, codebook), codebook)).sum(axis=0)
    assert (lost[:4] > 0).all() and not lost[4:].any()
    assert not codebook[1, DISTINCT:].any() and not codebook[2].any()


def test_values_are_few_only_where_all_rows_say_so():
    rows = np.repeat(np.eye(8, dtype=np.float32), 50, axis=0)
    assert np.array_equal(few_values(rows, 8), np.unique(rows, axis=0))
    assert few_values(rows, 7) is None
    assert few_values(np.concatenate([rows, 2 * rows[:1]]), 8) is None


def test_zeros_that_pad_a_block_stay_zeros_and_change_nothing():
    rows = rows_of("correlated", 2000, 10)
    padded = train(adc.spread(rows, 2, 7), 2, 5, 0)
    assert not padded[:, :, 5:].any()
    assert np.array_equal(padded[:, :, :5], train(rows, 2, 5, 0))


def test_seeds_differ_and_repeat():
    rows = rows_of("isotropic", 1000, 8)
    assert np.array_equal(train(rows, 2, 4, 5), train(rows, 2, 4, 5))
    assert not np.array_equal(train(rows, 2, 4, 5), train(rows, 2, 4, 6))
    assert np.array_equal(train(rows, 2, 4, -1), train(rows, 2, 4, -1))


def test_threads_change_nothing():
    rows, before, found = rows_of("correlated", 1500, 30), faiss.omp_get_max_threads(), []
    try:
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            codebook = train(rows, 5, 6, 0)
            found.append([codebook, *step(rows, codebook)])
    finally:
        faiss.omp_set_num_threads(before)
    assert all(np.array_equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("method", [PQ(4), OPQ(4), RQ(4), PRQ(4)])
def test_bad_rows_are_refused_before_they_are_learnt_from(method):
    rows = rows_of("isotropic", 50, 8)
    rows[7, 3] = np.nan
    with pytest.raises(BadInput, match="row 7"):
        method.fit(Sample(rows))
    with pytest.raises(BadInput, match="empty"):
        method.fit(Sample(rows[:0]))


# Steps


@pytest.mark.parametrize(("m", "bits", "width"), [(1, 3, 6), (3, 6, 2), (2, 10, 8), (1, 5, 11), (2, 9, 13), (1, 4, 40)])
@pytest.mark.parametrize("kind", ["correlated", "far away"])
def test_a_step_names_nearest_centroids_and_moves_them_to_the_means(m, bits, width, kind):
    rows = rows_of(kind, 1003, width * m)
    codebook = rows[: 1 << bits].reshape(-1, m, width).transpose(1, 0, 2).copy()
    codebook = np.resize(codebook, (m, 1 << bits, width)) + np.float32(0.01)
    indices, moved = step(rows, codebook)
    for block in range(m):
        part = rows[:, width * block : width * (block + 1)].astype(np.float64)
        centroids = codebook[block].astype(np.float64)
        squares = np.square(part[:, None] - centroids).sum(axis=2)
        assert (squares[np.arange(1003), indices[:, block]] <= squares.min(axis=1) * (1 + 1e-3) + 1e-3).all()
        assert np.mean(squares.argmin(axis=1) == indices[:, block]) > 0.98
        for word, centroid in enumerate(centroids):
            members = part[indices[:, block] == word]
            assert np.allclose(moved[block, word], members.mean(axis=0) if len(members) else centroid, atol=1e-3)


def test_rounds_never_raise_the_distortion():
    rows = rows_of("correlated", 2000, 12)
    codebook, found = np.stack(np.split(rows[:64], 3, axis=1)), []
    for _ in range(12):
        indices, moved = step(rows, codebook)
        assert np.array_equal(named(indices, codebook)[:, :4], codebook[0, indices[:, 0]])
        found.append(float(np.square(rows - named(indices, codebook)).sum()))
        codebook = moved
    assert (np.diff(found) <= 1e-5 * found[0]).all()
    assert found[-1] < 0.9 * found[0]
    learnt = train(rows, 3, 6, 0)
    assert distortion(rows, step(rows, learnt)[1]) <= distortion(rows, learnt) * (1 + 1e-5)


# What is made of it


def test_fewer_levels_are_the_first_ones_of_more():
    rows = rows_of("correlated", 900, 40)
    few, more = (RQ(m, 5, seed=3).fit(Sample(rows))["codebook"] for m in (3, 6))
    assert np.array_equal(few, more[:3])
    few, more = (PRQ(4, m, 5, seed=3).fit(Sample(rows))["codebook"] for m in (1, 3))
    assert np.array_equal(few, more[::3])


def test_nothing_is_learnt_from_what_is_coded_already():
    codebook = RQ(6, 4).fit(Sample(rows_of("isotropic", 10, 20)))["codebook"]
    assert codebook[0].any() and not codebook[3:].any()
