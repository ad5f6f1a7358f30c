"""Keep coordinates drawn at random, of all vectors the same or of each its own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.sparse.magnitude_prune import WIDTH
from packbench.methods.sparse.support import BITS, SparseFormat, check_kept, fitting_formats, index_dtype
from packbench.registry import register

MASKS = ("shared", "item")
ROWS = 4096


@register
@dataclass(frozen=True, slots=True)
class RandomMask(Codec):
    """Keep k coordinates drawn at random, which is what any choice of coordinates has to beat.

    mask="shared" draws them once for all vectors, so that no vector pays for places. mask="item" draws anew for each
    vector, from its own bits since a code must not depend on its neighbours, and pays for places as magnitude_prune
    does. Values are coded as there. Similarities shrink by k/d on average alike for all items, so they are not scaled.
    """

    name: ClassVar[str] = "random_mask"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = "Random Search as a Baseline for Sparse Neural Network Architecture Search, 2024"
    formula: ClassVar[str] = (
        "ceil(bits k/8) + 2 per item (bits=16: 2k), with mask='item' also places as in magnitude_prune; "
        "shared 4 + 4 2^bits (bits=16: 4), with mask='shared' also k ceil(log2(d)/8)"
    )
    k: int
    bits: int = 3
    mask: str = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        check_kept(self.k, self.bits)
        if self.mask not in MASKS:
            raise ValueError(f"mask={self.mask!r}: expected one of {', '.join(MASKS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d

        def error(free: RandomMask) -> float:
            # Of normal coordinates of variance one: what is dropped, and Panter and Dite's error of what is rounded.
            return d - free.k + 2.7 * free.k * 2.0 ** (-2 * free.bits)

        fits = ([cls(k, bits) for k in range(d, 0, -1) if _fits(cls(k, bits), budget)][:1] for bits in BITS)
        free = sorted((most for found in fits for most in found), key=error)
        paid: list[Method] = []
        with suppress(BudgetTooSmall):
            paid = [cls(one.k, one.bits, "item") for one in fitting_formats(budget, d, shared=WIDTH)[:1]]
        return budget.fitting([*free[:1], *paid, *free[1:2]] or [cls(1, 16)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        stored = self._format(d)
        mask = np.dtype(index_dtype(d)).itemsize * stored.k if self.mask == "shared" else 0
        return stored.item_bytes(), WIDTH + mask + stored.shared_bytes(), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        n, d = vectors.shape
        if not n:
            raise BadInput(f"{self}: the fit sample is empty, so there are no values to learn levels from")
        k = min(self.k, d)
        shared: dict[str, Array] = {"width": np.array([d], np.uint32)}
        if self.mask == "shared":
            shared["mask"] = np.sort(_generator(self.seed).choice(d, k, replace=False)).astype(index_dtype(d))
        return shared | self._format(d).learn(self._drawn(vectors, shared)[1])

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        return self._format(int(shared["width"][0])).code(*self._drawn(vectors, shared), shared)

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        d = int(shared["width"][0])
        kept = self._format(d).rows(codes, shared)
        if self.mask == "item":
            return kept
        rows = np.zeros((len(kept), d), np.float32)
        rows[:, shared["mask"]] = kept
        return rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        stored = self._format(int(shared["width"][0]))
        kept = (lambda queries: queries[:, shared["mask"]]) if self.mask == "shared" else None
        return stored.searcher(codes, shared, metric, kept)

    def _format(self, d: int) -> SparseFormat:
        """Return how the entries are stored; under a shared mask, as all of the k coordinates that it leaves."""
        k = min(self.k, d)
        return SparseFormat(k, k if self.mask == "shared" else d, self.bits)

    def _drawn(self, vectors: Array, shared: Arrays) -> tuple[Array, Array]:
        n, d = vectors.shape
        k = min(self.k, d)
        if self.mask == "shared":
            return np.broadcast_to(np.arange(k), (n, k)), vectors[:, shared["mask"]]
        index = np.empty((n, k), np.int64)
        for part in blocks(n, ROWS):
            index[part] = np.sort(np.argsort(_draws(vectors[part], self.seed), axis=1, kind="stable")[:, :k], axis=1)
        return index, np.take_along_axis(vectors, index, axis=1)


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 0x6D61736B])  # not the plain stream, which synthetic items may be made of


def _draws(vectors: Array, seed: int) -> Array:
    """Return numbers (n, d) that look random and follow from the bits of their row: splitmix64 from a hash of it."""
    odd = _generator(seed).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    own = (vectors.view(np.uint32) * odd).sum(axis=1, dtype=np.uint64)
    mixed = own[:, None] + odd
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _fits(method: RandomMask, budget: Budget) -> bool:
    return budget.holds(*method.planned_bytes(budget.d))
