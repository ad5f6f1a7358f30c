"""Search the first coordinates, then order a shrinking list by more and more of them. Every part is weighed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, width
from packbench.method import COLD, Arrays, Codec, Hits, Method, Metric, Sample, Searcher, nest, unnest
from packbench.methods.scalar.float16 import Float16
from packbench.methods.scalar.float32 import Float32
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.int8 import Int8
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class MRLAdaptive(Codec):
    """Take a shortlist of factor * k items by the first `dim` coordinates and order it by all of them.

    Adaptive retrieval; with funnel=True the list is halved and the number of coordinates doubled until all are used.
    The first coordinates and the rest are coded apart by `code`, each once, so what this saves against the code alone
    is time, unless tier="disk" leaves the rest on disk, weighed in a column of its own. Faithful on vectors of a model
    trained for it; on others the first coordinates are no better than any. Every prefix is scored under the metric as a
    vector of its own. Kusupati and others, "Matryoshka Representation Learning", 2022.
    """

    name: ClassVar[str] = "mrl_adaptive"
    fidelity: ClassVar[str] = "READ-OUT"
    kind: ClassVar[str] = "codec"
    answers_whole: ClassVar[bool] = True
    paper: ClassVar[str] = "Kusupati et al., Matryoshka Representation Learning, 2022"
    formula: ClassVar[str] = "code(dim) + code(d - dim), per item and shared; tier='disk': the second's items are cold"

    code: Codec
    dim: int
    factor: int = 10
    funnel: bool = False
    tier: str = "ram"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.factor < 1:
            raise ValueError(f"dim and factor are at least 1, got dim={self.dim}, factor={self.factor}")
        if self.tier not in ("ram", "disk"):
            raise ValueError(f"tier={self.tier!r}: expected one of ram, disk")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        codes = [Float32(), Float16(), Int8(), *(Int4(bits=bits) for bits in range(7, 1, -1))]
        dims = sorted({max(1, budget.d // share) for share in (4, 2, 8)} - {budget.d}, reverse=True) or [1]
        on_disk = [cls(code=code, dim=dim, tier="disk") for code in codes[:3] for dim in dims]
        in_ram = [cls(code=code, dim=dim) for code in codes for dim in dims]
        return budget.fitting([*on_disk, *in_ram] if budget.cold_bytes_per_item > 0 else in_ram)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, cold = self.code.planned_bytes(self.dim)
        item_2, shared_2, cold_2 = self.code.planned_bytes(max(d - self.dim, 0))
        if self.tier == "disk":
            item_2, cold_2 = 0.0, cold_2 + item_2
        return item + item_2, shared + shared_2, cold + cold_2

    def fit(self, sample: Sample) -> Arrays:
        if self.dim >= width(sample.items):
            raise BadInput(f"{self}: the vectors have {width(sample.items)} coordinates; dim must leave some for later")
        shared: dict[str, Array] = {}
        for part, columns in self._parts():
            items = as_vectors(sample.items, "fit sample")[:, columns]
            queries = None if sample.queries is None else as_vectors(sample.queries, "fit queries")[:, columns]
            shared |= nest(part, self.code.fit(dataclasses.replace(sample, items=items, queries=queries)))
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors, codes = as_vectors(items), dict[str, Array]()
        for part, columns in self._parts():
            rows = dict(self.code.encode(vectors[:, columns], unnest(part, shared)))
            if part == "rest" and self.tier == "disk":
                rows = {COLD + name.removeprefix(COLD): array for name, array in rows.items()}
            codes |= nest(part, rows)
        return codes

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return np.hstack([self.code.decode(self._rows(part, codes), unnest(part, shared)) for part, _ in self._parts()])

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        inner = self.code.open(unnest("first", codes), unnest("first", shared), metric)
        return _FunnelSearcher(self, inner, codes, shared, metric)

    def _parts(self) -> tuple[tuple[str, slice], tuple[str, slice]]:
        return ("first", slice(0, self.dim)), ("rest", slice(self.dim, None))

    def _rows(self, part: str, codes: Arrays) -> dict[str, Array]:
        rows = unnest(part, codes)
        if part == "rest" and self.tier == "disk":
            return {name.removeprefix(COLD): array for name, array in rows.items()}
        return rows


class _FunnelSearcher:
    """Ask for a shortlist by the first coordinates; order and cut it by exact scores of longer decoded prefixes."""

    def __init__(self, method: MRLAdaptive, inner: Searcher, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        self._method, self._inner, self._codes, self._shared = method, inner, dict(codes), shared
        self._score = score_of(metric)
        self._n = len(next(iter(codes.values())))
        cold = sum(array.nbytes for name, array in codes.items() if name.startswith(COLD))
        self._row_bytes = cold // max(self._n, 1)
        self.kernel = f"{getattr(inner, 'kernel', 'unstated')}, then decode"

    def cold_bytes_per_query(self, k: int) -> int:
        """Return the bytes of the cold rows that a query asks for; whole pages are read, so a disk sees more."""
        return min(self._method.factor * k, self._n) * self._row_bytes

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        if not self._n or not len(q):
            return Hits(ids, scores)
        listed = self._method.factor * k
        found = self._inner.search(np.ascontiguousarray(q[:, : self._method.dim]), min(listed, self._n)).ids
        for row, query in enumerate(q.astype(np.float64)):
            mine = np.sort(found[row][found[row] >= 0])
            rows = {name: np.asarray(array[mine]) for name, array in self._codes.items()}
            vectors = self._method.decode(rows, self._shared).astype(np.float64)
            for prefix, kept in self.stages(q.shape[1], k):
                exact = self._score(query[None, :prefix], vectors[:, :prefix])[0].astype(np.float32)
                # A stable sort of ascending ids gives equal scores to the lower id.
                best = np.argsort(-exact, kind="stable")[:kept]
                if prefix == q.shape[1]:
                    ids[row, : len(best)], scores[row, : len(best)] = mine[best], exact[best]
                    break
                best.sort()
                mine, vectors = mine[best], vectors[best]
        return Hits(ids, scores)

    def stages(self, d: int, k: int) -> list[tuple[int, int]]:
        """List how many coordinates each later stage looks at, and how many items it leaves; the last leaves k."""
        found, prefix, listed = [], self._method.dim, self._method.factor * k
        while self._method.funnel and 2 * prefix < d:
            prefix, listed = 2 * prefix, max(k, listed // 2)
            found.append((prefix, listed))
        return [*found, (d, k)]
