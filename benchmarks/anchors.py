"""Check published figures: exact search over BEIR sets that our own loader encodes, and TEXMEX's own neighbours.

    PACKBENCH_DATA=FOLDER python benchmarks/anchors.py

Needs beir_scifact, beir_nfcorpus and siftsmall in the folder, and `pip install 'packbench[text]'`. The published
nDCG@10 of all-MiniLM-L6-v2 is 0.645 on SciFact and 0.316 on NFCorpus. Exits with 1 where a figure is off.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from packbench.datasets import load, read_vectors
from packbench.exact import search_exact
from packbench.items import Array
from packbench.quality import Relevance
from packbench.truth import truth_of, without

PUBLISHED = {"beir_scifact": 0.645, "beir_nfcorpus": 0.316}
TOLERANCE = 0.001


def encoded_ndcg(folder: Path) -> tuple[float, int, float]:
    """Return nDCG@10 of exact search, the number of judged queries, and the seconds of loading and encoding."""
    with tempfile.TemporaryDirectory() as place:
        # Texts and judgements alone: vectors that lie beside them would be taken instead of encoding.
        for part in ("corpus.jsonl", "queries.jsonl", "qrels"):
            (Path(place) / part).symlink_to(folder.resolve() / part)
        begin = time.perf_counter()
        dataset = load(f"beir:{place}", encoder="all-MiniLM-L6-v2")
        seconds = time.perf_counter() - begin
    ids = search_exact(dataset.queries, dataset.items, dataset.metric, 101).ids
    if dataset.self_rows is not None:
        ids = without(ids, dataset.self_rows)
    values = Relevance(dataset).per_query(ids[:, :100])["nDCG@10"]
    return float(np.mean(values)), len(values), seconds


def official_agreement(folder: Path) -> float:
    """Return the share of TEXMEX's listed neighbours, position by position, whose distance our search reproduces."""
    items, queries = read_vectors(folder / "siftsmall_base.fvecs"), read_vectors(folder / "siftsmall_query.fvecs")
    listed = np.asarray(read_vectors(folder / "siftsmall_groundtruth.ivecs"))
    found = truth_of(queries, items, "l2").ids[:, : listed.shape[1]]

    def distances(ids: Array) -> Array:
        return np.asarray([((items[row] - query) ** 2).sum(1) for row, query in zip(ids, queries, strict=True)])

    return float((distances(found) == distances(listed)).mean())


def main() -> int:
    """Print each figure beside the published one."""
    where = os.environ.get("PACKBENCH_DATA")
    if not where:
        sys.stderr.write("set PACKBENCH_DATA to the folder that holds beir_scifact, beir_nfcorpus and siftsmall\n")
        return 2
    wrong = 0
    for name, published in PUBLISHED.items():
        ndcg, judged, seconds = encoded_ndcg(Path(where) / name)
        wrong += abs(ndcg - published) > TOLERANCE
        sys.stdout.write(f"{name}: nDCG@10 {ndcg:.4f} over {judged} queries, published {published} ({seconds:.0f} s)\n")
    agreement = official_agreement(Path(where) / "siftsmall")
    wrong += agreement < 1
    sys.stdout.write(f"siftsmall: {agreement:.2%} of the official neighbours\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
