"""Rebuild vectors from the k highest activations of a linear autoencoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method, Sample
from packbench.methods.sparse.autoencoder import DictionaryCodec, Kept, Recipe, filling, sizes, train_autoencoder
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class KSparseAE(DictionaryCodec):
    """Keep the k highest activations of a linear autoencoder whose decoder is its encoder transposed.

    There is no other nonlinearity than the choice of the k, and atoms may have any length. Training starts with all
    atoms, and k falls to its value over the first half of the epochs, so that no atom is left unused. Makhzani, Frey,
    "k-Sparse Autoencoders", 2013, whose coding of αk activations after training with k is left out: at a budget, k is
    what is stored. Values of a few bits and kept lengths are additions; bits=16 and keep_length=False leave them out.
    """

    name: ClassVar[str] = "k_sparse_ae"
    fidelity: ClassVar[str] = "ANALOGUE"
    paper: ClassVar[str] = "Makhzani, Frey, k-Sparse Autoencoders, 2013"
    kept: ClassVar[Kept] = "highest"
    k: int = 32
    atoms: int = 256
    bits: int = 4
    keep_length: bool = True
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return filling(cls, sizes(budget.d), budget)

    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        recipe = Recipe(self.k, self.atoms, self.seed, kept=self.kept, unit_atoms=False, anneal=True)
        return train_autoencoder(vectors, recipe)
