"""Plan a run: which cells, under which limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from packbench import registry
from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.method import Method
from packbench.spec import parse_request
from packbench.store import Row

STANDARD = (
    "float32", "random_dims", "random_projection", "float16", "bfloat16", "int8", "int4", "turboquant_mse", "sign",
    "lsh", "itq", "rabitq", "truncate", "pca", "pq", "opq", "rq", "binary_rescore",
)  # fmt: skip
REFERENCES = ("float32()", "float16()", "int8()")
BUDGETS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how cells are measured; every field is part of a result or recorded in it."""

    budgets: Sequence[float] = BUDGETS
    disk_budget: float = 0.0
    deployment_n: int = 1_000_000
    seeds: Sequence[int] = (0,)
    tries: int = 3
    threads: int = 1
    shards: int = 1
    build_threads: int = 1  # thread pools wait for each other: beside another busy process, two are slower than one
    seconds: float = 600.0
    memory_bytes: int = dataclasses.field(
        default_factory=lambda: min(8 << 30, int(psutil.virtual_memory().total * 0.75))
    )
    timing_seconds: float = 1.0
    references: bool = True
    plugins: tuple[str, ...] = ()
    profile: bool = False

    def __post_init__(self) -> None:
        for budget in self.budgets:
            Budget(budget, 1, 1)
        for name in ("deployment_n", "tries", "threads", "build_threads", "shards"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.seconds > 0 or self.memory_bytes < 1 << 20:
            raise BadInput("limits: expected more than 0 seconds and at least 1 MiB of memory")


@dataclass(frozen=True, slots=True)
class Cell:
    """Name one thing to measure: what was asked for, at which budget (none: at its own size), with which seed."""

    request: str
    budget: float | None
    seed: int


class Listener(Protocol):
    """Hear of a run's progress."""

    def begin(self, dataset: str, cells: int, stored: int) -> None: ...
    def start(self, cell: Cell) -> None: ...
    def finish(self, cell: Cell, row: Row) -> None: ...


class Silent:
    """Hear and say nothing."""

    def begin(self, dataset: str, cells: int, stored: int) -> None: ...
    def start(self, cell: Cell) -> None: ...
    def finish(self, cell: Cell, row: Row) -> None: ...


def plan_cells(methods: Iterable[str], plan: Plan) -> list[Cell]:
    """List the cells of a run: the references at their own size, then every method at every budget."""
    cells: list[Cell] = []
    if plan.references:
        cells += [Cell(request, None, plan.seeds[0]) for request in REFERENCES]
    cells += [Cell(request, budget, seed) for seed in plan.seeds for request in methods for budget in plan.budgets]
    return list(dict.fromkeys(cells))


def checked_requests(methods: Sequence[str] | None, plan: Plan) -> list[str]:
    """Return what is to be measured (by default the standard eighteen; `all` is every method), if it all parses.

    Raises:
        BadInput: an unknown method, or a spec that does not parse.
    """
    for plugin in plan.plugins:
        registry.load_plugin(plugin)
    requests = list(methods or STANDARD)
    if "all" in requests:
        requests = list(dict.fromkeys([*(one for one in requests if one != "all"), *registry.solvable()]))
    for request in requests:
        found = parse_request(request)
        if not isinstance(found, Method) and found.family() == "composite" and found.name == "faiss":
            raise BadInput("method faiss: it needs a factory string, as in faiss(factory='OPQ32,PQ32')")
    return requests
