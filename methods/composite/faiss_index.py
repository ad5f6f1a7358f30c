"""Any index that faiss can build from a factory string."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items
from packbench.method import BUILD, Arrays, Method, Metric, Sample, Searcher
from packbench.methods.codebook.adc import IndexSearcher, blas_distances, fit_vectors, item_vectors
from packbench.methods.projection.linear import unit
from packbench.registry import register

IP, L2 = faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2
MEASURES = {"ip": (IP,), "l2": (L2,), "cosine": (IP, L2)}  # cosine: of unit vectors both rank alike


@register
@dataclass(frozen=True, slots=True)
class Faiss(Method):
    """Build the index that a faiss factory string describes, such as 'OPQ32,PQ32' or 'IVF64,PQ32x4fs'.

    Douze et al., "The Faiss Library", 2024. `search` sets search parameters by name, as in 'nprobe=16', 'efSearch=64'
    or 'k_factor_rf=10' (a refining index does nothing at its default of 1). An index that is a flat list of codes,
    with or without transforms in front, keeps these codes per item and shares the trained index without them; any
    other (IVF, HNSW, FastScan, refining) is kept whole, graph, lists and ids included.

    Under cosine, items and queries are brought to unit length and compared by inner product, or by L2 where faiss
    offers the index for L2 only (LSH, ITQ; under ip these are refused). Under ip and cosine the mean that a PCA would
    subtract is set to zero: subtracting it from both sides drops the term <mean, x> and ranks wrongly. PCAW changes
    every metric, and L2norm changes all but cosine: that is left as asked. Append 'np' to PQ strings: without it faiss
    spends ten times as long on polysemous training, which changes no answer.
    """

    name: ClassVar[str] = "faiss"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "codec"
    answers_whole: ClassVar[bool] = True
    paper: ClassVar[str] = "Douze et al., The Faiss Library, 2024"
    formula: ClassVar[str] = (
        "flat codes: sa_code_size per item, shared the serialised trained index; others: all serialised"
    )

    factory: str
    search: str = ""

    def __post_init__(self) -> None:
        # What does not parse does so at any width; other complaints depend on d and have to wait for vectors.
        try:
            faiss.index_factory(16, self.factory, L2)
        except RuntimeError as error:
            if "could not parse" in str(error):
                raise ValueError(f"faiss cannot parse the factory string {self.factory!r}") from None

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        raise BadInput("faiss needs a factory string, as in faiss(factory='OPQ32,PQ32')")

    def fit(self, sample: Sample) -> Arrays:
        vectors, is_unit = fit_vectors(sample, self)
        index = self._untrained(vectors.shape[1], sample.metric)
        with blas_distances(), self._explained("train"):
            for front in _pretransforms(index):
                self._train_transforms(front, vectors)
            index.train(vectors)
        with self._explained("restore"):
            trained = faiss.serialize_index(index)
            self._opened(trained)
        tier = "" if _codes_of(index) is not None else BUILD
        return {tier + "index": trained, tier + "unit": is_unit}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        tier = "" if "index" in shared else BUILD
        index = self._opened(shared[tier + "index"])
        vectors = item_vectors(items, index.d, shared[tier + "unit"])
        with blas_distances(), self._explained("encode with"):
            if not tier:
                codes = index.sa_encode(vectors) if len(vectors) else np.zeros((0, index.sa_code_size()), np.uint8)
                return {"codes": codes}
            if len(vectors):
                index.add(vectors)
            return {"index": faiss.serialize_index(index)}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        index = self._opened(codes["index"] if "index" in codes else shared["index"])
        if index.metric_type not in MEASURES.get(metric, ()):
            raise BadInput(f"{self}: this index was not fitted for the metric {metric!r}: fit again")
        if "codes" in codes:
            inner = _codes_of(index)
            if len(codes["codes"]):
                inner.add_sa_codes(np.ascontiguousarray(codes["codes"]))
            index.ntotal = inner.ntotal
        return IndexSearcher(
            index, f"faiss {self.factory}", unit if metric == "cosine" else None, _table_bytes(_codes_of(index))
        )

    def _untrained(self, d: int, metric: Metric) -> Any:
        """Return the empty index for a metric."""
        if metric not in MEASURES:
            raise BadInput(f"{self}: faiss does not search by {metric!r}; it does by {', '.join(MEASURES)}")
        told = ""
        for measure in MEASURES[metric]:
            try:
                index: Any = faiss.index_factory(d, self.factory, measure)
            except RuntimeError as error:
                told = _last_part(error)
                continue
            # Asked for an inner product, faiss makes some indexes (HNSW over PQ) for L2 without a word.
            if index.metric_type == measure:
                return index
            told = "it ranks by L2 only"
        raise BadInput(f"{self}: faiss does not build this index for {d} coordinates and {metric}: {told}")

    def _train_transforms(self, front: Any, vectors: Array) -> None:
        """Train what stands in front of an index, so that the index learns from what it will be given."""
        for position in range(front.chain.size()):
            transform = faiss.downcast_VectorTransform(front.chain.at(position))
            if isinstance(transform, faiss.OPQMatrix) and len(vectors) < transform.d_in:
                # faiss does not raise here: it takes the process down.
                raise BadInput(
                    f"{self}: OPQ needs a fit sample of at least as many rows as coordinates ({transform.d_in}), "
                    f"got {len(vectors)}"
                )
            if not transform.is_trained:
                transform.train(vectors)
            if front.metric_type == IP and isinstance(transform, faiss.LinearTransform) and transform.have_bias:
                transform.have_bias = False
                transform.b.clear()
            vectors = transform.apply(vectors)

    def _opened(self, serialised: Array) -> Any:
        """Return the index that was serialised, with the search parameters set."""
        index = faiss.deserialize_index(np.ascontiguousarray(np.asarray(serialised)))
        if self.search:
            with self._explained(f"set search={self.search!r} on"):
                space: Any = faiss.ParameterSpace()
                space.set_index_parameters(index, self.search)
        return index

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn what faiss raises into one sentence."""
        try:
            yield
        except (RuntimeError, AssertionError) as error:
            raise BadInput(f"{self}: faiss does not {verb} this index: {_last_part(error)}") from error


def _last_part(error: Exception) -> str:
    """Return what faiss says after the place in its sources."""
    return re.split(r"\.(?:cpp|h):\d+: (?:Error: )?", str(error))[-1].strip()


def _pretransforms(index: Any) -> Iterator[Any]:
    """Yield the chains of transforms of an index, those of its stages included."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        yield index
    elif isinstance(index, faiss.IndexRefine):
        yield from _pretransforms(index.base_index)
        yield from _pretransforms(index.refine_index)
    elif isinstance(index, faiss.IndexIDMap):
        yield from _pretransforms(index.index)


def _codes_of(index: Any) -> Any:
    """Return the part that holds codes one after the other, if an index is that and no more; else None."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    # Panorama keeps sums beside the codes.
    return index if isinstance(index, faiss.IndexFlatCodes) and not isinstance(index, faiss.IndexFlatPanorama) else None


def _table_bytes(flat: Any) -> int:
    """Return the bytes of the look-up tables that faiss makes for every query of a batch before it scans flat codes."""
    if isinstance(flat, faiss.IndexPQ):
        return 4 * int(flat.pq.M) << int(flat.pq.nbits)
    return 4 * int(flat.aq.total_codebook_size) if isinstance(flat, faiss.IndexAdditiveQuantizer) else 0
