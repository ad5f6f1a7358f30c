import json

import numpy as np
import pytest

from packbench.dataset import Dataset, from_vectors
from packbench.describe import describe, duplicates, hubness, intrinsic_dimension, kurtosis, spectrum
from packbench.items import Ragged

RNG = np.random.default_rng(11)


def data(items, **more):
    items = np.asarray(items, np.float32)
    queries = more.pop("queries", items[:20] + np.float32(0.01))
    return Dataset(name="x", metric=more.pop("metric", "l2"), items=items, fit=items, queries=queries,
                   validation=items[-5:], **more)  # fmt: skip


@pytest.mark.parametrize("rank", [1, 7, 30])
def test_planted_rank_is_the_effective_rank(rank):
    basis = np.linalg.qr(RNG.standard_normal((64, rank)))[0]
    found = spectrum(RNG.standard_normal((4000, rank)) @ basis.T + 100)
    assert found["effective_rank"] == pytest.approx(rank, rel=0.02)
    assert found["stable_rank"] == pytest.approx(rank, rel=0.15)


def test_unequal_variances_give_exp_of_their_entropy():
    corners = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    found = spectrum(corners)
    shares = np.array([0.9, 0.1])
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found["stable_rank"] == pytest.approx(1 / 0.9)
    assert spectrum(np.ones((5, 3))) == {"effective_rank": 0.0, "stable_rank": 0.0}


def test_kurtosis_of_known_distributions():
    gaussian = RNG.standard_normal((5000, 8))
    assert kurtosis(gaussian)["mean"] == pytest.approx(0, abs=0.1)
    heavy = kurtosis(np.column_stack([gaussian, RNG.laplace(size=(5000, 1)), np.ones((5000, 2))]))
    assert heavy["max"] == pytest.approx(3, abs=1.2)
    assert heavy["constant_dimensions"] == 2
    assert kurtosis(np.array([[-1.0], [1.0]]))["mean"] == pytest.approx(-2)


def test_planted_duplicates_are_counted():
    items = RNG.standard_normal((20_000, 3)).astype(np.float32)
    items[19_000:19_030] = items[:30]
    items[500] = items[19_999]
    items[700:702] = [[0.0, 1, 2], [-0.0, 1, 2]]
    assert duplicates(items) == 30 + 1 + 1


@pytest.mark.parametrize("dimension", [2, 5])
def test_intrinsic_dimension_of_a_manifold(dimension):
    basis = np.linalg.qr(RNG.standard_normal((50, dimension + 1)))[0]
    sphere = RNG.standard_normal((3000, dimension + 1))
    points = sphere / np.linalg.norm(sphere, axis=1, keepdims=True) @ basis.T
    found = intrinsic_dimension(np.concatenate([points, points[:100]]))
    assert found["two_nn"] == pytest.approx(dimension, rel=0.1)
    assert found["mle"] == pytest.approx(dimension, rel=0.04)
    assert intrinsic_dimension(points[:10]) == {"two_nn": None, "mle": None}


def test_hubness_finds_a_planted_hub():
    # The centre is among the 10 nearest of every point of a sphere in high dimension; the points are of few.
    points = RNG.standard_normal((500, 200)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    plain, hub = hubness(points, "l2"), hubness(np.concatenate([points, 0 * points[:1]]), "l2")
    assert hub["skewness"] > 5 > plain["skewness"]
    ring = np.exp(2j * np.pi * np.arange(100) / 100)
    even = hubness(np.column_stack([ring.real, ring.imag]).astype(np.float32), "l2")
    assert even["anti_hub_share"] == 0
    assert abs(even["skewness"]) < 3
    far = np.array([[100.0, 100]])  # nobody's neighbour but its own
    alone = np.concatenate([np.column_stack([ring.real, ring.imag])[::8], far]).astype(np.float32)
    assert hubness(alone, "l2")["anti_hub_share"] == pytest.approx(1 / len(alone))


def test_near_ties_are_those_at_the_tenth_neighbour():
    line = np.arange(40.0)[:, None] * [1.0, 0]
    apart = data(line**2, queries=np.array([[-1, 0], [0.1, 0]], np.float32))
    assert describe(apart)["near_ties"] == 0
    tied = line.copy()
    tied[9], tied[10] = [9, 3], [9, -3]
    half = data(tied, queries=np.array([[-1, 0], [100, 0]], np.float32))
    assert describe(half)["near_ties"] == 0.5


def test_a_query_is_no_neighbour_of_itself():
    items = np.repeat(np.arange(11.0), 2)[:, None] * [1.0, 0]
    items[0] = [-50, 0]  # without itself, the 10th and 11th of the query at 0 are the pairs of 5 and 6 cut in two
    queries = np.array([[0, 0]], np.float32)
    found = describe(data(items, queries=queries, self_rows=np.array([1])))
    assert found["near_ties"] == 0
    assert found["own_rows"] == 1
    assert describe(data(items, queries=queries))["near_ties"] == 1


def test_counts_norms_rules_and_judgements():
    items = RNG.standard_normal((100, 4)).astype(np.float32) + np.float32(3)
    made = data(
        items, queries=items[:3] * 2, item_ids=[str(row) for row in range(100)], query_ids=["a", "b", "c"],
        qrels={"a": {"1": 2, "2": 0}, "b": {"3": 1, "4": 1, "5": 1}},
        card={"licence": "CC0", "encoder": "e", "self_match": "none"},
    )  # fmt: skip
    found = describe(made)
    assert found["counts"] == {"items": 100, "fit": 100, "queries": 3, "validation": 5}
    assert (found["n"], found["d"], found["metric"], found["fit_on"]) == (100, 4, "l2", "disjoint")
    norms = np.linalg.norm(items.astype(float), axis=1)
    assert found["norms"] == pytest.approx({"min": norms.min(), "mean": norms.mean(), "max": norms.max()})
    assert found["mean_vector_norm"] == pytest.approx(np.linalg.norm(items.astype(float).mean(0)))
    assert (found["licence"], found["encoder"], found["self_match"]) == ("CC0", "e", "none")
    assert found["relevance"] == {
        "judged_queries": 2, "judgements": 5, "grades": [0, 1, 2],
        "relevant_per_query": {"min": 1, "mean": 2.0, "max": 3},
    }  # fmt: skip


def test_a_description_is_plain_json_and_seeded():
    made = from_vectors(RNG.standard_normal((6000, 8)).astype(np.float32))
    found = describe(made, seed=1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found == describe(made, seed=1)
    assert found["sampled"] == 5000
    assert found["relevance"] is None
    assert describe(made, seed=2)["kurtosis"] != found["kurtosis"]


def test_token_vectors_and_text_are_described_as_far_as_it_makes_sense():
    tokens = Ragged(RNG.standard_normal((90, 4)).astype(np.float32), np.arange(0, 91, 3))
    made = Dataset(name="t", metric="maxsim", items=tokens, fit=tokens, queries=tokens[:4], validation=tokens[4:6])
    found = describe(made)
    assert (found["n"], found["d"], found["sampled"]) == (30, 4, 90)
    assert "hubness" not in found
    text = Ragged(np.frombuffer(b"words and more", np.uint8), np.array([0, 5, 14]))
    made = Dataset(name="w", metric="ip", items=text, fit=text, queries=text, validation=text)
    assert "norms" not in describe(made)
