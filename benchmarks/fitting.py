"""Measure how long product codebooks take to learn, and how well they code, beside faiss.ProductQuantizer.train.

    python benchmarks/fitting.py [--threads 1] [--n 10000 30000 100000] [--m 32 48 64 96] [--vectors FILE]

Prints a Markdown table: isotropic and clustered vectors whose variances decay, of 384 dimensions, and real ones: those
of pydocs, or of a file, as many as there are up to the largest n. faiss runs 25 rounds on at most 256 rows to a
centroid, without its polysemous step. It computes distances one by one where rows times sub-dimensions are fewer than
distance_compute_blas_threshold, as installed; there, its seconds are measured on two sub-quantisers and scaled to all,
which it learns one after the other. The ratio is against the faster of that and matrix products everywhere. The
distortion is that of all rows, by the same exact assignment, ours over theirs. Seconds are those of the processor with
one thread, of the clock with several.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np

from packbench.datasets import load, read_vectors
from packbench.items import Array, blocks
from packbench.methods.codebook.adc import assign, blas_distances, decode
from packbench.methods.codebook.kmeans import train

D, BITS = 384, 8
SHORT = 4.0  # seconds, below which a fit is timed again: one interruption would count for much
SCALED = 2  # sub-quantisers whose seconds stand for all


def made(n: int) -> Iterator[tuple[str, Array]]:
    """Yield synthetic vectors (n, 384) by kind."""
    rng = np.random.default_rng(0)
    yield "isotropic", rng.standard_normal((n, D), dtype=np.float32)
    scale = np.exp(-3 * rng.permutation(D) / D).astype(np.float32)
    centres = rng.standard_normal((1000, D), dtype=np.float32)
    rows = centres[rng.integers(0, 1000, n)] + rng.standard_normal((n, D), dtype=np.float32) / 2
    yield "clustered, correlated", rows * scale


def theirs(vectors: Array, m: int, everywhere: bool) -> Array:
    """Return what faiss learns, with matrix products everywhere or where it chooses."""
    quantiser: Any = faiss.ProductQuantizer(vectors.shape[1], m, BITS)
    quantiser.cp.niter, quantiser.cp.min_points_per_centroid = 25, 1
    with blas_distances(everywhere):
        quantiser.train(vectors)
    return faiss.vector_to_array(quantiser.centroids).reshape(m, 1 << BITS, -1).copy()


def distortion(vectors: Array, codebook: Array) -> float:
    """Return the mean squared error of all vectors under exact assignment."""
    parts = blocks(len(vectors), 16384)
    return sum(float(np.square(vectors[p] - decode(assign(vectors[p], codebook), codebook)).sum()) for p in parts)


def timed(learn: Callable[[], Array], threads: int) -> tuple[Array, float]:
    """Return a codebook and the seconds it took: the least of up to three times, where that takes a few seconds."""
    clock = time.process_time if threads == 1 else time.perf_counter
    took: list[float] = []
    while len(took) < 3 and sum(took) < SHORT:
        begin = clock()
        codebook = learn()
        took.append(clock() - begin)
    return codebook, min(took)


def row(kind: str, vectors: Array, m: int, threads: int) -> str:
    """Measure one line of the table."""
    ours, seconds = timed(lambda: train(vectors, m, BITS, 0), threads)
    book, products = timed(lambda: theirs(vectors, m, True), threads)
    looked_at = min(len(vectors), 256 << BITS)
    installed = products
    if looked_at * (D // m) < faiss.cvar.distance_compute_blas_threshold:
        few = np.ascontiguousarray(vectors[:, : SCALED * D // m])
        installed = timed(lambda: theirs(few, SCALED, False), threads)[1] * m / SCALED
    ratio = min(products, installed) / seconds
    change = distortion(vectors, ours) / distortion(vectors, book) - 1
    return (
        f"| {kind} | {len(vectors):,} | {m} | {installed:.2f} | {products:.2f} | {seconds:.2f} | {ratio:.1f}× | "
        f"{change:+.2%} |\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--m", type=int, nargs="+", default=[32, 48, 64, 96])
    parser.add_argument("--vectors", help="a file of real vectors of 384 dimensions (default: those of pydocs)")
    chosen = parser.parse_args()
    faiss.omp_set_num_threads(chosen.threads)
    if chosen.vectors:
        real = np.asarray(read_vectors(chosen.vectors)[: max(chosen.n)], np.float32)
    else:
        pydocs = load("pydocs")
        real = np.concatenate([np.asarray(part, np.float32) for part in (pydocs.fit, pydocs.items)])
    train(real[:1000], 32, BITS, 0)  # compiles
    out = sys.stdout
    out.write("| vectors | n | m | faiss, s | faiss with products, s | packbench, s | ratio | distortion |\n")
    out.write("|---|---|---|---|---|---|---|---|\n")
    for kind, vectors in ((kind, vectors) for n in chosen.n for kind, vectors in made(n)):
        for m in chosen.m:
            out.write(row(kind, vectors, m, chosen.threads))
            out.flush()
    for m in chosen.m:
        out.write(row("real", real, m, chosen.threads))


if __name__ == "__main__":
    main()
