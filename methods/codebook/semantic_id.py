"""Coarse-to-fine codes: greedy residual words, of which the first few say where to look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Hits, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import check_metric
from packbench.methods.codebook.additive import AdditiveCodec, additive_candidates
from packbench.methods.codebook.pq import check_sizes
from packbench.methods.codebook.rq import RQ
from packbench.registry import register

MOST_LEVELS = {6: 48, 8: 16, 4: 96}  # that a budget may ask for, by bits: what trains in a minute


@register
@dataclass(frozen=True, slots=True)
class SemanticId(AdditiveCodec):
    """Name the nearest word of each of m levels, coarse to fine, and search by the first levels before the others.

    Singh et al., "Better Generalization with Semantic IDs: A Case Study in Ranking for Recommendations", 2023: the
    codes, of residual k-means on the vectors as they are (the paper learns an encoder and a decoder around it, and
    ranks by a model of the codes). Each level is chosen greedily, so that a prefix of a code is a code. A query scores
    all items by their first `prefix` words, and by all words the share `keep` that scores best; keep=1 scores all.
    Items of equal codes cannot be told apart. Under l2, codes are decoded. Under cosine, unit vectors are coded.
    """

    name: ClassVar[str] = "semantic_id"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Singh et al., Better Generalization with Semantic IDs: A Case Study in Ranking for Recommendations, 2023"
    )
    formula: ClassVar[str] = "ceil(m bits / 8) per item; shared 4 · 2^bits m d + 1"

    m: int
    bits: int = 6
    prefix: int = 4
    keep: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.prefix < 1:
            raise ValueError(f"prefix={self.prefix}: expected at least 1 level")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: expected a share above 0, up to 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(additive_candidates(budget, cls, MOST_LEVELS))

    def _residual(self) -> RQ:
        return RQ(self.m, self.bits, beam=1, train_beam=1, seed=self.seed)

    def fit(self, sample: Sample) -> Arrays:
        return self._residual().fit(sample)

    def nests_by(self) -> str:
        return self._residual().nests_by()

    def cut(self, shared: Arrays) -> Arrays:
        return self._residual().cut(shared)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return self._residual().encode(items, shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if metric == "l2":
            return Codec.open(self, codes, shared, metric)
        return PrefixSearcher(codes["codes"], shared["codebook"], min(self.prefix, self.m), self.keep)


class PrefixSearcher:
    """Score all codes by their first words, and those that do best by all words."""

    kernel = "numba look-up by prefix"

    def __init__(self, codes: Array, codebook: Array, prefix: int, keep: float) -> None:
        self._codes, self._codebook = np.ascontiguousarray(codes), codebook
        self._bits, self._prefix, self._keep = codebook.shape[1].bit_length() - 1, prefix, keep

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        n, (m, ksub, d) = len(self._codes), self._codebook.shape
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        found = min(k, n)
        kept = max(found, int(np.ceil(self._keep * n)))
        if not found:
            return Hits(ids, scores)
        words = self._codebook.reshape(m * ksub, d)
        everything = np.arange(n)
        for row, query in enumerate(q):
            table = (words @ query).reshape(m, ksub)
            partial = _sums(self._codes, everything, self._bits, table, 0, self._prefix)
            some = everything
            if kept < n:
                some = np.flatnonzero(partial >= np.partition(partial, n - kept)[n - kept])
            full = partial[some] + _sums(self._codes, some, self._bits, table, self._prefix, m)
            best = np.argsort(-full, kind="stable")[:found]
            ids[row, :found], scores[row, :found] = some[best], full[best]
        return Hits(ids, scores)


@njit(cache=True, nogil=True)
def _sums(codes, rows, bits, table, first, last):  # type: ignore[no-untyped-def]
    """Return for each of some rows the sum of the table entries that levels first to last - 1 of its code name."""
    found = np.zeros(len(rows), np.float32)
    nbytes = codes.shape[1]
    for place in range(len(rows)):
        code = codes[rows[place]]
        total = np.float32(0)
        for level in range(first, last):
            at = level * bits
            byte = at // 8
            window = np.int64(code[byte])
            # At most 16 bits lie across three bytes.
            for more in range(1, 3):
                if byte + more < nbytes:
                    window |= np.int64(code[byte + more]) << (8 * more)
            total += table[level, (window >> (at % 8)) & ((1 << bits) - 1)]
        found[place] = total
    return found
