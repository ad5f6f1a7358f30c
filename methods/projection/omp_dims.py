"""Keep the coordinates from which the others follow best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.factors import moment
from packbench.items import Array, Items, as_vectors
from packbench.method import Arrays, Chain, Method, Sample, Transform
from packbench.methods.projection.linear import map_queries, map_rows, reduced
from packbench.methods.projection.moments import in_turn, index_type, learnable
from packbench.methods.scalar.int4 import Int4
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class OMPDims(Transform):
    """Keep `dim` coordinates chosen one by one, each the one that explains most of what is left of the fit sample.

    decoder=True also fits the least-squares map from the kept coordinates to all. With that map in the form Q R, Q
    orthonormal, items keep R x_kept and queries become Q^T q, so that scores are those of the completed vectors under
    any metric. This is orthogonal matching pursuit, which in the linear case equals the method of Yasuda, Bateni,
    Chen, Fahrbach, Fu and Mirrokni, "Sequential Attention for Feature Selection", 2022.
    """

    name: ClassVar[str] = "omp_dims"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "transform"
    paper: ClassVar[str] = (
        "Yasuda, Bateni, Chen, Fahrbach, Fu, Mirrokni, Sequential Attention for Feature Selection, 2022"
    )
    formula: ClassVar[str] = (
        "dim coordinates per item; shared 2 dim (4 dim beyond 65536 coordinates); decoder=True: 4 d dim"
    )
    dim: int
    decoder: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is at least 1, got {self.dim}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        # Coordinates as they are share much: twice as many in four bits tell more than half of them in eight.
        found = in_turn(*(reduced(partial(cls, decoder=decoder), budget) for decoder in (True, False)))
        return sorted(found, key=lambda one: not (isinstance(one, Chain) and isinstance(one.method, Int4)))

    def shared_bytes(self, d: int) -> float:
        return 4.0 * d * self.dim if self.decoder else float(np.dtype(index_type(d)).itemsize * self.dim)

    def fit(self, sample: Sample) -> Arrays:
        vectors = learnable(self, sample, self.dim)
        gram = moment(vectors)
        chosen = picks(gram, self.dim)
        indices = chosen.astype(index_type(len(gram)))
        if not self.decoder:
            return {"indices": indices}
        completion = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], gram[chosen], rcond=1e-10)[0]
        # Kept coordinates are kept, whatever the solver says of them where they depend on each other.
        completion[:, chosen] = np.eye(self.dim)
        basis, mixing = np.linalg.qr(completion.T)
        return {"build/indices": indices, "build/mixing": mixing.astype(np.float32),
                "basis": np.ascontiguousarray(basis.T, np.float32)}  # fmt: skip

    def apply(self, items: Items, shared: Arrays) -> Items:
        if not self.decoder:
            return np.ascontiguousarray(as_vectors(items)[:, shared["indices"]])
        return map_rows(np.ascontiguousarray(as_vectors(items)[:, shared["build/indices"]]), shared["build/mixing"])

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        return map_queries(queries, shared["basis"]) if self.decoder else self.apply(queries, shared)


def picks(gram: Array, count: int) -> Array:
    """Return the coordinates in the order of their picks; once all is explained, those left over in their own order."""
    residual = gram.copy()
    own = np.diag(gram).copy()
    taken: list[int] = []
    while len(taken) < count:
        left = np.diag(residual)
        explains = np.einsum("ij,ij->j", residual, residual) / np.where(left > 0, left, 1)
        explains[left <= 1e-9 * own] = 0  # rounding is all that is left of it
        explains[taken] = 0
        best = int(np.argmax(explains))
        if explains[best] <= 0:
            break
        taken.append(best)
        column = residual[:, best].copy()
        residual -= np.outer(column, column / column[best])
    rest = np.setdiff1d(np.arange(len(gram)), taken)[: count - len(taken)]
    return np.concatenate([np.array(taken, np.int64), rest])
