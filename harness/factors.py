"""Moments, eigenvectors and rotations that many methods of one data set have in common, computed once per run.

A run computes those of the plain fit sample and stages them. A worker that asks for one is handed it, and the seconds
that it took count as the worker's own; what was not foreseen is computed where it is asked for. A result is found by
the content of what it is computed from, so that it is the same either way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh

from packbench.exact import vectors_as_scored
from packbench.items import Array, blocks
from packbench.method import Arrays, Metric

MOST = 2048  # coordinates up to which all is computed beforehand, whether it will be asked for or not
_known: dict[str, tuple[Arrays, float]] = {}
_handed: list[float] = []


def generator(seed: int) -> np.random.Generator:
    """Return the random numbers of a seed, in a stream of their own.

    Synthetic items are the plain stream of a small seed too, and a rotation made of the very items would line them up
    with the axes.
    """
    return np.random.default_rng([seed, 0x70726F6A])


def random_orthogonal(d: int, seed: int) -> Array:
    """Draw a rotation or reflection (d, d) float32 uniformly: QR of a Gaussian matrix, signs fixed by diag(R)."""
    return np.array(_once(_rotation, np.array([d, seed]))["rotation"])


def moment(vectors: Array, mean: Array | None = None, weights: Array | None = None) -> Array:
    """Return the (d, d) float64 mean of (x - mean)(x - mean)^T; without a mean, about the origin.

    weights (n,) sum to one.
    """
    given = [np.empty(0) if array is None else array for array in (mean, weights)]
    return np.array(_once(_moment, vectors, *given)["moment"])


def leading(moments: Array, dim: int) -> tuple[Array, Array]:
    """Return the greatest eigenvalues, descending and not below zero, and their eigenvectors as rows.

    Each row has its largest entry positive.
    """
    found = _once(_eigenvectors, moments)
    return np.array(found["values"][:dim]), np.array(found["rows"][:dim], order="C")


def stage(folder: Path, fit: Array, metric: Metric, seed: int) -> None:
    """Write to a new folder what methods ask of a fit sample (n, d): moments, their eigenvectors, a rotation."""
    folder.mkdir()
    vectors = vectors_as_scored(fit, metric)
    n, d = vectors.shape
    seconds: dict[str, float] = {}

    def keep(compute: Compute, *inputs: Array) -> Arrays:
        begin, key = time.perf_counter(), _key(compute, inputs)
        arrays = compute(*inputs)
        seconds[key] = time.perf_counter() - begin
        for name, array in arrays.items():
            np.save(folder / f"{key}.{name}.npy", array)
        return arrays

    if n and d <= MOST:
        for mean in (np.empty(0), vectors.mean(axis=0, dtype=np.float64)):
            keep(_eigenvectors, keep(_moment, vectors, mean, np.empty(0))["moment"])
        keep(_rotation, np.array([d, seed]))
    (folder / "seconds.json").write_text(json.dumps(seconds))


def use(folder: Path) -> None:
    """Hand out what lies staged in a folder, if anything; it is mapped at once, for a worker opens no file later."""
    told = folder / "seconds.json"
    for key, seconds in json.loads(told.read_text() if told.is_file() else "{}").items():
        arrays = {file.name.split(".")[1]: np.load(file, mmap_mode="r") for file in folder.glob(f"{key}.*.npy")}
        _known[key] = (arrays, seconds)


def handed_seconds() -> float:
    """Return how long it had taken to compute what was handed out in this process."""
    return sum(_handed)


Compute = Callable[..., Arrays]


def _once(compute: Compute, *inputs: Array) -> Arrays:
    if _known:
        found = _known.get(_key(compute, inputs))
        if found is not None:
            _handed.append(found[1])
            return found[0]
    return compute(*inputs)


def _key(compute: Compute, inputs: tuple[Array, ...]) -> str:
    told: Any = hashlib.sha256(compute.__name__.encode())
    for array in inputs:
        told.update(f"{array.dtype.str}{array.shape}".encode())
        told.update(np.ascontiguousarray(array))
    return str(told.hexdigest()[:32])


def _rotation(size_and_seed: Array) -> Arrays:
    d, seed = size_and_seed.tolist()
    q, r = np.linalg.qr(generator(seed).standard_normal((d, d)))
    return {"rotation": np.ascontiguousarray(q * np.where(np.diag(r) < 0, -1, 1), dtype=np.float32)}


def _moment(vectors: Array, mean: Array, weights: Array) -> Arrays:
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for part in blocks(len(vectors), 8192):
        block = vectors[part].astype(np.float64)
        if len(mean):
            block -= mean
        total += block.T @ (block * weights[part, None] if len(weights) else block)
    return {"moment": total if len(weights) else total / len(vectors)}


def _eigenvectors(moments: Array) -> Arrays:
    values, columns = eigh(moments)
    rows = columns.T[::-1]
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    return {"values": np.maximum(values[::-1], 0), "rows": rows * np.where(largest < 0, -1, 1)[:, None]}
