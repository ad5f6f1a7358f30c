"""Draw boards for a paper: recall@10 against bytes per item, one panel per board, the frontier beneath."""

from __future__ import annotations

import importlib
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packbench.errors import BadInput
from packbench.leaderboard.entries import Board, Entry

MANY = 12  # above so many methods, only the best of each family is named
COLUMNS = 2  # panels side by side
PANEL = (3.4, 2.6)  # inches: two panels fill the width of a page
METADATA: dict[str, dict[str, str | None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}
MARKERS = "osD^vP*X<>hp"
STYLE = {
    "pdf.fonttype": 42, "svg.hashsalt": "packbench", "text.parse_math": False, "font.size": 8, "axes.titlesize": 8,
    "legend.fontsize": 7, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 200,
}  # fmt: skip
OTHERS = "0.72"  # the grey of what is not named


@dataclass(frozen=True, slots=True)
class _Point:
    size: float
    recall: float
    low: float
    high: float


def write_figure(boards: Sequence[Board], path: str | Path) -> None:
    """Write the figure as PDF, SVG or PNG, by the suffix of the path; the same boards give the same bytes.

    Above twelve methods, colours and names go to the best of each family: the one that is nearest to the frontier over
    all budgets and boards.

    Raises:
        BadInput: matplotlib is not installed, the suffix is another, no entry has figures, or the path cannot be
            written.
    """
    file = Path(path)
    metadata = METADATA.get(file.suffix.lower())
    if metadata is None:
        raise BadInput(f"{file}: expected a path that ends in {', '.join(METADATA)}")
    shown = [(board, series) for board in boards if (series := _series(board))]
    if not shown:
        raise BadInput(f"{file}: no entry of the boards has figures to draw; `packbench run` measures some")
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise BadInput(f"{file}: figures need matplotlib: pip install 'packbench[paper]'") from None
    written = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = _drawn(shown, figures, matplotlib.color_sequences["petroff10"])
        figure.savefig(written, format=file.suffix[1:].lower(), metadata=metadata)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(written.getvalue())
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror or error}); choose another path") from None


Series = dict[str, list[_Point]]  # what each request reached, by bytes per item


def _series(board: Board) -> Series:
    found: dict[str, dict[float, _Point]] = {}
    for entry in _measured(board):
        if (recall := entry.recall_at_10) and entry.deployed_bytes:
            point = _Point(entry.deployed_bytes, recall.value, recall.low, recall.high)
            # One spec may be the choice under several budgets; it is one point.
            found.setdefault(entry.label, {})[entry.deployed_bytes] = point
    return {label: [of[size] for size in sorted(of)] for label, of in found.items()}


def _measured(board: Board) -> list[Entry]:
    return [*board.references, *(entry for table in board.tables for entry in table.ranked)]


def _frontier(series: Series) -> list[_Point]:
    """Return the points that no lighter or equally heavy one reaches, by bytes."""
    best: list[_Point] = []
    for point in sorted(itertools.chain(*series.values()), key=lambda point: (point.size, -point.recall)):
        if not best or point.recall > best[-1].recall:
            best.append(point)
    return best


def _behind(board: Board, series: Series, label: str) -> float:
    """Return how far a method lies below the frontier: the mean over budgets, 0 being the recall of what is absent."""

    def reached(points: Iterable[_Point], budget: float) -> float:
        return max((point.recall for point in points if point.size <= budget), default=0.0)

    everything = list(itertools.chain(*series.values()))
    budgets = [table.budget for table in board.tables] or [math.inf]
    return statistics.fmean(reached(everything, budget) - reached(series.get(label, ()), budget) for budget in budgets)


def _named(shown: Sequence[tuple[Board, Series]]) -> list[str]:
    """Return the methods that get a colour and a name, the same in all panels."""
    labels = list(dict.fromkeys(label for _, series in shown for label in series))
    if len(labels) <= MANY:
        return labels
    families = {entry.label: entry.family for board, _ in shown for entry in _measured(board)}
    gaps = {label: statistics.fmean(_behind(*one, label) for one in shown) for label in labels}
    best: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: (gaps[label], label)):
        best.setdefault(families[label], label)
    return [label for label in labels if label in best.values()]


def _drawn(shown: Sequence[tuple[Board, Series]], figures: Any, colours: Sequence[Any]) -> Any:
    across = min(COLUMNS, len(shown))
    down = math.ceil(len(shown) / across)
    figure = figures.Figure(figsize=(PANEL[0] * across, PANEL[1] * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    named = _named(shown)
    handles: dict[str, Any] = {}
    for panel, (board, series) in zip(panels, shown, strict=False):
        handles |= _panel(panel, board, series, dict(zip(named, itertools.cycle(colours), strict=False)))
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(shown) - across) : len(shown)]:
        panel.set_xlabel("bytes per item, as weighed")
    for panel in panels[::across]:
        panel.set_ylabel("recall@10")
    widest = max(map(len, handles))
    figure.legend(handles.values(), list(handles), loc="outside lower center",
                  ncols=max(1, int(72 * PANEL[0] * across / (40 + 4 * widest))), frameon=False)  # fmt: skip
    return figure


def _panel(panel: Any, board: Board, series: Series, colours: dict[str, Any]) -> dict[str, Any]:
    """Draw one board and return what its legend explains."""
    handles: dict[str, Any] = {}
    for label in sorted(series, key=lambda label: label in colours):  # what is named lies above
        points = series[label]
        named = label in colours
        colour = colours.get(label, OTHERS)
        marker = MARKERS[list(colours).index(label) % len(MARKERS)] if named else "."
        drawn = panel.errorbar(
            [point.size for point in points],
            [point.recall for point in points],
            [[point.recall - point.low for point in points], [point.high - point.recall for point in points]],
            color=colour, marker=marker, markersize=4, linewidth=0.9 if named else 0.5, elinewidth=0.7, capsize=1.5,
            zorder=3 if named else 2,
        )  # fmt: skip
        handles[label if named else "others"] = drawn
    frontier = _frontier(series)
    sizes = [point.size for point in frontier]
    panel.set_xscale("log", base=2)
    right = panel.get_xlim()[1]
    (edge,) = panel.step([*sizes, right], [*(point.recall for point in frontier), frontier[-1].recall], where="post",
                         color="black", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)  # fmt: skip
    panel.set_xlim(right=right)
    panel.xaxis.set_major_formatter(lambda size, _: f"{size:g}")
    panel.xaxis.set_minor_locator(panel.xaxis.get_major_locator())
    panel.set_title(f"{board.dataset}  (n = {board.n:,}, d = {board.d})")
    panel.grid(color="0.92", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.set_ylim(bottom=max(panel.get_ylim()[0], -0.01), top=1.01)
    others = {"others": handles.pop("others")} if "others" in handles else {}
    return handles | others | {"frontier": edge}
