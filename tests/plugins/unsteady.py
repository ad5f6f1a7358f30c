"""Methods whose codes or answers depend on what they must not: threads, the time, the process that encoded."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import faiss
import numpy as np

from packbench import Codec, register
from packbench.exact import ExactSearcher
from packbench.items import as_vectors

KEPT = []


class Eight(Codec):
    """Keep a byte per coordinate."""

    def encode(self, items, shared):
        return {"codes": np.clip(np.rint(as_vectors(items) * 40), -127, 127).astype(np.int8)}

    def decode(self, codes, shared):
        return codes["codes"] / np.float32(40)


@register
@dataclass(frozen=True, slots=True)
class SumsByThread(Eight):
    """Keep, beside the codes, a norm that each thread sums a part of; the parts are added in single precision."""

    name: ClassVar[str] = "sums_by_thread"

    def encode(self, items, shared):
        vectors = as_vectors(items)
        parts = np.array_split(vectors, faiss.omp_get_max_threads(), axis=1)
        with ThreadPoolExecutor(len(parts)) as pool:
            sums = list(pool.map(lambda part: np.add.accumulate(part * part, axis=1)[:, -1], parts))
        return Eight.encode(self, items, shared) | {"norms": np.add.accumulate(np.stack(sums))[-1]}


@register
@dataclass(frozen=True, slots=True)
class SumsByThreadAndSaysSo(SumsByThread):
    """Do so and declare how many bytes it may turn."""

    name: ClassVar[str] = "sums_by_thread_and_says_so"
    tolerance: ClassVar[float] = 0.05


@register
@dataclass(frozen=True, slots=True)
class Restless(Eight):
    """Fit something else each time."""

    name: ClassVar[str] = "restless"

    def fit(self, sample):
        return {"drawn": np.frombuffer(os.urandom(8), np.uint8)}


@register
@dataclass(frozen=True, slots=True)
class Remembers(Eight):
    """Search the vectors themselves in the process that encoded them, and codes in any other."""

    name: ClassVar[str] = "remembers"

    def encode(self, items, shared):
        KEPT[:] = [as_vectors(items)]
        return Eight.encode(self, items, shared)

    def open(self, codes, shared, metric):
        return ExactSearcher(KEPT[0] if KEPT else self.decode(codes, shared), metric)


@register
@dataclass(frozen=True, slots=True)
class Dies(Eight):
    """Take the process down where two threads encode."""

    name: ClassVar[str] = "dies"

    def encode(self, items, shared):
        if faiss.omp_get_max_threads() > 1:
            os.abort()
        return Eight.encode(self, items, shared)
