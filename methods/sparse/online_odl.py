"""Learn an orthogonal dictionary in one pass over a stream, and keep the largest products with its atoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import polar

from packbench.budget import Budget
from packbench.factors import generator, random_orthogonal
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.centre import Centre
from packbench.methods.projection.linear import map_queries, map_rows
from packbench.methods.projection.moments import learnable
from packbench.methods.sparse.support import SparseFormat, check_kept, fitting_formats, top_k_rows
from packbench.registry import register

BATCH = 10  # rows of a step, or more where the sample would take more steps than:
STEPS = 200  # each is a polar decomposition, O(d^3)


@register
@dataclass(frozen=True, slots=True)
class OnlineODL(Codec):
    """Keep the k largest coordinates in an orthogonal dictionary that one pass over the sample has learnt.

    Sparse coordinates y = D^T x are those of greatest E |y|_3^3, of which each mini-batch gives a gradient; a weighted
    mean of gradients so far is maximised over the matrices of spectral norm one, which gives its polar factor, and the
    dictionary moves there by a Frank-Wolfe step. At the end it is brought to the nearest orthogonal matrix. Weights
    4/sqrt(t + 1) and steps 2/(t + 2)^(3/4) are those of the authors' programs. Values and places are stored as in
    magnitude_prune, which is an addition, as is the cut to k. Xue, Lau, "Online Orthogonal Dictionary Learning Based
    on Frank-Wolfe Method", 2021.
    """

    name: ClassVar[str] = "online_odl"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Xue, Lau, Online Orthogonal Dictionary Learning Based on Frank-Wolfe Method, 2021"
    formula: ClassVar[str] = (
        "places of k out of d as in magnitude_prune + ceil(bits k/8) + 2 per item (bits=16: places + 2k); shared "
        "2 d^2 + 4 2^bits (bits=16: 2 d^2)"
    )
    k: int
    bits: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_kept(self.k, self.bits)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        formats = fitting_formats(budget, d, shared=_dictionary_bytes(d) + Centre().shared_bytes(d))
        # Coordinates in a learnt dictionary are more unequal than the normal ones that formats are ordered for.
        bits = 2 if budget.bytes_per_item < 32 else 3
        finer = [one for one in formats if one.bits >= bits]
        return [Centre() | cls(one.k, one.bits) for one in (finer or formats)[:3]]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        stored = self._format(d)
        return stored.item_bytes(), _dictionary_bytes(d) + stored.shared_bytes(), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        atoms = np.ascontiguousarray(self.learn(vectors).T).astype(np.float16)
        stored = self._format(len(atoms))
        some = vectors[: BATCH * STEPS]
        values = top_k_rows(map_rows(some, atoms.astype(np.float32)), stored.k)[1]
        return {"atoms": atoms, **stored.learn(values)}

    def learn(self, vectors: Array) -> Array:
        """Return the orthogonal dictionary (d, d) float32, of columns, that one pass over vectors (n, d) leaves."""
        n, d = vectors.shape
        dictionary = random_orthogonal(d, self.seed)
        mean = np.zeros((d, d), np.float32)
        stream = generator(self.seed).permutation(n)
        for t, rows in enumerate(np.array_split(stream, min(STEPS, -(-n // BATCH))), 1):
            batch = vectors[rows]
            products = batch @ dictionary
            gradient = batch.T @ (products * np.abs(products)) / len(rows)
            mean += min(1.0, 4 / (t + 1) ** 0.5) * (gradient - mean)
            dictionary += min(1.0, 2 / (t + 2) ** 0.75) * (polar(mean)[0] - dictionary)
        return np.asarray(polar(dictionary)[0])

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        atoms = shared["atoms"].astype(np.float32)
        stored = self._format(len(atoms))
        return stored.code(*top_k_rows(map_rows(as_vectors(items), atoms), stored.k), shared)

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        atoms = shared["atoms"].astype(np.float32)
        return map_rows(self._format(len(atoms)).rows(codes, shared), np.ascontiguousarray(atoms.T))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        atoms = shared["atoms"].astype(np.float32)
        return self._format(len(atoms)).searcher(codes, shared, metric, lambda queries: map_queries(queries, atoms))

    def _format(self, d: int) -> SparseFormat:
        return SparseFormat(min(self.k, d), d, self.bits)


def _dictionary_bytes(d: int) -> float:
    return 2.0 * d * d
