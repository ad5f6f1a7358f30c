"""Results by hand for the gate: two runs of one suite, whose rows a test then changes."""

import copy

import numpy as np

from packbench.store import SCHEMA

QUERIES = 400
ATTACK = "</testcase><script>alert('x')</script> | **bold** `code` [red]markup[/red] \x1b[31m \x00 \ud800 \n# title"


def row(request="pq", budget=16.0, *, seed=0, recall=0.8, dataset="pydocs", **more):
    """Write a result of QUERIES queries with recall and nDCG@10 about a mean; the same arguments give the same row."""
    rng = np.random.default_rng([sum(map(ord, request)), seed])
    found = rng.binomial(10, rng.beta(10 * recall, 10 * (1 - recall), QUERIES))
    deep = np.minimum(100, found * 10 + rng.integers(0, 10, QUERIES))
    gains = np.round(np.clip(found / 20 + rng.normal(0, 0.1, QUERIES), 0, 1), 5)
    name = request.split("(")[0]
    return {
        "schema": SCHEMA, "request": request, "version": "0411f4ee75ff", "dataset": dataset,
        "dataset_sha256": "060bc9be" * 8, "budget": budget, "disk_budget": 0.0, "deployment_n": 1_000_000,
        "seed": seed, "cutoffs": [1, 10, 100], "threads": {"build": 1, "search": 1}, "tries": 3,
        "machine": "9c25cb0da053", "software": "46e8cb11caf5", "id": f"{request}-{budget}-{seed}",
        "method": name, "spec": request, "family": "codebook", "fidelity": "EXACT", "kind": "quantiser",
        "status": "ok", "reason": None, "metric": "ip", "n": 4121, "d": 384, "n_queries": QUERIES, "n_fit": 4121,
        "machine_facts": {"cpu": "AMD EPYC", "cores": 2, "memory_gib": 24, "system": "Linux x86_64",
                          "simd": "faiss AVX2", "id": "9c25cb0da053"},
        "versions": {"python": "3.11.7", "packbench": "0.1.0", "numpy": "2.4.6", "faiss-cpu": "1.15.1"},
        "commit": "c0ffee" * 6 + "c0de", "load": 0.5, "time": "2030-01-01T00:00:00+00:00",
        "measurement": "b2edea6149ebafdf", "kernel": "numba scan", "codes": f"codes of {request}, {seed}",
        "bytes": {"payload": 16.0, "shared": 393_216, "cold": 0.0, "total": 111.4, "deployed": 16.393216,
                  "resident": 6_463_488},
        "seconds": {"fit": 2.5, "encode": 0.5}, "peak_bytes": {"fit": 0, "encode": 5_971_968, "search": 10_371_072},
        "query_ms": {"p50": 0.25, "p95": 0.3, "p99": 0.4, "mean": 0.26}, "reference_ms": 0.5,
        "speedup": {"median": 2.0, "low": 1.9, "high": 2.1},
        "recall": {"recall@10": float(found.mean() / 10)},
        "per_query": {"recall@10": found.tolist(), "recall@100": deep.tolist(), "nDCG@10": gains.tolist()},
    } | more  # fmt: skip


def failed(status, reason, **which):
    """Write a result without figures."""
    whole = row(**which)
    for name in ("codes", "bytes", "seconds", "peak_bytes", "query_ms", "reference_ms", "speedup", "recall",
                 "per_query", "measurement", "kernel"):  # fmt: skip
        del whole[name]
    return whole | {"status": status, "reason": reason, "spec": None}


def suite():
    """Write the results of three methods, two budgets each, and a reference at its own size."""
    methods = ("pq", "rabitq", "opq(m=16)")
    return [row("float32()", None, recall=0.99)] + [row(of, budget) for of in methods for budget in (16.0, 32.0)]


def lost(rows, metric, amount, request=None, seed=0):
    """Return copies in which a metric of one request, or of all, has fallen by an amount on average."""
    rng = np.random.default_rng(seed)
    rows = copy.deepcopy(rows)
    for one in rows:
        if request in (None, one["request"]) and "per_query" in one:
            values = np.array(one["per_query"][metric], float)
            scale = int(metric.split("@")[1]) if metric.startswith("recall") else 1
            if metric.startswith("recall"):
                values -= rng.binomial(values.astype(int), min(1, amount * scale / values.mean()))
            else:
                values -= amount + rng.normal(0, 0.01, len(values))
            one["per_query"][metric] = values.tolist()
    return rows


def everything():
    """Write a base and a new run in which each verdict has its cells, and so has each gain."""
    base = [
        *suite(), *(row("sign()", budget) for budget in (8.0, 64.0, 128.0)), row("lsh", 16.0), row("itq", 16.0),
        row("rq", 16.0), row("slow", 16.0), failed("failed", "ValueError: no", request="turbo", budget=16.0),
        row("gone", 16.0), row("int8", 16.0),
    ]  # fmt: skip
    new = lost(base, "recall@10", 0.05, "pq")
    by = {(one["request"], one["budget"]): one for one in new}
    by["int8", 16.0]["bytes"]["payload"] = 12.0
    by["rabitq", 16.0]["bytes"]["payload"] = 17.0
    by["rabitq", 32.0]["speedup"]["median"] = 1.0
    by["itq", 16.0]["per_query"]["recall@10"] = np.random.default_rng(0).permutation(
        by["itq", 16.0]["per_query"]["recall@10"]).tolist()  # fmt: skip
    for budget in (8.0, 64.0, 128.0):
        by["sign()", budget]["dataset_sha256"] = "f00d" * 16
    new = [one for one in new if one["request"] not in ("gone", "slow", "turbo", "rq")]
    new += [
        failed("timeout", "build took longer than 600 s", request="slow", budget=16.0),
        failed("failed", f"RuntimeError: {ATTACK}", request="rq", budget=16.0), row("turbo", 16.0),
    ]  # fmt: skip
    for one in new:
        one["time"] = "2030-01-02T00:00:00+00:00"
        one["versions"] = one["versions"] | {"faiss-cpu": "1.16.0"}
    return base, new
