"""Describe a data set by the figures that decide how well it compresses: spectrum, tails, neighbours, ties."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from packbench.dataset import Dataset
from packbench.exact import scores_of_pairs, search_exact
from packbench.items import Array, Ragged, blocks
from packbench.quality import RELATIVE_TOLERANCE
from packbench.truth import without

SAMPLE = 5000
QUERIES = 500
MLE_NEIGHBOURS = 20
TIE_DEPTH = 10


def describe(dataset: Dataset, seed: int = 0) -> dict[str, Any]:
    """Return counts, rules and statistics as plain values, ready for JSON.

    Norms, the mean vector and duplicates are taken over all items; the spectrum, kurtosis, intrinsic dimension and
    hubness over a seeded sample of at most 5,000; ties over at most 500 test queries. Where items are of unequal
    length, their single vectors are described, without neighbours.
    """
    ragged = isinstance(dataset.items, Ragged)
    vectors = dataset.items.values if isinstance(dataset.items, Ragged) else dataset.items
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE])
    found: dict[str, Any] = {
        "name": dataset.name,
        "metric": dataset.metric,
        "n": dataset.n,
        "d": dataset.d,
        "counts": {part: len(items) for part, items in dataset.parts().items()},
        "fit_on": dataset.fit_on,
        "sampled": len(rows),
        "self_match": dataset.card.get("self_match", "none"),
        "own_rows": 0 if dataset.self_rows is None else int((dataset.self_rows >= 0).sum()),
        "licence": dataset.card.get("licence"),
        "encoder": dataset.card.get("encoder"),
        "relevance": relevance(dataset),
    }
    if vectors.ndim == 2 and vectors.dtype.kind == "f":
        sample = np.asarray(vectors[rows], np.float64)
        found |= lengths(vectors) | spectrum(sample) | {"kurtosis": kurtosis(sample)}
        found["duplicates"] = duplicates(vectors)
        if not ragged:
            found["intrinsic_dimension"] = intrinsic_dimension(sample)
            found["hubness"] = hubness(np.asarray(vectors[rows], np.float32), dataset.metric)
            found["near_ties"] = near_ties(dataset)
    return found


def lengths(vectors: Array) -> dict[str, Any]:
    """Return the least, mean and largest norm, and the norm of the mean vector."""
    total, norms = np.zeros(vectors.shape[1]), []
    for part in blocks(len(vectors), 16384):
        block = np.asarray(vectors[part], np.float64)
        total += block.sum(0)
        norms.append(np.linalg.norm(block, axis=1))
    every = np.concatenate(norms)
    return {
        "norms": {"min": float(every.min()), "mean": float(every.mean()), "max": float(every.max())},
        "mean_vector_norm": float(np.linalg.norm(total / len(vectors))),
    }


def spectrum(sample: Array) -> dict[str, Any]:
    """Return the effective rank, exp of the entropy of the covariance's eigenvalues, and the stable rank.

    Papers: Roy and Vetterli, "The effective rank", 2007; Rudelson and Vershynin, "Sampling from large matrices", 2007.
    """
    centred = sample - sample.mean(0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2
    total = eigenvalues.sum()
    if total == 0:
        return {"effective_rank": 0.0, "stable_rank": 0.0}
    return {
        "effective_rank": float(np.exp(stats.entropy(eigenvalues / total))),
        "stable_rank": float(total / eigenvalues.max()),
    }


def kurtosis(sample: Array) -> dict[str, Any]:
    """Return the mean and largest excess kurtosis over dimensions (0 for a Gaussian); constant ones are counted."""
    varying = sample[:, np.ptp(sample, axis=0) > 0]
    excess = stats.kurtosis(varying, axis=0) if varying.shape[1] else np.zeros(1)
    return {
        "mean": float(excess.mean()),
        "max": float(excess.max()),
        "constant_dimensions": sample.shape[1] - varying.shape[1],
    }


def duplicates(vectors: Array) -> int:
    """Count the items that equal an earlier one in every value."""
    seen: set[bytes] = set()
    for part in blocks(len(vectors), 16384):
        seen.update(hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in vectors[part])
    return len(vectors) - len(seen)


def intrinsic_dimension(sample: Array) -> dict[str, float | None]:
    """Estimate the dimension of the manifold that the vectors lie near, by distances to Euclidean neighbours.

    Papers: Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information"
    (TwoNN), 2017; Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004, averaged as
    MacKay and Ghahramani propose.
    """
    distinct = np.unique(sample, axis=0)
    if len(distinct) <= MLE_NEIGHBOURS + 1:
        return {"two_nn": None, "mle": None}
    search = NearestNeighbors(n_neighbors=MLE_NEIGHBOURS + 1, algorithm="brute").fit(distinct)
    distances = search.kneighbors(distinct)[0][:, 1:]
    distances = distances[distances[:, 0] > 0]
    ratios = np.sort(distances[:, 1] / distances[:, 0])
    # The largest tenth of the ratios is left out, as the authors do: it is where the density varies.
    kept = ratios[: int(0.9 * len(ratios))]
    log_ratio = np.log(kept)
    surviving = -np.log1p(-np.arange(1, len(kept) + 1) / len(ratios))
    two_nn = float(log_ratio @ surviving / (log_ratio @ log_ratio))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return {"two_nn": two_nn, "mle": float((MLE_NEIGHBOURS - 1) / logs.sum(1).mean())}


def hubness(sample: Array, metric: str) -> dict[str, float]:
    """Return the skewness of how often an item is among the 10 nearest of others, and the share that never is.

    Paper: Radovanović et al., "Hubs in space: popular nearest neighbors in high-dimensional data", 2010.
    """
    k = min(TIE_DEPTH, len(sample) - 1)
    ids = search_exact(sample, sample, metric, k + 1).ids
    ids = without(ids, np.arange(len(sample)))[:, :k]
    occurrences = np.bincount(ids[ids >= 0], minlength=len(sample))
    skewness = float(stats.skew(occurrences)) if np.ptp(occurrences) else 0.0
    return {"skewness": skewness, "anti_hub_share": float((occurrences == 0).mean())}


def near_ties(dataset: Dataset) -> float:
    """Return the share of test queries whose 10th and 11th neighbours differ by less than recall's tolerance."""
    items, queries = np.asarray(dataset.items), np.asarray(dataset.queries)[:QUERIES]
    depth = min(dataset.n, TIE_DEPTH + 12)  # some spare, for float32 may misplace what is nearly tied
    ids = search_exact(np.asarray(queries, np.float32), np.asarray(items, np.float32), dataset.metric, depth).ids
    if dataset.self_rows is not None:
        ids = without(ids, dataset.self_rows[: len(queries)])
    scores = -np.sort(-scores_of_pairs(queries, items, ids, dataset.metric), axis=1)
    if depth <= TIE_DEPTH:
        return 0.0
    at, after = scores[:, TIE_DEPTH - 1], scores[:, TIE_DEPTH]
    return float((after >= at - RELATIVE_TOLERANCE * np.abs(at)).mean())


def relevance(dataset: Dataset) -> dict[str, Any] | None:
    """Return how many queries are judged, and how many items are relevant to one; None without judgements."""
    if dataset.qrels is None:
        return None
    judged = [dataset.qrels[query] for query in dataset.query_ids or () if dataset.qrels.get(query)]
    relevant = np.array([sum(grade > 0 for grade in grades.values()) for grades in judged])
    grades = sorted({grade for of in judged for grade in of.values()})
    return {
        "judged_queries": len(judged),
        "judgements": sum(len(of) for of in judged),
        "relevant_per_query": {
            "min": int(relevant.min()), "mean": float(relevant.mean()), "max": int(relevant.max()),
        },
        "grades": grades,
    }  # fmt: skip
