"""Rebuild vectors from k positive features of a sparse autoencoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method, Sample
from packbench.methods.sparse.autoencoder import DictionaryCodec, Recipe, filling, sizes, train_autoencoder
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class SAETopK(DictionaryCodec):
    """Keep the k largest positive activations of a sparse autoencoder, with a decoder of its own.

    The encoder is ReLU(W(x - b)) cut to its k largest entries; the decoder starts as its transpose, and its atoms keep
    length one. Atoms that an epoch has not used are revived by an auxiliary loss. The paper judges the rebuilt vectors.
    Values of a few bits and kept lengths are additions; bits=16, tied=False and keep_length=False leave them out.
    O'Neill, Ye, Iyer, Wu, "Disentangling Dense Embeddings with Sparse Autoencoders", 2024.

    With `agreement`, the weight of 1 - mean max cosine between the dictionaries of two autoencoders trained side by
    side, features that another start would not find again are discouraged: Marks, Paren, Krueger, Barez, "Enhancing
    Neural Network Interpretability with Feature-Aligned Sparse Autoencoders", 2024. One of the two is stored.
    """

    name: ClassVar[str] = "sae_topk"
    fidelity: ClassVar[str] = "ANALOGUE"
    paper: ClassVar[str] = (
        "O'Neill, Ye, Iyer, Wu, Disentangling Dense Embeddings with Sparse Autoencoders, 2024; with agreement: Marks, "
        "Paren, Krueger, Barez, Enhancing Neural Network Interpretability with Feature-Aligned Sparse Autoencoders, "
        "2024"
    )
    k: int = 16
    atoms: int = 512
    bits: int = 4
    tied: bool = False
    agreement: float = 0.0
    keep_length: bool = True
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        # A decoder of its own has twice the weights, which a sample of some thousand vectors does not pay for.
        found = filling(cls, sizes(budget.d), budget)
        return [*(replace(one, tied=True) for one in found[:2]), found[0]]

    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        recipe = Recipe(self.k, self.atoms, self.seed, tied=self.tied, revive=1 / 32, agreement=self.agreement)
        return train_autoencoder(vectors, recipe)
