"""Load the embedded default: docstrings whose summaries look for their bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets.catalogue import Card
from packbench.datasets.parts import float32_rows
from packbench.errors import BadInput
from packbench.items import Array
from packbench.method import Metric

FOLDER = Path(__file__).parent / "pydocs"


def load_pydocs(card: Card, metric: Metric = "ip") -> Dataset:
    """Load the vectors and ids; the texts stay in the two Parquet files beside them."""
    from pyarrow.parquet import ParquetFile  # read_table would import pandas

    documents = ParquetFile(FOLDER / "documents.parquet").read(["id", "split"]).to_pydict()
    queries = ParquetFile(FOLDER / "queries.parquet").read(["id", "role", "document"]).to_pydict()
    document_rows = _vectors("documents_f16.npy", len(documents["id"]))
    query_rows = _vectors("queries_f16.npy", len(queries["id"]))
    splits, roles = np.array(documents["split"]), np.array(queries["role"])
    items, test = np.flatnonzero(splits == "item"), np.flatnonzero(roles == "test")
    return Dataset(
        name=card["name"], metric=metric, items=document_rows[items], fit=document_rows[splits == "fit"],
        queries=query_rows[test], validation=query_rows[roles == "validation"], fit_queries=query_rows[roles == "fit"],
        fit_on="disjoint", item_ids=[documents["id"][row] for row in items],
        query_ids=[queries["id"][row] for row in test],
        qrels={queries["id"][row]: {queries["document"][row]: 1} for row in test}, card=card,
    )  # fmt: skip


def _vectors(name: str, expected: int) -> Array:
    rows = float32_rows(np.load(FOLDER / name, allow_pickle=False), name)
    if len(rows) != expected:
        raise BadInput(f"pydocs: {name} has {len(rows)} rows, its table {expected}; reinstall packbench")
    return rows
