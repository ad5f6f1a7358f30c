"""The control of product quantisation: its codes, with centroids that are rows of the sample and not learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.errors import BadInput
from packbench.method import Arrays, Sample
from packbench.methods.codebook.adc import fit_vectors, spread
from packbench.methods.codebook.additive import without_repeats
from packbench.methods.codebook.pq import PQ
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RandomCodebook(PQ):
    """Product quantisation whose 2^bits centroids are rows of the fit sample drawn at random, block by block.

    The control for pq, opq and rq: what k-means is worth is what they have over this. A sample of fewer rows than
    centroids is taken whole, and zeros fill up the codebook.
    """

    name: ClassVar[str] = "random_codebook"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = ""

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        n, d = vectors.shape
        if self.m > d:
            raise BadInput(f"{self}: vectors of {d} coordinates make at most {d} blocks; choose m up to that")
        rng = np.random.default_rng(self.seed)
        codebook = np.zeros((self.m, 1 << self.bits, -(-d // self.m)), np.float32)
        for words, rows in zip(codebook, np.split(spread(vectors, self.m), self.m, axis=1), strict=True):
            drawn = rng.choice(n, min(n, len(words)), replace=False)
            words[: len(drawn)] = rows[drawn]
        return {"codebook": without_repeats(codebook), "d": np.array([d], np.int32), "unit": is_unit}
