"""Draw vectors with planted structure, so that what a method should find in them is known."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0

from packbench.dataset import Dataset
from packbench.datasets.catalogue import Card
from packbench.errors import BadInput
from packbench.items import Array, blocks, is_large, left_on_disk
from packbench.method import Metric
from packbench.truth import cache_dir

Rng = np.random.Generator
Draw = Callable[[int], Array]
SPECTRUM = "synthetic/spectrum"
SPECTRUM_VERSION = 1  # a change of how vectors are drawn makes another file of them
BLOCK_ROWS = 32_768  # each drawn from a seed of its own, so that a set begins with the items of every smaller one


def low_rank(rng: Rng, d: int, *, rank: int, noise: float) -> Draw:
    """Plant a random subspace of `rank` equally strong directions, and noise of that deviation in every dimension."""
    if not 0 < rank <= d:
        raise BadInput(f"synthetic/low-rank: rank={rank} must lie between 1 and d={d}")
    basis = np.linalg.qr(rng.standard_normal((d, rank)))[0]
    return lambda count: rng.standard_normal((count, rank)) @ basis.T + noise * rng.standard_normal((count, d))


def clustered(rng: Rng, d: int, *, clusters: int, spread: float) -> Draw:
    """Plant cluster centres on the unit sphere, and points around them whose distance to them is about `spread`."""
    centres = rng.standard_normal((clusters, d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)

    def points(count: int) -> Array:
        around = rng.standard_normal((count, d)) * (spread / np.sqrt(d))
        return np.asarray(centres[rng.integers(clusters, size=count)] + around)

    return points


def outliers(rng: Rng, d: int, *, dimensions: int, scale: float) -> Draw:
    """Plant a few dimensions whose deviation is `scale` times that of the others."""
    if not 0 <= dimensions <= d:
        raise BadInput(f"synthetic/outliers: dimensions={dimensions} must lie between 0 and d={d}")
    deviation = np.ones(d)
    deviation[rng.permutation(d)[:dimensions]] = scale
    return lambda count: rng.standard_normal((count, d)) * deviation


def off_centre(rng: Rng, d: int, *, shift: float) -> Draw:
    """Plant a mean whose norm is `shift` times that of the deviation from it."""
    direction = rng.standard_normal(d)
    mean = direction * (shift * np.sqrt(d) / np.linalg.norm(direction))
    return lambda count: rng.standard_normal((count, d)) + mean


def spectrum(
    rng: Rng, d: int, *, exponent: float, mean: float, clusters: int, between: float
) -> Callable[[Rng, int], Array]:
    """Plant what sentence embeddings show: variances that fall as a power law along random axes, a mean, clusters.

    The i-th variance is proportional to i ** -exponent; `mean` is the norm of the mean vector, and `between` the share
    of the variance that lies between the `clusters` centres. Vectors have unit length.
    """
    if not (0 <= mean < 1 and 0 <= between <= 1 and clusters >= 1):
        raise BadInput(
            f"{SPECTRUM}: mean={mean} must lie in [0, 1), between={between} in [0, 1], clusters={clusters} above 0"
        )
    variances = np.arange(1, d + 1) ** -float(exponent)
    variances *= (1 - mean**2) / variances.sum()
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.sqrt(variances)
    direction = rng.standard_normal(d)
    middle = (direction * (mean / np.linalg.norm(direction))).astype(np.float32)
    centres = rng.standard_normal((clusters, d), np.float32) * np.float32(np.sqrt(between))
    mixing, within = axes.T.astype(np.float32), np.float32(np.sqrt(1 - between))

    def points(own: Rng, count: int) -> Array:
        along = own.standard_normal((count, d), np.float32)
        along *= within
        along += centres[own.integers(clusters, size=count)]
        vectors = along @ mixing + middle
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors)

    return points


STRUCTURES: dict[str, Callable[..., Draw]] = {
    "synthetic/low-rank": low_rank,
    "synthetic/clustered": clustered,
    "synthetic/outliers": outliers,
    "synthetic/off-centre": off_centre,
}


def load_synthetic(card: Card, metric: Metric | None = None, seed: int = 0, **parameters: Any) -> Dataset:
    """Draw items, a disjoint fit sample, test and validation queries from one planted structure.

    parameters override those of the card: n, d, n_fit, n_queries, n_validation, and the structure's own.
    """
    chosen = {**card["parameters"], **parameters}
    own = dict(chosen)
    d = own.pop("d")
    counts = {part: own.pop(part) for part in ("n", "n_fit", "n_queries", "n_validation")}
    for word, value in {"d": d, **counts}.items():
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"{card['name']}: {word}={value!r}; expected a whole number above 0")
    rng = np.random.default_rng(seed)
    if card["name"] == SPECTRUM:
        points = spectrum(rng, d, **own)
        label = json.dumps([SPECTRUM_VERSION, seed, d, own], sort_keys=True)
        items = _items(points, counts["n"], d, seed, hashlib.sha256(label.encode()).hexdigest()[:12])
        fit, queries, validation = (
            points(np.random.default_rng([seed, part]), counts[name])
            for part, name in enumerate(("n_fit", "n_queries", "n_validation"), 1)
        )
    else:
        draw = STRUCTURES[card["name"]](rng, d, **own)
        items, fit, queries, validation = (draw(count).astype(np.float32) for count in counts.values())
    return Dataset(
        name=card["name"], metric=metric or card["metric"], items=items, fit=fit, queries=queries,
        validation=validation, card={**card, "parameters": chosen, "seed": seed},
    )  # fmt: skip


def _items(points: Callable[[Rng, int], Array], n: int, d: int, seed: int, label: str) -> Array:
    """Draw n items of float16 precision: float32 in memory, or, where they are large, on disk in the cache."""
    drawn = (
        points(np.random.default_rng([seed, 0, number]), part.stop - part.start).astype("<f2")
        for number, part in enumerate(blocks(n, BLOCK_ROWS))
    )
    if not is_large((n, d)):
        return np.concatenate([block.astype(np.float32) for block in drawn])
    file = cache_dir() / "synthetic" / f"spectrum-{n}x{d}-{label}.npy"
    if not file.is_file():
        _write(file, (n, d), drawn)
    items = left_on_disk(np.load(file, mmap_mode="r"))
    assert items is not None
    return items


def _write(file: Path, shape: tuple[int, int], drawn: Iterator[Array]) -> None:
    """Write float16 blocks as one .npy file that is there whole or not at all."""
    partial = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for block in drawn:
                stream.write(block.data)
        partial.replace(file)
    except OSError as error:
        raise BadInput(
            f"{SPECTRUM}: {2 * shape[0] * shape[1] / 2**30:.1f} GiB of vectors cannot be written to {file.parent}: "
            f"{error}. Let PACKBENCH_CACHE name a folder with room, or ask for a smaller n"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
