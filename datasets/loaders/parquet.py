"""Read vectors from a list column of a Parquet file, as polars, pandas and Hugging Face write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packbench.datasets.parts import Parts
from packbench.errors import BadInput
from packbench.items import Array

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("embedding", "embeddings", "vector", "vectors", "emb", "values")


def read_parquet(path: Path, column: str | None = None) -> Parts:
    """Read the one list column of numbers, the one with a usual name, or the one that `column` names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        name = vector_column(file.schema_arrow, str(path), column)
        return Parts(matrix(file.read(columns=[name]).column(name), f"{path}, column {name}"))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}") from None


def vector_column(schema: pa.Schema, what: str, column: str | None) -> str:
    """Return the name of the column that holds vectors.

    Raises:
        BadInput: there is none, or several and no way to choose.
    """
    found: list[str] = [field.name for field in schema if _is_vector(field.type)]
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema) or "(none)"
    if column is not None:
        if column not in found:
            raise BadInput(f"{what}: {column!r} is no list column of numbers; its columns are {listed}")
        return column
    if len(found) == 1:
        return found[0]
    usual = [name for name in NAMES if name in found]
    if not found:
        raise BadInput(f"{what} has no vector column, that is a list of numbers; its columns are {listed}")
    if not usual:
        raise BadInput(f"{what} has several vector columns, {', '.join(found)}; say which with column=")
    return usual[0]


def matrix(column: pa.ChunkedArray, what: str) -> Array:
    """Return a list column as (n, d) in the type of its values.

    Raises:
        BadInput: a row is missing, holds a missing value, or is of another length than the first.
    """
    import pyarrow.compute as pc

    blocks: list[Array] = []
    first, d = 0, -1
    for chunk in column.chunks:
        if len(chunk) == 0:
            continue
        lengths = pc.fill_null(pc.list_value_length(chunk), -1).to_numpy(zero_copy_only=False)
        d = int(lengths[0]) if d < 0 else d
        wrong = np.flatnonzero((lengths != d) | (lengths < 0))
        if len(wrong):
            row = int(wrong[0])
            state = "is missing" if lengths[row] < 0 else f"has {lengths[row]} values, row 0 has {d}"
            raise BadInput(f"{what}: row {first + row} {state}; all rows must be vectors of one length")
        values = chunk.flatten()
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // d
            raise BadInput(f"{what}: row {first + row} holds a missing value")
        blocks.append(values.to_numpy(zero_copy_only=False).reshape(-1, d))
        first += len(chunk)
    if not blocks:
        raise BadInput(f"{what}: it is empty; at least one vector is needed")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _is_vector(kind: Any) -> bool:
    import pyarrow.types as types

    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(listed and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))
