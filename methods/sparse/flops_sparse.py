"""Code vectors by log-saturated positive activations that a regulariser spreads over all atoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.sparse.autoencoder import DictionaryCodec, Recipe, filling, sizes, train_autoencoder
from packbench.registry import register

FIRST_WEIGHT = 0.1  # of the regulariser, to be steered


@register
@dataclass(frozen=True, slots=True)
class FlopsSparse(DictionaryCodec):
    """Keep at most k log-saturated activations, of which a regulariser leaves few and uses all atoms alike.

    z = log(1 + ReLU(Wx + b)) is trained to rebuild x and to keep small the sum over atoms of (mean activation)^2, to
    which the cost of searching posting lists is proportional. Its weight is steered until vectors of the sample have k
    activations on average. What is stored is cut to the k largest, so that each item takes the same bytes: shorter
    codes do not pay for longer ones. A post-hoc stand-in for a text encoder trained so: Formal, Piwowarski, Clinchant,
    "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking", 2021.
    """

    name: ClassVar[str] = "flops_sparse"
    fidelity: ClassVar[str] = "ANALOGUE"
    paper: ClassVar[str] = (
        "Formal, Piwowarski, Clinchant, SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking, 2021"
    )
    k: int = 32
    atoms: int = 256
    bits: int = 4
    keep_length: bool = True
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return filling(cls, sizes(budget.d), budget)

    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        recipe = Recipe(
            self.k, self.atoms, self.seed, unit_atoms=False, saturated=True, flops=FIRST_WEIGHT, steered=True
        )
        return train_autoencoder(vectors, recipe)

    def activations(self, vectors: Array, shared: Arrays) -> Array:
        length = shared["build/length"]
        return length * np.log1p(np.maximum(DictionaryCodec.activations(self, vectors, shared), 0) / length)
