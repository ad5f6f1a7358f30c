"""Honest methods that do what cheats also do: files, threads, slow beginnings, codes whose rows are hard to see."""

import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from packbench import BudgetTooSmall, Codec, register
from packbench.exact import ExactSearcher
from packbench.items import as_vectors


class Half(Codec):
    """Keep float16 coordinates."""

    def planned_bytes(self, d):
        return 2.0 * d, 0.0, 0.0

    def encode(self, items, shared):
        return {"codes": as_vectors(items).astype(np.float16)}

    def decode(self, codes, shared):
        return codes["codes"].astype(np.float32)


@register
@dataclass(frozen=True, slots=True)
class Columns(Half):
    """Return one row per dimension, so that items lie along the other axis."""

    name: ClassVar[str] = "in_columns"

    def encode(self, items, shared):
        return {"codes": np.ascontiguousarray(as_vectors(items).T.astype(np.float16))}

    def decode(self, codes, shared):
        return np.ascontiguousarray(codes["codes"].T.astype(np.float32))


@register
@dataclass(frozen=True, slots=True)
class Deflated(Half):
    """Compress each item by itself, into as many bytes as that takes."""

    name: ClassVar[str] = "of_varying_length"

    @classmethod
    def for_budget(cls, budget):
        most = 2.0 * budget.d + 20  # where nothing can be compressed, with what zlib and the offsets add
        if most > budget.bytes_per_item:
            raise BudgetTooSmall(most)
        return [cls()]

    def planned_bytes(self, d):
        raise TypeError("what items compress to is not known beforehand")

    def encode(self, items, shared):
        parts = [zlib.compress(row.tobytes(), 1) for row in as_vectors(items).astype(np.float16)]
        values = np.frombuffer(b"".join(parts), np.uint8)
        return {"values": values, "offsets": np.cumsum([0, *map(len, parts)]).astype(np.int32)}

    def decode(self, codes, shared):
        ends = zip(codes["offsets"][:-1], codes["offsets"][1:], strict=True)
        rows = [zlib.decompress(codes["values"][first:last].tobytes()) for first, last in ends]
        return np.frombuffer(b"".join(rows), np.float16).reshape(len(rows), -1).astype(np.float32)


@register
@dataclass(frozen=True, slots=True)
class Spills(Half):
    """Write temporary files while encoding, and read them back in the same process."""

    name: ClassVar[str] = "spills_to_scratch"

    def encode(self, items, shared):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as nameless:
            np.save(f"{folder}/spilled.npy", as_vectors(items).astype(np.float16))
            nameless.write(Path(f"{folder}/spilled.npy").read_bytes())
            nameless.seek(0)
            return {"codes": np.load(nameless)}


@register
@dataclass(frozen=True, slots=True)
class Curious(Half):
    """Import a module late and read what processor this is, as a choice of kernels needs."""

    name: ClassVar[str] = "looks_around"

    def encode(self, items, shared):
        import colorsys

        assert colorsys.__name__ and Path("/proc/cpuinfo").read_text()
        return Half.encode(self, items, shared)


@register
@dataclass(frozen=True, slots=True)
class Threaded(Half):
    """Encode in threads of its own."""

    name: ClassVar[str] = "encodes_in_threads"

    def encode(self, items, shared):
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda part: part.astype(np.float16), np.array_split(as_vectors(items), 2)))
        return {"codes": np.concatenate(parts)}


class DecodesLate:
    kernel = "decodes at the first query"

    def __init__(self, decode, metric):
        self.decode, self.metric, self.inner = decode, metric, None

    def search(self, queries, k):
        if self.inner is None:
            self.inner = ExactSearcher(self.decode(), self.metric)
        return self.inner.search(queries, k)


@register
@dataclass(frozen=True, slots=True)
class Lazy(Half):
    """Decode when the first query comes, so that all others are answered faster."""

    name: ClassVar[str] = "slow_at_first"

    def open(self, codes, shared, metric):
        return DecodesLate(lambda: self.decode(codes, shared), metric)
