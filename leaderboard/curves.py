"""Read a method's curve the other way: the bytes that a quality takes, and the area under quality against log2(bytes).

The rules, for one method in one board (docs/statistics.md says why):
a point is what a row weighs and what it reached; a budget without a row counts as what the next smaller one reached;
the curve never falls as bytes grow (its upper envelope), is a straight line in log2(bytes) between two points, stays
level above the last and is 0 below the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from packbench.items import Array
from packbench.leaderboard.stats import LEVEL, Interval, interval_of


@dataclass(frozen=True, slots=True)
class Bytes:
    """Hold the bytes per item that a share of float32's recall takes, and the bounds that go with it.

    None stands for more than largest, the largest budget; a figure equal to least may be less.
    """

    share: float
    value: float | None
    low: float | None
    high: float | None
    least: float
    largest: float


class Curve:
    """Hold the envelope of a method's quality over bytes, as it is and in every resample.

    bytes (points,) float64, ascending; quality (1 + resamples, points) float64, the first row as measured.
    """

    def __init__(self, points: Sequence[tuple[float, Array | None]]) -> None:
        """Take the points by budget, ascending: bytes of its row and quality (1 + resamples,), or budget and None."""
        reached: list[tuple[float, Array]] = []
        for size, quality in points:
            if quality is not None:
                reached.append((size, quality))
            elif reached:
                reached.append((size, reached[-1][1]))
        reached.sort(key=lambda point: point[0])
        sizes = np.array([size for size, _ in reached])
        quality = np.maximum.accumulate(np.stack([of for _, of in reached], axis=1), axis=1)
        last = np.append(sizes[1:] > sizes[:-1], True)  # of several points of the same bytes, the highest
        self.bytes, self.quality = sizes[last], quality[:, last]

    def taken_by(self, share: float, whole: Array, largest: float) -> Bytes:
        """Return the bytes at which the curve reaches a share of whole (1 + resamples,), float32's quality."""
        wanted = share * whole
        above = self.quality >= wanted[:, None] - 1e-12
        at = np.argmax(above, axis=1)
        rows, before = np.arange(len(at)), np.maximum(at - 1, 0)
        rise = self.quality[rows, at] - self.quality[rows, before]
        part = np.divide(wanted - self.quality[rows, before], rise, out=np.ones(len(at)), where=rise > 0)
        needed = self.bytes[before] * (self.bytes[at] / self.bytes[before]) ** np.clip(part, 0, 1)
        needed[~above.any(axis=1)] = np.inf
        # A resample itself, never between two: halfway to more than the largest budget is not a number of bytes.
        ends = np.quantile(needed[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
        value, low, high = (float(of) if np.isfinite(of) else None for of in (needed[0], *ends))
        return Bytes(share, value, low, high, float(self.bytes[0]), largest)

    def area(self, first: float, last: float) -> Interval | None:
        """Return the mean height of the curve over log2(bytes) from first to last bytes; None where they are equal."""
        if last <= first:
            return None
        areas = self.quality @ _hats(np.log2(self.bytes), float(np.log2(first)), float(np.log2(last)))
        return interval_of(areas[0], areas[1:])


def _hats(x: Array, first: float, last: float) -> Array:
    """Return how much each point of a broken line weighs in its mean from first to last."""
    knots = np.unique(np.clip([first, *x, last], max(first, x[0]), last))
    heights = np.array([np.interp(knots, x, hat) for hat in np.eye(len(x))])
    return np.asarray(np.trapezoid(heights, knots, axis=1) / (last - first))
