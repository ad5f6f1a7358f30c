"""Measure what packbench costs beside the work it measures.

    python benchmarks/overhead.py [--quick]

Prints the wall time of a whole run on pydocs over the sum of what its own rows account for (fit, encode, open,
search, timing; truth and what fits share), and the time to start a worker after the first. Targets: at most 1.08, at
most 60 ms. Of what rows account for, some is done beside a next build where a core is free.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from packbench.store import Store
from packbench.workers import Workers

QUICK = ("sign", "int8", "pq", "rabitq", "pca")


def run_ratio(methods: tuple[str, ...]) -> tuple[float, float]:
    """Return wall seconds of a run in a process of its own, and the seconds that its rows account for."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [part for method in methods for part in ("--method", method)]
        command = [sys.executable, "-m", "packbench", "run", "--quiet", *chosen]
        # Kernels are compiled once on a machine: let that be over before anything is measured.
        subprocess.run([*command, "--results", f"{folder}/first"], check=True)
        begin = time.perf_counter()
        subprocess.run([*command, "--results", f"{folder}/whole"], check=True)
        wall = time.perf_counter() - begin
        rows = list(Store(f"{folder}/whole").rows())
        once = rows[0]["truth_seconds"] + rows[0]["factor_seconds"]
        return wall, sum(row["spent_seconds"] for row in rows) + once


def start_milliseconds(count: int = 20) -> list[float]:
    """Return the milliseconds from asking for a worker to its first answer, the first worker left out."""
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder), seconds=60, memory_bytes=1 << 30)
        workers.run("ping", {})
        found: list[float] = []
        for _ in range(count):
            begin = time.perf_counter()
            workers.run("ping", {})
            found.append((time.perf_counter() - begin) * 1e3)
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    methods = QUICK if parser.parse_args().quick else ()
    started = start_milliseconds()
    out = sys.stdout
    out.write(
        f"worker start after the first: median {statistics.median(started):.1f} ms, worst {max(started):.1f} ms\n"
    )
    wall, accounted = run_ratio(methods)
    out.write(f"wall {wall:.1f} s / accounted {accounted:.1f} s = {wall / accounted:.3f}\n")


if __name__ == "__main__":
    main()
