import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest

from packbench.datasets import load, read_vectors
from packbench.datasets.beir import read_texts
from packbench.datasets.encode import Encoder
from packbench.describe import describe
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.quality import Relevance
from packbench.truth import truth_of

DATA = Path(os.environ.get("PACKBENCH_DATA", "/nonexistent"))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("PACKBENCH_DATA" not in os.environ, reason="PACKBENCH_DATA names no folder of real data"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path / "cache"))


def test_siftsmall_reproduces_its_official_neighbours(tmp_path):
    data = load("texmex/siftsmall")
    queries = read_vectors(DATA / "siftsmall", part="queries")
    official = read_vectors(DATA / "siftsmall" / "siftsmall_groundtruth.ivecs")
    assert (data.n, data.d, data.metric) == (10_000, 128, "l2")
    np.testing.assert_array_equal(data.queries, queries)
    truth = truth_of(data.queries, data.items, data.metric, cache=tmp_path)
    # Where distances tie exactly, the order within the 100 is free; the set is not.
    assert [set(ids[:100]) for ids in truth.ids.tolist()] == [set(ids) for ids in official.tolist()]
    given = ((data.items[official[:5]] - queries[:5, None]).astype(np.float64) ** 2).sum(2)
    np.testing.assert_allclose(-truth.scores[:5, :100], given)


@pytest.mark.parametrize(("name", "queries", "ndcg"), [("scifact", 300, 0.6451), ("nfcorpus", 323, 0.3162)])
def test_beir_gives_the_published_ndcg(name, queries, ndcg):
    data = load(f"beir/{name}/all-minilm-l6-v2")
    assert len(data.queries) == queries
    ids = search_exact(data.queries, data.items, data.metric, 100).ids
    assert np.mean(Relevance(data).per_query(ids)["nDCG@10"]) == pytest.approx(ndcg, abs=0.001)


def test_wide_vectors_query_each_other():
    path = DATA / "bge_large_en_v1.5_bright_queries" / "vectors_f32.npy"
    data = load(path, queries=path)
    assert (data.n, data.d, len(data.queries) + len(data.validation)) == (1384, 1024, 1384)
    ids = truth_of(data.queries, data.items, data.metric, data.self_rows).ids
    assert not (ids == data.self_rows[:, None]).any()
    found = describe(data)
    assert (found["duplicates"], found["self_match"], found["own_rows"]) == (0, "remove", len(data.queries))
    assert found["norms"]["mean"] == pytest.approx(1, abs=1e-3)


def test_fresh_embeddings_match_those_stored():
    try:
        importlib.metadata.version("sentence-transformers")
        encoder = Encoder("all-MiniLM-L6-v2")
    except (importlib.metadata.PackageNotFoundError, BadInput) as error:
        pytest.skip(f"no encoder on this machine: {error}")
    folder = DATA / "beir_scifact"
    texts = dict(list(read_texts(folder, "corpus", titled=True).items())[:64])
    fresh = encoder.embed("document", texts)
    stored = load("beir/scifact/all-minilm-l6-v2")
    kept = stored.items[[list(stored.item_ids).index(document) for document in texts]]
    assert (np.einsum("ij,ij->i", fresh, kept) > 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(fresh, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(Encoder("all-MiniLM-L6-v2").embed("document", texts), fresh)
