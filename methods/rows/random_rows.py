"""Keep items drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Arrays, Method, Sample
from packbench.methods.rows.pruning import FORMULA, Pruner, check_keep, pruned, uniform_hash
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class RandomRows(Pruner):
    """Keep a random share of the items and code those alone: what any choice of items to drop has to beat.

    The draw is a hash of the item's bits, so that it is the same in whatever batch an item comes; equal items share
    their fate. Recall falls by the share dropped, for these can never be returned.
    """

    name: ClassVar[str] = "random_rows"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "control"
    paper: ClassVar[str] = "Random Search as a Baseline for Sparse Neural Network Architecture Search, 2024"
    formula: ClassVar[str] = FORMULA

    code: Method
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return pruned(budget, [(keep, cls) for keep in (0.9, 0.75, 0.5)])

    def learn(self, vectors: Array, sample: Sample) -> tuple[Arrays, Array]:
        return {}, self.scores(vectors, {})

    def scores(self, vectors: Array, learned: Arrays) -> Array:
        return uniform_hash(vectors, self.seed)
