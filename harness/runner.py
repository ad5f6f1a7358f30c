"""Run cells: skip what is stored, ask for configurations, choose on validation queries, measure, append one line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil

from packbench import gaussian, registry, resources, server
from packbench.budget import Budget
from packbench.dataset import Dataset
from packbench.errors import BadInput, BudgetTooSmall
from packbench.folders import run_folder
from packbench.items import Ragged
from packbench.measure import Bench, NoFigures, no_figures
from packbench.method import FIDELITIES, Chain, Method, imports_of, needs_of, parts_of
from packbench.places import is_url, store_at
from packbench.plan import BUDGETS, REFERENCES, STANDARD, Cell, Listener, Plan, Silent, checked_requests, plan_cells
from packbench.profile import profile_file
from packbench.quality import CUTOFFS
from packbench.spec import parse, parse_request
from packbench.store import SCHEMA, Row, Store, canonical, row_id


def run(
    dataset: Dataset | str = "pydocs",
    methods: Sequence[str] | None = None,
    results: str | Path = "results",
    *,
    cluster: str | int | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> str | Path:
    """Measure methods on a data set under budgets, append the rows, and return the directory of results.

    Cells that the directory already holds are not repeated. `results` may be a URL that fsspec knows, as
    s3://bucket/run. `cluster` is the address of a Dask scheduler, or a number of workers to start here; without it,
    cells follow each other in this process. Other options are the fields of `Plan`.

    Raises:
        BadInput: an unknown data set or method, a spec that does not parse, an impossible budget; nothing is written.
        Infrastructure: a cluster that does not answer, or that lost cells; the same call goes on where it stopped.
    """
    plan = Plan(**options)
    requests = checked_requests(methods, plan)
    if cluster is None:
        server.start(package for request in requests for package in _packages(request))
    if plan.profile and (cluster is not None or is_url(results)):
        raise BadInput("profile: it is of one process and written to a folder; leave out the cluster or the profile")
    store = store_at(results)
    if isinstance(dataset, str):
        from packbench.datasets import load

        dataset = load(dataset)
    listener = listener or Silent()
    with run_folder() as folder, contextlib.closing(Bench(dataset, plan, store, folder)) as bench:
        # The references are codes of single vectors; items of another kind have none yet.
        references = plan.references and not isinstance(dataset.items, Ragged)
        cells = plan_cells(requests, dataclasses.replace(plan, references=references))
        curve = [Cell(gaussian.NAME, budget, plan.seeds[0]) for budget in plan.budgets] if references else []
        runner = Runner(dataset, plan, bench)
        if cluster is None:
            _one_by_one(runner, cells, curve, store, listener)
        else:
            _cluster().run_cells(cluster, runner, cells, curve, store, listener)
        if plan.profile and bench.profile.spans:
            bench.profile.write(profile_file(store.folder, dataset.name))
    return store.place


def _packages(request: str) -> list[str]:
    """Return the packages that whatever a request stands for imports, beyond what every worker needs."""
    found = parse_request(request)
    parts = [found, *parts_of(found)] if isinstance(found, Method) else [found]
    return [package for part in parts for package in (*part.imports, *part.late)]


def _cluster() -> Any:
    try:
        return importlib.import_module("packbench.cluster")
    except ModuleNotFoundError as error:
        raise BadInput(
            f"cluster: needs {error.name}, which is not installed; pip install 'packbench[cluster]'"
        ) from None


def _one_by_one(runner: Runner, cells: list[Cell], curve: list[Cell], store: Store, listener: Listener) -> None:
    """Measure, one after the other, every cell that is not stored, and the curve of reference."""
    stored = store.by_id()
    pending, missing = ([cell for cell in part if runner.identity(cell)["id"] not in stored] for part in (cells, curve))
    listener.begin(runner.dataset.name, len(pending), len(cells) - len(pending))
    if not pending and not missing:
        return
    span = runner.bench.profile.span
    runner.nest(pending)
    with span("stage"):
        runner.bench.stage()

    def keep(cell: Cell, row: Future[Row], told: Listener) -> None:
        with span("store"):
            store.append(row.result())
        told.finish(cell, row.result())

    # The curve of reference comes first: it needs no worker, and the server that workers are forked from is loading.
    last: Future[None] | None = None
    for cell, told in [*((cell, Silent()) for cell in missing), *((cell, listener) for cell in pending)]:
        told.start(cell)
        with span(f"{cell.request} @ {cell.budget or 'own size'}"):
            row = runner.measured(cell)
        if last is not None:
            last.result()  # or what kept it from being stored
        last = runner.bench.aside.later(partial(keep, cell, row, told))
    if last is not None:
        last.result()


class Runner:
    """Turn the cells of one data set into rows."""

    def __init__(self, dataset: Dataset, plan: Plan, bench: Bench) -> None:
        self.dataset, self.plan, self.bench = dataset, plan, bench
        self._seen_aside = 0.0
        self._plans: dict[tuple[str, float | None], Row] = {}
        self._found: dict[tuple[str, float | None], list[Method]] = {}

    def measured(self, cell: Cell) -> Future[Row]:
        """Build and time a cell, once the bench is staged; its answers are judged aside, and the future holds its row.

        The next cell may begin meanwhile.
        """
        if cell.request == gaussian.NAME:
            point = self._point_of_curve(cell)
            return self.bench.aside.later(lambda: point)
        begin, before = time.perf_counter(), self.bench.spent
        row = self.identity(cell) | self._facts(cell)
        outcome = self._outcome(cell)
        spent = self.bench.spent - before

        def finished() -> Row:
            whole = row | outcome()
            # What was done aside since the last row was done for this one: things follow each other there.
            aside = self.bench.spent_aside - self._seen_aside
            self._seen_aside += aside
            return whole | {"wall_seconds": time.perf_counter() - begin, "spent_seconds": spent + aside}

        return self.bench.aside.later(finished)

    def _point_of_curve(self, cell: Cell) -> Row:
        """Return what an optimal code of Gaussian vectors would keep at a budget."""
        begin = time.perf_counter()
        about = {"method": gaussian.NAME, "spec": None, "family": "reference", "fidelity": "EXACT",
                 "kind": "reference", "status": gaussian.STATUS, "reason": None}  # fmt: skip
        figures = self.bench.reference_curve(cast(float, cell.budget))
        spent = time.perf_counter() - begin
        figures |= {"wall_seconds": spent, "spent_seconds": spent}
        return self.identity(cell) | about | self._circumstances() | figures

    def identity(self, cell: Cell) -> Row:
        """Return the fields that identify a cell; its version covers the code of every candidate it may try."""
        if cell.request == gaussian.NAME:
            return self._identity_of(cell, inspect.getsource(gaussian))
        try:
            candidates = self._candidates(cell)
        except Exception:  # a method's own fault, told in the cell's row
            candidates = []
        request = parse_request(cell.request)
        versions = [registry.version(request), *(f"{one} {registry.version(one)}" for one in candidates)]
        return self._identity_of(cell, canonical(versions))

    def _identity_of(self, cell: Cell, code: str) -> Row:
        identity: Row = {
            "schema": SCHEMA,
            "request": cell.request,
            "version": hashlib.sha256(code.encode()).hexdigest()[:12],
            "dataset": self.dataset.name,
            "dataset_sha256": self.bench.dataset_sha256,
            "budget": cell.budget,
            "disk_budget": self.plan.disk_budget,
            "deployment_n": self.plan.deployment_n,
            "seed": cell.seed,
            "cutoffs": list(CUTOFFS),
            "threads": {"build": self.plan.build_threads, "search": self.plan.threads},
            "tries": self.plan.tries,
            "machine": self.bench.machine["id"],
            "software": self.bench.software,
        }
        return identity | {"id": row_id(identity)}

    def _facts(self, cell: Cell) -> Row:
        """Return what a row says whatever comes of its cell."""
        request = parse_request(cell.request)
        # A composition is of the family of what codes in the end, and no more faithful than its least faithful part.
        parts = parts_of(request) if isinstance(request, Chain) else [request]
        return {
            "method": request.name,
            "spec": None,
            "family": parts[-1].family(),
            "fidelity": next(word for word in FIDELITIES if word in {part.fidelity for part in parts}),
            "kind": parts[-1].kind,
        } | self._circumstances()

    def _circumstances(self) -> Row:
        return {
            "fit_on": self.dataset.fit_on,
            "metric": self.dataset.metric,
            "n": self.dataset.n,
            "d": self.dataset.d,
            "n_queries": len(self.dataset.queries),
            "n_fit": len(self.dataset.fit),
            "card": {"mrl_trained": bool(self.dataset.card.get("mrl_trained"))},
            "ladder_of": self.dataset.card.get("ladder_of"),
            "machine_facts": self.bench.machine,
            "versions": resources.versions(),
            "commit": resources.commit(),
            "load": round(psutil.getloadavg()[0], 2),  # of the machine: beside other work, milliseconds mislead
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "truth_seconds": self.bench.truth_seconds,
            "factor_seconds": self.bench.factor_seconds,
        }

    def _candidates(self, cell: Cell) -> list[Method]:
        """Return the configurations to try, the method's best guess first."""
        request = parse_request(cell.request)
        if isinstance(request, Method):
            return [request]
        if cell.budget is None:
            return [request()]
        if request.family() == "plugin":
            return self._plugin_candidates(cell)
        key = (cell.request, cell.budget)
        if key not in self._found:
            # The least that a generator asks for is raised when it is first advanced.
            found = itertools.islice(request.for_budget(self._budget(cell.budget)), self.plan.tries)
            self._found[key] = list(dict.fromkeys(found))
        return self._found[key]

    def _plugin_candidates(self, cell: Cell) -> list[Method]:
        """Ask a plug-in in a worker, where a loop or a crash of its own costs one row."""
        key = (cell.request, cell.budget)
        if key not in self._plans:
            budget = dataclasses.asdict(self._budget(cast(float, cell.budget)))
            job = {"request": cell.request, "budget": budget, "tries": self.plan.tries}
            self._plans[key] = self.bench.workers.run("plan", job)
        answer = self._plans[key]
        if "ok" not in answer:
            raise no_figures(answer, "for_budget")
        if "least" in answer["ok"]:
            raise BudgetTooSmall(answer["ok"]["least"], answer["ok"]["reason"])
        return list(dict.fromkeys(parse(spec) for spec in answer["ok"]["specs"]))

    def _budget(self, bytes_per_item: float) -> Budget:
        return Budget(bytes_per_item, self.plan.deployment_n, self.dataset.d, self.plan.disk_budget)

    def _outcome(self, cell: Cell) -> Callable[[], Row]:
        """Measure one cell, but for what is judged aside; whatever goes wrong is its status and reason."""
        try:
            return self._chosen(cell, self._able(cell))
        except NoFigures as outcome:
            told = outcome.row
        return lambda: told

    def _able(self, cell: Cell) -> list[Method]:
        """Return the candidates that can be tried on this data set and this machine.

        Raises:
            NoFigures: none can.
        """
        try:
            candidates = self._candidates(cell)
        except BudgetTooSmall as error:
            raise NoFigures("no_fit", str(error), {"least": error.least}) from None
        except NoFigures:
            raise
        except Exception as error:
            raise NoFigures("failed", f"for_budget: {type(error).__name__}: {error}") from None
        if not candidates:
            raise NoFigures("no_fit", "for_budget yielded no configuration")
        provided = self.dataset.sample.provides
        able = [method for method in candidates if needs_of(method) <= provided]
        if not able:
            lacking = ", ".join(sorted(needs_of(candidates[0]) - provided))
            raise NoFigures("needs", f"needs {lacking}, which {self.dataset.name} does not have")
        missing = [name for name in imports_of(able[0]) if importlib.util.find_spec(name) is None]
        if missing:
            extras = "pip install 'packbench[learned]' or 'packbench[peers]'"
            raise NoFigures("needs", f"needs {', '.join(missing)}, which is not installed; {extras}")
        return able

    def nest(self, cells: Iterable[Cell]) -> None:
        """Find among the configurations of cells those that can be taken out of one fit.

        A plug-in's are each fitted alone: what it says of itself here would run outside a worker.
        """
        alike: dict[tuple[Method, str, int], dict[Method, None]] = {}
        for cell in cells:
            if cell.request == gaussian.NAME or parse_request(cell.request).family() == "plugin":
                continue
            with contextlib.suppress(Exception):  # told in the cell's row
                for method in self._candidates(cell):
                    least, field = method.fitted_as(), method.nests_by()
                    if field:
                        least = dataclasses.replace(cast(Any, least), **{field: 1})
                    alike.setdefault((least, field, cell.seed), {})[method] = None
        for (_, field, seed), methods in alike.items():
            longest = max(methods, key=lambda method: getattr(method, field) if field else 0)
            self.bench.nest(methods, longest.fitted_as(), seed)

    def _chosen(self, cell: Cell, candidates: list[Method]) -> Callable[[], Row]:
        """Build the candidates, drop those too heavy, keep the best on validation queries, measure it on the test."""
        tried: dict[Method, Row] = {}
        judged: dict[Method, Future[float]] = {}
        for method in candidates:
            tried[method] = self._weighed(cell, method)
            if tried[method]["status"] == "ok" and len(candidates) > 1:
                with self._noted(tried[method]):
                    judged[method] = self.bench.validate(method, cell.seed)
        usable = [method for method, note in tried.items() if note["status"] == "ok"]
        if len(usable) > 1:
            for method in usable:
                with self._noted(tried[method]):
                    tried[method]["validation"] = judged[method].result()
            usable = [method for method in usable if tried[method]["status"] == "ok"]
            # max keeps the first of equals, so a tie goes to the method's own best guess.
            usable = [max(usable, key=lambda method: tried[method]["validation"])] if usable else []
        notes = {"tried": list(tried.values())} if len(tried) > 1 else {}
        if not usable:
            return lambda: tried[candidates[0]] | notes
        measured = self.bench.measure(usable[0], cell.seed)

        def told() -> Row:
            try:
                return measured.result() | {"status": "ok", "reason": None} | notes
            except NoFigures as outcome:
                built = self.bench.build(usable[0], cell.seed)
                return {"spec": str(usable[0]), "bytes": built["bytes"]} | outcome.row | notes

        return told

    @staticmethod
    @contextlib.contextmanager
    def _noted(note: Row) -> Iterator[None]:
        """Let a note say why there are no figures."""
        try:
            yield
        except NoFigures as outcome:
            note |= outcome.row

    def _weighed(self, cell: Cell, method: Method) -> Row:
        """Build a candidate and say whether it fits."""
        note: Row = {"spec": str(method)}
        try:
            weighed = self.bench.build(method, cell.seed)["bytes"]
        except NoFigures as outcome:
            return note | outcome.row
        note["deployed"] = weighed["payload"] + weighed["shared"] / self.plan.deployment_n
        if cell.budget is None or self._budget(cell.budget).holds(
            weighed["payload"], weighed["shared"], weighed["cold"]
        ):
            return note | {"status": "ok"}
        reason = f"weighs {note['deployed']:.2f} of {cell.budget:g} bytes per item"
        if weighed["cold"]:
            reason += f", and {weighed['cold']:.1f} on disk of {self.plan.disk_budget:g}"
        return note | {"status": "over_budget", "reason": reason}


__all__ = [
    "BUDGETS",
    "REFERENCES",
    "STANDARD",
    "Cell",
    "Listener",
    "Plan",
    "Runner",
    "checked_requests",
    "plan_cells",
    "run",
]
