"""State the contract of a method: fit, encode, open; codecs that decode; transforms that go in front."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

import numpy as np

from packbench.budget import Budget
from packbench.items import Array, Items, as_vectors, blocks

Arrays = Mapping[str, Array]
Metric = str  # "ip", "cosine", "l2"; other tracks add theirs (see exact.METRICS)

COLD = "cold/"  # arrays so named stay on disk: memory-mapped at search, weighed in a column of their own
# How a method relates to the published algorithm, the furthest from it first; plug-ins may say nothing.
FIDELITIES = ("UNSTATED", "ANALOGUE", "TRANSFER", "READ-OUT", "EXACT")
STAGES = ("codes", "scan", "shortlist")  # what a waterfall of losses may tell apart, see Method.stages
BUILD = "build/"  # arrays so named serve encode only: never handed to open, so not memory at search time


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answer a batch of queries: ids (n_queries, k) int64 and scores float32, best first, -1 where there is none."""

    ids: Array
    scores: Array


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Give `fit` what it may learn from: items, the metric, and what else the data set offers.

    items are disjoint from the searched ones where the data set has a fit sample of its own; queries, pairs, labels
    and so on come from the fit split too, never from validation or test.
    """

    items: Items
    metric: Metric = "ip"
    queries: Items | None = None
    extras: Mapping[str, Array] = field(default_factory=dict)

    @property
    def provides(self) -> frozenset[str]:
        """Name what there is beyond item vectors."""
        return frozenset(self.extras) | (frozenset({"queries"}) if self.queries is not None else frozenset())


@runtime_checkable
class Searcher(Protocol):
    """Answer queries from what was saved. An attribute `kernel` names the code that served it, for the row."""

    def search(self, queries: Items, k: int) -> Hits: ...


class Method(ABC):
    """Turn items into arrays and search those arrays; a frozen configuration that holds no state.

    Subclasses are frozen dataclasses whose constructor only stores its arguments (and refuses the impossible). The
    first sentence of the docstring is what boards show.
    """

    __slots__ = ()

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()  # beyond item vectors: "queries", "pairs", "labels", "text", ...
    imports: ClassVar[tuple[str, ...]] = ()  # packages of an extra: without them its cells are `needs` rows
    late: ClassVar[tuple[str, ...]] = ()  # packages of the core that `fit` imports when called: they are slow to load
    fidelity: ClassVar[str] = "UNSTATED"  # EXACT, READ-OUT, ANALOGUE or TRANSFER
    kind: ClassVar[str] = "quantiser"  # control, quantiser, codec, transform, scorer
    paper: ClassVar[str] = ""
    formula: ClassVar[str] = ""  # bytes per item and shared, as a person writes them
    answers_whole: ClassVar[bool] = False  # which items it answers with depends on other items, as shortlists do
    tolerance: ClassVar[float] = 0.0  # share of code bytes that threads and SIMD may turn: sums round differently

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        """Yield configurations that fit, best guess first.

        The default suits a method without a knob: itself, where its formula fits or where it states none and the
        scales decide. Yielding a composition (``pca(dim=64) | int8()``) is fine.

        Raises:
            BudgetTooSmall: nothing fits; it carries the least bytes per item that would.
        """
        return budget.fitting([cls()]) if cls.planned_bytes is not Method.planned_bytes else [cls()]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        """Return bytes per item, shared in all, and cold per item by the published formula.

        Only `for_budget` reads this. The ledger weighs arrays, and a test holds the formula against the scales.
        """
        raise TypeError(f"{self.name} gives no byte formula, so write its for_budget without Budget.fitting")

    def fit(self, sample: Sample) -> Arrays:
        """Learn the shared arrays: codebooks, rotations, thresholds."""
        return {}

    def nests_by(self) -> str:
        """Return the field of which a greater value only adds to what `fit` learns, or nothing.

        A run then fits once for all budgets, and each configuration takes its own out of that by `cut`.
        """
        return ""

    def fitted_as(self) -> Method:
        """Return the configuration whose fit this one's is taken out of by `cut`, as fields differ that no fit reads.

        A run then fits once for all that name the same. It pays where a fit takes longer than a process to start.
        """
        return self

    def cut(self, shared: Arrays) -> Arrays:
        """Take what `fit` would return, to the last bit, out of the fit of `fitted_as`, or of a greater `nests_by`."""
        return shared

    @abstractmethod
    def encode(self, items: Items, shared: Arrays) -> Arrays:
        """Code items into arrays whose rows follow them (or values and offsets); a row must not depend on its batch."""

    @abstractmethod
    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        """Make the saved arrays searchable. Runs in a process that has seen nothing else."""

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        """Return what lies between exact search and this method's, in the order of STAGES, for the waterfall of losses.

        "codes" scores decoded vectors exactly; "scan" scores all codes as the method does, where it then leaves some
        out; "shortlist" is what a second stage orders anew. A method that cannot tell has none.
        """
        return {}

    def needed(self) -> frozenset[str]:
        """Return what this configuration needs: what the class says, unless it depends on an argument."""
        return self.needs

    def __str__(self) -> str:
        from packbench.spec import unparse

        return unparse(self)

    @classmethod
    def summary(cls) -> str:
        """Return the first sentence of the docstring."""
        text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        return text

    @classmethod
    def family(cls) -> str:
        """Return the folder of methods/ it lives in, or 'plugin'."""
        parts = cls.__module__.split(".")
        return parts[2] if parts[:2] == ["packbench", "methods"] and len(parts) > 2 else "plugin"


class Codec(Method):
    """Be a method that can turn its codes back into vectors, and so gets a correct search for free."""

    __slots__ = ()

    @abstractmethod
    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        """Return (n, d) float32 approximations of the coded vectors."""

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        """Score decoded blocks exactly; override it where codes can be scanned as they are."""
        from packbench.exact import DecodeSearcher

        return DecodeSearcher(self, codes, shared, metric)

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        from packbench.exact import DecodeSearcher

        return {"codes": DecodeSearcher(self, codes, shared, metric)}


class Transform(Method):
    """Map vectors to vectors in front of a method: ``pca(dim=128) | int8()``. Alone, it keeps float32 coordinates.

    A transform that is not linear through the origin says in `metric_after` which metric still ranks rightly
    among its outputs, and makes `apply` and `apply_queries` fit it.
    """

    __slots__ = ()
    kind: ClassVar[str] = "transform"
    tolerance: ClassVar[float] = 1e-4  # what is mapped lies now and then on the edge between two codes

    @abstractmethod
    def apply(self, items: Items, shared: Arrays) -> Items:
        """Map items."""

    def apply_queries(self, queries: Items, shared: Arrays) -> Items:
        """Map queries: as items, unless the method is asymmetric."""
        return self.apply(queries, shared)

    def dim_after(self, d: int) -> int:
        """Return the width of the mapped vectors."""
        return int(getattr(self, "dim", d))

    def metric_after(self, metric: Metric) -> Metric:
        """Return the metric under which mapped vectors are to be searched."""
        return metric

    def shared_bytes(self, d: int) -> float:
        """Return the bytes of the arrays from `fit`, by formula, for planning."""
        return 0.0

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return 4.0 * self.dim_after(d), self.shared_bytes(d), 0.0

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"vectors": cast(Array, self.apply(items, shared))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        from packbench.exact import ExactSearcher

        inner = ExactSearcher(codes["vectors"], self.metric_after(metric))
        return _TransformedSearcher((self,), (shared,), inner)

    def __or__(self, other: Method) -> Chain:
        return Chain((self,)) | other


@dataclass(frozen=True, slots=True, repr=False)
class Chain(Method):
    """Apply transforms in order, then code what comes out; written ``pca(dim=128) | int8()``."""

    name: ClassVar[str] = "chain"
    transforms: tuple[Transform, ...]
    method: Method | None = None  # none: the float32 coordinates themselves

    def __or__(self, other: Method) -> Chain:
        if self.method is not None:
            raise TypeError(f"{self.method} already codes the vectors; nothing can follow it in a composition")
        if isinstance(other, Chain):
            return Chain(self.transforms + other.transforms, other.method)
        if isinstance(other, Transform):
            return Chain((*self.transforms, other))
        if isinstance(other, Method):
            return Chain(self.transforms, other)
        return NotImplemented

    def _split(self) -> tuple[tuple[Transform, ...], Method]:
        if self.method is not None:
            return self.transforms, self.method
        return self.transforms[:-1], self.transforms[-1]

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        transforms, last = self._split()
        outer = 0.0
        for transform in transforms:
            outer += transform.shared_bytes(d)
            d = transform.dim_after(d)
        item, shared, cold = last.planned_bytes(d)
        return item, shared + outer, cold

    def fit(self, sample: Sample) -> Arrays:
        transforms, last = self._split()
        shared: dict[str, Array] = {}
        for position, transform in enumerate(transforms):
            fitted = transform.fit(sample)
            shared |= nest(_part(position, transform), fitted)
            sample = dataclasses.replace(
                sample,
                items=transform.apply(sample.items, fitted),
                queries=None if sample.queries is None else transform.apply_queries(sample.queries, fitted),
                metric=transform.metric_after(sample.metric),
            )
        return shared | nest(_part(len(transforms), last), last.fit(sample))

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        transforms, last = self._split()
        for position, transform in enumerate(transforms):
            items = transform.apply(items, unnest(_part(position, transform), shared))
        return last.encode(items, unnest(_part(len(transforms), last), shared))

    def inside(self, items: Items, codes: Arrays, shared: Arrays) -> tuple[Method, Items, Arrays, Arrays]:
        """Return the method that codes, and the items, codes and shared arrays as it knows them."""
        transforms, last = self._split()
        for transform, fitted in zip(transforms, self._fitted(shared), strict=True):
            items = transform.apply(items, fitted)
        return last, items, codes, unnest(_part(len(transforms), last), shared)

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        transforms, last = self._split()
        inner = last.open(codes, unnest(_part(len(transforms), last), shared), self._metric(metric))
        return _TransformedSearcher(transforms, self._fitted(shared), inner)

    def stages(self, codes: Arrays, shared: Arrays, metric: Metric) -> Mapping[str, Searcher]:
        transforms, last = self._split()
        inner = last.stages(codes, unnest(_part(len(transforms), last), shared), self._metric(metric))
        fitted = self._fitted(shared)
        return {name: _TransformedSearcher(transforms, fitted, searcher) for name, searcher in inner.items()}

    def _fitted(self, shared: Arrays) -> tuple[Arrays, ...]:
        return tuple(unnest(_part(at, transform), shared) for at, transform in enumerate(self._split()[0]))

    def _metric(self, metric: Metric) -> Metric:
        for transform in self._split()[0]:
            metric = transform.metric_after(metric)
        return metric


class _TransformedSearcher:
    """Map each query, then let the inner searcher answer."""

    def __init__(self, transforms: tuple[Transform, ...], fitted: tuple[Arrays, ...], inner: Searcher) -> None:
        self.kernel = getattr(inner, "kernel", "unstated")
        self._stages = list(zip(transforms, fitted, strict=True))
        self._inner = inner

    def search(self, queries: Items, k: int) -> Hits:
        for transform, fitted in self._stages:
            queries = transform.apply_queries(queries, fitted)
        return self._inner.search(queries, k)


def needs_of(method: Method) -> frozenset[str]:
    """Return what a configuration needs beyond item vectors, its parts included."""
    return method.needed().union(*(needs_of(part) for part in parts_of(method)))


def imports_of(method: Method) -> list[str]:
    """Return the packages beyond the core that a configuration imports, its parts included."""
    return sorted({*method.imports, *(name for part in parts_of(method) for name in imports_of(part))})


def parts_of(method: Method) -> list[Method]:
    """Return the methods that a composite method is made of, in order; none for a plain one."""
    parts: list[Method] = []
    for entry in dataclasses.fields(cast(Any, method)):
        value = getattr(method, entry.name)
        parts += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Method)]
    return parts


def reseed(method: Method, seed: int) -> Method:
    """Return the method with `seed` added to each of its seeds, so that seed 0 leaves a spec as written."""
    if seed == 0:
        return method
    changes: dict[str, Any] = {}
    for entry in dataclasses.fields(cast(Any, method)):
        value = getattr(method, entry.name)
        if entry.name == "seed":
            changes["seed"] = value + seed
        elif isinstance(value, Method):
            changes[entry.name] = reseed(value, seed)
        elif isinstance(value, tuple) and any(isinstance(part, Method) for part in value):
            changes[entry.name] = tuple(reseed(part, seed) if isinstance(part, Method) else part for part in value)
    return cast(Method, dataclasses.replace(cast(Any, method), **changes)) if changes else method


def _part(position: int, method: Method) -> str:
    return f"{position}.{method.name}"


def _tier(key: str) -> tuple[str, str]:
    for tier in (COLD, BUILD):
        if key.startswith(tier):
            return tier, key[len(tier) :]
    return "", key


def nest(part: str, arrays: Arrays) -> dict[str, Array]:
    """Prefix the names of one part's arrays, leaving the tier in front: cold/1.int8/codes."""
    return {f"{tier}{part}/{rest}": value for key, value in arrays.items() for tier, rest in [_tier(key)]}


def unnest(part: str, arrays: Arrays) -> dict[str, Array]:
    """Take out one part's arrays under their own names."""
    found: dict[str, Array] = {}
    for key, value in arrays.items():
        tier, rest = _tier(key)
        if rest.startswith(part + "/"):
            found[tier + rest[len(part) + 1 :]] = value
    return found


def rows_of(codes: Arrays, rows: slice | Array) -> dict[str, Array]:
    """Take rows, as a slice or by number, of arrays whose rows follow the items."""
    return {name: array[rows] for name, array in codes.items()}


def encode_blocks(method: Method, items: Array, shared: Arrays, rows: int = 65536) -> dict[str, Array]:
    """Encode in blocks of rows and put the codes together, for methods whose working memory is many times the input."""
    pieces = [method.encode(as_vectors(items[part]), shared) for part in blocks(len(items), rows)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


__all__ = [
    "BUILD", "COLD", "FIDELITIES", "STAGES", "Arrays", "Chain", "Codec", "Hits", "Method", "Metric", "Sample",
    "Searcher", "Self", "Transform", "encode_blocks", "imports_of", "needs_of", "nest", "parts_of", "reseed",
    "rows_of", "unnest",
]  # fmt: skip
