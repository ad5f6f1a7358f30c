"""Draw vectors with planted structure, so that what a method should find in them is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets.catalogue import Card
from packbench.errors import BadInput
from packbench.items import Array
from packbench.method import Metric

Rng = np.random.Generator
Draw = Callable[[int], Array]


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
    draw = STRUCTURES[card["name"]](rng, d, **own)
    items, fit, queries, validation = (draw(count).astype(np.float32) for count in counts.values())
    return Dataset(
        name=card["name"], metric=metric or card["metric"], items=items, fit=fit, queries=queries,
        validation=validation, card={**card, "parameters": chosen, "seed": seed},
    )  # fmt: skip
