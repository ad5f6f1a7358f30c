"""Hold one data set: items to search, a fit sample, queries for choosing and for testing, and what is known of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from packbench.errors import BadInput
from packbench.exact import score_of
from packbench.items import Array, Items, blocks, check_finite, take, to_arrays, width
from packbench.method import Metric, Sample

Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Bundle what a run needs of a data set. Nothing in it is normalised, sorted or cut silently.

    fit is disjoint from items where the data set has a sample of its own (`fit_on` says "disjoint"), and otherwise is
    drawn from the items ("items"). Test and validation queries are disjoint. self_rows (n_queries,) int64 names for
    each query the item that is the query itself and is therefore no answer to it, -1 where there is none.
    """

    name: str
    metric: Metric
    items: Items
    fit: Items
    queries: Items
    validation: Items
    fit_queries: Items | None = None
    fit_extras: Mapping[str, Array] = field(default_factory=dict)
    fit_on: str = "disjoint"
    item_ids: Sequence[str] | None = None
    query_ids: Sequence[str] | None = None
    qrels: Qrels | None = None
    self_rows: Array | None = None
    validation_self_rows: Array | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        score_of(self.metric)
        for what, part in self.parts().items():
            if len(part) == 0:
                raise BadInput(f"data set {self.name}: its {what} are empty; at least one row is needed")
            if width(part) != width(self.items):
                raise BadInput(
                    f"data set {self.name}: {what} have {width(part)} dimensions, items {width(self.items)}; "
                    "both must come from the same encoder"
                )
            check_finite(part, f"data set {self.name}, {what}")
        for what, rows, queries in (
            ("self_rows", self.self_rows, self.queries),
            ("validation_self_rows", self.validation_self_rows, self.validation),
        ):
            if rows is not None and (len(rows) != len(queries) or rows.min() < -1 or rows.max() >= len(self.items)):
                raise BadInput(f"data set {self.name}: {what} must name one item row (or -1) for each query")
        if self.qrels is not None:
            self._check_qrels(self.qrels)

    def _check_qrels(self, qrels: Qrels) -> None:
        if self.item_ids is None or self.query_ids is None:
            raise BadInput(f"data set {self.name}: relevance judgements need ids of items and queries")
        known = set(self.item_ids)
        if len(known) != len(self.item_ids):
            seen: set[str] = set()
            twice = next(name for name in self.item_ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise BadInput(f"data set {self.name}: the document id {twice!r} occurs twice; ids must be unique")
        for query, judged in qrels.items():
            unknown = [document for document in judged if document not in known]
            if unknown:
                raise BadInput(
                    f"data set {self.name}: the judgements of query {query!r} name {len(unknown)} unknown documents, "
                    f"{unknown[0]!r} first; qrels and corpus do not belong together"
                )
        if not set(qrels) & set(self.query_ids):
            raise BadInput(f"data set {self.name}: no query has a judgement; qrels and queries do not belong together")

    def parts(self) -> dict[str, Items]:
        """Return the arrays of items by the role they play."""
        parts = {"items": self.items, "fit": self.fit, "queries": self.queries, "validation": self.validation}
        return parts | ({"fit_queries": self.fit_queries} if self.fit_queries is not None else {})

    @property
    def n(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def d(self) -> int:
        """Return the number of dimensions."""
        return width(self.items)

    @property
    def sample(self) -> Sample:
        """Return what methods may fit on."""
        return Sample(self.fit, self.metric, self.fit_queries, self.fit_extras)

    def sha256(self) -> str:
        """Hash everything that a result depends on, so that a changed data set is another data set."""
        digest = hashlib.sha256(f"{self.metric} {self.fit_on}".encode())
        for what, part in self.parts().items():
            hash_items(digest, what, part)
        for what, rows in (("self", self.self_rows), ("validation_self", self.validation_self_rows)):
            if rows is not None:
                hash_items(digest, what, rows)
        if self.qrels is not None:
            judged = json.dumps([self.qrels, list(self.item_ids or ()), list(self.query_ids or ())], sort_keys=True)
            digest.update(judged.encode())
        return digest.hexdigest()


def hash_items(digest: Any, what: str, items: Items) -> None:
    """Feed items to a hash: shapes, types and bytes, block by block."""
    for name, array in to_arrays(items).items():
        digest.update(f"{what} {name} {array.shape} {array.dtype.str}".encode())
        for rows in blocks(len(array), 16384):
            digest.update(np.ascontiguousarray(array[rows]).data)


def from_vectors(
    items: Items,
    queries: Items | None = None,
    *,
    name: str = "vectors",
    metric: Metric = "ip",
    fit: Items | None = None,
    held_out: int | None = None,
    seed: int = 0,
    card: Mapping[str, Any] | None = None,
) -> Dataset:
    """Make a data set of one's own vectors, with no code and no labels.

    Without queries, `held_out` random rows (by default a tenth, at most 1,500) leave the items and serve as queries.
    A third of the queries, at most 500, choose configurations; the others test. Without a fit sample, methods fit on
    at most 100,000 random items.

    Raises:
        BadInput: too few rows, or shapes that do not belong together.
    """
    rng = np.random.default_rng(seed)
    notes: dict[str, Any] = dict(card or {})
    if queries is None:
        count = min(1500, len(items) // 10) if held_out is None else held_out
        if not 2 <= count < len(items):
            raise BadInput(
                f"data set {name}: {len(items)} items and no queries; holding out {count} rows as queries leaves too "
                "little. Give --queries FILE, or at least 20 items"
            )
        order = rng.permutation(len(items))
        chosen, kept = np.sort(order[:count]), np.sort(order[count:])
        items, queries = take(items, kept), take(items, chosen)
        notes["held_out"] = count
    if len(queries) < 2:
        raise BadInput(f"data set {name}: {len(queries)} query; at least 2 are needed, one to choose and one to test")
    order = rng.permutation(len(queries))
    choosing = max(1, min(500, len(queries) // 3))
    fit_on = "items" if fit is None else "disjoint"
    if fit is None:
        fit = items if len(items) <= 100_000 else take(items, np.sort(rng.permutation(len(items))[:100_000]))
    return Dataset(
        name=name,
        metric=metric,
        items=items,
        fit=fit,
        fit_on=fit_on,
        queries=take(queries, np.sort(order[choosing:])),
        validation=take(queries, np.sort(order[:choosing])),
        card=notes,
    )
