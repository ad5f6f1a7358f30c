"""Code coordinates one after the other so that each value is looked up by the last eight bits of the code so far.

A coordinate adds b bits of its own and shares the other 8 - b of its window with those before it: of the 256 values of
its table, what the others chose leaves it 2^b, but which ones varies, and the best path through them is found by
dynamic programming. That packs space nearly as well as long codewords do, while decoding stays one look-up.

Marcellin, Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov Sources", 1990; values by windows of
the code: Mao, Gray, "Stationary and Trellis Encoding for Iid Sources and Simulation", 2010.

The compiled loops live in this one file because numba's cache on disk does not notice that a function called from
another file has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit
from scipy.special import ndtr

from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Hits, Metric
from packbench.methods.codebook.scan import TableSearcher, places_of
from packbench.methods.codebook.waterfilling import allocate
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.topk import TopK

WINDOW = 8
VALUES = 1 << WINDOW
PAIRED = (1, 3)  # bits that two coordinates share, for rates of a half and one and a half
# Ungerboeck's codes in one dimension: parities of the coded bits, newest lowest, that tell which of four interleaved
# sets of levels is next, by how many coded bits a window sees.
PARITIES = {1: (0, 1), 2: (2, 1), 3: (2, 5), 4: (0o4, 0o13), 8: (0o126, 0o235)}
DRAWS, TRAINING = (48, 256), 12
FEW = 16  # queries for which a table each beats decoding a block for all
DECODED = 1024  # rows at a time


@cache
def design(axes: int, bits: int, memory: bool = True) -> tuple[Array, float]:
    """Return the values (axes, 256) of N(0, 1) coordinates that share `bits`, and the mean squared error of each.

    Without memory, the values are the Lloyd-Max levels that the newest bits name. With memory, they begin with
    Ungerboeck's sets (or, for two coordinates, at random) and become the means of what is coded as them.
    """
    windows = np.arange(VALUES)
    if not memory or bits == WINDOW:
        if not bits:
            return np.zeros((axes, VALUES)), 1.0
        borders = ndtr(_halfway(levels := gaussian_levels(bits)))
        # At Lloyd and Max's fixed point the error is 1 - E[level²].
        return levels[windows % 2**bits][None], float(1 - np.diff(borders) @ levels**2)
    if not bits:
        return np.zeros((axes, VALUES)), 1.0
    rng = np.random.default_rng([axes, bits])
    if axes == 1:
        seen = np.arange(0, WINDOW, bits)  # places of the coded bits, the lowest of each coordinate's
        coded = ((windows[:, None] >> seen) & 1) @ (1 << np.arange(len(seen)))
        even, odd = (_parity(coded & mask) for mask in PARITIES[len(seen)])
        values = gaussian_levels(bits + 1)[4 * ((windows >> 1) % 2 ** (bits - 1)) + 2 * odd + even][None]
    else:
        values = rng.standard_normal((axes, VALUES)) * np.sqrt(1 - 4 ** (-bits / axes))
    count, steps = DRAWS
    plan = np.tile([bits] + [0] * (axes - 1), steps).astype(np.uint8)
    for remaining in range(TRAINING, -1, -1):
        rows = rng.standard_normal((count, steps * axes)).astype(np.float32)
        found = windows_of(encode(rows, np.tile(values, (steps, 1)), plan), plan)
        drawn, found = rows.reshape(-1, axes), found[:, ::axes].ravel()
        if remaining:
            sums = np.stack([np.bincount(found, column, minlength=VALUES) for column in drawn.T])
            values = (sums + values) / (np.bincount(found, minlength=VALUES) + 1)
    return values, float(((drawn - values[:, found].T) ** 2).mean())


def _halfway(levels: Array) -> Array:
    return np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])


def _parity(words: Array) -> Array:
    return np.bitwise_count(words).astype(np.int64) & 1


def plan(variances: Array, total: int, memory: bool = True) -> tuple[Array, Array]:
    """Return the bits (dim,) uint8 that axes add to the code, `total` in all, and their values (dim, 256).

    Variances fall. Two neighbours get bits each, or share 1 or 3; of those that share, the second adds none and sees
    the window of the first. Values are in units of the standard deviation.
    """
    dim = len(variances)
    split = [(a, b, False) for a in range(WINDOW + 1) for b in range(WINDOW + 1)]
    options = split + ([(shared, 0, True) for shared in PAIRED] if memory else [])
    first = np.array([design(2, a)[1] if shared else design(1, a, memory)[1] for a, _, shared in options])
    second = np.array([design(2, a)[1] if shared else design(1, b, memory)[1] for a, b, shared in options])
    pairs = np.append(variances, np.zeros(dim % 2)).reshape(-1, 2)
    errors = pairs @ np.stack([first, second])
    if dim % 2:
        errors[-1, [b > 0 or shared for _, b, shared in options]] = np.inf
    chosen = allocate(errors, np.array([a + b for a, b, _ in options]), total)
    bits, values = np.zeros(2 * len(pairs), np.uint8), np.zeros((2 * len(pairs), VALUES))
    for pair, option in enumerate(chosen):
        a, b, shared = options[option]
        both = slice(2 * pair, 2 * pair + 2)
        bits[both] = a, b
        values[both] = design(2, a)[0] if shared else [design(1, a, memory)[0][0], design(1, b, memory)[0][0]]
    return bits[:dim], values[:dim]


def encode(rows: Array, codebook: Array, bits: Array) -> Array:
    """Return the codes (n, bytes) uint8 of rows (n, dim) float32 that err least under codebook (dim, 256)."""
    codes = np.zeros((len(rows), -(-int(bits.sum()) // 8)), np.uint8)
    first, width = _steps(bits)
    _search_paths(
        np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(codebook, np.float32), first, width, codes
    )
    return codes


def windows_of(codes: Array, bits: Array) -> Array:
    """Return what each axis sees of the codes, (n, dim) uint8."""
    found = np.empty((len(codes), len(bits)), np.uint8)
    _read(np.ascontiguousarray(codes), *_places(bits), found)
    return found


def look_up(codes: Array, codebook: Array, bits: Array) -> Array:
    """Return the coded rows (n, dim) float32."""
    rows = np.empty((len(codes), len(bits)), np.float32)
    for part in blocks(len(codes), DECODED):
        rows[part] = codebook[np.arange(len(bits)), windows_of(codes[part], bits)]
    return rows


def _steps(bits: Array) -> tuple[Array, Array]:
    """Return at which axis each new window begins to be seen, with the end of the axes, and the bits it adds."""
    first = np.union1d([0], np.flatnonzero(bits))
    return np.append(first, len(bits)), bits[first].astype(np.int64)


def _places(bits: Array) -> tuple[Array, Array]:
    """Return for each axis the byte in which its window ends, and by how far the two bytes are to be shifted."""
    last = np.maximum(np.cumsum(bits, dtype=np.int64) - 1, 0)
    return last // 8, 7 - last % 8


class TrellisSearcher(TableSearcher):
    """Search codes (n, bytes) by inner products, or negated squared distances, in the frame of the coded rows.

    Queries are mapped into that frame, (n_queries, dim).
    """

    kernel = "numba look-up, bounds in bytes; blas float32 for batches"

    def __init__(
        self, codes: Array, codebook: Array, bits: Array, metric: Metric, map_queries: Callable[[Array], Array]
    ) -> None:
        self._map, self._l2 = map_queries, metric == "l2"
        self._first, _ = _steps(bits)
        # Read from the other end, a window's newest bit is its lowest, as in a table of indices.
        end = np.maximum(np.cumsum(bits, dtype=np.int64), 1)
        self._starts = 8 * codes.shape[1] - end
        known = (1 << np.minimum(end, WINDOW)) - 1
        self._codebook = np.take_along_axis(codebook, np.arange(VALUES) & known[:, None], axis=1)
        super().__init__(codes[:, ::-1], self._starts[self._first[:-1]], self._products)

    def _products(self, queries: Array) -> Array:
        tables = np.empty((len(queries), len(self._first) - 1, VALUES), np.float32)
        _fill_tables(queries, self._codebook, self._first, self._l2, tables)
        return tables

    def search(self, queries: Items, k: int) -> Hits:
        q = np.ascontiguousarray(self._map(as_vectors(queries, "queries")), np.float32)
        if len(q) <= FEW:
            return super().search(q, k)
        kept = TopK(len(q), k)
        places, shifts = places_of(self._starts, self._tiles.shape[1])
        lanes = self._tiles.shape[2]
        for part in blocks(len(self._tiles), DECODED // lanes):
            tiles = self._tiles[part]
            rows = np.empty((len(self._codebook), lanes * len(tiles)), np.float32)
            _decode(tiles, places, shifts, self._codebook, rows)
            scores = q @ rows
            if self._l2:
                scores -= np.einsum("ij,ij->j", rows, rows) / 2
            first = lanes * part.start
            kept.add(scores[:, : self._n - first], first)
        return kept.hits()


@njit(cache=True, nogil=True)
def _search_paths(rows, codebook, first, width, codes):  # type: ignore[no-untyped-def]
    """Write the path of least squared error of each row; every path begins after a window of zeros."""
    steps = len(width)
    cost, best = np.empty(256, np.float32), np.empty(256, np.float32)
    back = np.empty((steps, 256), np.uint8)
    for i in range(len(rows)):
        cost[:] = np.inf
        cost[0] = 0
        for s in range(steps):
            b = width[s]
            kept = 256 >> b
            # A window ends in the bits that the next one keeps, whatever the b bits were that the next one loses.
            # Slices have no negative indices and selections no branches: the compiler vectorises these loops.
            last = back[s]
            for r in range(kept):
                best[r] = cost[r]
                last[r] = 0
            for lost in range(1, 1 << b):
                others = cost[lost * kept : (lost + 1) * kept]
                for r in range(kept):
                    better = others[r] < best[r]
                    best[r] = others[r] if better else best[r]
                    last[r] = np.uint8(lost) if better else last[r]
            for r in range(kept):
                cost[r << b : (r + 1) << b] = best[r]
            for axis in range(first[s], first[s + 1]):
                x, values = rows[i, axis], codebook[axis]
                for w in range(256):
                    error = x - values[w]
                    cost[w] += error * error
        window, end = np.argmin(cost), 0
        for s in range(steps):
            end += width[s]
        for s in range(steps - 1, -1, -1):
            b = width[s]
            for place in range(b):
                at = end - 1 - place
                codes[i, at >> 3] |= ((window >> place) & 1) << (7 - (at & 7))
            end -= b
            window = (window >> b) + back[s, window >> b] * (256 >> b)


@njit(cache=True, nogil=True)
def _read(codes, byte, shift, found):  # type: ignore[no-untyped-def]
    for i in range(len(codes)):
        for axis in range(len(byte)):
            at = byte[axis]
            before = np.uint32(codes[i, at - 1]) << np.uint32(8) if at else np.uint32(0)
            found[i, axis] = np.uint8((before | np.uint32(codes[i, at])) >> np.uint32(shift[axis]))


@njit(cache=True, nogil=True)
def _fill_tables(queries, codebook, first, l2, tables):  # type: ignore[no-untyped-def]
    for row in range(len(queries)):
        for s in range(len(first) - 1):
            table = tables[row, s]
            table[:] = 0
            for axis in range(first[s], first[s + 1]):
                q = queries[row, axis]
                # Half the squared distance, less what is the same for all items.
                half = np.float32(0.5) if l2 else np.float32(0)
                for w in range(256):
                    value = codebook[axis, w]
                    table[w] += q * value - half * value * value


@njit(cache=True, nogil=True)
def _decode(tiles, places, shifts, codebook, rows):  # type: ignore[no-untyped-def]
    """Write rows (dim, rows of the tiles): the value of each axis under its window."""
    lanes = tiles.shape[2]
    for axis in range(len(codebook)):
        values, shift = codebook[axis], np.uint32(shifts[axis])
        for tile in range(len(tiles)):
            low, high = tiles[tile, places[0, axis]], tiles[tile, places[1, axis]]
            line = rows[axis, tile * lanes : (tile + 1) * lanes]
            for lane in range(lanes):
                pair = np.uint32(low[lane]) | np.uint32(high[lane]) << np.uint32(8)
                # Unsigned, for a signed index would be asked whether it is negative.
                line[lane] = values[(pair >> shift) & np.uint32(255)]
