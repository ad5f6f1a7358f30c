"""Hold the gate against a real regression: one scalar quantiser of faiss, in three releases of it.

    python benchmarks/faiss_versions.py [--work DIR] [--write]

Makes a virtual environment with everything as pinned but faiss (about 1 GB; DIR keeps it for the next time) and lays
each release of faiss beside it in a folder of its own, so that releases never meet and nothing else differs. Measures
the same methods on the same vectors with each, and compares the results.
What should come out is in EXPECTED; where it does not, the exit status is 1. --write puts the table into docs/gate.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import numpy as np
from gate import fill
from rich.console import Console

from packbench.items import Array
from packbench.leaderboard.gate.compare import Comparison, Finding, Verdict, compare
from packbench.leaderboard.gate.report import render_terminal
from packbench.leaderboard.gate.sources import read
from packbench.leaderboard.markdown import code

ROOT = Path(__file__).parent.parent
SUSPECT = "faiss(factory='SQtqmse4')"
METHODS = (SUSPECT, "faiss(factory='SQ8')", "int4()")
RELEASES = ("1.14.2", "1.14.3", "1.15.1")
EXPECTED = {("1.14.2", "1.14.3"): Verdict.REGRESSION, ("1.14.3", "1.15.1"): Verdict.PASS,
            ("1.14.2", "1.15.1"): Verdict.PASS}  # fmt: skip
N, QUERIES, D, BUDGET = 5_000, 750, 768, 800  # of the queries a third goes to the choice of configurations


def vectors(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return items (n, d) and queries near some of them, of unit length; variance falls as 1 / (rank + 10)."""
    axes, _ = np.linalg.qr(rng.standard_normal((D, D)))
    scale = 1 / np.sqrt(np.arange(D) + 10.0)

    def drawn(count: int) -> Array:
        return (rng.standard_normal((count, D)) * scale) @ axes

    items = drawn(N)
    queries = items[rng.choice(N, QUERIES, replace=False)] + 0.8 * drawn(QUERIES)
    return _unit(items), _unit(queries)


def _unit(rows: Array) -> Array:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def environment(work: Path) -> Path:
    """Return the Python of an environment that has packbench and, but for faiss, what it needs."""
    python = work / "environment" / "bin" / "python"
    ready = work / "environment" / "ready"
    if not ready.exists():
        venv.create(ready.parent, with_pip=True, clear=True)
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        _install(python, "-c", ROOT / "constraints.txt", *(one for one in needed if not one.startswith("faiss-cpu")))
        _install(python, "--no-deps", ROOT)
        ready.touch()
    return python


def _install(python: Path, *what: str | Path) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *what], check=True)


def measured(release: str, work: Path) -> Path:
    """Return the directory of the results of a release, measured anew or by an earlier call."""
    results, python, faiss = work / "results" / release, environment(work), work / f"faiss-{release}"
    if not faiss.exists():
        _install(python, "--no-deps", "--target", faiss, f"faiss-cpu=={release}")
    command = [python, "-m", "packbench", "run", "--quiet", "--results", results, "--metric", "ip",
               "--items", work / "items.npy", "--queries", work / "queries.npy", "--budget", str(BUDGET)]  # fmt: skip
    asked = [*command, *(word for method in METHODS for word in ("--method", method))]
    subprocess.run(asked, check=True, cwd=work, env=os.environ | {"PYTHONPATH": str(faiss)})
    return results


def table(found: dict[tuple[str, str], Comparison]) -> list[str]:
    """Return the table of the comparisons: what decided each, or what gained most."""
    lines = ["| faiss-cpu | verdict | method | figure | before | now |", "|---|---|---|---|---:|---:|"]
    for (old, new), comparison in found.items():
        told = [one for one in comparison.findings if one.verdict is not Verdict.PASS or one.better]
        for one in told or [_of_suspect(comparison)]:
            word = f"{one.verdict}, a gain" if one.better else str(one.verdict)
            figures = "–" if one.base is None else f"{one.base:.4f} | {one.new:.4f}"
            lines.append(f"| {old} → {new} | {word} | {code(one.request)} | {one.metric} | {figures} |")
    return lines


def _of_suspect(comparison: Comparison) -> Finding:
    return next(one for one in comparison.findings if one.request == SUSPECT and one.metric == "recall@10")


def main() -> None:
    """Install, measure, compare, print; fail where the gate does not say what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="Folder for environments and results (default: a temporary one).")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (chosen.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        items, queries = vectors(np.random.default_rng(0))
        np.save(work / "items.npy", items)
        np.save(work / "queries.npy", queries)
        rows = {release: read(measured(release, work)) for release in RELEASES}
    found = {(old, new): compare(rows[old], rows[new]) for old, new in EXPECTED}
    console = Console(width=200)
    wrong = []
    for (old, new), comparison in found.items():
        console.print(f"\nfaiss-cpu {old} → {new}", style="bold")
        render_terminal(comparison, console)
        accused = {one.request for one in comparison.findings if one.verdict is not Verdict.PASS}
        if comparison.verdict is not EXPECTED[old, new] or accused - {SUSPECT}:
            wrong.append(f"{old} → {new}: {comparison.verdict}, expected {EXPECTED[old, new]}")
    if chosen.write:
        about = f"{N:,} vectors of {D} dimensions, {rows[RELEASES[0]][0]['n_queries']} test queries, `ip`."
        fill("faiss", [about, "", *table(found)])
    console.print("\n".join(table(found)), highlight=False, markup=False)
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
