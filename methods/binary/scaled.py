"""Codes that decode to a mean plus scaled signs: centring, float16 factors, search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import cast

import numpy as np

from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Hits, Metric, Sample, Searcher, rows_of
from packbench.methods.binary.hamming import unpack_signs
from packbench.methods.binary.linear import mean_of, unit_if
from packbench.methods.scalar.scan import squared_norms
from packbench.topk import TopK

CENTRES = ("zero", "mean")
ROWS = 4096
BLOCK, QUERIES = 1 << 15, 32  # items and queries scored at a time
DECODED_BYTES = 1 << 19  # one decoded block stays in the second-level cache


class ScaledCodec(Codec):
    """Code what is left of a vector about the origin or the mean of the fit sample, and search in that frame.

    Under cosine vectors are brought to length one first, and so is what codes decode to: at one bit per coordinate the
    lengths of what is decoded differ, and dividing by them finds more of the true neighbours.
    """

    __slots__ = ()
    centre: str

    @abstractmethod
    def _learn(self, residuals: Array, sample: Sample) -> Arrays:
        """Learn shared arrays from the centred fit sample (n, d)."""

    @abstractmethod
    def _code(self, residuals: Array, shared: Arrays) -> dict[str, Array]:
        """Code centred vectors (n, d)."""

    @abstractmethod
    def _rows(self, codes: Arrays, shared: Arrays) -> Array:
        """Return the centred approximations (n, d) float32."""

    def _dots(self, codes: Arrays, shared: Arrays, queries: Array) -> Array:
        """Return inner products (q, n) of queries (q, d) with the centred approximations."""
        return np.concatenate([queries @ rows.T for rows in self._decoded(codes, shared)], axis=1)

    def _squares(self, codes: Arrays, shared: Arrays) -> Array:
        """Return squared norms (n,) of the centred approximations."""
        return np.concatenate([squared_norms(rows) for rows in self._decoded(codes, shared)])

    def _decoded(self, codes: Arrays, shared: Arrays) -> Iterator[Array]:
        """Yield the centred approximations of one block of items after the other."""
        n = len(next(iter(codes.values())))
        for part in blocks(n, max(64, DECODED_BYTES // (4 * width_of(shared)))):
            yield self._rows(rows_of(codes, part), shared)

    def _origin_bytes(self, d: int) -> float:
        """Return the shared bytes of mean and flag, or of width and flag."""
        return 4.0 * d + 1 if self.centre == "mean" else 5.0

    def fit(self, sample: Sample) -> Arrays:
        x = as_vectors(sample.items, "fit sample")
        if not len(x):
            raise BadInput(f"{self}: the fit sample is empty, so there is nothing to learn from")
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, x)
        # The width of packed bits cannot be told from their bytes.
        shared: dict[str, Array] = {"unit": flag}
        shared |= {"mean": mean_of(x)} if self.centre == "mean" else {"width": np.array([x.shape[1]], np.uint32)}
        shared.update(self._learn(x - shared["mean"] if self.centre == "mean" else x, sample))
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        x = as_vectors(items)
        parts = [self._code(residuals(x[part], shared), shared) for part in blocks(len(x), ROWS)]
        parts = parts or [self._code(residuals(x, shared), shared)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows = self._rows(codes, shared)
        return rows + shared["mean"] if self.centre == "mean" else rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return ScaledSearcher(self, codes, shared, metric)


class ScaledSearcher:
    """Score blocks of codes as they are; a symmetric search codes the query as well.

    <q, x> and <q, x - mean> differ by the same amount for all items, so that distances ask for centred queries and
    inner products do not. Codes of queries are taken where those of items were, and compared about the centre.
    """

    kernel = "numba sums over signs"

    def __init__(self, codec: ScaledCodec, codes: Arrays, shared: Arrays, metric: Metric, symmetric: bool = False):
        score_of(metric)
        self._codec, self._codes, self._shared = codec, dict(codes), shared
        self._centred, self._symmetric = symmetric or metric == "l2", symmetric
        self._metric = "ip" if symmetric and metric == "cosine" else metric
        # Only a cosine looks at the length about the origin.
        self._mean = shared["mean"] if self._metric == "cosine" and "mean" in shared else None

    def search(self, queries: Items, k: int) -> Hits:
        q = self._queries(as_vectors(queries, "queries"))
        found = [self._search(q[part], k) for part in blocks(len(q), QUERIES)] or [self._search(q, k)]
        return Hits(np.concatenate([hits.ids for hits in found]), np.concatenate([hits.scores for hits in found]))

    def _search(self, q: Array, k: int) -> Hits:
        kept = TopK(len(q), k)
        for part in blocks(len(next(iter(self._codes.values()))), BLOCK):
            kept.add(self._scores(q, rows_of(self._codes, part)), part.start)
        return kept.hits()

    def _queries(self, queries: Array) -> Array:
        if queries.shape[1] != width_of(self._shared):
            raise BadInput(f"queries: {queries.shape[1]} coordinates, the items have {width_of(self._shared)}")
        q = residuals(queries, self._shared) if self._centred else queries
        return self._codec._rows(self._codec._code(q, self._shared), self._shared) if self._symmetric else q

    def _scores(self, queries: Array, codes: Arrays) -> Array:
        """Return scores (q, n), the query's own norm left out, which shifts or scales all of its scores alike."""
        asked = queries if self._mean is None else np.concatenate([queries, self._mean[None]])
        dots = self._codec._dots(codes, self._shared, asked)
        if self._metric == "ip":
            return dots
        squares = self._codec._squares(codes, self._shared)
        if self._metric == "l2":
            return np.asarray(2 * dots - squares)
        if self._mean is not None:
            dots, along = dots[:-1] + (queries @ self._mean)[:, None], dots[-1]
            squares = squares + 2 * along + self._mean @ self._mean
        return np.asarray(dots / np.sqrt(np.where(squares > 0, squares, 1)))


def check_centre(centre: str, allowed: tuple[str, ...] = CENTRES) -> None:
    """Refuse an origin that there is not."""
    if centre not in allowed:
        raise ValueError(f"centre={centre!r}: expected one of {', '.join(allowed)}")


def residuals(vectors: Array, shared: Arrays) -> Array:
    """Return vectors at length one where the flag asks for it, less the mean where there is one."""
    x = unit_if(shared["unit"], vectors)
    if x.shape[1] != width_of(shared):
        raise BadInput(f"vectors of {x.shape[1]} coordinates, where the fit sample had {width_of(shared)}")
    return cast(Array, x - shared["mean"]) if "mean" in shared else x


def width_of(shared: Arrays) -> int:
    """Return the number of coordinates."""
    return len(shared["mean"]) if "mean" in shared else int(shared["width"][0])


def float16(values: Array) -> Array:
    """Round to float16; what is too large takes the largest."""
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16)


def column(values: Array) -> Array:
    """Return stored factors (n,) as a float32 column."""
    return values.astype(np.float32)[:, None]


def mean_magnitude(rows: Array) -> Array:
    """Return the mean of |x| of each row, the factor of least squares for its signs; 0 where there is no column."""
    total = np.abs(rows).sum(axis=1, dtype=np.float64)
    return np.asarray(total / max(rows.shape[1], 1))


def signs_of(packed: Array, d: int) -> Array:
    """Return packed signs as (n, d) float32 of -1 and +1."""
    return unpack_signs(np.ascontiguousarray(packed), d)
