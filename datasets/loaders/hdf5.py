"""Read HDF5 as ann-benchmarks writes it: train, test and the attribute `distance`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from packbench.datasets.parts import Parts
from packbench.errors import BadInput
from packbench.items import Array

METRICS = {
    "angular": "cosine", "cosine": "cosine", "normalized": "ip", "euclidean": "l2", "l2": "l2",
    "dot": "ip", "ip": "ip", "innerproduct": "ip", "inner_product": "ip",
}  # fmt: skip


def read_hdf5(path: Path, column: str | None = None) -> Parts:
    """Read `train` (or the data set that `column` names), `test`, and the metric from the attribute `distance`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            wanted = column or "train"
            known = [name for name, entry in file.items() if isinstance(entry, h5py.Dataset)]
            if wanted not in known:
                raise BadInput(f"{path} holds {', '.join(known) or 'no data sets'}; expected {wanted!r}")
            queries = _matrix(path, file["test"]) if wanted == "train" and "test" in known else None
            return Parts(_matrix(path, file[wanted]), queries, metric=_metric(path, file.attrs))
    except OSError as error:
        raise BadInput(f"{path} cannot be read as HDF5: {error}. It may be cut short: fetch or copy it again") from None


def _matrix(path: Path, entry: Any) -> Array:
    offset = entry.id.get_offset()  # None where the values are chunked or compressed, so cannot be mapped
    if offset is None or entry.size == 0:
        return np.asarray(entry[()])
    return np.asarray(np.memmap(path, entry.dtype, mode="r", offset=offset, shape=entry.shape))


def _metric(path: Path, attributes: Any) -> str | None:
    if "distance" not in attributes:
        return None
    stated = attributes["distance"]
    word = (stated.decode() if isinstance(stated, bytes) else str(stated)).lower()
    if word not in METRICS:
        raise BadInput(f"{path}: its distance is {word!r}; packbench reads {', '.join(METRICS)}")
    return METRICS[word]
