"""Keep the largest coordinates of each vector and pay for their places."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.centre import Centre
from packbench.methods.sparse.support import SparseFormat, check_kept, fitting_formats, top_k_rows
from packbench.registry import register

WIDTH = 4.0  # bytes of the shared width, which cannot be told from packed places


@register
@dataclass(frozen=True, slots=True)
class MagnitudePrune(Codec):
    """Keep the k largest coordinates of each vector, with their places.

    bits is the size of a value: 16 for float16, up to 8 for a number of the 2^bits levels that Lloyd's iteration
    learns for kept values over the vector's own scale. Places take the shortest of three codes of fixed size. The
    largest are those of each vector, not of the whole table, so that a code does not depend on other items and needs
    no row pointers. DeepLight's pruning after training, as in Zhang, Zhao, Miao, Shao, Liu, Yang and Cui, "Experimental
    Analysis of Large-scale Learnable Vector Storage Compression", 2023.
    """

    name: ClassVar[str] = "magnitude_prune"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zhang, Zhao, Miao, Shao, Liu, Yang, Cui, Experimental Analysis of Large-scale Learnable Vector Storage "
        "Compression, 2023"
    )
    formula: ClassVar[str] = (
        "places + ceil(bits k/8) + 2 per item (bits=16: places + 2k), places the least over l of "
        "ceil(min(d, k + floor((d - 1)/2^l) + k l, k ceil(log2 d))/8), none if k = d; "
        "shared 4 + 4 2^bits (bits=16: 4)"
    )
    k: int
    bits: int = 3

    def __post_init__(self) -> None:
        check_kept(self.k, self.bits)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        plain = [cls(one.k, one.bits) for one in fitting_formats(budget, d, shared=WIDTH)]
        about: list[Method] = []
        with suppress(BudgetTooSmall):
            best = fitting_formats(budget, d, shared=WIDTH + Centre().shared_bytes(d))[0]
            about = [Centre() | cls(best.k, best.bits)]
        return [plain[0], *about, *plain[1:2]]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        stored = self._format(d)
        return stored.item_bytes(), WIDTH + stored.shared_bytes(), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there are no values to learn levels from")
        stored = self._format(vectors.shape[1])
        return stored.learn(top_k_rows(vectors, stored.k)[1]) | {"width": np.array([vectors.shape[1]], np.uint32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        stored = self._format(int(shared["width"][0]))
        return stored.code(*top_k_rows(as_vectors(items), stored.k), shared)

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return self._format(int(shared["width"][0])).rows(codes, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return self._format(int(shared["width"][0])).searcher(codes, shared, metric)

    def _format(self, d: int) -> SparseFormat:
        return SparseFormat(min(self.k, d), d, self.bits)
