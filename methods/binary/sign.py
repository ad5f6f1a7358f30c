"""Keep the sign of each coordinate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer, code_bytes, open_bits, pack_signs
from packbench.methods.binary.linear import mean_of, unit_if
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class Sign(Method):
    """Keep one bit per coordinate, whether it lies above a threshold, and compare codes or a float query with codes.

    Plain binary quantisation, the deterministic sign of Courbariaux, Bengio and David, BinaryConnect: Training Deep
    Neural Networks with binary weights during propagations, 2015. The threshold is 0 or the mean of the fit sample.
    Asymmetric scores are the sum of q_j (2 b_j - 1); under l2 with threshold="mean" the query is centred too. Codes
    hold directions only: under ip and l2 the lengths of items are lost, so data of one length is what it suits. Under
    cosine with threshold="mean" items and queries are normalised first.
    """

    name: ClassVar[str] = "sign"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Courbariaux, Bengio, David, BinaryConnect: Training Deep Neural Networks with binary weights during "
        "propagations, 2015"
    )
    formula: ClassVar[str] = "ceil(d/8) per item; shared 4d + 1 with threshold='mean'"

    threshold: str = "zero"
    scorer: str = "symmetric"

    def __post_init__(self) -> None:
        if self.threshold not in ("zero", "mean"):
            raise ValueError(f"threshold={self.threshold!r}: expected one of zero, mean")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(scorer="asymmetric"), cls("mean", "asymmetric"), cls()])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(d)), 4.0 * d + 1 if self.threshold == "mean" else 0.0, 0.0

    def fit(self, sample: Sample) -> Arrays:
        if self.threshold == "zero":
            return {}
        cosine = np.array([sample.metric == "cosine"], np.uint8)
        return {"mean": mean_of(unit_if(cosine, as_vectors(cast(Array, sample.items)))), "unit": cosine}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = as_vectors(items)
        return {"codes": pack_signs(x if self.threshold == "zero" else unit_if(shared["unit"], x) - shared["mean"])}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        def real(queries: Array) -> Array:
            if self.threshold == "zero":
                return queries
            unit = unit_if(shared["unit"], queries)
            return unit - shared["mean"] if is_centred(self.scorer, metric) else unit

        return open_bits(codes["codes"], self.scorer, real)


def is_centred(scorer: str, metric: Metric) -> bool:
    """Tell whether the query, too, loses the mean.

    Its bits must be cut where the items' were, and under l2 both ends of a difference move. In an inner product
    <q, x> = <q, mean> + <q, x - mean> the first term is the same for all items, and the second takes q as it is.
    """
    return scorer == "symmetric" or metric == "l2"
