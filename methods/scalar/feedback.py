"""Round coordinates in turn, each making up for the errors of those before it: what GPTQ and GPFQ share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, cast

import numpy as np
from numba import njit

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.scalar.fill import finest
from packbench.methods.scalar.int4 import Int4
from packbench.methods.scalar.packing import pack
from packbench.methods.scalar.score_error import score_moment

WIDER = 1.1 ** np.arange(-2.0, 6.0)  # what ranges are tried at, times those of least squared error
TRIED = 500  # rows of the fit sample on which they are tried
ROWS = 4096


class FeedbackGrid(Codec):
    """Round to the grid of int4 one coordinate after the other, each making up for the errors of those before it.

    Codes are those of int4, and only coding differs: coordinate j is rounded after follow[j] @ (x - decoded) has been
    added to it. The range of least squared error is too narrow for what is added, so all ranges are widened by the
    factor of least score error on the fit sample.
    """

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    kind: ClassVar[str] = "quantiser"
    formula: ClassVar[str] = "ceil(bits d/8) per item; shared 8d"
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 7:
            raise ValueError(f"bits is 2 to 7, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return finest(cast(Callable[[int], Method], cls), budget)

    @abstractmethod
    def _follow(self, moments: Array) -> Array:
        """Return for H (d, d) what each coordinate takes over of the errors of those before it, (d, d)."""

    @property
    def _grid(self) -> Int4:
        return Int4(bits=self.bits)

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self._grid.planned_bytes(d)

    def fit(self, sample: Sample) -> Arrays:
        shared = dict(self._grid.fit(sample))
        moments = score_moment(self, sample)
        # What scores ask for most is rounded first, while all that follows can still make up for it.
        order = np.argsort(-np.diag(moments), kind="stable")
        follow = self._follow(moments[np.ix_(order, order)])
        shared |= {"build/follow": follow.astype(np.float32), "build/order": order.astype(np.uint32)}
        vectors = as_vectors(sample.items)
        tried = vectors[:: -(-len(vectors) // TRIED)]

        def widened(factor: float) -> dict[str, Array]:
            step = shared["step"].astype(np.float64)
            low = shared["low"] - (factor - 1) * step * (2**self.bits - 1) / 2
            return shared | {"low": low.astype(np.float32), "step": (factor * step).astype(np.float32)}

        def score_error(factor: float) -> float:
            chosen = widened(factor)
            errors = self.decode(self.encode(tried, chosen), chosen).astype(np.float64) - tried
            return float(np.sum(errors @ moments * errors))

        return widened(min(WIDER, key=score_error))

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        levels = np.empty(vectors.shape, np.uint8)
        follow, order = np.array(shared["build/follow"]), shared["build/order"].astype(np.int64)
        low, step = np.array(shared["low"]), np.array(shared["step"])
        parts = []
        for part in blocks(len(vectors), ROWS):
            round_in_turn(np.array(vectors[part]), low, step, np.float32(2**self.bits - 1), follow, order, levels[part])
            parts.append(pack(levels[part], self.bits))
        return {"codes": np.concatenate(parts) if parts else pack(levels, self.bits)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return self._grid.decode(codes, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return self._grid.open(codes, shared, metric)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def round_in_turn(rows, low, step, top, follow, order, levels):  # type: ignore[no-untyped-def]
    """Write the level of each coordinate of rows (n, d); follow (d, d) is in the order of rounding on both axes."""
    errors = np.zeros(len(order), np.float32)
    for row in range(len(rows)):
        for at in range(len(order)):
            j = order[at]
            asked = np.float32(0)
            for before in range(at):
                asked += follow[at, before] * errors[before]
            level = np.float32(0)
            if step[j] > 0:
                level = min(max(np.rint((rows[row, j] + asked - low[j]) / step[j]), np.float32(0)), top)
            levels[row, j] = np.uint8(level)
            errors[at] = rows[row, j] - (low[j] + step[j] * level)
