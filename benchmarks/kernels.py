"""Measure the kernels that scan codes against faiss's for the same code, and against what this machine reads.

    python benchmarks/kernels.py [--n 1000000] [--d 384 ...] [--shape int8 ...] [--threads 1] [--batch 1]

Prints a Markdown table: one query (or a batch) over n codes, best of several rounds, ours and faiss's by turns in one
process. `of bandwidth` is the bytes of codes that one query passes over in a second, against the bytes that a plain sum
over a large array reads. Codes are those of 4,096 Gaussian vectors of length one, repeated: a scan does not care what
it reads, and of the best, which then tie, as many pass as would among different vectors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from packbench import parse
from packbench.artefact import for_search
from packbench.method import Sample

DISTINCT = 4096  # vectors that are really encoded
ROUNDS, SECONDS = 30, 1.0  # at most, for each
Search = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Shape:
    """Name a shape of code, the method that has it here, and the index that has it in faiss; {} is a width."""

    name: str
    spec: str
    factory: str = ""  # none: faiss has no such code


SHAPES = (
    Shape("float16", "float16()", "SQfp16"),
    Shape("bfloat16", "bfloat16()", "SQbf16"),
    Shape("int8", "int8()", "SQ8"),
    Shape("int4", "int4()", "SQ4"),
    Shape("6 bits", "int4(bits=6)", "SQ6"),
    Shape("3 bits", "int4(bits=3)"),
    Shape("4-bit table", "turboquant_mse(bits=4)", "SQtqmse4"),
    Shape("2-bit table", "turboquant_mse(bits=2)", "SQtqmse2"),
    Shape("4-bit table, scaled", "eden(bits=4)", "EDEN4"),
    Shape("4-bit levels", "lloyd_max(bits=4)"),
    Shape("popcount", "sign()", "LSH{d}"),
    Shape("asymmetric 1 bit", "sign(scorer='asymmetric')"),
    Shape("scaled signs", "sign_scale()"),
    Shape("rabitq", "rabitq()", "RaBitQ"),
    Shape("8-bit look-up", "pq(m={m})", "PQ{m}np"),
    Shape("4-bit look-up", "pq(m={m4}, bits=4)", "PQ{m4}x4fs"),
    Shape("residual", "rq(m=16, beam=1, train_beam=1)", "RQ16x8"),
    Shape("trellis", "transform_coding(nbytes={m})", "PQ{m}np"),
    Shape("sparse", "magnitude_prune(k={m})"),
)


@njit(cache=True, nogil=True)
def _total(words):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def bandwidth() -> float:
    """Return the bytes per second that one thread reads from memory."""
    words = np.ones(1 << 27, np.uint64)
    _total(words[:1])
    return float(words.nbytes / best(lambda: _total(words)))


def best(call: Callable[[], Any]) -> float:
    """Return the least seconds of this thread that a call took."""
    return min(alternating(call))


def alternating(*calls: Callable[[], Any], clock: Callable[[], float] = time.thread_time) -> list[float]:
    """Return the least seconds of each call, measured by turns; of this thread alone, unless the clock is another."""
    found = [np.inf] * len(calls)
    begin = time.perf_counter()
    for done in range(ROUNDS):
        for at, call in enumerate(calls):
            start = clock()
            call()
            found[at] = min(found[at], clock() - start)
        if done >= 3 and time.perf_counter() - begin > SECONDS * len(calls):
            break
    return found


def ours(spec: str, vectors: np.ndarray, n: int) -> tuple[Search, float, str]:
    """Return a search for ten over n codes, the bytes of a code, and the name of the kernel."""
    method = parse(spec)
    shared = method.fit(Sample(vectors))
    codes = method.encode(vectors, shared)
    searched = for_search({name: _repeated(array, n) for name, array in codes.items()})
    searcher = method.open(searched, for_search(shared), "ip")
    size = sum(array.nbytes for array in searched.values()) / n
    return lambda q: searcher.search(q, 10), size, getattr(searcher, "kernel", "unstated")


def theirs(factory: str, vectors: np.ndarray, n: int) -> Search:
    """Return a search for ten over an index of n codes."""
    l2 = factory.startswith("LSH")
    index: Any = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexPQ | faiss.IndexPQFastScan):
        index.pq.cp.niter, index.pq.cp.min_points_per_centroid = 2, 1  # a scan does not care how good centroids are
    index.train(vectors)
    if isinstance(index, faiss.IndexFlatCodes):
        index.add_sa_codes(_repeated(index.sa_encode(vectors), n))
    while index.ntotal < n:
        index.add(vectors[: n - index.ntotal])
    return lambda q: index.search(q, 10)


def _repeated(codes: np.ndarray, n: int) -> np.ndarray:
    """Return n rows: the given ones again and again."""
    return np.ascontiguousarray(np.resize(codes, (n, *codes.shape[1:])))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, nargs="+", default=[384, 768, 1024])
    parser.add_argument("--shape", nargs="+", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    chosen = parser.parse_args()
    faiss.omp_set_num_threads(chosen.threads)
    out = sys.stdout
    with threadpool_limits(chosen.threads):
        reads = bandwidth()
        out.write(f"reads {reads / 1e9:.1f} GB/s on one thread; n = {chosen.n:,}, batch {chosen.batch}\n\n")
        out.write(
            "| code | d | bytes | method | ns per vector | M vectors/s | GB/s | of bandwidth | x faiss | kernel |\n"
        )
        out.write("|---|--:|--:|---|--:|--:|--:|--:|--:|---|\n")
        for shape in SHAPES:
            for d in chosen.d:
                if chosen.shape and shape.name not in chosen.shape:
                    continue
                rng = np.random.default_rng(d)
                vectors = rng.standard_normal((DISTINCT, d), dtype=np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                queries = rng.standard_normal((chosen.batch, d), dtype=np.float32)
                sizes = {"d": d, "m": d // 8, "m4": d // 4}
                spec, factory = shape.spec.format(**sizes), shape.factory.format(**sizes)
                search, size, kernel = ours(spec, vectors, chosen.n)
                calls = [lambda: search(queries)]  # noqa: B023 - called before the next turn
                if factory:
                    other = theirs(factory, vectors, chosen.n)
                    calls.append(lambda: other(queries))  # noqa: B023
                search(queries)  # compiles
                times = alternating(*calls, clock=time.thread_time if chosen.threads == 1 else time.perf_counter)
                each = times[0] / chosen.n / chosen.batch
                ratio = f"{times[1] / times[0]:.2f} ({factory})" if factory else ""
                share = f"{size / each / reads:.0%}" if chosen.batch == 1 else ""
                out.write(
                    f"| {shape.name} | {d} | {size:.0f} | `{spec}` | {each * 1e9:.1f} | {1e-6 / each:.0f} "
                    f"| {size / each / 1e9:.1f} | {share} | {ratio} | {kernel} |\n"
                )
                out.flush()


if __name__ == "__main__":
    main()
