"""Quantise the latents of a linear autoencoder, each by scalars of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher, rows_of
from packbench.methods.binary.binary_autoencoder import starting
from packbench.methods.codebook.adc import fit_vectors, item_vectors
from packbench.methods.projection.linear import map_rows
from packbench.methods.projection.mlp import descend, learnt, principal, values
from packbench.methods.scalar.levels import LevelsSearcher, RowsSearcher
from packbench.methods.scalar.lloyd_max import LloydMax
from packbench.methods.scalar.packing import packed_bytes
from packbench.registry import register

ENCODERS = ("linear", "identity")
RATES = (0.02,)  # the beginning is good, and greater steps leave it
COMMITMENT = 0.25  # weight of latents staying near their level, against levels moving to their latents


@register
@dataclass(frozen=True, slots=True)
class QLAE(Codec):
    """Code each latent of an autoencoder by the nearest of 2^bits values learnt for it.

    A linear encoder and decoder and the values are trained together: squared error through straight-through rounding,
    values drawn to their latents and latents to their values, and `decay` times the squared weights, which the paper
    holds high. They start from principal components, turned at random so that equal bits go to equal variance
    (turn=False: as they are), and Lloyd's values; training does not undo a turn. encoder="identity" is one codebook of
    scalars per dimension, lloyd_max. Queries meet values through the decoder; under l2 items are decoded. Hsu, Dorrell,
    Whittington, Wu, Finn, "Disentanglement via Latent Quantization", 2023, with a linear autoencoder.
    """

    name: ClassVar[str] = "qlae"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Hsu, Dorrell, Whittington, Wu, Finn, Disentanglement via Latent Quantization, 2023"
    formula: ClassVar[str] = (
        "ceil(dim bits / 8) per item; shared 4 (dim 2^bits + d dim + d) + 1, with the identity 4 d 2^bits + 1"
    )

    dim: int
    bits: int = 4
    encoder: str = "linear"
    turn: bool = True
    decay: float = 1e-3
    epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or not 1 <= self.bits <= 8:
            raise ValueError(f"dim is at least 1 and bits 1 to 8, got dim={self.dim}, bits={self.bits}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder={self.encoder!r}: expected one of {', '.join(ENCODERS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def most(bits: int) -> QLAE:
            fits = (cls(dim, bits) for dim in range(budget.d, 0, -1))
            return next((one for one in fits if budget.holds(*one.planned_bytes(budget.d))), cls(1, bits))

        # Few bits while that leaves dimensions to add, then finer ones.
        chosen = {bits: most(bits) for bits in (2, 3, 4, 6, 8)}
        fewest = next((bits for bits, one in chosen.items() if one.dim < budget.d), 8)
        return budget.fitting([one for bits, one in chosen.items() if bits >= fewest][:3])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        weights = 0 if self.encoder == "identity" else d * self.dim + d
        return float(packed_bytes(self.bits, self.dim)), 4.0 * (self.dim * 2**self.bits + weights) + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        d = vectors.shape[1]
        if self.encoder == "identity":
            if self.dim != d:
                raise BadInput(f"{self}: the identity keeps all coordinates; set dim to {d}")
            return {"levels": self._lloyd(vectors), "unit": is_unit}
        if self.dim > d:
            raise BadInput(f"{self}: the vectors have only {d} coordinates; choose dim up to that")
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        encoder, levels, decoder = self._train(vectors - mean)
        return {"levels": levels, "decoder": decoder, "mean": mean, "unit": is_unit, "build/encoder": encoder}

    def _lloyd(self, latents: Array) -> Array:
        return LloydMax(self.bits).fit(Sample(latents, "l2"))["levels"]

    def _train(self, centred: Array) -> tuple[Array, Array, Array]:
        """Return the encoder (dim, d), the values (dim, 2^bits) ascending, and the decoder (dim, d)."""
        import torch

        n, d = centred.shape
        begin = starting(centred, self.dim, self.seed).T if self.turn else principal(centred, self.dim)
        begin = np.ascontiguousarray(begin)
        length = max(float(np.sqrt(np.mean(map_rows(centred, begin) ** 2))), 1e-12)
        data = np.asarray(centred / length, np.float32)
        encoder, levels, decoder = learnt([begin, self._lloyd(map_rows(data, begin)), begin])
        x = torch.from_numpy(data)

        def loss(rows: Array) -> Any:
            latents = x[rows] @ encoder.T
            # Values may pass one another, so the nearest is sought in their order.
            ascending = levels.sort(dim=1).values
            middles = (ascending[:, 1:] + ascending[:, :-1]) / 2
            places = torch.searchsorted(middles.detach().contiguous(), latents.detach().T.contiguous())
            nearest = ascending.gather(1, places).T
            passed = latents + (nearest - latents).detach()
            error = (passed @ decoder - x[rows]).square().sum(dim=1).mean()
            drawn = (nearest - latents.detach()).square().sum(dim=1).mean()
            held = (nearest.detach() - latents).square().sum(dim=1).mean()
            weights = encoder.square().sum() + decoder.square().sum()
            return error + drawn + COMMITMENT * held + self.decay * weights

        descend([encoder, levels, decoder], loss, n, d, rates=RATES, seed=self.seed, epochs=self.epochs)
        learned, scalars, back = values([encoder, levels, decoder])
        return learned, np.sort(scalars * np.float32(length), axis=1), back

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        levels = {"levels": shared["levels"]}
        if self.encoder == "identity":
            return LloydMax(self.bits).encode(item_vectors(items, self.dim, shared["unit"]), levels)
        vectors = item_vectors(items, len(shared["mean"]), shared["unit"]) - shared["mean"]
        return LloydMax(self.bits).encode(map_rows(vectors, shared["build/encoder"]), levels)

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        latents = LloydMax(self.bits).decode(codes, {"levels": shared["levels"]})
        return latents if self.encoder == "identity" else np.asarray(latents @ shared["decoder"] + shared["mean"])

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        # Under cosine the coded vectors have length one, and their inner products rank best.
        ip = "ip" if metric == "cosine" else metric
        if self.encoder == "identity":
            return LevelsSearcher(codes["codes"], shared["levels"], self.bits, ip)
        if ip == "l2":
            n, d = len(codes["codes"]), len(shared["mean"])
            return RowsSearcher(n, d, ip, lambda part: self.decode(rows_of(codes, part), shared))
        return LevelsSearcher(
            codes["codes"], shared["levels"], self.bits, ip, lambda queries: as_vectors(queries) @ shared["decoder"].T
        )
