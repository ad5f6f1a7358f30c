"""Learn product codebooks by stepwise k-means: centroids move every few hundred rows, not once a pass."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from numba import njit

from packbench.items import Array

ROWS_PER_CENTROID = 256  # that are looked at; of more rows, a random choice
ROWS_PER_STEP = 2  # and centroid, after which centroids move
PASSES = 2.5  # over the rows in steps, before the last one; more in less than four dimensions
LEAST_STEPS = 12  # where rows are few
MEMORY = 0.1  # share of the rows seen so far that the moving means reach back to
TILE = 256  # centroids among which a nearest one is found at a time
ALONE = np.float32(1)  # row; a centroid that serves no more is put to better use


def train(vectors: Array, m: int, bits: int, seed: int) -> Array:
    """Return codebooks (m, 2^bits, dsub) float32: k-means in each block of vectors (n, m * dsub), which are finite.

    After every 2 · 2^bits rows each centroid moves to the mean of the rows nearest to it, of which older ones fade, the
    slower the more have been seen; after two and a half passes a last one is a round of Lloyd's algorithm. That comes
    to where Lloyd's algorithm is after 25 passes, and the noise of the first steps leads out of poor local minima.
    Sculley, "Web-Scale K-Means Clustering", 2010; Cappé, Moulines, "On-line Expectation-Maximization Algorithm for
    Latent Data Models", 2009.

    A block that takes no more than 2^bits distinct values is coded without error by these values, which k-means from a
    random start need not find. Zeros fill up the codebook: of equal centroids only those tie in any rounding.
    """
    n, ksub, dsub = len(vectors), 1 << bits, vectors.shape[1] // m
    codebook = np.zeros((m, ksub, dsub), np.float32)
    order = np.random.default_rng(seed & 0x7FFFFFFF).permutation(n)[: ROWS_PER_CENTROID * ksub]
    rows = vectors[order]

    def fill(block: int) -> None:
        columns = slice(block * dsub, (block + 1) * dsub)
        values = few_values(vectors[:, columns], ksub)
        if values is None:
            centred, squares, mean = _centred(rows[:, columns])
            codebook[block] = _fitted(centred, squares, mean, ksub)
        else:
            codebook[block, : len(values)] = values

    _in_threads(fill, m)
    return codebook


def step(vectors: Array, codebook: Array) -> tuple[Array, Array]:
    """Return the nearest centroids (n, m) of vectors (n, m * dsub) and codebooks moved to the means: a Lloyd round.

    Centroids without vectors stay. Of centroids whose squared distances differ by less than 2^-15 of themselves either
    may be taken.
    """
    m, _, dsub = codebook.shape
    indices, moved = np.empty((m, len(vectors)), np.int32), codebook.copy()

    def move(block: int) -> None:
        rows, squares, mean = _centred(vectors[:, block * dsub : (block + 1) * dsub])
        _stepped(rows, squares, mean, moved[block], indices[block])

    _in_threads(move, m)
    return indices.T, moved


def named(indices: Array, codebook: Array) -> Array:
    """Return (n, m * dsub): the centroids of codebooks (m, 2^bits, dsub) that indices (n, m) name."""
    return np.asarray(codebook[np.arange(len(codebook)), indices].reshape(len(indices), -1))


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Call work for 0 to count - 1, in as many threads as faiss may use."""
    threads = min(count, faiss.omp_get_max_threads())
    if threads == 1:
        for one in range(count):
            work(one)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))


def few_values(rows: Array, most: int) -> Array | None:
    """Return the distinct ones of rows (n, width), or None where they are more than `most`."""
    some = rows[: 2 * most]
    # einsum adds up every row in the same order: where sums differ, rows do.
    if len(np.unique(np.einsum("ij,j->i", some, np.sqrt(1 + np.arange(some.shape[1], dtype=np.float32))))) > most:
        return None
    values = np.unique(rows, axis=0)
    return values if len(values) <= most else None


@njit(cache=True, nogil=True, fastmath=True)
def _fitted(rows, squares, mean, ksub):  # type: ignore[no-untyped-def]
    """Return centroids (ksub, width) of rows (n, d) in random order, which `_centred` made."""
    n, d = rows.shape
    book = rows[:ksub].copy()
    nearest = np.empty(n, np.int32)
    # Of the rows of each centroid the sum, the sum of squared lengths, and the number.
    sums, totals = np.empty((ksub, d + 2), np.float32), np.zeros((ksub, d + 2), np.float32)
    parts = max(1, n // (ROWS_PER_STEP * ksub))
    passes = PASSES * max(1.0, 4 / len(mean))
    for number in range(max(LEAST_STEPS, int(passes * parts))):
        part = number % parts
        some = slice(part * n // parts, (part + 1) * n // parts)
        _assign(rows[some], squares[some], book, nearest[some], sums)
        kept = np.float32(1 - 1 / (2 + MEMORY * number))
        for c in range(ksub):
            for j in range(d + 2):
                totals[c, j] = kept * totals[c, j] + sums[c, j]
        for c in range(ksub):
            if totals[c, d + 1] <= ALONE:
                _split(totals, c)
        for c in range(ksub):
            if totals[c, d + 1] > 0:
                for j in range(d):
                    book[c, j] = totals[c, j] / totals[c, d + 1]
    _assign(rows, squares, book, nearest, sums)
    for c in range(ksub):
        if sums[c, d + 1] > 0:
            for j in range(d):
                book[c, j] = sums[c, j] / sums[c, d + 1]
    return book[:, : len(mean)] + mean


@njit(cache=True, nogil=True, fastmath=True)
def _stepped(rows, squares, mean, centroids, nearest):  # type: ignore[no-untyped-def]
    """Write the nearest of centroids (ksub, width) to rows that `_centred` made, and move those to the means."""
    ksub, d = len(centroids), rows.shape[1]
    book, sums = np.zeros((ksub, d), np.float32), np.empty((ksub, d + 2), np.float32)
    book[:, : len(mean)] = centroids - mean
    _assign(rows, squares, book, nearest, sums)
    for c in range(ksub):
        if sums[c, d + 1] > 0:
            for j in range(len(mean)):
                centroids[c, j] = sums[c, j] / sums[c, d + 1] + mean[j]


@njit(cache=True, nogil=True, fastmath=True)
def _centred(vectors):  # type: ignore[no-untyped-def]
    """Return vectors (n, width) less their mean, padded by zeros to fours, their squared lengths, and the mean."""
    n, width = vectors.shape
    sums = np.zeros(width)
    for i in range(n):
        for j in range(width):
            sums[j] += vectors[i, j]
    mean = (sums / n).astype(np.float32)
    rows, squares = np.zeros((n, (width + 3) // 4 * 4), np.float32), np.empty(n, np.float32)
    for i in range(n):
        total = np.float32(0)
        for j in range(width):
            value = vectors[i, j] - mean[j]
            rows[i, j] = value
            total += value * value
        squares[i] = total
    return rows, squares, mean


@njit(cache=True, nogil=True, fastmath=True)
def _split(totals, empty):  # type: ignore[no-untyped-def]
    """Give an empty centroid half the rows of the one whose squared errors have the largest sum, if one has several."""
    d = totals.shape[1] - 2
    full, most = empty, np.float32(-1)
    for c in range(len(totals)):
        if totals[c, d + 1] > ALONE:
            error = totals[c, d]
            for j in range(d):
                error -= totals[c, j] * totals[c, j] / totals[c, d + 1]
            if error > most:
                full, most = c, error
    if full == empty:
        return
    for j in range(d + 2):
        totals[full, j] /= 2
        totals[empty, j] = totals[full, j]
    for j in range(d):
        totals[full, j] *= np.float32(1 - 1 / 1024)
        totals[empty, j] *= np.float32(1 + 1 / 1024)


@njit(cache=True, nogil=True, fastmath=True)
def _assign(rows, squares, book, nearest, sums):  # type: ignore[no-untyped-def]
    """Write the nearest of book (ksub, d) to each of rows (n, d), and sums (ksub, d + 2) of rows, squares and ones."""
    least = np.full(len(rows), 2147483647, np.int32)
    for first in range(0, len(book), TILE):
        _compare(rows, squares, book[first : first + TILE], first, least, nearest)
    sums[:] = 0
    d = rows.shape[1]
    for i in range(len(rows)):
        c = nearest[i]
        for j in range(d):
            sums[c, j] += rows[i, j]
        sums[c, d] += squares[i]
        sums[c, d + 1] += 1


@njit(cache=True, nogil=True, fastmath=True)
def _compare(rows, squares, book, first, least, nearest):  # type: ignore[no-untyped-def]
    """Write to nearest which of book (ksub, d), numbered from `first` on, is nearer to each of rows than least.

    Four rows against four dimensions at a time, d being a multiple of four. The low bits of a distance, which is not
    negative and so ordered as the integer of its bits, make room for the centroid's number: the least such integer
    names the nearest centroid, without a branch that would keep the loop from being vectorised.
    """
    n, d = rows.shape
    ksub = len(book)
    # The compiler vectorises only over arrays that it sees to be apart.
    tile, partial = np.empty((d + 1, ksub), np.float32), np.empty((4, ksub), np.float32)
    for c in range(ksub):
        total = np.float32(0)
        for j in range(d):
            tile[j, c] = np.float32(-2) * book[c, j]
            total += book[c, j] * book[c, j]
        tile[d, c] = total
    lengths, s0, s1, s2, s3 = tile[d], partial[0], partial[1], partial[2], partial[3]
    low, high = np.int32(ksub - 1), np.int32(~(ksub - 1))
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        n0, n1, n2, n3 = squares[i], squares[i1], squares[i2], squares[i3]
        for c in range(ksub):
            length = lengths[c]
            s0[c] = n0 + length
            s1[c] = n1 + length
            s2[c] = n2 + length
            s3[c] = n3 + length
        l0 = l1 = l2 = l3 = np.int32(2147483647)
        for j in range(0, d, 4):
            a0, a1, a2, a3 = rows[i, j], rows[i, j + 1], rows[i, j + 2], rows[i, j + 3]
            b0, b1, b2, b3 = rows[i1, j], rows[i1, j + 1], rows[i1, j + 2], rows[i1, j + 3]
            c0, c1, c2, c3 = rows[i2, j], rows[i2, j + 1], rows[i2, j + 2], rows[i2, j + 3]
            d0, d1, d2, d3 = rows[i3, j], rows[i3, j + 1], rows[i3, j + 2], rows[i3, j + 3]
            t0, t1, t2, t3 = tile[j], tile[j + 1], tile[j + 2], tile[j + 3]
            if j < d - 4:
                for c in range(ksub):
                    e0, e1, e2, e3 = t0[c], t1[c], t2[c], t3[c]
                    s0[c] += a0 * e0 + a1 * e1 + a2 * e2 + a3 * e3
                    s1[c] += b0 * e0 + b1 * e1 + b2 * e2 + b3 * e3
                    s2[c] += c0 * e0 + c1 * e1 + c2 * e2 + c3 * e3
                    s3[c] += d0 * e0 + d1 * e1 + d2 * e2 + d3 * e3
            else:
                for c in range(ksub):
                    e0, e1, e2, e3 = t0[c], t1[c], t2[c], t3[c]
                    v0 = np.float32(s0[c] + a0 * e0 + a1 * e1 + a2 * e2 + a3 * e3).view(np.int32)
                    v1 = np.float32(s1[c] + b0 * e0 + b1 * e1 + b2 * e2 + b3 * e3).view(np.int32)
                    v2 = np.float32(s2[c] + c0 * e0 + c1 * e1 + c2 * e2 + c3 * e3).view(np.int32)
                    v3 = np.float32(s3[c] + d0 * e0 + d1 * e1 + d2 * e2 + d3 * e3).view(np.int32)
                    l0 = min(l0, np.int32(np.int32(v0 & high) | np.int32(c)))
                    l1 = min(l1, np.int32(np.int32(v1 & high) | np.int32(c)))
                    l2 = min(l2, np.int32(np.int32(v2 & high) | np.int32(c)))
                    l3 = min(l3, np.int32(np.int32(v3 & high) | np.int32(c)))
        # The last row may be looked at several times.
        if l0 < least[i]:
            least[i], nearest[i] = l0, first + (l0 & low)
        if l1 < least[i1]:
            least[i1], nearest[i1] = l1, first + (l1 & low)
        if l2 < least[i2]:
            least[i2], nearest[i2] = l2, first + (l2 & low)
        if l3 < least[i3]:
            least[i3], nearest[i3] = l3, first + (l3 & low)
