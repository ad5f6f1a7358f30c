"""Hold a method to the contract: the checks that authors of plug-ins inherit, and that `packbench check` runs."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from threadpoolctl import threadpool_limits

from packbench import artefact, batches, registry, worker
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import search_exact
from packbench.inputs import copy_of, equal, plain, spoiled, variants
from packbench.items import Array, Items, Ragged
from packbench.method import FIDELITIES, Chain, Hits, Method, Metric, Sample, parts_of
from packbench.spec import parse
from packbench.verdicts import (
    Broken,
    Died,
    Finding,
    names_row,
    planned_within,
    refused,
    require,
    same_answers,
    valid_hits,
    weighs_as_planned,
)  # fmt: skip
from packbench.workers import Workers

LADDER = (4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0)
DEPLOYED = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """Hold a fitted method and what it was given."""

    items: Items
    queries: Items
    shared: dict[str, Array]
    codes: dict[str, Array]


class MethodChecks:
    """Be the contract as a test class: inherit it, name the methods, and pytest runs every check on each.

    ``class TestMine(MethodChecks): methods = [MyMethod, "pq(m=16)"]``. A class is taken at its default configuration,
    or at one that its `for_budget` gives, and its answers to budgets are checked as well; a spec or an instance is
    taken as it is. Test ids are specs. For items of another kind, override `make_items`, `make_queries` (and
    `make_sample`, where fit needs more), `metrics`, and `exact` where packbench does not know the metric.
    """

    methods: ClassVar[Sequence[type[Method] | Method | str]] = ()
    # By (check, spec or name of the method) the reason for a failure that is known; pytest then expects it to fail.
    known_failures: ClassVar[Mapping[tuple[str, str], str]] = {}
    metrics: ClassVar[tuple[Metric, ...]] = ("ip", "cosine", "l2")
    n: ClassVar[int] = 400
    n_queries: ClassVar[int] = 40
    dims: ClassVar[tuple[int, ...]] = (32, 33)  # the first is what most checks use; the others hold the byte formulas
    budget_dims: ClassVar[tuple[int, ...]] = (64, 384, 33)
    seconds: ClassVar[float] = 60.0  # that one process of a method may take

    def make_items(self, n: int, d: int, seed: int) -> Items:
        """Return n items: by default correlated Gaussian vectors (n, d) float32 off the origin."""
        shape = np.random.default_rng(0)
        basis = shape.standard_normal((max(4, d // 3), d)) * np.linspace(2, 0.5, d)
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((n, len(basis))) @ basis / np.sqrt(len(basis))
        rows += 0.2 * rng.standard_normal((n, d)) + 0.3 * shape.standard_normal(d)
        return np.asarray(rows, np.float32)

    def make_queries(self, n: int, d: int, seed: int) -> Items:
        """Return n queries, by default drawn as items are."""
        return self.make_items(n, d, seed)

    def make_sample(self, n: int, d: int, metric: Metric, seed: int) -> Sample:
        """Return what fit is given: items, queries, and a little of whatever else a method may need."""
        return self.sample_of(self.make_items(n, d, seed), self.make_queries(50, d, seed + 1), metric)

    def sample_of(self, items: Items, queries: Items, metric: Metric) -> Sample:
        """Return a sample of items, labelled by their nearest of eight and weighted, and queries with nearest items."""
        nearest = self.exact(queries, items, metric, 1)[:, 0]
        pairs = np.stack([np.arange(len(queries)), nearest], axis=1)
        labels = self.exact(items, items[:8], metric, 1)[:, 0]
        weights = 1 / (1 + np.arange(len(items)))
        return Sample(items, metric, queries, {"pairs": pairs, "labels": labels, "weights": weights})

    def exact(self, queries: Items, items: Items, metric: Metric, k: int) -> Array:
        """Return the ids (n_queries, k) of the true neighbours."""
        return search_exact(queries, items, metric, k).ids

    def build(self, method: Method, metric: Metric, d: int) -> Built:
        """Fit and encode, once for each method, metric and width."""
        key = (type(self), method, metric, d)
        if key not in _built:
            shared = artefact.checked(method.fit(self.make_sample(self.n, d, metric, 1)), "fit")
            items = self.make_items(self.n, d, 2)
            codes = artefact.checked(method.encode(items, shared), "encode")
            _built[key] = Built(items, self.make_queries(self.n_queries, d, 3), shared, codes)
        return _built[key]

    def search(self, method: Method, codes: Mapping[str, Array], shared: Mapping[str, Array], metric: Metric,
               queries: Items, k: int) -> Hits:  # fmt: skip
        """Open copies of the arrays that search is given, and answer."""
        searcher = method.open(_for_search(codes), _for_search(shared), metric)
        return valid_hits(searcher.search(queries, k), len(queries), k, self.n, str(method))

    # pytest finds this by name.
    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each check on each method that it is about."""
        import pytest

        check = metafunc.function.__name__.removeprefix("test_")
        for argument, cases in (("method", self.configurations()), ("method_class", self.classes())):
            if argument in metafunc.fixturenames:
                chosen = []
                for name, case in cases.items():
                    owner = case.name if isinstance(case, type) else type(case).name
                    reason = self.known_failures.get((check, name)) or self.known_failures.get((check, owner))
                    marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
                    chosen.append(pytest.param(case, id=name, marks=marks))
                metafunc.parametrize(argument, chosen)

    def classes(self) -> dict[str, type[Method]]:
        """Return the method classes among `methods`, by name."""
        return {one.name: one for one in self.methods if isinstance(one, type)}

    def configurations(self) -> dict[str, Method]:
        """Return one configuration of each method, by spec; a class that gives none fails a check of its own."""
        found: dict[str, Method] = {}
        for one in self.methods:
            with contextlib.suppress(*((Exception,) if isinstance(one, type) else ())):
                method = self.configuration(one) if isinstance(one, type) else one
                method = parse(method) if isinstance(method, str) else method
                found[str(method)] = method
        return found

    def configuration(self, cls: type[Method]) -> Method:
        """Return a class's default configuration, or else the first that a budget gives."""
        try:
            return cls()
        except TypeError:
            pass
        for budget in (16.0, 32.0, 64.0, 128.0, 512.0):
            try:
                return next(iter(cls.for_budget(Budget(budget, DEPLOYED, self.dims[0], budget))))
            except (BudgetTooSmall, StopIteration):
                continue
        raise BadInput(f"{cls.name}: neither {cls.name}() nor a budget gives a configuration to check; name a spec")

    def test_gives_a_configuration(self, method_class: type[Method]) -> None:
        """A class has a default configuration, or one for some budget."""
        self.configuration(method_class)

    def test_survives_in_processes_of_its_own(self, method: Method) -> None:
        """Build in one process and search in another, as a run does; the answers are those given in this process."""
        for metric in self.metrics[:1]:
            with tempfile.TemporaryDirectory(prefix="packbench-check-") as folder:
                stage = Path(folder)
                sample = self.make_sample(self.n, self.dims[0], metric, 1)
                items, queries = self.make_items(self.n, self.dims[0], 2), self.make_queries(40, self.dims[0], 3)
                found = self.search_apart(method, stage, sample, items, queries)
                given = worker.staged(stage, "items"), worker.staged(stage / "queries", "queries")
                if given[0] is None or given[1] is None:
                    raise Broken("nothing was staged")
                # On one thread as there: sums are rounded otherwise on two, which can lead k-means another way.
                with threadpool_limits(1):
                    shared = artefact.checked(method.fit(sample), "fit")
                    codes = artefact.checked(method.encode(given[0], shared), "encode")
                    here = method.open(_for_search(codes), _for_search(shared), metric).search(given[1], 10)
            same_answers(found, here, "in a process that was given the saved arrays and nothing else")

    def build_apart(self, method: Method, folder: Path, sample: Sample, items: Items) -> Workers:
        """Build a method in a process of its own, and return what starts the next."""
        worker.stage(folder, "items", items)
        worker.stage(folder, "fit", sample.items)
        if sample.queries is not None:
            worker.stage(folder, "fit_queries", sample.queries)
        for name, array in sample.extras.items():
            worker.stage(folder, f"extra-{name}", array)
        (folder / "artefact").mkdir()
        workers = Workers(folder, seconds=self.seconds, memory_bytes=8 << 30, plugins=plugin_files(method))
        job = {"spec": str(method), "seed": 0, "threads": 1, "metric": sample.metric, "stage": str(folder)}
        _succeeded(workers.run("build", job | {"artefact": str(folder / "artefact")}), "build")
        return workers

    def search_apart(self, method: Method, folder: Path, sample: Sample, items: Items, queries: Items) -> Hits:
        """Return the answers of a method that is built in one process and searched in another."""
        workers = self.build_apart(method, folder, sample, items)
        asked, answers = folder / "queries", folder / "answers"
        asked.mkdir()
        answers.mkdir()
        worker.stage(asked, "queries", queries)
        job = {"spec": str(method), "seed": 0, "threads": 1, "artefact": str(folder / "artefact"), "spare": 0,
               "queries": str(asked), "answers": str(answers), "n": len(items), "depths": [10], "timed": False,
               "timing_seconds": 0.0}  # fmt: skip
        _succeeded(workers.run("search", job), "search")
        return Hits(np.load(answers / "ids-10.npy"), np.load(answers / "scores-10.npy"))

    def test_small_samples_never_crash(self, method: Method) -> None:
        """Fit on 20 rows works, or is refused with a sentence."""
        with tempfile.TemporaryDirectory(prefix="packbench-check-") as folder:
            sample = self.make_sample(20, self.dims[0], self.metrics[0], 1)
            try:
                self.build_apart(method, Path(folder), sample, self.make_items(40, self.dims[0], 2))
            except Died:
                raise
            except Broken as broken:
                require("BadInput: " in str(broken), f"a fit on 20 rows: {broken}; raise BadInput with one sentence")

    def test_spec_round_trip(self, method: Method) -> None:
        """A method prints as the text that builds it."""
        text = str(method)
        again = parse(text)
        require(again == method, f"{text!r} reads back as {again!r}, which differs")
        require(str(again) == text, f"{text!r} reads back as {str(again)!r}")

    def test_documentation(self, method_class: type[Method]) -> None:
        """A first sentence for boards; for built-in methods also where they come from and what they weigh."""
        summary = method_class.summary()
        require(not summary.startswith(f"{method_class.__name__}("), "it has no docstring")
        require(summary.endswith("."), f"its docstring begins with {summary[:60]!r}, expected a sentence")
        if method_class.family() == "plugin":
            return
        known = method_class.fidelity in FIDELITIES[1:]
        require(known, f"fidelity {method_class.fidelity!r}, expected one of {', '.join(FIDELITIES[1:])}")
        require(method_class.formula, "it states no formula for its bytes")
        require(method_class.paper or method_class.kind == "control", "it names no paper")

    def test_planned_bytes_are_those_weighed(self, method: Method) -> None:
        """The published formula agrees with the scales."""
        for d in self.dims:
            try:
                planned = method.planned_bytes(d)
            except TypeError:
                return  # no formula: its for_budget plans in another way
            try:
                built = self.build(method, self.metrics[0], d)
            except BadInput:
                if d == self.dims[0]:
                    raise
                continue  # a width that this configuration refuses
            weighs_as_planned(artefact.weigh(built.codes, built.shared, self.n), planned, f"d = {d}")

    def test_same_codes_in_parts_as_at_once(self, method: Method) -> None:
        """A code does not depend on what it is encoded with."""
        built = self.build(method, self.metrics[0], self.dims[0])
        n = self.n
        for rows in (slice(0, n // 2), slice(n // 2, n), slice(n // 3, n // 3 + 1)):
            part = artefact.checked(method.encode(built.items[rows], built.shared), "encode")
            told = batches.differs(built.codes, part, rows, n)
            require(not told, f"{told} when they are encoded alone")
            if told is None:
                metric, queries = self.metrics[0], built.queries
                other = batches.scores_differ(method, built.items, built.codes, built.shared, metric, queries)
                require(not other, other)

    def test_same_bytes_for_a_seed(self, method: Method) -> None:
        """Fitted and encoded twice, the arrays are equal bit for bit."""
        first = self.build(method, self.metrics[0], self.dims[0])
        shared = method.fit(self.make_sample(self.n, self.dims[0], self.metrics[0], 1))
        codes = method.encode(first.items, shared)
        for what, one, two in (("fit", first.shared, shared), ("encode", first.codes, codes)):
            require(set(one) == set(two), f"{what} returns other arrays the second time")
            for name in one:
                same = one[name].tobytes() == two[name].tobytes()
                require(same, f"{what} gives other bytes for {name!r} the second time")

    def test_a_smaller_configuration_is_cut_out_of_a_larger(self, method: Method) -> None:
        """What `cut` takes out of the fit of more levels, or of `fitted_as`, is what it learns alone, bit for bit."""
        more, field = method.fitted_as(), method.nests_by()
        if field:
            more = dataclasses.replace(cast(Any, more), **{field: getattr(method, field) + 3})
        if more == method:
            return
        for metric in self.metrics:
            sample = self.make_sample(self.n, self.dims[0], metric, 1)
            alone, taken = method.fit(sample), method.cut(more.fit(sample))
            require(set(alone) == set(taken), f"{more} cut to {method} has other arrays than its own fit")
            for name in alone:
                same = alone[name].dtype == taken[name].dtype and np.array_equal(alone[name], taken[name])
                require(same, f"{name!r} of {method} is not what is cut out of {more}")

    def test_same_answers_after_saving(self, method: Method) -> None:
        """What was written and read back answers as what was returned."""
        for metric in self.metrics:
            built = self.build(method, metric, self.dims[0])
            with tempfile.TemporaryDirectory(prefix="packbench-check-") as folder:
                artefact.save(Path(folder), built.codes, built.shared, spec=str(method))
                codes, shared, _ = artefact.load(Path(folder))
                found = method.open(codes, shared, metric).search(built.queries, 10)
            here = self.search(method, built.codes, built.shared, metric, built.queries, 10)
            same_answers(found, here, "after saving")

    def test_same_answers_alone_as_in_a_batch(self, method: Method) -> None:
        """A query is answered alike alone and among others: latency is measured alone, recall in batches."""
        built = self.build(method, self.metrics[0], self.dims[0])
        searcher = method.open(_for_search(built.codes), _for_search(built.shared), self.metrics[0])
        batch = searcher.search(built.queries, 10)
        for row in range(0, len(built.queries), 4):
            one = slice(row, row + 1)
            alone = valid_hits(searcher.search(built.queries[one], 10), 1, 10, self.n, str(method))
            same_answers(alone, Hits(batch.ids[one], batch.scores[one]), "to a query asked alone", 0.7)

    def test_inputs_are_accepted_and_left_alone(self, method: Method) -> None:
        """Read-only, non-contiguous, float16, float64 and memory-mapped input gives the codes of plain float32."""
        metric, d = self.metrics[0], self.dims[0]
        built = self.build(method, metric, d)
        with tempfile.TemporaryDirectory(prefix="packbench-check-") as folder:
            for what, items in variants(built.items, Path(folder)):
                before = copy_of(items)
                codes = artefact.checked(method.encode(items, built.shared), "encode")
                wanted = method.encode(plain(items), built.shared)
                require(equal(items, before), f"encode changes its input ({what})")
                told = batches.differs(wanted, codes, slice(0, self.n), self.n)
                require(not told, f"{told} when the input is {what}")
            for what, items in variants(self.make_sample(self.n, d, metric, 1).items, Path(folder)):
                if what not in ("in Fortran order", "float16", "memory-mapped"):
                    continue  # fitting is dear, and these three bring another layout, another type and a read-only page
                before = copy_of(items)
                method.fit(self.sample_of(items, self.make_queries(50, d, 2), metric))
                require(equal(items, before), f"fit changes its input ({what})")
            here = self.search(method, built.codes, built.shared, metric, built.queries, 10)
            for what, queries in variants(built.queries, Path(folder)):
                before = copy_of(queries)
                found = self.search(method, built.codes, built.shared, metric, queries, 10)
                require(equal(queries, before), f"search changes its queries ({what})")
                if what != "float16":
                    same_answers(found, here, f"to {what} queries")

    def test_k_distinct_ids_best_first(self, method: Method) -> None:
        """Ids exist and differ, scores do not rise, and -1 fills a row that has no further answer."""
        for metric in self.metrics:
            built = self.build(method, metric, self.dims[0])
            for k in (1, 10, 100):
                self.search(method, built.codes, built.shared, metric, built.queries, k)
            few = method.encode(built.items[:7], built.shared)
            found = method.open(_for_search(few), _for_search(built.shared), metric).search(built.queries, 10)
            valid_hits(found, len(built.queries), 10, 7, str(method))

    def test_one_item_and_none(self, method: Method) -> None:
        """A single item is found, and no items encode to no rows."""
        built = self.build(method, self.metrics[0], self.dims[0])
        one = artefact.checked(method.encode(built.items[:1], built.shared), "encode")
        found = method.open(_for_search(one), _for_search(built.shared), self.metrics[0]).search(built.queries, 1)
        valid_hits(found, len(built.queries), 1, 1, str(method))
        none = artefact.checked(method.encode(built.items[:0], built.shared), "encode")
        for name, array in none.items():
            require(len(one[name]) != 1 or len(array) == 0, f"no items give {len(array)} rows of {name!r}")

    def test_degenerate_items(self, method: Method) -> None:
        """Duplicate rows, constant dimensions and zero vectors are searched without a NaN."""
        rows = self.make_items(self.n, self.dims[0], 2)
        if isinstance(rows, Ragged):
            return
        mixed = np.repeat(rows[: self.n // 2], 2, axis=0)
        mixed[:, :3], mixed[:, 5] = 0.0, 7.0
        mixed[10:14] = 0.0
        for metric in self.metrics:
            self._searches(method, mixed, metric, "duplicates, constant dimensions and zero vectors")
        with contextlib.suppress(BadInput):  # nothing can be learnt from equal rows, and saying so is an answer
            self._searches(method, np.repeat(rows[:1], self.n, axis=0), self.metrics[-1], "equal rows")

    def _searches(self, method: Method, items: Array, metric: Metric, what: str) -> None:
        shared = method.fit(self.sample_of(items, items[:50], metric))
        queries = np.concatenate([items[:20], np.zeros((1, items.shape[1]), np.float32)])
        codes = artefact.checked(method.encode(items, shared), "encode")
        for name, array in codes.items():
            # A NaN compares with nothing, so an item that scores NaN is never returned and would go unnoticed.
            sound = array.dtype.kind != "f" or not np.isnan(array).any()
            require(sound, f"encode gives NaN in {name!r} for {what}")
        searcher = method.open(_for_search(codes), _for_search(shared), metric)
        valid_hits(searcher.search(queries, 10), len(queries), 10, len(items), f"{method} on {what}")

    def test_nan_and_infinity_are_refused(self, method: Method) -> None:
        """The error of encode names the row; that of fit does too, unless fit learns nothing from it."""
        built = self.build(method, self.metrics[0], self.dims[0])
        for value in (np.nan, np.inf, -np.inf):
            found = spoiled(built.items, value)
            if found is None:
                return
            items, row = found
            refused(lambda items=items: method.encode(items, built.shared), row, f"encode takes {value}")  # type: ignore[misc]
            try:
                shared = artefact.checked(method.fit(self.sample_of(items, built.queries, self.metrics[0])), "fit")
            except ValueError as error:
                require(
                    names_row(error, row), f"fit refuses {value} with {str(error)[:80]!r}, without naming row {row}"
                )
                continue
            for name, array in shared.items():
                sound = array.dtype.kind != "f" or np.isfinite(array).all()
                require(sound, f"fit takes {value} and returns a {name!r} that is not finite")

    def test_quality_is_above_chance(self, method: Method) -> None:
        """Under each metric the true neighbours are found more often than a blind draw finds them."""
        for metric in self.metrics:
            built = self.build(method, metric, self.dims[0])
            found = self.search(method, built.codes, built.shared, metric, built.queries, 10)
            true = self.exact(built.queries, built.items, metric, 10)
            right = np.mean([np.isin(ids, wanted).mean() for ids, wanted in zip(found.ids, true, strict=True)])
            chance = 10 / self.n
            floor = chance + 5 * np.sqrt(chance / (10 * len(true)))
            require(right > floor, f"recall@10 under {metric} is {right:.3f}; a blind draw may reach {floor:.3f}")

    def test_a_budget_is_answered_in_time(self, method_class: type[Method]) -> None:
        """for_budget ends, and its configurations can be read in another process."""
        with tempfile.TemporaryDirectory(prefix="packbench-check-") as folder:
            plugins = plugin_files(method_class)
            workers = Workers(Path(folder), seconds=min(20.0, self.seconds), memory_bytes=8 << 30, plugins=plugins)
            for at in (LADDER[0], LADDER[-1]):
                budget = {"bytes_per_item": at, "n": DEPLOYED, "d": self.budget_dims[0], "cold_bytes_per_item": 0.0}
                told = workers.run("plan", {"request": method_class.name, "budget": budget, "tries": 3})
                _succeeded(told, f"for_budget at {at:g} bytes per item")

    def test_more_bytes_never_yield_nothing(self, method_class: type[Method]) -> None:
        """Every budget is answered by configurations that fit, or by the least that would do; more is never less."""
        for d in self.budget_dims:
            enough = ""
            for at in LADDER:
                budget = Budget(at, DEPLOYED, d)
                try:
                    found = list(itertools.islice(method_class.for_budget(budget), 20))
                except BudgetTooSmall as error:
                    require(not enough, f"d = {d}: {enough} fits a smaller budget, yet {at:g} bytes are too few")
                    self._least(method_class, error, budget)
                    continue
                require(found, f"d = {d}: for_budget yields nothing at {at:g} bytes; raise BudgetTooSmall there")
                enough = f"{found[0]}"
                for method in found:
                    require(parse(str(method)) == method, f"for_budget yields {method}, which does not read back")
                    planned_within(method, budget)

    def _least(self, method_class: type[Method], error: BudgetTooSmall, budget: Budget) -> None:
        """Hold a method to the least bytes that it says it needs."""
        at = f"d = {budget.d}: at {budget.bytes_per_item:g} bytes"
        if "on disk" in str(error):
            return  # what lacks is an allowance on disk, which has a column of its own
        finite = np.isfinite(error.least) and error.least > 0
        require(finite, f"{at} the least is {error.least}, expected the bytes per item that would do")
        require(error.least > budget.bytes_per_item, f"{at} the least that would do is said to be {error.least:g}")
        try:
            found = next(iter(method_class.for_budget(Budget(error.least * (1 + 1e-9), budget.n, budget.d))), None)
        except BudgetTooSmall as again:
            found = None
            at += f" ({again} there)"
        require(found is not None, f"{at} {error.least:g} would do, but they do not")

    def test_a_configuration_weighs_what_was_asked(self, method_class: type[Method]) -> None:
        """Built on small data, a first choice weighs within its budget, shared bytes spread over a million items.

        A method with neither a `for_budget` nor a formula of its own has no choice, and a run leaves it to the scales.
        """
        if method_class.for_budget.__func__ is Method.for_budget.__func__ and (  # type: ignore[attr-defined]
            method_class.planned_bytes is Method.planned_bytes
        ):
            return
        d = self.dims[0]
        for at in (8.0, 16.0, 32.0):
            budget = Budget(at, DEPLOYED, d)
            try:
                method = next(iter(method_class.for_budget(budget)))
            except BudgetTooSmall:
                continue
            built = self.build(method, self.metrics[0], d)
            ledger = artefact.weigh(built.codes, built.shared, self.n)
            held = budget.holds(ledger.payload, ledger.shared, ledger.cold)
            require(held, f"{method} weighs {ledger.total(DEPLOYED):.2f} bytes per item ({ledger.cold:.2f} on disk), "
                           f"asked for {at:g}")  # fmt: skip
            try:
                weighs_as_planned(ledger, method.planned_bytes(d), str(method))
            except TypeError:
                continue  # no formula


_built: dict[Any, Built] = {}


def run_checks(method: type[Method] | Method | str, checks: type[MethodChecks] = MethodChecks) -> list[Finding]:
    """Run every check on a class (its budgets included) or on one configuration; a check that cannot run has failed.

    What takes its process down or never ends is tried in a process of its own first, and then in no other.
    """
    suite = type(checks.__name__, (checks,), {"methods": (method,)})()
    findings: list[Finding] = []

    def passes(check: str, case: type[Method] | Method) -> bool:
        """Run one check; False where its method must not be run in this process."""
        if getattr(suite, f"test_{check}") is None:
            return True
        try:
            getattr(suite, f"test_{check}")(case)
        except Exception as error:
            told = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
            findings.append(Finding(check, False, told))
            return not isinstance(error, Died) and check != "a_budget_is_answered_in_time"
        findings.append(Finding(check, True))
        return True

    for cls in suite.classes().values():
        if not passes("a_budget_is_answered_in_time", cls):
            return findings
    configurations = suite.configurations()
    for case in configurations.values():
        if not passes("survives_in_processes_of_its_own", case):
            return findings
    done = {finding.check for finding in findings}
    for check, argument in _checks(checks):
        if check not in done:
            for one in (configurations if argument == "method" else suite.classes()).values():
                passes(check, one)
    return findings


def _checks(checks: type[MethodChecks]) -> list[tuple[str, str]]:
    """List the checks in the order of their definition, with what each takes."""
    names = dict.fromkeys(name for cls in reversed(checks.__mro__) for name in vars(cls) if name.startswith("test_"))
    found = {name: getattr(checks, name) for name in names}
    # A subclass drops a check that does not apply by setting it to None.
    return [(name.removeprefix("test_"), list(inspect.signature(check).parameters)[1])
            for name, check in found.items() if check is not None]  # fmt: skip


def _succeeded(answer: Mapping[str, Any], phase: str) -> None:
    if "ok" in answer:
        return
    told = f"{phase}: {answer['status']}: {answer['reason']}"
    raise (Broken if answer["status"] == "disqualified" or "traceback" in answer else Died)(told)


def plugin_files(method: Method | type[Method]) -> tuple[str, ...]:
    """Return the files that another process loads to know a method and its parts; none for installed ones."""
    entries = metadata.entry_points(group=registry.GROUP)
    installed = {entry.value.partition(":")[0].partition(".")[0] for entry in entries}
    files: dict[str, None] = {}
    pending: list[Method | type[Method]] = [method]
    while pending:
        part = pending.pop()
        cls = part if isinstance(part, type) else type(part)
        if isinstance(part, Method):
            pending += parts_of(part)
        if cls is not Chain and cls.__module__.partition(".")[0] not in {"packbench", *installed}:
            files[str(Path(inspect.getfile(sys.modules[cls.__module__])).resolve())] = None
    return tuple(files)


def _for_search(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in artefact.for_search(arrays).items()}
