"""Write vectors as a part of low rank and a sparse rest."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.exact import DecodeSearcher
from packbench.factors import generator, leading, moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher, nest, rows_of, unnest
from packbench.methods.projection.centre import Centre
from packbench.methods.projection.linear import map_queries, map_rows
from packbench.methods.projection.moments import learnable
from packbench.methods.sparse.support import BITS, SparseFormat, SparseSearcher, densify, index_dtype, top_k_rows
from packbench.registry import register

SUPPORTS = ("largest", "seeded")
TABLE = 256  # seeded supports there are
ROUNDS = 10


@register
@dataclass(frozen=True, slots=True)
class LowRankPlusSparse(Codec):
    """Keep each vector's coordinates in a shared subspace of low rank, and s entries of what the subspace leaves.

    support="largest" takes the largest entries and pays for their places as magnitude_prune does. support="seeded"
    takes one of 256 random supports, told by the bits of the low-rank code, so that places cost nothing. Subspace and
    rest are fitted in turn. Values are numbers of 2^bits learnt levels, or float16 with bits=16. Han, Li, Huang, Hong,
    Takeda, Jawanpuria, Mishra, "SLTrain: a sparse plus low-rank approach for parameter and memory efficient
    pretraining", 2024: its decomposition, of vectors instead of weights and without its training.
    """

    name: ClassVar[str] = "lowrank_plus_sparse"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Han, Li, Huang, Hong, Takeda, Jawanpuria, Mishra, SLTrain: a sparse plus low-rank approach for parameter and "
        "memory efficient pretraining, 2024"
    )
    formula: ClassVar[str] = (
        "ceil(bits rank/8) + ceil(bits s/8) + 4 per item (bits=16: 2 rank + 2 s), with support='largest' also places "
        "as in magnitude_prune; shared 2 rank d + 4 rank + 4 + 8 2^bits (bits=16: without the last), with "
        "support='seeded' also 256 s ceil(log2(d)/8)"
    )
    rank: int
    s: int
    bits: int = 4
    support: str = "largest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.s < 1:
            raise ValueError(f"rank and s are at least 1, got rank={self.rank}, s={self.s}")
        if self.bits not in BITS:
            raise ValueError(f"bits is one of {', '.join(map(str, BITS))}; got {self.bits}")
        if self.support not in SUPPORTS:
            raise ValueError(f"support={self.support!r}: expected one of {', '.join(SUPPORTS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        # Few bytes go furthest as many signs; from about 32 on, finer values and fewer of them come nearer.
        bits = 1 if budget.bytes_per_item < 32 else 3
        found: list[Method] = []
        for more, share, support in ((0, 0.6, "largest"), (0, 0.85, "seeded"), (1, 0.6, "largest")):
            with suppress(BudgetTooSmall):
                found.append(cls._filling(budget, bits + more, share, support))
        return budget.fitting(dict.fromkeys(found) or [cls(1, 1, 1)])

    @classmethod
    def _filling(cls, budget: Budget, bits: int, share: float, support: str) -> Method:
        """Return the configuration about the mean whose low-rank part takes that share of the bytes."""
        d, given = budget.d, share * max(budget.bytes_per_item - 6, 1) * 8
        bits = max(bits, min(8, ceil(given / d)))
        rank = min(d, max(1, int(given / bits)))
        return next(iter(budget.fitting(Centre() | cls(rank, s, bits, support) for s in range(d, 0, -1))))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        low, rest = self._formats(d)
        shared = 2.0 * low.k * d + 4.0 * low.k + 4 + low.shared_bytes() + rest.shared_bytes()
        table = TABLE * rest.k * np.dtype(index_dtype(d)).itemsize if self.support == "seeded" else 0
        return low.item_bytes() + rest.item_bytes(), shared + table, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        n, d = vectors.shape
        low, rest = self._formats(d)
        shared: dict[str, Array] = {"width": np.array([d], np.uint32)}
        rng = generator(self.seed)
        drawn = np.zeros((0, rest.k), np.int64)
        if self.support == "seeded":
            drawn = np.sort(rng.permuted(np.tile(np.arange(d), (TABLE, 1)), axis=1)[:, : rest.k], axis=1)
            shared["supports"] = drawn.astype(index_dtype(d))
        basis = self.decompose(vectors, drawn[rng.integers(TABLE, size=n)] if len(drawn) else None)[0]
        shared["basis"] = basis.astype(np.float16)
        along = map_rows(vectors, shared["basis"].astype(np.float32))
        spread = np.sqrt((along**2).mean(axis=0))
        shared["spread"] = np.where(spread > 0, spread, 1).astype(np.float32)
        shared |= nest("low", low.learn(along / shared["spread"]))
        # The rest takes up what rounding leaves of the low-rank part.
        return shared | nest("rest", rest.learn(self._rest(vectors, *self._low(vectors, shared), shared)[1]))

    def decompose(self, vectors: Array, supports: Array | None = None) -> tuple[Array, list[float]]:
        """Return the subspace (rank, d) of X = L + S, fitted in turn, and the squared error after each round.

        supports: (n, s) places of what is sparse; none means the s largest of what the subspace leaves.
        """
        low, rest = self._formats(vectors.shape[1])
        sparse = np.zeros_like(vectors)
        errors: list[float] = []
        for _ in range(ROUNDS):
            basis = leading(moment(vectors - sparse), low.k)[1].astype(np.float32)
            left = vectors - (vectors - sparse) @ basis.T @ basis
            places = top_k_rows(left, rest.k)[0].astype(np.int64) if supports is None else supports
            sparse = np.zeros_like(vectors)
            np.put_along_axis(sparse, places, np.take_along_axis(left, places, axis=1), axis=1)
            errors.append(float(((left - sparse) ** 2).sum(dtype=np.float64)))
        return basis, errors

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        _, rest = self._formats(vectors.shape[1])
        codes, rows = self._low(vectors, shared)
        coded = rest.code(*self._rest(vectors, codes, rows, shared), unnest("rest", shared))
        return nest("low", codes) | nest("rest", coded)

    def _low(self, vectors: Array, shared: Arrays) -> tuple[dict[str, Array], Array]:
        """Return the codes of the low-rank part and the vectors (n, d) that they stand for."""
        low, rest = self._formats(vectors.shape[1])
        basis = shared["basis"].astype(np.float32)
        along = map_rows(vectors, basis)
        if self.support == "largest":
            for _ in range(ROUNDS // 3):
                index, values = top_k_rows(vectors - map_rows(along, np.ascontiguousarray(basis.T)), rest.k)
                along = map_rows(vectors - densify(index, values, vectors.shape[1]), basis)
        places = np.broadcast_to(np.arange(low.k), along.shape)
        codes = low.code(places, along / shared["spread"], unnest("low", shared))
        return codes, self._low_rows(codes, shared)

    def _low_rows(self, codes: Arrays, shared: Arrays) -> Array:
        low, _ = self._formats(int(shared["width"][0]))
        basis = shared["basis"].astype(np.float32) * shared["spread"][:, None]
        return map_rows(low.rows(codes, unnest("low", shared)), np.ascontiguousarray(basis.T))

    def _rest(self, vectors: Array, codes: Arrays, rows: Array, shared: Arrays) -> tuple[Array, Array]:
        """Return positions and values (n, s) of what the decoded low-rank part leaves."""
        if self.support == "largest":
            return top_k_rows(vectors - rows, self._formats(vectors.shape[1])[1].k)
        places = supports_of(codes, shared)
        return places, np.take_along_axis(vectors - rows, places, axis=1)

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = self._low_rows(unnest("low", codes), shared)
        return rows + densify(*self._rest_entries(codes, shared), rows.shape[1])

    def _rest_entries(self, codes: Arrays, shared: Arrays) -> tuple[Array, Array]:
        _, rest = self._formats(int(shared["width"][0]))
        index, values = rest.entries(unnest("rest", codes), unnest("rest", shared))
        return (supports_of(unnest("low", codes), shared) if self.support == "seeded" else index), values

    def entries(self, codes: Arrays, shared: Arrays) -> tuple[Array, Array]:
        """Return positions and values (n, rank + s) over the rank directions of the subspace and the d coordinates."""
        low, _ = self._formats(int(shared["width"][0]))
        first, along = low.entries(unnest("low", codes), unnest("low", shared))
        index, values = self._rest_entries(codes, shared)
        return np.concatenate([first, index.astype(np.int64) + low.k], axis=1), np.concatenate([along, values], axis=1)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        # Lengths of sums of both parts are in no code.
        return _Searcher(self, codes, shared) if metric == "ip" else DecodeSearcher(self, codes, shared, metric)

    def _formats(self, d: int) -> tuple[SparseFormat, SparseFormat]:
        """Return how the low-rank part and the rest are stored; without places, as all of so many coordinates."""
        rank, s = min(self.rank, d), min(self.s, d)
        return SparseFormat(rank, rank, self.bits), SparseFormat(s, s if self.support == "seeded" else d, self.bits)


def supports_of(codes: Arrays, shared: Arrays) -> Array:
    """Return the seeded places (n, s) of items with these low-rank codes: a hash of their bits chooses the support."""
    held = np.ascontiguousarray(codes["values"]).view(np.uint8)
    odd = generator(0).integers(1 << 63, size=held.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashed = (held * odd).sum(axis=1, dtype=np.uint64) >> np.uint64(56)
    return np.asarray(shared["supports"][hashed].astype(np.int64))


class _Searcher(SparseSearcher):
    """Add up the products with the directions of the subspace and with coordinates."""

    def __init__(self, method: LowRankPlusSparse, codes: Arrays, shared: Arrays) -> None:
        atoms = shared["basis"].astype(np.float32) * shared["spread"][:, None]
        super().__init__(
            codes["low/values"], None, len(atoms) + int(shared["width"][0]), "ip",
            map_queries=lambda queries: np.concatenate([map_queries(queries, atoms), queries], axis=1),
        )  # fmt: skip
        self._method, self._codes, self._shared = method, codes, shared

    def entries(self, part: slice) -> tuple[Array, Array]:
        return self._method.entries(rows_of(self._codes, part), self._shared)
