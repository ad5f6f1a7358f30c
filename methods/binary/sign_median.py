"""Cut every dimension where half of the items lie above."""

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
from packbench.methods.binary.scaled import ScaledCodec, ScaledSearcher, signs_of, width_of
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SignMedian(ScaledCodec):
    """Keep whether each coordinate lies above the median of its dimension, so that every bit is one for half the items.

    A bit decodes to the mean of the fit sample's coordinates on its side. threshold="mean" cuts at the mean instead.
    The asymmetric scorer weighs the query by those means; the symmetric one compares bits. Under cosine vectors are
    brought to length one first. Bits of maximum entropy are the idea of Qin et al., BiBERT: Accurate Fully Binarized
    BERT, 2022; they do not make the bits independent of each other.
    """

    name: ClassVar[str] = "sign_median"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Qin et al., BiBERT: Accurate Fully Binarized BERT, 2022"
    formula: ClassVar[str] = "ceil(d/8) per item; shared 12d + 1"

    threshold: str = "median"
    scorer: str = "asymmetric"

    def __post_init__(self) -> None:
        if self.threshold not in ("median", "mean"):
            raise ValueError(f"threshold={self.threshold!r}: expected one of median, mean")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([RandomRotation() | cls(), cls(), cls(scorer="symmetric")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(d)), 12.0 * d + 1, 0.0

    @property
    def centre(self) -> str:  # type: ignore[override]
        """Return what the origin is: the middle of the two levels, kept where other codes keep the mean."""
        return "mean"

    def fit(self, sample: Sample) -> Arrays:
        x = as_vectors(sample.items, "fit sample")
        if not len(x):
            raise BadInput(f"{self}: the fit sample is empty, so there is no threshold to learn")
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, x)
        cut = np.median(x, axis=0).astype(np.float32) if self.threshold == "median" else mean_of(x)
        above = x > cut
        counts = np.stack([len(x) - above.sum(axis=0), above.sum(axis=0)])
        high = np.where(above, x, 0).sum(axis=0, dtype=np.float64)
        sums = np.stack([x.sum(axis=0, dtype=np.float64) - high, high])
        # A side that no item lies on, as in a constant dimension, decodes to the threshold.
        low, high = np.where(counts > 0, sums / np.maximum(counts, 1), cut)
        middle, half = ((high + low) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
        return {"unit": flag, "threshold": cut, "mean": middle, "half": half}

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        return {}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"signs": pack_signs(_above(as_vectors(items), shared))}

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        return {"signs": pack_signs(residuals - (shared["threshold"] - shared["mean"]))}

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(signs_of(codes["signs"], width_of(shared)) * shared["half"])

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        return sign_sums(codes["signs"], queries * shared["half"])

    def _squares(self, codes: Arrays, shared: Arrays) -> Array:
        return np.full(len(codes["signs"]), shared["half"] @ shared["half"], np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if metric == "cosine" and self.scorer == "asymmetric":
            return ScaledSearcher(self, codes, shared, metric)

        # About the middles every item has the same norm, so that distances rank as inner products do.
        def real(queries: Array) -> Array:
            above = _above(queries, shared)
            if self.scorer == "symmetric":
                return above
            return np.asarray((queries - shared["mean"] if metric == "l2" else queries) * shared["half"])

        return open_bits(codes["signs"], self.scorer, real)


def _above(vectors: Array, shared: Arrays) -> Array:
    """Return how far coordinates lie above their threshold; a float32 difference never changes sides."""
    if vectors.shape[1] != width_of(shared):
        raise BadInput(f"vectors of {vectors.shape[1]} coordinates, where the fit sample had {width_of(shared)}")
    return np.asarray(unit_if(shared["unit"], vectors) - shared["threshold"])
