"""Say what an error in a stored vector does to its scores, as the fit queries tell."""

from __future__ import annotations

import numpy as np

from packbench.errors import BadInput
from packbench.factors import moment
from packbench.items import Array, as_vectors
from packbench.method import Method, Sample
from packbench.methods.projection.linear import unit

DAMP = 0.01  # the least share of the identity in E[qq']: what GPTQ adds to its Hessian


def score_moment(method: Method, sample: Sample) -> Array:
    """Return H (d, d) float64 for which e'He is the mean squared error that an error e of an item brings to scores.

    Under an inner product H is E[qq']. Under l2 half the error of a squared distance is, to first order, (x - q)'e,
    and H is E[(x - q)(x - q)'] over independent items and queries. Either is shrunk towards the identity by the rule
    of Ledoit and Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", 2004, and never less
    than by DAMP: few queries leave directions unseen, and no error is free there.
    """
    queries = _queries(method, sample).astype(np.float64)
    spread = np.zeros(())
    if sample.metric == "l2":
        vectors = as_vectors(sample.items, "fit sample")
        mean = vectors.mean(axis=0, dtype=np.float64)
        queries, spread = queries - mean, moment(vectors, mean)
    found = moment(queries)
    level = np.trace(found) / len(found)
    share = max(shrinkage(queries, found), DAMP)
    found = (1 - share) * found + share * level * np.eye(len(found)) + spread
    # Of queries that are all zero nothing is known.
    return found if np.trace(found) > 0 else np.eye(len(found))


def score_weights(method: Method, sample: Sample) -> Array:
    """Return the diagonal of H (d,) float64, above zero: what a squared error in each dimension counts for."""
    return np.diag(score_moment(method, sample))


def shrinkage(rows: Array, moments: Array) -> float:
    """Return the share of the identity that brings second moments of rows nearest to the true ones, as estimated."""
    n, d = rows.shape
    off = np.square(moments - np.trace(moments) / d * np.eye(d)).sum()
    noise = (np.square(np.einsum("ij,ij->i", rows, rows)).mean() - np.square(moments).sum()) / n
    return float(min(max(noise, 0.0) / off, 1.0)) if off > 0 else 1.0


def _queries(method: Method, sample: Sample) -> Array:
    """Return the fit queries as scores see them: of unit length for cosine.

    Raises:
        BadInput: there is none.
    """
    if sample.queries is None or not len(sample.queries):
        raise BadInput(f"{method}: needs sample queries, and the fit sample has none")
    queries = as_vectors(sample.queries, "fit queries")
    return unit(queries) if sample.metric == "cosine" else queries
