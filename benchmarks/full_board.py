"""Run every method at six budgets on five sets of real vectors, into leaderboard/results.

    python benchmarks/full_board.py [--dataset NAME ...] [--method NAME ...] [--results DIR] [--tries N]

`pydocs` ships with packbench; the other four are read from the folder that PACKBENCH_DATA names (`packbench fetch`
fills one, for those that can be downloaded). Run again, it resumes; `packbench board --results leaderboard/results`
shows what there is. Rows are kept, answers are not: the judgement of each query is in its row.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets import load
from packbench.plan import Plan, checked_requests
from packbench.progress import Bar
from packbench.runner import run

BUDGETS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
BGE = "bge_large_en_v1.5_bright_queries"
DATASETS = (
    "pydocs", "beir/scifact/all-minilm-l6-v2", "beir/nfcorpus/all-minilm-l6-v2", "texmex/siftsmall", BGE,
)  # fmt: skip
# What the findings compare beside the methods as they solve a budget: scorers, rotations, centring, one at a time. {d}
# is the width of the vectors.
SPELLED_OUT = (
    "sign()", "sign(scorer='asymmetric')", "sign(threshold='mean')", "sign(threshold='mean', scorer='asymmetric')",
    "itq(bits={d})", "itq(bits={d}, scorer='asymmetric')", "lsh(bits={d})", "lsh(bits={d}, scorer='asymmetric')",
    "int4(bits=2, granularity='vector')", "random_rotation() | int4(bits=2, granularity='vector')",
    "hadamard_rotation() | int4(bits=2, granularity='vector')", "pca(dim={d}) | int4(bits=2, granularity='vector')",
    "centre() | int4(bits=2, granularity='vector')", "centre() | sign()", "centre() | sign(scorer='asymmetric')",
    "random_rotation() | sign()", "random_rotation() | sign(scorer='asymmetric')",
    "int4(bits=2)", "random_rotation() | int4(bits=2)", "turboquant_mse(bits=1)",
    "turboquant_mse(bits=2)", "rabitq(bits=1)", "rabitq(bits=2)", "eden(bits=1)", "eden(bits=2)",
)  # fmt: skip


def neighbours_of_its_own(file: Path) -> Dataset:
    """Return vectors that are their own queries, each query's own row left out of its answers."""
    vectors = np.load(file)
    order = np.random.default_rng(0).permutation(len(vectors))
    choosing, testing = np.sort(order[: len(order) // 3]), np.sort(order[len(order) // 3 :])
    return Dataset(
        name=file.parent.name, metric="ip", items=vectors, fit=vectors, queries=vectors[testing],
        validation=vectors[choosing], fit_on="items", self_rows=testing, validation_self_rows=choosing,
        card={"encoder": "BAAI/bge-large-en-v1.5", "origin": "queries of BRIGHT", "mrl_trained": False},
    )  # fmt: skip


def main() -> None:
    """Run what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", choices=DATASETS)
    parser.add_argument("--method", action="append")
    parser.add_argument("--budget", action="append", type=float)
    parser.add_argument("--results", default=Path(__file__).parent.parent / "leaderboard" / "results", type=Path)
    parser.add_argument("--tries", default=3, type=int)
    chosen = parser.parse_args()
    with Bar() as bar:
        for name in chosen.dataset or DATASETS:
            file = Path(os.environ.get("PACKBENCH_DATA", "")) / BGE / "vectors_f32.npy"
            dataset = neighbours_of_its_own(file) if name == BGE else load(name)
            spelled_out = [spec.format(d=dataset.d) for spec in SPELLED_OUT]
            methods = chosen.method or checked_requests([*spelled_out, "all"], Plan())
            run(dataset, methods, chosen.results, listener=bar, budgets=chosen.budget or BUDGETS, tries=chosen.tries,
                seconds=300.0, timing_seconds=0.5)  # fmt: skip


if __name__ == "__main__":
    main()
