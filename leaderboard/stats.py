"""Say how sure a figure is: paired bootstrap over queries and seeds, Holm-corrected tests, rank groups."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from packbench.items import Array, blocks

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 1 << 22  # counts held at once; bounds memory for any number of queries


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold a figure and the bounds that go with it."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Resample queries, the same ones for every cell, and within each cell its seeds.

    A cell is (seeds, queries) float: one value per query for each seed. Queries and seeds are crossed (every seed met
    every query), so both are drawn anew in each resample (A. B. Owen, The pigeonhole bootstrap, 2007). Seeds of
    different methods have nothing in common, so each cell draws its own. scipy.stats.bootstrap gives the same figures
    for one seed and has no second level; a product with counts of queries is also some nine times as fast.
    """

    def __init__(self, cells: Sequence[Array], seed: int = 0, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.queries = queries = cells[0].shape[1]
        values = np.concatenate(cells).astype(np.float64)
        drawn = np.empty((resamples, len(values)))
        for rows in blocks(resamples, max(1, _BLOCK // queries)):
            count = rows.stop - rows.start
            picks = rng.integers(0, queries, (count, queries)) + np.arange(count)[:, None] * queries
            counts = np.bincount(picks.ravel(), minlength=count * queries).reshape(count, queries)
            drawn[rows] = counts @ values.T / queries
        self.means = np.array([cell.mean() for cell in cells])
        self.draws = np.empty((resamples, len(cells)))  # the mean of each cell in each resample
        first = 0
        for at, cell in enumerate(cells):
            seeds = len(cell)
            chosen = first + rng.integers(0, seeds, (resamples, seeds))
            self.draws[:, at] = np.take_along_axis(drawn, chosen, 1).mean(1)
            first += seeds

    def mean(self, cell: int) -> Interval:
        """Return the mean over queries and seeds with its percentile interval."""
        return _interval(self.means[cell], self.draws[:, cell])

    def difference(self, cell: int, other: int) -> Interval:
        """Return how far the mean of a cell lies above that of another, paired by query."""
        return _interval(self.means[cell] - self.means[other], self.draws[:, cell] - self.draws[:, other])

    def ratio(self, cell: int, other: int) -> Interval | None:
        """Return the mean of a cell as a fraction of another's, paired by query; None where the other may be 0."""
        if self.means[other] <= 0 or self.draws[:, other].min() <= 0:
            return None
        return _interval(self.means[cell] / self.means[other], self.draws[:, cell] / self.draws[:, other])

    def separated(self, cells: Sequence[int]) -> Array:
        """Tell which pairs of cells differ by more than chance: (m, m) bool, Holm-corrected over all pairs."""
        apart = np.zeros((len(cells), len(cells)), dtype=bool)
        left, right = np.triu_indices(len(cells), 1)
        apart[left, right] = holm(self.p_values(np.take(cells, left), np.take(cells, right))) <= 1 - LEVEL
        return apart | apart.T

    def p_values(self, cells: Array, others: Array) -> Array:
        """Test each cell against another: the paired t-test over queries, its variance taken from the resamples.

        For one seed that is scipy.stats.ttest_rel up to the noise of resampling; from the resamples, seeds count too.
        """
        gap = np.abs(self.means[cells] - self.means[others])
        if self.queries < 2:
            return np.ones(len(gap))
        variance = np.var(self.draws[:, cells] - self.draws[:, others], axis=0)
        error = np.sqrt(variance * self.queries / (self.queries - 1))
        # Equal on every query: no evidence. Different by the same amount on every query: no doubt.
        scores = np.divide(gap, error, out=np.where(gap > 1e-12, np.inf, 0.0), where=error > 1e-12)
        return np.asarray(2 * stats.t.sf(scores, self.queries - 1))


def _interval(value: float, draws: Array) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def holm(p_values: Array) -> Array:
    """Return p-values corrected for their number (S. Holm, A simple sequentially rejective procedure, 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def groups(separated: Array) -> list[str]:
    """Give rows, best first, letters such that all rows with a letter in common could not be told apart.

    A letter covers a run of rows in which no pair is separated; a row within several such runs has several letters.
    """
    names = [""] * len(separated)
    end, letter = 0, 0
    for first in range(len(separated)):
        last = first + 1
        while last < len(separated) and not separated[first : last + 1, first : last + 1].any():
            last += 1
        if last > end:
            name = string.ascii_letters[letter] if letter < len(string.ascii_letters) else f"({letter + 1})"
            names[first:last] = [had + name for had in names[first:last]]
            end, letter = last, letter + 1
    return names
