"""Time the kernels that scan codes, each by the method that it serves.

    pytest benchmarks/test_kernels.py [--benchmark-json kernels.json] [--benchmark-compare]

Needs pytest-benchmark; collected only when asked for. One query at a time on one thread over 20,000 random codes of 128
dimensions, and a batch of 64, for which many go another way. `extra_info` says which kernel it was and how many bytes
of codes it scanned.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from packbench import artefact, parse
from packbench.method import Sample, Searcher

N, D, BATCH = 20_000, 128, 64
SPECS = (
    "float32()", "float16()", "int8()", "int4()", "lloyd_max(bits=4)", "turboquant_mse(bits=3)", "sign()",
    "sign(scorer='asymmetric')", "rabitq()", "pq(m=16)", "pq(m=32, bits=4)", "rq(m=8, beam=2, train_beam=1)",
    "transform_coding(nbytes=16)", "semantic_id(m=8)", "magnitude_prune(k=16)",
)  # fmt: skip


@functools.cache
def vectors(n: int, seed: int) -> np.ndarray[Any, Any]:
    """Return n Gaussian vectors (n, 128) float32."""
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


@functools.cache
def opened(spec: str) -> tuple[Searcher, int]:
    """Return what searches the codes of a method, and their bytes."""
    method = parse(spec)
    items = vectors(N, 0)
    shared = method.fit(Sample(items[:2000], "ip", None, {}))
    codes = artefact.for_search(method.encode(items, shared))
    return method.open(codes, artefact.for_search(shared), "ip"), sum(array.nbytes for array in codes.values())


@pytest.mark.benchmark(max_time=0.2)
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("spec", SPECS)
def test_kernel(benchmark: Any, spec: str, batch: int) -> None:
    """Search for ten answers."""
    with threadpool_limits(1):
        searcher, scanned = opened(spec)
        asked = itertools.cycle(np.split(vectors(4 * BATCH, 1), 4 * BATCH // batch))
        searcher.search(next(asked), 10)  # compiles
        hits = benchmark(lambda: searcher.search(next(asked), 10))
    benchmark.extra_info.update(kernel=getattr(searcher, "kernel", "unstated"), bytes_scanned=scanned, batch=batch)
    assert hits.ids.shape == (batch, 10)
