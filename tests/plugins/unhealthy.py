"""Codecs with the faults of known programs, each beside what it should have been; all are honest about their bytes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench import Codec, Hits, Method, register
from packbench.items import as_vectors

LEVELS = 255


class Eight(Codec):
    """Round to even steps over the range of the fit sample, in what `integers` makes of it."""

    fidelity = "EXACT"

    def fit(self, sample):
        vectors = as_vectors(sample.items)
        low, high = np.quantile(vectors, [0.01, 0.99])
        return {"low": np.array([low], np.float32), "step": np.array([(high - low) / LEVELS], np.float32)}

    def encode(self, items, shared):
        steps = np.rint((as_vectors(items) - shared["low"]) / shared["step"])
        return {"codes": self.integers(steps)}

    def decode(self, codes, shared):
        return codes["codes"] * shared["step"] + shared["low"]


@register
@dataclass(frozen=True, slots=True)
class Clamped(Eight):
    """Clamp, as one should."""

    name = "clamped"
    bits: int = 8

    def integers(self, steps):
        return np.clip(steps, 0, LEVELS).astype(np.uint8)


@register
@dataclass(frozen=True, slots=True)
class Unclamped(Eight):
    """Forget to clamp, in integers wide enough not to notice: 8 bits with hundreds of values more."""

    name = "unclamped"
    bits: int = 8

    def integers(self, steps):
        return steps.astype(np.int16)


@register
@dataclass(frozen=True, slots=True)
class Wrapped(Eight):
    """Forget to clamp, in integers that wrap around."""

    name = "wrapped"
    bits: int = 8

    def integers(self, steps):
        return (steps.astype(np.int64) % 256).astype(np.uint8)


@register
@dataclass(frozen=True, slots=True)
class TwoOfSixteen(Codec):
    """Pay for 16 levels and reach two, for the grid was made for coordinates many times as large."""

    name = "two_of_sixteen"
    fidelity = "EXACT"
    bits: int = 4
    too_wide: float = 16.0

    def fit(self, sample):
        reach = np.abs(as_vectors(sample.items)).max() * self.too_wide
        return {"reach": np.array([reach], np.float32)}

    def encode(self, items, shared):
        levels = np.clip(np.floor((as_vectors(items) / shared["reach"] + 1) * 8), 0, 15).astype(np.uint8)
        return {"codes": levels[:, ::2] | levels[:, 1::2] << 4}

    def decode(self, codes, shared):
        packed = codes["codes"]
        levels = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
        return ((levels + 0.5) / 8 - 1).astype(np.float32) * shared["reach"]


@register
@dataclass(frozen=True, slots=True)
class Unheard(Method):
    """Keep a second store for rescoring, and never ask it."""

    name = "unheard"
    fidelity = "EXACT"
    asks: bool = False
    factor: ClassVar[int] = 10

    def _signs(self):
        from packbench.spec import parse

        return parse("rescore(sign(), int8())")

    def fit(self, sample):
        return self._signs().fit(sample)

    def encode(self, items, shared):
        return self._signs().encode(items, shared)

    def stages(self, codes, shared, metric):
        return self._signs().stages(codes, shared, metric)

    def open(self, codes, shared, metric):
        whole = self._signs()
        return whole.open(codes, shared, metric) if self.asks else Shortlist(whole.stages(codes, shared, metric))


class Shortlist:
    """Answer with the shortlist as it is."""

    kernel = "shortlist"

    def __init__(self, stages):
        self.first = stages["shortlist"]

    def search(self, queries, k):
        found = self.first.search(queries, k)
        return Hits(found.ids, found.scores)
