"""Start workers from a preloaded fork server, bound their time and output, and turn each way of dying into a status."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from packbench import worker
from packbench.profile import Profile
from packbench.resources import THREAD_VARIABLES

Json = dict[str, Any]
OUTPUT_LIMIT = 64 << 20
POLL_SECONDS = 0.5


class Workers:
    """Run jobs one at a time, each in a fresh process.

    Processes are forked from a server that has imported the libraries and nothing of the run: what one worker leaves
    in a module, on a class or in a cache is gone in the next.
    """

    def __init__(self, folder: Path, *, seconds: float, memory_bytes: int, plugins: tuple[str, ...] = (),
                 profile: Profile | None = None) -> None:  # fmt: skip
        self._folder = folder
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._plugins, self._profile = plugins, profile or Profile()
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["packbench.preload"])
        self._count = 0
        self.start_seconds = 0.0

    def prepare(self) -> None:
        """Let the server import while there is other work to do; otherwise the first job waits for it."""
        with _without_main(), server_environment():
            forkserver.ensure_running()

    def run(self, kind: str, job: Json, seconds: float = math.inf) -> Json:
        """Return the worker's answer: {'ok': figures}, or {'status', 'reason'} where it failed or died.

        seconds can shorten the time limit of one job.
        """
        with self._profile.span(kind):
            begin = time.perf_counter()
            answer = self._run(kind, job, seconds)
            self._profile.told(begin, _phases(answer))
        return answer

    def _run(self, kind: str, job: Json, seconds: float) -> Json:
        self._count += 1
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._folder))
        output = self._folder / f"output-{self._count}.txt"
        job = job | {"kind": kind, "scratch": str(scratch), "memory_bytes": self._memory_bytes,
                     "plugins": list(self._plugins)}  # fmt: skip
        receiving, sending = self._context.Pipe(duplex=False)
        process = self._context.Process(target=worker.main, args=(sending, str(output), job), daemon=True)
        begin = time.perf_counter()
        with _without_main(), server_environment():
            process.start()
        self.start_seconds = time.perf_counter() - begin
        sending.close()
        try:
            return self._wait(process, receiving, output, min(seconds, self._seconds))
        finally:
            if process.is_alive():
                process.kill()
            process.join()
            receiving.close()
            shutil.rmtree(scratch, ignore_errors=True)
            output.unlink(missing_ok=True)

    def _wait(self, process: Any, receiving: Any, output: Path, seconds: float) -> Json:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if receiving.poll(min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                try:
                    answer: Json = json.loads(receiving.recv_bytes())
                    return answer
                except (EOFError, OSError):
                    return self._died(process, output)
            if output.exists() and output.stat().st_size > OUTPUT_LIMIT:
                return {"status": "failed", "reason": f"printed more than {OUTPUT_LIMIT >> 20} MiB"}
        return {"status": "timeout", "reason": f"ran longer than the limit of {seconds:g} s"}

    def _died(self, process: Any, output: Path) -> Json:
        process.join()
        tail = _tail(output)
        if process.exitcode == -signal.SIGKILL:
            return {"status": "out_of_memory", "reason": "killed by the system, as it does when memory runs out"}
        if "bad_alloc" in tail or "MemoryError" in tail or "memory allocation failed" in tail.lower():
            return {"status": "out_of_memory", "reason": tail}
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            return {"status": "failed", "reason": f"the worker died of {name}" + (f": {tail}" if tail else "")}
        return {"status": "failed", "reason": f"the worker ended without an answer (exit status {process.exitcode})"}


def _phases(answer: Json) -> dict[str, float]:
    """Return the seconds that a worker says its phases took."""
    ok = answer.get("ok")
    told = ok.get("seconds", {}) if isinstance(ok, dict) else {}
    checks = {"check": ok["check_seconds"]} if isinstance(ok, dict) and "check_seconds" in ok else {}
    return (told if isinstance(told, dict) else {}) | checks


def _tail(output: Path) -> str:
    try:
        with output.open("rb") as stream:
            stream.seek(max(0, output.stat().st_size - 400))
            return " ".join(stream.read().decode(errors="replace").split())[-300:]
    except OSError:
        return ""


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's __main__ while a worker starts, or multiprocessing would import that script into each one."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def server_environment() -> Iterator[None]:
    """Let the fork server start without thread pools, which do not survive a fork, and with threads that wait quietly.

    OpenMP threads spin at barriers by default: beside one other busy process, two of them took thirty times longer
    over a product quantiser than one did.
    """
    wanted = dict.fromkeys(THREAD_VARIABLES, "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
    del wanted["NUMBA_NUM_THREADS"]
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
