"""Lay out the plot of recall against bytes: a line per request over its budgets, references as points."""

from __future__ import annotations

import math
from dataclasses import dataclass

from packbench.leaderboard.columns import fixed
from packbench.leaderboard.entries import Board, Entry

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 46
HUES = 9  # colours in board.css; further lines repeat them with dashes


@dataclass(frozen=True, slots=True)
class Point:
    """Place one figure: its position, the ends of its interval, and what it says when pointed at."""

    x: float
    y: float
    low: float
    high: float
    says: str


@dataclass(frozen=True, slots=True)
class Line:
    """Join what one request reached at its budgets; the references are points that nothing joins (hue -1)."""

    label: str
    hue: int
    dashes: int
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """Return the corners of the line as SVG wants them."""
        return "" if self.hue < 0 else " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Plot:
    """Hold the lines and the ticks of both axes, in the units of the drawing."""

    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def plot_of(board: Board) -> Plot | None:
    """Return the plot of a board; None where no entry has figures."""
    series: dict[str, dict[float, Entry]] = {}
    for entry in board.references:
        if entry.recall_at_10 and entry.deployed_bytes:
            series.setdefault("", {})[entry.deployed_bytes] = entry
    references = len(series)
    for table in board.tables:
        for entry in table.ranked:
            if entry.recall_at_10 and entry.deployed_bytes:
                # One spec may be the choice at several budgets; it is one point.
                series.setdefault(entry.label, {})[entry.deployed_bytes] = entry
    entries = [entry for of in series.values() for entry in of.values()]
    if not entries:
        return None
    sizes = [math.log2(entry.deployed_bytes) for entry in entries if entry.deployed_bytes]
    first, last = math.floor(min(sizes)), max(math.ceil(max(sizes)), math.floor(min(sizes)) + 1)
    floor = min(entry.recall_at_10.low for entry in entries if entry.recall_at_10)
    step = 0.1 if floor < 0.7 else 0.05 if floor < 0.85 else 0.02 if floor < 0.94 else 0.01
    base = max(0.0, math.floor(floor / step) * step)

    def across(size: float) -> float:
        return LEFT + (math.log2(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(recall: float) -> float:
        return HEIGHT - BOTTOM - (recall - base) / (1 - base) * (HEIGHT - TOP - BOTTOM)

    lines: list[Line] = []
    for at, (label, of) in enumerate(series.items()):
        points: list[Point] = []
        for size, entry in sorted(of.items()):
            if (recall := entry.recall_at_10) is None:
                continue
            says = (f"{entry.name}: recall@10 {recall.value:.4f} [{recall.low:.4f}, {recall.high:.4f}] at "
                    f"{fixed(size)} bytes per item")  # fmt: skip
            points.append(Point(across(size), up(recall.value), up(recall.low), up(recall.high), says))
        hue = -1 if at < references else at - references
        lines.append(Line(label or "references", hue % HUES if hue >= 0 else -1, max(hue, 0) // HUES, tuple(points)))
    ticks = range(round((1 - base) / step) + 1)
    return Plot(
        tuple(lines),
        tuple((across(2.0**power), f"{2.0**power:g}") for power in range(first, last + 1)),
        tuple((up(base + tick * step), f"{base + tick * step:.2f}") for tick in ticks),
    )
