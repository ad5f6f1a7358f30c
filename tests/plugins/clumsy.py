"""Methods with one fault each; the name is the check of the contract that has to find it."""

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from packbench import BudgetTooSmall, Codec, Hits, register
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
@dataclass(frozen=True)
class Undocumented(Half):
    name = "documentation"


@register
@dataclass(frozen=True)
class Unreadable(Half):
    """Have a configuration that no text builds."""

    name = "spec_round_trip"
    table: object = frozenset({1})

    def __str__(self):
        return f"{self.name}(table=frozenset())"


@register
@dataclass(frozen=True)
class Misplanned(Half):
    """Round half bytes down where the code rounds up."""

    name = "planned_bytes_are_those_weighed"

    def planned_bytes(self, d):
        return 4.0 * (d // 2), 0.0, 0.0


@register
@dataclass(frozen=True)
class Restless(Half):
    """Draw other numbers each time."""

    name = "same_bytes_for_a_seed"

    def fit(self, sample):
        return {"build/offset": np.random.default_rng().standard_normal(1)}


@register
@dataclass(frozen=True)
class Unnested(Half):
    """Say that scales nest, and learn others where there are more of them."""

    name = "a_smaller_configuration_is_cut_out_of_a_larger"
    scales: int = 2

    def planned_bytes(self, d):
        return 2.0 * d, 4.0 * self.scales, 0.0

    def fit(self, sample):
        return {"scales": np.arange(self.scales, dtype=np.float32) / self.scales}

    def nests_by(self):
        return "scales"

    def cut(self, shared):
        return {"scales": shared["scales"][: self.scales]}


@register
@dataclass(frozen=True)
class Careless(Half):
    """Scale the vectors that it was handed."""

    name = "inputs_are_accepted_and_left_alone"

    def encode(self, items, shared):
        codes = super().encode(items, shared)
        if items.flags.writeable:
            items *= 2
        return codes


@register
@dataclass(frozen=True)
class Credulous(Half):
    """Take whatever numbers come."""

    name = "nan_and_infinity_are_refused"

    def encode(self, items, shared):
        return {"codes": np.asarray(items, np.float16)}


@register
@dataclass(frozen=True)
class Undivided(Half):
    """Divide by norms that may be zero."""

    name = "degenerate_items"

    def encode(self, items, shared):
        with np.errstate(invalid="ignore"):
            vectors = as_vectors(items)
            return {"codes": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)}


class Reversed:
    kernel = "reversed"

    def __init__(self, inner):
        self.inner = inner

    def search(self, queries, k):
        found = self.inner.search(queries, k)
        return Hits(found.ids, -found.scores)


@register
@dataclass(frozen=True)
class WorstFirst(Half):
    """Return scores of which lower ones are better."""

    name = "k_distinct_ids_best_first"

    def open(self, codes, shared, metric):
        return Reversed(ExactSearcher(self.decode(codes, shared), metric))


@register
@dataclass(frozen=True)
class OneMetric(Half):
    """Rank by the inner product, whatever is asked."""

    name = "quality_is_above_chance"

    def open(self, codes, shared, metric):
        scorer = ExactSearcher(self.decode(codes, shared), metric)
        return scorer if metric == "ip" else ExactSearcher(-self.decode(codes, shared), metric)


@register
@dataclass(frozen=True)
class Crowded(Half):
    """Fail where there are no items."""

    name = "one_item_and_none"

    def encode(self, items, shared):
        first, *others = as_vectors(items).astype(np.float16)
        return {"codes": np.array([first, *others])}


@register
@dataclass(frozen=True)
class Fragile(Half):
    """Take the process down where the sample is small."""

    name = "small_samples_never_crash"

    def fit(self, sample):
        if len(sample.items) < 50:
            os.abort()
        return {}


@register
@dataclass(frozen=True)
class Fickle(Half):
    """Fit a budget and not a larger one."""

    name = "more_bytes_never_yield_nothing"

    @classmethod
    def for_budget(cls, budget):
        if budget.bytes_per_item > 300:
            raise BudgetTooSmall(2 * budget.bytes_per_item)
        return budget.fitting([cls()])


@register
@dataclass(frozen=True)
class Unconfigured(Half):
    """Need an argument and find none for any budget."""

    name = "gives_a_configuration"
    bits: int

    @classmethod
    def for_budget(cls, budget):
        raise BudgetTooSmall(1e9)


@register
@dataclass(frozen=True)
class Lethal(Half):
    """Read what is not its own."""

    name = "survives_in_processes_of_its_own"

    def fit(self, sample):
        ctypes.string_at(0)
