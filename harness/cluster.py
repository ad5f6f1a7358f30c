"""Run cells on a Dask cluster: built beside each other, timed alone on a quiet machine, stored by one writer."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from packbench import registry, resources
from packbench.dataset import Dataset
from packbench.errors import BadInput, Infrastructure
from packbench.folders import run_folder
from packbench.items import Array
from packbench.measure import Bench, software
from packbench.plan import Cell, Listener, Plan
from packbench.runner import Runner
from packbench.store import Row, Store, row_id

WORKER_SECONDS = 600  # that a first worker may take to come: queues are long
Answers = Mapping[str, Array]


def run_cells(
    cluster: str | int, runner: Runner, cells: list[Cell], curve: list[Cell], store: Store, listener: Listener
) -> None:
    """Measure on a cluster every cell that is not stored for any of its kinds of machine, and the curve of reference.

    A task is all budgets of one request and seed, since a spec is measured once for all of them. Its rows are stored
    when it is done: a worker that dies takes them along, and Dask gives the task to another.

    Raises:
        BadInput: workers that may not start processes.
        Infrastructure: no scheduler or no worker, or tasks whose workers died each time; everything else is stored.
    """
    with _connected(cluster) as client:
        machines = _machines(client)
        stored = store.by_id()

        def unknown(part: list[Cell]) -> list[Cell]:
            identities = ((cell, runner.identity(cell)) for cell in part)
            return [cell for cell, identity in identities
                    if not any(row_id(identity | machine) in stored for machine in machines)]  # fmt: skip

        pending, missing = unknown(cells), unknown(curve)
        listener.begin(runner.dataset.name, len(pending), len(cells) - len(pending))
        if not pending and not missing:
            return
        known = [row for row in stored.values() if row.get("dataset_sha256") == runner.bench.dataset_sha256]
        station = _Station(runner.dataset, runner.plan, known)
        client.register_plugin(station)
        try:
            tasks = {
                client.submit(_measure, station.name, group, pure=False): group
                for group in _groups([*pending, *missing])
            }
            lost: list[Cell] = []
            for task in as_completed(tasks):
                try:
                    measured = task.result()
                except KilledWorker:
                    lost += tasks[task]
                    continue
                for cell, row, answers in measured:
                    if answers is not None:
                        store.save_hits(row["measurement"], **answers)
                    store.append(row)
                    if cell in pending:
                        listener.finish(cell, row)
        finally:
            client.unregister_worker_plugin(station.name)
    if lost:
        raise Infrastructure(
            f"cluster: the workers of {len(lost)} cells died each time, first of {lost[0].request}; the rest is "
            "stored. Look at the workers' logs, and run the same command to try these cells again"
        )


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Put together the cells of one request and seed."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        # int8() at its own size and int8 at a budget may well be the same spec.
        groups.setdefault((cell.request.removesuffix("()"), cell.seed), []).append(cell)
    return list(groups.values())


@contextmanager
def _connected(cluster: str | int) -> Iterator[Client]:
    """Connect to a scheduler, or start workers of one thread each on this machine until the end."""
    with ExitStack() as stack:
        if isinstance(cluster, int):
            if cluster < 1:
                raise BadInput(f"workers: expected at least 1, got {cluster}")
            # Daemons may start no processes, and Dask counts the memory of the worker without theirs.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            address: Any = stack.enter_context(
                LocalCluster(n_workers=cluster, threads_per_worker=1, memory_limit=0, dashboard_address=None)
            )
        else:
            address = cluster
        try:
            client = stack.enter_context(Client(address))
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except (OSError, TimeoutError) as error:
            raise Infrastructure(f"cluster {cluster}: no scheduler or no worker there: {error}") from None
        except ValueError as error:
            raise BadInput(f"cluster {cluster}: {error}; expected an address such as tcp://scheduler:8786") from None
        yield client


def _machines(client: Client) -> list[Row]:
    """Return what the identity of a row says of machines, for each kind of machine among the workers."""
    found = client.run(_machine)
    if any(daemon for _, daemon in found.values()):
        raise BadInput(
            "cluster: its workers may not start processes. Start them with --no-nanny, or with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment"
        )
    return [dict(kind) for kind in {tuple(machine.items()) for machine, _ in found.values()}]


def _machine() -> tuple[Row, bool]:
    machine = {"machine": resources.machine()["id"], "software": software()}
    return machine, bool(multiprocessing.current_process().daemon)


def _measure(station: str, cells: list[Cell]) -> list[tuple[Cell, Row, Answers | None]]:
    known: _Station = get_worker().plugins[station]
    return known.measure(cells)


class _Station(WorkerPlugin):  # type: ignore[misc]
    """Hold what the tasks of one worker share: the data set staged on its disk, exact answers, what was measured."""

    def __init__(self, dataset: Dataset, plan: Plan, known: list[Row]) -> None:
        self.name = f"packbench-{uuid.uuid4().hex}"
        self._dataset, self._plan, self._known = dataset, plan, known

    def setup(self, worker: object) -> None:
        """Begin on a worker; what takes long is left to its first task."""
        self._until_the_end, self._one_at_a_time = ExitStack(), threading.Lock()
        self._store, self._turn = _Held(self._known), _Turn()
        self._runner: Runner | None = None

    def teardown(self, worker: object) -> None:
        """Clear the disk of the worker."""
        self._until_the_end.close()

    def measure(self, cells: Iterable[Cell]) -> list[tuple[Cell, Row, Answers | None]]:
        """Return the row of each cell, with its answers where they were measured here."""
        with self._one_at_a_time, self._turn:
            runner = self._runner = self._runner or self._staged()
            runner.nest(cells)
            begun = [(cell, runner.measured(cell)) for cell in cells]
            rows = [(cell, row.result()) for cell, row in begun]
            runner.bench.workers.settle()  # while it is still our turn
        return [(cell, row, self._store.answers.get(row.get("measurement", ""))) for cell, row in rows]

    def _staged(self) -> Runner:
        for plugin in self._plan.plugins:
            registry.load_plugin(plugin)
        folder = self._until_the_end.enter_context(run_folder())
        bench = Bench(self._dataset, self._plan, self._store, folder, self._turn.alone)
        self._until_the_end.callback(bench.close)
        bench.stage()
        return Runner(self._dataset, self._plan, bench)


class _Held(Store):
    """Know what is stored already, and hold answers until they are sent to whoever writes."""

    def __init__(self, known: list[Row]) -> None:
        self._known, self.answers = known, dict[str, dict[str, Array]]()

    def rows(self) -> Iterator[Row]:
        """Yield the rows that were known when the run began."""
        return iter(self._known)

    def save_hits(self, measurement: str, **ids: Array) -> None:
        """Hold the answers of a measurement."""
        self.answers[measurement] = ids


class _Turn:
    """Take turns on a machine: many workers may build and judge at once, one alone may time.

    The lock is a file's, which the kernel lets go of however a process ends.
    """

    def __init__(self) -> None:
        self._file = Path(tempfile.gettempdir()) / f"packbench-turn-{os.getuid()}"

    def __enter__(self) -> Self:
        self._lock = os.open(self._file, os.O_RDONLY | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other worker of this machine does anything, and let none begin."""
        # Taking the other lock gives this one up first, so two that wait for each other's end cannot be.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
