"""Additive codes that err least where queries look: least squares in the metric of their second moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Sample
from packbench.methods.codebook.adc import fit_vectors, item_vectors
from packbench.methods.codebook.additive import AdditiveCodec, additive_candidates, pack, thinned, without_repeats
from packbench.methods.codebook.local_search import alternate, beam_search, refine, residual_codebooks
from packbench.methods.codebook.lsq import FIT_RESTARTS, MOST_BOOKS, MOST_ROWS
from packbench.methods.codebook.pq import check_sizes
from packbench.methods.projection.linear import unit
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class AdditivePV(AdditiveCodec):
    """Sum m words, each one of 2^bits, so that inner products with the fit queries err least.

    Malinovskii et al., "PV-Tuning: Beyond Straight-Through Estimation for Extreme LLM Compression", 2024, its two steps
    on vectors in place of weights. The error that counts is e'He with H = `weight` E[qq'] + (1 - `weight`) I, scaled to
    equal trace: that of items and words times the root of H. From residual quantisation on, each of `rounds` solves for
    the words (V) and moves the codes of the share `cap` of rows that gain most by it (P). Items are coded in the same
    metric; what that needs, search does not. Inner products are those of the words themselves. l2 takes H = I.
    """

    name: ClassVar[str] = "additive_pv"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Malinovskii et al., PV-Tuning: Beyond Straight-Through Estimation for Extreme LLM Compression, 2024"
    )
    formula: ClassVar[str] = "ceil(m bits / 8) per item; shared 4 · 2^bits m d + 1"

    m: int
    bits: int = 4
    weight: float = 0.5
    cap: float = 0.5
    rounds: int = 6
    restarts: int = 16
    ridge: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if not 0 <= self.weight < 1:
            raise ValueError(f"weight={self.weight}: expected at least 0 and less than 1")
        if not 0 < self.cap <= 1:
            raise ValueError(f"cap={self.cap}: expected a share above 0, up to 1")
        if self.rounds < 0 or self.restarts < 0:
            raise ValueError(f"rounds={self.rounds}, restarts={self.restarts}: expected at least 0")
        if not self.ridge > 0:
            raise ValueError(f"ridge={self.ridge}: expected more than 0, or words that code nothing have no value")

    def needed(self) -> frozenset[str]:
        return frozenset({"queries"}) if self.weight else frozenset()

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(additive_candidates(budget, cls, MOST_BOOKS))

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        root, inverse = self._roots(sample, vectors.shape[1])
        weighed = _mapped(thinned(vectors, MOST_ROWS, self.seed), root)
        start = residual_codebooks(weighed, self.m, self.bits, self.seed)
        codebook = alternate(weighed, start, self.rounds, FIT_RESTARTS, self.ridge, self.seed, cap=self.cap)
        return {"codebook": without_repeats(codebook @ inverse), "build/root": root, "unit": is_unit}

    def _roots(self, sample: Sample, d: int) -> tuple[Array, Array]:
        """Return the root of H and its inverse, (d, d) float32."""
        if not self.weight or sample.metric == "l2":
            return np.eye(d, dtype=np.float32), np.eye(d, dtype=np.float32)
        if sample.queries is None:
            raise BadInput(f"{self}: weight > 0 needs fit queries, which this data set does not have")
        queries = as_vectors(sample.queries, "fit queries")
        queries = unit(queries) if sample.metric == "cosine" else queries
        moment = (queries.T @ queries).astype(np.float64)
        moment *= d / max(np.trace(moment), 1e-30)
        values, axes = eigh(self.weight * moment + (1 - self.weight) * np.eye(d))
        root, inverse = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
        return root.astype(np.float32), inverse.astype(np.float32)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        root = shared["build/root"]
        vectors = _mapped(item_vectors(items, len(root), shared["unit"]), root)
        codebook = shared["codebook"] @ root
        codes = refine(vectors, codebook, beam_search(vectors, codebook), self.restarts, self.seed)[0]
        return {"codes": pack(codes, self.bits)}


def _mapped(vectors: Array, root: Array) -> Array:
    # BLAS rounds a product differently with the number of rows; in float64, that is lost in what is returned.
    return np.asarray(vectors.astype(np.float64) @ root, np.float32)
