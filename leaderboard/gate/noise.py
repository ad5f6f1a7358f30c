"""Measure the noise floor: by how much figures of the same thing, measured twice on one machine, differ at most."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from packbench.errors import BadInput
from packbench.items import Array
from packbench.leaderboard.gate.compare import figure_of
from packbench.leaderboard.gate.gates import NOISY
from packbench.store import Row

FILE = "noise.json"  # beside the results that it was measured with


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Hold how much repeated measurements of one machine differ, by metric, as |log(one / other)|.

    floor is the largest difference over all configurations and pairs of runs, median the middle one. The largest, not
    a quantile: a new difference exceeds the largest of N independent ones once in N + 1 times whatever their
    distribution, a suite has many chances to exceed a quantile, and a floor too high makes a comparison inconclusive
    where one too low accuses. What no run saw is not in the floor; more runs see more.
    """

    floor: Mapping[str, float]
    median: Mapping[str, float]
    machine: Mapping[str, Any]  # as in rows: machine_facts
    times: int  # runs
    cells: int  # configurations measured in at least two of them
    measured: str  # ISO 8601
    load: float | None  # the highest of the machine while it was measured


def floor_of(runs: Sequence[Iterable[Row]]) -> Noise:
    """Return the noise between runs of the same suite on one machine: what was measured by the same code counts.

    Raises:
        BadInput: fewer than two runs, runs of several machines, or none of whose configurations was measured twice.
    """
    sides = [_by_measurement(run) for run in runs]
    if len(sides) < 2:
        raise BadInput(f"noise: {len(sides)} run of the suite; a difference needs at least two")
    seen: dict[str, list[Row]] = defaultdict(list)
    for measurement, row in itertools.chain.from_iterable(side.items() for side in sides):
        if row not in seen[measurement]:  # a copy of a row is no second measurement
            seen[measurement].append(row)
    again = [rows for rows in seen.values() if len(rows) > 1]
    if not again:
        raise BadInput(
            "noise: no configuration was measured in two of the runs; they must be of the same methods, data, versions "
            "and machine, each into an empty directory, with figures that did not fail"
        )
    rows = [row for rows in again for row in rows]
    machines = {row["machine_facts"]["id"]: row["machine_facts"] for row in rows}
    if len(machines) > 1:
        raise BadInput(f"noise: these runs are of {len(machines)} machines; measure the noise of each by itself")
    apart = {metric: np.concatenate([_apart(rows, metric) for rows in again]) for metric in NOISY}
    return Noise(
        floor={metric: float(of.max()) for metric, of in apart.items() if len(of)},
        median={metric: float(np.median(of)) for metric, of in apart.items() if len(of)},
        machine=rows[0]["machine_facts"],
        times=len(sides),
        cells=len(again),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        load=max((row["load"] for row in rows if row.get("load") is not None), default=None),
    )


def _by_measurement(run: Iterable[Row]) -> dict[str, Row]:
    """Return the rows with figures by what they measured: one spec that serves several budgets was measured once."""
    return {row["measurement"]: row for row in run if row["status"] == "ok" and row.get("measurement")}


def _apart(rows: Sequence[Row], metric: str) -> Array:
    """Return |log ratio| for each pair of rows that have the figure."""
    figures = [figure_of(row, metric) for row in rows]
    logs = [math.log(figure) for figure in figures if figure is not None and figure > 0]
    return np.array([abs(one - other) for one, other in itertools.combinations(logs, 2)])


def write(noise: Noise, file: Path) -> None:
    """Write the file whole or not at all; its directory is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(asdict(noise), indent=1, sort_keys=True) + "\n")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read(file: Path) -> Noise:
    """Return what `packbench noise` measured.

    Raises:
        BadInput: no such file, or one that holds something else.
    """
    try:
        found = Noise(**json.loads(file.read_text()))
        figures = [*found.floor.values(), *found.median.values()]
        if not all(isinstance(value, float | int) and 0 <= value < math.inf for value in figures):
            raise ValueError("a difference that is no number from 0 up")
        if not isinstance(found.machine, dict):
            raise ValueError("no machine")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"noise {file}: {type(error).__name__}: {error}; expected a file that `packbench noise` wrote"
        ) from None
    return found
