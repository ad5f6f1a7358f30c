"""Tell where the time of a run went: cells, the phases of their workers, and what lies between."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Span:
    """Hold a stretch of time: what went on, in which thread, how deep inside others, begin and length in seconds."""

    name: str
    thread: int
    depth: int
    begin: float
    seconds: float


class Profile:
    """Gather spans; a span within another of its thread is part of it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._depths: dict[int, int] = {}
        self._zero, self._home = time.perf_counter(), threading.get_ident()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        begin, thread = time.perf_counter(), threading.get_ident()
        depth = self._depths.get(thread, 0)
        self._depths[thread] = depth + 1
        try:
            yield
        finally:
            self._depths[thread] = depth
            self.spans.append(Span(name, thread, depth, begin - self._zero, time.perf_counter() - begin))

    def told(self, begin: float, seconds: Mapping[str, float]) -> None:
        """Add what another process says that it did, one after the other from a time of perf_counter on."""
        at, thread = begin - self._zero, threading.get_ident()
        for name, length in seconds.items():
            self.spans.append(Span(name, thread, self._depths.get(thread, 0), at, length))
            at += length

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase that no span within it accounts for, longest first.

        Cells, the outermost spans, are put together under one name, `between phases`. What is done aside counts as if
        it stood alone, so that phases may add up to more than the run took.
        """
        found: dict[str, float] = {}
        ordered = sorted(self.spans, key=lambda span: (span.thread, span.begin, span.depth))
        open_spans: list[Span] = []
        for span in ordered:
            while open_spans and open_spans[-1].depth >= span.depth:
                open_spans.pop()
            name = self._phase(span)
            found[name] = found.get(name, 0.0) + span.seconds
            if open_spans:
                found[self._phase(open_spans[-1])] -= span.seconds
            open_spans.append(span)
        return dict(sorted(found.items(), key=lambda of: -of[1]))

    def _phase(self, span: Span) -> str:
        return "between phases" if span.depth == 0 and span.thread == self._home else span.name

    def write(self, file: Path) -> None:
        """Write the spans as trace events, which chrome://tracing and ui.perfetto.dev show, and the phases beside."""
        events: list[dict[str, Any]] = [
            {"name": span.name, "ph": "X", "pid": 1, "tid": 1 + (span.thread != self._home), "ts": span.begin * 1e6,
             "dur": span.seconds * 1e6}
            for span in sorted(self.spans, key=lambda span: (span.begin, span.depth))
        ]  # fmt: skip
        partial = file.with_suffix(".partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "phases": self.phases()}))
        partial.replace(file)


def profile_file(results: Path, dataset: str) -> Path:
    """Return where the profile of a run over a data set lies among its results."""
    return results / f"profile-{re.sub(r'[^A-Za-z0-9._@-]+', '_', dataset)}.json"
