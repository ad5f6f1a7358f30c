"""Start workers from a preloaded fork server, bound their time and output, and turn each way of dying into a status."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from packbench import server, worker
from packbench.profile import Profile

Json = dict[str, Any]
OUTPUT_LIMIT = 64 << 20
POLL_SECONDS = 0.5
ENDING = 4  # workers that have answered and may be ending while others work: the system takes its time over each


class Workers:
    """Run jobs, each in a fresh process.

    Processes are forked from a server that has imported the libraries and nothing of the run: what one worker leaves
    in a module, on a class or in a cache is gone in the next. `ahead` are started while others work, so that jobs
    need not wait for them; close ends those.
    """

    def __init__(self, folder: Path, *, seconds: float, memory_bytes: int, plugins: tuple[str, ...] = (),
                 profile: Profile | None = None, ahead: int = 0) -> None:  # fmt: skip
        self._folder = folder
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._plugins, self._profile = plugins, profile or Profile()
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._count, self._ahead = 0, ahead
        self._waiting: deque[_Worker] = deque()
        self._starting = threading.Lock()  # starting changes what all threads see, for as long as it takes
        self._busy: set[_Worker] = set()
        self._answered: deque[_Worker] = deque()

    def close(self) -> None:
        """End the workers that wait, and wait for the end of those that have answered."""
        self._end(self._waiting)
        self.settle()

    def stop(self) -> None:
        """Kill the workers that do jobs: whoever waits for them hears that they died."""
        for process in list(self._busy):
            process.kill()

    def settle(self) -> None:
        """Wait for the end of workers that have answered."""
        self._end(self._answered)

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
        while len(self._answered) >= ENDING and (ended := _next(self._answered)):
            ended.end()
        job = job | {"kind": kind, "memory_bytes": self._memory_bytes, "plugins": list(self._plugins)}
        process = self._given(job)
        self._busy.add(process)
        try:
            # Nothing may stir beside what is timed. Where none can be started now, the next job tries, and says why.
            with contextlib.suppress(OSError):
                while len(self._waiting) < self._ahead and not job.get("timed"):
                    self._waiting.append(self._started())
            answer = process.answer(min(seconds, self._seconds))
        except BaseException:
            process.end()
            raise
        finally:
            self._busy.discard(process)
        self._answered.append(process)
        if not self._ahead or "ok" not in answer:
            self.settle()
        return answer

    def _given(self, job: Json) -> _Worker:
        """Return a worker that has taken a job."""
        while process := _next(self._waiting):
            if process.take(job):
                return process
            process.end()
        process = self._started()
        process.take(job)
        return process

    @staticmethod
    def _end(processes: deque[_Worker]) -> None:
        while process := _next(processes):
            process.end()

    def _started(self) -> _Worker:
        with self._starting:
            server.start()
            self._count += 1
            with server.as_server():
                return _Worker(self._context, self._folder, self._count)


class _Worker:
    """Hold a process that waits for a job, does it and answers; it has a folder of its own, and a file for prints."""

    def __init__(self, context: ForkServerContext, folder: Path, number: int) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=folder))
        self._output = folder / f"output-{number}.txt"
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=worker.main, args=(theirs, str(self._output)), daemon=True)
        self._process.start()
        theirs.close()

    def take(self, job: Json) -> bool:
        """Send a job; False where the process has died while it waited."""
        try:
            self._connection.send_bytes(json.dumps(job | {"scratch": str(self._scratch)}).encode())
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End the process, and leave what it was doing to whoever waits for it."""
        self._process.kill()

    def end(self) -> None:
        """End the process, whatever it does, and clear up after it."""
        self._connection.close()
        if self._process.exitcode is None:
            self._process.kill()
        self._process.join()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._output.unlink(missing_ok=True)

    def answer(self, seconds: float) -> Json:
        """Return what a worker answers within so many seconds, or what became of it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._connection.poll(min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                try:
                    answer: Json = json.loads(self._connection.recv_bytes())
                    return answer
                except (EOFError, OSError):
                    return self._died()
            if self._output.exists() and self._output.stat().st_size > OUTPUT_LIMIT:
                return {"status": "failed", "reason": f"printed more than {OUTPUT_LIMIT >> 20} MiB"}
        return {"status": "timeout", "reason": f"ran longer than the limit of {seconds:g} s"}

    def _died(self) -> Json:
        self._process.join()
        tail, code = _tail(self._output), self._process.exitcode
        if code == -signal.SIGKILL:
            return {"status": "out_of_memory", "reason": "killed by the system, as it does when memory runs out"}
        if "bad_alloc" in tail or "MemoryError" in tail or "memory allocation failed" in tail.lower():
            return {"status": "out_of_memory", "reason": tail}
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return {"status": "failed", "reason": f"the worker died of {name}" + (f": {tail}" if tail else "")}
        return {"status": "failed", "reason": f"the worker ended without an answer (exit status {code})"}


def _next(processes: deque[_Worker]) -> _Worker | None:
    """Take the next, if another thread has not."""
    try:
        return processes.popleft()
    except IndexError:
        return None


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
