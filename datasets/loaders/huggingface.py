"""Read a vector column through Hugging Face `datasets`, where that library is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path

from packbench.datasets.parquet import matrix, vector_column
from packbench.datasets.parts import Parts
from packbench.errors import BadInput


def read_hub(source: str, column: str | None = None) -> Parts:
    """Read NAME[:SPLIT] or a folder written by save_to_disk; a split named `queries` or `test` brings the queries."""
    try:
        # The metadata is asked: a folder named datasets on the path would satisfy an import.
        importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"hf:{source} needs Hugging Face datasets, which is not installed: pip install datasets"
        ) from None
    library = importlib.import_module("datasets")
    name, _, split = source.partition(":")
    try:
        data = library.load_from_disk(name) if Path(name).is_dir() else library.load_dataset(name)
    except Exception as error:
        raise BadInput(f"hf:{source} cannot be loaded: {type(error).__name__}: {error}") from error
    splits = dict(data) if isinstance(data, dict) else {"train": data}
    split = split or next((word for word in ("items", "corpus", "train") if word in splits), next(iter(splits)))
    if split not in splits:
        raise BadInput(f"hf:{source}: there is no split {split!r}; there are {', '.join(splits)}")
    asked = next((word for word in ("queries", "test") if word in splits and word != split), None)

    def vectors(of: str) -> Parts:
        # with_format gives the table as Arrow holds it, indices resolved, instead of Python lists.
        table = splits[of].with_format("arrow")[:]
        chosen = vector_column(table.schema, f"hf:{name}, split {of}", column)
        return Parts(matrix(table.column(chosen), f"hf:{name}, split {of}, column {chosen}"))

    return Parts(vectors(split).items, vectors(asked).items if asked else None)
