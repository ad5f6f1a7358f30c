"""Turn the axes with random signs and Hadamard blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from scipy.linalg import hadamard

from packbench.budget import Budget
from packbench.factors import generator
from packbench.items import Array, Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import conditioned
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class HadamardRotation(Transform):
    """Flip signs at random and mix by a Hadamard matrix: exact scores stay, and a rotation weighs bits, not a matrix.

    x -> H D x / sqrt(d), `rounds` times. Where d is no power of two nothing is padded: with b the largest power of
    two below d, a round is two such maps, of the first b coordinates and then of the last b, which overlap and so mix
    all (384 is 0-255 and 128-383). Signs are kept as packed bits, 1 for minus. Ailon and Chazelle, "Approximate
    Nearest Neighbors and the Fast Johnson-Lindenstrauss Transform", 2006.
    """

    name: ClassVar[str] = "hadamard_rotation"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Ailon, Chazelle, Approximate Nearest Neighbors and the Fast Johnson-Lindenstrauss Transform, 2006"
    )
    formula: ClassVar[str] = (
        "d coordinates per item; shared rounds ceil(b/8) for d = b = 2^i, else 2 rounds ceil(b/8), b = 2^floor(log2 d)"
    )
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is at least 1, got {self.rounds}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def shared_bytes(self, d: int) -> float:
        return float(sign_bytes(d, self.rounds))

    def fit(self, sample: Sample) -> Arrays:
        return {"signs": draw_signs(width(sample.items), self.rounds, self.seed)}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return mix(as_vectors(items), shared["signs"])


def block_width(d: int) -> int:
    """Return the largest power of two that is at most d."""
    return 1 << (d.bit_length() - 1)


def sign_bytes(d: int, rounds: int) -> int:
    """Return what `draw_signs` weighs."""
    return _passes(d) * rounds * -(-block_width(d) // 8)


def draw_signs(d: int, rounds: int, seed: int) -> Array:
    """Draw the packed signs of every pass of every round, (passes, ceil(b/8)) uint8."""
    bits = generator(seed).integers(0, 2, (_passes(d) * rounds, block_width(d)), np.uint8)
    return np.packbits(bits, axis=1)


def mix(vectors: Array, signs: Array) -> Array:
    """Apply the signed Hadamard passes to rows; an orthogonal map, the same for a row whatever rows come with it."""
    d = vectors.shape[1]
    b = block_width(d)
    mixed = vectors.copy()
    for place, packed in enumerate(signs):
        part = slice(d - b, d) if place % _passes(d) else slice(0, b)
        flips = 1 - 2 * np.unpackbits(packed, count=b).astype(np.float32)
        mixed[:, part] = _hadamard(mixed[:, part] * flips)
    return mixed


def _passes(d: int) -> int:
    return 1 if d == block_width(d) else 2


def _hadamard(vectors: Array) -> Array:
    """Return H x / sqrt(b) of rows (n, b): H is a Kronecker product of two small ones, so it is never formed."""
    n, b = vectors.shape
    left = 1 << ((b.bit_length() - 1) // 2)
    cube = vectors.reshape(n, left, b // left)
    # One product of fixed shape per row, so that rounding does not depend on the number of rows.
    mixed = _small(left) @ cube @ _small(b // left)
    return np.asarray(mixed.reshape(n, b) * np.float32(1 / np.sqrt(b)))


@cache
def _small(order: int) -> Array:
    return np.asarray(hadamard(order, dtype=np.float32))
