"""Run cells: skip what is stored, ask for configurations, choose on validation queries, measure, append one line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psutil

from packbench import gaussian, registry, resources
from packbench.budget import Budget
from packbench.dataset import Dataset
from packbench.errors import BudgetTooSmall
from packbench.folders import run_folder
from packbench.items import Ragged
from packbench.measure import Bench, NoFigures, no_figures
from packbench.method import FIDELITIES, Chain, Method, imports_of, needs_of, parts_of
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
    listener: Listener | None = None,
    **options: Any,
) -> Path:
    """Measure methods on a data set under budgets, append the rows, and return the directory of results.

    Cells that the directory already holds are not repeated. Options are the fields of `Plan`.

    Raises:
        BadInput: an unknown data set or method, a spec that does not parse, an impossible budget; nothing is written.
    """
    plan = Plan(**options)
    requests = checked_requests(methods, plan)
    if isinstance(dataset, str):
        from packbench.datasets import load

        dataset = load(dataset)
    store = Store(results)
    with run_folder() as folder:
        bench = Bench(dataset, plan, store, folder)
        # The references are codes of single vectors; items of another kind have none yet.
        references = plan.references and not isinstance(dataset.items, Ragged)
        cells = plan_cells(requests, dataclasses.replace(plan, references=references))
        _Run(dataset, plan, store, bench, listener or Silent()).all(cells, references)
        if plan.profile and bench.profile.spans:
            bench.profile.write(profile_file(store.folder, dataset.name))
    return store.folder


class _Run:
    """Turn the cells of one data set into rows."""

    def __init__(self, dataset: Dataset, plan: Plan, store: Store, bench: Bench, listener: Listener) -> None:
        self._dataset, self._plan, self._store, self._bench, self._listener = dataset, plan, store, bench, listener
        self._plans: dict[tuple[str, float | None], Row] = {}

    def all(self, cells: list[Cell], references: bool) -> None:
        """Measure every cell that is not stored, and the curve of reference where that is asked for."""
        stored = self._store.by_id()
        identities = {cell: self._identity(cell) for cell in cells}
        pending = [cell for cell in cells if identities[cell]["id"] not in stored]
        self._listener.begin(self._dataset.name, len(pending), len(cells) - len(pending))
        if not pending:
            return
        span = self._bench.profile.span
        with span("stage"):
            self._bench.stage()
        for cell in pending:
            self._listener.start(cell)
            begin, before = time.perf_counter(), self._bench.spent
            with span(f"{cell.request} @ {cell.budget or 'own size'}"):
                row = identities[cell] | self._facts(cell) | self._outcome(cell)
                row |= {"wall_seconds": time.perf_counter() - begin, "spent_seconds": self._bench.spent - before}
                with span("store"):
                    self._store.append(row)
            self._listener.finish(cell, row)
        if references:
            with span("reference curve"):
                self._reference_curve(stored)

    def _reference_curve(self, stored: Mapping[str, Row]) -> None:
        """Store what an optimal code of Gaussian vectors would keep at each budget."""
        for budget in self._plan.budgets:
            cell = Cell(gaussian.NAME, budget, self._plan.seeds[0])
            identity = self._identity_of(cell, inspect.getsource(gaussian))
            if identity["id"] not in stored:
                about = {"method": gaussian.NAME, "spec": None, "family": "reference", "fidelity": "EXACT",
                         "kind": "reference", "status": gaussian.STATUS, "reason": None}  # fmt: skip
                self._store.append(identity | about | self._circumstances() | self._bench.reference_curve(budget))

    def _identity(self, cell: Cell) -> Row:
        """Return the fields that identify a cell; its version covers the code of every candidate it may try."""
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
            "dataset": self._dataset.name,
            "dataset_sha256": self._bench.dataset_sha256,
            "budget": cell.budget,
            "disk_budget": self._plan.disk_budget,
            "deployment_n": self._plan.deployment_n,
            "seed": cell.seed,
            "cutoffs": list(CUTOFFS),
            "threads": {"build": self._plan.build_threads, "search": self._plan.threads},
            "tries": self._plan.tries,
            "machine": self._bench.machine["id"],
            "software": self._bench.software,
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
            "fit_on": self._dataset.fit_on,
            "metric": self._dataset.metric,
            "n": self._dataset.n,
            "d": self._dataset.d,
            "n_queries": len(self._dataset.queries),
            "n_fit": len(self._dataset.fit),
            "card": {"mrl_trained": bool(self._dataset.card.get("mrl_trained"))},
            "ladder_of": self._dataset.card.get("ladder_of"),
            "machine_facts": self._bench.machine,
            "versions": resources.versions(),
            "commit": resources.commit(),
            "load": round(psutil.getloadavg()[0], 2),  # of the machine: beside other work, milliseconds mislead
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "truth_seconds": self._bench.truth_seconds,
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
        # The least that a generator asks for is raised when it is first advanced.
        return list(dict.fromkeys(itertools.islice(request.for_budget(self._budget(cell.budget)), self._plan.tries)))

    def _plugin_candidates(self, cell: Cell) -> list[Method]:
        """Ask a plug-in in a worker, where a loop or a crash of its own costs one row."""
        key = (cell.request, cell.budget)
        if key not in self._plans:
            budget = dataclasses.asdict(self._budget(cast(float, cell.budget)))
            job = {"request": cell.request, "budget": budget, "tries": self._plan.tries}
            self._plans[key] = self._bench.workers.run("plan", job)
        answer = self._plans[key]
        if "ok" not in answer:
            raise no_figures(answer, "for_budget")
        if "least" in answer["ok"]:
            raise BudgetTooSmall(answer["ok"]["least"], answer["ok"]["reason"])
        return list(dict.fromkeys(parse(spec) for spec in answer["ok"]["specs"]))

    def _budget(self, bytes_per_item: float) -> Budget:
        return Budget(bytes_per_item, self._plan.deployment_n, self._dataset.d, self._plan.disk_budget)

    def _outcome(self, cell: Cell) -> Row:
        """Measure one cell; whatever goes wrong is its status and reason."""
        try:
            candidates = self._candidates(cell)
        except BudgetTooSmall as error:
            return {"status": "no_fit", "reason": str(error), "least": error.least}
        except NoFigures as outcome:
            return outcome.row
        except Exception as error:
            return {"status": "failed", "reason": f"for_budget: {type(error).__name__}: {error}"}
        if not candidates:
            return {"status": "no_fit", "reason": "for_budget yielded no configuration"}
        provided = self._dataset.sample.provides
        able = [method for method in candidates if needs_of(method) <= provided]
        if not able:
            lacking = ", ".join(sorted(needs_of(candidates[0]) - provided))
            return {"status": "needs", "reason": f"needs {lacking}, which {self._dataset.name} does not have"}
        missing = [name for name in imports_of(able[0]) if importlib.util.find_spec(name) is None]
        if missing:
            extras = "pip install 'packbench[learned]' or 'packbench[peers]'"
            return {"status": "needs", "reason": f"needs {', '.join(missing)}, which is not installed; {extras}"}
        return self._chosen(cell, able)

    def _chosen(self, cell: Cell, candidates: list[Method]) -> Row:
        """Build the candidates, drop those too heavy, keep the best on validation queries, measure it on the test."""
        tried = {method: self._weighed(cell, method) for method in candidates}
        usable = [method for method, note in tried.items() if note["status"] == "ok"]
        if len(usable) > 1:
            for method in usable:
                try:
                    tried[method]["validation"] = self._bench.validate(method, cell.seed)
                except NoFigures as outcome:
                    tried[method] |= outcome.row
            usable = [method for method in usable if tried[method]["status"] == "ok"]
            # max keeps the first of equals, so a tie goes to the method's own best guess.
            usable = [max(usable, key=lambda method: tried[method]["validation"])] if usable else []
        notes = {"tried": list(tried.values())} if len(tried) > 1 else {}
        if not usable:
            return tried[candidates[0]] | notes
        try:
            return self._bench.measure(usable[0], cell.seed) | {"status": "ok", "reason": None} | notes
        except NoFigures as outcome:
            built = self._bench.build(usable[0], cell.seed)
            return {"spec": str(usable[0]), "bytes": built["bytes"]} | outcome.row | notes

    def _weighed(self, cell: Cell, method: Method) -> Row:
        """Build a candidate and say whether it fits."""
        note: Row = {"spec": str(method)}
        try:
            weighed = self._bench.build(method, cell.seed)["bytes"]
        except NoFigures as outcome:
            return note | outcome.row
        note["deployed"] = weighed["payload"] + weighed["shared"] / self._plan.deployment_n
        if cell.budget is None or self._budget(cell.budget).holds(
            weighed["payload"], weighed["shared"], weighed["cold"]
        ):
            return note | {"status": "ok"}
        reason = f"weighs {note['deployed']:.2f} of {cell.budget:g} bytes per item"
        if weighed["cold"]:
            reason += f", and {weighed['cold']:.1f} on disk of {self._plan.disk_budget:g}"
        return note | {"status": "over_budget", "reason": reason}


__all__ = ["BUDGETS", "REFERENCES", "STANDARD", "Cell", "Listener", "Plan", "checked_requests", "plan_cells", "run"]
