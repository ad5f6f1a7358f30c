"""Keep the cell of a vector and its coordinates in the subspace of that cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import leading, moment
from packbench.items import Array, Items
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher, rows_of
from packbench.methods.projection.linear import map_rows, rule_of
from packbench.methods.projection.moments import directed, learnable
from packbench.methods.scalar.packing import pack, packed_bytes, unpack
from packbench.methods.scalar.scan import ScanSearcher, squared_norms
from packbench.methods.scalar.turboquant_mse import gaussian_levels
from packbench.registry import register

ROUNDS = 25
MAX_ROWS = 50_000  # of the fit sample, from which cells are learned


@register
@dataclass(frozen=True, slots=True)
class LocalPCA(Codec):
    """Give each of some cells principal components of its own, and code a vector as its cell and coordinates there.

    Cells are k-means' over the fit sample, a cell's subspace is spanned by its `dim` directions of greatest variance,
    and a vector goes to the cell that reproduces it best. Coordinates take the Lloyd-Max levels of a Gaussian of their
    deviation in the cell; 16 bits are float16. For cosine, vectors are coded at unit length. A union of subspaces as
    in Ding, Tong, Chan, Dai, Ma and Haeffele, "Unsupervised Manifold Linearizing and Clustering", 2023, without the
    network that learns to flatten them.
    """

    name: ClassVar[str] = "local_pca"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Ding, Tong, Chan, Dai, Ma, Haeffele, Unsupervised Manifold Linearizing and Clustering, 2023"
    formula: ClassVar[str] = "1 + ceil(bits dim/8) per item; shared 4 cells (d (dim + 1) + dim) + 1"
    cells: int
    dim: int
    bits: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.cells <= 256:
            raise ValueError(f"cells is 1 to 256, which one byte numbers, got {self.cells}")
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")
        if self.bits not in (*range(1, 9), 16):
            raise ValueError(f"bits is 1 to 8 or 16, got {self.bits}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def largest(cells: int, bits: int) -> Iterable[Method]:
            most = min(budget.d, int(8 * budget.bytes_per_item / bits) or 1)
            codes = (cls(cells, dim, bits) for dim in range(most, 0, -1))
            return islice((code for code in codes if budget.holds(*code.planned_bytes(budget.d))), 1)

        found = [code for cells, bits in ((2, 3), (2, 4), (4, 2)) for code in largest(cells, bits)]
        return budget.fitting(found or [cls(2, 1, 3)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        item = 2.0 * self.dim if self.bits == 16 else float(packed_bytes(self.bits, self.dim))
        return 1.0 + item, 4.0 * self.cells * (d * (self.dim + 1) + self.dim) + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        rule, vectors = rule_of(sample.metric), learnable(self, sample, self.dim)
        vectors = vectors[:: -(-len(vectors) // MAX_ROWS)]
        cell, d = _cells(vectors, self.cells, np.random.default_rng(self.seed)), vectors.shape[1]
        shared = {
            "rule": rule,
            "centres": np.zeros((self.cells, d), np.float32),
            "directions": np.zeros((self.cells, self.dim, d), np.float32),
            "deviations": np.zeros((self.cells, self.dim), np.float32),
        }
        for of in range(self.cells):
            # A cell that is left without vectors serves all of them.
            inside = vectors[cell == of] if (cell == of).any() else vectors
            mean = inside.mean(axis=0, dtype=np.float64)
            variances, directions = leading(moment(inside, mean), self.dim)
            shared["centres"][of], shared["directions"][of] = mean, directions
            shared["deviations"][of] = np.sqrt(variances)
        return shared

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = directed(items, shared["rule"])
        least, cell = np.full(len(vectors), np.inf), np.zeros(len(vectors), np.uint8)
        found = np.zeros((len(vectors), self.dim), np.float32)
        for of, (centre, directions) in enumerate(zip(shared["centres"], shared["directions"], strict=True)):
            rows = vectors - centre
            coordinates = map_rows(rows, directions)
            # What the directions leave of the squared length.
            left = np.square(rows).sum(axis=1, dtype=np.float64) - np.square(coordinates).sum(axis=1, dtype=np.float64)
            better = left < least
            least = np.minimum(left, least)
            cell[better], found[better] = of, coordinates[better]
        if self.bits == 16:
            return {"cell": cell, "codes": found.astype(np.float16)}
        deviations = shared["deviations"][cell]
        levels = gaussian_levels(self.bits)
        numbers = np.searchsorted((levels[1:] + levels[:-1]) / 2, found / np.where(deviations > 0, deviations, 1))
        return {"cell": cell, "codes": pack(numbers.astype(np.uint8), self.bits)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        coordinates = self.coordinates(codes, shared)
        rows = shared["centres"][codes["cell"]]
        for of in np.unique(codes["cell"]):
            inside = codes["cell"] == of
            rows[inside] += coordinates[inside] @ shared["directions"][of]
        return rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _CellSearcher(self, codes, shared, metric)

    def coordinates(self, codes: Arrays, shared: Arrays) -> Array:
        """Return the coordinates (n, dim) float32 in the subspaces of their cells."""
        if self.bits == 16:
            return codes["codes"].astype(np.float32)
        numbers = unpack(codes["codes"], self.bits, self.dim)
        return np.asarray(gaussian_levels(self.bits).astype(np.float32)[numbers] * shared["deviations"][codes["cell"]])


class _CellSearcher(ScanSearcher):
    """Map a query into every subspace once, and take its inner product with coordinates there."""

    def __init__(self, codec: LocalPCA, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        super().__init__(len(codes["cell"]), shared["centres"].shape[1], metric)
        self._codec, self._codes, self._shared = codec, codes, shared
        self._middles = np.einsum("crd,cd->cr", shared["directions"], shared["centres"])

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        centres, directions = self._shared["centres"], self._shared["directions"]
        codes = rows_of(self._codes, part)
        cell, coordinates = codes["cell"], self._codec.coordinates(codes, self._shared)
        dots = (centres @ query)[cell] + np.einsum("nr,nr->n", coordinates, (directions @ query)[cell])
        if not self._norms:
            return dots, dots[:0]
        along = np.einsum("nr,nr->n", coordinates, 2 * self._middles[cell] + coordinates)
        return dots, squared_norms(centres)[cell] + along

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._codec.decode(rows_of(self._codes, part), self._shared)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]


def _cells(vectors: Array, count: int, rng: np.random.Generator) -> Array:
    """Return the cell (n,) of each vector after k-means, which begins with vectors drawn far from those before."""
    centres = vectors[rng.integers(len(vectors), size=1)]
    distances = np.full(len(vectors), np.inf)
    for _ in range(count - 1):
        distances = np.minimum(distances, np.square(vectors - centres[-1]).sum(axis=1, dtype=np.float64))
        total = distances.sum()
        drawn = rng.choice(len(vectors), p=distances / total) if total > 0 else 0
        centres = np.concatenate([centres, vectors[drawn : drawn + 1]])
    cell = np.zeros(len(vectors), np.int64)
    for _ in range(ROUNDS):
        before, cell = cell, (vectors @ centres.T - np.square(centres).sum(axis=1) / 2).argmax(axis=1)
        if np.array_equal(before, cell):
            break
        members = cell == np.arange(count)[:, None]
        filled = members.any(axis=1)
        centres[filled] = (members @ vectors)[filled] / members.sum(axis=1)[filled, None]
    return cell
