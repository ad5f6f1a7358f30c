"""Learn hash bits one after the other from which items are neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer, code_bytes, open_bits, pack_signs, whole_bytes
from packbench.methods.binary.linear import project, unit_if
from packbench.registry import register

FIT_ROWS = 1000  # the matrix of pairs is this squared
MOST_BITS = 512  # that a budget is filled with: each takes a turn of learning
SPREAD = 1e-3  # of the greatest variance: features of less are noise that a bit would overfit
STEPS = 15  # of the ascent on the smooth objective, for each bit


@register
@dataclass(frozen=True, slots=True)
class KSH(Method):
    """Keep signs of kernel features, learnt bit after bit so that near items agree and far ones do not.

    Features are Gaussian kernels to `anchors` items of the fit sample, less their means. Pairs of up to 1000 fit items
    count as alike where one is among the nearest `near` of the others under the metric, as unlike where it is farther
    than `far` of them. Each bit starts from the leading eigenvector of what the bits before left unexplained and climbs
    a sigmoid surrogate of it. Wang, Liu, Kumar, Chang's kernel-based supervised hashing as used by Liu et al.,
    EcoFormer: Energy-Saving Attention with Linear Complexity, 2022, with labels made from exact neighbours.
    """

    name: ClassVar[str] = "ksh"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Liu et al., EcoFormer: Energy-Saving Attention with Linear Complexity, 2022"
    formula: ClassVar[str] = "ceil(bits/8) per item; shared 4 anchors (d + bits + 1) + 5"

    bits: int = 16
    anchors: int = 300
    near: float = 0.02
    far: float = 0.02
    scorer: str = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits={self.bits}: expected at least 1")
        if self.anchors < 2:
            raise ValueError(f"anchors={self.anchors}: expected at least 2")
        if not 0 < self.near <= self.far < 1:
            raise ValueError(f"near={self.near:g}, far={self.far:g}: expected 0 < near <= far < 1")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        anchors = 300
        bits = min(MOST_BITS, whole_bytes(budget, 4 * anchors, fixed=4 * anchors * (budget.d + 1) + 5))
        return budget.fitting([cls(bits, scorer="asymmetric"), cls(bits)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(self.bits)), 4.0 * self.anchors * (d + self.bits + 1) + 5, 0.0

    def fitted_as(self) -> Method:
        return replace(self, scorer="symmetric")

    def fit(self, sample: Sample) -> Arrays:
        x = as_vectors(sample.items, "fit sample")
        if len(x) < max(self.anchors, 20):
            raise BadInput(f"{self}: {len(x)} rows to fit on are fewer than {max(self.anchors, 20)}; set anchors lower")
        rng = np.random.default_rng(self.seed)
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, x[np.sort(rng.choice(len(x), min(len(x), max(FIT_ROWS, self.anchors)), replace=False))])
        shared: dict[str, Array] = {"unit": flag}
        shared["anchors"] = x[np.sort(rng.choice(len(x), self.anchors, replace=False))]
        squared = _squared_distances(x, shared["anchors"])
        width = float(squared.mean())
        shared["width"] = np.array([width if width > 0 else 1], np.float32)
        features = _kernel(squared, shared)
        shared["means"] = features.mean(axis=0).astype(np.float32)
        likeness = alike(score_of(sample.metric)(x, x), self.near, self.far)
        shared["weights"] = learn(features - shared["means"], likeness, self.bits)[0].astype(np.float32)
        return shared

    def _real(self, vectors: Array, shared: Arrays) -> Array:
        """Return the real numbers (n, bits) whose signs are the code."""
        if vectors.shape[1] != shared["anchors"].shape[1]:
            raise BadInput(
                f"vectors of {vectors.shape[1]} coordinates; the fit sample had {shared['anchors'].shape[1]}"
            )
        squared = _squared_distances(unit_if(shared["unit"], vectors), shared["anchors"])
        return project(_kernel(squared, shared) - shared["means"], shared["weights"])

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": pack_signs(self._real(as_vectors(items), shared))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return open_bits(codes["codes"], self.scorer, lambda queries: self._real(queries, shared))


def _squared_distances(rows: Array, anchors: Array) -> Array:
    squares = np.square(rows, dtype=np.float64).sum(axis=1)[:, None] + np.square(anchors, dtype=np.float64).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * project(rows, np.ascontiguousarray(anchors.T)), 0))


def _kernel(squared: Array, shared: Arrays) -> Array:
    return np.asarray(np.exp(-squared / (2 * float(shared["width"][0]))))


def alike(scores: Array, near: float, far: float) -> Array:
    """Return +1 for pairs of near items, -1 for far ones and 0 between, symmetric (n, n) float32."""
    n = len(scores)
    scores = scores.copy()
    np.fill_diagonal(scores, np.inf)
    place = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    labels = np.where(place <= near * n, 1, np.where(place > far * n, -1, 0))
    return np.asarray(np.sign(labels + labels.T), np.float32)


def learn(features: Array, likeness: Array, bits: int) -> tuple[Array, list[float], list[bool]]:
    """Learn one direction per bit among features (n, count) so that the bits' products explain the likeness of pairs.

    Returns:
        The weights (count, bits); the squared norm of what is left of bits * likeness, before the first bit and after
        each; whether each bit lowered it. A bit that does not is kept in the code but explains nothing, and the bits
        after it avoid its direction.
    """
    n = len(features)
    values, axes = eigh(features.T @ features)
    # Where all items are equal no feature varies, and any direction is as good.
    known = values > SPREAD * values[-1] if values[-1] > 0 else np.arange(len(values)) == len(values) - 1
    whiten = axes[:, known] / (np.sqrt(values[known]) if values[-1] > 0 else 1.0)
    basis = features @ whiten * np.sqrt(n)  # orthogonal columns of mean square one
    pairs = (bits * likeness).astype(np.float32)
    left = basis.T @ (pairs @ basis)
    found, taken = np.empty((n, 0), np.float32), []
    weights = np.empty((features.shape[1], bits))
    norms = [float(np.square(pairs, dtype=np.float64).sum())]
    dim = basis.shape[1]
    for bit in range(bits):
        start = eigh(left, subset_by_index=(dim - 1, dim - 1))[1][:, 0]
        direction, gain = max(
            ((one, _explained(one, basis, pairs, found)) for one in (start, _climb(start, basis, pairs, found))),
            key=lambda pair: pair[1],
        )
        # The sign of an eigenvector depends on the library.
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        weights[:, bit] = whiten @ direction
        after = norms[-1] - 2 * gain + float(n) ** 2
        taken.append(after < norms[-1])
        norms.append(min(after, norms[-1]))
        if taken[-1]:
            signs = np.where(basis @ direction > 0, 1, -1).astype(np.float32)
            found = np.concatenate([found, signs[:, None]], axis=1)
            along = basis.T @ signs
            left -= np.outer(along, along)
        else:
            shift = np.outer(direction, direction)
            left -= shift * (2 * abs(direction @ left @ direction) + 1)
    return weights, norms, taken


def _unexplained(values: Array, pairs: Array, found: Array) -> Array:
    """Return (pairs - found found') values."""
    return np.asarray(pairs @ values - found @ (found.T @ values), np.float64)


def _explained(direction: Array, basis: Array, pairs: Array, found: Array) -> float:
    signs = np.where(basis @ direction > 0, 1, -1).astype(np.float32)
    return float(signs @ _unexplained(signs, pairs, found))


def _climb(direction: Array, basis: Array, pairs: Array, found: Array) -> Array:
    """Ascend the objective with signs replaced by tanh, along directions of length one."""
    for step in range(STEPS):
        smooth = np.tanh(basis @ direction)
        slope = basis.T @ (_unexplained(smooth.astype(np.float32), pairs, found) * (1 - smooth**2))
        length = np.linalg.norm(slope)
        if length == 0:
            break
        direction = direction + (0.5 / (1 + step / 5)) * slope / length
        direction = direction / np.linalg.norm(direction)
    return direction
