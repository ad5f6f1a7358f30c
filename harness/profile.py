"""Tell where the time of a run went: cells, the phases of their workers, and what lies between."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Span:
    """Hold a stretch of time: what went on, how deep inside others, its begin and length in seconds."""

    name: str
    depth: int
    begin: float
    seconds: float


class Profile:
    """Gather spans; a span within another is part of it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._depth = 0
        self._zero = time.perf_counter()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        begin, depth = time.perf_counter(), self._depth
        self._depth += 1
        try:
            yield
        finally:
            self._depth = depth
            self.spans.append(Span(name, depth, begin - self._zero, time.perf_counter() - begin))

    def told(self, begin: float, seconds: Mapping[str, float]) -> None:
        """Add what another process says that it did, one after the other from a time of perf_counter on."""
        at = begin - self._zero
        for name, length in seconds.items():
            self.spans.append(Span(name, self._depth, at, length))
            at += length

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase that no span within it accounts for, longest first.

        Cells, the outermost spans, are put together under one name, `between phases`.
        """
        found: dict[str, float] = {}
        ordered = sorted(self.spans, key=lambda span: (span.begin, span.depth))
        open_spans: list[Span] = []
        for span in ordered:
            while open_spans and open_spans[-1].depth >= span.depth:
                open_spans.pop()
            name = span.name if span.depth else "between phases"
            found[name] = found.get(name, 0.0) + span.seconds
            if open_spans:
                outer = open_spans[-1].name if open_spans[-1].depth else "between phases"
                found[outer] -= span.seconds
            open_spans.append(span)
        return dict(sorted(found.items(), key=lambda of: -of[1]))

    def write(self, file: Path) -> None:
        """Write the spans as trace events, which chrome://tracing and ui.perfetto.dev show, and the phases beside."""
        events: list[dict[str, Any]] = [
            {"name": span.name, "ph": "X", "pid": 1, "tid": 1, "ts": span.begin * 1e6, "dur": span.seconds * 1e6}
            for span in sorted(self.spans, key=lambda span: (span.begin, span.depth))
        ]
        partial = file.with_suffix(".partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "phases": self.phases()}))
        partial.replace(file)


def profile_file(results: Path, dataset: str) -> Path:
    """Return where the profile of a run over a data set lies among its results."""
    return results / f"profile-{re.sub(r'[^A-Za-z0-9._@-]+', '_', dataset)}.json"
