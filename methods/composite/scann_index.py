"""A peer: the asymmetric hashing of the ScaNN library."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import BUILD, Arrays, Hits, Method, Metric, Sample, Searcher
from packbench.methods.composite.estimate import Estimate, widest
from packbench.methods.projection.linear import unit
from packbench.registry import register

METRICS: dict[Metric, str] = {"ip": "dot_product", "cosine": "dot_product", "l2": "squared_l2"}
CODES, CODEBOOK, CONFIG, ASSETS = "hashed_dataset.npy", "ah_codebook.pb", "scann_config.pb", "scann_assets.pbtxt"


@register
@dataclass(frozen=True, slots=True)
class ScaNN(Method):
    """Search by the ScaNN library, an external peer: 4-bit product codes trained for the score of near neighbours.

    Guo, Sun, Lindgren, Geng, Simcha, Chern, Kumar, "Accelerating Large-Scale Inference with Anisotropic Vector
    Quantization", 2020. Needs the package scann. Blocks of `block` coordinates; under ip and cosine errors along an
    item that scores above `threshold` times its length count more (0: all alike). The codebook is trained on the fit
    sample and other items are added to it, so that their codes do not depend on each other. The library writes a byte
    per 4-bit code and packs them in memory; here they are packed on the ledger too. No tree, no rescoring.
    """

    name: ClassVar[str] = "scann"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "peer"
    answers_whole: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("scann",)
    paper: ClassVar[str] = (
        "Guo, Sun, Lindgren, Geng, Simcha, Chern, Kumar, Accelerating Large-Scale Inference with Anisotropic Vector "
        "Quantization, 2020"
    )
    formula: ClassVar[str] = (
        "ceil(ceil(d / block) / 2) per item; shared the library's files, about 64 d + 100 d / block"
    )

    block: int = 2
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block={self.block}: expected at least 1 coordinate")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold={self.threshold:g}: expected a share of the length, from 0 to below 1")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return widest(budget, [_kind(block) for block in (2, 1, 4)])

    def fit(self, sample: Sample) -> Arrays:
        from scann import scann_ops_pybind

        if sample.metric not in METRICS:
            raise BadInput(f"{self}: expected one of the metrics {', '.join(METRICS)}, got {sample.metric!r}")
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there is no codebook to learn")
        vectors = unit(vectors) if sample.metric == "cosine" else vectors
        # The library takes vectors to be of length one.
        threshold = self.threshold * float(np.linalg.norm(vectors, axis=1).mean())
        builder = scann_ops_pybind.builder(vectors, 10, METRICS[sample.metric]).set_n_training_threads(1)
        searcher = builder.score_ah(
            self.block, anisotropic_quantization_threshold=threshold if sample.metric != "l2" and threshold else np.nan
        ).build(docids=[str(row) for row in range(len(vectors))])
        files = _files(searcher)
        return {
            "codebook": _bytes_of(files[CODEBOOK]),
            "config": _bytes_of(files[CONFIG]),
            "assets": _bytes_of(files[ASSETS]),
            "metric": np.array([list(METRICS).index(sample.metric)], np.uint8),
            # Items are added to a searcher, which cannot be empty.
            BUILD + "first": files[CODES][:1],
            "d": np.array([vectors.shape[1]], np.int32),
        }

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        from scann.scann_ops.py.scann_ops_pybind import ScannSearcher

        vectors, d = as_vectors(items), int(shared["d"][0])
        if vectors.shape[1] != d:
            raise BadInput(f"{self}: {vectors.shape[1]} coordinates do not match the {d} of the fit sample")
        if _metric_of(shared) == "cosine":
            vectors = unit(vectors)
        first = shared[BUILD + "first"]
        if not len(vectors):
            return {"codes": packed(first[:0])}
        searcher = ScannSearcher(_loaded(first, shared).searcher, docids=["first"])
        searcher.upsert([str(row) for row in range(len(vectors))], vectors, batch_size=len(vectors))
        return {"codes": packed(_files(searcher)[CODES][1:])}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if _metric_of(shared) != metric:
            raise BadInput(f"{self}: these codes were not made for the metric {metric!r}: fit again")
        return _ScaNNSearcher(unpacked(codes["codes"], -(-int(shared["d"][0]) // self.block)), shared, metric)


class _ScaNNSearcher:
    """Ask the library, and fill up short answers."""

    kernel = "scann asymmetric hashing"

    def __init__(self, codes: Array, shared: Arrays, metric: Metric) -> None:
        self._n, self._metric = len(codes), metric
        self._index = _loaded(codes, shared) if self._n else None

    def search(self, queries: Items, k: int) -> Hits:
        q = as_vectors(queries, "queries")
        ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        found = min(k, self._n)
        if self._index is not None and len(q) and found:
            ids[:, :found], scores[:, :found] = self._index.search_batched(q, final_num_neighbors=found)
            if self._metric == "l2":
                scores[:, :found] *= -1
        return Hits(ids, scores)


def packed(codes: Array) -> Array:
    """Put two codes (n, blocks) below 16 into a byte."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return np.asarray(even[:, 0::2] | even[:, 1::2] << 4)


def unpacked(codes: Array, blocks: int) -> Array:
    """Undo `packed` for codes (n, blocks)."""
    return np.ascontiguousarray(np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)[:, :blocks])


def _metric_of(shared: Arrays) -> Metric:
    return list(METRICS)[int(shared["metric"][0])]


def _bytes_of(file: Any) -> Array:
    return np.frombuffer(file, np.uint8)


def _files(searcher: Any) -> dict[str, Any]:
    """Return what the library writes: its codes as an array, other files as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder, relative_path=True)
        found: dict[str, Any] = {name: (Path(folder) / name).read_bytes() for name in (CODEBOOK, CONFIG, ASSETS)}
        return found | {CODES: np.load(Path(folder) / CODES)}


def _loaded(codes: Array, shared: Arrays) -> Any:
    """Return a searcher over codes, for which the library reads a folder."""
    from scann import scann_ops_pybind

    with tempfile.TemporaryDirectory() as folder:
        for name, array in ((CODEBOOK, "codebook"), (CONFIG, "config"), (ASSETS, "assets")):
            (Path(folder) / name).write_bytes(shared[array].tobytes())
        np.save(Path(folder) / CODES, codes)
        return scann_ops_pybind.load_searcher(folder)


def _kind(block: int) -> Callable[[int], Estimate]:
    def on(dim: int) -> Estimate:
        blocks = -(-dim // block)
        return Estimate(ScaNN(block), -(-blocks // 2), 64 * dim + 100 * blocks + 400)

    return on
