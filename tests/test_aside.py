"""What is done aside keeps its order, its errors and out of the way of what is timed."""

import threading
import time

import numpy as np
import pytest

from packbench import measure, registry, resources, runner, server
from packbench.aside import Aside
from packbench.dataset import from_vectors
from packbench.plan import REFERENCES, STANDARD, Silent
from packbench.store import Store
from packbench.workers import Workers

FAST = {"timing_seconds": 0.02, "references": False, "deployment_n": 10_000}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(5)
    return from_vectors(rng.standard_normal((600, 16)).astype("f4"), name="random", metric="ip")


@pytest.mark.parametrize("beside", [True, False])
def test_tasks_follow_each_other_and_wait_waits_for_the_last(beside):
    aside, seen = Aside(beside=beside), []

    def task(number):
        time.sleep(0.02 * (3 - number))
        seen.append((number, threading.current_thread() is threading.main_thread()))
        return number

    futures = [aside.later(lambda number=number: task(number)) for number in range(3)]
    assert not beside or len(seen) < 3
    aside.wait()
    assert seen == [(0, False), (1, False), (2, False)]
    assert [future.result() for future in futures] == [0, 1, 2]
    aside.close()


def test_without_a_core_to_spare_a_task_is_done_at_once():
    aside, seen = Aside(beside=False), []
    aside.later(lambda: (time.sleep(0.02), seen.append(1)))
    assert seen == [1]
    aside.close()


def test_what_a_task_raises_stays_in_its_future_and_stops_no_other():
    aside = Aside(beside=True)
    failed, done = aside.later(lambda: 1 / 0), aside.later(lambda: 1)
    aside.wait()
    assert isinstance(failed.exception(), ZeroDivisionError) and done.result() == 1
    aside.close()


def test_nothing_else_is_under_way_while_a_search_is_timed(dataset, tmp_path, monkeypatch):
    spans, run = [], Workers.run

    def noted(self, kind, job, *rest):
        begin = time.perf_counter()
        answer = run(self, kind, job, *rest)
        spans.append((begin, time.perf_counter(), kind, bool(job.get("timed"))))
        return answer

    monkeypatch.setattr(Workers, "run", noted)
    monkeypatch.setattr(resources, "cores", lambda: 4)
    runner.run(dataset, ["int8", "int4", "pca", "sign"], tmp_path, budgets=(3.0, 12.0), **FAST)
    timed = [(begin, end) for begin, end, _, alone in spans if alone]
    others = [(begin, end, kind) for begin, end, kind, alone in spans if not alone]
    assert len(timed) > 3 and {kind for *_, kind in others} >= {"build", "search", "waterfall"}
    for begin, end in timed:
        assert not [kind for start, stop, kind in others if start < end and stop > begin]
    # Of the rest, some is done beside a build, which is what makes it cheap.
    builds = [(start, stop) for start, stop, kind in others if kind == "build"]
    assert any(start < end and stop > begin for start, stop in builds for begin, end, kind in others if kind != "build")


def test_rows_account_for_all_that_workers_did(dataset, tmp_path, monkeypatch):
    spent, run = [], Workers.run

    def noted(self, kind, job, *rest):
        answer = run(self, kind, job, *rest)
        if kind in ("build", "search", "waterfall", "fit"):
            told = answer["ok"]["seconds"]
            spent.append(sum(told.values()) if isinstance(told, dict) else told)
            spent.append(-answer["ok"].get("handed_seconds", 0.0))
        return answer

    monkeypatch.setattr(Workers, "run", noted)
    runner.run(dataset, ["int8", "pca", "pq"], tmp_path, budgets=(3.0, 12.0), **FAST)
    rows = list(Store(tmp_path).rows())
    assert sum(row["spent_seconds"] for row in rows) == pytest.approx(sum(spent))
    assert all(row["wall_seconds"] > 0 for row in rows)


def test_a_row_that_cannot_be_stored_ends_the_run(dataset, tmp_path, monkeypatch):
    def full(self, row):
        raise OSError("no space left")

    monkeypatch.setattr(Store, "append", full)
    with pytest.raises(OSError, match="no space left"):
        runner.run(dataset, ["int8()", "sign()"], tmp_path, budgets=(40.0,), **FAST)


SLOW = """
import time
from dataclasses import dataclass
import numpy as np
from packbench import Codec, register

@register
@dataclass(frozen=True)
class LongToJudge(Codec):
    name = "long_to_judge"

    def fit(self, sample):
        return {}

    def encode(self, items, shared):
        return {"half": np.asarray(items, np.float16)}

    def decode(self, codes, shared):
        return codes["half"].astype(np.float32)

    def stages(self, codes, shared, metric):
        time.sleep(60)
        return {}
"""


@pytest.mark.parametrize(("grace", "kept"), [(0.1, 0), (30.0, 1)])
def test_an_interrupted_run_waits_a_little_for_what_is_aside(dataset, tmp_path, monkeypatch, grace, kept):
    """What takes longer is dropped: the row of a cell whose worker was killed would say that its codes failed."""

    class Impatient(Silent):
        def start(self, cell):
            if cell.request == "int8()":
                raise KeyboardInterrupt

    (tmp_path / "slow.py").write_text(SLOW.replace("60", "0.5" if kept else "60"))
    monkeypatch.setattr(measure, "GRACE_SECONDS", grace)
    monkeypatch.setattr(resources, "cores", lambda: 4)
    begin, before = time.monotonic(), registry.methods()
    options = {"budgets": (40.0,), "plugins": (str(tmp_path / "slow.py"),), "listener": Impatient(), **FAST}
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(dataset, ["long_to_judge()", "int8()"], tmp_path / "results", **options)
    finally:
        registry._methods.clear()
        registry._methods.update(before)
    assert time.monotonic() - begin < 40
    rows = list(Store(tmp_path / "results").rows())
    assert len(rows) == kept and all("failed" not in row["health"] for row in rows)


def test_the_standard_methods_need_no_package_that_is_slow_to_load():
    """The command starts the server before it knows what it will be asked for."""
    assert not {package for request in [*STANDARD, *REFERENCES] for package in runner._packages(request)} & set(
        server.SLOW
    )


def test_what_a_composition_imports_is_known_beforehand():
    assert {"torch"} <= set(runner._packages("tldr")) and {"torch"} <= set(runner._packages("tldr(dim=4) | int8()"))
    assert "sklearn" in runner._packages("relative_anchors(dim=8) | int8()")
