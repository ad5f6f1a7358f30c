"""Measure how the time and the memory of truth, encode and search grow with the number of items, past memory.

    python benchmarks/scale.py [--sizes 10k,100k,1M,4M] [--methods "int8()" "pq(m=48)"] [--queries 100] [--docs docs]
    python benchmarks/scale.py --spectra

Runs synthetic/spectrum (384 dimensions, float16 on disk) at each size in a process of its own, prints a table of
seconds and peak resident memory per phase, and with --docs puts the table into scale.md there, its plot beside it. The
harness's peaks are VmHWM, reset before each phase; a worker's are the highest VmHWM seen of any, in all, and what the
row tells of fit, encode and search above what the worker held before. Plots need `pip install 'packbench[paper]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from packbench import resources
from packbench.datasets import load
from packbench.exact import search_exact
from packbench.folders import run_folder
from packbench.measure import Bench
from packbench.plan import Plan
from packbench.spec import parse
from packbench.store import Store

SIZES, METHODS = "10k,100k,1M,4M", ("int8()", "pq(m=48)")
BEGIN, END = "<!-- table of benchmarks/scale.py -->", "<!-- end -->"
LIMIT = 1.5 * 2**30
Row = dict[str, Any]


class Phases:
    """Collect the seconds of each phase, and the peaks of this process and of the workers that ran in it."""

    def __init__(self, n: int) -> None:
        self.rows: list[Row] = []
        self._n = n

    @contextmanager
    def phase(self, name: str, method: str = "") -> Iterator[Row]:
        """Measure what happens inside; more figures may be put into the row."""
        row: Row = {"n": self._n, "method": method, "phase": name}
        resources.trim()
        resources.reset_peak()
        begin, over, seen = time.perf_counter(), threading.Event(), [0]
        watching = threading.Thread(target=_watch, args=(over, seen))
        watching.start()
        try:
            yield row
        finally:
            over.set()
            watching.join()
        row |= {"seconds": time.perf_counter() - begin, "harness_bytes": resources.peak_bytes()}
        row |= {"worker_bytes": seen[0]} if seen[0] else {}
        self.rows.append(row)


def _watch(over: threading.Event, seen: list[int]) -> None:
    """Keep the highest peak of any worker; VmHWM outlasts what a look every 20 ms would miss."""
    while not over.wait(0.02):
        for child in psutil.Process().children(recursive=True):
            try:
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            except OSError:
                continue
            seen[0] = max([seen[0], *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])


def run_size(n: int, methods: list[str], queries: int) -> list[Row]:
    """Return the phases of one size, from vectors to figures."""
    phases = Phases(n)
    wanted: Row = {"n": n, "n_queries": queries, "n_validation": max(2, queries // 5)}
    with phases.phase("load"):
        dataset = load("synthetic/spectrum", **wanted)
    with tempfile.TemporaryDirectory() as results, run_folder() as folder:
        os.environ["PACKBENCH_CACHE"] = f"{results}/cache"  # answers are to be found, not remembered
        with phases.phase("hash"):
            bench = Bench(dataset, Plan(references=False), Store(results), folder)
        with phases.phase("stage and truth") as row:
            bench.stage()
            row["of"] = {"factors": bench.factor_seconds}  # once a worker has them
        for spec in methods:
            method = parse(spec)
            with phases.phase("build", spec) as row:
                built = bench.build(method, 0)
                row |= {"of": built["seconds"], "above": built["peak_bytes"], "blocks": built["blocks"]}
            with phases.phase("search", spec) as row:
                found = bench.measure(method, 0).result()
                row |= {"of": found["seconds"], "above": found["peak_bytes"], "recall": found["recall"]["recall@10"],
                        "query_ms": found["query_ms"]["p50"]}  # fmt: skip
    return phases.rows


def table(rows: list[Row]) -> str:
    """Return the phases as a Markdown table."""
    lines = ["| items | phase | seconds | harness, peak MiB | worker, peak MiB | of which, above its start |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        seconds, above = row.get("of", {}), row.get("above", {})
        told = [f"{name} {seconds[name]:.1f} s, {above[name] / 2**20:.0f} MiB" for name in ("fit", "encode")
                if row["phase"] == "build"]  # fmt: skip
        if row["phase"] == "search":
            searched = seconds["search_10"] + seconds["search_100"]
            told = [f"open and search {seconds['open'] + searched:.1f} s, {above['search'] / 2**20:.0f} MiB",
                    f"{row['query_ms']:.1f} ms a query", f"recall@10 {row['recall']:.3f}"]  # fmt: skip
        if row.get("blocks", 1) > 1:
            told.append(f"{row['blocks']} blocks")
        worker = f"{row['worker_bytes'] / 2**20:.0f}" if "worker_bytes" in row else ""
        lines.append(f"| {row['n']:,} | {row['phase']} {row['method']} | {row['seconds']:.1f} | "
                     f"{row['harness_bytes'] / 2**20:.0f} | {worker} | {'; '.join(told)} |")  # fmt: skip
    return "\n".join(lines)


def plot(rows: list[Row], file: Path) -> None:
    """Draw seconds and peak bytes of each phase by the number of items, both axes logarithmic."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    sizes = sorted({row["n"] for row in rows})
    for name in dict.fromkeys(f"{row['phase']} {row['method']}".strip() for row in rows):
        own = [row for row in rows if f"{row['phase']} {row['method']}".strip() == name]
        (line,) = left.plot([row["n"] for row in own], [row["seconds"] for row in own], marker="o", label=name)
        right.plot([row["n"] for row in own], [row["harness_bytes"] for row in own], marker="o", color=line.get_color())
        workers = [row for row in own if "worker_bytes" in row and row["method"]]
        right.plot([row["n"] for row in workers], [row["worker_bytes"] for row in workers], marker="s", ls="--",
                   color=line.get_color())  # fmt: skip
    right.axhline(LIMIT, color="grey", lw=1)
    right.text(sizes[0], LIMIT * 1.06, "1.5 GiB", color="grey")
    right.plot(sizes, [4 * 384 * n for n in sizes], color="grey", ls=":", label="items as float32")
    right.plot([], [], color="black", marker="o", label="harness")
    right.plot([], [], color="black", marker="s", ls="--", label="worker")
    for axes, title in ((left, "seconds"), (right, "peak resident bytes")):
        axes.set(xscale="log", yscale="log", xlabel="items", title=title)
        axes.legend(fontsize=7)
    figure.savefig(file)


def spectra() -> str:
    """Return, for pydocs and as many vectors drawn to resemble it, how variances fall and how near neighbours lie."""
    lines = []
    for name, wanted in (("pydocs", {}), ("synthetic/spectrum", {"n": 4121, "n_fit": 1})):
        items = np.asarray(load(name, **wanted).items)
        variances = np.linalg.eigvalsh(np.cov(items.T.astype(np.float64)))[::-1]
        shares = variances / variances.sum()
        slope, start = np.polyfit(np.log(np.arange(1, 129)), np.log(shares[:128]), 1)
        off = np.log(shares[:128]) - slope * np.log(np.arange(1, 129)) - start
        near = search_exact(items[:500], items, "ip", 11).scores.mean(axis=0)
        lines.append(
            f"{name}: the first 128 variances hold {shares[:128].sum():.0%} and fall as i^{slope:.2f} "
            f"(r2 {1 - off.var() / np.log(shares[:128]).var():.3f}); participation ratio {1 / (shares**2).sum():.0f}; "
            f"mean of norm {np.linalg.norm(items.mean(0)):.3f}; nearest item at {near[1]:.2f}, tenth at {near[10]:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure each size in a fresh process, print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--spectra", action="store_true", help="only compare the drawn vectors with pydocs")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        json.dump(run_size(asked.only, asked.methods, asked.queries), sys.stdout)
        return
    if asked.spectra:
        sys.stdout.write(spectra() + "\n")
        return
    rows: list[Row] = []
    for size in asked.sizes.split(","):
        n = int(float(size.replace("k", "e3").replace("M", "e6")))
        command = [sys.executable, __file__, "--only", str(n), "--queries", str(asked.queries)]
        done = subprocess.run([*command, "--methods", *asked.methods], stdout=subprocess.PIPE, check=True)
        rows += json.loads(done.stdout)
        sys.stderr.write(f"{n:,} items: {sum(row['seconds'] for row in rows if row['n'] == n):.0f} s\n")
    sys.stdout.write(table(rows) + "\n")
    if asked.docs:
        page = asked.docs / "scale.md"
        before, _, after = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after.partition(END)[2]}")
        plot(rows, asked.docs / "scale.svg")


if __name__ == "__main__":
    main()
