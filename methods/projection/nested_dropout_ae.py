"""Learn ordered coordinates by dropping all after a random one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.projection.linear import reduced
from packbench.methods.projection.mlp import Encoder, centred_sample, descend, learnt, orthonormal
from packbench.registry import register

LAWS = ("uniform", "geometric")


@register
@dataclass(frozen=True, slots=True)
class NestedDropoutAE(Encoder):
    """Keep the first `dim` coordinates of an autoencoder that must make do with fewer at random.

    A linear autoencoder with tied weights; for every row of a batch all coordinates after a random one are zeroed, by a
    uniform law or a geometric one, (1 - 1/dim)^j. So coordinates come in order of what they explain: any
    prefix serves, and in the limit they are the principal axes. The encoder starts at random; its rows are brought to
    the nearest orthonormal ones at the end. Ordered dropout as in Chen, Xing and others, "Compressing Features for
    Learning with Noisy Labels", 2022, and Horváth and others, "Maestro: Uncovering Low-Rank Structures via Trainable
    Decomposition", 2023, on vectors instead of in a network under training.
    """

    name: ClassVar[str] = "nested_dropout_ae"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "transform"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = (
        "Chen et al., Compressing Features for Learning with Noisy Labels, 2022; Horváth et al., Maestro: Uncovering "
        "Low-Rank Structures via Trainable Decomposition, 2023"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + d) + 1"
    hidden: ClassVar[int] = 0  # type: ignore[misc]

    dim: int
    law: str = "uniform"
    epochs: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.law not in LAWS:
            raise ValueError(f"law={self.law!r}: expected one of {', '.join(LAWS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def fit(self, sample: Sample) -> Arrays:
        import torch

        rng = np.random.default_rng(self.seed)
        vectors, shared = centred_sample(self, sample, self.dim)
        n, d = vectors.shape
        (axes,) = learnt([orthonormal(rng.standard_normal((self.dim, d)))])
        # Adam's steps are in units of the parameters, so the loss is brought to the scale of unit variance.
        data = torch.from_numpy(vectors / max(float(np.sqrt(np.mean(vectors**2))), 1e-12))

        chances = self._chances()
        # The greater of two places, and the chance that a place, and thus all before it, is kept.
        places, kept_chances = np.arange(self.dim), chances[::-1].cumsum()[::-1]
        both = torch.from_numpy(kept_chances[np.maximum(places[:, None], places)].astype(np.float32))

        def loss(rows: Array) -> Any:
            kept = rng.choice(self.dim, len(rows), p=chances)
            mask = torch.from_numpy((np.arange(self.dim) <= kept[:, None]).astype(np.float32))
            return (data[rows] - (data[rows] @ axes.T * mask) @ axes).square().mean()

        def expected(rows: Array) -> Any:
            # |x - sum_j z_j a_j|^2 over the kept j, in which a product of two of them counts while both are kept.
            x = data[rows]
            latents = x @ axes.T
            moments = latents.T @ latents * both
            return (x.square().sum() - 2 * moments.trace() + (moments * (axes @ axes.T)).sum()) / x.numel()

        descend([axes], loss, n, d, seed=self.seed, epochs=self.epochs, held_out_loss=expected)
        return shared | {"outer": orthonormal(axes.detach().numpy())}

    def _chances(self) -> Array:
        """Return the probability that each coordinate is the last one kept."""
        places = np.arange(self.dim)
        weights = np.ones(self.dim) if self.law == "uniform" else (1 - 1 / self.dim) ** places
        return np.asarray(weights / weights.sum())
