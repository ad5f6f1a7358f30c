"""Store the leading bits of int8, one plane after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher, rows_of
from packbench.methods.scalar.fill import finest
from packbench.methods.scalar.int8 import Int8
from packbench.methods.scalar.packing import pack, packed_bytes, unpack, weighted_sums
from packbench.methods.scalar.scan import FEW, ScanSearcher, squared_norms
from packbench.registry import register

# The share left out at each end of a range, at which 1 to 8 planes of a Gaussian have the least squared error.
CLIPS = (0.055, 0.023, 0.0096, 0.0037, 0.0013, 0.0004, 0.0001, 0.0)


@register
@dataclass(frozen=True, slots=True)
class BitPlane(Codec):
    """Store int8 as planes of bits, the most significant first, of which the first few are a coarser code.

    A code of more planes begins with those of fewer, so that one artefact serves several budgets; with the grid of
    eight planes, `planes` = 8 is int8(clip=clip). What the missing bits say is taken at its middle. The share `clip`
    that saturates at each end of a range is best greater for fewer planes. Ivan and Florian, "Bit-wise Training of
    Neural Network Weights", 2022: their planes, without their training.
    """

    name: ClassVar[str] = "bitplane"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    paper: ClassVar[str] = "Ivan, Florian, Bit-wise Training of Neural Network Weights, 2022"
    formula: ClassVar[str] = "planes ceil(d/8) per item; shared 8d"
    planes: int = 4
    clip: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.planes <= 8:
            raise ValueError(f"planes is 1 to 8, got {self.planes}")
        Int8(clip=self.clip)  # refuses a share that is none

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return finest(lambda planes: cls(planes, CLIPS[planes - 1]), budget, range(8, 0, -1))

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(self.planes * packed_bytes(1, d)), 8.0 * d, 0.0

    def fit(self, sample: Sample) -> Arrays:
        return Int8(clip=self.clip).fit(sample)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        bytes_ = Int8(clip=self.clip).encode(as_vectors(items), shared)["codes"]
        planes = [pack((bytes_ >> (7 - plane)) & 1, 1) for plane in range(self.planes)]
        return {"codes": np.concatenate(planes, axis=1)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        low, step = self._grid(shared)
        rows = np.broadcast_to(low, (len(codes["codes"]), len(low))).copy()
        for plane, packed in enumerate(self._planes(codes)):
            rows += unpack(packed, 1, len(low)) * (step * np.float32(2 ** (7 - plane)))
        return rows

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        return _PlaneSearcher(self, codes, shared, metric)

    def _planes(self, codes: Arrays) -> list[Array]:
        return np.split(codes["codes"], self.planes, axis=1)

    def _grid(self, shared: Arrays) -> tuple[Array, Array]:
        """Return the value of no bit at all, the middle of what is missing included, and that of the last of eight."""
        middle = np.float32((2 ** (8 - self.planes) - 1) / 2)
        return shared["low"] + middle * shared["step"], shared["step"]


class _PlaneSearcher(ScanSearcher):
    def __init__(self, codec: BitPlane, codes: Arrays, shared: Arrays, metric: Metric) -> None:
        super().__init__(len(codes["codes"]), len(shared["step"]), metric)
        self._few = 0 if self._norms else FEW  # norms need decoded rows
        self._codec, self._codes, self._shared = codec, codes, shared

    def _scan(self, query: Array, part: slice) -> tuple[Array, Array]:
        low, step = self._codec._grid(self._shared)
        dots = np.full(part.stop - part.start, query @ low, np.float32)
        # All planes are one run of bits, each with its weight, and none at the end of a plane's last byte.
        weights = np.zeros((self._codec.planes, 8 * packed_bytes(1, len(low))), np.float32)
        weights[:, : len(low)] = query * step * 2.0 ** (7 - np.arange(self._codec.planes)[:, None])
        dots += weighted_sums(self._codes["codes"][part], 1, weights.ravel())
        return dots, dots[:0]

    def _decode(self, part: slice) -> tuple[Array, Array]:
        rows = self._codec.decode(rows_of(self._codes, part), self._shared)
        return rows, squared_norms(rows) if self._norms else rows[:0, 0]
