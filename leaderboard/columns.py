"""List the columns of a table once, for every form a board is shown in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from packbench.leaderboard.across import Across, Overall
from packbench.leaderboard.curves import Bytes
from packbench.leaderboard.entries import Board, Entry, Summary, Table
from packbench.leaderboard.stats import Interval

NONE = "–"
STEP_SHOWN = 0.0005  # smaller steps of a waterfall round to nothing


@dataclass(frozen=True, slots=True)
class Column:
    """Say what a column is called, what it means, and how an entry fills it.

    keep orders what a narrow terminal leaves out: the lowest goes first. rare columns are shown only where filled.
    """

    key: str
    heading: str
    meaning: str
    keep: int
    text: Callable[[Entry], str]
    number: Callable[[Entry], float | None] | None = None
    rare: bool = False


def short(value: float | None) -> str:
    """Write a positive number in about three digits."""
    if value is None:
        return NONE
    if 0 < value < 0.0005:
        return "<0.001"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def fixed(value: float | None, digits: int = 2) -> str:
    """Write a number with so many decimals."""
    return NONE if value is None else f"{value:,.{digits}f}"


def _interval(of: Interval | None) -> str:
    return NONE if of is None else f"{of.value:.4f} [{of.low:.4f}, {of.high:.4f}]"


def _percent(of: Interval | None) -> str:
    return NONE if of is None else f"{100 * of.value:.2f}"


def _speedup(of: Interval | None) -> str:
    return NONE if of is None else f"{short(of.value)}× ({short(of.low)}–{short(of.high)})"


def _value(of: Interval | None) -> float | None:
    return None if of is None else of.value


def _ties(entry: Entry) -> str:
    ties = entry.wide_ties
    return "" if ties is None else f"{ties.value:.3f} ({ties.low:.3f}–{ties.high:.3f})"


def _waterfall(entry: Entry) -> str:
    if len(entry.waterfall) < 2:
        return ""  # a method that cannot be taken apart loses what it loses
    steps = [(name, step.value) for name, step in entry.waterfall if abs(step.value) >= STEP_SHOWN]
    return ", ".join(f"{name} {value:+.3f}" for name, value in steps)


COLUMNS = (
    Column("rank", "#", "rank and group; rows that share a letter could not be told apart", 100,
           lambda e: f"{e.rank} {e.group}" if e.rank else "ref", lambda e: e.rank),
    Column("spec", "method", "the configuration that was measured", 100, lambda e: e.name),
    Column("fidelity", "fidelity", "how it relates to the published algorithm; blank is EXACT", 86,
           lambda e: "" if e.fidelity == "EXACT" else e.fidelity, rare=True),
    Column("recall", "recall@10 [95%]", "found among the true ten nearest, with its 95% interval", 100,
           lambda e: _interval(e.recall_at_10), lambda e: _value(e.recall_at_10)),
    Column("ties", "over ties", "recall@10 expected over the legal orders of equal scores (worst–best), if wide",
           84, _ties, lambda e: _value(e.wide_ties), True),
    Column("recall_kept", "recall % f32", "recall@10 as a percentage of float32's", 50,
           lambda e: _percent(e.recall_of_float32), lambda e: _value(e.recall_of_float32)),
    Column("lossless", "lossless", "recall@10 shown to be within the margin of float32's", 45,
           lambda e: "lossless" if e.lossless else "", rare=True),
    Column("ndcg", "nDCG@10", "against relevance judgements", 83,
           lambda e: fixed(_value(e.ndcg_at_10), 4), lambda e: _value(e.ndcg_at_10), True),
    Column("ndcg_kept", "nDCG % f32", "nDCG@10 as a percentage of float32's", 70,
           lambda e: _percent(e.ndcg_of_float32), lambda e: _value(e.ndcg_of_float32), True),
    Column("deployed_bytes", "B/item", "bytes per item in memory at the deployment size: payload + its part of shared",
           90, lambda e: fixed(e.deployed_bytes), lambda e: e.deployed_bytes),
    Column("payload_bytes", "payload", "bytes stored per item", 80, lambda e: fixed(e.payload_bytes, 1),
           lambda e: e.payload_bytes),
    Column("shared_bytes", "shared B", "bytes of codebooks, rotations and the like, in all", 78,
           lambda e: fixed(e.shared_bytes_in_all, 0), lambda e: e.shared_bytes_in_all),
    Column("cold_bytes", "disk", "bytes per item kept on disk", 76, lambda e: fixed(e.cold_bytes, 1),
           lambda e: e.cold_bytes),
    Column("p50_ms", "p50 ms", "median time of one query", 65, lambda e: short(e.p50_ms), lambda e: e.p50_ms),
    Column("speedup", "vs float32", "speed-up against exact float32 search: median (low–high)", 85,
           lambda e: _speedup(e.speedup), lambda e: _value(e.speedup)),
    Column("fit_seconds", "fit s", "seconds to fit", 55, lambda e: short(e.fit_seconds), lambda e: e.fit_seconds),
    Column("encode_seconds", "encode s", "seconds to encode all items", 52, lambda e: short(e.encode_seconds),
           lambda e: e.encode_seconds),
    Column("resident_bytes", "search MB", "resident megabytes of the searching process, above what it began with", 54,
           lambda e: fixed(None if e.resident_bytes is None else e.resident_bytes / 1e6, 1),
           lambda e: e.resident_bytes),
    Column("hardest", "hardest ¼", "recall@10 on the quarter of queries that this table's rows find hardest", 44,
           lambda e: fixed(e.recall_on_hardest, 3), lambda e: e.recall_on_hardest, True),
    Column("waterfall", "lost by", "where recall@10 goes against float32: coding, scoring, lists, rescoring", 42,
           lambda e: _waterfall(e), rare=True),
    Column("flags", "red flags", "what looks broken in the codes, whatever the recall", 82,
           lambda e: "; ".join(e.flags), rare=True),
    Column("seeds", "seeds", "seeds averaged", 35, lambda e: str(len(e.seeds)), lambda e: len(e.seeds), True),
    Column("family", "family", "folder of methods/ that it lives in", 30, lambda e: e.family),
    Column("kernel", "kernel", "code that served the search", 20, lambda e: e.kernel or NONE),
    Column("status", "status", "ok, or why there is no figure", 10, lambda e: e.status),
)  # fmt: skip


def detail(column: Column, entry: Entry) -> str:
    """Return what a page says of a figure when it is pointed at; empty where there is no more to say."""
    behind = entry.recall_behind_first
    if column.key == "recall" and behind is not None and entry.rank != 1:
        return f"against the first row: {_interval(behind)}"
    return _interval(entry.ndcg_at_10) if column.key == "ndcg" and entry.ndcg_at_10 else ""


def columns_of(board: Board) -> tuple[Column, ...]:
    """Return the columns that this board fills."""
    entries = [*board.references, *(entry for table in board.tables for entry in table.ranked)]
    return tuple(column for column in COLUMNS if not column.rare or _used(column, entries))


def _used(column: Column, entries: Iterable[Entry]) -> bool:
    if column.key == "seeds":
        return any(len(entry.seeds) > 1 for entry in entries)
    return any(column.text(entry) not in ("", NONE) for entry in entries)


def title_of(table: Table) -> str:
    """Return the heading of a table."""
    return f"{table.budget:g} bytes per item"


def why(entry: Entry) -> str:
    """Return why an entry has no figures."""
    return entry.reason or "no reason given"


def _bytes(of: Bytes) -> str:
    def size(value: float | None) -> str:
        return f">{of.largest:g}" if value is None else f"≤{short(value)}" if value <= of.least else short(value)

    value, low, high = size(of.value), size(of.low), size(of.high)
    return value if low == high else f"{value} [{low}, {high}]"


def _safe(of: Summary) -> str:
    if of.safe_budget is not None:
        return f"{of.safe_budget:g}"
    if not of.bytes_for:
        return NONE
    return "no" if of.queries_needed is None else f"inconclusive: {of.queries_needed:,} queries"


def summary_cells(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of what each method did over all budgets."""
    shares = next((of.bytes_for for of in board.summaries if of.bytes_for), ())
    headings = ["method", *(f"B for {of.share:.0%}" for of in shares), "area [95%]"]
    headings += ["safe budget", "lossless budgets"] if shares else []
    rows = []
    for of in board.summaries:
        row = [of.label, *map(_bytes, of.bytes_for), _area(of.area)]
        rows.append(row + ([_safe(of), " ".join(f"{budget:g}" for budget in of.lossless)] if shares else []))
    return headings, rows


def _area(of: Interval | None) -> str:
    return NONE if of is None else f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]"


def across_cells(of: Across, rows: Iterable[Overall]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of one budget over several data sets."""
    return ["#", "method", "of float32 [95%]", "data sets", "won–tied–lost", "missed"], [
        [str(row.rank), row.label, _interval(row.relative), f"{row.held} of {len(of.datasets)}",
         f"{row.won}–{row.tied}–{row.lost}", ", ".join(row.missed)]
        for row in rows
    ]  # fmt: skip


def across_title(of: Across, budget: float) -> str:
    """Return the heading of a budget over several data sets."""
    return f"{len(of.datasets)} data sets, {budget:g} bytes per item"


def across_facts(of: Across) -> str:
    """Return what a reader must know to read the tables over several data sets."""
    left = f" Left out, as float32 has no row there: {', '.join(of.left_out)}." if of.left_out else ""
    return (
        f"Over {', '.join(of.datasets)}: mean of recall@10 as a fraction of float32's, with its 95% interval over "
        "data sets, queries and seeds; a data set without a figure counts as 0, and who misses one stands below all "
        f"who miss none; won–tied–lost against every other method of the budget on each data set.{left}"
    )
