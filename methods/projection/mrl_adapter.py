"""Turn vectors after the fact so that their first coordinates rank as all of them do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced, rule_of, unit
from packbench.methods.projection.mlp import descend, learnt, orthonormal, principal
from packbench.methods.projection.moments import directed, learnable
from packbench.registry import register

LOSSES = ("similarity", "pairs", "reconstruction")
STARTS = ("pca", "identity")
SHORTEST = 16  # prefixes are trained at 16, 32, 64, ... and dim
NEAR = 5  # candidates of a batch are drawn from so many nearest items of each of its queries
RATES = (0.05, 0.01)  # the few coordinates of a small budget take the first, of many the second
TEMPERATURE = 0.05  # of scores in units of the mean squared length


@register
@dataclass(frozen=True, slots=True)
class MRLAdapter(Transform):
    """Turn vectors and keep the first `dim` coordinates, trained so that each prefix ranks like the whole.

    The loss is a mean over prefixes of 16, 32, 64 ... coordinates. "similarity": the divergence between the softmax of
    a query's scores of items and that of the prefix's scores, for sample queries, or for items where there are none.
    "pairs": the paired item against those of other queries (InfoNCE). "reconstruction": what the prefix leaves of
    items. The matrix has orthonormal rows unless orthogonal=False, and starts at principal components about the origin
    or, start="identity", at the encoder's first coordinates. The encoder itself is not trained: this is no Matryoshka
    embedding. After Kusupati and others, "Matryoshka Representation Learning", 2022.
    """

    name: ClassVar[str] = "mrl_adapter"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "transform"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Kusupati et al., Matryoshka Representation Learning, 2022"
    formula: ClassVar[str] = "dim coordinates per item; shared 4 d dim + 1"

    dim: int
    loss: str = "similarity"
    orthogonal: bool = True
    start: str = "pca"
    epochs: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.loss not in LOSSES or self.start not in STARTS:
            raise ValueError(
                f"loss={self.loss!r}, start={self.start!r}: expected one of {', '.join(LOSSES)} and one of "
                f"{', '.join(STARTS)}"
            )

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        turned = list(reduced(cls, budget))[:2]
        freed = list(reduced(lambda dim: cls(dim, orthogonal=False), budget))[1:2]
        return [*turned, *freed]

    def needed(self) -> frozenset[str]:
        return frozenset({"queries", "pairs"}) if self.loss == "pairs" else frozenset()

    def metric_after(self, metric: Metric) -> Metric:
        return "ip" if metric == "cosine" else metric

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim + 1

    def fit(self, sample: Sample) -> Arrays:
        import torch

        rule, items = rule_of(sample.metric), learnable(self, sample, self.dim)
        asked, found = self._asked(sample, items)
        begin = principal(items, self.dim) if self.start == "pca" else np.eye(self.dim, items.shape[1])
        (matrix,) = learnt([begin])
        scale = max(float(np.mean(np.einsum("ij,ij->i", items, items))), 1e-12)
        x, q = torch.from_numpy(items), torch.from_numpy(asked)
        prefixes = [cut for cut in SHORTEST * 2 ** np.arange(16) if cut < self.dim] + [self.dim]
        rng = np.random.default_rng(self.seed)

        def rebuilt(rows: Array) -> Any:
            z = x[rows] @ matrix.T
            left = [(x[rows] - z[:, :cut] @ matrix[:cut]).square().mean() for cut in prefixes]
            return sum(left) / (len(prefixes) * scale / x.shape[1])

        def scores(queries: Any, answers: Any) -> Any:
            norms = answers.square().sum(dim=1) / 2 if sample.metric == "l2" else 0
            return (queries @ answers.T - norms) / (TEMPERATURE * scale)

        def ranked(rows: Array, places: Array) -> Any:
            answers = found[rows, places]
            whole, y, z = scores(q[rows], x[answers]), q[rows] @ matrix.T, x[answers] @ matrix.T
            if self.loss == "pairs":
                wanted = torch.from_numpy((answers[:, None] == answers).astype(np.float32))
                wanted /= wanted.sum(dim=1, keepdim=True)
            else:
                wanted = whole.softmax(dim=1)
            kept = [(wanted * scores(y[:, :cut], z[:, :cut]).log_softmax(dim=1)).sum(dim=1).mean() for cut in prefixes]
            return -sum(kept) / len(prefixes)

        def drawn(rows: Array) -> Any:
            return ranked(rows, rng.integers(0, found.shape[1], len(rows)))

        def held_out(rows: Array) -> Any:
            return ranked(rows, np.arange(len(rows)) % found.shape[1])

        def straighten() -> None:
            # Newton's iteration towards the nearest orthonormal rows, from which one step of Adam leads little away.
            with torch.no_grad():
                for _ in range(2):
                    matrix.copy_(1.5 * matrix - 0.5 * matrix @ matrix.T @ matrix)

        rebuild = self.loss == "reconstruction"
        descend(
            [matrix], rebuilt if rebuild else drawn, len(items) if rebuild else len(asked), items.shape[1],
            rates=RATES, seed=self.seed, epochs=self.epochs, after_step=straighten if self.orthogonal else None,
            held_out_loss=None if rebuild else held_out,
        )  # fmt: skip
        learned = matrix.detach().numpy().copy()
        return {"matrix": orthonormal(learned) if self.orthogonal else learned, "rule": rule}

    def apply(self, items: Items, shared: Arrays) -> Items:
        return map_rows(directed(items, shared["rule"]), shared["matrix"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(directed(queries, shared["rule"], "queries"), shared["matrix"])

    def _asked(self, sample: Sample, items: Array) -> tuple[Array, Array]:
        """Return queries and, for each, rows of items that are near it or, with pairs, answer it."""
        given = sample.queries is not None and len(sample.queries) > 0
        queries = as_vectors(sample.queries, "fit queries") if given else items
        if given and sample.metric == "cosine":
            queries = unit(queries)
        if self.loss == "pairs":
            pairs = np.asarray(sample.extras.get("pairs", np.empty((0, 2)))).astype(np.int64)
            if not given or pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
                raise BadInput(f"{self}: needs sample queries and, in extras['pairs'], rows (query, item)")
            if pairs.min() < 0 or (pairs.max(axis=0) >= (len(queries), len(items))).any():
                raise BadInput(f"{self}: a pair names a row that the fit sample does not have")
            return queries[pairs[:, 0]], pairs[:, 1:]
        return queries, search_exact(queries, items, sample.metric, min(NEAR, len(items))).ids
