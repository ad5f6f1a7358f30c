"""Read a folder of BEIR (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) and make it a data set with an encoder.

Paper: Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models", 2021.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets.catalogue import Card
from packbench.datasets.encode import Encoder, short_name
from packbench.datasets.stored import StoredEmbeddings, find_stored
from packbench.datasets.vectors import VALIDATION_DOCUMENTS, VALIDATION_QUERIES, draw, fit_sample, split
from packbench.errors import BadInput
from packbench.items import Array
from packbench.method import Metric

FIT_QUERIES = 10_000
Judged = dict[str, dict[str, int]]


def load_beir(
    folder: Path,
    *,
    card: Card | None = None,
    metric: Metric | None = None,
    fit: Array | None = None,
    encoder: str | Path | None = None,
    validation: str = "auto",
    self_match: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a BEIR folder; its test split tests (dev where there is no test split, as MS MARCO has it).

    With validation="auto", up to 500 queries of dev, or else of train, choose; where neither exists, 300 documents
    do. Training queries that do not choose, at most 10,000, serve for fitting. Vectors kept beside the texts (see
    packbench.datasets.stored) are taken instead of encoding.
    """
    card = card or {}
    corpus, queries = read_texts(folder, "corpus", titled=True), read_texts(folder, "queries")
    qrels = {
        name: read_qrels(folder, name, corpus) for name in ("test", "dev", "train") if _qrels(folder, name).is_file()
    }
    tested = next((name for name in ("test", "dev") if name in qrels), None)
    if tested is None:
        raise BadInput(f"{folder}: expected relevance judgements at qrels/test.tsv")
    unknown = [query for query in qrels[tested] if query not in queries]
    if unknown:
        raise BadInput(
            f"{_qrels(folder, tested)} judges {len(unknown)} queries that queries.jsonl lacks, {unknown[0]!r} first; "
            "the files do not belong together"
        )
    embeddings = _embeddings(folder, encoder, card)
    test = [query for query in queries if query in qrels[tested]]
    pools: dict[str, list[str]] = {
        name: [q for q in queries if q in qrels[name] and q not in qrels[tested] and embeddings.has(q)]
        for name in ("dev", "train") if name in qrels and name != tested
    }  # fmt: skip
    ids = list(corpus)
    items = embeddings.embed("document", corpus)

    def embed(wanted: Sequence[str]) -> Array:
        return embeddings.embed("query", {query: queries[query] for query in wanted})

    position = {document: row for row, document in enumerate(ids)}

    def own(wanted: Sequence[str]) -> Array | None:
        rows = np.array([position.get(query, -1) for query in wanted], np.int64)
        return rows if self_match != "keep" and (rows >= 0).any() else None

    other = next((name for name in ("dev", "train") if pools.get(name)), None)
    if validation == "test":
        keep, chosen_rows = split(len(test), seed)
        choosing, chosen_from = [test[row] for row in chosen_rows], f"a third of the {tested} queries"
        test = [test[row] for row in keep]
    elif validation == "auto" and other is not None:
        choosing = [pools[other][row] for row in draw(len(pools[other]), VALIDATION_QUERIES, seed)]
        chosen_from = f"{len(choosing)} {other} queries"
    else:
        choosing, chosen_from = [], f"{min(VALIDATION_DOCUMENTS, len(ids))} documents as queries, each without itself"
    if choosing:
        choosing_rows, choosing_own = embed(choosing), own(choosing)
    else:
        choosing_own = draw(len(ids), VALIDATION_DOCUMENTS, seed)
        choosing_rows = items[choosing_own]
    chosen = set(choosing)
    learning = [query for query in pools.get("train", []) if query not in chosen]
    learning = [learning[row] for row in draw(len(learning), FIT_QUERIES, seed)]
    self_rows = own(test)
    model = short_name(embeddings.card["encoder"])
    notes = {
        **card, **embeddings.card, "format": "beir", "split": tested, "validation": chosen_from,
        "self_match": "keep" if self_match == "keep" else "none" if self_rows is None else "remove",
    }  # fmt: skip
    return Dataset(
        name=_name(card, folder, model), metric=metric or card.get("metric", "ip"), items=items,
        fit=fit_sample(items, seed) if fit is None else fit, fit_on="items" if fit is None else "disjoint",
        queries=embed(test), validation=choosing_rows, fit_queries=embed(learning) if learning else None,
        item_ids=ids, query_ids=test, qrels={query: qrels[tested][query] for query in test},
        self_rows=self_rows, validation_self_rows=choosing_own, card=notes,
    )  # fmt: skip


def read_texts(folder: Path, what: str, titled: bool = False) -> dict[str, str]:
    """Read corpus.jsonl or queries.jsonl, or either with .gz: text by id, a document's title in front of it."""
    path = next((p for p in (folder / f"{what}.jsonl", folder / f"{what}.jsonl.gz") if p.is_file()), None)
    if path is None:
        raise BadInput(f"{folder}: expected {what}.jsonl (or {what}.jsonl.gz), as BEIR names it")
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number} is no JSON: {error}") from None
        if not isinstance(entry, dict) or "_id" not in entry or not isinstance(entry.get("text"), str):
            raise BadInput(f'{path} line {number}: expected an object with "_id" and "text"')
        name = str(entry["_id"])
        if name in texts:
            raise BadInput(f"{path} line {number}: the id {name!r} occurs twice; ids must be unique")
        texts[name] = f"{(entry.get('title') or '') if titled else ''} {entry['text']}".strip()
    if not texts:
        raise BadInput(f"{path} is empty")
    return texts


def read_qrels(folder: Path, name: str, corpus: dict[str, str]) -> Judged:
    """Read qrels/NAME.tsv: query, document and grade in each line, a heading above them."""
    path = _qrels(folder, name)
    judged: Judged = {}
    for number, line in _lines(path):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[-1].strip() == "score":
            continue
        try:
            query, document, grade = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError):
            raise BadInput(f"{path} line {number}: expected query, document and a whole grade, tabs between") from None
        if document not in corpus:
            raise BadInput(
                f"{path} line {number} judges the document {document!r}, which the corpus lacks; the files do not "
                "belong together"
            )
        judged.setdefault(query, {})[document] = grade
    if not judged:
        raise BadInput(f"{path} is empty")
    return judged


def _qrels(folder: Path, name: str) -> Path:
    return folder / "qrels" / f"{name}.tsv"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None


def _embeddings(folder: Path, encoder: str | Path | None, card: dict[str, Any]) -> StoredEmbeddings | Encoder:
    wanted = encoder or card.get("encoder")
    kept = find_stored(folder, wanted)
    if kept is not None:
        return StoredEmbeddings(kept, card if encoder is None else {})
    if wanted is None:
        raise BadInput(f"{folder} holds texts; name the model that embeds them, such as --encoder all-MiniLM-L6-v2")
    return Encoder(wanted)


def _name(card: Card, folder: Path, model: str) -> str:
    if not card:
        return f"beir/{folder.resolve().name}/{model}"
    return f"{card['name'].rpartition('/')[0]}/{model}"
