"""Solve and judge a memory budget: bytes per item at a deployment size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from packbench.errors import BadInput, BudgetTooSmall


class Planned(Protocol):
    """A configuration that can say from its formula what it will weigh."""

    def planned_bytes(self, d: int) -> tuple[float, float, float]: ...


P = TypeVar("P", bound=Planned)


@dataclass(frozen=True, slots=True)
class Budget:
    """Allow so many bytes per item, shared arrays spread over n items, for vectors of d coordinates.

    n is the deployment size, not the size of the data set that is measured. Bytes of the cold tier (disk) have an
    allowance of their own, 0 unless the user grants one: a code is not small because its floats lie elsewhere.
    """

    bytes_per_item: float
    n: int
    d: int
    cold_bytes_per_item: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_item > 0:
            raise BadInput(f"budget: expected more than 0 bytes per item, got {self.bytes_per_item:g}")
        if self.n < 1 or self.d < 1:
            raise BadInput(f"budget: expected at least one item and one dimension, got n={self.n}, d={self.d}")

    def holds(self, item: float, shared: float = 0.0, cold: float = 0.0) -> bool:
        """Tell whether so many bytes per item, shared in all, and cold per item fit."""
        # One part in a million: sums of float64 bytes, not a tolerance for methods.
        return item + shared / self.n <= self.bytes_per_item * (1 + 1e-6) and cold <= self.cold_bytes_per_item * (
            1 + 1e-6
        )

    def fitting(self, candidates: Iterable[P]) -> Iterator[P]:
        """Yield the candidates that fit by their own formula, in the order given.

        Raises:
            BudgetTooSmall: none fits; `least` is what the smallest of them needs.
        """
        least, cold_least, found = float("inf"), 0.0, False
        for candidate in candidates:
            item, shared, cold = candidate.planned_bytes(self.d)
            if self.holds(item, shared, cold):
                found = True
                yield candidate
            elif (item + shared / self.n, cold) < (least, cold_least):
                least, cold_least = item + shared / self.n, cold
        if not found:
            raise BudgetTooSmall(least, f"{cold_least:g} more per item on disk" if cold_least else "")
