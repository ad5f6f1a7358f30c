"""Fill a budget with a code of some bits per coordinate: all coordinates, or the principal components it affords."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from packbench.budget import Budget
from packbench.method import Method
from packbench.methods.projection.pca import PCA


def finest(make: Callable[[int], Method], budget: Budget, widths: Sequence[int] = range(7, 1, -1)) -> Iterator[Method]:
    """Yield up to three codes, make(bits) or some components behind it; all coordinates alone where 4 bits each fit.

    widths are the bits to try for all coordinates, finest first.

    Raises:
        BudgetTooSmall: not even one component fits.
    """
    whole = next((bits for bits in widths if budget.holds(*make(bits).planned_bytes(budget.d))), 0)
    if whole >= 4:
        return budget.fitting([make(whole)])
    components = (most_components(make(bits), budget) for bits in ((4, 3) if whole else (3, 2, 4)))
    # The fewer the bytes, the more coarse components serve better than fewer fine ones.
    return budget.fitting([next(components), *([make(whole)] if whole else []), *components])


def most_components(code: Method, budget: Budget) -> Method:
    """Return the code of as many principal components as fit, one at least."""
    low, high = 1, budget.d
    while low < high:
        middle = (low + high + 1) // 2
        fits = budget.holds(*(PCA(middle) | code).planned_bytes(budget.d))
        low, high = (middle, high) if fits else (low, middle - 1)
    return PCA(low) | code
