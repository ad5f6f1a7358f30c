"""Toy methods for items that are no single vectors: token vectors, text, sparse vectors."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from packbench import Hits, Method, Ragged, register, top_k
from packbench.exact import search_exact
from packbench.items import check_finite

SPARSE = np.dtype([("index", np.int32), ("weight", np.float32)])


def ragged(items, dtype):
    """Return items with values of one type, having refused NaN."""
    check_finite(items, "token vectors")
    return Ragged(np.ascontiguousarray(items.values, dtype), np.asarray(items.offsets, np.int64))


class Stored(Method):
    """Keep values and offsets, whatever the values are."""

    def planned_bytes(self, d):
        raise TypeError("items differ in length, so no formula gives their bytes")

    @classmethod
    def for_budget(cls, budget):
        return [cls()]  # the scales tell whether it fits

    def encode(self, items, shared):
        kept = ragged(items, self.dtype)
        return {"values": kept.values, "offsets": kept.offsets}

    def open(self, codes, shared, metric):
        return self.searcher(Ragged(codes["values"], codes["offsets"]), metric)


class MaxSim:
    kernel = "maxsim float32"

    def __init__(self, items, metric):
        self.items, self.metric = Ragged(items.values.astype(np.float32), items.offsets), metric

    def search(self, queries, k):
        return search_exact(ragged(queries, np.float32), self.items, self.metric, k)


@register
@dataclass(frozen=True, slots=True)
class HalfTokens(Stored):
    """Keep every token vector in float16, searched by MaxSim.

    Khattab and Zaharia, "ColBERT", 2020.
    """

    name = "half_tokens"
    dtype = np.float16
    searcher = MaxSim


class Overlap:
    kernel = "overlap"

    def __init__(self, items, metric):
        self.items = [Counter(text.tobytes()) for text in items]

    def search(self, queries, k):
        asked = [Counter(text.tobytes()) for text in queries]
        return top_k(np.array([[float((one & other).total()) for other in self.items] for one in asked], np.float32), k)


@register
@dataclass(frozen=True, slots=True)
class LetterCounts(Stored):
    """Keep text as it is and count the letters that two texts share."""

    name = "letter_counts"
    dtype = np.uint8
    searcher = Overlap


class Inner:
    kernel = "sparse"

    def __init__(self, items, metric):
        self.items = [dict(zip(one["index"].tolist(), one["weight"].tolist(), strict=True)) for one in items]

    def search(self, queries, k):
        scores = np.zeros((len(queries), len(self.items)), np.float32)
        for row, query in enumerate(queries):
            for column, item in enumerate(self.items):
                scores[row, column] = sum(weight * item.get(int(index), 0.0) for index, weight in query.tolist())
        found = top_k(scores, k)
        return Hits(found.ids, found.scores)


@register
@dataclass(frozen=True, slots=True)
class SparsePairs(Stored):
    """Keep sparse vectors as pairs of an index and a weight."""

    name = "sparse_pairs"
    dtype = SPARSE
    searcher = Inner
