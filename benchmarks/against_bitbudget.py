"""Compare with BitBudget: the methods that both have, on the same vectors, wall time and bytes side by side.

    python benchmarks/against_bitbudget.py [--items FILE --queries FILE] [--python PYTHON]

Installs bitbudget 0.3.1 in an environment of its own (or uses the one that --python names). Its bytes are what its
methods declare, ours what the arrays weigh, shared arrays spread over the items at hand. Its time is that of the
method's one call, which codes the items and scores every query against them; ours is fit, encode, open and search.
Both are given two threads at most and judged by the same exact neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from packbench.dataset import Dataset, from_vectors
from packbench.datasets import load
from packbench.quality import Judge
from packbench.runner import run
from packbench.store import Store
from packbench.truth import truth_of

# Their name -> our configuration of the same method; d stands for the number of dimensions.
SAME = {
    "float32": "float32()",
    "float16": "float16()",
    "int8": "int8()",
    "int4": "int4(granularity='dim')",
    "binary": "sign()",
    "binary-mean": "sign(threshold='mean')",
    "binary+rerank": "rescore(sign(), float32(), factor=10)",
    "rabitq": "rabitq(bits=1)",
    "pq": "pq(m={d8})",
    "matryoshka": "truncate(dim={d4})",
    "pca": "pca(dim={d4})",
}

THEIRS = """
import json, sys, time
import numpy as np
from bitbudget.methods import METHODS
data = np.load(sys.argv[1])
found = {}
for name in sys.argv[3:]:
    best = None
    for _ in range(3):
        begin = time.perf_counter()
        scores, nbytes = METHODS[name](data["items"], data["queries"])
        top = np.argpartition(-scores, 9, axis=1)[:, :10]
        seconds = time.perf_counter() - begin
        best = seconds if best is None else min(best, seconds)
    np.save(f"{sys.argv[2]}/{name}.npy", top)
    found[name] = {"bytes": float(nbytes), "seconds": best}
print(json.dumps(found))
"""


def environment(folder: Path) -> str:
    """Make an environment with bitbudget 0.3.1 and return its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "bitbudget==0.3.1"], check=True)
    return python


def theirs(python: str, dataset: Dataset, folder: Path) -> dict[str, dict[str, float]]:
    """Run their methods in their environment; return declared bytes, seconds (best of three) and recall@10."""
    np.savez(folder / "data.npz", items=dataset.items, queries=dataset.queries)
    answer = subprocess.run(
        [python, "-c", THEIRS, str(folder / "data.npz"), str(folder), *SAME],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    )
    found: dict[str, dict[str, float]] = json.loads(answer.stdout)
    truth = truth_of(dataset.queries, dataset.items, dataset.metric)
    judge = Judge(dataset.queries, dataset.items, dataset.metric, truth)
    for name, figures in found.items():
        figures["recall"] = float(judge.recall(np.load(folder / f"{name}.npy"), 10).per_query.mean())
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path, help="vectors to search (default: those of pydocs)")
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--python", help="an interpreter that has bitbudget 0.3.1")
    chosen = parser.parse_args()
    if chosen.items:
        dataset = load(str(chosen.items), queries=chosen.queries)
    else:
        embedded = load("pydocs")
        dataset = from_vectors(embedded.items, embedded.queries, name="pydocs-vectors", metric="ip")
    specs = {name: spec.format(d4=dataset.d // 4, d8=dataset.d // 8) for name, spec in SAME.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rivals = theirs(chosen.python or environment(folder / "venv"), dataset, folder)
        run(dataset, list(specs.values()), folder / "results", budgets=(4.0 * dataset.d + 512,), deployment_n=dataset.n,
            references=False, threads=2, build_threads=2)  # fmt: skip
        ours = {row["request"]: row for row in Store(folder / "results").rows()}
    table = Table(title=f"{dataset.name}: {dataset.n:,} x {dataset.d}, {len(dataset.queries)} queries")
    for heading in ("BitBudget", "packbench", "bytes declared", "bytes weighed", "s theirs", "s ours", "ratio",
                    "recall@10 theirs", "ours"):  # fmt: skip
        table.add_column(heading, overflow="fold")
    for name, spec in specs.items():
        row, rival = ours[spec], rivals[name]
        if row["status"] != "ok":
            table.add_row(name, spec, f"{rival['bytes']:.1f}", f"{row['status']}: {row['reason']}")
            continue
        seconds = sum(row["seconds"][phase] for phase in ("fit", "encode", "open")) + row["seconds"]["search_10"]
        table.add_row(name, spec, f"{rival['bytes']:.1f}", f"{row['bytes']['deployed']:.1f}", f"{rival['seconds']:.3f}",
                      f"{seconds:.3f}", f"{seconds / rival['seconds']:.2f}", f"{rival['recall']:.3f}",
                      f"{row['recall']['recall@10']:.3f}")  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
