"""Merge blocks of coordinates that are nearly the same, and keep each kind once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from packbench.budget import Budget
from packbench.errors import BudgetTooSmall
from packbench.exact import score_of
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.scalar.levels import RowsSearcher
from packbench.registry import register

BUCKET = 0.09  # width of a hash bucket, in units of a row's length
TABLES = 90


@register
@dataclass(frozen=True, slots=True)
class BlockDedup(Method):
    """Cut vectors into blocks, keep of blocks that agree only the first, and a pointer to it in four bytes.

    Zhang, Zhao, Miao, Shao, Liu, Yang and Cui, "Experimental Analysis of Large-scale Learnable Vector Storage
    Compression", 2023, its Dedup. Blocks have `width` coordinates (0: whole rows). Two agree where at least the share
    `sim` of their coordinates differs by `fp` or less; 90 hash tables of buckets as wide as 0.09 propose which to
    compare, in the order of the items. At the default, equal blocks are merged and nothing is lost. With more, which
    block stands for an item depends on the items before it: all are to be coded at once.

    What is saved is what the items repeat, so no budget below that of the vectors can be promised.
    """

    name: ClassVar[str] = "block_dedup"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = (
        "Zhang, Zhao, Miao, Shao, Liu, Yang, Cui, Experimental Analysis of Large-scale Learnable Vector Storage "
        "Compression, 2023"
    )
    formula: ClassVar[str] = "4 width per kept block, and 4 per block; at most 4 (d + 1) per item at width 0; shared 4"

    width: int = 0
    fp: float = 0.0
    sim: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"width={self.width}: expected coordinates of a block, or 0 for whole rows")
        if self.fp < 0 or not 0 < self.sim <= 1:
            raise ValueError(f"fp={self.fp}, sim={self.sim}: expected at least 0, and a share above 0")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        most = 4.0 * budget.d + 4 + 4 / budget.n
        if not budget.holds(most):
            raise BudgetTooSmall(most)
        return [cls()]

    def fit(self, sample: Sample) -> Arrays:
        return {"d": np.array([as_vectors(sample.items, "fit sample").shape[1]], np.int32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        n, d = vectors.shape
        width = min(self.width or d, d)
        count = -(-d // width)
        blocks = np.zeros((n, count * width), np.float32)
        # Adding zero makes one of the two zeros that floats have.
        blocks[:, :d] = vectors + np.float32(0)
        blocks = blocks.reshape(n * count, width)
        if self.fp > 0 or self.sim < 1:
            owners = self._owners(blocks)
            kept, pointers = np.unique(owners, return_inverse=True)
        else:
            _, first, inverse = np.unique(blocks, axis=0, return_index=True, return_inverse=True)
            # Numbered by first appearance.
            kept, pointers = np.unique(first[inverse.ravel()], return_inverse=True)
        # As plain bytes: a pointer means nothing without the blocks that it was made with.
        return {"blocks": blocks[kept], "pointers": pointers.astype("<u4").view(np.uint8)}

    def _owners(self, blocks: Array) -> Array:
        """Return for each block the first kept one that it agrees with, itself where there is none."""
        rng = np.random.default_rng(self.seed)
        width = blocks.shape[1]
        owners = np.empty(len(blocks), np.int64)
        if not len(blocks):
            return owners
        directions = rng.standard_normal((width, TABLES)).astype(np.float32)
        scale = max(float(np.sqrt(np.mean(np.einsum("ij,ij->i", blocks, blocks)))), 1e-30)
        hashes = np.floor(blocks @ directions / (BUCKET * scale) + rng.random(TABLES)).astype(np.int64)
        buckets = np.stack([np.unique(column, return_inverse=True)[1] for column in hashes.T], axis=1)
        _merge(blocks, buckets, np.float32(self.fp), int(np.ceil(self.sim * width - 1e-9)), owners)
        return owners

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        score_of(metric)
        blocks, d = codes["blocks"], int(shared["d"][0])
        pointers = np.ascontiguousarray(codes["pointers"]).view("<u4").reshape(-1, -(-d // blocks.shape[1]))

        def decode(part: slice) -> Array:
            rows = blocks[pointers[part]]
            return np.ascontiguousarray(rows.reshape(len(rows), -1)[:, :d])

        return RowsSearcher(len(pointers), d, metric, decode)


@njit(cache=True, nogil=True)
def _merge(blocks, buckets, fp, least, owners):  # type: ignore[no-untyped-def]
    n, tables = buckets.shape
    # The last block kept in each bucket of each table.
    kept = np.full((tables, buckets.max() + 1), -1, np.int64)
    for i in range(n):
        owners[i] = i
        before = -1
        for table in range(tables):
            other = kept[table, buckets[i, table]]
            if other < 0 or other == before:
                continue
            before = other
            alike = 0
            for j in range(blocks.shape[1]):
                alike += abs(blocks[i, j] - blocks[other, j]) <= fp
            if alike >= least:
                owners[i] = other
                break
        if owners[i] == i:
            for table in range(tables):
                kept[table, buckets[i, table]] = i
