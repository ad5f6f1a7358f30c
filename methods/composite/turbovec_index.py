"""A peer: the index of the turbovec library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Hits, Method, Metric, Sample, Searcher
from packbench.methods.composite.estimate import Estimate, widest
from packbench.methods.projection.linear import unit
from packbench.registry import register

METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")  # by the number that fit writes down
CALIBRATION_ROWS = 4096
PAGE = 64  # bytes


@register
@dataclass(frozen=True, slots=True)
class TurboVec(Method):
    """Search by the turbovec library, an external peer: TurboQuant codes of 2 to 4 bits with a scale per vector.

    turbovec is by Ryan Codrai; the code is that of Zandieh, Daliri, Hadian, Mirrokni, "TurboQuant: Online Vector
    Quantization with Near-optimal Distortion Rate", 2025. Needs the package turbovec. What is weighed is what the
    library serialises: the bytes of an index without items are shared, and each item adds its codes; at 3 bits the
    library keeps 4. `calibrate` fits its correction per coordinate on the fit sample. It knows inner products of a
    multiple of 8 coordinates: vectors are padded with zeros; under l2 a coordinate for the squared length is appended.
    """

    name: ClassVar[str] = "turbovec"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "peer"
    answers_whole: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("turbovec",)
    paper: ClassVar[str] = (
        "Zandieh, Daliri, Hadian, Mirrokni, TurboQuant: Online Vector Quantization with Near-optimal Distortion Rate, "
        "2025"
    )
    formula: ClassVar[str] = (
        "d bits / 8 + 4 per item, d up to the next multiple of 8 (l2: d + 1); shared about 290 d bits"
    )

    bits: int = 4
    calibrate: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4):
            raise ValueError(f"bits={self.bits}: expected 2, 3 or 4")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return widest(budget, [_kind(4), _kind(2)])

    def fit(self, sample: Sample) -> Arrays:
        from turbovec import TurboQuantIndex

        if sample.metric not in METRICS:
            raise BadInput(f"{self}: expected one of the metrics {', '.join(METRICS)}, got {sample.metric!r}")
        vectors = as_vectors(sample.items, "fit sample")
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        # The appended coordinate weighs least on the error where items and queries lose to it in equal parts.
        scale = np.sqrt(squares.std() / 2) if len(squares) and squares.std() > 0 else 1.0
        shape: dict[str, Array] = {
            "metric": np.array([METRICS.index(sample.metric)], np.uint8),
            "scale": np.array([scale, squares.mean() if len(squares) else 0], np.float32),
        }
        wide = _widened(vectors, shape)
        index: Any = TurboQuantIndex(dim=wide.shape[1], bit_width=self.bits)
        if self.calibrate and len(wide) and np.ptp(wide, axis=0).any():  # equal rows have nothing to correct
            rows = np.random.default_rng(self.seed).permutation(len(wide))[:CALIBRATION_ROWS]
            index.calibrate(np.ascontiguousarray(wide[np.sort(rows)]))
        return shape | {"empty": np.frombuffer(index.to_bytes(), np.uint8)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        wide = _widened(as_vectors(items), shared)
        index = _restored(shared["empty"])
        if wide.shape[1] != index.dim:
            raise BadInput(f"{self}: {wide.shape[1]} padded coordinates do not match the {index.dim} of the fit sample")
        if len(wide):
            index.add(wide)
        return changed_pages(np.frombuffer(index.to_bytes(), np.uint8), shared["empty"])

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if METRICS[int(shared["metric"][0])] != metric:
            raise BadInput(f"{self}: this index was not fitted for the metric {metric!r}: fit again")
        return _TurboVecSearcher(_restored(restored_pages(codes, shared["empty"])), dict(shared))


class _TurboVecSearcher:
    """Ask the library, and fill up short answers."""

    kernel = "turbovec"

    def __init__(self, index: Any, shared: Arrays) -> None:
        index.prepare()
        self._index, self._shape = index, {name: shared[name] for name in ("metric", "scale")}

    def search(self, queries: Items, k: int) -> Hits:
        q = _widened(as_vectors(queries, "queries"), self._shape, is_query=True)
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        found = min(k, len(self._index))
        if found and len(q):
            scores[:, :found], ids[:, :found] = self._index.search(q, found)
        return Hits(ids, scores)


def changed_pages(full: Array, base: Array) -> dict[str, Array]:
    """Return what makes the bytes `full` of bytes `base`: the pages that differ, and all that lies beyond them."""
    size = len(base) // PAGE * PAGE
    head = full[:size].reshape(-1, PAGE)
    pages = np.flatnonzero((head != base[:size].reshape(-1, PAGE)).any(axis=1)).astype(np.uint32)
    return {"pages": pages, "changed": head[pages], "rest": full[size:].copy()}


def restored_pages(codes: Arrays, base: Array) -> Array:
    """Undo `changed_pages`."""
    head = np.array(base[: len(base) // PAGE * PAGE]).reshape(-1, PAGE)
    head[codes["pages"]] = codes["changed"]
    return np.concatenate([head.ravel(), codes["rest"]])


def _restored(serialised: Array) -> Any:
    from turbovec import TurboQuantIndex

    return TurboQuantIndex.from_bytes(serialised.tobytes())


def _widened(vectors: Array, shape: Arrays, is_query: bool = False) -> Array:
    """Return vectors whose inner products rank as the metric does, padded with zeros to a multiple of 8."""
    metric = METRICS[int(shape["metric"][0])]
    n, d = vectors.shape
    wide = np.zeros((n, -(-(d + (metric == "l2")) // 8) * 8), np.float32)
    wide[:, :d] = unit(vectors) if metric == "cosine" else vectors
    if metric == "l2":
        # -|q - x|² / 2 is <q, x> - |x|² / 2 but for the query's part; a constant taken off |x|² is a part of that.
        scale, mean = shape["scale"]
        squares = np.einsum("ij,ij->i", vectors, vectors)
        wide[:, d] = scale if is_query else (mean - squares) / (2 * scale)
    return wide


def _kind(bits: int) -> Callable[[int], Estimate]:
    def on(dim: int) -> Estimate:
        wide = -(-(dim + 1) // 8) * 8  # one coordinate more, for l2
        # A byte per item for what is changed in the head.
        return Estimate(TurboVec(bits), wide * bits / 8 + 5, 32768 + 288 * bits * wide)

    return on
