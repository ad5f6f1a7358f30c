"""Give every coordinate a sign and a second bit: a residual for salient dimensions, a group for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, blocks
from packbench.method import Arrays, Method, Sample
from packbench.methods.binary.pb_salient import query_moment
from packbench.methods.binary.scaled import ScaledCodec, check_centre, float16, width_of
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
from packbench.registry import register

SPLITS = np.linspace(0.1, 0.9, 81)  # shares of the coordinates that lie in the inner group
COLUMNS = 128  # coordinates coded together before their errors are handed on
PASS = 256  # rows in one pass over the splits, which then stays in cache


@register
@dataclass(frozen=True, slots=True)
class BiLLM(ScaledCodec):
    """Give salient dimensions signs of two orders, and the others a sign and a bit for the group of their magnitude.

    Salient dimensions, chosen once for all items, have the greatest E[x²] / [H⁻¹]², H = E[qq'] over the fit queries. A
    vector's other coordinates split at the magnitude, of 81 percentiles, that leaves the least error; either group has
    its own mean and scale, and every coordinate takes the nearest of the four levels. `compensate` hands the errors of
    each 128 coordinates on to those that follow, as GPTQ does. Huang et al., BiLLM: Pushing the Limit of Post-Training
    Quantization for LLMs, 2024. Its 1.08 bits leave the group bit out; here every bit is weighed, two per coordinate.
    """

    name: ClassVar[str] = "billm"
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Huang et al., BiLLM: Pushing the Limit of Post-Training Quantization for LLMs, 2024"
    formula: ClassVar[str] = (
        "c = min(salient, d): ceil(2c/8) + ceil(2(d - c)/8) + 16 per item (8 if c = 0 or c = d); "
        "shared 2c + 4d + 1 with the mean, else 2c + 5"
    )

    salient: int = 16
    compensate: bool = True
    centre: str = "mean"

    def __post_init__(self) -> None:
        if self.salient < 0:
            raise ValueError(f"salient={self.salient}: expected 0 or more")
        check_centre(self.centre)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting([cls(), cls(compensate=False), RandomRotation() | cls(0, False), cls(0)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        count = min(self.salient, d)
        item = packed_bytes(2, count) + packed_bytes(2, d - count) + 8.0 * ((count > 0) + (count < d))
        return item, 2.0 * count + self._origin_bytes(d), 0.0

    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        d = residuals.shape[1]
        if d > 65536:
            raise BadInput(f"{self}: dimensions are numbered in two bytes, so there may be 65536 of them, not {d}")
        moment = query_moment(sample, str(self))
        salience = np.square(residuals, dtype=np.float64).mean(axis=0) / np.diag(np.linalg.inv(moment)) ** 2
        chosen = np.argsort(-salience, kind="stable")[: min(self.salient, d)]
        shared = {"salient": np.sort(chosen).astype(np.uint16)}
        if self.compensate:
            shared["build/handed_on"] = _handed_on(moment).astype(np.float32)
        return shared

    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        salient, others = _columns(shared, residuals.shape[1])
        codes: dict[str, Array] = {}
        if len(salient):
            codes["salient_factors"] = float16(two_orders(residuals[:, salient]))
        if len(others):
            parts = [two_groups(residuals[part][:, others]) for part in blocks(len(residuals), PASS)]
            codes["factors"] = float16(np.concatenate([np.empty((0, 4)), *parts]))
        numbers = self._numbers(residuals, codes, shared)
        if len(salient):
            codes["salient_codes"] = pack(numbers[:, salient], 2)
        if len(others):
            codes["codes"] = pack(numbers[:, others], 2)
        return codes

    def _numbers(self, residuals: Array, codes: Arrays, shared: Arrays) -> Array:
        """Return the number of each coordinate's level, coded block of columns after block of columns."""
        n, d = residuals.shape
        salient, _ = _columns(shared, d)
        numbers, wanted = np.empty((n, d), np.uint8), residuals.astype(np.float64)
        for part in blocks(d, COLUMNS):
            inside = np.isin(np.arange(part.start, part.stop), salient)
            left = np.empty((n, part.stop - part.start))
            for name, columns in (("salient_factors", inside), ("factors", ~inside)):
                if columns.any():
                    at = part.start + np.flatnonzero(columns)
                    levels = _levels(codes[name], name == "salient_factors")
                    numbers[:, at] = _nearest(wanted[:, at], levels)
                    left[:, columns] = wanted[:, at] - np.take_along_axis(
                        levels, numbers[:, at].astype(np.intp), axis=1
                    )
            if self.compensate and part.stop < d:
                # einsum adds up each row alike whatever rows stand beside it.
                later = shared["build/handed_on"][part, part.stop :].astype(np.float64)
                wanted[:, part.stop :] += np.einsum("nb,bf->nf", left, later)
        return numbers

    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        d = width_of(shared)
        rows = np.empty((len(next(iter(codes.values()))), d), np.float32)
        for prefix, columns in zip(("salient_", ""), _columns(shared, d), strict=True):
            if len(columns):
                levels = _levels(codes[f"{prefix}factors"], bool(prefix)).astype(np.float32)
                numbers = unpack(codes[f"{prefix}codes"], 2, len(columns))
                rows[:, columns] = np.take_along_axis(levels, numbers.astype(np.intp), axis=1)
        return rows


def _columns(shared: Arrays, d: int) -> tuple[Array, Array]:
    """Return the salient dimensions and the others."""
    salient = shared["salient"].astype(np.intp)
    return salient, np.delete(np.arange(d), salient)


def _handed_on(moment: Array) -> Array:
    """Return H_bf H_ff⁻¹ for each block b of columns and those f behind it, in the rows of b."""
    found = np.zeros_like(moment)
    for part in blocks(len(moment), COLUMNS):
        if part.stop < len(moment):
            later = slice(part.stop, len(moment))
            found[part, later] = np.linalg.solve(moment[later, later], moment[later, part]).T
    return found


def _levels(factors: Array, salient: bool) -> Array:
    """Return the four levels (n, 4) float64: of two orders of signs, or of the inner and then the outer group."""
    wide = factors.astype(np.float64)
    mean, scale, other_mean, other_scale = wide.T
    if salient:
        middle = mean + other_mean
        return np.stack([middle + a * scale + b * other_scale for a in (-1, 1) for b in (-1, 1)], axis=1)
    return np.stack([mean - scale, mean + scale, other_mean - other_scale, other_mean + other_scale], axis=1)


def _nearest(rows: Array, levels: Array) -> Array:
    """Return the number of the level nearest to each coordinate."""
    best, number = np.abs(rows - levels[:, :1]), np.zeros(rows.shape, np.uint8)
    for place in range(1, 4):
        distance = np.abs(rows - levels[:, place, None])
        number[distance < best] = place
        best = np.minimum(best, distance)
    return number


def two_orders(rows: Array) -> Array:
    """Return mean and scale of the rows and then of what their signs leave, (n, 4)."""
    left = rows.astype(np.float64)
    factors = []
    for _ in range(2):
        mean = left.mean(axis=1)
        left = left - mean[:, None]
        scale = np.abs(left).mean(axis=1)
        left -= np.where(left > 0, 1, -1) * scale[:, None]
        factors += [mean, scale]
    return np.stack(factors, axis=1)


def two_groups(rows: Array) -> Array:
    """Return mean and scale of the inner and of the outer group, (n, 4), at the split of least squared error."""
    n, d = rows.shape
    wide = rows.astype(np.float64)
    magnitudes = np.abs(wide)
    borders = np.quantile(magnitudes, SPLITS, axis=1)
    least, best = np.full(n, np.inf), np.zeros((n, 4))
    total, whole = wide.sum(axis=1), np.square(wide).sum(axis=1)
    for border in borders:
        outer = magnitudes > border[:, None]
        count = outer.sum(axis=1)
        outer_mean = np.where(outer, wide, 0).sum(axis=1) / np.maximum(count, 1)
        inner_mean = (total - count * outer_mean) / np.maximum(d - count, 1)
        off = np.abs(wide - np.where(outer, outer_mean[:, None], inner_mean[:, None]))
        outer_off = np.where(outer, off, 0).sum(axis=1)
        outer_scale = outer_off / np.maximum(count, 1)
        inner_scale = (off.sum(axis=1) - outer_off) / np.maximum(d - count, 1)
        # The squares about a group's mean less what its signs explain.
        kept = count * (outer_mean**2 + outer_scale**2) + (d - count) * (inner_mean**2 + inner_scale**2)
        error = whole - kept
        better = error < least
        least = np.where(better, error, least)
        best[better] = np.stack([inner_mean, inner_scale, outer_mean, outer_scale], axis=1)[better]
    return best
