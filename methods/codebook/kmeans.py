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
MEAN_OF = 4096  # rows at most, spread over all, whose mean stands for that of all
TILE = 256  # centroids among which a nearest one is found at a time
ROWS = 64  # that are cut into blocks at a time
NEAR = 8  # rows, even, whose sums stay in the nearest cache
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
    rows, squares, mean = _blocks(vectors, order, m)
    passes = PASSES * max(1, 4 / dsub)

    def fill(block: int) -> None:
        values = few_values(vectors[:, block * dsub : (block + 1) * dsub], ksub)
        if values is None:
            codebook[block] = _fitted(rows[block], squares[block], passes, ksub)[:, :dsub] + mean[block]
        else:
            codebook[block, : len(values)] = values

    _in_threads(fill, m)
    return codebook


def step(vectors: Array, codebook: Array) -> tuple[Array, Array]:
    """Return the nearest centroids (n, m) of vectors (n, m * dsub) and codebooks moved to the means: a Lloyd round.

    Centroids without vectors stay. Of centroids whose squared distances differ by less than 2^-15 of themselves either
    may be taken.
    """
    m, n = len(codebook), len(vectors)
    indices, moved = np.empty((m, n), np.int32), codebook.copy()
    rows, squares, mean = _blocks(vectors, np.arange(n), m)

    def move(block: int) -> None:
        _stepped(rows[block], squares[block], mean[block], moved[block], indices[block])

    _in_threads(move, m)
    return indices.T, moved


def named(indices: Array, codebook: Array) -> Array:
    """Return (n, m * dsub): the centroids of codebooks (m, 2^bits, dsub) that indices (n, m) name."""
    return np.asarray(codebook[np.arange(len(codebook)), indices].reshape(len(indices), -1))


def _blocks(vectors: Array, order: Array, m: int) -> tuple[Array, Array, Array]:
    """Return blocks (m, n, d), their squared lengths (m, n), and a mean (m, width) that they are less.

    They are the rows of vectors (any, m * width) that order (n) names, an odd width made even by a zero. Less a mean,
    which need not be exact, they lose fewer digits.
    """
    width, some = vectors.shape[1] // m, vectors[:: 1 + len(vectors) // MEAN_OF]
    mean = some.mean(axis=0, dtype=np.float64).astype(np.float32).reshape(m, width)
    rows, squares = np.empty((m, len(order), width + width % 2), np.float32), np.empty((m, len(order)), np.float32)
    _centre(vectors, order, mean, rows, squares)
    return rows, squares, mean


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
def _fitted(rows, squares, passes, ksub):  # type: ignore[no-untyped-def]
    """Return centroids (ksub, d) of rows (n, d) in random order, whose squared lengths are known."""
    n, d = rows.shape
    book = rows[:ksub].copy()
    nearest = np.empty(n, np.int32)
    # Of the rows of each centroid the sum, the sum of squared lengths, and the number.
    sums, totals = np.empty((ksub, d + 2), np.float32), np.zeros((ksub, d + 2), np.float32)
    new, old = sums.reshape(-1), totals.reshape(-1)
    parts = max(1, n // (ROWS_PER_STEP * ksub))
    for number in range(max(LEAST_STEPS, int(passes * parts))):
        part = number % parts
        some = slice(part * n // parts, (part + 1) * n // parts)
        _assign(rows[some], squares[some], book, nearest[some], sums)
        kept = np.float32(1 - 1 / (2 + MEMORY * number))
        for j in range(len(old)):
            old[j] = kept * old[j] + new[j]
        for c in range(ksub):
            if totals[c, d + 1] <= ALONE:
                _split(totals, c)
        _move(book, totals)
    _assign(rows, squares, book, nearest, sums)
    _move(book, sums)
    return book


@njit(cache=True, nogil=True, fastmath=True)
def _move(book, sums):  # type: ignore[no-untyped-def]
    """Move centroids (ksub, d) to the means of their rows, if any, by sums (ksub, d + 2) of rows, squares and ones."""
    ksub, d = book.shape
    for c in range(ksub):
        if sums[c, d + 1] > 0:
            share = np.float32(1) / sums[c, d + 1]
            for j in range(d):
                book[c, j] = share * sums[c, j]


@njit(cache=True, nogil=True, fastmath=True)
def _stepped(rows, squares, mean, centroids, nearest):  # type: ignore[no-untyped-def]
    """Write the nearest of centroids (ksub, width) to rows (n, d) less the mean, and move those to the means."""
    (ksub, width), d = centroids.shape, rows.shape[1]
    book, sums = np.zeros((ksub, d), np.float32), np.empty((ksub, d + 2), np.float32)
    book[:, :width] = centroids - mean
    _assign(rows, squares, book, nearest, sums)
    _move(book, sums)
    for c in range(ksub):
        if sums[c, d + 1] > 0:
            centroids[c] = book[c, :width] + mean


@njit(cache=True, nogil=True, fastmath=True)
def _centre(vectors, order, mean, rows, squares):  # type: ignore[no-untyped-def]
    """Write to rows (m, n, d) the vectors in order less the mean (m, width), and their squared lengths."""
    (m, n, d), width = rows.shape, mean.shape[1]
    for begin in range(0, n, ROWS):
        for block in range(m):
            for i in range(begin, min(begin + ROWS, n)):
                total = np.float32(0)
                for j in range(width):
                    value = vectors[order[i], block * width + j] - mean[block, j]
                    rows[block, i, j] = value
                    total += value * value
                squares[block, i] = total
                if d > width:
                    rows[block, i, width] = 0


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

    Two rows at a time against the last two to eight dimensions, d being even, and before that a few rows against four
    dimensions at a time. The low bits of a distance, which is not negative and so ordered as the integer of its bits,
    make room for the centroid's number: the least such integer names the nearest centroid, without a branch that would
    keep the loop from being vectorised.
    """
    n, d = rows.shape
    ksub = len(book)
    # Squared lengths of centroids, to all rows the same, then for each of a few rows one place to add from, one to.
    tile, sums = np.empty((d, ksub), np.float32), np.empty((1 + 2 * NEAR, ksub), np.float32)
    for j in range(d):
        for c in range(ksub):
            tile[j, c] = np.float32(-2) * book[c, j]
    sums[0] = 0
    for j in range(d):
        for c in range(ksub):
            sums[0, c] += np.float32(0.25) * tile[j, c] * tile[j, c]
    low, last = np.int32(ksub - 1), max(0, d - 5) // 4 * 4
    for begin in range(0, n, NEAR):
        end = min(begin + NEAR, n)
        for j in range(0, last, 4):
            for i in range(begin, end, 2):
                i1, t = min(i + 1, n - 1), 1 + i % NEAR + (j + 4) % 8 // 4 * NEAR
                s = 0 if j == 0 else 1 + i % NEAR + j % 8 // 4 * NEAR
                s1 = s + min(s, 1)
                a0, a1, a2, a3 = rows[i, j], rows[i, j + 1], rows[i, j + 2], rows[i, j + 3]
                b0, b1, b2, b3 = rows[i1, j], rows[i1, j + 1], rows[i1, j + 2], rows[i1, j + 3]
                for c in range(ksub):
                    e0, e1, e2, e3 = tile[j, c], tile[j + 1, c], tile[j + 2, c], tile[j + 3, c]
                    sums[t, c] = sums[s, c] + a0 * e0 + a1 * e1 + a2 * e2 + a3 * e3
                    sums[t + 1, c] = sums[s1, c] + b0 * e0 + b1 * e1 + b2 * e2 + b3 * e3
        for i in range(begin, end, 2):
            i1 = min(i + 1, n - 1)
            s = 0 if last == 0 else 1 + i % NEAR + last % 8 // 4 * NEAR
            s1 = s + min(s, 1)
            if d - last == 2:
                l0, l1 = _least(rows, squares, tile, sums, i, i1, s, s1, last, 2)
            elif d - last == 4:
                l0, l1 = _least(rows, squares, tile, sums, i, i1, s, s1, last, 4)
            elif d - last == 6:
                l0, l1 = _least(rows, squares, tile, sums, i, i1, s, s1, last, 6)
            else:
                l0, l1 = _least(rows, squares, tile, sums, i, i1, s, s1, last, 8)
            # The last row may be looked at twice.
            if l0 < least[i]:
                least[i], nearest[i] = l0, first + (l0 & low)
            if l1 < least[i1]:
                least[i1], nearest[i1] = l1, first + (l1 & low)


@njit(inline="always")
def _least(rows, squares, tile, sums, i, i1, s, s1, first, width):  # type: ignore[no-untyped-def]
    """Return the least integers of rows i and i1 by sums s and s1 and width dimensions more, the first one given.

    Its loop becomes part of the caller's, where the width is a constant: only so is it unrolled.
    """
    ksub = tile.shape[1]
    high, n0, n1 = np.int32(~(ksub - 1)), squares[i], squares[i1]
    l0 = l1 = np.int32(2147483647)
    for c in range(ksub):
        v0, v1 = n0 + sums[s, c], n1 + sums[s1, c]
        for j in range(first, first + width):
            v0 += rows[i, j] * tile[j, c]
            v1 += rows[i1, j] * tile[j, c]
        l0 = min(l0, np.int32(np.int32(np.float32(v0).view(np.int32) & high) | np.int32(c)))
        l1 = min(l1, np.int32(np.int32(np.float32(v1).view(np.int32) & high) | np.int32(c)))
    return l0, l1
