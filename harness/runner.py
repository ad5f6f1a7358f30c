"""Run cells: plan, skip what is stored, build, weigh, choose on validation queries, search, judge, append one line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import psutil

from packbench import registry, resources, worker
from packbench.budget import Budget
from packbench.dataset import Dataset
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array, Ragged
from packbench.method import Method, needs_of
from packbench.quality import CUTOFFS, Judge, Recall, Relevance
from packbench.spec import parse, parse_request
from packbench.store import SCHEMA, Row, Store, canonical, row_id
from packbench.truth import Truth, cache_dir, truth_of, without
from packbench.workers import Workers

STANDARD = (
    "float32", "random_dims", "random_projection", "float16", "bfloat16", "int8", "int4", "turboquant_mse", "sign",
    "lsh", "itq", "rabitq", "truncate", "pca", "pq", "opq", "rq", "binary_rescore",
)  # fmt: skip
REFERENCES = ("float32()", "float16()", "int8()")
BUDGETS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
SHALLOW, DEEP = 10, 100  # recall@1 and @10 come from a search for 10, recall@100 from one for 100: depth is not free


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how cells are measured; every field is part of a result or recorded in it."""

    budgets: Sequence[float] = BUDGETS
    disk_budget: float = 0.0
    deployment_n: int = 1_000_000
    seeds: Sequence[int] = (0,)
    tries: int = 3
    threads: int = 1
    build_threads: int = dataclasses.field(default_factory=lambda: psutil.cpu_count(logical=False) or 1)
    seconds: float = 600.0
    memory_bytes: int = dataclasses.field(
        default_factory=lambda: min(8 << 30, int(psutil.virtual_memory().total * 0.75))
    )
    timing_seconds: float = 1.0
    references: bool = True
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for budget in self.budgets:
            Budget(budget, 1, 1)
        for name in ("deployment_n", "tries", "threads", "build_threads"):
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


def run(
    dataset: Dataset | str = "pydocs",
    methods: Sequence[str] | None = None,
    results: str | Path = "results",
    *,
    listener: Listener | None = None,
    **options: Any,
) -> Path:
    """Measure methods on a data set under budgets, append the rows, and return the directory of results.

    Cells that the directory already holds are not repeated. Options are the fields of `Plan`.

    Raises:
        BadInput: an unknown data set or method, a spec that does not parse, an impossible budget; nothing is written.
    """
    if isinstance(dataset, str):
        from packbench.datasets import load

        dataset = load(dataset)
    plan = Plan(**options)
    requests = checked_requests(methods, plan)
    store = Store(results)
    with tempfile.TemporaryDirectory(prefix="packbench-") as folder:
        _Run(dataset, plan, store, Path(folder), listener or Silent()).all(plan_cells(requests, plan))
    return store.folder


def checked_requests(methods: Sequence[str] | None, plan: Plan) -> list[str]:
    """Return what is to be measured (by default the standard eighteen), refusing what does not parse.

    Raises:
        BadInput: an unknown method, or a spec that does not parse.
    """
    for plugin in plan.plugins:
        registry.load_plugin(plugin)
    requests = list(methods or STANDARD)
    for request in requests:
        found = parse_request(request)
        if not isinstance(found, Method) and found.family() == "composite" and found.name == "faiss":
            raise BadInput("method faiss: it needs a factory string, as in faiss(factory='OPQ32,PQ32')")
    return requests


class _Candidate(Exception):
    """Carry the status and the reason of a candidate that gives no figures."""

    def __init__(self, status: str, reason: str, details: Row | None = None) -> None:
        self.status, self.reason, self.details = status, reason, details or {}
        super().__init__(reason)


class _Run:
    """Hold what the cells of one data set share: staged arrays, exact answers, measurements already made."""

    def __init__(self, dataset: Dataset, plan: Plan, store: Store, folder: Path, listener: Listener) -> None:
        self._dataset, self._plan, self._store, self._folder, self._listener = dataset, plan, store, folder, listener
        self._workers = Workers(
            folder, seconds=plan.seconds, memory_bytes=plan.memory_bytes, plugins=tuple(plan.plugins)
        )
        self._sha256 = dataset.sha256()
        self._machine = resources.machine()
        self._software = hashlib.sha256(canonical(resources.versions()).encode()).hexdigest()[:12]
        self._stored = store.by_id()
        self._measured: dict[str, Row] = {
            row["measurement"]: row for row in self._stored.values() if row.get("measurement") and "recall" in row
        }
        self._built: dict[str, Row | _Candidate] = {}
        self._validated: dict[str, float] = {}
        self._plans: dict[str, Row] = {}
        self._seconds: dict[str, float] = {}
        self._spent = 0.0  # seconds that workers of the current cell spent in the method and the reference

    def all(self, cells: list[Cell]) -> None:
        """Measure every cell that is not stored."""
        identities = {cell: self._identity(cell) for cell in cells}
        pending = [cell for cell in cells if identities[cell]["id"] not in self._stored]
        self._listener.begin(self._dataset.name, len(pending), len(cells) - len(pending))
        if not pending:
            return
        self._stage()
        for cell in pending:
            self._listener.start(cell)
            begin, self._spent = time.perf_counter(), 0.0
            row = identities[cell] | self._cell(cell)
            row |= {"wall_seconds": time.perf_counter() - begin, "spent_seconds": self._spent}
            self._store.append(row)
            self._listener.finish(cell, row)

    def _stage(self) -> None:
        """Write what workers read, and find the exact answers; the test queries lie apart from what a build is given."""
        dataset = self._dataset
        for name in ("stage", "queries", "validation"):
            (self._folder / name).mkdir()
        worker.stage(self._folder / "stage", "items", dataset.items)
        worker.stage(self._folder / "stage", "fit", dataset.fit)
        if dataset.fit_queries is not None:
            worker.stage(self._folder / "stage", "fit_queries", dataset.fit_queries)
        for name, array in dataset.fit_extras.items():
            worker.stage(self._folder / "stage", f"extra-{name}", array)
        worker.stage(self._folder / "queries", "queries", dataset.queries)
        worker.stage(self._folder / "validation", "queries", dataset.validation)
        begin = time.perf_counter()
        truth = truth_of(dataset.queries, dataset.items, dataset.metric, dataset.self_rows)
        chosen = truth_of(dataset.validation, dataset.items, dataset.metric, dataset.validation_self_rows)
        self._seconds["truth"] = time.perf_counter() - begin
        self._judge = self._judge_of(dataset.queries, truth)
        self._chooser = self._judge_of(dataset.validation, chosen)
        self._relevance = Relevance(dataset) if dataset.qrels else None

    def _judge_of(self, queries: Any, truth: Truth) -> Judge:
        return Judge(queries, self._dataset.items, self._dataset.metric, truth)

    def _identity(self, cell: Cell) -> Row:
        """Return the fields that identify a cell; its version covers the code of every candidate it may try."""
        try:
            candidates: list[Method] = self._candidates(cell)
        except Exception:  # a method's own fault, told in the cell's row
            candidates = []
        request = parse_request(cell.request)
        versions = [registry.version(request), *(f"{one} {registry.version(one)}" for one in candidates)]
        identity: Row = {
            "schema": SCHEMA,
            "request": cell.request,
            "version": hashlib.sha256(canonical(versions).encode()).hexdigest()[:12],
            "dataset": self._dataset.name,
            "dataset_sha256": self._sha256,
            "budget": cell.budget,
            "disk_budget": self._plan.disk_budget,
            "deployment_n": self._plan.deployment_n,
            "seed": cell.seed,
            "cutoffs": list(CUTOFFS),
            "threads": {"build": self._plan.build_threads, "search": self._plan.threads},
            "tries": self._plan.tries,
            "machine": self._machine["id"],
            "software": self._software,
        }
        return identity | {"id": row_id(identity)}

    def _candidates(self, cell: Cell) -> list[Method]:
        request = parse_request(cell.request)
        if isinstance(request, Method):
            return [request]
        if cell.budget is None:
            return [request()]
        if request.family() == "plugin":
            return self._plugin_candidates(cell)
        found: list[Method] = []
        # The least that a generator asks for is raised when it is first advanced.
        for method in itertools.islice(request.for_budget(self._budget(cell.budget)), self._plan.tries):
            if method not in found:
                found.append(method)
        return found

    def _plugin_candidates(self, cell: Cell) -> list[Method]:
        key = f"{cell.request} {cell.budget}"
        if key not in self._plans:
            budget = dataclasses.asdict(self._budget(cast(float, cell.budget)))
            job = {"request": cell.request, "budget": budget, "tries": self._plan.tries}
            self._plans[key] = self._workers.run("plan", job)
        answer = self._plans[key]
        if "ok" not in answer:
            raise _failure(answer, "for_budget")
        if "least" in answer["ok"]:
            raise BudgetTooSmall(answer["ok"]["least"], answer["ok"]["reason"])
        return list(dict.fromkeys(parse(spec) for spec in answer["ok"]["specs"]))

    def _budget(self, bytes_per_item: float) -> Budget:
        return Budget(bytes_per_item, self._plan.deployment_n, self._dataset.d, self._plan.disk_budget)

    def _cell(self, cell: Cell) -> Row:
        """Measure one cell; whatever goes wrong is its status and reason."""
        request = parse_request(cell.request)
        cls = request if isinstance(request, type) else type(request)
        row: Row = {
            "method": request.name,
            "spec": None,
            "family": cls.family(),
            "fidelity": cls.fidelity,
            "kind": cls.kind,
            "fit_on": self._dataset.fit_on,
            "metric": self._dataset.metric,
            "n": self._dataset.n,
            "d": self._dataset.d,
            "n_queries": len(self._dataset.queries),
            "n_fit": len(self._dataset.fit),
            "card": {"mrl_trained": bool(self._dataset.card.get("mrl_trained"))},
            "machine_facts": self._machine,
            "versions": resources.versions(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "truth_seconds": self._seconds["truth"],
        }
        try:
            candidates = self._candidates(cell)
        except BudgetTooSmall as error:
            return row | {"status": "no_fit", "reason": str(error), "least": error.least}
        except _Candidate as failure:
            return row | {"status": failure.status, "reason": failure.reason} | failure.details
        except Exception as error:
            return row | {"status": "failed", "reason": f"for_budget: {type(error).__name__}: {error}"}
        if not candidates:
            return row | {"status": "no_fit", "reason": "for_budget yielded no configuration"}
        provided = self._dataset.sample.provides
        able = [method for method in candidates if needs_of(method) <= provided]
        if not able:
            lacking = sorted(needs_of(candidates[0]) - provided)
            reason = f"needs {', '.join(lacking)}, which {self._dataset.name} does not have"
            return row | {"status": "needs", "reason": reason}
        return row | self._choose(cell, able)

    def _choose(self, cell: Cell, candidates: list[Method]) -> Row:
        """Build the candidates, drop those too heavy, keep the best on validation queries, measure it on the test."""
        tried: list[Row] = []
        usable: list[tuple[Method, Row]] = []
        for method in candidates:
            note: Row = {"spec": str(method)}
            tried.append(note)
            try:
                built = self._build(method, cell.seed)
            except _Candidate as failure:
                note |= {"status": failure.status, "reason": failure.reason} | failure.details
                continue
            weight, cold = built["bytes"]["payload"], built["bytes"]["cold"]
            deployed = weight + built["bytes"]["shared"] / self._plan.deployment_n
            note |= {"status": "ok", "deployed": deployed}
            if cell.budget is None or self._budget(cell.budget).holds(weight, built["bytes"]["shared"], cold):
                usable.append((method, built))
            else:
                disk = f" and {cold:.1f} on disk ({self._plan.disk_budget:g} allowed)" if cold else ""
                note |= {"status": "over_budget",
                         "reason": f"weighs {deployed:.2f} of {cell.budget:g} bytes per item{disk}"}  # fmt: skip
        if not usable:
            first = tried[0]
            return {key: first.get(key) for key in ("status", "reason", "spec", "traceback", "deployed")} | {
                "tried": tried
            }
        if len(usable) > 1:
            for method, _ in usable:
                note = next(one for one in tried if one["spec"] == str(method))
                try:
                    note["validation"] = self._validate(method, cell.seed)
                except _Candidate as failure:
                    note |= {"status": failure.status, "reason": failure.reason} | failure.details
            usable = [(m, b) for m, b in usable if any(o["spec"] == str(m) and "validation" in o for o in tried)]
            if not usable:
                return {key: tried[0].get(key) for key in ("status", "reason", "spec", "traceback")} | {"tried": tried}
            # max keeps the first of equals, so a tie goes to the method's own best guess.
            usable = [max(usable, key=lambda pair: self._validated[self._key(pair[0], cell.seed)])]
        method, built = usable[0]
        try:
            measured = self._measure(method, cell.seed, built)
        except _Candidate as failure:
            found = {"status": failure.status, "reason": failure.reason, "spec": str(method), "bytes": built["bytes"]}
            return found | failure.details | {"tried": tried}
        return measured | {"status": "ok", "reason": None, "tried": tried if len(tried) > 1 else []}

    def _key(self, method: Method, seed: int) -> str:
        """Hash what a measurement depends on: not the budget, so that one spec is measured once for all budgets."""
        parts = [SCHEMA, str(method), registry.version(method), seed, self._sha256, self._machine["id"], self._software,
                 self._plan.threads, self._plan.build_threads, self._plan.deployment_n]  # fmt: skip
        return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]

    def _build(self, method: Method, seed: int) -> Row:
        key = self._key(method, seed)
        if key not in self._built and key in self._measured:
            self._built[key] = {name: self._measured[key][name] for name in ("bytes", "seconds")} | {"stored": True}
        if key not in self._built:
            self._built[key] = self._build_now(method, seed, key)
        built = self._built[key]
        if isinstance(built, _Candidate):
            raise built
        return built

    def _build_now(self, method: Method, seed: int, key: str) -> Row | _Candidate:
        self._rehearse(method, seed)
        folder = self._folder / key
        folder.mkdir(exist_ok=True)
        job = {"spec": str(method), "seed": seed, "threads": self._plan.build_threads, "metric": self._dataset.metric,
               "stage": str(self._folder / "stage"), "artefact": str(folder)}  # fmt: skip
        answer = self._workers.run("build", job)
        if "ok" in answer:
            ok: Row = answer["ok"]
            self._spent += sum(ok["seconds"].values())
            return ok
        shutil.rmtree(folder, ignore_errors=True)
        return _failure(answer, "build")

    def _rehearse(self, method: Method, seed: int) -> None:
        """Once per machine and version of a method's code, let its kernels be compiled outside the timed phases."""
        done = cache_dir() / "compiled" / f"{registry.version(method)}-{metadata.version('numba')}"
        if done.exists() or isinstance(self._dataset.items, Ragged):
            return
        job = {"spec": str(method), "seed": seed, "threads": self._plan.build_threads,
               "metric": self._dataset.metric, "d": self._dataset.d}  # fmt: skip
        # A method that fails here fails in its cell too, where it becomes a row.
        if "ok" in self._workers.run("rehearse", job):
            with contextlib.suppress(OSError):
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()

    def _search(self, method: Method, seed: int, queries: str, rows: Array | None, timed: bool) -> tuple[Row, Path]:
        """Answer the test queries (timed, at both depths) or the validation queries; return figures and the answers."""
        key = self._key(method, seed)
        if not (self._folder / key / "manifest.json").exists():
            # Known from the store alone, or dropped: the arrays are made again.
            remade = self._build_now(method, seed, key)
            if isinstance(remade, _Candidate):
                raise remade
        answers = Path(tempfile.mkdtemp(prefix="answers-", dir=self._folder))
        job = {"spec": str(method), "seed": seed, "threads": self._plan.threads, "artefact": str(self._folder / key),
               "queries": str(self._folder / queries), "answers": str(answers), "n": self._dataset.n,
               "depths": [SHALLOW, DEEP] if timed else [SHALLOW], "spare": int(rows is not None), "timed": timed,
               "timing_seconds": self._plan.timing_seconds}  # fmt: skip
        answer = self._workers.run("search", job)
        if "ok" not in answer:
            raise _failure(answer, "search")
        ok: Row = answer["ok"]
        self._spent += sum(ok["seconds"].values())
        return ok, answers

    def _validate(self, method: Method, seed: int) -> float:
        key = self._key(method, seed)
        if key not in self._validated:
            rows = self._dataset.validation_self_rows
            _, answers = self._search(method, seed, "validation", rows, timed=False)
            ids, _ = _answers(answers, rows, SHALLOW)
            shutil.rmtree(answers, ignore_errors=True)
            self._validated[key] = float(self._chooser.recall(ids, SHALLOW).per_query.mean())
        return self._validated[key]

    def _measure(self, method: Method, seed: int, built: Row) -> Row:
        key = self._key(method, seed)
        if key not in self._measured:
            rows = self._dataset.self_rows
            answer, answers = self._search(method, seed, "queries", rows, timed=True)
            begin = time.perf_counter()
            (shallow, _), (deep, deep_scores) = (_answers(answers, rows, depth) for depth in (SHALLOW, DEEP))
            shutil.rmtree(answers, ignore_errors=True)
            shutil.rmtree(self._folder / key, ignore_errors=True)
            row: Row = {"spec": str(method), "measurement": key}
            row |= {name: value for name, value in built.items() if name in ("bytes", "peak_bytes", "seconds")}
            row["seconds"] = built["seconds"] | answer.pop("seconds")
            row["bytes"] = built["bytes"] | {
                "deployed": built["bytes"]["payload"] + built["bytes"]["shared"] / self._plan.deployment_n,
                "resident": answer.pop("resident_bytes"),
                "cold_per_query": answer.pop("cold_bytes_per_query"),
            }
            row["peak_bytes"] = built.get("peak_bytes", {}) | {"search": answer.pop("peak_bytes")}
            row |= answer
            row |= self._quality(shallow, deep, deep_scores)
            self._store.save_hits(key, ids_10=shallow, ids_100=deep)
            row["seconds"]["judge"] = time.perf_counter() - begin
            self._measured[key] = row
        return {name: value for name, value in self._measured[key].items() if name in _MEASURED}

    def _quality(self, shallow: Array, deep: Array, deep_scores: Array) -> Row:
        recalls: dict[str, Recall] = {}
        for k in CUTOFFS:
            # The bounds need to see past the boundary, so they come from the deeper search at every cutoff.
            bounds = self._judge.recall(deep, k, deep_scores)
            right = bounds if k > SHALLOW else self._judge.recall(shallow, k)
            recalls[f"recall@{k}"] = dataclasses.replace(bounds, right=right.right)
        row: Row = {
            "recall": {name: float(of.per_query.mean()) for name, of in recalls.items()},
            "ties": {
                name: [float(of.worst.mean()), float(of.expected.mean()), float(of.best.mean())]
                for name, of in recalls.items()
            },
            "per_query": {name: of.right.tolist() for name, of in recalls.items()},
        }
        if self._relevance is not None:
            ranked = np.concatenate([shallow, _rest(shallow, deep)], axis=1)
            judged = self._relevance.per_query(ranked)
            row["relevance"] = {name: float(np.mean(values)) for name, values in judged.items()}
            row["per_query"] |= {name: [round(value, 5) for value in values] for name, values in judged.items()}
            row["n_judged"] = len(self._relevance.judged)
        return row


_MEASURED = frozenset(
    "spec measurement bytes seconds peak_bytes kernel query_ms reference_ms speedup batch repeat_ratio recall ties "
    "per_query relevance n_judged".split()
)


def _rest(shallow: Array, deep: Array) -> Array:
    """Return the deeper answers with those already ranked left out (-1 in their place at the end)."""
    known = (deep[:, :, None] == shallow[:, None, :]).any(2) & (deep >= 0)
    order = np.argsort(known, axis=1, kind="stable")
    return np.take_along_axis(np.where(known, -1, deep), order, 1)


def _failure(answer: Row, phase: str) -> _Candidate:
    details = {"phase": phase} | ({"traceback": answer["traceback"]} if "traceback" in answer else {})
    return _Candidate(answer["status"], answer["reason"], details)


def _answers(folder: Path, rows: Array | None, depth: int) -> tuple[Array, Array]:
    """Return the ids and scores of one depth, with each query's own row taken out."""
    ids, scores = np.load(folder / f"ids-{depth}.npy"), np.load(folder / f"scores-{depth}.npy")
    if rows is None:
        return ids, scores
    own = ids == rows[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    return without(ids, rows)[:, :-1], np.take_along_axis(np.where(own, -np.inf, scores), order, 1)[:, :-1]
