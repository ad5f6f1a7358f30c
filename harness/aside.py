"""Do what needs no quiet beside the work that goes on, in a thread, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


class Aside:
    """Run tasks in the order given, beside the caller or, where no core is free for that, at once.

    What a task raises stays in its future.
    """

    def __init__(self, *, beside: bool) -> None:
        self._beside = beside
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._last: Future[Any] | None = None

    def later(self, task: Callable[[], T]) -> Future[T]:
        """Return what a task will have returned."""
        future = self._thread.submit(task)
        self._last = future
        if not self._beside:
            self.wait()
        return future

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is under way, for so long at most; False where something still is."""
        return self._last is None or not wait([self._last], seconds).not_done

    def drop(self) -> None:
        """Begin no further task."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Finish what was given and not dropped, and end."""
        self._thread.shutdown()
