"""Cut each item's coordinates where the item itself says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer, code_bytes, open_bits, pack_signs
from packbench.methods.binary.linear import mean_of, unit_if
from packbench.methods.binary.sign import is_centred
from packbench.registry import register

MOMENTS = ("none", "mean", "third")
ROUNDS = 10


@register
@dataclass(frozen=True, slots=True)
class InstanceThreshold(Method):
    """Keep whether each centred coordinate exceeds a threshold computed from the mean and third moment of its item.

    The threshold is a mean(x) + c cbrt(mean((x - mean(x))³)) of the item's centred coordinates, less the average of
    that over the fit sample; a and c fit, by least squares, the cuts at which two levels of each item's own would
    reconstruct it best. It is computed again for each item and query, and not stored. Lengths are lost, as with `sign`.
    moments "mean" leaves the third moment out and "none" both, which is `sign` cut at the mean. An analogue of Lee,
    Kim, Kim, INSTA-BNN: Binary Neural Network with INSTAnce-aware Threshold, 2022, without a network to train around
    it.
    """

    name: ClassVar[str] = "instance_threshold"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Lee, Kim, Kim, INSTA-BNN: Binary Neural Network with INSTAnce-aware Threshold, 2022"
    formula: ClassVar[str] = "ceil(d/8) per item; shared 4d + 13"

    moments: str = "third"
    scorer: str = "asymmetric"

    def __post_init__(self) -> None:
        if self.moments not in MOMENTS:
            raise ValueError(f"moments={self.moments!r}: expected one of {', '.join(MOMENTS)}")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), cls("mean"), cls("none")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(d)), 4.0 * d + 13, 0.0

    def fit(self, sample: Sample) -> Arrays:
        x = as_vectors(sample.items, "fit sample")
        if not len(x):
            raise BadInput(f"{self}: the fit sample is empty, so there is no threshold to learn")
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, x)
        mean = mean_of(x)
        x = x - mean
        known = np.stack(_moments(x), axis=1)[:, : MOMENTS.index(self.moments)]
        weights = np.zeros(3, np.float32)
        if known.shape[1]:
            average = known.mean(axis=0)
            found = np.linalg.lstsq(known - average, best_cut(x), rcond=None)[0]
            # What the average item asks for is no offset of an item.
            weights[: len(found)], weights[2] = found, found @ average
        return {"mean": mean, "weights": weights, "unit": flag}

    def _left(self, vectors: Array, shared: Arrays) -> Array:
        """Return centred coordinates less the threshold of their vector."""
        if vectors.shape[1] != len(shared["mean"]):
            raise BadInput(f"vectors of {vectors.shape[1]} coordinates, where the fit sample had {len(shared['mean'])}")
        x = unit_if(shared["unit"], vectors) - shared["mean"]
        first, third = _moments(x)
        a, c, average = shared["weights"].astype(np.float64)
        return np.asarray(x - (a * first + c * third - average)[:, None])

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": pack_signs(self._left(as_vectors(items), shared))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        def real(queries: Array) -> Array:
            if self.scorer == "symmetric":
                return self._left(queries, shared)
            unit = unit_if(shared["unit"], queries)
            return np.asarray(unit - shared["mean"] if is_centred(self.scorer, metric) else unit)

        return open_bits(codes["codes"], self.scorer, real)


def _moments(rows: Array) -> tuple[Array, Array]:
    """Return the mean and the cube root of the third central moment of each row's coordinates."""
    wide = rows.astype(np.float64)
    first = wide.mean(axis=1)
    return first, np.cbrt(np.mean((wide - first[:, None]) ** 3, axis=1))


def best_cut(rows: Array) -> Array:
    """Return for each row the midpoint of its two best levels, by Lloyd's iteration from the mean."""
    wide = rows.astype(np.float64)
    cut = wide.mean(axis=1)
    for _ in range(ROUNDS):
        above = wide > cut[:, None]
        count = above.sum(axis=1)
        high = np.where(above, wide, 0).sum(axis=1)
        low = (wide.sum(axis=1) - high) / np.maximum(rows.shape[1] - count, 1)
        # A row of equal coordinates has nothing above its mean.
        cut = np.where(count > 0, (low + high / np.maximum(count, 1)) / 2, cut)
    return np.asarray(cut)
