"""Additive quantisation with local search: codebooks of whole words, all of them learnt together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from packbench.budget import Budget
from packbench.items import Items
from packbench.method import Arrays, Method, Sample
from packbench.methods.codebook.adc import fit_vectors, item_vectors
from packbench.methods.codebook.additive import AdditiveCodec, additive_candidates, pack, thinned, without_repeats
from packbench.methods.codebook.local_search import alternate, beam_search, refine, residual_codebooks
from packbench.methods.codebook.pq import check_sizes
from packbench.registry import register

MOST_ROWS = 10_000  # of the fit sample; a larger one is thinned, for time
FIT_RESTARTS = 4  # a row is coded anew in each round, so few searches of each will do
MOST_BOOKS = {4: 128, 6: 48}  # that a budget may ask for, by bits: what trains in minutes


@register
@dataclass(frozen=True, slots=True)
class LSQ(AdditiveCodec):
    """Sum m words, each one of 2^bits, chosen by local search in codebooks that least squares fits together.

    Martinez, Zakhmi, Hoos, Little, "LSQ++: Lower Running Time and Higher Recall in Multi-Codebook Quantization", 2018.
    From the codebooks of residual quantisation on, `rounds` of least squares for all words at once and of iterated
    conditional modes for the codes; a code is the best of 1 + `restarts` searches, each but the first from a perturbed
    code. `ridge` counts against the length of words as so many rows would. Few rows for many words are remembered as
    by residual quantisation, and the more so without a ridge: four bits to a word and a ridge of ten rows generalise
    best from a few thousand.
    """

    name: ClassVar[str] = "lsq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Martinez, Zakhmi, Hoos, Little, LSQ++: Lower Running Time and Higher Recall in Multi-Codebook Quantization, "
        "2018"
    )
    formula: ClassVar[str] = "ceil(m bits / 8) per item; shared 4 · 2^bits m d + 1"

    m: int
    bits: int = 4
    rounds: int = 4
    restarts: int = 16
    ridge: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.rounds < 0 or self.restarts < 0:
            raise ValueError(f"rounds={self.rounds}, restarts={self.restarts}: expected at least 0")
        if not self.ridge > 0:
            raise ValueError(f"ridge={self.ridge}: expected more than 0, or words that code nothing have no value")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(additive_candidates(budget, cls, MOST_BOOKS))

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        vectors = thinned(vectors, MOST_ROWS, self.seed)
        start = residual_codebooks(vectors, self.m, self.bits, self.seed)
        codebook = alternate(vectors, start, self.rounds, FIT_RESTARTS, self.ridge, self.seed)
        return {"codebook": without_repeats(codebook), "unit": is_unit}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = item_vectors(items, shared["codebook"].shape[2], shared["unit"])
        codes = beam_search(vectors, shared["codebook"])
        return {"codes": pack(refine(vectors, shared["codebook"], codes, self.restarts, self.seed)[0], self.bits)}
