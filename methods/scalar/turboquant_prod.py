"""Rotate and round to Gaussian levels, and keep the signs of a projection of what is left for unbiased products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import random_orthogonal
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_queries, map_rows
from packbench.methods.scalar.casts import widened
from packbench.methods.scalar.packing import look_up, pack, packed_bytes, row_sums, unpack
from packbench.methods.scalar.scan import ScanSearcher
from packbench.methods.scalar.table import HALF
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.registry import register

ROWS = 4096
SIGNS = np.array([-1, 1], np.float32)


@register
@dataclass(frozen=True, slots=True)
class TurboQuantProd(Codec):
    """Spend one bit less per coordinate on Lloyd-Max levels and one on signs that make inner products unbiased.

    With y the rotated unit vector, c its levels at bits - 1 and r = y - c, the signs are those of S r, S Gaussian; the
    estimate of <x, q> is |x| (<c, q'> + sqrt(pi/2) |r| / d <sign(S r), S q'>) with q' the rotated query. It is right on
    average over S, at the price of more variance than turboquant_mse has. The norm and |r| are float16. Zandieh,
    Daliri, Hadian and Mirrokni, "TurboQuant: Online Vector Quantization with Near-optimal Distortion Rate", 2025, the
    variant for inner products.
    """

    name: ClassVar[str] = "turboquant_prod"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zandieh, Daliri, Hadian, Mirrokni, TurboQuant: Online Vector Quantization with Near-optimal Distortion Rate, "
        "2025"
    )
    formula: ClassVar[str] = "ceil((bits - 1) d/8) + ceil(d/8) + 4 per item; shared 8d^2 + 4 2^(bits - 1)"
    bits: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 9:
            raise ValueError(f"bits is 2 to 9, one of them for signs, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(b) for b in range(9, 1, -1)), 1)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item = packed_bytes(self.bits - 1, d) + packed_bytes(1, d) + 4.0
        return item, 8.0 * d * d + 4.0 * 2 ** (self.bits - 1), 0.0

    def fit(self, sample: Sample) -> Arrays:
        d = as_vectors(sample.items, "fit sample").shape[1]
        rotation = random_orthogonal(d, self.seed)
        gaussian = np.random.default_rng([self.seed, 0x716A6C]).standard_normal((d, d))
        return {
            "rotation": rotation,
            "projection": gaussian.astype(np.float32),
            "levels": (gaussian_levels(self.bits - 1) / np.sqrt(d)).astype(np.float32),
        }

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors, levels = as_vectors(items), shared["levels"]
        n, d = vectors.shape
        borders = (levels[1:] + levels[:-1]) / 2
        codes = {
            "codes": np.empty((n, packed_bytes(self.bits - 1, d)), np.uint8),
            "signs": np.empty((n, packed_bytes(1, d)), np.uint8),
            "norms": np.empty((n, 2), np.float16),
        }
        for part in blocks(n, ROWS):
            norms = np.sqrt(np.einsum("ij,ij->i", vectors[part], vectors[part], dtype=np.float64))
            directions = (vectors[part] / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
            rotated = map_rows(directions, shared["rotation"])
            integers = np.searchsorted(borders, rotated)
            left = rotated - levels[integers]
            codes["codes"][part] = pack(integers.astype(np.uint8), self.bits - 1)
            codes["signs"][part] = pack((map_rows(left, shared["projection"]) > 0).astype(np.uint8), 1)
            codes["norms"][part] = np.minimum(
                np.stack([norms, np.sqrt(np.einsum("ij,ij->i", left, left))], axis=1), HALF
            )
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows, signs, norms, factor = self._parts(codes, shared)
        return np.asarray(norms * ((rows + factor * (signs @ shared["projection"])) @ shared["rotation"]))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _ProdSearcher(self, codes, shared, metric)

    def _parts(self, codes: Arrays, shared: Arrays) -> tuple[Array, Array, Array, Array]:
        """Return levels and signs (n, d), norms and the factors of signs (n, 1), float32."""
        d = len(shared["rotation"])
        norms, left = codes["norms"].astype(np.float32).T[:, :, None]
        rows = look_up(unpack(codes["codes"], self.bits - 1, d), shared["levels"])
        return rows, look_up(unpack(codes["signs"], 1, d), SIGNS), norms, left * np.float32(np.sqrt(np.pi / 2) / d)


class _ProdSearcher(ScanSearcher):
    """Score by the estimate; a query is its rotation followed by the projection of that."""

    def __init__(self, codec: TurboQuantProd, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        self._d = len(shared["rotation"])
        super().__init__(len(codes["norms"]), 2 * self._d, metric)
        self._codec, self._codes, self._shared = codec, dict(codes), shared

    def _queries(self, queries: Array) -> Array:
        rotated = map_queries(queries, self._shared["rotation"])
        return np.concatenate([rotated, map_queries(rotated, self._shared["projection"])], axis=1)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        norms, left = widened(self._codes["norms"][part]).T
        dots = row_sums(self._codes["codes"][part], self._codec.bits - 1, (query[: self._d],), self._shared["levels"])
        more = row_sums(self._codes["signs"][part], 1, (query[self._d :],), SIGNS)
        left *= np.float32(np.sqrt(np.pi / 2) / self._d)
        return norms * (dots[:, 0] + left * more[:, 0]), norms * norms

    def _decode(self, part: slice) -> tuple[Array, Array]:
        codes = {name: array[part] for name, array in self._codes.items()}
        rows, signs, norms, factor = self._codec._parts(codes, self._shared)
        return norms * np.concatenate([rows, factor * signs], axis=1), norms[:, 0] ** 2
