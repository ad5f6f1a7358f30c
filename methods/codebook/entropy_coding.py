"""A lossless stage behind any code: bytes that say little take less than a byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import COLD, Arrays, Hits, Method, Metric, Sample, Searcher, nest, unnest
from packbench.methods.codebook import rans
from packbench.methods.projection.pca import PCA
from packbench.methods.scalar.int4 import Int4
from packbench.registry import register

ROWS = 4096  # decoded at a time
FOUR_BITS = Int4()
LIKE = "like/"  # empty arrays that say what each array of the inner code looks like


@register
@dataclass(frozen=True, slots=True)
class EntropyCoding(Method):
    """Code the bytes of another method's codes by how often each occurs in its place, without loss.

    Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", 2022, with the simplest of its
    models, one histogram for each byte of a code, learnt in fit and weighed; coded by asymmetric numeral systems. Each
    item is coded on its own, and its length kept in one byte (two, where codes are longer than 255); a scan reads the
    items in their order and needs no offsets. Answers are those of the inner method, block by block.

    How much is saved depends on the items. It is never more than a length that is lost, so a budget is answered by
    inner codes that would fit as they are.
    """

    name: ClassVar[str] = "entropy_coding"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Liu, Mandt, Van den Broeck, Lossless Compression with Probabilistic Circuits, 2022"
    formula: ClassVar[str] = (
        "coded bytes + 1 per item (2 where the inner code is longer than 255); shared inner + 512 per inner byte"
    )

    inner: Method = FOUR_BITS

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return (planned.method for planned in budget.fitting(_candidates(budget)))

    def fit(self, sample: Sample) -> Arrays:
        shared = dict(self.inner.fit(sample))
        codes = self._inner_codes(sample.items, shared)
        found = {"tables": rans.frequencies(_as_bytes(codes))}
        found |= {LIKE + name: array[:0] for name, array in codes.items()}
        return found | nest(self.inner.name, shared)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        rows = _as_bytes(self._inner_codes(items, unnest(self.inner.name, shared)))
        values, lengths = rans.encode(rows, shared["tables"])
        return {"values": values, "lengths": lengths.astype(_length_type(rows.shape[1]))}

    def _inner_codes(self, items: Items, shared: Arrays) -> dict[str, Array]:
        """Return the inner codes of items, in the order of their names."""
        codes = self.inner.encode(items, shared)
        for name, array in codes.items():
            if name.startswith(COLD) or array.ndim == 0 or len(array) != len(items):
                raise BadInput(f"{self}: {self.inner} keeps {name!r}, which is not one row in memory per item")
        return {name: np.ascontiguousarray(codes[name]) for name in sorted(codes)}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _BlockwiseSearcher(self.inner, codes, shared, metric)


class _BlockwiseSearcher:
    """Decode a block, let the inner method search it, keep the best."""

    def __init__(self, inner: Method, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        self._inner, self._shared, self._metric = inner, unnest(inner.name, shared), metric
        self._values, self._lengths, self._tables = codes["values"], codes["lengths"], shared["tables"]
        self._like = {name.removeprefix(LIKE): array for name, array in shared.items() if name.startswith(LIKE)}
        empty = self._opened(np.zeros((0, len(self._tables)), np.uint8))
        self.kernel = f"rANS, {getattr(empty, 'kernel', 'unstated')}"

    def _opened(self, rows: Array) -> Searcher:
        return self._inner.open(_from_bytes(rows, self._like), self._shared, self._metric)

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        begins, first = rans.starts(self._tables), 0
        for part in blocks(len(self._lengths), ROWS):
            lengths = self._lengths[part]
            last = first + int(lengths.sum(dtype=np.int64))
            rows = rans.decode(self._values[first:last], lengths, self._tables, begins)
            first = last
            found = self._opened(rows).search(q, min(k, len(rows)))
            # The earlier of equals stay in front.
            scores = np.concatenate([scores, found.scores], axis=1)
            ids = np.concatenate([ids, np.where(found.ids >= 0, found.ids + part.start, -1)], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            ids, scores = np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1)
        return Hits(ids, scores)


def _as_bytes(codes: Mapping[str, Array]) -> Array:
    """Return codes, whose rows follow the items, as bytes (n, width)."""
    n = len(next(iter(codes.values())))
    parts = [array.reshape(n, int(np.prod(array.shape[1:]))).view(np.uint8) for array in codes.values()]
    return np.concatenate(parts, axis=1)


def _from_bytes(rows: Array, like: Mapping[str, Array]) -> dict[str, Array]:
    """Undo `_as_bytes`, given an empty array of each kind."""
    found, first = {}, 0
    for name in sorted(like):
        shape, dtype = like[name].shape[1:], like[name].dtype
        last = first + int(np.prod(shape)) * dtype.itemsize
        found[name] = np.ascontiguousarray(rows[:, first:last]).view(dtype).reshape(len(rows), *shape)
        first = last
    return found


def _length_type(width: int) -> type[np.unsignedinteger]:
    return np.uint8 if width <= 255 else np.uint16


@dataclass(frozen=True, slots=True)
class _Planned:
    """Plan a configuration at the most that it can weigh."""

    method: Method
    item: float
    shared: float

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self.item, self.shared, 0.0


def _candidates(budget: Budget) -> Iterator[_Planned]:
    """Yield four-bit codes of all coordinates, or of the most principal ones that fit."""
    plain = _at_most(Int4(), budget.d)
    if budget.holds(plain.item, plain.shared):
        yield plain
    for bits in (4, 5, 3):
        behind = (_at_most(Int4(bits=bits), dim, PCA(dim), budget.d) for dim in range(budget.d, 0, -1))
        found = next((one for one in behind if budget.holds(one.item, one.shared)), None)
        yield found or _at_most(Int4(bits=2), 1, PCA(1), budget.d)


def _at_most(inner: Int4, dim: int, front: PCA | None = None, d: int = 0) -> _Planned:
    item, shared, _ = inner.planned_bytes(dim)
    method: Method = EntropyCoding(inner)
    return _Planned(
        front | method if front else method,
        item + np.dtype(_length_type(int(item))).itemsize,
        shared + 512 * item + (front.shared_bytes(d) if front else 0),
    )
