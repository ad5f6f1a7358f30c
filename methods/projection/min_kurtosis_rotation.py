"""Choose the rotation after which vectors have the fewest outliers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.fft import dct
from scipy.linalg import hadamard

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.factors import generator, leading, moment, random_orthogonal
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Sample, Transform
from packbench.methods.projection.linear import conditioned, map_queries, map_rows
from packbench.registry import register

ROWS = 4096
MARGIN = 0.1  # of kurtosis: a rotation has to gain more than this over a simpler one


@register
@dataclass(frozen=True, slots=True)
class MinKurtosisRotation(Transform):
    """Rotate by what leaves vectors the least kurtosis: nothing, Hadamard with random signs, PCA or a random rotation.

    The excess kurtosis over the coordinates of a vector, averaged over the fit sample, says how far a grid per vector
    is wasted on outlier dimensions. The simplest candidate within a small margin of the least is kept, as a dense
    matrix whatever it is. A width that is no power of two takes the Kronecker product of a Hadamard and a cosine
    matrix. The papers reduce kurtosis in training; this selects for frozen vectors. Nrusimha, Mishra, Wang, Alistarh,
    Panda and Kim, "Mitigating the Impact of Outlier Channels for Language Model Quantization with Activation
    Regularization", 2024; Park et al., "Outlier-Safe Pre-Training for Robust 4-Bit Quantization of Large Language
    Models", 2025.
    """

    name: ClassVar[str] = "min_kurtosis_rotation"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Nrusimha, Mishra, Wang, Alistarh, Panda, Kim, Mitigating the Impact of Outlier Channels for Language Model "
        "Quantization with Activation Regularization, 2024"
    )
    formula: ClassVar[str] = "d coordinates per item; shared 4 d^2"
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return conditioned(cls(), budget)

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * d

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no kurtosis to measure")
        rows = vectors[:: -(-len(vectors) // ROWS)]
        matrices = self.candidates(vectors)
        found = np.array([kurtosis(rows @ matrix.T) for matrix in matrices.values()])
        chosen = int(np.argmax(found <= found.min() + MARGIN))
        return {"rotation": list(matrices.values())[chosen]}

    def candidates(self, vectors: Array) -> dict[str, Array]:
        """Return the rotations to choose from, the simplest first, each (d, d) float32."""
        d = vectors.shape[1]
        return {
            "identity": np.eye(d, dtype=np.float32),
            "hadamard": _hadamard(d, self.seed),
            "pca": leading(moment(vectors), d)[1].astype(np.float32),
            "random": random_orthogonal(d, self.seed),
        }

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(as_vectors(items), shared["rotation"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(queries, shared["rotation"])


def kurtosis(rows: Array) -> float:
    """Return the excess kurtosis about 0 over the coordinates of a vector, the mean of all rows that are not zero."""
    wide = rows.astype(np.float64) ** 2
    second, fourth = wide.mean(axis=1), (wide**2).mean(axis=1)
    kept = second > 0
    return float((fourth[kept] / second[kept] ** 2 - 3).mean()) if kept.any() else 0.0


def _hadamard(d: int, seed: int) -> Array:
    """Return an orthogonal matrix of even entries with random signs of its columns."""
    power = d & -d
    odd = dct(np.eye(d // power), axis=0, norm="ortho")
    signs = generator(seed).choice([-1.0, 1.0], d)
    return np.asarray(np.kron(odd, hadamard(power) / np.sqrt(power)) * signs, np.float32)
