"""Search twice: a small code finds a shortlist, a larger one orders it. Both stores are weighed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import COLD, Arrays, Codec, Hits, Method, Metric, Sample, Searcher, nest, unnest
from packbench.registry import register

PAPER = "Grzegorczyk, Vector Representations of Text Data in Deep Learning, 2019"
BLOCK_BYTES = 16 << 20  # decoded rows held at a time


@register
@dataclass(frozen=True, slots=True)
class Rescore(Method):
    """Take the best factor * k items of a first method and order them by the decoded vectors of a second.

    The two-stage pattern, as in Grzegorczyk, Vector Representations of Text Data in Deep Learning, 2019, and Kusupati
    et al., Matryoshka Representation Learning, 2022. The second store is decoded for shortlisted rows only and scored
    exactly under the metric. With tier="disk" its per-item arrays go to the cold tier: they stay on disk, weighed in a
    column of their own, and a query reads the rows of its shortlist; what the second shares stays in memory.
    """

    name: ClassVar[str] = "rescore"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    answers_whole: ClassVar[bool] = True
    paper: ClassVar[str] = PAPER
    formula: ClassVar[str] = "first + second, per item and shared; with tier='disk' the second's items are cold"

    first: Method
    second: Codec
    factor: int = 10
    tier: str = "ram"

    def __post_init__(self) -> None:
        _check(self.factor, self.tier)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return _fill(budget, (("rabitq()", 10), ("sign(scorer='asymmetric')", 10)))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, cold = self.first.planned_bytes(d)
        item_2, shared_2, cold_2 = self.second.planned_bytes(d)
        if self.tier == "disk":
            item_2, cold_2 = 0.0, cold_2 + item_2
        return item + item_2, shared + shared_2, cold + cold_2

    def _parts(self) -> tuple[str, str]:
        return f"0.{self.first.name}", f"1.{self.second.name}"

    def fit(self, sample: Sample) -> Arrays:
        first, second = self._parts()
        return nest(first, self.first.fit(sample)) | nest(second, self.second.fit(sample))

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        first, second = self._parts()
        rows = self.second.encode(items, unnest(second, shared))
        if self.tier == "disk":
            rows = {COLD + name.removeprefix(COLD): array for name, array in rows.items()}
        return nest(first, self.first.encode(items, unnest(first, shared))) | nest(second, rows)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        first, second = self._parts()
        rows = unnest(second, codes)
        lengths = {array.shape[:1] for array in rows.values()}
        if len(lengths) != 1 or () in lengths:
            raise BadInput(f"{self}: {self.second} does not keep one row per item, so a shortlist cannot be decoded")
        if self.tier == "disk":
            rows = {name.removeprefix(COLD): array for name, array in rows.items()}
        inner = self.first.open(unnest(first, codes), unnest(first, shared), metric)
        return RescoreSearcher(inner, self.second, rows, unnest(second, shared), metric, self.factor, self.tier)

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        first, _ = self._parts()
        mine = unnest(first, codes), unnest(first, shared), metric
        return {**self.first.stages(*mine), "shortlist": self.first.open(*mine)}


class RescoreSearcher:
    """Ask the first searcher for factor * k items and order them by exact scores of the second's decoded rows."""

    def __init__(
        self, inner: Searcher, second: Codec, rows: Arrays, shared: Arrays, metric: Metric, factor: int, tier: str
    ) -> None:
        self._inner, self._second, self._rows, self._shared = inner, second, rows, shared
        self._score, self._factor = score_of(metric), factor
        self._n = len(next(iter(rows.values())))
        self._row_bytes = sum(array.nbytes for array in rows.values()) // max(self._n, 1) if tier == "disk" else 0
        self.kernel = f"{getattr(inner, 'kernel', 'unstated')}, then decode"

    def cold_bytes_per_query(self, k: int) -> int:
        """Return the bytes of the cold rows that a query asks for; whole pages are read, so a disk sees more."""
        shortlist = min(self._factor * k, self._n)
        of_inner = getattr(self._inner, "cold_bytes_per_query", None)
        return shortlist * self._row_bytes + (int(of_inner(shortlist)) if of_inner else 0)

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids = np.full((len(q), k), -1, np.int64)
        scores = np.full((len(q), k), -np.inf, np.float32)
        shortlist = min(self._factor * k, self._n)
        if shortlist == 0 or len(q) == 0:
            return Hits(ids, scores)
        found = self._inner.search(q, shortlist).ids
        for part in blocks(len(q), max(1, BLOCK_BYTES // (4 * shortlist * q.shape[1]))):
            # Each row is decoded once for the block, however many of its queries listed it, and read in order of id.
            listed = np.unique(found[part])
            listed = listed[listed >= 0]
            vectors = self._decoded(listed)
            for row in range(part.start, part.stop):
                mine = np.sort(found[row][found[row] >= 0])
                own = vectors[np.searchsorted(listed, mine)].astype(np.float64)
                # Float64 sums rounded to float32 are the same for equal rows, wherever in a product these stand; and
                # a stable sort of ascending ids gives equal scores to the lower id.
                exact = self._score(q[row : row + 1].astype(np.float64), own)[0].astype(np.float32)
                best = np.argsort(-exact, kind="stable")[:k]
                ids[row, : len(best)], scores[row, : len(best)] = mine[best], exact[best]
        return Hits(ids, scores)

    def _decoded(self, ids: Array) -> Array:
        return self._second.decode({name: np.asarray(array[ids]) for name, array in self._rows.items()}, self._shared)


@register
@dataclass(frozen=True, slots=True)
class BinaryRescore(Method):
    """Find a shortlist by sign bits and order it by a larger store of each vector; both stores are charged.

    The pattern is rescore's, which see; as it stands it is rescore(sign(), int8()). Solved for a budget it becomes
    the rescore with the most exact second store that fits: on disk where the budget grants bytes there, else in RAM.
    """

    name: ClassVar[str] = "binary_rescore"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    answers_whole: ClassVar[bool] = True
    paper: ClassVar[str] = PAPER
    formula: ClassVar[str] = "ceil(d/8) per item, and the bytes of the second store, in RAM or cold"

    factor: int = 10
    tier: str = "ram"

    def __post_init__(self) -> None:
        _check(self.factor, self.tier)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        # Scored with the float query the bits give the better shortlist; Hamming distances make up for it in width.
        # Only the mean as threshold splits coordinates that are never negative.
        asymmetric = "sign(scorer='asymmetric')", "sign(threshold='mean', scorer='asymmetric')"
        return _fill(budget, ((asymmetric[0], 10), (asymmetric[1], 10), ("sign()", 20)))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self._rescore().planned_bytes(d)

    def fit(self, sample: Sample) -> Arrays:
        return self._rescore().fit(sample)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return self._rescore().encode(items, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return self._rescore().open(codes, shared, metric)

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        return self._rescore().stages(codes, shared, metric)

    def _rescore(self) -> Rescore:
        return Rescore(_method("sign()"), _codec("int8()"), self.factor, self.tier)


def _check(factor: int, tier: str) -> None:
    if factor < 1:
        raise ValueError(f"factor={factor}: expected at least 1")
    if tier not in ("ram", "disk"):
        raise ValueError(f"tier={tier!r}: expected one of ram, disk")


def _fill(budget: Budget, firsts: tuple[tuple[str, int], ...]) -> Iterable[Method]:
    """Yield what fits of each first stage (a spec and its factor) over second stores, the most exact ones first."""
    stores = [("ram", "float16()"), ("ram", "int8()"), ("ram", "int4()")]
    if budget.cold_bytes_per_item > 0:
        stores = [("disk", "float32()"), ("disk", "float16()"), ("disk", "int8()"), ("disk", "int4()"), *stores]
    return budget.fitting(
        Rescore(_method(first), _codec(second), factor, tier) for tier, second in stores for first, factor in firsts
    )


def _method(spec: str) -> Method:
    # Imported late: the parser imports every method, this file among them.
    from packbench.spec import parse

    return parse(spec)


def _codec(spec: str) -> Codec:
    return cast(Codec, _method(spec))
