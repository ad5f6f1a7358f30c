"""Optimised product quantisation: learn the rotation under which product quantisation errs least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh, svd

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import (
    assign,
    check_metric,
    decode,
    fit_vectors,
    item_vectors,
    open_product,
)
from packbench.methods.codebook.kmeans import named, step, train
from packbench.methods.codebook.pq import check_sizes
from packbench.registry import register

STARTS = ("best", "pca", "identity")
ROWS_PER_CENTROID = 64  # of the fit sample; a larger one is thinned, for time


@register
@dataclass(frozen=True, slots=True)
class OPQ(Codec):
    """Rotate vectors so that product quantisation errs least, then code m blocks by 2^bits centroids each.

    Ge, He, Ke, Sun, "Optimized Product Quantization for Approximate Nearest Neighbor Search", 2013. `niter` rounds of
    one k-means step and one Procrustes rotation, neither of which can raise the distortion of the fit sample, so the
    last iterate is the best one. They start from principal axes dealt out to blocks so that products of variances are
    equal ("pca", the paper's parametric solution), from the coordinates as they are ("identity": never worse than
    product quantisation from the same start), or from whichever of the two has the lower distortion ("best").

    The rotation goes to `dim` coordinates, a multiple of m up to d (0: the widest); fewer than d drop the directions
    of least variance and shrink rotation and codebook. On few rows it overfits, and can lose to plain product
    quantisation on other vectors although it never does so on those it was fitted to. Under cosine, unit vectors are
    coded.
    """

    name: ClassVar[str] = "opq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Ge, He, Ke, Sun, Optimized Product Quantization for Approximate Nearest Neighbor Search, 2013"
    )
    formula: ClassVar[str] = "ceil(m bits / 8) per item; shared 4 dim (d + 2^bits) + 1, dim = m floor(d/m)"

    m: int
    bits: int = 8
    dim: int = 0
    niter: int = 20
    start: str = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.dim < 0 or self.dim % self.m:
            raise ValueError(f"dim={self.dim}: expected 0 or a multiple of m={self.m}")
        if self.niter < 0:
            raise ValueError(f"niter={self.niter}: expected at least 0 rounds")
        if self.start not in STARTS:
            raise ValueError(f"start={self.start!r}: expected one of {', '.join(STARTS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(_candidates(budget))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(-(-self.m * self.bits // 8)), 4.0 * self._dim(d) * (d + 2**self.bits) + 1, 0.0

    def _dim(self, d: int) -> int:
        return self.dim or self.m * (d // self.m)

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        n, d = vectors.shape
        if self.m > d or self.dim > d:
            raise BadInput(f"{self}: vectors have only {d} coordinates; choose m and dim up to that")
        most = ROWS_PER_CENTROID << self.bits
        if n > most:
            vectors = vectors[np.sort(np.random.default_rng(self.seed).choice(n, most, replace=False))]
        rotation, codebook = self._started(vectors)
        best = np.inf
        for rounds_left in range(self.niter, -1, -1):
            rotated = vectors @ rotation.T
            indices, moved = step(rotated, codebook)
            # What the rotation drops is lost as well.
            lost = _squares(vectors) - _squares(rotated) + _squares(rotated - named(indices, codebook))
            if lost < best:
                best, kept = lost, (rotation, codebook)
            if rounds_left:
                codebook, rotation = moved, _procrustes(named(indices, moved), vectors)
        rotation, codebook = kept
        return {"rotation": rotation, "codebook": codebook, "unit": is_unit}

    def _started(self, vectors: Array) -> tuple[Array, Array]:
        """Return a rotation (dim, d) and codebooks trained under it, of the start that loses less."""
        d = vectors.shape[1]
        dim = self._dim(d)
        rotations = []
        if self.start != "identity":
            rotations.append(_balanced(vectors, self.m, dim))
        if self.start == "identity" or (self.start == "best" and dim == d):
            rotations.append(np.eye(dim, d, dtype=np.float32))
        found = []
        for rotation in rotations:
            rotated = vectors @ rotation.T
            codebook = train(rotated, self.m, self.bits, self.seed)
            loss = _squares(rotated - named(step(rotated, codebook)[0], codebook))
            found.append((loss, rotation, codebook))
        return min(found, key=lambda one: one[0])[1:]

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = item_vectors(items, shared["rotation"].shape[1], shared["unit"])
        return {"codes": assign(vectors @ shared["rotation"].T, shared["codebook"])}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return np.asarray(decode(codes["codes"], shared["codebook"]) @ shared["rotation"])

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        rotation = shared["rotation"]
        # A distance in the rotated space lacks only what the query has outside it, which is the same for all items.
        return open_product(codes["codes"], shared["codebook"], metric, lambda queries: queries @ rotation.T)


def _balanced(vectors: Array, m: int, dim: int) -> Array:
    """Return principal axes (dim, d), each next one given to the block whose variances have the least product."""
    moments = vectors.T @ vectors
    d = len(moments)
    values, axes = eigh(moments.astype(np.float64), subset_by_index=[d - dim, d - 1])
    values, axes = values[::-1], axes[:, ::-1]
    logs = np.log(np.maximum(values, 1e-12 * max(values[0], 1e-30)))
    members: list[list[int]] = [[] for _ in range(m)]
    products = np.zeros(m)
    for axis, log in enumerate(logs - logs[-1]):
        free = [block for block in range(m) if len(members[block]) < dim // m]
        block = min(free, key=lambda block: products[block])
        members[block].append(axis)
        products[block] += log
    return np.ascontiguousarray(axes[:, np.concatenate(members).astype(int)].T, np.float32)


def _procrustes(coded: Array, vectors: Array) -> Array:
    """Return the rotation R (dim, d) that brings vectors R' nearest to coded (n, dim)."""
    left, _, right = svd(coded.T @ vectors, full_matrices=False)
    return np.asarray(left @ right, np.float32)


def _squares(vectors: Array) -> float:
    return float(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64))


def _candidates(budget: Budget) -> Iterator[OPQ]:
    """Yield the largest m for several widths, the lowest expected loss first and the narrower of equals."""
    d = budget.d
    expected: dict[OPQ, float] = {}
    for width in sorted({d, 2 * d // 3, *(max(1, d // parts) for parts in (2, 3, 4, 8, 16, 32, 64))}):
        # A block of one coordinate has bits to spare, so that fewer blocks of two may be the better use of a budget.
        for most in (width, width // 2):
            sizes = (OPQ(m, 8, m * (width // m)) for m in range(most, 0, -1))
            fitting = next((one for one in sizes if budget.holds(*one.planned_bytes(d))), OPQ(1, 8, 1))
            dim = 0 if fitting.dim == fitting.m * (d // fitting.m) else fitting.dim
            expected.setdefault(OPQ(fitting.m, 8, dim), _expected_loss(8 * fitting.m, fitting.dim / d, d))
    least = min(expected.values())
    # Three times the loss is no alternative.
    return (one for one in sorted(expected, key=lambda one: expected[one]) if expected[one] <= 3 * least)


def _expected_loss(bits: int, share: float, d: int) -> float:
    """Return what part of the squared length is lost when `share` of d principal axes are coded in `bits`.

    The rate-distortion function of a Gaussian whose variances fall as exp(-6 i / d), as they do for sentence
    embeddings. Only the order of the results counts.
    """
    decay = 6.0
    used = min(share, np.sqrt(4 * np.log(2) * bits / d / decay))  # no bits go to an axis below the water level
    coded = decay * used * np.exp(-decay * used / 2) * 4 ** (-bits / d / used)
    return float(coded + np.exp(-decay * used) - np.exp(-decay))
