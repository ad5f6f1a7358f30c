"""Choose by estimated bytes where no formula is exact: libraries write heads, blocks and graphs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.method import Method
from packbench.methods.projection.pca import PCA


@dataclass(frozen=True, slots=True)
class Estimate:
    """Say what a method will weigh at most: bytes per item, and shared in all."""

    method: Method
    item: float
    shared: float = 0.0

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        """Return the estimate in the form in which budgets are judged."""
        return self.item, self.shared, 0.0


def widest(budget: Budget, kinds: Iterable[Callable[[int], Estimate]]) -> Iterator[Method]:
    """Yield each kind of method, which is estimated for a number of coordinates, on as many principal ones as fit.

    Raises:
        BudgetTooSmall: no kind fits on a single coordinate.
    """
    least, found = float("inf"), False
    for kind in kinds:
        try:
            yield next(budget.fitting(_projected(kind(dim), dim, budget.d) for dim in range(budget.d, 0, -1))).method
            found = True
        except BudgetTooSmall as error:
            least = min(least, error.least)
    if not found:
        raise BudgetTooSmall(least)


def _projected(estimate: Estimate, dim: int, d: int) -> Estimate:
    if dim == d:
        return estimate
    pca = PCA(dim)
    return Estimate(pca | estimate.method, estimate.item, estimate.shared + pca.shared_bytes(d))
