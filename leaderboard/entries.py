"""Name the parts of a board: entries, tables of one budget, and the board of one data set on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packbench.items import Array
from packbench.leaderboard.stats import LEVEL, RESAMPLES, Interval

TIES_SHOWN = 0.01  # a wider interval over the legal orders of tied scores is shown beside the recall


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold one row of a table: a request at a budget, averaged over its seeds. Bytes are per item, except shared.

    name and label are what readers see for spec (or request, where none was reached) and for request: the same text,
    but for methods that a board must call otherwise. resident_bytes are those of the process while it searches, above
    what it held before; row_ids name the results behind the entry.
    """

    name: str
    label: str
    request: str
    spec: str | None
    method: str
    family: str
    fidelity: str
    kind: str
    seeds: tuple[int, ...]
    status: str = "ok"
    reason: str | None = None
    least_bytes: float | None = None
    rank: int | None = None
    group: str = ""
    deployed_bytes: float | None = None
    payload_bytes: float | None = None
    shared_bytes_in_all: float | None = None
    cold_bytes: float | None = None
    recall_at_10: Interval | None = None
    recall_of_float32: Interval | None = None
    recall_behind_first: Interval | None = None
    recall_over_ties: Interval | None = None
    ndcg_at_10: Interval | None = None
    ndcg_of_float32: Interval | None = None
    p50_ms: float | None = None
    speedup: Interval | None = None
    fit_seconds: float | None = None
    encode_seconds: float | None = None
    resident_bytes: float | None = None
    kernel: str | None = None
    row_ids: tuple[str, ...] = ()

    @property
    def wide_ties(self) -> Interval | None:
        """Return the recall over the legal orders of tied scores where the order matters."""
        ties = self.recall_over_ties
        return ties if ties is not None and ties.high - ties.low > TIES_SHOWN else None


@dataclass(frozen=True, slots=True)
class Table:
    """Hold one budget: the rows that made it, best first, and those that did not."""

    budget: float
    ranked: tuple[Entry, ...]
    absent: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Hold what may be compared: results on one version of one data set, on one machine, under one set of rules.

    outcomes are recall@10 per query (queries,) float64, averaged over seeds, by the request and budget of an entry.
    """

    dataset: str
    dataset_sha256: str
    n: int
    d: int
    metric: str
    queries: int
    judged: int | None
    fit_on: str
    fit_items: int
    deployment_n: int
    disk_budget: float
    search_threads: int
    build_threads: int
    tries: int
    machine: str
    machine_facts: str
    versions: tuple[str, ...]
    measured: tuple[str, str]
    notes: tuple[str, ...]
    references: tuple[Entry, ...]
    tables: tuple[Table, ...]
    outcomes: Mapping[tuple[str, float | None], Array] = field(default_factory=dict, repr=False, compare=False)

    def facts(self) -> list[tuple[str, str]]:
        """Return what a reader must know to read the tables, as labels and sentences."""
        fitted = {
            "disjoint": f"on {self.fit_items:,} vectors that are not among the items",
            "items": f"on {self.fit_items:,} of the searched items themselves",
        }.get(self.fit_on, f"on {self.fit_items:,} vectors ({self.fit_on})")
        judged = f"; {self.judged:,} of them have relevance judgements" if self.judged else ""
        first, last = self.measured
        sha256 = self.dataset_sha256[:12]
        data = f"{self.dataset}: n = {self.n:,} items, d = {self.d}, metric {self.metric}; sha256 {sha256}"
        facts = [
            ("Queries", f"{self.queries:,} test queries, asked once{judged}; configurations were chosen on separate "
                        f"validation queries, at most {self.tries} tried per method and budget"),
            ("Fit", f"methods were fitted {fitted}"),
            ("Bytes", f"B/item = payload + shared / {self.deployment_n:,} items (the deployment size); on disk beside "
                      f"that, at most {self.disk_budget:g} B/item"),
            ("Recall", "recall@10 is measured against exact search of the uncompressed vectors, ties in the true "
                       "distance counted as right"),
            ("Interval", f"{LEVEL:.0%}, paired bootstrap over queries (and seeds, where a cell has several), "
                         f"{RESAMPLES:,} resamples; the same resampled queries for every method"),
            ("Rank", "by recall@10. Rows that share a letter could not be told apart: paired t-test over queries, "
                     f"Holm-corrected over all pairs of the table, {1 - LEVEL:.0%}"),
            ("Fidelity", "blank where a row runs the published algorithm (EXACT)"),
            ("Speed", f"one query at a time, {self.search_threads} search thread{'s' * (self.search_threads > 1)} "
                      f"({self.build_threads} to build); the speed-up is against exact float32 search timed in turn in "
                      "the same process: median (low–high)"),
            ("Machine", self.machine_facts),
            ("Versions", " | ".join(self.versions)),
            ("Measured", first if first == last else f"{first} to {last}"),
        ]  # fmt: skip
        return [("Data", data), *(("Note", note) for note in self.notes), *facts]
