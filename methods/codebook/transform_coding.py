"""Transform coding: the eigenbasis, bits where the variance is, and a trellis through the coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook import trellis
from packbench.methods.projection.linear import (
    centred,
    centred_queries,
    map_queries,
    map_rows,
    metric_after_centring,
    rule_of,
    unit,
)
from packbench.registry import register

CODERS = ("trellis", "scalar")
ROUNDS = 6  # in which the values of the code adapt to the fit sample
ROWS = 8192  # of the fit sample that do so, for time
PRIOR = 2.0  # rows of it that a value designed for a Gaussian counts for; fewer overfit small samples


@register
@dataclass(frozen=True, slots=True)
class TransformCoding(Codec):
    """Rotate to principal axes, share the bits by reverse water-filling, and code the coordinates along a trellis.

    Each axis gets whole or half bits, 8 nbytes in all, where they lower the expected squared error most. The values
    of the code are designed for a Gaussian of the axis' variance and adapt to the fit sample. coder="scalar" is block
    quantisation as first published, which catalogues list as reverse water-filling: whole bits, and the Lloyd-Max
    levels of each axis alone to begin with.

    With `weight` > 0 the error that counts is that of inner products: the basis is that of S C S, where C is the
    covariance of items and S² = weight M + (1 - weight) I, scaled to equal trace. M is the second moment of the fit
    queries shrunk, by the rule of Ledoit and Wolf ("A Well-Conditioned Estimator for Large-Dimensional Covariance
    Matrices", 2004), towards that of the items: these stand in for queries where there are few or none.
    Under l2 nothing is weighted.

    Huang, Schultheiss, "Block Quantization of Correlated Gaussian Random Variables", 1963; bits by Cover, Thomas,
    "Elements of Information Theory", 2006, section 10.3.3; codes by Marcellin, Fischer, "Trellis Coded Quantization of
    Memoryless and Gauss-Markov Sources", 1990.
    """

    name: ClassVar[str] = "transform_coding"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Huang, Schultheiss, Block Quantization of Correlated Gaussian Random Variables, 1963"
    formula: ClassVar[str] = (
        "nbytes per item; shared 2 d dim + 4 d + 517 dim + 1, dim = min(d, 16 nbytes, ceil(2 sqrt(nbytes d)))"
    )

    nbytes: int
    coder: str = "trellis"
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.nbytes < 1:
            raise ValueError(f"nbytes={self.nbytes}: expected at least 1")
        if self.coder not in CODERS:
            raise ValueError(f"coder={self.coder!r}: expected one of {', '.join(CODERS)}")
        if not 0 <= self.weight < 1:
            raise ValueError(f"weight={self.weight}: expected at least 0 and less than 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        largest = max(1, min(budget.d, int(budget.bytes_per_item)))
        best = next(budget.fitting(cls(nbytes) for nbytes in range(largest, 0, -1)))
        return [best, cls(best.nbytes, weight=0.8), cls(best.nbytes, weight=0.2)]

    def _dim(self, d: int) -> int:
        """Return how many axes may get bits: more than do so where variances fall as those of sentence embeddings."""
        return min(d, 16 * self.nbytes, ceil(2 * sqrt(self.nbytes * d)))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        dim = self._dim(d)
        return float(self.nbytes), 2.0 * d * dim + 4 * d + (2 * trellis.VALUES + 5) * dim + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, rule = as_vectors(sample.items, "fit sample"), rule_of(sample.metric)
        n, d = vectors.shape
        if not n:
            raise BadInput(f"{self}: the fit sample is empty, so there is no direction to learn")
        if self.nbytes > d:
            raise BadInput(f"{self}: {d} coordinates of at most 8 bits fill {d} bytes; choose nbytes up to that")
        mean = (unit(vectors) if sample.metric == "cosine" else vectors).mean(axis=0, dtype=np.float64)
        residuals = centred(vectors, mean.astype(np.float32), rule)
        weight = 0.0 if sample.metric == "l2" else self.weight
        moment = query_moment(vectors, sample) if weight else np.eye(d)
        forward, backward = bases(residuals, weight * moment + (1 - weight) * np.eye(d), self._dim(d))
        rows = map_rows(residuals[:: ceil(n / ROWS)], forward.astype(np.float32))
        scale = np.maximum(rows.std(axis=0, dtype=np.float64), 1e-30).astype(np.float32)
        memory = self.coder == "trellis"
        bits, codebook = trellis.plan(np.square(scale, dtype=np.float64), 8 * self.nbytes, memory)
        shared = {
            "basis": backward.astype(np.float16),
            "mean": mean.astype(np.float32),
            "scale": scale,
            "codebook": (_adapted(rows, codebook * scale[:, None], bits, memory) / scale[:, None]).astype(np.float16),
            "bits": bits,
            "rule": rule,
        }
        return shared | {"build/basis": forward.astype(np.float32)} if weight else shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        forward = shared.get("build/basis", shared["basis"]).astype(np.float32)
        codes = np.empty((len(vectors), self.nbytes), np.uint8)
        for part in blocks(len(vectors), 4096):
            rows = map_rows(centred(vectors[part], shared["mean"], shared["rule"]), forward)
            codes[part] = trellis.encode(rows, values_of(shared), shared["bits"])
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = trellis.look_up(codes["codes"], values_of(shared), shared["bits"])
        return np.asarray(rows @ shared["basis"].astype(np.float32) + shared["mean"], np.float32)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        basis, mean, rule = shared["basis"].astype(np.float32), shared["mean"], shared["rule"]
        if metric_after_centring(metric) != metric_after_centring(("ip", "cosine", "l2")[int(rule[0])]):
            raise BadInput(f"{self}: fitted for another metric than {metric!r}; fit again with that one")
        return trellis.TrellisSearcher(
            codes["codes"], values_of(shared), shared["bits"], metric_after_centring(metric),
            lambda queries: map_queries(centred_queries(queries, mean, rule), basis),
        )  # fmt: skip


def query_moment(items: Array, sample: Sample) -> Array:
    """Return the second moment (d, d) to be expected of queries, of trace d."""
    is_unit = sample.metric == "cosine"
    expected, _ = second_moment(unit(items) if is_unit else items)
    if sample.queries is None or not len(sample.queries):
        return expected
    queries = as_vectors(sample.queries, "fit queries")
    found, noise = second_moment(unit(queries) if is_unit else queries)
    apart = float(np.square(found - expected).sum())
    trust = max(0.0, 1 - noise / apart) if apart > 0 else 0.0
    return np.asarray(trust * found + (1 - trust) * expected)


def second_moment(vectors: Array) -> tuple[Array, float]:
    """Return the second moment (d, d) of vectors (m, d), scaled to trace d, and its expected squared error."""
    m, d = vectors.shape
    moment = (vectors.T @ vectors).astype(np.float64) / m
    scale = float(np.trace(moment)) / d
    if not scale > 0:
        return np.eye(d), np.inf
    lengths = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    noise = float(np.square(lengths).mean() - np.square(moment).sum()) / (max(m - 1, 1) * scale**2)
    return moment / scale, noise if m > 1 else np.inf


def bases(residuals: Array, moment: Array, dim: int) -> tuple[Array, Array]:
    """Return the maps of items and of queries, (dim, d) each, that count errors by a moment of queries (d, d)."""
    covariance = (residuals.T @ residuals).astype(np.float64) / len(residuals)
    d = len(covariance)
    values, axes = eigh(moment)
    root, inverse = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
    _, axes = eigh(root @ covariance @ root, subset_by_index=(d - dim, d - 1))
    axes = axes[:, ::-1]
    # The largest entry of an axis is positive, so that the sign does not depend on the library.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    return np.ascontiguousarray((root @ axes).T), np.ascontiguousarray((inverse @ axes).T)


def values_of(shared: Arrays) -> Array:
    """Return the value of each axis under each window, (dim, 256) float32."""
    return shared["codebook"].astype(np.float32) * shared["scale"][:, None]


def _adapted(rows: Array, codebook: Array, bits: Array, memory: bool) -> Array:
    """Return the codebook (dim, 256) moved to the means of the rows (n, dim) that are coded by each value."""
    start, every = codebook, np.arange(trellis.VALUES)
    told = np.where(memory, 255, (1 << bits.astype(int)) - 1).astype(np.uint8)  # bits that name the value
    for _ in range(ROUNDS):
        windows = trellis.windows_of(trellis.encode(rows, codebook, bits), bits) & told
        counts = np.stack([np.bincount(w, minlength=trellis.VALUES) for w in windows.T])
        sums = np.stack([np.bincount(w, x, minlength=trellis.VALUES) for w, x in zip(windows.T, rows.T, strict=True)])
        means = (sums + PRIOR * start) / (counts + PRIOR)
        codebook = np.take_along_axis(means, every & told[:, None], axis=1)
    return codebook
