"""Mix by a Hadamard matrix and keep coordinates drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Items, as_vectors, width
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.hadamard_rotation import draw_signs, mix, sign_bytes
from packbench.methods.projection.linear import reduced
from packbench.methods.projection.moments import index_type
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SRHT(Transform):
    """Mix by random signs and a Hadamard matrix, then keep `dim` coordinates drawn at random.

    Scaled by sqrt(d / dim), inner products are kept in expectation; with all coordinates it is an isometry. Where d is
    no power of two the mixing is that of hadamard_rotation, without padding. The paper sketches regressions: Song, Ye,
    Yin and Zhang, "A Nearly-Optimal Bound for Fast Regression with l_inf Guarantee", 2023.
    """

    name: ClassVar[str] = "srht"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = "Song, Ye, Yin, Zhang, A Nearly-Optimal Bound for Fast Regression with l_inf Guarantee, 2023"
    formula: ClassVar[str] = (
        "dim coordinates per item; shared 2 dim (4 dim beyond 65536 coordinates) + ceil(b/8) for d = b = 2^i, else "
        "2 ceil(b/8), b = 2^floor(log2 d)"
    )
    dim: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def shared_bytes(self, d: int) -> float:
        return float(sign_bytes(d, 1) + np.dtype(index_type(d)).itemsize * self.dim)

    def fit(self, sample: Sample) -> Arrays:
        d = width(sample.items)
        if self.dim > d:
            raise BadInput(f"{self}: the vectors have only {d} coordinates; choose dim up to that")
        chosen = np.sort(np.random.default_rng([self.seed, 1]).choice(d, self.dim, replace=False))
        return {"signs": draw_signs(d, 1, self.seed), "indices": chosen.astype(index_type(d))}

    def apply(self, items: Items, shared: Arrays) -> Items:
        mixed = mix(as_vectors(items), shared["signs"])
        kept = mixed[:, shared["indices"]] * np.float32(np.sqrt(mixed.shape[1] / self.dim))
        return np.ascontiguousarray(kept)
