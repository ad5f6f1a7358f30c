"""Name the parts of a board: entries, tables of one budget, and the board of one data set on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packbench.errors import BadInput
from packbench.items import Array
from packbench.leaderboard.curves import Bytes
from packbench.leaderboard.stats import LEVEL, MARGIN, RESAMPLES, Interval

TIES_SHOWN = 0.01  # a wider interval over the legal orders of tied scores is shown beside the recall


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold one row of a table: a request at a budget, averaged over its seeds. Bytes are per item, except shared.

    name and label are what readers see for spec (or request, where none was reached) and for request: the same text,
    but for methods that a board must call otherwise. resident_bytes are those of the process while it searches, above
    what it held before; row_ids name the results behind the entry. waterfall takes what is lost against float32 apart:
    by coding, by scoring codes otherwise than exactly, by looking at some alone, and what rescoring wins back, steps
    that sum to the whole for each query. recall_on_hardest is recall@10 on the quarter of queries that the rows of the
    table find hardest; flags say what looks broken in the codes, whatever the recall. lossless says that recall was
    shown to be within the margin of float32's (None: nothing to compare with); won, tied and lost count the other rows
    of the table.
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
    waterfall: tuple[tuple[str, Interval], ...] = ()
    recall_on_hardest: float | None = None
    flags: tuple[str, ...] = ()
    lossless: bool | None = None
    won: int | None = None
    tied: int | None = None
    lost: int | None = None

    @property
    def wide_ties(self) -> Interval | None:
        """Return the recall over the legal orders of tied scores where the order matters."""
        ties = self.recall_over_ties
        return ties if ties is not None and ties.high - ties.low > TIES_SHOWN else None


@dataclass(frozen=True, slots=True)
class Table:
    """Hold one budget: the rows that made it, best first, and those that did not.

    apart (ranked, ranked) bool says which of the ranked rows could be told apart.
    """

    budget: float
    ranked: tuple[Entry, ...]
    absent: tuple[Entry, ...]
    apart: Array | None = field(default=None, repr=False, compare=False)

    def outcome(self, request: str, other: str) -> str:
        """Return win, tie or loss of one request against another; who has no row loses to who has one.

        Raises:
            BadInput: the table has no such request.
        """
        places = {entry.request: at for at, entry in enumerate(self.ranked)}
        known = {*places, *(entry.request for entry in self.absent)}
        for asked in (request, other):
            if asked not in known:
                raise BadInput(f"request {asked}: not in this table; it has {', '.join(sorted(known))}")
        at, to = (places.get(asked, len(places)) for asked in (request, other))
        if at == to or (max(at, to) < len(places) and self.apart is not None and not self.apart[at, to]):
            return "tie"
        return "win" if at < to else "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Hold what one request did over all budgets of a board.

    bytes_for are the bytes that shares of float32's recall take, area the mean recall over log2(bytes) between the
    least and the largest budget. safe_budget is the least budget shown to lose less than the margin; without one,
    queries_needed is about how many queries would show it at the largest budget, None where the loss seems to be more.
    lossless names the budgets where recall was shown to be within the margin of float32's.
    """

    request: str
    label: str
    bytes_for: tuple[Bytes, ...] = ()
    area: Interval | None = None
    safe_budget: float | None = None
    queries_needed: int | None = None
    lossless: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Hold what may be compared: results on one version of one data set, on one machine, under one set of rules.

    outcomes are recall@10 per query (queries,) float64, averaged over seeds, by the request and budget of an entry;
    draws are the means of recall@10 in each resample (resamples,), by the same. float32 is the entry that fractions
    are taken of, margin what may be lost against it, summaries follow each request over its budgets, best area first.
    reference_curve is recall@10 by bytes per item of a code that would be optimal if the vectors were Gaussian.
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
    draws: Mapping[tuple[str, float | None], Array] = field(default_factory=dict, repr=False, compare=False)
    float32: tuple[str, float | None] | None = None
    margin: float = MARGIN
    summaries: tuple[Summary, ...] = ()
    reference_curve: tuple[tuple[float, Interval], ...] = ()

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
                       "distance counted as right; where the scores of a method tie, its expectation over their "
                       "legal orders"),
            ("Interval", f"{LEVEL:.0%}, paired bootstrap over queries (and seeds, where a cell has several), "
                         f"{RESAMPLES:,} resamples; the same resampled queries for every method"),
            ("Rank", "by recall@10, by its expectation where scores tie. Rows that share a letter could not be told "
                     f"apart: paired t-test over queries, Holm-corrected over all pairs of the table, {1 - LEVEL:.0%}, "
                     "or a legal order of tied scores would reverse them"),
            ("Lossless", f"recall@10 shown to be within {self.margin:g} of float32's: two one-sided tests at "
                         f"{1 - LEVEL:.0%}, with one query added on which all is lost (docs/statistics.md)"),
            ("Curves", "B for 95%: bytes per item that 95% of float32's recall@10 takes, on a line through the rows; "
                       "area: the mean of recall@10 over log2(bytes), 0 below the first row; safe budget: the least "
                       f"shown, stepping down from the largest, to lose less than {self.margin:g}"),
            *self._reference_facts(),
            ("Fidelity", "blank where a row runs the published algorithm (EXACT)"),
            ("Speed", f"one query at a time, {self.search_threads} search thread{'s' * (self.search_threads > 1)} "
                      f"({self.build_threads} to build); the speed-up is against exact float32 search timed in turn in "
                      "the same process: median (low–high)"),
            ("Machine", self.machine_facts),
            ("Versions", " | ".join(self.versions)),
            ("Measured", first if first == last else f"{first} to {last}"),
        ]  # fmt: skip
        return [("Data", data), *(("Note", note) for note in self.notes), *facts]

    def _reference_facts(self) -> list[tuple[str, str]]:
        curve = ", ".join(f"{recall.value:.3f} at {size:g} B" for size, recall in self.reference_curve)
        told = "of codes optimal for Gaussian vectors of this covariance, simulated: a reference, not a bound, for real"
        return [("Gaussian", f"recall@10 {curve}, {told} vectors are not Gaussian")] if curve else []
