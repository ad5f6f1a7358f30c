"""Choose the words of additive codes by local search, and the codebooks by least squares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numba import njit
from scipy.linalg import cho_factor, cho_solve

from packbench.items import Array, blocks
from packbench.methods.codebook import adc
from packbench.methods.codebook.additive import fill

TOGETHER = 256  # rows coded at a time
BEAM = 4  # residuals kept by the search that local search starts from
SWEEPS = 4  # over all codebooks, after each perturbation
START_ROUNDS = 4  # of k-means for each of the codebooks that are then fitted together
WHOLE = 32767  # what the greatest product of two words is brought to
MOST = float(1 << 28)  # beyond it a cost of a single word would overflow a sum


def refine(vectors: Array, codebook: Array, codes: Array, restarts: int, seed: int) -> tuple[Array, Array]:
    """Return codes (n, m) that code vectors (n, d) no worse than those given, and by how much less squared error each.

    Iterated conditional modes: each word in turn becomes the best one beside the others. Each of `restarts` more
    searches begins from the best codes so far with a few words replaced at random, the same for all rows, and counts
    if it ends lower. A row is coded alike whatever the others are.
    """
    m, ksub, d = codebook.shape
    words = codebook.reshape(m * ksub, d)
    products = 2 * (words @ words.T)
    for book in range(m):
        own = slice(book * ksub, (book + 1) * ksub)
        products[own, own] = 0
    # The search is bound by reading products: in 16 bits they take half the time, and whole numbers add up exactly.
    unit = max(float(np.abs(products).max()) / WHOLE, 1e-30)
    whole = np.rint(products / np.float32(unit)).astype(np.int16)
    lengths = np.einsum("ij,ij->i", words, words)
    rng = np.random.default_rng(seed)
    shape = (restarts, max(1, m // 8))
    books, values = rng.integers(m, size=shape), rng.integers(ksub, size=shape)
    refined, gains = codes.astype(np.int64), np.empty(len(vectors), np.float32)
    # BLAS rounds a product differently with the number of rows: always as many.
    rows = np.zeros((TOGETHER, d), np.float32)
    for part in blocks(len(vectors), TOGETHER):
        count = part.stop - part.start
        rows[:count] = vectors[part]
        costs = np.clip((lengths - 2 * (rows @ words.T)) / np.float32(unit), -MOST, MOST).astype(np.int32)
        _search(costs[:count].reshape(count, m, ksub), whole, books, values, refined[part], gains[part])
    return refined, gains * np.float32(unit)


def beam_search(vectors: Array, codebook: Array, beam: int = BEAM) -> Array:
    """Return the indices (n, m) that a beam search through the codebooks, in their order, ends with."""
    m, ksub, d = codebook.shape
    quantiser: Any = fill(faiss.ResidualQuantizer(d, m, ksub.bit_length() - 1), codebook)
    quantiser.max_beam_size, quantiser.use_beam_LUT = beam, 1
    quantiser.compute_codebook_tables()
    codes = np.empty((len(vectors), quantiser.code_size), np.uint8)
    rows = np.zeros((TOGETHER, d), np.float32)
    for part in blocks(len(vectors), TOGETHER):
        rows[: part.stop - part.start] = vectors[part]
        codes[part] = quantiser.compute_codes(rows)[: part.stop - part.start]
    return adc.unpack(codes, m, ksub.bit_length() - 1)


def residual_codebooks(vectors: Array, m: int, bits: int, seed: int) -> Array:
    """Return the codebooks (m, 2^bits, d) of residual quantisation that local search starts from, trained in short.

    What starts each level in few principal dimensions, as rq does, costs more than all the rest and gains nothing here.
    """
    d = vectors.shape[1]
    # As many rows as words are their own words.
    vectors = np.resize(vectors, (max(len(vectors), 1 << bits), d))
    quantiser: Any = faiss.ResidualQuantizer(d, m, bits)
    quantiser.train_type = quantiser.Train_default | quantiser.Skip_codebook_tables
    # The minimum only silences a warning.
    quantiser.cp.niter, quantiser.cp.seed = START_ROUNDS, seed & 0x7FFFFFFF
    quantiser.cp.min_points_per_centroid, quantiser.max_beam_size = 1, 1
    with adc.blas_distances():
        quantiser.train(vectors)
    return faiss.vector_to_array(quantiser.codebooks).reshape(m, 1 << bits, d).copy()


def least_squares(vectors: Array, codes: Array, m: int, ksub: int, ridge: float) -> Array:
    """Return the codebooks (m, ksub, d) whose sums err least on vectors (n, d), held to zero by `ridge`.

    They minimise the squared error plus `ridge` times their squared length, so that a word weighs as much as that many
    rows would hold it back; words that code nothing are zeros.
    """
    columns = codes + ksub * np.arange(m)
    gram, sums = np.zeros((m * ksub, m * ksub)), np.zeros((m * ksub, vectors.shape[1]))
    _count(columns, vectors, gram, sums)
    gram[np.diag_indices(m * ksub)] += ridge
    factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    solved = cho_solve(factor, sums, overwrite_b=True, check_finite=False)
    return np.asarray(solved.reshape(m, ksub, -1), np.float32)


def summed(codes: Array, codebook: Array) -> Array:
    """Return the sums (n, d) of the words that indices (n, m) name."""
    found = np.zeros((len(codes), codebook.shape[2]), np.float32)
    for words, column in zip(codebook, codes.T, strict=True):
        found += words[column]
    return found


def alternate(
    vectors: Array,
    codebook: Array,
    rounds: int,
    restarts: int,
    ridge: float,
    seed: int,
    *,
    cap: float = 1.0,
    watch: Callable[[float], None] | None = None,
) -> Array:
    """Return codebooks after `rounds` of least squares and local search in turn, from those given.

    In each round only the share `cap` of rows that gain most takes its new codes. Neither step can raise the
    squared error plus ridge times the squared length of the words, which `watch` is told after each.
    """
    m, ksub, _ = codebook.shape
    codes = beam_search(vectors, codebook, beam=1)
    for round_ in range(rounds):
        codebook = least_squares(vectors, codes, m, ksub, ridge)
        if watch:
            watch(_objective(vectors, codebook, codes, ridge))
        found, gains = refine(vectors, codebook, codes, restarts, seed + round_)
        moved = np.argsort(-gains, kind="stable")[: int(np.ceil(cap * len(gains)))]
        codes[moved] = found[moved]
        if watch:
            watch(_objective(vectors, codebook, codes, ridge))
    return least_squares(vectors, codes, m, ksub, ridge)


def _objective(vectors: Array, codebook: Array, codes: Array, ridge: float) -> float:
    errors = (vectors - summed(codes, codebook)).astype(np.float64)
    return float((errors**2).sum() + ridge * (codebook.astype(np.float64) ** 2).sum())


@njit(cache=True, nogil=True)
def _count(columns, vectors, gram, sums):  # type: ignore[no-untyped-def]
    """Add to gram (words, words), below its diagonal, in how many rows two words meet; to sums the vectors of each."""
    for book in range(columns.shape[1]):
        # Book by book, so that what is added to stays in cache.
        for row in range(len(columns)):
            column = columns[row, book]
            for other in range(book + 1):
                gram[column, columns[row, other]] += 1
            for j in range(vectors.shape[1]):
                sums[column, j] += vectors[row, j]


@njit(cache=True, nogil=True)
def _search(costs, products, books, values, codes, gains):  # type: ignore[no-untyped-def]
    """Lower each row's cost: costs (n, m, ksub) of single words, plus products of its words (m ksub, m ksub)."""
    n, m, ksub = costs.shape
    table = np.empty(m * ksub, np.int32)
    best_table = np.empty(m * ksub, np.int32)
    trial = np.empty(m, np.int64)
    for row in range(n):
        single = costs[row].ravel()
        # What each word would cost beside the present words of all other books.
        best_table[:] = single
        for book in range(m):
            _add(best_table, products[book * ksub + codes[row, book]])
        first = _cost(single, best_table, codes[row], ksub)
        _descend(best_table, products, codes[row], ksub)
        best = _cost(single, best_table, codes[row], ksub)
        for restart in range(len(books)):
            trial[:] = codes[row]
            table[:] = best_table
            for place in range(books.shape[1]):
                _replace(table, products, trial, books[restart, place], values[restart, place], ksub)
            _descend(table, products, trial, ksub)
            cost = _cost(single, table, trial, ksub)
            if cost < best:
                best = cost
                codes[row] = trial
                best_table[:] = table
        gains[row] = first - best


@njit(cache=True, nogil=True)
def _descend(table, products, codes, ksub):  # type: ignore[no-untyped-def]
    for _ in range(SWEEPS):
        changed = False
        for book in range(len(codes)):
            part = table[book * ksub : (book + 1) * ksub]
            least = part[0]
            for other in range(1, ksub):
                least = min(least, part[other])
            if least < part[codes[book]]:
                word = 0
                while part[word] != least:
                    word += 1
                _replace(table, products, codes, book, word, ksub)
                changed = True
        if not changed:
            break


@njit(cache=True, nogil=True)
def _replace(table, products, codes, book, word, ksub):  # type: ignore[no-untyped-def]
    gone, come = products[book * ksub + codes[book]], products[book * ksub + word]
    for at in range(len(table)):
        table[at] += np.int32(come[at]) - np.int32(gone[at])
    codes[book] = word


@njit(cache=True, nogil=True)
def _add(table, row):  # type: ignore[no-untyped-def]
    for at in range(len(table)):
        table[at] += np.int32(row[at])


@njit(cache=True, nogil=True)
def _cost(single, table, codes, ksub):  # type: ignore[no-untyped-def]
    """Return the squared error less the squared length of the row: pairs are in the table twice."""
    total = np.int64(0)
    for book in range(len(codes)):
        at = book * ksub + codes[book]
        total += single[at] + table[at]
    return total / 2
