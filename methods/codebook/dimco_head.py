"""Learn symbols that tell labels apart and repeat nothing of each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items
from packbench.method import Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.linear import project
from packbench.methods.codebook.adc import check_metric, fit_vectors, item_vectors, open_product
from packbench.methods.projection.mlp import learnt, uniform, values
from packbench.methods.training import train
from packbench.registry import register

BATCH, RATE = 512, 1e-2
TINY = 1e-9  # added to probabilities before their logarithm


class InfomaxHead(Method):
    """Be a linear head from vectors to `positions` symbols of 2^bits ways, scored by their chances under the query."""

    __slots__ = ()
    kind: ClassVar[str] = "codec"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Lee, Kim, Hong, Kim, Discrete Infomax Codes for Supervised Representation Learning, 2019"
    formula: ClassVar[str] = "ceil(positions bits / 8) per item; shared 4 (d + 1) positions 2^bits + 1"
    positions: int
    bits: int
    redundancy: float
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if self.positions < 1 or not 1 <= self.bits <= 8:
            raise ValueError(f"positions={self.positions}, bits={self.bits}: expected at least 1, and 1 to 8")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def most(bits: int) -> Method:
            # Two positions of 4 bits fill a byte; a head has 4 (d + 1) 2^bits bytes for each.
            each = bits / 8 + 4 * (budget.d + 1) * 2**bits / budget.n
            fits = (cls(count, bits) for count in range(int(budget.bytes_per_item / each) + 1, 0, -1))  # type: ignore[call-arg]
            return next((one for one in fits if budget.holds(*one.planned_bytes(budget.d))), cls(1, bits))  # type: ignore[call-arg]

        return budget.fitting([most(4), most(6), most(2)])

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(-(-self.positions * self.bits // 8)), 4.0 * (d + 1) * self.positions * 2**self.bits + 1, 0.0

    @abstractmethod
    def _labels(self, vectors: Array, sample: Sample) -> Array:
        """Return a class (n,) for each row, counted from 0."""

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        labels = self._labels(vectors, sample)
        weights, offset = self._train(vectors, labels)
        return {"weights": weights, "offset": offset, "unit": is_unit}

    def _train(self, vectors: Array, labels: Array) -> tuple[Array, Array]:
        """Return weights (d, positions * ways) and offsets: the head of greatest information about the labels."""
        import torch

        n, d = vectors.shape
        ways = 2**self.bits
        mean = vectors.mean(axis=0)
        length = max(float(np.sqrt(np.mean((vectors - mean) ** 2))), 1e-12)
        x = torch.from_numpy(np.asarray((vectors - mean) / length, np.float32))
        rng = np.random.default_rng(self.seed)
        weights, offset = learnt([uniform(rng, self.positions * ways, d), np.zeros(self.positions * ways)])

        def loss(rows: Array) -> Any:
            logits = torch.addmm(offset, x[rows], weights.T).reshape(len(rows), self.positions, ways)
            chances = logits.softmax(dim=2)
            # Information is the mean of a logarithm of chances. How that changes itself leaves the mean as it is, for
            # chances sum to one; so the logarithms are constants to the gradient.
            with torch.no_grad():
                overall = _logarithm(chances.mean(dim=0))
                classes, place, count = np.unique(labels[rows], return_inverse=True, return_counts=True)
                within = torch.zeros(len(classes), *overall.shape).index_add_(0, torch.from_numpy(place), chances)
                within = _logarithm(within / torch.from_numpy(count.astype(np.float32))[:, None, None])
                gain = within[place] - overall
            told = (chances * gain).sum() / (len(rows) * self.positions)
            if self.positions == 1 or self.redundancy == 0:
                return -told
            # Each position against the one at a drawn distance: all pairs would cost positions squared.
            shift = 1 + int(rng.integers(self.positions - 1))
            joint = torch.einsum("npv,npw->pvw", chances, chances.roll(shift, dims=1)) / len(rows)
            with torch.no_grad():
                gain = _logarithm(joint) - overall[:, :, None] - overall.roll(shift, dims=0)[:, None, :]
            return self.redundancy * (joint * gain).sum() / self.positions - told

        train([weights, offset], loss, n, seed=self.seed, epochs=self.epochs, batch=BATCH, rate=RATE)
        learned, shift = values([weights, offset])
        learned = np.asarray(learned.T / np.float32(length), np.float32)
        return np.ascontiguousarray(learned), np.asarray(shift - mean @ learned, np.float32)

    def _logits(self, vectors: Array, shared: Arrays) -> Array:
        found = project(vectors, shared["weights"]) + shared["offset"]
        return found.reshape(len(vectors), self.positions, 2**self.bits)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = item_vectors(items, len(shared["weights"]), shared["unit"])
        symbols = self._logits(vectors, shared).argmax(axis=2)
        flags = (symbols[:, :, None] >> np.arange(self.bits)) & 1
        flags = flags.reshape(len(symbols), self.positions * self.bits).astype(np.uint8)
        packed = np.packbits(flags, axis=1, bitorder="little")
        return {"codes": packed}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        check_metric(self, shared["unit"], metric)
        ways = 2**self.bits

        def chances(queries: Array) -> Array:
            logits = self._logits(item_vectors(queries, len(shared["weights"]), shared["unit"]), shared)
            logits = logits - logits.max(axis=2, keepdims=True)
            logs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
            return np.asarray(logs.reshape(len(logs), self.positions * ways))

        # A product with a row of the identity looks up the logarithm of one symbol's chance.
        identity = np.broadcast_to(np.eye(ways, dtype=np.float32), (self.positions, ways, ways))
        return open_product(codes["codes"], identity, "ip", chances)


@register
@dataclass(frozen=True, slots=True)
class DimcoHead(InfomaxHead):
    """Code vectors as symbols that tell as much as they can about labels of the fit sample.

    A linear head gives each of `positions` symbols its chances; training raises the mutual information of symbol and
    label, less `redundancy` times that of two symbols, both estimated on a batch. Items keep their likeliest symbols;
    a query scores the sum of the logarithms of its chances of them. Needs "labels" (n,), whole numbers of the sample's
    rows; the paper trains the network below the head as well. Lee, Kim, Hong, Kim, "Discrete Infomax Codes for
    Supervised Representation Learning", 2019.
    """

    name: ClassVar[str] = "dimco_head"
    fidelity: ClassVar[str] = "ANALOGUE"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    positions: int
    bits: int = 4
    redundancy: float = 1.0
    epochs: int = 20
    seed: int = 0

    def _labels(self, vectors: Array, sample: Sample) -> Array:
        labels = np.asarray(sample.extras.get("labels", np.empty(0)))
        if labels.shape != (len(vectors),):
            raise BadInput(
                f"{self}: needs extras['labels'], one whole number for each of the {len(vectors)} rows of the fit "
                f"sample; got shape {labels.shape}"
            )
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)


@register
@dataclass(frozen=True, slots=True)
class DimcoHeadPL(InfomaxHead):
    """Code vectors as symbols that tell as much as they can about which cluster an item is in.

    It is dimco_head with pseudo-labels, for data without labels: the nearest of `clusters` centroids that k-means
    finds in the fit sample (at most one for 4 rows). Lee, Kim, Hong, Kim, "Discrete Infomax Codes for Supervised
    Representation Learning", 2019, with labels made from the vectors.
    """

    name: ClassVar[str] = "dimco_head_pl"
    fidelity: ClassVar[str] = "ANALOGUE"

    positions: int
    bits: int = 4
    clusters: int = 256
    redundancy: float = 1.0
    epochs: int = 20
    seed: int = 0

    def _labels(self, vectors: Array, sample: Sample) -> Array:
        kmeans = faiss.Kmeans(
            vectors.shape[1], max(1, min(self.clusters, len(vectors) // 4)), seed=self.seed, niter=20,
            min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.train(vectors)
        return np.asarray(kmeans.index.search(vectors, 1)[1][:, 0], np.int64)


def _logarithm(chances: Any) -> Any:
    """Return finite logarithms of chances, 0 included."""
    return (chances + TINY).log()
