"""Predict sparse codes by one layer that is trained together with their dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import generator
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.projection.linear import map_rows, unit
from packbench.methods.sparse.autoencoder import (
    BATCH,
    RATE,
    DictionaryCodec,
    epochs_for,
    filling,
    fit_rows,
    sizes,
    standard,
)
from packbench.methods.sparse.support import top_k_rows
from packbench.methods.training import train
from packbench.registry import register

FIRST_SPARSITY = 0.1  # lambda of vectors whose length is one on average, to be steered
PULL = 1.0  # alpha
FEW, MANY = 10, 200  # steps towards the codes of a batch, and towards exact codes


@register
@dataclass(frozen=True, slots=True)
class PSD(DictionaryCodec):
    """Keep the k largest of sparse codes that a tanh layer predicts, instead of solving for them.

    Trained are atoms B of length one and a predictor F(x) = G tanh(Wx + b), G diagonal, for the least
    |x - Bz|^2 + lambda |z|_1 + |z - F(x)|^2: codes z of a batch by some proximal gradient steps from F(x), then all
    weights by a step of Adam. exact=True codes by the z of least |x - Bz|^2 + lambda |z|_1 over the same atoms, which
    is what F saves. lambda is steered over the first half of the training until codes of the sample have k entries on
    average. That, the cut to k, values of a few bits and kept lengths are additions. Kavukcuoglu, Ranzato, LeCun, "Fast
    Inference in Sparse Coding Algorithms with Applications to Object Recognition", 2010.
    """

    name: ClassVar[str] = "psd"
    fidelity: ClassVar[str] = "ANALOGUE"
    paper: ClassVar[str] = (
        "Kavukcuoglu, Ranzato, LeCun, Fast Inference in Sparse Coding Algorithms with Applications to Object "
        "Recognition, 2010"
    )
    k: int = 32
    atoms: int = 256
    bits: int = 4
    exact: bool = False
    keep_length: bool = True
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return filling(cls, sizes(budget.d), budget)

    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        import torch

        rows = fit_rows(len(vectors), self.seed)
        shift, length = standard(vectors[rows])
        x = (vectors[rows] - shift) / length
        drawn = unit(generator(self.seed).standard_normal((self.atoms, x.shape[1]))).astype(np.float32)
        atoms: Any = torch.tensor(drawn, requires_grad=True)
        encoder: Any = torch.tensor(drawn, requires_grad=True)
        bias, gain = torch.zeros(self.atoms, requires_grad=True), torch.ones(self.atoms, requires_grad=True)
        epochs = epochs_for(len(rows))
        sparsity, steered = FIRST_SPARSITY, True

        def loss(batch: Array) -> Any:
            nonlocal sparsity
            given = torch.from_numpy(x[batch])
            predicted = gain * torch.tanh(given @ encoder.T + bias)
            found = sparse_codes(
                x[batch], atoms.detach().numpy(), predicted.detach().numpy(), sparsity, PULL, FEW, _any_rows
            )
            codes = torch.from_numpy(found)
            error = (given - codes @ atoms).square().sum(1) + PULL * (codes - predicted).square().sum(1)
            value = (error + sparsity * codes.abs().sum(1)).mean()
            if steered and torch.is_grad_enabled():
                many = np.count_nonzero(found) / (self.k * len(batch))
                sparsity *= float(np.clip(many**0.1, 0.95, 1.05))
            return value

        def held_out_loss(batch: Array) -> Any:
            # While lambda changes, losses do not compare from epoch to epoch; an infinite one stops nothing.
            return np.inf if steered else loss(batch)

        def after_step() -> None:
            atoms.data /= atoms.data.norm(dim=1, keepdim=True).clamp_min(1e-12)

        def after_epoch(epoch: int) -> None:
            nonlocal steered
            steered = 2 * (epoch + 1) < epochs

        # Codes that are solved for bear steps twice as long as those of autoencoders.
        train(
            [atoms, encoder, bias, gain], loss, len(rows), seed=self.seed, epochs=epochs, batch=BATCH, rate=2 * RATE,
            after_step=after_step, after_epoch=after_epoch, held_out_loss=held_out_loss,
        )  # fmt: skip
        return {
            "atoms": atoms.detach().numpy().astype(np.float16), "centre": shift,
            "build/encoder": encoder.detach().numpy() / length, "build/bias": bias.detach().numpy().copy(),
            "build/gain": length * gain.detach().numpy(), "build/sparsity": np.array([length * sparsity], np.float32),
        }  # fmt: skip

    def activations(self, vectors: Array, shared: Arrays) -> Array:
        predicted = np.asarray(shared["build/gain"] * np.tanh(DictionaryCodec.activations(self, vectors, shared)))
        if not self.exact:
            return predicted
        atoms = shared["atoms"].astype(np.float32)
        return sparse_codes(vectors - shared["centre"], atoms, predicted, shared["build/sparsity"][0], 0.0, MANY)

    def keep(self, activations: Array) -> tuple[Array, Array]:
        return top_k_rows(activations, self.k)


def sparse_codes(
    vectors: Array, atoms: Array, start: Array, sparsity: float, pull: float, steps: int,
    product: Callable[[Array, Array], Array] = map_rows,
) -> Array:  # fmt: skip
    """Return z (n, atoms) float32 of least |x - z atoms|^2 + sparsity |z|_1 + pull |z - start|^2 after some steps.

    Steps are those of Beck, Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems",
    2009, from start (n, atoms). `product` returns rows @ matrix.T.
    """
    gram = atoms @ atoms.T
    rate = np.float32(1 / (_greatest_eigenvalue(gram) + pull))
    shrunk = rate * np.float32(sparsity) / 2
    towards = rate * (product(vectors, atoms) + np.float32(pull) * start)
    onwards = -rate * gram
    onwards[np.diag_indices(len(gram))] += 1 - rate * np.float32(pull)
    codes, ahead, momentum = start, start, 1.0
    for _ in range(steps):
        found = product(ahead, onwards)
        found += towards
        found -= np.clip(found, -shrunk, shrunk)
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = found - codes
        ahead *= np.float32((momentum - 1) / after)
        ahead += found
        codes, momentum = found, after
    return np.asarray(codes, np.float32)


def _any_rows(vectors: Array, matrix: Array) -> Array:
    """Return vectors @ matrix.T as BLAS rounds it for so many rows: a batch of the training is always coded whole."""
    found: Array = vectors @ matrix.T
    return found


def _greatest_eigenvalue(gram: Array) -> float:
    """Return a little more than the greatest eigenvalue, by the power method: a step each time it is trained."""
    direction = np.abs(gram).sum(axis=1)
    for _ in range(30):
        direction = gram @ direction
        direction /= np.sqrt(direction @ direction)
    return 1.05 * float(direction @ gram @ direction)
