"""Transform coding: the eigenbasis, bits where the variance is, and one byte for a few coordinates at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.lookup import LookupSearcher
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    map_queries,
    map_rows,
    metric_after_centring,
    rule_of,
    unit,
)
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.registry import register

MAX_BITS = 8
PRIOR = 4.0  # rows of the fit sample that the Gaussian level counts for, against levels learnt from a handful
ROUNDS = 12


@register
@dataclass(frozen=True, slots=True)
class TransformCoding(Codec):
    """Rotate to principal axes, give each axis whole bits by reverse water-filling, and code a few axes in each byte.

    Reverse water-filling gives the next bit to the axis whose expected squared error it lowers most; axes are then
    packed into whole bytes. An axis starts with the Lloyd-Max levels of a Gaussian of its variance, adapted to the fit
    sample; with `joint` the 256 codewords of a byte adapt together, in the space of its axes. With `weight` > 0 the
    error that counts is that of inner products with the fit queries: the basis is that of S C S, where C is the
    covariance of items and S² = weight E[qq'] + (1 - weight) I, scaled to equal trace; l2 allows none.

    Huang, Schultheiss, "Block Quantization of Correlated Gaussian Random Variables", 1963; bits by Cover, Thomas,
    "Elements of Information Theory", 2006, section 10.3.3.
    """

    name: ClassVar[str] = "transform_coding"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Huang, Schultheiss, Block Quantization of Correlated Gaussian Random Variables, 1963"
    formula: ClassVar[str] = "nbytes per item; shared 4 (d dim + d + 256 dim) + 2 dim + 1, dim = min(d, 4 nbytes)"

    nbytes: int
    joint: bool = True
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.nbytes < 1:
            raise ValueError(f"nbytes={self.nbytes}: expected at least 1")
        if not 0 <= self.weight < 1:
            raise ValueError(f"weight={self.weight}: expected at least 0 and less than 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        largest = min(budget.d, int(budget.bytes_per_item))
        sizes: Iterator[TransformCoding] = (cls(nbytes) for nbytes in range(max(largest, 1), 0, -1))
        best = next(budget.fitting(sizes))
        return [best, cls(best.nbytes, weight=0.8), cls(best.nbytes, joint=False)]

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.weight else frozenset()

    def _dim(self, d: int) -> int:
        return min(d, 4 * self.nbytes)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        dim = self._dim(d)
        return float(self.nbytes), 4.0 * (d * dim + d + 256 * dim) + 2 * dim + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        n, d = vectors.shape
        if not n:
            raise BadInput(f"{self}: the fit sample is empty, so there is no direction to learn")
        if self.nbytes > d:
            raise BadInput(f"{self}: {d} coordinates of at most 8 bits fill {d} bytes; choose nbytes up to that")
        mean = (unit(vectors) if sample.metric == "cosine" else vectors).mean(axis=0, dtype=np.float64)
        residuals = centred(vectors, mean.astype(np.float32), rule)
        forward, backward = self._bases(residuals, sample)
        rows = map_rows(residuals, forward)
        bits = allocate(rows.var(axis=0, dtype=np.float64), self.nbytes)
        layout = fill_bytes(bits, self.nbytes)
        codebook, byte = _codebook(rows, layout, self.joint)
        shared = {"basis": backward, "mean": mean.astype(np.float32), "codebook": codebook, "byte": byte, "rule": rule}
        return shared | ({"build/basis": forward} if self.weight else {})

    def _bases(self, residuals: Array, sample: Sample) -> tuple[Array, Array]:
        """Return the maps of items and of queries, (dim, d) each: one and the same unless queries weigh the error."""
        covariance = (residuals.T @ residuals).astype(np.float64) / len(residuals)
        d = len(covariance)
        root, inverse = np.eye(d), np.eye(d)
        if self.weight:
            if sample.metric == "l2":
                raise BadInput(f"{self}: distances have no query weighting; use weight=0 with the metric l2")
            if sample.queries is None:
                raise BadInput(f"{self}: weight > 0 needs fit queries, which this data set does not have")
            queries = as_vectors(sample.queries, "fit queries")
            queries = unit(queries) if sample.metric == "cosine" else queries
            moment = (queries.T @ queries).astype(np.float64)
            moment = self.weight * moment * (d / np.trace(moment)) + (1 - self.weight) * np.eye(d)
            values, axes = eigh(moment)
            root, inverse = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
        _, axes = eigh(root @ covariance @ root, subset_by_index=(d - self._dim(d), d - 1))
        axes = axes[:, ::-1]
        # The largest entry of an axis is positive, so that the sign does not depend on the library.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        return (
            np.ascontiguousarray((root @ axes).T, dtype=np.float32),
            np.ascontiguousarray((inverse @ axes).T, dtype=np.float32),
        )

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        forward = shared.get("build/basis", shared["basis"])
        codes = np.zeros((len(vectors), self.nbytes), np.uint8)
        for part in blocks(len(vectors), 4096):
            rows = map_rows(centred(vectors[part], shared["mean"], shared["rule"]), forward)
            for byte, axes in _members(shared["byte"]):
                codes[part, byte] = _nearest(rows[:, axes], shared["codebook"][axes])
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = look_up(codes["codes"], shared)
        return np.asarray(rows @ shared["basis"] + shared["mean"], np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        basis, mean, rule = shared["basis"], shared["mean"], shared["rule"]
        if metric_after_centring(metric) != metric_after_centring(("ip", "cosine", "l2")[int(rule[0])]):
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")
        return LookupSearcher(
            codes["codes"], shared["codebook"], shared["byte"], metric_after_centring(metric),
            lambda queries: map_queries(centred_queries(queries, mean, rule), basis),
        )  # fmt: skip


def allocate(variances: Array, nbytes: int) -> Array:
    """Return whole bits per axis (dim,) that sum to 8 nbytes: each goes where it lowers the expected error most.

    Lloyd-Max error falls convexly in the bits, so the greedy choice is the best one.
    """
    gains = -np.diff(_gaussian_errors())[None, :] * np.maximum(variances, 1e-30)[:, None]
    chosen = np.argsort(-gains, axis=None, kind="stable")[: 8 * nbytes]
    return np.bincount(chosen // MAX_BITS, minlength=len(variances))


def _gaussian_errors() -> Array:
    """Return the mean squared error of Lloyd-Max coding of N(0, 1) with 0 to 8 bits."""
    # At the fixed point the error is 1 - E[level²].
    from packbench.methods.scalar.turboquant_mse import _energy

    return np.array([1.0, *(1 - _energy(gaussian_levels(bits)) for bits in range(1, MAX_BITS + 1))])


def fill_bytes(bits: Array, nbytes: int) -> list[list[tuple[int, int]]]:
    """Pack axes into bytes: for each byte its axes with their bits, 8 in all.

    Best-fit, widest first; an axis that fits nowhere whole is cut to the widest gap, and what is left of a byte goes
    to its first axis.
    """
    layout: list[list[tuple[int, int]]] = [[] for _ in range(nbytes)]
    free = np.full(nbytes, 8)
    for axis in np.argsort(-bits, kind="stable"):
        wanted = int(bits[axis])
        if not wanted or not free.any():
            continue
        gaps = np.where(free >= wanted, free, 99)
        byte = int(gaps.argmin()) if gaps.min() < 99 else int(free.argmax())
        given = min(wanted, int(free[byte]))
        layout[byte].append((int(axis), given))
        free[byte] -= given
    for members, left in zip(layout, free, strict=True):
        if members:
            axis, given = members[0]
            members[0] = (axis, given + int(left))
    return layout


def _codebook(rows: Array, layout: list[list[tuple[int, int]]], joint: bool) -> tuple[Array, Array]:
    """Return for each axis its value under each of the 256 codes of its byte, (dim, 256), and its byte, (dim,).

    An axis without bits lies in byte 0 with the value 0.
    """
    dim = rows.shape[1]
    codebook, byte_of = np.zeros((dim, 256), np.float32), np.zeros(dim, np.uint16)
    codes = np.arange(256)
    for byte, members in enumerate(layout):
        shift = 0
        for axis, bits in members:
            column = rows[:, axis].astype(np.float64)
            levels = gaussian_levels(bits) * max(column.std(), 1e-12)
            codebook[axis] = _adapt(column[:, None], levels[None, :])[0][(codes >> shift) % 2**bits]
            byte_of[axis], shift = byte, shift + bits
        axes = [axis for axis, _ in members]
        if joint and len(axes) > 1:
            codebook[axes] = _adapt(rows[:, axes].astype(np.float64), codebook[axes].astype(np.float64))
    return codebook, byte_of


def _adapt(rows: Array, codewords: Array) -> Array:
    """Run Lloyd's iteration from (axes, codewords) to rows (n, axes), each held back by where it began."""
    start, found = codewords, codewords
    for _ in range(ROUNDS):
        nearest = _nearest(rows, found)
        counts = np.bincount(nearest, minlength=found.shape[1])
        sums = np.stack([np.bincount(nearest, column, minlength=found.shape[1]) for column in rows.T])
        found = (sums + PRIOR * start) / (counts + PRIOR)
    return found


def _nearest(rows: Array, codewords: Array) -> Array:
    """Return the nearest of codewords (axes, count) to each row (n, axes)."""
    half = (codewords.astype(np.float64) ** 2).sum(axis=0) / 2
    # A product of so few columns is summed the same way whatever the number of rows.
    scores = np.einsum("na,ac->nc", rows.astype(np.float64), codewords.astype(np.float64))
    return np.asarray((scores - half).argmax(axis=1))


def _members(byte_of: Array) -> Iterator[tuple[int, Array]]:
    for byte in range(int(byte_of.max()) + 1):
        yield byte, np.flatnonzero(byte_of == byte)


def look_up(codes: Array, shared: Arrays) -> Array:
    """Return the coded coordinates (n, dim) in the rotated frame."""
    return np.asarray(shared["codebook"][np.arange(len(shared["byte"])), codes[:, shared["byte"]]])
