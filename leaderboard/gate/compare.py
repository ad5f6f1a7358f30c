"""Compare two sets of results cell by cell: what got worse, how sure that is, and what could not be compared."""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import special, stats

from packbench import datasets
from packbench.errors import BadInput
from packbench.gaussian import STATUS
from packbench.items import Array
from packbench.leaderboard.cells import expected_of, plain
from packbench.leaderboard.gate.gates import BYTES, DEFAULTS, NOISY, QUALITY, Gate
from packbench.leaderboard.site.reproduce import DATA, PLUGIN
from packbench.leaderboard.stats import LEVEL, Interval, holm
from packbench.spec import parse_request
from packbench.store import SCHEMA, Row, canonical

# What must agree before two figures may be compared, and what a reader calls it.
COMPARABLE = {"dataset_sha256": "version of the data", "cutoffs": "depths of search"}
# What else a run is asked for. One directory may hold a cell under several settings: each is a cell of its own.
SETTINGS = {
    "deployment_n": "deployment size",
    "disk_budget": "disk allowance",
    "threads": "threads",
    "tries": "tries per method",
}
MACHINE = ("cpu", "cores", "memory_gib", "system")  # not what faiss calls it: that changes with the version under test
TRIFLE = 0.2  # share of what a gate allows that chance may hide
MACHINE_FAULTS = ("timeout", "out_of_memory")  # a busy or small machine does this to a good codec
Place = tuple[str, str, float | None, str]  # data set, request, budget (none: a reference at its own size), settings
Cell = Mapping[int, Row]  # by seed


class Verdict(StrEnum):
    """Say what a comparison came to; members from what decides least to what decides most."""

    PASS = "PASS"
    INCONCLUSIVE = "INCONCLUSIVE"
    INFRASTRUCTURE = "INFRASTRUCTURE"
    REGRESSION = "REGRESSION"

    @property
    def exit_status(self) -> int:
        """Return the exit status that scripts read."""
        return {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 3, "INFRASTRUCTURE": 4}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Hold what one figure of one cell came to.

    change is new less base, in the figure's own unit, or their ratio less one for what is noisy; low and high bound it
    where it was sampled. better marks a gain that is more than chance. told says why, in one sentence.
    """

    dataset: str
    request: str
    budget: float | None
    metric: str
    verdict: Verdict
    told: str
    base: float | None = None
    new: float | None = None
    change: Interval | None = None
    better: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Hold the findings of a comparison, worst first, and what differs around them."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]  # what changed in versions and machine, what was left out
    gates: tuple[Gate, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on the whole: that of the finding which decides most."""
        return max((one.verdict for one in self.findings), key=list(Verdict).index)

    def counts(self) -> dict[Verdict, int]:
        """Return how many findings there are of each verdict, from what decides most."""
        return {verdict: len(self.of(verdict)) for verdict in list(Verdict)[::-1]}

    def of(self, verdict: Verdict) -> list[Finding]:
        """Return the findings of one verdict."""
        return [one for one in self.findings if one.verdict is verdict]


def compare(
    base: Iterable[Row],
    new: Iterable[Row],
    *,
    gates: Sequence[Gate] = DEFAULTS,
    floor: Mapping[str, float] | None = None,
    any_machine: bool = False,
) -> Comparison:
    """Judge new results against those of a base, at least one row each.

    floor is, by metric, the most that a ratio of two runs of the same thing came to (`noise.floor_of`); without it
    what is noisy is told and not judged. any_machine leaves out what differs between machines: speed, and whether codes
    are the same to the bit. Quality has become worse where the measured loss is more than a gate allows and is shown,
    by a paired t-test over queries that is Holm-corrected over the whole comparison, to be more than TRIFLE of that:
    one comparison in twenty at most accuses methods none of which loses more. It is as good where the loss is shown to
    be less than what the gate allows.

    Raises:
        BadInput: a row lacks what every result has.
    """
    cells = _cells(base)
    if not cells:
        return nothing_to_compare("the base holds no result of a method", gates)
    return _Judgement(cells, _cells(new), tuple(gates), floor, any_machine).comparison()


def nothing_to_compare(told: str, gates: Sequence[Gate]) -> Comparison:
    """Return the comparison of what is not there: no baseline, no results."""
    finding = Finding(dataset="", request="", budget=None, metric="results", verdict=Verdict.INFRASTRUCTURE,
                      told=plain(told))  # fmt: skip
    return Comparison(findings=(finding,), notes=(), gates=tuple(gates))


def _cells(rows: Iterable[Row]) -> dict[Place, dict[int, Row]]:
    """Return the latest row of each place and seed; curves of reference are no method's."""
    found: dict[Place, dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: str(row.get("time"))):
        if row.get("status") != STATUS:
            with _readable(row):
                settings = canonical([_settled(row.get(name)) for name in SETTINGS])
                found.setdefault((row["dataset"], row["request"], row["budget"], settings), {})[row["seed"]] = row
    return found


@contextlib.contextmanager
def _readable(row: Row) -> Iterator[None]:
    """Turn what a damaged row does to a program into what its reader is to do."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"results: row {plain(row.get('id'))}, or the one it is held against, lacks what every result has "
            f"({type(error).__name__}: {plain(error)}); remove it or measure it again"
        ) from error


class _Judgement:
    """Hold both sides while findings are gathered."""

    def __init__(self, base: dict[Place, dict[int, Row]], new: dict[Place, dict[int, Row]], gates: tuple[Gate, ...],
                 floor: Mapping[str, float] | None, any_machine: bool) -> None:  # fmt: skip
        self._base, self._new, self._gates, self._floor, self._any_machine = base, new, gates, floor, any_machine
        self._findings: list[Finding] = []
        self._tests: list[_Test] = []

    def comparison(self) -> Comparison:
        """Return the findings on every cell of the base."""
        for place, base in self._base.items():
            with _readable(next(iter(base.values()))):
                self._cell(place, base, self._new.get(place, {}))
        self._findings += _decided(self._tests)
        order = list(Verdict)[::-1]
        findings = sorted(self._findings, key=lambda one: (order.index(one.verdict), not one.better))
        return Comparison(findings=tuple(findings), notes=tuple(self._notes()), gates=self._gates)

    def _cell(self, place: Place, base: Cell, new: Cell) -> None:
        some = next(iter(base.values()))
        blank = Finding(dataset=plain(place[0]), request=plain(place[1]), budget=place[2], metric="status",
                        verdict=Verdict.PASS, told="", command=_command(some, sorted(base)))  # fmt: skip
        obstacle = self._obstacle(base, new) if new else self._why_missing(place, some)
        if obstacle:
            self._findings.append(replace(blank, verdict=Verdict.INFRASTRUCTURE, told=obstacle))
            return
        seeds = sorted(base)
        ended = [_ended(base[seed], new[seed]) for seed in seeds]
        worst = max(ended, key=lambda one: list(Verdict).index(one[0]))
        gained = [base[seed]["status"] != "ok" and new[seed]["status"] == "ok" for seed in seeds]
        better = worst[0] is Verdict.PASS and any(gained)
        told = ended[gained.index(True)][1] if better else worst[1]
        self._findings.append(replace(blank, verdict=worst[0], told=told, better=better))
        pairs = [(base[seed], new[seed]) for seed in seeds if base[seed]["status"] == new[seed]["status"] == "ok"]
        if not pairs:
            return
        self._codes(blank, pairs)
        for gate in self._gates:
            if gate.metric in QUALITY:
                self._quality(blank, gate, pairs)
            elif gate.metric in BYTES:
                self._exact(blank, gate, pairs)
            else:
                self._noisy(blank, gate, pairs)

    def _obstacle(self, base: Cell, new: Cell) -> str | None:
        """Return why two cells cannot be compared."""
        missing = sorted(set(base) - set(new))
        if missing:
            return f"no result with seed {', '.join(map(str, missing))}: the run did not end, or was asked for less"
        for seed, was in base.items():
            row = new[seed]
            for side, schema in (("base", was.get("schema")), ("new result", row.get("schema"))):
                if schema != SCHEMA:
                    return f"the {side} has schema {schema}, and this packbench reads {SCHEMA}: measure it again"
            for field, words in COMPARABLE.items():
                if _settled(was.get(field)) != _settled(row.get(field)):
                    return _not_the_same(words, was.get(field), row.get(field))
            if not self._any_machine and _machine(was) != _machine(row):
                return (f"another machine: {_machine(was)} before, {_machine(row)} now; measure the base on this one, "
                        "or leave out speed with --any-machine")  # fmt: skip
            if row["status"] == "needs" and was["status"] != "needs":
                return f"was not measured: {plain(row['reason'])}"
        return None

    def _why_missing(self, place: Place, was: Row) -> str:
        """Return why the new results lack a cell: they have it with other settings, or not at all."""
        others = (cell for other, cell in self._new.items() if other[:3] == place[:3])
        for row in (next(iter(cell.values())) for cell in others):
            for field, words in SETTINGS.items():
                if _settled(was.get(field)) != _settled(row.get(field)):
                    return _not_the_same(words, was.get(field), row.get(field))
        return "no result: the run did not end, or was asked for less than the base"

    def _codes(self, blank: Finding, pairs: Sequence[tuple[Row, Row]]) -> None:
        """Codes are the same each time; where nothing around them changed, others mean that they depend on chance."""
        known = [(was, row) for was, row in pairs if was.get("codes") and row.get("codes")]
        if not known:
            return
        other = [(was, row) for was, row in known if was["codes"] != row["codes"]]
        changed = [(was, row) for was, row in other if _around(was) != _around(row)]
        finding = replace(blank, metric="codes", told="the same to the bit")
        if other and len(changed) == len(other):
            finding = replace(finding, told=f"others than before: {_what_changed(*changed[0], self._any_machine)}")
        elif other and self._any_machine:
            finding = replace(finding, told="others than before, as they may be on another machine")
        elif other:
            told = "others than before, though neither the method nor any version changed: they depend on chance"
            finding = replace(finding, verdict=Verdict.REGRESSION, told=told)
        self._findings.append(finding)

    def _quality(self, blank: Finding, gate: Gate, pairs: Sequence[tuple[Row, Row]]) -> None:
        before, after = ([per_query_of(row, gate.metric) for row in side] for side in zip(*pairs, strict=True))
        sides = (*before, *after)
        if all(of is None for of in sides) and not gate.metric.startswith("recall@"):
            return  # a data set without judgements
        lengths = {0 if of is None or not np.isfinite(of).all() else len(of) for of in sides}
        if len(lengths) > 1 or 0 in lengths:
            told = f"{gate.metric} is not there for the same queries on both sides: measure both again"
            self._findings.append(replace(blank, metric=gate.metric, verdict=Verdict.INFRASTRUCTURE, told=told))
            return
        was, now = (np.mean(np.array(side, np.float64), axis=0) for side in (before, after))
        finding = replace(blank, metric=gate.metric, base=float(was.mean()), new=float(now.mean()))
        self._tests.append(_Test(finding, now - was, gate.amount))

    def _exact(self, blank: Finding, gate: Gate, pairs: Sequence[tuple[Row, Row]]) -> None:
        was, now = (float(np.mean([figure_of(row, gate.metric) for row in side])) for side in zip(*pairs, strict=True))
        allowed = gate.amount * was if gate.relative else gate.amount
        finding = replace(
            blank, metric=gate.metric, base=was, new=now, change=Interval(now - was, now - was, now - was)
        )
        if now - was > allowed + 1e-9:
            told = f"at most {allowed:,.10g} bytes more are allowed"
            self._findings.append(replace(finding, verdict=Verdict.REGRESSION, told=told))
        else:
            better = now < was - 1e-9
            told = "fewer bytes" if better else "no more bytes than allowed"
            self._findings.append(replace(finding, told=told, better=better))

    def _noisy(self, blank: Finding, gate: Gate, pairs: Sequence[tuple[Row, Row]]) -> None:
        if self._any_machine:
            return
        figures = [(figure_of(was, gate.metric), figure_of(row, gate.metric)) for was, row in pairs]
        if any(value is None or value <= 0 for pair in figures for value in pair):
            return  # what a system does not tell, or what takes nothing
        was, now = (float(np.exp(np.mean(np.log(side)))) for side in zip(*figures, strict=True))
        grown = math.log(now / was)
        finding = replace(blank, metric=gate.metric, base=was, new=now)
        if self._floor is None or gate.metric not in self._floor:
            self._findings.append(replace(finding, told=f"{now / was - 1:+.0%}, not judged"))
            return
        floor = self._floor[gate.metric]
        change, allowed = _ratio(grown, floor), math.log1p(gate.amount)
        told = f"{now / was - 1:+.0%}, where the same thing run twice differs by up to {math.expm1(floor):.0%}"
        verdict = Verdict.PASS
        if grown > allowed + floor:
            verdict, told = Verdict.REGRESSION, f"{told}, and {gate.amount:.0%} more is allowed"
        elif grown > allowed:
            verdict, told = Verdict.INCONCLUSIVE, f"{told}: run both again, or on a quieter machine"
        self._findings.append(replace(finding, change=change, verdict=verdict, told=told, better=grown < -floor))

    def _notes(self) -> list[str]:
        shared = [place for place in self._base if place in self._new]
        told: dict[str, None] = {}
        judged = {one.metric for one in self._findings}
        for gate in self._gates:
            metric = gate.metric
            if metric not in judged and gate not in DEFAULTS and not (self._any_machine and metric in NOISY):
                told[f"{metric} is in no result that could be compared"] = None
            elif metric in judged and metric in NOISY and metric not in (self._floor or {}):
                told[f"{metric} is not judged: `packbench noise` has not measured how much two runs differ here"] = None
        for place in shared:
            for seed, was in self._base[place].items():
                if seed in self._new[place]:
                    told.update(dict.fromkeys(_differences(was, self._new[place][seed])))
        added = len(self._new.keys() - self._base.keys())
        if added:
            told[f"cells that the base has nothing to hold against: {added:,}"] = None
        return list(told)


@dataclass(frozen=True, slots=True)
class _Test:
    """Hold the change of each query (queries,) of one cell and what may be lost in the mean."""

    finding: Finding
    changes: Array
    margin: float

    def p_value(self, bound: float, alternative: str) -> float:
        """Test the mean change against a bound: scipy.stats.ttest_1samp, and where no query differs, certainty.

        Done here, as that takes ten times as long, and a comparison does it a thousand times.
        """
        queries, gap = len(self.changes), float(self.changes.mean()) - bound
        gap = -gap if alternative == "less" else gap
        if queries < 2:
            return 1.0
        error = self._error()
        return float(special.stdtr(queries - 1, -gap / error)) if error else float(gap <= 1e-12)

    def interval(self) -> Interval:
        """Return the mean change with its interval."""
        mean = float(self.changes.mean())
        reach = self._error() * float(special.stdtrit(len(self.changes) - 1, (1 + LEVEL) / 2))
        return Interval(mean, mean - reach, mean + reach) if reach > 0 else Interval(mean, mean, mean)

    def _error(self) -> float:
        """Return the standard error of the mean, 0 where no query differs from another."""
        if np.ptp(self.changes) < 1e-12:
            return 0.0
        return float(self.changes.std(ddof=1)) / math.sqrt(len(self.changes))

    def queries_needed(self) -> int | None:
        """Return about how many queries would tell; None where the loss seems to be just what is allowed."""
        loss = -float(self.changes.mean())
        gap = loss - TRIFLE * self.margin if loss > self.margin else self.margin - loss
        if gap < 1e-4 or len(self.changes) < 2:
            return None
        return math.ceil(float(np.var(self.changes, ddof=1)) * (float(stats.norm.ppf(LEVEL)) / gap) ** 2)


def _decided(tests: Sequence[_Test]) -> list[Finding]:
    """Return what the tests of a comparison say: losses corrected for their number, passes and gains as well."""
    if not tests:
        return []
    losses = holm(np.array([test.p_value(-TRIFLE * test.margin, "less") for test in tests]))
    gains = holm(np.array([test.p_value(0.0, "greater") for test in tests]))
    found = []
    for test, loss, gain in zip(tests, losses, gains, strict=True):
        change = test.interval()
        verdict, told = Verdict.INCONCLUSIVE, f"may have lost more than {test.margin:g}"
        if not test.changes.any():
            verdict, told = Verdict.PASS, "the same for every query"
        elif loss <= 1 - LEVEL and -change.value > test.margin + 1e-12:
            verdict, told = Verdict.REGRESSION, f"lost more than {test.margin:g}, and not by chance (p = {loss:.2g})"
        elif test.p_value(-test.margin - 1e-9, "greater") <= 1 - LEVEL:  # to lose just the margin is allowed
            verdict, told = Verdict.PASS, f"lost less than {test.margin:g}, if anything"
        else:
            needed = test.queries_needed()
            told += f"; about {needed:,} queries would tell, or more seeds" if needed else "; these queries cannot tell"
        better = bool(gain <= 1 - LEVEL)
        told = f"gained {change.value:.3f} (p = {gain:.2g})" if better else told
        found.append(replace(test.finding, change=change, verdict=verdict, told=told, better=better))
    return found


def _ended(was: Row, row: Row) -> tuple[Verdict, str]:
    """Judge how a cell ended by how it ended before."""
    before, now = was["status"], row["status"]
    if now == before or now == "ok":
        return Verdict.PASS, f"{now}, as before" if now == before else f"ok, where it was {before}"
    told = f"{now}: {plain(row['reason'])}; it was {before}"
    if now in MACHINE_FAULTS and before == "ok":
        return Verdict.INCONCLUSIVE, f"{told}. A busy machine does that as well: run it again"
    return (Verdict.REGRESSION if before == "ok" else Verdict.PASS), told


def per_query_of(row: Row, metric: str) -> Array | None:
    """Return a measure for each query of a row, in [0, 1], its expectation where scores tie; None where it has none."""
    found = row.get("per_query", {})
    if metric not in found:
        return None
    values = np.array(expected_of(found, metric), np.float64)
    return values / min(int(metric.split("@")[1]), row["n"]) if metric.startswith("recall@") else values


def figure_of(row: Row, metric: str) -> float | None:
    """Return a figure of a row; latency in units of float32 search timed in turn with it."""
    part, name = metric.split(".")
    value = row.get(part, {}).get(name)
    if value is None:
        return None
    if metric == "query_ms.p50":
        return 1 / float(row["speedup"]["median"])
    return float(value) / (float(row["reference_ms"]) if part == "query_ms" else 1.0)


def _ratio(grown: float, floor: float) -> Interval:
    return Interval(*(math.exp(min(at, 700.0)) - 1 for at in (grown, grown - floor, grown + floor)))


def _settled(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _not_the_same(words: str, was: Any, now: Any) -> str:
    before, after = (
        ", ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, dict) else str(value)[:24]
        for value in (was, now)
    )
    return plain(f"not the same {words}: {before} before, {after} now")


def _machine(row: Row) -> str:
    return machine_of(row.get("machine_facts", {}))


def machine_of(facts: Mapping[str, Any]) -> str:
    """Return what figures depend on of a machine, on one line; two machines that read alike are taken as one."""
    return plain(
        ", ".join(f"{facts.get(name)} {name}" if name == "cores" else str(facts.get(name)) for name in MACHINE)
    )


def _around(row: Row) -> tuple[Any, ...]:
    """Return what codes depend on beside data and seed, which are the same; a commit may hold any library's code.

    Where files differ from their commit, nobody knows what else does: such a row is like no other.
    """
    commit = row.get("commit")
    known = object() if str(commit).endswith("-dirty") else commit
    return row["spec"], row["version"], row["versions"], known, row.get("machine_facts", {}).get("simd")


def _what_changed(was: Row, row: Row, any_machine: bool) -> str:
    told = _differences(was, row)
    if was["spec"] != row["spec"]:
        told.append(f"chose {plain(row['spec'])} instead of {plain(was['spec'])}")
    if was["version"] != row["version"]:
        told.append("the method's code")
    if not told and (was.get("commit") != row.get("commit") or str(row.get("commit")).endswith("-dirty")):
        told.append(plain(f"commit {_short(was)} → {_short(row)}"))
    return "; ".join(told) or ("another machine" if any_machine else "the machine's instructions")


def _short(row: Row) -> str:
    commit, dirty, _ = str(row.get("commit")).partition("-dirty")
    return commit[:12] + dirty


def _differences(was: Row, row: Row) -> list[str]:
    """Return what versions and machines differ, a sentence each."""
    before, now = was.get("versions", {}), row.get("versions", {})
    told = [
        plain(f"{name} {before.get(name, 'absent')} → {now.get(name, 'absent')}")
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if _machine(was) != _machine(row):
        told.append(f"machine {_machine(was)} → {_machine(row)}")
    return told


def _command(row: Row, seeds: Sequence[int]) -> str:
    """Return the command that measures a cell again; a reference is asked for at a budget that holds it."""
    budget = row["budget"]
    if budget is None:
        budget = math.ceil(row.get("bytes", {}).get("deployed") or 0) or None
    words = ["packbench", "run", "--dataset", row["dataset"] if row["dataset"] in datasets.names() else DATA]
    words += ["--method", row["request"], *([] if budget is None else ["--budget", f"{budget:.15g}"])]
    words += [word for seed in seeds for word in ("--seed", str(seed))]
    options = {"--metric": row.get("metric"), "--rows": row.get("deployment_n"), "--tries": row.get("tries"),
               "--disk": row.get("disk_budget"), "--threads": row.get("threads", {}).get("search"),
               "--build-threads": row.get("threads", {}).get("build")}  # fmt: skip
    words += [word for option, value in options.items() if value for word in (option, str(value))]
    return plain(shlex.join(words + ([] if _known(row["request"]) else ["--plugin", PLUGIN])))


@functools.cache
def _known(request: str) -> bool:
    try:
        parse_request(request)
    except BadInput:
        return False
    return True


__all__ = [
    "BYTES", "DEFAULTS", "NOISY", "QUALITY", "Comparison", "Finding", "Gate", "Verdict", "compare", "figure_of",
    "machine_of", "nothing_to_compare",
]  # fmt: skip
