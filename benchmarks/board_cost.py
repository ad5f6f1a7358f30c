"""Compare what two boards of one data set cost, and whether their cells have the same bytes and quality.

    python benchmarks/board_cost.py BEFORE AFTER [--rows 15]

BEFORE and AFTER are results (files or folders) of the same methods and budgets on the same data. Seconds are those that
workers spent in methods and in the reference (`spent_seconds` of the rows), so both boards have to be run beside the
same other work, or none. Where a core is free, some of that is done beside the rest, so that what a user waits for
stands below. Recall is compared where the configuration is the same, and where another one was chosen the row counts as
changed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from datetime import datetime
from typing import Any

import numpy as np

from packbench.leaderboard.gate.sources import read

Row = dict[str, Any]
RECALL = "recall@10"


def cells(place: str) -> dict[tuple[str, float | None], Row]:
    """Return the rows of a board by request and budget, but not those of the reference curve."""
    return {(row["request"], row["budget"]): row for row in read(place) if row["status"] != "reference"}


def _length(rows: dict[tuple[str, float | None], Row]) -> float:
    """Return the seconds from the beginning of the first cell to that of the last."""
    times = [datetime.fromisoformat(row["time"]) for row in rows.values()]
    return (max(times) - min(times)).total_seconds()


def main() -> None:
    """Print a table of the dearest methods and of all, and what became of bytes and recall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rows", type=int, default=15)
    chosen = parser.parse_args()
    before, after = cells(chosen.before), cells(chosen.after)
    both = [key for key in before if key in after]
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for key in both:
        for at, rows in enumerate((before, after)):
            spent[rows[key]["method"]][at] += rows[key]["spent_seconds"]
    out = sys.stdout
    out.write("| method | seconds before | after | after / before |\n|---|--:|--:|--:|\n")
    for method, (one, other) in sorted(spent.items(), key=lambda of: -of[1][0])[: chosen.rows]:
        out.write(f"| {method} | {one:.1f} | {other:.1f} | {other / max(one, 1e-9):.2f} |\n")
    one, other = (sum(of[at] for of in spent.values()) for at in range(2))
    out.write(f"| **all {len(spent)}, {len(both)} cells** | {one:.0f} | {other:.0f} | {other / one:.2f} |\n\n")
    took = [_length(rows) for rows in (before, after)]
    out.write(
        f"From the first cell to the last {took[0]:.0f} s went by before and {took[1]:.0f} s after, "
        f"{took[1] / max(took[0], 1):.2f} times as many, if each was one run without a pause.\n\n"
    )
    measured = [key for key in both if before[key]["status"] == after[key]["status"] == "ok"]
    same = [key for key in measured if before[key]["spec"] == after[key]["spec"]]
    weights = [tuple(rows[key]["bytes"][name] for name in ("payload", "shared", "cold"))
               for rows in (before, after) for key in same]  # fmt: skip
    lighter = sum(one != other for one, other in zip(weights[: len(same)], weights[len(same) :], strict=True))
    change = np.array([after[key]["recall"][RECALL] - before[key]["recall"][RECALL] for key in same])
    out.write(
        f"{sum(before[key]['status'] != after[key]['status'] for key in both)} cells have another status, "
        f"{len(measured) - len(same)} of {len(measured)} another configuration, {lighter} of the others other bytes. "
        f"{RECALL} of the {len(same)} is the same to the last digit in {int((change == 0).sum())}; "
        f"it changes by {change.mean():+.4f} on average, {change.min():+.3f} to {change.max():+.3f}.\n"
    )
    faster = np.array([after[key]["speedup"]["median"] / before[key]["speedup"]["median"] for key in same])
    out.write(
        f"Their latency beside that of exact search falls by a factor of {np.exp(np.log(faster).mean()):.2f} in the "
        f"geometric mean, {np.percentile(faster, 10):.2f} to {np.percentile(faster, 90):.2f} for eight in ten.\n"
    )
    for at in np.argsort(change)[:5]:
        request, budget = same[at]
        out.write(f"- {request} at {budget}: {before[same[at]]['recall'][RECALL]:.3f} → "
                  f"{after[same[at]]['recall'][RECALL]:.3f}\n")  # fmt: skip


if __name__ == "__main__":
    main()
