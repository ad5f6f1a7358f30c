"""Rotate at random, round to Gaussian levels, and scale each vector so that estimates are unbiased."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import random_orthogonal
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import (
    RULES,
    centred,
    centred_queries,
    map_queries,
    map_rows,
    metric_after_centring,
    rule_of,
    unit,
)
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.packing import look_up, pack, packed_bytes, unpack
from packbench.methods.scalar.table import HALF, TableSearcher
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.registry import register

ROWS = 4096


@register
@dataclass(frozen=True, slots=True)
class EDEN(Codec):
    """Rotate at random, round each coordinate to Lloyd-Max levels of a Gaussian, and scale each vector to no bias.

    With c the levels of the rotated vector x, the estimate is s c where s = |x|^2 / <x, c>, which makes it unbiased
    over rotations; biased=True takes s = <x, c> / |c|^2, the scale of least squared error. Vectors are centred, for
    the paper's gradients have no mean but embeddings do, and under cosine normalised first. The norm and the scale over
    it are float16; distances use the norm. Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak and Mitzenmacher,
    "EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning", 2022.
    """

    name: ClassVar[str] = "eden"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher, EDEN: Communication-Efficient and Robust "
        "Distributed Mean Estimation for Federated Learning, 2022"
    )
    formula: ClassVar[str] = "ceil(bits d/8) + 4 per item; shared 4 (d^2 + d) + 4 2^bits + 1"
    bits: int = 4
    biased: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(b, biased) for b in range(8, 0, -1) for biased in (False, True)), 2)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return packed_bytes(self.bits, d) + 4.0, 4.0 * (d * d + d) + 4.0 * 2**self.bits + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        d = vectors.shape[1]
        if sample.metric == "cosine":
            vectors = unit(vectors)
        return {
            "rotation": random_orthogonal(d, self.seed),
            "mean": (vectors.sum(axis=0, dtype=np.float64) / max(len(vectors), 1)).astype(np.float32),
            "levels": (gaussian_levels(self.bits) / np.sqrt(d)).astype(np.float32),
            "rule": rule,
        }

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors, levels = as_vectors(items), shared["levels"]
        n, d = vectors.shape
        borders = (levels[1:] + levels[:-1]) / 2
        codes = np.empty((n, packed_bytes(self.bits, d)), np.uint8)
        factors = np.empty((n, 2), np.float16)
        for part in blocks(n, ROWS):
            rows = centred(vectors[part], shared["mean"], shared["rule"])
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
            directions = (rows / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
            rotated = map_rows(directions, shared["rotation"])
            integers = np.searchsorted(borders, rotated)
            coded = levels[integers].astype(np.float64)
            if self.biased:
                ratio = np.einsum("ij,ij->i", rotated, coded) / np.einsum("ij,ij->i", coded, coded)
            else:
                ratio = np.einsum("ij,ij->i", rotated, rotated, dtype=np.float64)
                ratio = ratio / np.where(norms > 0, np.einsum("ij,ij->i", rotated, coded), 1)
            codes[part] = pack(integers.astype(np.uint8), self.bits)
            factors[part] = np.minimum(np.stack([norms, ratio], axis=1), HALF)
        return {"codes": codes, "factors": factors}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        d = len(shared["rotation"])
        rows = look_up(unpack(codes["codes"], self.bits, d), shared["levels"]) * _scale(codes["factors"])
        return np.asarray(rows @ shared["rotation"] + shared["mean"], np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        inner = metric_after_centring(metric)
        if inner != metric_after_centring(RULES[int(shared["rule"][0])]):
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")
        factors, mean, rule, rotation = codes["factors"], shared["mean"], shared["rule"], shared["rotation"]
        return TableSearcher(
            codes["codes"], self.bits, shared["levels"], len(mean), inner,
            lambda part: _scale(factors[part]),
            queries=lambda rows: map_queries(centred_queries(rows, mean, rule), rotation),
            squares=lambda part: widened(factors[part, 0]) ** 2,
        )  # fmt: skip


def _scale(factors: Array) -> Array:
    """Return what levels are multiplied by, (n, 1) float32."""
    values = widened(factors)
    return values[:, :1] * values[:, 1:]
