"""Say what fits in memory: bytes(n) = fixed + marginal n, weighed at two sizes and checked at a third.

What is found at such sizes is not extrapolated: `measured` says at which size it is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from packbench import artefact, registry
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array
from packbench.leaderboard.board import load
from packbench.leaderboard.stats import Interval
from packbench.method import Method
from packbench.serve import require_imports
from packbench.spec import parse_request
from packbench.testing import MethodChecks

SIZES = (500, 1500)
CHECKED = 4000
FIT = 1500
TOLERANCE = 0.02
ROWS = (1_000_000, 10_000_000, 100_000_000)
FORMATS = ("float32()", "float16()", "int8()", "int4()", "rabitq()", "sign()")
NAMES = ("pq", "opq")  # solved for the memory at each number of rows, where memory is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Hold the bytes of a method's arrays in memory as a line through what two sizes weigh.

    fixed is bytes in all and marginal bytes per item; cold is bytes per item on disk. weighed is what the third size,
    CHECKED items, came to.
    """

    spec: str
    d: int
    fixed: float
    marginal: float
    cold: float
    weighed: int

    def nbytes(self, n: int) -> float:
        """Return the bytes of n items. Beyond CHECKED that is an extrapolation."""
        return self.fixed + self.marginal * n

    @property
    def error(self) -> float:
        """Return how far the line lies from what CHECKED items weigh, as a share of it: above 0 it says too much."""
        return self.nbytes(CHECKED) / self.weighed - 1

    @property
    def holds(self) -> bool:
        """Tell whether the check came out within 2 %: then bytes grow by the item, and the line may be used."""
        return abs(self.error) <= TOLERANCE

    def items_in(self, memory_bytes: int) -> int:
        """Return the most items whose arrays fit in so many bytes, by the line."""
        return max(0, math.floor((memory_bytes - self.fixed) / self.marginal))


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold recall@10 of a spec with its interval, the data set it was measured on and how many items that has."""

    recall: Interval
    dataset: str
    n: int

    def to_text(self) -> str:
        """Return it as a person reads it."""
        interval = f"{self.recall.value:.3f} ({self.recall.low:.3f} to {self.recall.high:.3f})"
        return f"recall@10 {interval} on {self.dataset}, not measured beyond n = {self.n:,}"


def measured(results: str | Path, d: int) -> dict[str, Measured]:
    """Return by spec what a directory of results knows at d dimensions, each at the largest n where it was measured.

    Raises:
        BadInput: there are no results in the directory, none of vectors of d dimensions, or some that cannot be read.
    """
    boards = load(results)
    if all(board.d != d for board in boards):
        known = ", ".join(map(str, sorted({board.d for board in boards})))
        raise BadInput(
            f"results {results}: none at d={d}, only at {known}; give --d as it was measured, or no --results"
        )
    found: dict[str, Measured] = {}
    for board in sorted((board for board in boards if board.d == d), key=lambda board: board.n):
        for entry in (*board.references, *(one for table in board.tables for one in table.ranked)):
            if entry.spec is not None and entry.recall_at_10 is not None:
                found[entry.spec] = Measured(entry.recall_at_10, board.dataset, board.n)
    return found


def footprint(method: Method, d: int, seed: int = 0) -> Footprint:
    """Fit a method on 1,500 seeded vectors of d coordinates, code 500, 1,500 and 4,000 others, and weigh each.

    Raises:
        BadInput: a package is not installed, or the method cannot code such vectors.
    """
    require_imports(method)
    items = embeddings(FIT + CHECKED + 50, d, seed)
    sample = MethodChecks().sample_of(items[:FIT], items[-50:], "ip")
    try:
        shared = artefact.checked(method.fit(sample), "fit")
        few, more, check = (_weighed(method, items[FIT:][:n], shared) for n in (*SIZES, CHECKED))
    except Exception as error:
        raise BadInput(f"{method} cannot be weighed at d={d}: {type(error).__name__}: {error}") from error
    marginal = (_memory(more) - _memory(few)) / (SIZES[1] - SIZES[0])
    return Footprint(
        spec=str(method), d=d, fixed=_memory(few) - marginal * SIZES[0], marginal=marginal, cold=check.cold,
        weighed=_memory(check),
    )  # fmt: skip


def embeddings(n: int, d: int, seed: int = 0) -> Array:
    """Return n unit vectors (n, d) float32 whose variance falls as 1/i along random axes, as that of encoders does."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    rows = (rng.standard_normal((n, d)) / np.sqrt(np.arange(1, d + 1))) @ axes
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def capacity(
    methods: Sequence[str] | None = None,
    *,
    rows: Sequence[int] = ROWS,
    memory_bytes: int | None = None,
    d: int = 384,
    plugins: Sequence[str] = (),
) -> tuple[list[Footprint], list[str]]:
    """Return a footprint of each method, and notes on names that fit no configuration.

    Args:
        methods: specs, and with memory_bytes also names, which are solved for that memory at each number of rows where
            float32 itself does not fit; by default plain formats, signs, RaBitQ and product codes.
        rows: how many items are to be held.
        memory_bytes: what they are to fit in.
        d: dimensions of a vector.
        plugins: Python files whose methods to add.

    Raises:
        BadInput: a spec that does not parse, a name without memory, or a number below 1.
    """
    for word, value in (("d", d), *(("rows", n) for n in rows)):
        if value < 1:
            raise BadInput(f"capacity: {word} {value}: expected at least 1")
    for plugin in plugins:
        registry.load_plugin(plugin)
    requests = methods or (*FORMATS, *(NAMES if memory_bytes is not None else ()))
    notes: list[str] = []
    chosen: dict[Method, None] = {}
    for request in requests:
        found = parse_request(request)
        if isinstance(found, Method):
            chosen[found] = None
        elif memory_bytes is None:
            raise BadInput(
                f"capacity of {request}: a name is solved for memory, so give --memory 8GB, or a spec (`packbench info "
                f"{request}` shows its arguments)"
            )
        else:
            chosen |= dict.fromkeys(_solved(found, rows, memory_bytes, d, notes))
    return [footprint(method, d) for method in chosen], notes


def _solved(cls: type[Method], rows: Sequence[int], memory_bytes: int, d: int, notes: list[str]) -> Iterator[Method]:
    for n in rows:
        if memory_bytes < 4 * d * n:
            try:
                yield next(iter(cls.for_budget(Budget(memory_bytes / n, n, d))))
            except BudgetTooSmall as error:
                notes.append(f"{cls.name} has {memory_bytes / n:.1f} bytes per item for {n:,} items: it {error}")


def _weighed(method: Method, items: Array, shared: dict[str, Array]) -> artefact.Ledger:
    return artefact.weigh(artefact.checked(method.encode(items, shared), "encode"), shared, len(items))


def _memory(ledger: artefact.Ledger) -> int:
    return round(ledger.payload * ledger.n) + ledger.shared
