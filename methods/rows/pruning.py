"""Drop items before a code sees them: what the methods of this folder share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import BUILD, Arrays, Hits, Method, Metric, Sample, Searcher, nest, unnest
from packbench.methods.codebook.adc import blas_distances
from packbench.methods.codebook.opq import OPQ

ROWS = 65536
WORD = 64  # bits of a word of the bitmap
BITMAP = 1 / 8  # bytes per item
SLACK = 0.05  # a budget is planned for this much more than `keep`, which new items meet only about
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # SplitMix64
FORMULA = "share kept (about keep) of the code's bytes per item, + 1/8; shared as the code"


class Pruner(Method):
    """Score every item by itself, keep those that reach a threshold, and code and search those alone.

    The threshold is the quantile of the fit sample's scores at which `keep` of it stays, so that the share kept of
    other items is only about `keep`, and no formula is exact. The best item is kept where none reaches the threshold:
    an index is never empty. Which items are kept is a bitmap on the ledger; what scores them serves encode alone. The
    code is fitted on the whole sample.

    A subclass is a dataclass with fields `code` and `keep`.
    """

    __slots__ = ()
    code: Method
    keep: float

    @abstractmethod
    def learn(self, vectors: Array, sample: Sample) -> tuple[Arrays, Array]:
        """Return what `scores` needs, and the scores (n,) of the fit sample's vectors (n, d) as if they were new."""

    @abstractmethod
    def scores(self, vectors: Array, learned: Arrays) -> Array:
        """Return the score (n,) of each vector, which must not depend on the others; the least are dropped."""

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no threshold to learn")
        learned, scores = self.learn(vectors, sample)
        least = np.quantile(scores, 1 - self.keep, method="higher") if self.keep < 1 else -np.inf
        rule = {BUILD + name: array for name, array in learned.items()} | {BUILD + "threshold": np.array([least])}
        return nest("rule", rule) | nest(self._part(), self.code.fit(sample))

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        rule = {name.removeprefix(BUILD): array for name, array in unnest("rule", shared).items()}
        scores = self.scores(vectors, rule)
        kept = scores >= rule["threshold"][0]
        if len(kept) and not kept.any():
            kept[np.argmax(scores)] = True
        codes = self.code.encode(vectors[kept], unnest(self._part(), shared))
        return {"kept": bitmap(kept)} | nest(self._part(), codes)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        inner = self.code.open(unnest(self._part(), codes), unnest(self._part(), shared), metric)
        return _PrunedSearcher(inner, codes["kept"])

    def _part(self) -> str:
        return f"0.{self.code.name}"


class _PrunedSearcher:
    """Search the kept items and name them as they were numbered before; -1 pads where fewer than k were kept."""

    def __init__(self, inner: Searcher, kept: Array) -> None:
        self.kernel = getattr(inner, "kernel", "unstated")
        self._inner, self._kept = inner, kept

    def cold_bytes_per_query(self, k: int) -> int:
        """Return the bytes that the inner search reads from disk."""
        of_inner = getattr(self._inner, "cold_bytes_per_query", None)
        return int(of_inner(k)) if of_inner else 0

    def search(self, queries: Items, k: int) -> Hits:
        found = self._inner.search(queries, k)
        return Hits(selected(self._kept, found.ids), found.scores)


def check_keep(keep: float) -> None:
    """Refuse a share that keeps nothing or more than there is."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep:g}: expected a share above 0 and up to 1")


def bitmap(flags: Array) -> Array:
    """Pack flags (n,) into words of 64 bits, the lowest bit first."""
    packed = np.packbits(flags, bitorder="little")
    return np.pad(packed, (0, -len(packed) % 8)).view("<u8")


def selected(words: Array, ranks: Array) -> Array:
    """Return the places of the set bits of given ranks, counted from 0; -1 stays -1.

    Counting the bits anew costs far less than a scan of the codes, and a table of places would be four bytes per item.
    """
    counts = np.bitwise_count(words)
    ends = np.cumsum(counts, dtype=np.int64)
    places = np.full(ranks.shape, -1, np.int64)
    asked = ranks[ranks >= 0]
    word = np.searchsorted(ends, asked, side="right")
    within = asked - (ends[word] - counts[word])
    bits = np.unpackbits(words[word].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    places[ranks >= 0] = WORD * word + np.argmax(np.cumsum(bits, axis=1) > within[:, None], axis=1)
    return places


def uniform_hash(vectors: Array, seed: int) -> Array:
    """Return a number in [0, 1) for each vector (n, d) that depends on its bits and the seed alone.

    A multilinear hash modulo 2^64, mixed so that vectors that are alike get unlike numbers.
    """
    factors = np.random.default_rng([seed, 0x726F7773]).integers(0, 2**64, vectors.shape[1], dtype=np.uint64) | 1
    found = np.empty(len(vectors))
    for part in blocks(len(vectors), ROWS):
        words = (vectors[part] + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
        mixed = np.einsum("ij,j->i", words, factors, dtype=np.uint64, casting="safe")
        for shift, factor in MIX:
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        found[part] = (mixed >> np.uint64(32)) / 2.0**32
    return found


def nearest(vectors: Array, known: Array) -> Array:
    """Return for each vector (n, d) the row of the nearest known one (m, d)."""
    with blas_distances():
        return np.asarray(faiss.knn(vectors, known, 1)[1][:, 0]) if len(vectors) else np.zeros(0, np.int64)


def pruned(budget: Budget, candidates: Iterable[tuple[float, Callable[[Method, float], Method]]]) -> Iterator[Method]:
    """Yield for shares to keep and what makes a pruner of a code and a share: the larger the code the fewer are kept.

    Raises:
        BudgetTooSmall: not even the smallest code of the fewest items fits.
    """
    least, found = np.inf, False
    for keep, make in candidates:
        share = min(keep + SLACK, 1.0)
        # To the code it is a smaller collection: its shared bytes are spread over fewer items.
        room = Budget(max(budget.bytes_per_item - BITMAP, 1e-9) / share, max(int(budget.n * share), 1), budget.d)
        try:
            code = next(iter(OPQ.for_budget(room)))
        except BudgetTooSmall as error:
            least = min(least, error.least * share + BITMAP)
            continue
        found = True
        yield make(code, keep)
    if not found:
        raise BudgetTooSmall(float(least))
