"""Learn bits from which a linear decoder rebuilds the vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import AsymmetricSearcher, code_bytes, pack_signs, unpack_signs, whole_bytes
from packbench.methods.binary.linear import mean_of, project, random_rotation, unit_if
from packbench.methods.projection.mlp import descend, learnt, principal, values
from packbench.methods.scalar.levels import RowsSearcher
from packbench.registry import register

MODES = ("round", "bernoulli", "tanh", "sign")
LOSSES = ("reconstruction", "scores")
SCORERS = ("decoded", "asymmetric")
ENTROPY = 0.01  # weight of the entropies of mode "sign", in shares of the sample's variance
STEEPER, STEEPEST = 1.2, 20.0  # slope of mode "tanh": its growth with each epoch, and its end
RIDGE = 1e-3  # of the decoder, in shares of the mean variance of a bit


@register
@dataclass(frozen=True, slots=True)
class BinaryAutoencoder(Codec):
    """Keep the signs of a linear encoder, trained with a linear decoder that rebuilds vectors from them.

    The slope of a smooth step stands in for that of a sign while training; `mode` says what is passed on: "round" the
    rounded sigmoid (binary paragraph vectors), "bernoulli" bits drawn with the sigmoid as their chance (binary latent
    diffusion), "tanh" smooth values that become steeper, "sign" signs whose entropy is kept low for each item and high
    over a batch (look-up-free codes, as in MaskBit and BiGR). The loss is the squared error of vectors, or
    loss="scores" of their inner products with others; at the end the decoder is fitted to the bits by least squares.
    What few bits rebuild falls short, by more for some items than for others; so scorer="decoded" compares directions
    (under l2 distances) of decoded items, while "asymmetric" scans bits with a query brought through the decoder, and
    ranks lower for it. Wang and others, "Binary Latent Diffusion", 2023; Weber and others, "MaskBit", 2024; Hao and
    others, "BiGR", 2024; Grzegorczyk, "Vector representations of text data in deep learning", 2019.
    """

    name: ClassVar[str] = "binary_autoencoder"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = (
        "Wang et al., Binary Latent Diffusion, 2023; Hao et al., BiGR: Harnessing Binary Latent Codes for Image "
        "Generation and Improved Visual Representation Capabilities, 2024; Weber et al., MaskBit: Embedding-free Image "
        "Generation via Bit Tokens, 2024; Grzegorczyk, Vector representations of text data in deep learning, 2019"
    )
    formula: ClassVar[str] = "ceil(bits/8) per item; shared 4 (d bits + d) + 1"

    bits: int
    mode: str = "bernoulli"
    loss: str = "reconstruction"
    scorer: str = "decoded"
    epochs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits={self.bits}: expected at least 1")
        for field, known in (("mode", MODES), ("loss", LOSSES), ("scorer", SCORERS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: expected one of {', '.join(known)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        bits = whole_bytes(budget, 4 * budget.d, fixed=4 * budget.d + 1)
        return budget.fitting([cls(bits), cls(bits, "sign"), cls(bits, scorer="asymmetric")])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(self.bits)), 4.0 * (d * self.bits + d) + 1, 0.0

    def fitted_as(self) -> Method:
        return replace(self, scorer="decoded")

    def fit(self, sample: Sample) -> Arrays:
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, as_vectors(sample.items, "fit sample"))
        if not len(x):
            raise BadInput(f"{self}: the fit sample is empty, so there is nothing to learn from")
        mean = mean_of(x)
        centred = np.asarray(x - mean, np.float32)
        encoder, offset = self._train(centred)
        signs = np.where(project(centred, encoder) + offset > 0, 1.0, -1.0)
        moment = signs.T @ signs + RIDGE * len(signs) * np.eye(self.bits)
        decoder = np.linalg.solve(moment, signs.T @ centred.astype(np.float64))
        return {
            "decoder": decoder.astype(np.float32), "mean": mean, "unit": flag,
            "build/encoder": encoder, "build/offset": offset,
        }  # fmt: skip

    def _train(self, centred: Array) -> tuple[Array, Array]:
        """Return the encoder (d, bits) and its offset (bits,)."""
        import torch

        n, d = centred.shape
        begin = starting(centred, self.bits, self.seed)
        # Of unit variance before the step, whose slope is then neither flat nor steep.
        length = max(float(np.sqrt(np.mean((centred @ begin) ** 2))), 1e-12)
        encoder, offset, decoder = learnt(
            [begin, np.zeros(self.bits), begin.T * np.sqrt(2 / np.pi) * min(1.0, d / self.bits)]
        )
        data = torch.from_numpy(centred / np.float32(length))
        generator = torch.Generator().manual_seed(self.seed)
        variance = float(data.square().mean()) or 1.0

        slope = 1.0

        def steepen(epoch: int) -> None:
            nonlocal slope
            slope = min(STEEPEST, slope * STEEPER)

        def rebuilt(real: Any, exact: bool) -> Any:
            # tanh(x) is 2 sigmoid(2x) - 1, which serves all modes.
            soft = (slope * real).tanh() if self.mode == "tanh" else real.tanh()
            if self.mode == "tanh" and not exact:
                return soft @ decoder
            hard = torch.where(real > 0, 1.0, -1.0)
            if self.mode == "bernoulli" and not exact:
                hard = torch.where(torch.rand(real.shape, generator=generator) * 2 - 1 < soft, 1.0, -1.0)
            return (soft + (hard - soft).detach()) @ decoder

        def loss(rows: Array, exact: bool = False) -> Any:
            real = data[rows] @ encoder + offset
            error = rebuilt(real, exact) - data[rows]
            if self.loss == "scores":
                error = error @ data[rows].T / np.sqrt(len(rows) * variance)
            value = error.square().mean() / variance
            if self.mode != "sign" or exact:
                return value
            chance = real.tanh() / 2 + 0.5
            return value + ENTROPY * (_entropy(chance).mean() - _entropy(chance.mean(dim=0)).mean())

        descend(
            [encoder, offset, decoder], loss, n, d, seed=self.seed, epochs=self.epochs,
            after_epoch=steepen, held_out_loss=lambda rows: loss(rows, exact=True),
        )  # fmt: skip
        weights, shift, _ = values([encoder, offset, decoder])
        return weights, shift * np.float32(length)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = unit_if(shared["unit"], as_vectors(items)) - shared["mean"]
        return {"codes": pack_signs(project(x, shared["build/encoder"]) + shared["build/offset"])}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rebuilt: Array = unpack_signs(codes["codes"], self.bits) @ shared["decoder"] + shared["mean"]
        return rebuilt

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if self.scorer == "asymmetric" and metric != "l2":
            return AsymmetricSearcher(codes["codes"], lambda queries: np.asarray(queries @ shared["decoder"].T))
        packed, d = codes["codes"], len(shared["mean"])
        kind = "l2" if metric == "l2" else "cosine"
        return RowsSearcher(len(packed), d, kind, lambda part: self.decode({"codes": packed[part]}, shared))


def starting(centred: Array, bits: int, seed: int) -> Array:
    """Return columns (d, bits): turned principal components, or more of them than dimensions, evenly spread."""
    kept = min(bits, centred.shape[1])
    turned: Array = principal(centred, kept).T @ random_rotation(bits, seed)[:kept]
    return np.ascontiguousarray(turned, dtype=np.float32)


def _entropy(chance: Any) -> Any:
    """Return the entropy, in nats, of bits that are 1 with given chances."""
    chance = chance.clamp(1e-6, 1 - 1e-6)
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())
