"""Write the command that measures a row of a board again."""

from __future__ import annotations

import functools
import math
import shlex

from packbench import datasets
from packbench.errors import BadInput
from packbench.leaderboard.entries import Board, Entry
from packbench.spec import parse_request

DATA, PLUGIN = "YOUR_DATA", "YOUR_PLUGIN.py"  # what results do not hold: where such files lay


def run_of(board: Board) -> str:
    """Return the part of the command that all rows of a board share: the data and the rules."""
    words = ["packbench", "run", "--dataset", board.dataset if board.dataset in datasets.names() else DATA]
    words += ["--metric", board.metric, "--rows", str(board.deployment_n), "--tries", str(board.tries)]
    words += ["--threads", str(board.search_threads), "--build-threads", str(board.build_threads)]
    return shlex.join(words + (["--disk", f"{board.disk_budget:g}"] if board.disk_budget else []))


def cell_of(entry: Entry, budget: float | None) -> str:
    """Return the rest: what was asked for, at which budget, with which seeds.

    A bare request is solved for the budget again. A reference (no budget) is measured at its own size by every run, so
    a budget that holds it is named for it.
    """
    asked = budget if budget is not None else math.ceil(entry.deployed_bytes or 0) or None
    words = ["--method", entry.request]
    words += ["--budget", f"{asked:.15g}"] if asked is not None else []
    words += [word for seed in entry.seeds for word in ("--seed", str(seed))]
    lacking = not _reads(entry.request)
    return shlex.join(words + (["--plugin", PLUGIN] if lacking else []))


@functools.cache
def _reads(request: str) -> bool:
    try:
        parse_request(request)
    except BadInput:
        return False
    return True
