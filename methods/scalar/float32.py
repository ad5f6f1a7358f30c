"""Keep vectors as they are: quality 1.0 and size 1.0 for every ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from packbench.exact import ExactSearcher
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Metric, Searcher
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class Float32(Codec):
    """Keep float32 vectors exactly as loaded, searched by BLAS: the reference row.

    No normalisation and no centring; the metric is the data set's.
    """

    name: ClassVar[str] = "float32"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    formula: ClassVar[str] = "4d per item"

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return 4.0 * d, 0.0, 0.0

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"vectors": as_vectors(items)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return codes["vectors"]

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return ExactSearcher(codes["vectors"], metric)
