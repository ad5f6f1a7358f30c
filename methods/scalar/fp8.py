"""Code each coordinate as an 8-bit floating-point number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.grid import GRANULARITIES
from packbench.methods.scalar.table import HALF, TableSearcher, e4m3_values, float_values, nearest_pattern
from packbench.registry import register

ROWS = 4096
FORMATS = ("e4m3", "e5m2")


@register
@dataclass(frozen=True, slots=True)
class FP8(Codec):
    """Round each coordinate to an 8-bit floating-point number, E4M3 or E5M2, under a scale.

    The scale takes the greatest magnitude (of the vector, of the dimension or of all, in the fit sample) to the
    format's greatest value; what is beyond saturates, and ties round to even. Relative precision is the same over
    several orders of magnitude, which coordinates of unit vectors do not need: int8 is ten times more exact on them.
    Micikevicius et al., "FP8 Formats for Deep Learning", 2022.
    """

    name: ClassVar[str] = "fp8"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Micikevicius et al., FP8 Formats for Deep Learning, 2022"
    formula: ClassVar[str] = "d per item (per vector: +2); shared 4d per dimension, 4 global, 0 per vector"
    format: str = "e4m3"
    granularity: str = "vector"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity is one of {', '.join(GRANULARITIES)}, got {self.granularity!r}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), cls(granularity="dim"), cls(granularity="global")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        shared = {"dim": 4.0 * d, "vector": 0.0, "global": 4.0}[self.granularity]
        return d + (2.0 if self.granularity == "vector" else 0.0), shared, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if self.granularity == "vector":
            return {}
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn")
        greatest = np.abs(vectors).max(axis=0)
        return {"scales": greatest if self.granularity == "dim" else greatest.max(keepdims=True)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        codes = {"codes": np.empty(vectors.shape, np.uint8)}
        if self.granularity == "vector":
            greatest = np.abs(vectors).max(axis=1, initial=0.0, keepdims=True)
            codes["scales"] = np.minimum(greatest, HALF).astype(np.float16)
        values = self._values()
        top = np.float32(values[-1])
        for part in blocks(len(vectors), ROWS):
            scales = codes["scales"][part].astype(np.float32) if "scales" in codes else shared["scales"]
            ratios = vectors[part] / np.where(scales > 0, scales / top, 1)
            sign = np.signbit(ratios).astype(np.uint8) << 7
            codes["codes"][part] = nearest_pattern(np.abs(ratios), values) | sign
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        scales = codes["scales"].astype(np.float32) if "scales" in codes else shared["scales"]
        return np.asarray(self._table()[codes["codes"]] * scales)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        d, own = codes["codes"].shape[1], codes.get("scales")
        if own is None:
            weights = np.broadcast_to(shared["scales"], d).astype(np.float32)
            return TableSearcher(codes["codes"], 8, self._table(), d, metric, None, weights=weights)
        return TableSearcher(codes["codes"], 8, self._table(), d, metric, lambda part: widened(own[part]))

    def _values(self) -> Array:
        """Return the finite values that are not negative, ascending: a place is a bit pattern."""
        # E5M2 keeps the highest exponent for infinity and NaN, E4M3 one pattern for NaN.
        return e4m3_values() if self.format == "e4m3" else float_values(5, 2)[:124]

    def _table(self) -> Array:
        """Return the value of every bit pattern over the greatest; those that are no number are never stored."""
        table = np.zeros(128, np.float32)
        values = self._values()
        table[: len(values)] = values / values[-1]
        return np.concatenate([table, -table])
