"""Draw the curve of reference: what a code that were optimal for Gaussian vectors would keep at the same rate.

It is a point of comparison, not a bound: real vectors are not Gaussian, and a code that uses their clusters may lie
above it. Nothing is coded: vectors go through the test channel of rate-distortion theory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packbench.exact import vectors_as_scored
from packbench.factors import leading, moment
from packbench.items import Array, blocks, let_go
from packbench.method import Metric

NAME = "gaussian reference"
STATUS = "reference"
ROWS = 8192


def water_level(variances: Array, bits: float) -> float:
    """Return the level whose reverse water-filling spends so many bits: sum of log2(variance / level) / 2 above it.

    Cover and Thomas, Elements of Information Theory, 2006, section 10.3.
    """
    falling = np.sort(variances[variances > 0])[::-1]
    if not len(falling):
        return 0.0
    # With the m largest under water the level follows in closed form; m is the most that all lie above it.
    counts = np.arange(1, len(falling) + 1)
    levels = np.exp2((np.cumsum(np.log2(falling)) - 2 * bits) / counts)
    return float(levels[np.nonzero(falling > levels)[0][-1]])


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """Hold the Gaussian of some vectors: mean (d,), variances (d,) descending, principal axes (d, d) as rows."""

    mean: Array
    variances: Array
    axes: Array
    metric: Metric

    @classmethod
    def of(cls, fit: Array, metric: Metric = "ip") -> Gaussian:
        """Fit it to vectors (n, d) as the metric sees them."""
        fit = vectors_as_scored(fit, metric)
        mean = fit.mean(axis=0, dtype=np.float64)
        return cls(mean, *leading(moment(fit, mean), fit.shape[1]), metric)

    def code(self, items: Array, bits: float, seed: int = 0, coded: Array | None = None) -> Array:
        """Return items (n, d) float32 as a code of `bits` bits per item, optimal for this Gaussian, would give them.

        Items are coded as the metric sees them; the result goes into `coded` where that is given.

        Along each principal axis of variance v above the water level t, the value shrinks by 1 - t/v and gains noise
        of variance t (1 - t/v); below it nothing is left but the mean. The squared error is then t on each axis above.
        """
        level = water_level(self.variances, bits)
        above = self.variances > level
        share = (1 - level / self.variances[above]).astype(np.float32)
        noise, axes = np.sqrt(np.float32(level) * share), self.axes[above].astype(np.float32)
        rng, coded = np.random.default_rng(seed), np.empty(items.shape, np.float32) if coded is None else coded
        for part in blocks(len(items), ROWS):
            along = (vectors_as_scored(items[part], self.metric) - self.mean.astype(np.float32)) @ axes.T
            along = share * along + noise * rng.standard_normal(along.shape, np.float32)
            coded[part] = along @ axes + self.mean
            let_go(coded)
        return coded
