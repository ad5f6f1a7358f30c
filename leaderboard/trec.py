"""Write what methods answered as TREC run files, for trec_eval, ir-measures and their like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packbench.dataset import Dataset
from packbench.errors import BadInput
from packbench.items import Array
from packbench.places import store_at
from packbench.quality import ranking
from packbench.store import Row, Store


def write_runs(results: str | Path, folder: str | Path, dataset: Dataset | None = None) -> list[Path]:
    """Write a run for each measurement of a directory of results, "qid Q0 docid rank score tag", and return the files.

    Only ids are kept, so the score is no method's: it counts down to 1 with the rank, and the tag says so. Queries and
    items are row numbers from 0; with the data set, its own ids, and only its runs are written.

    Raises:
        BadInput: there are no answers in the directory, or none on this version of the data set; the data set has no
            ids; the folder cannot be written.
    """
    store = store_at(results)
    measured = {row["measurement"]: row for row in store.by_id().values() if row.get("status") == "ok"}
    if not measured:
        raise BadInput(f"results {results}: no results there; `packbench run --results {results}` makes some")
    queries: Sequence[str] | None = None
    items: Sequence[str] | None = None
    if dataset is not None:
        sha256 = dataset.sha256()
        measured = {key: row for key, row in measured.items() if row["dataset_sha256"] == sha256}
        if not measured:
            raise BadInput(
                f"results {results}: none on this version of {dataset.name} (sha256 {sha256[:12]}); give the data set "
                "that was measured, or none for row numbers"
            )
        queries, items = dataset.query_ids, dataset.item_ids
        if queries is None or items is None:
            raise BadInput(f"data set {dataset.name}: has no ids of its own; leave it out for row numbers")
        spaced = next((name for name in (*queries, *items) if name.split() != [name]), None)
        if spaced is not None:
            raise BadInput(f"data set {dataset.name}: the id {spaced!r} is empty or has blanks, which part the fields "
                           "of a run file; leave the data set out for row numbers")  # fmt: skip
    for row in measured.values():
        _answers(store, row)  # all can be read before any is written
    files: list[Path] = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for key, row in measured.items():
            named = re.sub(r"[^\w.=,()-]+", "-", f"{row['dataset']}.{row['spec']}"[:120] + f".{key}.run")
            files.append(Path(folder) / named)
            files[-1].write_text("".join(_lines(row, _answers(store, row), queries, items)), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from None
    return files


def _answers(store: Store, row: Row) -> tuple[Array, Array]:
    try:
        hits = store.hits(row["measurement"])
        return hits["ids_10"], hits["ids_100"]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(
            f"{store.folder / 'hits'}: the answers of {row['spec']} (measurement {row['measurement']}) cannot be read "
            f"({type(error).__name__}); keep hits/ beside the results, or measure again"
        ) from None


def _lines(
    row: Row, answers: tuple[Array, Array], queries: Sequence[str] | None, items: Sequence[str] | None
) -> Iterator[str]:
    tag = re.sub(r"\s+", "", f"packbench:{row['spec']}:score-from-rank")
    for query, ids in enumerate(ranking(*answers).tolist()):
        found = [item for item in ids if item >= 0]
        for rank, item in enumerate(found, 1):
            qid, docid = (queries[query] if queries else query), (items[item] if items else item)
            yield f"{qid} Q0 {docid} {rank} {len(found) + 1 - rank} {tag}\n"
