"""Learn the directions in which an item agrees with its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.projection.linear import reduced
from packbench.methods.projection.mlp import (
    Encoder,
    centred_sample,
    even_batch,
    learnt,
    orthonormal,
    principal,
    uniform,
)
from packbench.methods.training import train
from packbench.registry import register

FIT_ROWS = 50_000  # neighbours are found exactly, and the projector costs time for each row
BATCH = 512
OFF_DIAGONAL = 3.9e-3  # weight of redundancy against disagreement
STARTS = ("pca", "random")


@register
@dataclass(frozen=True, slots=True)
class TLDR(Encoder):
    """Project onto `dim` directions in which items correlate with their neighbours, learnt as Barlow twins.

    A linear encoder and, for training alone, three layers `projector` wide with batch
    normalisation: the correlations between the outputs for an item and for one of its `neighbours` are driven to the
    identity. A linear layer and a normalisation follow the encoder, so the loss sees only the space that its rows span;
    they are made orthonormal, and then keep what they can of the scores. start="random" is the authors' start; on some
    thousand rows it does not come back to where principal components begin. They train 2048 wide with LARS, here it is
    Adam. Kalantidis, Lassance, Almazán, Larlus, "TLDR: Twin Learning for Dimensionality Reduction", 2021.
    """

    name: ClassVar[str] = "tldr"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = (
        "Kalantidis, Lassance, Almazán, Larlus, TLDR: Twin Learning for Dimensionality Reduction, 2021"
    )
    formula: ClassVar[str] = "dim coordinates per item; shared 4 (d dim + d) + 1"
    hidden: ClassVar[int] = 0  # type: ignore[misc]

    dim: int
    neighbours: int = 5
    start: str = "pca"
    projector: int = 512
    epochs: int = 10
    rate: float = 4e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.dim, self.neighbours, self.projector) < 1:
            raise ValueError(
                f"dim, neighbours and projector are at least 1, got {self.dim}, {self.neighbours}, {self.projector}"
            )
        if self.start not in STARTS:
            raise ValueError(f"start={self.start!r}: expected one of {', '.join(STARTS)}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return reduced(cls, budget)

    def fit(self, sample: Sample) -> Arrays:
        import torch

        rng = np.random.default_rng(self.seed)
        vectors, shared = centred_sample(self, sample, self.dim)
        n, d = vectors.shape
        if n <= self.neighbours:
            raise BadInput(f"{self}: {n} rows to fit on have no {self.neighbours} neighbours each")
        if n > FIT_ROWS:
            vectors, n = vectors[np.sort(rng.choice(n, FIT_ROWS, replace=False))], FIT_ROWS
        # About the mean neither lengths nor angles are those of the metric, so neighbours are sought where items lie.
        near = nearest(vectors + shared["mean"], sample.metric, self.neighbours)
        begin = principal(vectors, self.dim) if self.start == "pca" else uniform(rng, self.dim, d)
        layers = [uniform(rng, self.projector, into) for into in (self.dim, self.projector, self.projector)]
        parameters = learnt([begin, *layers])
        data, batch = torch.from_numpy(vectors), even_batch(n, BATCH, self.seed)

        def outputs(rows: Array) -> Any:
            y = _normalised(data[rows] @ parameters[0].T @ parameters[1].T).relu()
            return _normalised(_normalised(y @ parameters[2].T).relu() @ parameters[3].T)

        def loss(one: Any, other: Any) -> Any:
            correlations = one.T @ other / len(one)
            diagonal = torch.diagonal(correlations)
            redundancy = correlations.square().sum() - diagonal.square().sum()
            return (diagonal - 1).square().sum() + OFF_DIAGONAL * redundancy

        def drawn(rows: Array) -> Any:
            return loss(outputs(rows), outputs(near[rows, rng.integers(0, self.neighbours, len(rows))]))

        def held_out(rows: Array) -> Any:
            one = outputs(rows)
            return sum(loss(one, outputs(twins)) for twins in near[rows].T)

        train(
            parameters, drawn, n, seed=self.seed, epochs=self.epochs, batch=batch, rate=self.rate,
            held_out_loss=held_out,
        )  # fmt: skip
        return shared | {"outer": orthonormal(parameters[0].detach().numpy())}


def nearest(vectors: Array, metric: str, count: int) -> Array:
    """Return the (n, count) nearest other rows of each row under a metric."""
    found = search_exact(vectors, vectors, metric, count + 1).ids
    # A row is not always its own best answer: duplicates tie, and under ip a longer one scores higher.
    others = np.argsort(found == np.arange(len(found))[:, None], axis=1, kind="stable")[:, :count]
    return np.take_along_axis(found, others, axis=1)


def _normalised(outputs: Any) -> Any:
    """Return outputs of mean 0 and variance 1 over the batch; one that does not vary becomes 0."""
    import torch

    return torch.nn.functional.batch_norm(outputs, None, None, training=True, eps=1e-5)
