"""Product-residual quantisation: cut vectors into blocks and sum several centroids inside each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import (
    IndexSearcher,
    check_metric,
    fit_vectors,
    gathered,
    item_vectors,
    product_tables,
    spread,
)
from packbench.methods.codebook.additive import fill, principal_width, thinned, without_repeats
from packbench.methods.codebook.kmeans import named, step, train
from packbench.methods.codebook.pq import check_sizes
from packbench.methods.codebook.scan import TableSearcher, packed_starts, packed_tables
from packbench.methods.projection.pca import PCA
from packbench.methods.projection.random_rotation import RandomRotation
from packbench.registry import register

ROWS_PER_CENTROID = 64  # of the fit sample; a larger one is thinned, for time
TOGETHER = 256  # rows coded at a time


@register
@dataclass(frozen=True, slots=True)
class PRQ(Codec):
    """Cut vectors into blocks and code each by residual quantisation: the sum of m centroids, each one of 2^bits.

    One block is residual quantisation, one level product quantisation. Codebooks are `blocks` times smaller than
    those of residual quantisation at the same code length, and each level remembers less of the fit sample. Where the
    blocks do not divide d, they are as equal as can be and padded with zeros. Encoding keeps `beam` residuals of each
    block. An inner product is a sum of look-ups; under l2, codes are decoded. Under cosine, unit vectors are coded.

    Chen, Guan, Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization", 2010, in the blocks of
    Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", 2011; Douze et al., "The Faiss Library",
    2024, has both as ProductResidualQuantizer.
    """

    name: ClassVar[str] = "prq"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Douze et al., The Faiss Library, 2024"
    formula: ClassVar[str] = "ceil(blocks m bits / 8) per item; shared 4 · 2^bits m blocks ceil(d/blocks) + 5"

    blocks: int
    m: int = 2
    bits: int = 8
    beam: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.m, self.bits)
        if self.blocks < 1 or self.beam < 1:
            raise ValueError(f"blocks={self.blocks}, beam={self.beam}: expected at least 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return budget.fitting(dict.fromkeys(_candidates(budget)))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item = -(-self.blocks * self.m * self.bits // 8)
        return float(item), 4.0 * 2**self.bits * self.m * self.blocks * -(-d // self.blocks) + 5, 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        d = vectors.shape[1]
        if self.blocks > d:
            raise BadInput(f"{self}: vectors of {d} coordinates make at most {d} blocks; choose blocks up to that")
        vectors = thinned(vectors, ROWS_PER_CENTROID << self.bits, self.seed)
        # As many rows as centroids are their own centroids.
        vectors = np.resize(vectors, (max(len(vectors), 1 << self.bits), d))
        residuals = spread(vectors, self.blocks)
        levels = []
        for level in range(self.m):
            levels.append(train(residuals, self.blocks, self.bits, self.seed + level))
            residuals = residuals - named(step(residuals, levels[-1])[0], levels[-1])
        codebook = np.stack(levels, axis=1).reshape(self.blocks * self.m, 1 << self.bits, -1)
        return {"codebook": without_repeats(codebook), "d": np.array([d], np.int32), "unit": is_unit}

    def nests_by(self) -> str:
        return "m"

    def cut(self, shared: Arrays) -> Arrays:
        books = shared["codebook"]
        levels = books.reshape(self.blocks, -1, *books.shape[1:])[:, : self.m]
        return {**shared, "codebook": levels.reshape(self.blocks * self.m, *books.shape[1:])}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        d = int(shared["d"][0])
        vectors = item_vectors(items, d, shared["unit"])
        quantiser = self._filled(self._made(d), shared)
        for part in _parts(quantiser):
            # Tables of products between centroids make the beam search several times faster.
            part.max_beam_size, part.use_beam_LUT = self.beam, 1
            part.compute_codebook_tables()
        codes = np.empty((len(vectors), quantiser.code_size), np.uint8)
        # BLAS rounds a product differently with the number of rows; among as many rows always, a code does not depend
        # on its batch.
        rows = np.zeros((TOGETHER, quantiser.d), np.float32)
        for some in blocks(len(vectors), TOGETHER):
            rows[: some.stop - some.start] = spread(vectors[some], self.blocks)
            codes[some] = quantiser.compute_codes(rows)[: some.stop - some.start]
        return {"codes": codes}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        rows, d = codes["codes"], int(shared["d"][0])
        if not len(rows):
            return np.zeros((0, d), np.float32)
        padded = self._filled(self._made(d), shared).decode(np.ascontiguousarray(rows))
        return gathered(padded, self.blocks, d)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        if metric == "l2":
            return Codec.open(self, codes, shared, metric)
        if self.bits <= 8:
            return TableSearcher(
                codes["codes"], packed_starts(self.blocks * self.m, self.bits),
                lambda queries: packed_tables(self._tables(queries, shared["codebook"]), self.bits),
            )  # fmt: skip
        make: Any = faiss.IndexProductResidualQuantizer
        width = self.blocks * shared["codebook"].shape[2]
        index = make(
            width, self.blocks, self.m, self.bits, faiss.METRIC_INNER_PRODUCT, faiss.AdditiveQuantizer.ST_LUT_nonorm
        )
        self._filled(index.prq, shared)
        index.is_trained = True
        if len(codes["codes"]):
            index.add_sa_codes(np.ascontiguousarray(codes["codes"]))
        table_bytes = 4 * self.blocks * self.m << self.bits
        return IndexSearcher(index, "faiss PRQ look-up", lambda queries: spread(queries, self.blocks), table_bytes)

    def _tables(self, queries: Array, codebook: Array) -> Array:
        """Return the products (n_queries, blocks * m, 2^bits) of queries with the words of all blocks."""
        books, ksub, dsub = codebook.shape
        words = codebook.reshape(self.blocks, self.m * ksub, dsub)
        return product_tables(spread(queries, self.blocks), words, "ip").reshape(len(queries), books, ksub)

    def _made(self, d: int) -> Any:
        width = self.blocks * -(-d // self.blocks)
        return faiss.ProductResidualQuantizer(width, self.blocks, self.m, self.bits)

    def _filled(self, quantiser: Any, shared: Arrays) -> Any:
        """Give a faiss.ProductResidualQuantizer what was learnt."""
        for part, books in zip(_parts(quantiser), np.split(shared["codebook"], self.blocks), strict=True):
            fill(part, books)
        return fill(quantiser, shared["codebook"])


def _parts(quantiser: Any) -> Iterator[Any]:
    """Yield the residual quantisers of the blocks."""
    library: Any = faiss
    return (library.downcast_Quantizer(quantiser.subquantizer(block)) for block in range(quantiser.nsplits))


def _candidates(budget: Budget) -> Iterator[Method]:
    """Yield two levels in the most blocks that fit, also on turned principal axes, then four levels.

    Blocks share the bits evenly, which a random rotation of the principal axes makes fair.
    """
    width = principal_width(budget)
    for front, m in ((PCA(width) | RandomRotation(), 2), (None, 2), (None, 4)):
        if front is not None and width == budget.d:
            continue
        counts = range(width if front else budget.d, 0, -1)
        sizes: Iterator[Method] = (front | PRQ(count, m) if front else PRQ(count, m) for count in counts)
        yield next((one for one in sizes if budget.holds(*one.planned_bytes(budget.d))), PRQ(1, 1, 4))
