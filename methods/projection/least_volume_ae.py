"""Learn an autoencoder whose latents fill the least volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.projection.linear import reduced
from packbench.methods.projection.mlp import Encoder, centred_sample, descend, learnt, orthonormal, uniform, values
from packbench.registry import register

FLOOR = 1e-3  # added to standard deviations, so that the volume has a least value


@register
@dataclass(frozen=True, slots=True)
class LeastVolumeAE(Encoder):
    """Keep the `dim` latents of greatest spread of an autoencoder that is pressed to fill little volume.

    The decoder cannot stretch (each of its layers is divided by its spectral norm), so the latents cannot shrink at
    will, and `penalty` times the geometric mean of their standard deviations, added to the squared error, empties those
    that are not needed. `width` latents are trained, dim if 0. hidden=0 is a linear autoencoder, whose latents come
    near principal components; otherwise encoder and decoder have one layer of so many rectified units, both sides are
    encoded, and latents are compared by distance, which bounds that of what they decode to from above alone. Chen and
    Fuge, "Compressing Latent Space via Least Volume", 2024.
    """

    name: ClassVar[str] = "least_volume_ae"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Chen, Fuge, Compressing Latent Space via Least Volume, 2024"
    formula: ClassVar[str] = (
        "dim coordinates per item; shared 4 (d dim + d) + 1, with hidden units 4 (hidden (d + 1 + dim) + dim + d) + 1"
    )

    dim: int
    width: int = 0
    penalty: float = 0.1
    hidden: int = 0
    epochs: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.hidden < 0 or not (self.width == 0 or self.width >= self.dim):
            raise ValueError(
                f"dim is at least 1, hidden at least 0, width 0 or at least dim, got {self.dim}, {self.hidden}, "
                f"{self.width}"
            )
        if self.penalty < 0:
            raise ValueError(f"penalty is at least 0, got {self.penalty:g}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def fit(self, sample: Sample) -> Arrays:
        import torch

        rng = np.random.default_rng(self.seed)
        width = self.width or self.dim
        vectors, shared = centred_sample(self, sample, min(self.dim, width) if self.hidden else width)
        n, d = vectors.shape
        # In units of the sample's length, so that the penalty weighs alike whatever the scale of the items.
        scale = max(float(np.sqrt(np.mean(np.einsum("ij,ij->i", vectors, vectors)))), 1e-12)
        data = torch.from_numpy(vectors / scale)
        if self.hidden:
            sizes = (self.hidden, d), (width, self.hidden), (self.hidden, width), (d, self.hidden)
            parameters = learnt([array for size in sizes for array in (uniform(rng, *size), np.zeros(size[0]))])
        else:
            axes = orthonormal(rng.standard_normal((width, d)))
            parameters = learnt([axes, axes.T])
        half = len(parameters) // 2

        def encoded(rows: Array) -> Any:
            return _run(data[rows], parameters[:half])

        def loss(rows: Array) -> Any:
            latents = encoded(rows)
            rebuilt = _run(latents, _unstretched(parameters[half:]))
            spread = (latents.var(dim=0, unbiased=False) + FLOOR**2).sqrt()
            return (rebuilt - data[rows]).square().sum(dim=1).mean() + self.penalty * spread.log().mean().exp()

        descend(parameters, loss, n, d, seed=self.seed, epochs=self.epochs)
        with torch.no_grad():
            spread = encoded(np.arange(n)).std(dim=0, unbiased=False).numpy()
        widest = np.argsort(-spread, kind="stable")[: self.dim]
        learned = values(parameters[:half])
        if not self.hidden:
            return shared | {"outer": np.ascontiguousarray(learned[0][widest])}
        inner, inner_bias, outer, outer_bias = learned
        # Scaling the biases instead of the vectors scales the latents.
        return shared | {
            "inner": inner, "inner_bias": inner_bias * np.float32(scale),
            "outer": np.ascontiguousarray(outer[widest]), "outer_bias": outer_bias[widest] * np.float32(scale),
        }  # fmt: skip


def _run(rows: Any, parameters: list[Any]) -> Any:
    """Apply a linear map, or two with biases and rectified units between."""
    if len(parameters) == 1:
        return rows @ parameters[0].T
    inner, inner_bias, outer, outer_bias = parameters
    return (rows @ inner.T + inner_bias).relu() @ outer.T + outer_bias


def _unstretched(parameters: list[Any]) -> list[Any]:
    """Divide the weights of each layer by their spectral norm, which lets no layer lengthen a difference."""
    return [one / _spectral_norm(one) if one.ndim == 2 else one for one in parameters]


def _spectral_norm(matrix: Any) -> Any:
    """Return the greatest singular value: the length of what becomes of the direction that is stretched most.

    That direction is a constant to the gradient, and takes less time than the singular values. A few steps of the power
    method take less still, but training brings the values together, and its result is then another.
    """
    import torch

    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    weights = tall.detach().numpy()
    direction = np.linalg.eigh(weights.T @ weights)[1][:, -1]
    return (tall @ torch.from_numpy(direction)).norm()
