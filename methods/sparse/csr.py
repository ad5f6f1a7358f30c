"""Code vectors sparsely by a tied autoencoder whose codes are trained to tell vectors apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_queries, unit
from packbench.methods.sparse.autoencoder import DictionaryCodec, Recipe, filling, sizes, train_autoencoder
from packbench.methods.sparse.support import densify
from packbench.registry import register

SCORERS = ("codes", "decoder")
BIAS = 4.0  # bytes of an atom's, which encoding a query takes


@register
@dataclass(frozen=True, slots=True)
class CSR(DictionaryCodec):
    """Keep k positive activations of a tied autoencoder that is also trained to tell codes apart.

    The loss is the error with k atoms, an eighth of that with 4k, a 32nd of what idle atoms leave of the error, and
    `contrast` times InfoNCE at temperature 0.2 between an item's code and its query's where the sample has pairs.
    Elsewhere, as in the authors' programs, an item is its own partner, which spreads the codes of others.

    scorer="codes" is the paper's: queries are encoded too, and codes compared by cosine. scorer="decoder" compares
    the query itself with what the code rebuilds. Either way the encoder is the dictionary. Values of a few bits and
    kept lengths are additions; bits=16 and keep_length=False leave them out. Wen, Wang, Zeng, Peng, Su,
    Liu, Chen, Liu, Jegelka, You, "Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation", 2025.
    """

    name: ClassVar[str] = "csr"
    fidelity: ClassVar[str] = "ANALOGUE"
    paper: ClassVar[str] = (
        "Wen, Wang, Zeng, Peng, Su, Liu, Chen, Liu, Jegelka, You, Beyond Matryoshka: Revisiting Sparse Coding for "
        "Adaptive Representation, 2025"
    )
    formula: ClassVar[str] = DictionaryCodec.formula + "; scorer='codes' + 4 atoms shared"
    k: int = 32
    atoms: int = 256
    bits: int = 4
    contrast: float = 0.1
    scorer: str = "codes"
    keep_length: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        DictionaryCodec.__post_init__(self)
        if self.scorer not in SCORERS:
            raise ValueError(f"scorer is one of {', '.join(SCORERS)}; got {self.scorer!r}")
        if self.contrast < 0:
            raise ValueError(f"contrast is a weight, 0 or more; got {self.contrast}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        found = filling(cls, sizes(budget.d), budget, extra=BIAS)
        through = [replace(one, scorer="decoder") for one in found]
        return [through[0], found[0], *through[1:2]]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item, shared, cold = DictionaryCodec.planned_bytes(self, d)
        return item, shared + (BIAS * self.atoms if self.scorer == "codes" else 0), cold

    def fitted_as(self) -> Method:
        return replace(self, scorer="codes")

    def cut(self, shared: Arrays) -> Arrays:
        if self.scorer == "codes":
            return shared
        return {"build/bias" if name == "bias" else name: array for name, array in shared.items()}

    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        recipe = Recipe(
            self.k, self.atoms, self.seed, unit_atoms=False, wide=1 / 8, revive=1 / 32, contrast=self.contrast
        )
        learned = train_autoencoder(vectors, recipe, _partners(vectors, sample))
        if self.scorer == "codes":
            learned["bias"] = learned.pop("build/bias")
        # Queries are encoded by the stored atoms, so items are too.
        return learned | {"build/encoder": learned["atoms"].astype(np.float32)}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if self.scorer == "decoder":
            return DictionaryCodec.open(self, codes, shared, metric)
        encoder = shared["atoms"].astype(np.float32)

        def codes_of(queries: Array) -> Array:
            vectors = unit(queries) if metric == "cosine" else queries
            return densify(*self.keep(map_queries(vectors - shared["centre"], encoder) + shared["bias"]), self.atoms)

        return self.format.searcher(codes, shared, "cosine", codes_of)


def _partners(vectors: Array, sample: Sample) -> Array | None:
    """Return for each vector (n, d) the last query that is paired with it, or itself; none without pairs."""
    if sample.queries is None or "pairs" not in sample.extras:
        return None
    queries = as_vectors(sample.queries, "fit queries")
    partners = vectors.copy()
    query, item = sample.extras["pairs"].T
    partners[item] = unit(queries[query]) if sample.metric == "cosine" else queries[query]
    return partners
