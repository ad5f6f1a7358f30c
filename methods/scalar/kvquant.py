"""Share one table of levels among normalised dimensions and keep each item's worst coordinates apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher, rows_of
from packbench.methods.projection.moments import index_type
from packbench.methods.scalar.fill import finest
from packbench.methods.scalar.packing import look_up, pack, packed_bytes, row_sums, unpack
from packbench.methods.scalar.scan import FEW, ScanSearcher, squared_norms
from packbench.methods.scalar.score_error import score_weights
from packbench.registry import register

ROWS = 4096
MAX_VALUES = 2_000_000  # from which levels are learned: more do not move them
ROUNDS = 200
TOLERANCE = 1e-7  # of the weighted mean square: a round that gains less ends the iteration
HALF = float(np.finfo(np.float16).max)


@register
@dataclass(frozen=True, slots=True)
class KVQuant(Codec):
    """Round normalised coordinates to one table of uneven levels and keep what an item's worst coordinates lack.

    A dimension is normalised to the range that leaves a share rho of the fit sample outside. The 2^bits levels are
    weighted k-means over all dimensions together, a dimension counting as its errors count in scores: E[q_j²] of the
    fit queries times its squared range (weight="none": alike). The round(rho d) coordinates of an item whose errors
    count most are stored in full: their places and, in float16, what their levels lack. `norm` then gives every
    dimension of decoded levels the mean and deviation that it had. Hooper, Kim, Mohammadzadeh, Mahoney, Shao, Keutzer
    and Gholami, "KVQuant: Towards 10 Million Context Length LLM Inference with KV Cache Quantization", 2024, with as
    many outliers in each item, and query weights for Fisher information.
    """

    name: ClassVar[str] = "kvquant"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Hooper, Kim, Mohammadzadeh, Mahoney, Shao, Keutzer, Gholami, KVQuant: Towards 10 Million Context Length LLM "
        "Inference with KV Cache Quantization, 2024"
    )
    formula: ClassVar[str] = "ceil(bits d/8) + 4 round(rho d) per item; shared 8d + 4 2^bits"
    bits: int = 3
    rho: float = 0.01
    weight: str = "queries"
    norm: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, got {self.bits}")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho is a share from 0 to 1, got {self.rho:g}")
        if self.weight not in ("queries", "none"):
            raise ValueError(f"weight is one of queries, none, got {self.weight!r}")

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.weight == "queries" else frozenset()

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return finest(cls, budget, range(8, 1, -1))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        place = np.dtype(index_type(d)).itemsize
        return packed_bytes(self.bits, d) + (2.0 + place) * self._kept(d), 8.0 * d + 4.0 * 2**self.bits, 0.0

    def _kept(self, d: int) -> int:
        return round(self.rho * d)

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        n, d = vectors.shape
        if not n:
            raise BadInput(f"{self}: the fit sample is empty, so there is no range to learn")
        low, high = np.quantile(vectors, [self.rho / 2, 1 - self.rho / 2], axis=0).astype(np.float64)
        offset, scale = (low + high) / 2, (high - low) / 2
        scale = np.where(scale > 0, scale, 1.0)
        weights = np.ones(d)
        if self.weight == "queries":
            weights = score_weights(self, sample) * scale**2
        inside = np.clip((vectors - offset) / scale, -1, 1)
        levels = weighted_levels(inside[:: -(-vectors.size // MAX_VALUES)], weights, 2**self.bits)
        shared = {
            "levels": levels.astype(np.float32),
            "offset": offset.astype(np.float32),
            "scale": scale.astype(np.float32),
        }
        if self._kept(d):
            shared["build/weight"] = (weights / scale**2).astype(np.float32)
        if self.norm:
            shared |= {"build/offset": shared["offset"], "build/scale": shared["scale"]}
            found = levels[_nearest(inside, levels)]
            ratio = vectors.std(axis=0, dtype=np.float64) / np.maximum(found.std(axis=0), 1e-12)
            shared["scale"] = ratio.astype(np.float32)
            shared["offset"] = (vectors.mean(axis=0, dtype=np.float64) - ratio * found.mean(axis=0)).astype(np.float32)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        kept = self._kept(d)
        codes = {"codes": np.empty((n, packed_bytes(self.bits, d)), np.uint8)}
        if kept:
            codes |= {"places": np.empty((n, kept), index_type(d)), "lacking": np.empty((n, kept), np.float16)}
        offset, scale = (shared.get(f"build/{name}", shared[name]) for name in ("offset", "scale"))
        for part in blocks(n, ROWS):
            levels = _nearest((vectors[part] - offset) / scale, shared["levels"])
            codes["codes"][part] = pack(levels.astype(np.uint8), self.bits)
            if kept:
                lacking = vectors[part] - self._dense(levels, shared)
                worst = np.argsort(-shared["build/weight"] * lacking**2, axis=1, kind="stable")[:, :kept]
                places = np.sort(worst, axis=1)
                codes["places"][part] = places
                codes["lacking"][part] = np.clip(np.take_along_axis(lacking, places, axis=1), -HALF, HALF)
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = look_up(unpack(codes["codes"], self.bits, len(shared["scale"])), shared["levels"])
        rows = rows * shared["scale"] + shared["offset"]
        if "places" in codes:
            rows[np.arange(len(rows))[:, None], codes["places"]] += codes["lacking"].astype(np.float32)
        return rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _KVQuantSearcher(self, codes, shared, metric)

    def _dense(self, levels: Array, shared: Arrays) -> Array:
        """Return what the table says of levels (n, d), without what is kept apart."""
        return np.asarray(shared["levels"][levels] * shared["scale"] + shared["offset"])


class _KVQuantSearcher(ScanSearcher):
    def __init__(self, codec: KVQuant, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        super().__init__(len(codes["codes"]), len(shared["scale"]), metric)
        self._few = 0 if self._norms else FEW  # norms need decoded rows
        self._codec, self._codes, self._shared = codec, codes, shared

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        packed = self._codes["codes"][part]
        dots = row_sums(packed, self._codec.bits, (query * self._shared["scale"],), self._shared["levels"])[:, 0]
        dots += query @ self._shared["offset"]
        if "places" in self._codes:
            dots += np.einsum("nk,nk->n", query[self._codes["places"][part]], self._codes["lacking"][part])
        return dots, dots[:0]

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._codec.decode(rows_of(self._codes, part), self._shared)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


def weighted_levels(rows: Array, weights: Array, count: int) -> Array:
    """Return `count` ascending levels of least weighted squared error for all values of rows (n, d), float64.

    weights (d,) are those of the columns. Lloyd's iteration, from equal shares of the weight.
    """
    values = rows.ravel().astype(np.float64)
    order = np.argsort(values, kind="stable")
    values, mass = values[order], np.broadcast_to(weights, rows.shape).ravel()[order]
    masses, moments = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (mass, mass * values))
    at = np.searchsorted(masses[1:], (np.arange(count) + 0.5) / count * masses[-1])
    levels = values[np.minimum(at, len(values) - 1)]
    energy, explained = float(mass @ values**2), -np.inf
    for _ in range(ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(values, (levels[1:] + levels[:-1]) / 2), [len(values)]])
        inside, total = np.diff(masses[cuts]), np.diff(moments[cuts])
        levels = np.where(inside > 0, total / np.where(inside > 0, inside, 1), levels)
        before, explained = explained, float(total @ levels)
        if explained - before <= TOLERANCE * energy:
            break
    return np.asarray(levels)


def _nearest(rows: Array, levels: Array) -> Array:
    """Return the number of the level nearest to each value."""
    # Halfway is taken in float64: in float32 it can be a level itself, which must keep its own number.
    wide = levels.astype(np.float64)
    return np.asarray(np.searchsorted((wide[1:] + wide[:-1]) / 2, rows))
