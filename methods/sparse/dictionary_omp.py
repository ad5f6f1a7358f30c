"""Learn a dictionary and keep the few atoms whose span comes nearest to a vector."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit
from scipy.sparse import csr_array

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.exact import DecodeSearcher
from packbench.factors import generator
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.centre import Centre
from packbench.methods.projection.linear import map_queries, map_rows, rule_of, unit
from packbench.methods.projection.moments import directed, learnable
from packbench.methods.sparse.support import BITS, HALF, SparseFormat
from packbench.registry import register

BATCHES = 8
BATCH_ROWS = 1024
LEARNT_ATOMS = 16  # of a code while the dictionary is learnt
LEVEL_VALUES = 1 << 15  # that levels are learnt from
TOGETHER = 32  # atoms whose products with all others are made at once
COST = 1 << 25  # multiplications for one item, r k^2 / 2, that for_budget does not go beyond: some ten milliseconds
ROWS = 1024
MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 without its sign
SPANNED = 1e-4  # the squared sine of the angle below which an atom adds nothing to those chosen


@register
@dataclass(frozen=True, slots=True)
class DictionaryOMP(Codec):
    """Write each vector as a sum of k atoms out of a learnt dictionary of r, found by orthogonal matching pursuit.

    The pursuit takes the atom that agrees best with what is left, and fits all values anew after each. Places and
    values are stored as in magnitude_prune; the scale makes the decoded vector nearest to the item, or under cosine of
    unit length. Atoms are float16, begin as rows of the fit sample (unit vectors fill up what it lacks) and learn by
    Mairal, Bach, Ponce, Sapiro, "Online Dictionary Learning for Sparse Coding", 2009, with these codes for its own.
    Pati, Rezaiifar, Krishnaprasad, "Orthogonal Matching Pursuit", 1993; the dense-sparse product is that of Chand,
    Prabhu, Kumar, "DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization", 2023.
    """

    name: ClassVar[str] = "dictionary_omp"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Chand, Prabhu, Kumar, DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight "
        "Factorization, 2023"
    )
    formula: ClassVar[str] = (
        "places of k out of r as in magnitude_prune + ceil(bits k/8) + 2 per item; shared 2 r d + 1 + 4 2^bits "
        "(bits=16: places + 2k; shared 2 r d + 1)"
    )
    k: int
    r: int
    bits: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.r:
            raise ValueError(f"k atoms are chosen among r: expected 1 <= k <= r, got k={self.k}, r={self.r}")
        if self.bits not in BITS:
            raise ValueError(f"bits is one of {', '.join(map(str, BITS))}; got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        d = budget.d
        few = budget.bytes_per_item < 32  # then the first, greatest atoms are all there is, and three bits suffice
        found: list[Method] = []
        for atoms, bits in ((2 * d, 3 if few else 5), (4 * d, 3 if few else 5), (d, 8), (max(1, d // 4), 3), (2, 1)):
            with suppress(BudgetTooSmall):
                found.append(cls._filling(budget, atoms, bits))
        return budget.fitting(found[:3] or [cls(1, 1, 1)])

    @classmethod
    def _filling(cls, budget: Budget, r: int, bits: int) -> Method:
        """Return the configuration of most atoms that fits, about the mean."""
        most = min(r, budget.d, int((2 * COST / r) ** 0.5) or 1)
        return next(iter(budget.fitting(Centre() | cls(k, r, bits) for k in range(most, 0, -1))))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        stored = self._format()
        return stored.item_bytes(), 2.0 * self.r * d + 1 + stored.shared_bytes(), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample)
        rng = generator(self.seed)
        atoms = _learnt(vectors, _beginning(vectors, self.r, rng), min(self.k, LEARNT_ATOMS), rng).astype(np.float16)
        some = vectors[np.sort(rng.permutation(len(vectors))[: -(-LEVEL_VALUES // self.k)])]
        values = pursue(some, atoms.astype(np.float32), self.k)[1]
        return {"atoms": atoms, "rule": rule_of(sample.metric), **self._format().learn(values)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = directed(items, shared["rule"])
        parts = [self._coded(vectors[part], shared) for part in blocks(len(vectors), ROWS)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else (
            self._coded(vectors, shared))  # fmt: skip

    def _coded(self, vectors: Array, shared: Arrays) -> dict[str, Array]:
        index, values = pursue(vectors, shared["atoms"].astype(np.float32), self.k)
        codes = self._format().code(index, values, shared)
        if "scale" not in codes and not self._unit(shared):
            return codes
        codes["scale"] = np.ones((len(vectors), 1), np.float16)
        rows = self.decode(codes, shared)
        energy = np.einsum("ij,ij->i", rows, rows)[:, None]
        agreed = np.sqrt(energy) if self._unit(shared) else np.einsum("ij,ij->i", rows, vectors)[:, None]
        scale = np.minimum(np.maximum(agreed, 0) / np.where(energy > 0, energy, 1), HALF)
        if self.bits == 16:
            del codes["scale"]
            return codes | {"values": np.minimum(codes["values"] * scale, HALF).astype(np.float16)}
        return codes | {"scale": scale.astype(np.float16)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        atoms = shared["atoms"].astype(np.float32)
        return map_rows(self._format().rows(codes, shared), np.ascontiguousarray(atoms.T))

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if metric != "ip" and not (metric == "cosine" and self._unit(shared)):
            return DecodeSearcher(self, codes, shared, metric)  # lengths of sums of atoms are in no code
        atoms = shared["atoms"].astype(np.float32)
        return self._format().searcher(codes, shared, "ip", lambda queries: map_queries(queries, atoms))

    def _format(self) -> SparseFormat:
        return SparseFormat(self.k, self.r, self.bits)

    def _unit(self, shared: Arrays) -> bool:
        """Tell whether decoded vectors have unit length."""
        return bool(shared["rule"][0] == rule_of("cosine")[0])


def pursue(vectors: Array, atoms: Array, k: int) -> tuple[Array, Array]:
    """Return positions (n, k), ascending, and values (n, k) float32 of orthogonal matching pursuit over unit atoms.

    Where fewer than k atoms leave nothing, the first others fill up with zeros.
    """
    gram = np.ascontiguousarray(atoms @ atoms.T, np.float32)
    index, values = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
    for part in blocks(len(vectors), ROWS):
        _pursue(map_rows(vectors[part], atoms), gram, index[part], values[part])
    return index, values


def _beginning(vectors: Array, r: int, rng: np.random.Generator) -> Array:
    """Return r unit atoms: rows of the sample, then unit vectors, then random directions."""
    d = vectors.shape[1]
    rows = vectors[rng.permutation(len(vectors))[:r]]
    rows = rows[np.einsum("ij,ij->i", rows, rows) > 0]
    axes = np.eye(d, dtype=np.float32)[: max(0, r - len(rows))]
    others = rng.standard_normal((max(0, r - len(rows) - len(axes)), d), dtype=np.float32)
    return np.ascontiguousarray(unit(np.concatenate([rows, axes, others])), np.float32)


def _learnt(vectors: Array, atoms: Array, k: int, rng: np.random.Generator) -> Array:
    """Improve atoms by online dictionary learning: code a batch, add to the statistics, and move atom by atom."""
    r, d = atoms.shape
    both, with_items = np.zeros((r, r), np.float32), np.zeros((r, d), np.float32)
    order = np.resize(rng.permutation(len(vectors)), BATCHES * min(BATCH_ROWS, len(vectors)))
    for batch, rows in enumerate(np.split(vectors[order], BATCHES), 1):
        index, values = pursue(rows, atoms, k)
        starts = np.arange(0, index.size + 1, k)
        codes = csr_array((values.ravel(), index.ravel(), starts), shape=(len(rows), r))
        keep = np.float32((1 - 1 / batch) ** 2)  # early codes were those of a worse dictionary
        both, with_items = keep * both + (codes.T @ codes).toarray(), keep * with_items + codes.T @ rows
        used = np.flatnonzero(np.diag(both) > 1e-6 * np.trace(both) / r)
        for part in blocks(len(used), TOGETHER):
            some = used[part]
            left = with_items[some] - both[some] @ atoms
            for at, atom in enumerate(some):
                moved = atoms[atom] + left[at] / both[atom, atom]
                length = np.sqrt(moved @ moved)
                if length > 0:
                    # As if products were made anew for each atom, after those before it have moved.
                    left[at:] -= np.outer(both[some[at:], atom], moved / length - atoms[atom])
                    atoms[atom] = moved / length
    return atoms


@njit(cache=True, nogil=True, fastmath=True)
def _pursue(products, gram, index, values):  # type: ignore[no-untyped-def]
    """Choose atoms by products (n, r) of items with them and their Gram matrix (r, r).

    Row i of `basis` holds the products of all atoms with the i-th direction of an orthonormal basis of what was chosen.
    """
    n, r = products.shape
    k = index.shape[1]
    basis, along = np.empty((k, r), np.float32), np.empty(k, np.float32)
    left, free = np.empty(r, np.float32), np.empty(r, np.int32)
    # As whole numbers, the bits of positive floats are ordered alike, and a greatest one is found many at a time.
    bits = left.view(np.int32)
    chosen, fitted, found = np.empty(k, np.int64), np.empty(k, np.float32), np.empty(r, np.float32)
    for row in range(n):
        left[:], free[:] = products[row], MAGNITUDE
        best = _greatest(bits, free)
        least = abs(left[best]) * np.float32(1e-6)  # below this, rounding is all that is left
        count = 0
        while count < k and abs(left[best]) > least and free[best]:
            free[best] = 0
            new = basis[count]
            new[:] = gram[best]
            for i in range(count):
                share = basis[i, best]
                for j in range(r):
                    new[j] -= share * basis[i, j]
            spanned = new[best] <= SPANNED
            inverse = np.float32(0) if spanned else np.float32(1) / np.sqrt(new[best])
            step = left[best] * inverse
            for j in range(r):
                new[j] *= inverse
                left[j] -= step * new[j]
            if not spanned:
                chosen[count], along[count] = best, step
                count += 1
            best = _greatest(bits, free)
        free[:], found[:] = 1, 0
        for i in range(count - 1, -1, -1):
            total = along[i]
            for later in range(i + 1, count):
                total -= basis[i, chosen[later]] * fitted[later]
            fitted[i] = total / basis[i, chosen[i]]
            free[chosen[i]], found[chosen[i]] = 0, fitted[i]
        spare, at = k - count, 0
        for j in range(r):
            if free[j] == 0 or spare > 0:
                spare -= int(free[j])
                index[row, at], values[row, at] = j, found[j]
                at += 1


@njit(cache=True, nogil=True)
def _greatest(bits, free):  # type: ignore[no-untyped-def]
    """Return the first place of the greatest magnitude that is free."""
    greatest = np.int32(0)
    for j in range(len(bits)):
        greatest = max(greatest, np.int32(bits[j] & free[j]))
    place = 0
    while bits[place] & free[place] != greatest:
        place += 1
    return place
