"""Measure methods in tests of pytest, and fail those that got worse than a baseline.

pytest loads this file whenever it starts, so nothing of packbench that takes time is imported before a test asks.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from packbench.errors import BadInput, PackbenchError

if TYPE_CHECKING:
    from packbench.dataset import Dataset
    from packbench.leaderboard.gate.noise import Noise
    from packbench.method import Method
    from packbench.store import Row

PROPERTY = "packbench"  # of a test, by which its cells reach the summary, from other processes too
NEW, MEASURED = "not in the baseline", "measured"
INFRASTRUCTURE = 4  # exit status, as that of `packbench compare`


class PackbenchWarning(UserWarning):
    """Tell of a comparison that neither passed nor failed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("packbench", "embedding compression held to a baseline")
    group.addoption("--packbench-baseline", metavar="PATH",
                    help="Results to compare with: a file, a directory, or REVISION:PATH of git.")  # fmt: skip
    group.addoption("--packbench-fail", metavar="METRIC:±X", action="append", default=[],
                    help="What may get worse, as recall@10:-0.005 or query_ms.p50:+20%%; repeat.")  # fmt: skip
    group.addoption("--packbench-noise", metavar="FILE", type=Path,
                    help="File of `packbench noise`. Default: noise.json beside the baseline.")  # fmt: skip
    group.addoption("--packbench-any-machine", action="store_true",
                    help="Compare across machines: bytes and quality, not speed.")  # fmt: skip
    group.addoption("--packbench-results", metavar="DIR", type=Path,
                    help="Append what is measured to the results in this directory.")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Read the baseline and the gates before anything runs."""
    try:
        config.stash[_SESSION] = _Session(config)
    except PackbenchError as error:
        raise pytest.UsageError(f"packbench: {error}") from None


@pytest.fixture
def packbench_method(request: pytest.FixtureRequest) -> Callable[..., Row]:
    """Measure a method and compare it with the baseline: ``packbench_method("pq(m=16)", budget=64)``.

    The callable takes a spec, a name (solved for the budget), a method or its class; dataset, a name or a path or a
    `Dataset`; budget, in bytes per item; seed; plugin, one or several files of methods, looked for beside the test; and
    further fields of `packbench.plan.Plan`. It returns the row of results and measures each cell once in a session.
    The test fails where the cell has no figures, got worse than a gate allows, or cannot be compared; a comparison that
    decides nothing is a `PackbenchWarning`.
    """
    session, node = request.config.stash[_SESSION], request.node

    def measured(
        method: str | Method | type[Method],
        *,
        budget: float,
        dataset: str | Path | Dataset = "pydocs",
        seed: int = 0,
        plugin: str | Path | Sequence[str | Path] = (),
        **options: Any,
    ) -> Row:
        given = [plugin] if isinstance(plugin, str | Path) else plugin
        asked, files = _request(method, [node.path.parent / file for file in given])
        row = session.measured(asked, dataset, float(budget), seed, files, options)
        cell = f"{asked} at {budget:g} bytes on {row['dataset']}" + (f", seed {seed}" if seed else "")
        outcome, told = session.judged(row)
        node.user_properties.append((PROPERTY, f"{outcome}: {cell}"))
        if outcome in (MEASURED, "PASS"):
            return row
        message = "\n  ".join([f"packbench: {outcome}: {cell}", *told])
        if outcome not in (NEW, "INCONCLUSIVE"):
            pytest.fail(message, pytrace=False)
        warnings.warn(message, PackbenchWarning, stacklevel=2)
        return row

    return measured


@pytest.fixture
def packbench_benchmark(request: pytest.FixtureRequest, packbench_method: Callable[..., Row]) -> Callable[..., Row]:
    """Time the search of a method by pytest-benchmark, in this process, once it was measured by `packbench_method`.

    The callable takes what that fixture's takes, and batch, how many queries are asked at once. Ten answers are asked
    for. What the benchmark's `extra_info` carries are the figures of the row: recall@10, bytes per item, spec.
    """
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.fail("packbench_benchmark needs pytest-benchmark: pip install pytest-benchmark", pytrace=False)
    benchmark, session = request.getfixturevalue("benchmark"), request.config.stash[_SESSION]

    def timed(method: str | Method | type[Method], *, batch: int = 1, dataset: str | Path | Dataset = "pydocs",
              **options: Any) -> Row:  # fmt: skip
        from threadpoolctl import threadpool_limits

        data = session.dataset(dataset)
        if not 1 <= batch <= len(data.queries):
            raise BadInput(f"batch={batch}: {data.name} has {len(data.queries)} queries; expected 1 to that many")
        row = packbench_method(method, dataset=data, **options)
        benchmark.extra_info.update({
            "spec": row["spec"], "dataset": row["dataset"], "budget": row["budget"], "batch": batch,
            "kernel": row["kernel"], "recall@10": row["recall"]["recall@10"],
            "bytes_per_item": row["bytes"]["deployed"],
        })  # fmt: skip
        # In turn, because the answer to a query that is asked again and again lies in the cache.
        asked = itertools.cycle(data.queries[at : at + batch] for at in range(0, len(data.queries) - batch + 1, batch))
        with threadpool_limits(row["threads"]["search"]):
            searcher = _searcher(row, data)
            benchmark(lambda: searcher.search(next(asked), 10))
        return row

    return timed


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is compared with what."""
    return config.stash[_SESSION].header()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a session that was to compare and compared nothing not pass for a good one."""
    outcomes = _outcomes(session.config)
    if exitstatus == pytest.ExitCode.OK and set(outcomes) == {NEW}:
        session.exitstatus = INFRASTRUCTURE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many cells were measured or compared, and what came of it."""
    outcomes = _outcomes(config)
    if outcomes:
        terminalreporter.write_line(config.stash[_SESSION].summary(outcomes))


def _outcomes(config: pytest.Config) -> Counter[str]:
    """Count the cells of the session by what came of them, each once; empty in the processes of pytest-xdist."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    found = {
        told
        for reports in (reporter.stats.values() if reporter is not None else ())
        for report in reports
        for name, told in getattr(report, "user_properties", ())
        if name == PROPERTY
    }
    return Counter(told.partition(":")[0] for told in found)


def _request(method: str | Method | type[Method], plugins: Iterable[Path]) -> tuple[str, tuple[str, ...]]:
    """Return a method as a run asks for it, and the files in which its workers find it.

    Raises:
        BadInput: a method that this process knows and a worker could not.
    """
    from packbench import registry
    from packbench.spec import parse_request
    from packbench.testing import plugin_files

    for plugin in plugins:
        registry.load_plugin(plugin)
    asked = method if isinstance(method, str) else method.name if isinstance(method, type) else str(method)
    files = plugin_files(parse_request(asked))
    modules = [module for name, module in sys.modules.items() if name.startswith("packbench_plugin_")]
    for file in set(files) - {str(module.__file__) for module in modules}:
        raise BadInput(
            f"{asked} is defined in {file}, where the processes that measure it do not look. Put it into a file of its "
            "own and give plugin='that_file.py', or declare it as an entry point of packbench.methods"
        )
    return asked, files


def _searcher(row: Row, dataset: Dataset) -> Any:
    """Build in this process what a row measured, for search alone."""
    from packbench import artefact
    from packbench.method import reseed
    from packbench.spec import parse

    method = reseed(parse(row["spec"]), row["seed"])
    shared = method.fit(dataset.sample)
    codes = method.encode(dataset.items, shared)
    return method.open(artefact.for_search(codes), artefact.for_search(shared), dataset.metric)


class _Session:
    """Hold what the tests of a session share: the baseline, the gates, data sets, what was measured."""

    def __init__(self, config: pytest.Config) -> None:
        self._source: str | None = config.getoption("--packbench-baseline")
        self._any_machine: bool = config.getoption("--packbench-any-machine")
        self._results: Path | None = config.getoption("--packbench-results")
        texts, noise = config.getoption("--packbench-fail"), config.getoption("--packbench-noise")
        self._rows: dict[Any, Row] = {}
        self._datasets: dict[str, Dataset] = {}
        self._noise: Noise | None = None
        if self._source is None:
            if texts or noise or self._any_machine:
                raise BadInput("the options of a comparison need --packbench-baseline PATH")
            return
        from packbench.leaderboard.gate.gates import gates_of
        from packbench.leaderboard.gate.noise import FILE, read
        from packbench.leaderboard.gate.sources import read as read_results

        self._gates = gates_of(texts)
        self._baseline = read_results(self._source)
        path = Path(self._source)
        beside = (path if path.is_dir() else path.parent) / FILE
        if noise or beside.is_file():
            self._noise = read(noise or beside)

    def header(self) -> str | None:
        """Say what is compared with what."""
        if self._source is None:
            return None
        return f"packbench: baseline {self._source}, gates {' '.join(map(str, self._gates))}"

    def summary(self, outcomes: Counter[str]) -> str:
        """Say what came of all cells."""
        if self._source is None:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            return f"packbench: {counts}; no baseline was given"
        compared = {outcome: count for outcome, count in sorted(outcomes.items()) if outcome != NEW}
        told = f"packbench: {sum(compared.values())} of {outcomes.total()} cells compared with {self._source}"
        told += ": " * bool(compared) + ", ".join(f"{count} {outcome}" for outcome, count in compared.items())
        told += f"; {outcomes[NEW]} {NEW}" if outcomes[NEW] else ""
        unsaid = self._noise is None and not self._any_machine
        return told + ("; speed not judged, for want of a noise floor (packbench noise)" if unsaid else "")

    def dataset(self, source: str | Path | Dataset) -> Dataset:
        """Load a data set once."""
        from packbench.dataset import Dataset
        from packbench.datasets import load

        if isinstance(source, Dataset):
            return source
        if str(source) not in self._datasets:
            self._datasets[str(source)] = load(source)
        return self._datasets[str(source)]

    def measured(
        self, request: str, source: str | Path | Dataset, budget: float, seed: int, files: tuple[str, ...],
        options: dict[str, Any],
    ) -> Row:  # fmt: skip
        """Return the row of a cell, measured by an ordinary run that resumes nothing."""
        from packbench import runner
        from packbench.store import Store

        dataset = self.dataset(source)
        key = (request, dataset, budget, seed, files, tuple(sorted(options.items())))
        if key not in self._rows:
            with tempfile.TemporaryDirectory(prefix="packbench-pytest-") as folder:
                runner.run(dataset, [request], folder, budgets=(budget,), seeds=(seed,), references=False,
                           plugins=files, **options)  # fmt: skip
                (self._rows[key],) = Store(folder).rows()
            if self._results is not None:
                Store(self._results).append(self._rows[key])
        return self._rows[key]

    def judged(self, row: Row) -> tuple[str, list[str]]:
        """Return what came of a cell, and why unless it is as good as before."""
        if row["status"] != "ok":
            return row["status"], [row["reason"]]
        if self._source is None:
            return MEASURED, []
        from packbench.leaderboard.gate.compare import SETTINGS, Verdict, compare, machine_of

        asked = [was for was in self._baseline if _agree(was, row, ("dataset", "request", "budget"))]
        # Where a cell is there under other settings alone, the comparison says what differs.
        base = [was for was in asked if _agree(was, row, ("seed", *SETTINGS))] or asked
        if not base:
            return NEW, [f"{self._source} does not hold it; --packbench-results DIR keeps what is measured"]
        floor = None
        if self._noise is not None and machine_of(self._noise.machine) == machine_of(row["machine_facts"]):
            floor = self._noise.floor
        elif self._noise is not None and not self._any_machine:
            here = machine_of(row["machine_facts"])
            warnings.warn(
                f"packbench: speed not judged: the noise floor is of {machine_of(self._noise.machine)}, this is {here}",
                PackbenchWarning, stacklevel=3,
            )  # fmt: skip
        comparison = compare(base, [row], gates=self._gates, floor=floor, any_machine=self._any_machine)
        bad = [one for one in comparison.findings if one.verdict is not Verdict.PASS]
        told = [f"{one.metric}: {one.told}{_figures(one.base, one.new)}" for one in bad]
        commands = dict.fromkeys(f"measure again: {one.command}" for one in bad if one.command)
        return str(comparison.verdict), [*told, *commands]


_SESSION = pytest.StashKey[_Session]()


def _agree(one: Row, other: Row, fields: Iterable[str]) -> bool:
    return all(one.get(field) == other.get(field) for field in fields)


def _figures(base: float | None, new: float | None) -> str:
    return "" if base is None or new is None else f" ({base:.4g} before, {new:.4g} now)"
