"""Say how sure a figure is: paired bootstrap over queries, seeds and data sets, tests, equivalence, rank groups."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from packbench.items import Array, blocks

RESAMPLES = 2000
LEVEL = 0.95
MARGIN = 0.01  # of recall: what a method may lose against float32 and still be called lossless, or safe
_BLOCK = 1 << 22  # counts held at once; bounds memory for any number of queries
_ROUNDING = 1e-8  # a standard error below this is none: what covariances of equal cells leave


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
        # The share of a query not yet asked: a Beta(1, queries) draw, spread evenly so that few resamples are enough.
        self._unseen = 1 - rng.permutation((np.arange(resamples) + 0.5) / resamples)[:, None] ** (1 / queries)

    def mean(self, cell: int) -> Interval:
        """Return the mean over queries and seeds with its percentile interval."""
        return interval_of(self.means[cell], self.draws[:, cell])

    def difference(self, cell: int, other: int) -> Interval:
        """Return how far the mean of a cell lies above that of another, paired by query."""
        return interval_of(self.means[cell] - self.means[other], self.draws[:, cell] - self.draws[:, other])

    def ratio(self, cell: int, other: int) -> Interval | None:
        """Return the mean of a cell as a fraction of another's, paired by query; None where the other may be 0."""
        if self.means[other] <= 0 or self.draws[:, other].min() <= 0:
            return None
        return interval_of(self.means[cell] / self.means[other], self.draws[:, cell] / self.draws[:, other])

    def bounds(self, other: int, share: float = 1.0) -> tuple[Array, Array]:
        """Return how low and how high the mean of each cell may lie above a share of another's, 5% on either side.

        Both are (cells,).

        Outcomes lie in [0, 1]. One query is added to those asked, a total loss for the low bound, a total gain for
        the high one: what none of n queries did, three in n may still do (J. A. Hanley, A. Lippman-Hand, If nothing
        goes wrong, is everything all right?, 1983). Without it rare losses pass as none too often.
        """
        gap = (self.draws - share * self.draws[:, [other]]) * (1 - self._unseen)
        low = np.quantile(gap - self._unseen, 1 - LEVEL, axis=0)
        return low, np.quantile(gap + self._unseen, LEVEL, axis=0)

    def lossless(self, other: int, margin: float = MARGIN) -> Array:
        """Tell which cells are equivalent to another within a margin, (cells,) bool: two one-sided tests at 5%.

        D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power approach, 1987.
        """
        low, high = self.bounds(other)
        return np.asarray((low > -margin) & (high < margin))

    def queries_needed(self, cell: int, other: int, margin: float = MARGIN) -> int | None:
        """Return about how many queries like these would show that a cell loses less than a margin against another.

        None where it seems to lose more: no number of queries would.
        """
        room = float(margin + self.means[cell] - self.means[other])
        if room <= 0:
            return None
        normal = float(stats.norm.ppf(LEVEL)) ** 2
        noise = float(normal * self.queries * np.var(self.draws[:, cell] - self.draws[:, other]))
        # The least n with room·n - 1 >= z·sqrt(n·variance + 1): the bound above with its resamples taken as normal.
        half = room + noise / 2
        needed = (half + math.sqrt(half**2 + room**2 * (normal - 1))) / room**2
        return math.ceil(max(needed, math.log(1 - LEVEL) / math.log1p(-min(room, 0.5))))

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
        used, places = np.unique(np.concatenate([cells, others]), return_inverse=True)
        together = np.atleast_2d(np.cov(self.draws[:, used], rowvar=False, bias=True))
        at, to = np.split(places, 2)
        variance = together[at, at] + together[to, to] - 2 * together[at, to]
        error = np.sqrt(np.maximum(variance, 0) * self.queries / (self.queries - 1))
        # Equal on every query: no evidence. Different by the same amount on every query: no doubt.
        scores = np.divide(gap, error, out=np.where(gap > 1e-12, np.inf, 0.0), where=error > _ROUNDING)
        return np.asarray(2 * stats.t.sf(scores, self.queries - 1))


def over_datasets(means: Array, draws: Sequence[Array], seed: int = 0) -> list[Interval]:
    """Return the mean over data sets of each cell, for data sets that are a sample too.

    means (datasets, cells); draws (resamples, cells) of each. A resample takes as many data sets as there are, with
    replacement, and for each of them a resample of its queries and seeds. As there are few, the percentiles lie
    further out than the level says: the expanded percentile interval (T. C. Hesterberg, What teachers should know
    about the bootstrap, 2015). One data set has the interval of its queries and seeds.
    """
    datasets, resamples = len(draws), len(draws[0])
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, datasets, (datasets, resamples))
    drawn = np.stack(draws)[chosen, rng.integers(0, resamples, (datasets, resamples))].mean(0)
    tail = (1 - LEVEL) / 2
    if datasets > 1:
        tail = stats.norm.cdf(math.sqrt(datasets / (datasets - 1)) * stats.t.ppf(tail, datasets - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, of)) for of in zip(means.mean(0), low, high, strict=True)]


def interval_of(value: float, draws: Array) -> Interval:
    """Return a figure with the percentile interval of its resamples (resamples,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def holm(p_values: Array) -> Array:
    """Return p-values corrected for their number (S. Holm, A simple sequentially rejective procedure, 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def overlapping(intervals: Sequence[Interval | None]) -> Array:
    """Tell which pairs of intervals have more than an end in common, (m, m) bool; None has nothing in common."""
    low, high = np.array([(of.low, of.high) if of else (np.nan, np.nan) for of in intervals]).reshape(-1, 2).T
    return np.asarray((low[:, None] < high) & (low < high[:, None]))


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
