"""Say what a method did over all budgets of a board: bytes for a quality, area, smallest safe budget, lossless ones."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from packbench.items import Array
from packbench.leaderboard.curves import Curve
from packbench.leaderboard.entries import Entry, Summary, Table
from packbench.leaderboard.stats import MARGIN, Bootstrap

SHARES = (0.95, 0.98, 0.99)  # of float32's recall


class Verdicts:
    """Judge the cells of a board against its float32 row, all with one bootstrap."""

    def __init__(self, recall: Bootstrap, at: Mapping[tuple[str, float | None], int], float32: int | None,
                 margin: float = MARGIN) -> None:  # fmt: skip
        """Take where in the bootstrap a request at a budget is, and which of its cells is float32."""
        self._recall, self._at, self._float32, self._margin = recall, at, float32, margin
        if float32 is not None:
            self._safe = recall.bounds(float32)[0] > -margin
            self._lossless = recall.lossless(float32, margin)

    def lossless(self, cell: int) -> bool | None:
        """Tell whether a cell was shown to be lossless; None where there is nothing to compare it with."""
        return None if self._float32 in (None, cell) else bool(self._lossless[cell])

    def summaries(self, tables: Sequence[Table]) -> tuple[Summary, ...]:
        """Return a summary of each request that is ranked in a table, by area, largest first."""
        ranked: dict[str, dict[float, Entry]] = {}
        for table in tables:
            for entry in table.ranked:
                ranked.setdefault(entry.request, {})[table.budget] = entry
        budgets = [table.budget for table in tables]
        found = [self._summary(entries, budgets) for entries in ranked.values()]
        return tuple(sorted(found, key=lambda of: (-(of.area.value if of.area else 0.0), of.label)))

    def _summary(self, entries: Mapping[float, Entry], budgets: Sequence[float]) -> Summary:
        some = next(iter(entries.values()))
        cells = {budget: self._at[some.request, budget] for budget in entries}
        curve = Curve([
            (entries[budget].deployed_bytes or budget, self._quality(cells[budget])) if budget in cells
            else (budget, None)
            for budget in budgets
        ])  # fmt: skip
        summary = Summary(request=some.request, label=some.label, area=curve.area(budgets[0], budgets[-1]))
        if self._float32 is None:
            return summary
        safe, needed = self._safe_budget(cells, self._float32)
        whole = self._quality(self._float32)
        return dataclasses.replace(
            summary,
            bytes_for=tuple(curve.taken_by(share, whole, budgets[-1]) for share in SHARES),
            safe_budget=safe,
            queries_needed=needed,
            lossless=tuple(budget for budget, cell in cells.items() if self.lossless(cell)),
        )

    def _safe_budget(self, cells: Mapping[float, int], float32: int) -> tuple[float | None, int | None]:
        """Step down from the largest budget for as long as each is shown to be safe.

        Tests in an order fixed beforehand, each at the full level and none after the first that fails, err in their
        family as rarely as one (W. Maurer, L. A. Hothorn, W. Lehmacher, Multiple comparisons in drug clinical trials
        and preclinical assays: a-priori ordered hypotheses, 1995).
        """
        downwards = sorted(cells, reverse=True)
        passed = list(itertools.takewhile(lambda budget: self._safe[cells[budget]], downwards))
        if passed:
            return passed[-1], None
        return None, self._recall.queries_needed(cells[downwards[0]], float32, self._margin)

    def _quality(self, cell: int) -> Array:
        """Return recall as measured and in every resample, (1 + resamples,)."""
        return np.append(self._recall.means[cell], self._recall.draws[:, cell])
