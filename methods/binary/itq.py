"""Turn principal components until their signs lose least."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
from scipy.linalg import eigh

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import check_scorer, code_bytes, open_bits, pack_signs, whole_bytes
from packbench.methods.binary.linear import mean_of, project, random_rotation, unit_if
from packbench.methods.binary.sign import is_centred
from packbench.registry import register

FIT_ROWS = 20_000  # as many as the paper trained on; more cost time in proportion and change the rotation little


@register
@dataclass(frozen=True, slots=True)
class ITQ(Method):
    """Keep the signs of principal components after a rotation learnt to bring them near the corners of a cube.

    Iterative quantisation: Gong, Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes,
    2011. Data are centred by the fit sample's mean, cut to their first `bits` principal components (at most d) and
    rotated; components and rotation are stored merged. An angular code about the mean: lengths are lost, also under
    ip and l2; under cosine vectors are normalised first. The asymmetric scorer keeps the query's real coordinates.
    """

    name: ClassVar[str] = "itq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Gong, Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes, 2011"
    )
    formula: ClassVar[str] = "ceil(bits/8) per item, bits ≤ d; shared 4(d·bits + d) + 1"

    bits: int
    iterations: int = 50
    scorer: str = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits={self.bits}: expected at least 1")
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations}: expected 0 or more")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        bits = min(budget.d, whole_bytes(budget, 4 * budget.d, fixed=4 * budget.d + 1))
        return budget.fitting([cls(bits, scorer="asymmetric"), cls(bits)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(code_bytes(self.bits)), 4.0 * (d * self.bits + d) + 1, 0.0

    def fitted_as(self) -> Method:
        return replace(self, scorer="symmetric")

    def fit(self, sample: Sample) -> Arrays:
        cosine = np.array([sample.metric == "cosine"], np.uint8)
        rng = np.random.default_rng(self.seed)
        x = as_vectors(cast(Array, sample.items))
        if self.bits > x.shape[1]:
            raise BadInput(f"{self}: at most one bit for each of the {x.shape[1]} principal components")
        if len(x) > FIT_ROWS:
            x = x[np.sort(rng.choice(len(x), FIT_ROWS, replace=False))]
        x = unit_if(cosine, x)
        mean = mean_of(x)
        centred = x - mean
        # Directions in which a small sample has no variance come last, and are arbitrary but orthogonal.
        directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1][:, ::-1][:, : self.bits]
        rotation, _ = learn_rotation(centred @ directions, random_rotation(self.bits, self.seed), self.iterations)
        return {"projection": (directions @ rotation).astype(np.float32), "mean": mean, "unit": cosine}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = unit_if(shared["unit"], as_vectors(items))
        return {"codes": pack_signs(project(x - shared["mean"], shared["projection"]))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        def real(queries: Array) -> Array:
            unit = unit_if(shared["unit"], queries)
            return cast(Array, (unit - shared["mean"] if centred else unit) @ shared["projection"])

        centred = is_centred(self.scorer, metric)
        return open_bits(codes["codes"], self.scorer, real)


def learn_rotation(scores: Array, rotation: Array, iterations: int) -> tuple[Array, list[float]]:
    """Alternate between the nearest corners B of V R and the rotation R that fits them best (orthogonal Procrustes).

    Returns:
        The rotation, and the losses ‖B - V R‖² before each turn and after the last: they never increase.
    """
    losses = []
    scores = scores.astype(np.float32)
    for turn in range(iterations + 1):
        turned = scores @ rotation.astype(np.float32)
        corners = np.where(turned > 0, np.float32(1), np.float32(-1))
        losses.append(float(np.sum((corners - turned) ** 2, dtype=np.float64)))
        if turn < iterations:
            rotation = nearest_rotation((scores.T @ corners).astype(np.float64))
    return rotation, losses


def nearest_rotation(matrix: Array) -> Array:
    """Return the orthogonal factor of the polar decomposition of matrix (k, k) float64.

    From the eigenvectors of M'M, at half the price of singular vectors. What M maps to nothing may turn anyhow.
    """
    values, axes = eigh(matrix.T @ matrix, driver="evd", check_finite=False)
    seen = values > 1e-10 * values[-1]
    turned = matrix @ (axes[:, seen] / np.sqrt(values[seen]))
    if not seen.all():
        turned = np.concatenate([np.linalg.qr(turned, mode="complete")[0][:, seen.sum() :], turned], axis=1)
    return np.asarray(turned @ axes.T)
