"""Results by hand: every kind of row that there is, for the golden files and for the tests of what is made of them."""

import re

QUERIES = 40
ATTACK = "<script>alert('x')</script>"


def row(request, budget, right=(9,), *, spec=None, seed=0, status="ok", reason=None, payload=None, **more):
    """Write a result by hand. right repeats over the queries: how many of the ten answers are right."""
    name = re.split(r"\W", request)[0]
    found = {
        "request": request, "version": "v1", "method": name, "spec": None, "family": "scalar", "fidelity": "EXACT",
        "kind": "quantiser", "status": status, "reason": reason, "budget": budget, "disk_budget": 0.0,
        "deployment_n": 1_000_000, "dataset": "made/by_hand", "dataset_sha256": "c0ffee" * 10, "metric": "ip",
        "n": 1234, "d": 16, "n_queries": QUERIES, "n_fit": 567, "fit_on": "disjoint", "seed": seed,
        "threads": {"build": 2, "search": 1}, "tries": 3, "machine": "m1", "time": "2030-01-01T00:00:00+00:00",
        "machine_facts": {"cpu": "a processor", "cores": 2, "memory_gib": 8, "system": "Linux x86_64",
                          "simd": "faiss AVX2", "id": "m1"},
        "versions": {"python": "3.11.0", "packbench": "0.1.0"}, "schema": 1, "cutoffs": [1, 10, 100],
    }  # fmt: skip
    if status == "ok":
        answers = [right[at % len(right)] for at in range(QUERIES)]
        gains = [min(1.0, 0.06 * answer + 0.01 * (at % 7)) for at, answer in enumerate(answers)]
        recall = sum(answers) / QUERIES / 10
        payload = budget if payload is None else payload
        found |= {
            "spec": spec or f"{name}()",
            "bytes": {"payload": payload, "shared": 0, "cold": 0.0, "total": payload, "deployed": payload},
            "kernel": "numba scan", "query_ms": {"p50": 0.25}, "reference_ms": 0.5,
            "speedup": {"median": 2.0, "low": 1.5, "high": 2.5}, "seconds": {"fit": 0.75, "encode": 0.1},
            "recall": {"recall@10": recall}, "ties": {"recall@10": [recall, recall, recall]},
            "per_query": {"recall@10": answers, "nDCG@10": gains}, "n_judged": QUERIES,
            "relevance": {"nDCG@10": sum(gains) / QUERIES},
        }  # fmt: skip
    return found | more | {"id": f"{request}-{budget}-{seed}-{more.get('machine')}-{more.get('version')}"}


def hand_made():
    """A board with every kind of row that there is."""
    mixed = {"bytes": {"payload": 15.0, "shared": 900_000, "cold": 0.0, "total": 915.0, "deployed": 15.9}}
    rows = [
        row("float32()", None, (10,), payload=64.0),
        row("float16()", None, (10, 10, 9, 10), payload=32.0),
        row("int8()", None, status="timeout", reason="build took longer than 600 s"),
        row("opq", 16.0, (8, 9, 9, 7, 9), spec="opq(m=15)", family="codebook", **mixed),
        row("pca", 16.0, (8, 9, 9, 8, 8), spec="pca(dim=4) | float32()", family="projection"),
        row("sign", 16.0, (5, 6), payload=2.0, family="binary", ties={"recall@10": [0.48, 0.55, 0.62]}),
        row("truncate", 16.0, (2, 3, 1), spec="truncate(dim=4)", family="projection", fidelity="READ-OUT"),
        row("rabitq", 16.0, (6, 7), seed=0, family="binary", speedup={"median": 3.0, "low": 1.25, "high": 3.5}),
        row("rabitq", 16.0, (7, 7), seed=1, family="binary", speedup={"median": 2.0, "low": 1.75, "high": 4.0}),
        row("lsh", 16.0, (6, 6), seed=0),
        row("lsh", 16.0, seed=1, status="failed", reason="ValueError: no such seed"),
        row("int8", 8.0, status="no_fit", reason="needs at least 16.00 bytes per item", least=16.0),
        row("learned", 16.0, status="needs", reason="needs queries, which made/by_hand does not have"),
        row("cheat", 16.0, status="disqualified", reason=f"{ATTACK} | **bold** `code` [x](y)"),
    ]
    for position, one in enumerate(rows):
        one["time"] = f"2030-01-01T00:00:{position:02d}+00:00"
    return rows


def everything():
    """Add to them a second budget with figures, expectations over ties, flags, steps of a loss, a reference curve."""
    rows = hand_made()
    sign = next(of for of in rows if of["request"] == "sign")
    sign["per_query"]["expected recall@10"] = [5.25, 5.75] * (QUERIES // 2)
    flagged = row("opq", 8.0, (6, 7, 6), spec="opq(m=8)", family="codebook", health={"use": 0.2})
    flagged["per_query"]["codes recall@10"] = [7] * QUERIES
    curve = row("gaussian reference", 16.0, (9, 8)) | {"status": "reference"}
    return [*rows, flagged, curve]


def table(board, budget=16.0):
    return next(of for of in board.tables if of.budget == budget)
