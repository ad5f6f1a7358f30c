"""Keep a few directions in float16 and what they leave in a few bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import leading, moment
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_rows
from packbench.methods.scalar.fill import finest
from packbench.methods.scalar.normal_float import NormalFloat
from packbench.methods.scalar.scan import FEW, ScanSearcher, squared_norms
from packbench.methods.scalar.score_error import score_weights
from packbench.registry import register

ROWS = 4096
MAX_ROWS = 20_000  # of the fit sample, from which directions are learned
FIT_ROUNDS = 10
ROUNDS = 4  # with which an item is coded
HALF = float(np.finfo(np.float16).max)


@register
@dataclass(frozen=True, slots=True)
class LQLowRankQuant(Codec):
    """Split a vector into a part of low rank, kept in float16, and a rest in NormalFloat.

    The directions are learned by turns: quantise what the low-rank part leaves, then take the leading directions of
    what the quantised rest leaves; the best turn counts, for the error may rise again. An item's coefficients are
    found by the same turns with the directions held. Errors of dimension j weigh E[q_j²] of the fit queries
    (weight="none": alike). Guo, Greengard, Xing and Kim, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for
    Efficient Language Model Finetuning", 2023, beginning with the low-rank part, without which two bits find nothing.
    """

    name: ClassVar[str] = "lq_lowrank_quant"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Guo, Greengard, Xing, Kim, LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model "
        "Finetuning, 2023"
    )
    formula: ClassVar[str] = "r = min(rank, d): 2r + ceil(bits d/8) + ceil(d/block) per item; shared 4 r d + 8"
    rank: int = 8
    bits: int = 3
    block: int = 64
    weight: str = "queries"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is at least 1, got {self.rank}; normal_float() has no low-rank part")
        if self.weight not in ("queries", "none"):
            raise ValueError(f"weight is one of queries, none, got {self.weight!r}")
        NormalFloat(self.bits, self.block)  # refuses what it has no levels for

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        rank = int(min(max(budget.bytes_per_item / 16, 1), 8))  # so that coefficients take an eighth of the bytes
        return finest(lambda bits: cls(rank, bits), budget, range(8, 1, -1))

    @property
    def _rest(self) -> NormalFloat:
        return NormalFloat(self.bits, self.block)

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.weight == "queries" else frozenset()

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, cold = self._rest.planned_bytes(d)
        rank = min(self.rank, d)
        return item + 2.0 * rank, shared + 4.0 * rank * d, cold

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no direction to learn")
        vectors = vectors[:: -(-len(vectors) // MAX_ROWS)]
        weight = np.ones(vectors.shape[1])
        if self.weight == "queries":
            weight = np.sqrt(score_weights(self, sample))
        best: dict[str, Array] = {}
        quantised, least = np.zeros_like(vectors), np.inf
        for _ in range(FIT_ROUNDS):
            directions = leading(moment((vectors - quantised) * weight), self.rank)[1]
            maps = {
                "up": (directions / weight).astype(np.float32),
                "build/down": (directions * weight).astype(np.float32),
            }
            rest = vectors - map_rows(vectors - quantised, maps["build/down"]) @ maps["up"]
            scales = dict(self._rest.fit(Sample(rest)))
            quantised = self._rest.decode(self._rest.encode(rest, scales), scales)
            error = float(np.square((rest - quantised) * weight).sum(dtype=np.float64))
            if error >= least:
                break
            least, best = error, maps | scales
        return best | {"build/weight": weight.astype(np.float32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        parts = [self._code(vectors[part], shared) for part in blocks(len(vectors), ROWS)]
        parts = parts or [self._code(vectors, shared)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _code(self, vectors: Array, shared: Arrays) -> dict[str, Array]:
        """Alternate coefficients and quantised rest, keeping for each row the turn of least error."""
        best: dict[str, Array] = {}
        least, quantised = np.full(len(vectors), np.inf), np.zeros_like(vectors)
        for _ in range(ROUNDS):
            coefficients = map_rows(vectors - quantised, shared["build/down"])
            codes: dict[str, Array] = {"low": np.clip(coefficients, -HALF, HALF).astype(np.float16)}
            rest = vectors - self._low(codes["low"], shared)
            codes |= self._rest.encode(rest, shared)
            quantised = self._rest.decode(codes, shared)
            error = np.square((rest - quantised) * shared["build/weight"]).sum(axis=1)
            better = error < least
            least = np.minimum(error, least)
            best = {name: np.where(better[:, None], codes[name], best.get(name, codes[name])) for name in codes}
        return best

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return self._low(codes["low"], shared) + self._rest.decode(codes, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _LowRankSearcher(self, codes, shared, metric)

    def _low(self, coefficients: Array, shared: Arrays) -> Array:
        """Return the low-rank part (n, d) float32."""
        return map_rows(coefficients.astype(np.float32), shared["up"].T)


class _LowRankSearcher(ScanSearcher):
    """Add up the inner products of the two parts."""

    def __init__(self, codec: LQLowRankQuant, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        super().__init__(len(codes["low"]), shared["up"].shape[1], metric)
        self._few = 0 if self._norms else FEW  # norms need decoded rows
        self._low, self._up = codes["low"], shared["up"]
        self._rest = cast(ScanSearcher, codec._rest.open(codes, shared, "ip"))

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        dots, none = self._rest._scan(query, part)
        return dots + self._low[part].astype(np.float32) @ (self._up @ query), none

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._rest._decode(part)[0] + self._low[part].astype(np.float32) @ self._up
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]
