"""Runs on a Dask cluster of this machine: the rows of a local run, whatever happens to its workers."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client, KilledWorker, LocalCluster

from packbench import cluster, runner
from packbench.cluster import _Turn
from packbench.dataset import from_vectors
from packbench.errors import BadInput, Infrastructure
from packbench.plan import Cell, Silent
from packbench.store import Store

FAST = {"timing_seconds": 0.1, "deployment_n": 10_000, "budgets": (40.0, 48.0), "tries": 2}
REQUESTS = ["float32", "pca", "sign"]
CELLS = 3 + 2 * len(REQUESTS) + 2  # references, cells, the curve of reference
# Of when and how fast, not of what.
CIRCUMSTANCES = {"query_ms", "reference_ms", "speedup", "batch", "repeat_ratio", "seconds", "peak_bytes", "time",
                 "load", "truth_seconds", "factor_seconds", "wall_seconds", "spent_seconds", "notes"}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(5)
    basis = rng.standard_normal((8, 32))
    items = (rng.standard_normal((700, 8)) @ basis + 0.1 * rng.standard_normal((700, 32))).astype("f4")
    return from_vectors(items, name="planted", metric="ip")


@pytest.fixture(scope="module")
def local(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    runner.run(dataset, REQUESTS, folder, **FAST)
    return Store(folder)


@pytest.fixture
def scheduler():
    """Have one worker in this very process: it comes at once."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as found:
        yield found.scheduler_address


def untimed(row):
    """Return what a row says of a method, without when it was measured and how long that took."""
    row = {key: value for key, value in row.items() if key not in CIRCUMSTANCES}
    weighed = {key: value for key, value in row.get("bytes", {}).items() if key != "resident"}
    return row | {"bytes": weighed}


def assert_equal_row_by_row(one, other):
    rows = [row["id"] for row in other.rows()]
    assert len(rows) == len(set(rows)) == CELLS
    expected, found = one.by_id(), other.by_id()
    assert found.keys() == expected.keys()
    for key in expected:
        assert untimed(found[key]) == untimed(expected[key])
    for measurement in {row["measurement"] for row in expected.values() if "measurement" in row}:
        assert all((one.hits(measurement)[name] == ids).all() for name, ids in other.hits(measurement).items())


class Killer(Silent):
    """Count the cells that are done, and after the first kill a worker that is at another."""

    def __init__(self):
        self.cells, self.killed = [], []

    def finish(self, cell, row):
        self.cells.append(cell)
        client, deadline = Client.current(), time.monotonic() + 30
        while not self.killed and time.monotonic() < deadline:
            for worker, calls in client.call_stack().items():
                if any("measured" in frame for frames in calls.values() for frame in frames):
                    process = client.run(os.getpid, workers=[worker])[worker]
                    os.kill(process, signal.SIGKILL)
                    self.killed.append(process)
                    break


def test_a_cluster_gives_the_rows_of_a_local_run_though_a_worker_is_killed(dataset, local, tmp_path):
    killer = Killer()
    runner.run(dataset, REQUESTS, tmp_path, cluster=2, listener=killer, **FAST)
    assert killer.killed
    assert_equal_row_by_row(local, Store(tmp_path))
    assert len(killer.cells) == len(set(killer.cells)) == CELLS - len(FAST["budgets"])  # the curve goes untold


def test_the_budgets_of_a_request_are_one_task():
    own, one, two = Cell("int8()", None, 0), Cell("int8", 40.0, 0), Cell("int8", 48.0, 0)
    other, seeded = Cell("int8(scale='row')", 40.0, 0), Cell("int8", 40.0, 1)
    assert cluster._groups([own, one, other, seeded, two]) == [[own, one, two], [other], [seeded]]


def test_a_cluster_measures_nothing_that_is_stored(scheduler, dataset, local):
    before = local.file.read_text()
    runner.run(dataset, REQUESTS, local.folder, cluster=scheduler, **FAST)
    assert local.file.read_text() == before


def test_what_is_known_of_a_spec_serves_another_budget(scheduler, dataset, local):
    (known,) = (row for row in local.rows() if row["request"] == "sign" and row["budget"] == 48.0)
    options = FAST | {"budgets": (56.0,), "references": False}
    runner.run(dataset, [known["spec"]], local.folder, cluster=scheduler, **options)
    (row,) = (row for row in local.rows() if row["budget"] == 56.0)
    assert (row["spec"], row["query_ms"], row["spent_seconds"]) == (known["spec"], known["query_ms"], 0)


def test_cells_whose_workers_die_each_time_are_told_and_the_rest_is_kept(scheduler, dataset, tmp_path, monkeypatch):
    measure = cluster._measure

    def deadly(station, cells):
        if cells[0].request == "pca":
            raise KilledWorker("measure", SimpleNamespace(address="tcp://gone:1"), 3)
        return measure(station, cells)

    monkeypatch.setattr(cluster, "_measure", deadly)
    options = FAST | {"budgets": (48.0,), "references": False}
    with pytest.raises(Infrastructure, match="1 cells died each time, first of pca"):
        runner.run(dataset, ["pca", "float32"], tmp_path, cluster=scheduler, **options)
    assert [row["request"] for row in Store(tmp_path).rows()] == ["float32"]


def test_workers_that_may_not_start_processes_are_refused():
    class Daemons:
        def run(self, function):
            return {"tcp://one": (function()[0], True), "tcp://two": function()}

    with pytest.raises(BadInput, match="--no-nanny"):
        cluster._machines(Daemons())


@pytest.mark.parametrize("given", ["nonsense://here", 0])
def test_what_is_no_cluster_is_refused(dataset, tmp_path, given):
    with pytest.raises(BadInput, match="expected"):
        runner.run(dataset, REQUESTS, tmp_path, cluster=given, **FAST)


def test_no_profile_is_made_of_many_processes(dataset, tmp_path):
    with pytest.raises(BadInput, match="one process"):
        runner.run(dataset, REQUESTS, tmp_path, cluster=1, profile=True, **FAST)


def test_one_times_alone_and_many_build_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = []

    def time_something():
        with _Turn() as turn, turn.alone():
            done.append("timed")

    with _Turn(), _Turn():  # two that build
        timing = threading.Thread(target=time_something)
        timing.start()
        timing.join(0.3)
        done.append("built")
    timing.join(20)
    assert done == ["built", "timed"]
    with _Turn() as one:
        with one.alone():
            building = threading.Thread(target=lambda: done.append(_Turn().__enter__()))
            building.start()
            building.join(0.3)
            assert len(done) == 2
        building.join(20)
        assert len(done) == 3
        done.pop().__exit__()
