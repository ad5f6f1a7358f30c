"""Sum several sign vectors, each with its own scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.hamming import code_bytes, pack_signs
from packbench.methods.binary.scaled import (
    ScaledCodec,
    check_centre,
    column,
    float16,
    mean_magnitude,
    signs_of,
    width_of,
)
from packbench.methods.binary.signs import sign_sums
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

MAX_ORDERS = 8
BLOCK = 512  # rows optimised together, so that what they need stays in cache


class SignSum(ScaledCodec):
    """Store sign vectors one after the other, each in whole bytes, and a float16 scale for each."""

    __slots__ = ()
    orders: int

    def __post_init__(self) -> None:
        if not 1 <= self.orders <= MAX_ORDERS:
            raise ValueError(f"orders={self.orders}: expected 1 to {MAX_ORDERS}")
        check_centre(self.centre)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self.orders * (code_bytes(d) + 2.0), self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        return {}

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        size = code_bytes(d)
        rows = np.zeros((len(codes["signs"]), d), np.float32)
        for order in range(self.orders):
            signs = signs_of(codes["signs"][:, order * size : (order + 1) * size], d)
            rows += signs * column(codes["scale"][:, order])
        return rows

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        size = code_bytes(queries.shape[1])
        dots = np.zeros((len(queries), len(codes["signs"])), np.float32)
        for order in range(self.orders):
            sums = sign_sums(codes["signs"][:, order * size : (order + 1) * size], queries)
            dots += sums * codes["scale"][:, order].astype(np.float32)
        return dots


@register
@dataclass(frozen=True, slots=True)
class ResidualBinary(SignSum):
    """Keep the signs of a vector and their scale, then the signs and scale of what they leave, and so on.

    Each scale is the mean magnitude of what is left, its least-squares value. A code of more orders begins with those
    of fewer. It is the residual approximation of Huang et al., BiLLM: Pushing the Limit of Post-Training Quantization
    for LLMs, 2024, and the training-free control of Gan et al., Binary Embedding-based Retrieval at Tencent, 2023.
    """

    name: ClassVar[str] = "residual_binary"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Huang et al., BiLLM: Pushing the Limit of Post-Training Quantization for LLMs, 2024; Gan et al., Binary "
        "Embedding-based Retrieval at Tencent, 2023"
    )
    formula: ClassVar[str] = "orders (ceil(d/8) + 2) per item; shared 4d + 1 with the mean, else 5"

    orders: int = 2
    centre: str = "mean"

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return _most(cls, budget)

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        signs, scales = residual_signs(residuals, self.orders)
        return {
            "signs": np.concatenate([pack_signs(part) for part in signs.transpose(1, 0, 2)], axis=1),
            "scale": float16(scales),
        }


@register
@dataclass(frozen=True, slots=True)
class MultibasisBinary(SignSum):
    """Sum sign vectors whose signs and scales are optimised together, item by item.

    From the residual signs on, it alternates between the scales of least squared error and, for every coordinate, the
    nearest of the 2^orders sums that the scales can make, until nothing changes. In effect it is a scalar quantiser
    with non-uniform levels of the item's own. The multiple bases of Zheng et al., BinaryDM: Towards Accurate
    Binarization of Diffusion Model, 2024, without that paper's training.
    """

    name: ClassVar[str] = "multibasis_binary"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Zheng et al., BinaryDM: Towards Accurate Binarization of Diffusion Model, 2024"
    formula: ClassVar[str] = "orders (ceil(d/8) + 2) per item; shared 4d + 1 with the mean, else 5"

    orders: int = 2
    iterations: int = 20
    centre: str = "mean"

    def __post_init__(self) -> None:
        # A dataclass with slots is a new class, in which a bare super() finds no self.
        SignSum.__post_init__(self)
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations}: expected 0 or more")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return _most(cls, budget)

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        signs, scales = optimise(residuals, *residual_signs(residuals, self.orders), self.iterations)
        return {
            "signs": np.concatenate([pack_signs(part) for part in signs.transpose(1, 0, 2)], axis=1),
            "scale": float16(scales),
        }


def _most(cls: type[ResidualBinary] | type[MultibasisBinary], budget: Budget) -> Iterable[Method]:
    """Yield the code of most orders that fits, as it is, behind a rotation, and about the origin."""
    most = next(iter(budget.fitting(cls(orders) for orders in range(MAX_ORDERS, 0, -1)))).orders
    return budget.fitting([cls(most), RandomRotation() | cls(most), cls(most, centre="zero")])


def residual_signs(rows: Array, orders: int) -> tuple[Array, Array]:
    """Return signs (n, orders, d) int8 and scales (n, orders) float64, order after order."""
    left = rows.astype(np.float64)
    signs = np.empty((len(rows), orders, rows.shape[1]), np.int8)
    scales = np.empty((len(rows), orders))
    for order in range(orders):
        signs[:, order] = np.where(left > 0, 1, -1)
        scales[:, order] = mean_magnitude(left)
        left -= scales[:, order, None] * signs[:, order]
    return signs, scales


def optimise(rows: Array, signs: Array, scales: Array, iterations: int) -> tuple[Array, Array]:
    """Alternate scales and signs of each row until they stay, ending with the scales of the last signs."""
    signs, scales, rows = signs.copy(), scales.copy(), rows.astype(np.float64)
    patterns = np.where((np.arange(2 ** signs.shape[1])[:, None] >> np.arange(signs.shape[1])) & 1, 1, -1).astype(
        np.int8
    )
    for first in range(0, len(rows), BLOCK):
        active = np.arange(first, min(first + BLOCK, len(rows)))
        for turn in range(iterations + 1 if iterations else 0):
            scales[active] = _least_squares(rows[active], signs[active])
            if turn == iterations:
                break
            nearest = _nearest(rows[active], scales[active], patterns)
            changed = (nearest != signs[active]).any(axis=(1, 2))
            active, nearest = active[changed], nearest[changed]
            signs[active] = nearest
            if not len(active):
                break
    return signs, scales


def _least_squares(rows: Array, signs: Array) -> Array:
    """Return the scales (n, orders) of least squared error for given signs (n, orders, d)."""
    basis = signs.astype(np.float64)
    moment = basis @ basis.transpose(0, 2, 1)
    # Bases may be equal or opposite; a ridge far below rounding to float16 then shares the scale between them.
    moment += 1e-9 * rows.shape[1] * np.eye(signs.shape[1])
    return np.asarray(np.linalg.solve(moment, np.einsum("nkd,nd->nk", basis, rows)[:, :, None])[:, :, 0])


def _nearest(rows: Array, scales: Array, patterns: Array) -> Array:
    """Return the signs (n, orders, d) of the sum nearest to each coordinate."""
    sums = scales @ patterns.T
    order = np.argsort(sums, axis=1, kind="stable")
    sums = np.take_along_axis(sums, order, axis=1)
    borders = (sums[:, 1:] + sums[:, :-1]) / 2
    place = np.zeros(rows.shape, np.uint8)
    for border in borders.T:
        place += rows > border[:, None]
    return patterns[np.take_along_axis(order, place.astype(np.intp), axis=1)].transpose(0, 2, 1)
