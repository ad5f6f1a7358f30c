"""Quantise random Fourier features to one bit each, pushing the error to where their sums do not see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import generator
from packbench.items import Array, Items, as_vectors
from packbench.items import blocks as slices
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer
from packbench.methods.binary.linear import unit_if
from packbench.methods.projection.linear import RULES, map_queries, map_rows, rule_of
from packbench.methods.scalar.packing import pack, packed_bytes, unpack, weighted_sums
from packbench.methods.scalar.scan import ScanSearcher
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SigmaDeltaRFF(Method):
    """Rank by a Gaussian kernel estimated from random cosine features of one bit each, noise-shaped and block-summed.

    Features cos(Wx + ξ) pass a first-order Σ-Δ quantiser, which carries each error into the next feature; a block of
    `length` bits is kept as their sum, from 0 to `length`. The estimate is 2/blocks times the inner product of
    normalised block sums; the asymmetric scorer sums the query's features without rounding. The kernel is exp(-|x - y|²
    / (bandwidth² D)), D the mean squared distance between fit items (for inner products 2). W and ξ are drawn from the
    seed, and weighed. Kernel values rank by distance: under cosine vectors are brought to length one; inner products
    turn into distances with one coordinate more, which is not of the paper. Zhang, Kannan, Cloninger and
    Saab, "Sigma-Delta and Distributed Noise-Shaping Quantization Methods for Random Fourier Features", 2021, order 1.
    """

    name: ClassVar[str] = "sigma_delta_rff"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zhang, Kannan, Cloninger, Saab, Sigma-Delta and Distributed Noise-Shaping Quantization Methods for Random "
        "Fourier Features, 2021"
    )
    formula: ClassVar[str] = "ceil(blocks b/8) per item, b = ceil(log2(length + 1)); shared 4 blocks length (d + 2) + 5"

    blocks: int = 96
    length: int = 15
    bandwidth: float = 1.0
    scorer: str = "asymmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks={self.blocks}: expected at least 1")
        if not 1 <= self.length <= 255:
            raise ValueError(f"length={self.length}: expected 1 to 255")
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth={self.bandwidth:g}: expected more than 0")
        check_scorer(self.scorer)

    @property
    def _bits(self) -> int:
        return self.length.bit_length()

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(cls._filling(budget))

    @classmethod
    def _filling(cls, budget: Budget) -> Iterator[SigmaDeltaRFF]:
        for length in (3, 1, 7):
            bits = length.bit_length()
            # A whole byte of codes at a time, and the features that it takes.
            each = bits / 8 + 4 * length * (budget.d + 2) / budget.n
            most = max(1, int((budget.bytes_per_item - 5 / budget.n) / each + 1e-9))
            found = cls(most, length)
            while most > 1 and not budget.holds(*found.planned_bytes(budget.d)):
                most -= 1
                found = cls(most, length)
            yield found

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(packed_bytes(self._bits, self.blocks)), 4.0 * self.blocks * self.length * (d + 2) + 5, 0.0

    def fit(self, sample: Sample) -> Arrays:
        x, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        if not len(x):
            raise BadInput(f"{self}: the fit sample is empty, so there is no distance to learn from")
        longest = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1).max())
        shared: dict[str, Array] = {"rule": rule, "longest": np.array([longest if longest > 0 else 1], np.float32)}
        lifted = self._lifted(x, shared).astype(np.float64)
        # Half the mean squared distance between two items is their total variance. Lifted items may crowd at the pole,
        # far from all queries; there it is the distance of unrelated vectors of length one that counts.
        spread = 1.0 if sample.metric == "ip" else lifted.var(axis=0).sum()
        width = self.bandwidth * np.sqrt(spread)
        rng = generator(self.seed)
        count = self.blocks * self.length
        directions = rng.standard_normal((count, lifted.shape[1]), np.float32) / np.float32(width if width > 0 else 1)
        return shared | {"directions": directions, "phases": (2 * np.pi * rng.random(count)).astype(np.float32)}

    def _lifted(self, vectors: Array, shared: Arrays) -> Array:
        """Return items with the coordinate that makes distances rank as the metric does."""
        metric = RULES[int(shared["rule"][0])]
        x = unit_if(np.array([metric == "cosine"]), vectors)
        last = np.zeros((len(x), 1), np.float32)
        if metric == "ip":
            # Items longer than any of the fit sample are taken for that long.
            x = x / shared["longest"]
            last = np.sqrt(np.maximum(1 - np.square(x, dtype=np.float64).sum(axis=1, keepdims=True), 0))
        return np.concatenate([x, last], axis=1).astype(np.float32)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = as_vectors(items)
        if x.shape[1] + 1 != shared["directions"].shape[1]:
            raise BadInput(
                f"vectors of {x.shape[1]} coordinates; the fit sample had {shared['directions'].shape[1] - 1}"
            )
        codes = np.empty((len(x), packed_bytes(self._bits, self.blocks)), np.uint8)
        for part in slices(len(x), 2048):
            features = np.cos(map_rows(self._lifted(x[part], shared), shared["directions"]) + shared["phases"])
            codes[part] = pack(sigma_delta(features, self.length)[0], self._bits)
        return {"codes": codes}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if metric != RULES[int(shared["rule"][0])]:
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")
        return _KernelSearcher(self, codes["codes"], shared)


class _KernelSearcher(ScanSearcher):
    def __init__(self, method: SigmaDeltaRFF, codes: Array, shared: Arrays) -> None:
        super().__init__(len(codes), method.blocks, "ip")
        self._method, self._codes, self._shared = method, codes, shared
        self._root = np.float32(np.sqrt(method.length))

    def _queries(self, queries: Array) -> Array:
        directions = self._shared["directions"]
        if queries.shape[1] + 1 != directions.shape[1]:
            raise BadInput(f"queries: {queries.shape[1]} coordinates, the items have {directions.shape[1] - 1}")
        q = unit_if(np.array([RULES[int(self._shared["rule"][0])] != "l2"]), queries)
        lifted = np.concatenate([q, np.zeros((len(q), 1), np.float32)], axis=1)
        features = np.cos(map_queries(lifted, directions) + self._shared["phases"])
        if self._method.scorer == "symmetric":
            sums = 2 * sigma_delta(features, self._method.length)[0] - np.float32(self._method.length)
        else:
            sums = features.reshape(len(q), -1, self._method.length).sum(axis=2)
        return np.asarray(sums * np.float32(2 / self._method.blocks) / self._root, np.float32)

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        sums = weighted_sums(self._codes[part], self._method._bits, query * (2 / self._root))
        dots = sums - self._root * query.sum()
        return dots, dots

    def _decode(self, part: slice) -> tuple[Array, Array]:
        counts = unpack(self._codes[part], self._method._bits, self._method.blocks)
        rows = counts.astype(np.float32) * (2 / self._root) - self._root
        return rows, rows


def sigma_delta(features: Array, length: int) -> tuple[Array, float]:
    """Quantise features (n, count) in turn to -1 or +1, each with the error of those before it.

    Returns:
        How many of each `length` are +1, (n, count / length) uint8, and the largest magnitude of an error carried on.
    """
    n, count = features.shape
    ones, carried, largest = np.zeros((n, count // length), np.uint8), np.zeros(n, np.float32), 0.0
    for place, column in enumerate(np.ascontiguousarray(features.T, np.float32)):
        carried += column
        up = carried >= 0
        carried -= np.where(up, np.float32(1), np.float32(-1))
        ones[:, place // length] += up
        largest = max(largest, float(np.abs(carried).max(initial=0)))
    return ones, largest
