"""Measure one configuration on one data set: build in one worker, search in another, judge the ids that come back."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib.format import open_memmap

from packbench import registry, resources, worker
from packbench.aside import Aside
from packbench.dataset import Dataset
from packbench.errors import Infrastructure
from packbench.exact import search_exact
from packbench.gaussian import Gaussian
from packbench.items import Array, Items, OnDisk, Ragged, as_vectors
from packbench.method import Method, imports_of
from packbench.plan import Plan
from packbench.profile import Profile
from packbench.quality import CUTOFFS, Judge, Relevance, ranking
from packbench.store import SCHEMA, Row, Store, canonical
from packbench.truth import Truth, cache_dir, truth_of, without
from packbench.workers import Workers

SHALLOW, DEEP = 10, 100  # recall@1 and @10 come from a search for 10, recall@100 from one for 100: depth is not free
RECALL = f"recall@{SHALLOW}"
REHEARSAL_SECONDS = 60.0
GRACE_SECONDS = 3.0
MOST_RESIDENT = 1.2  # times what was weighed, above which a row carries a note
WORSE_ALONE = 0.8  # a query's own row, where it is to be left out, takes one place of the ten
AHEAD = 2  # workers that wait: one for a timed search, beside which none is started, and one for what follows it
FIELDS = (
    "spec", "measurement", "bytes", "seconds", "peak_bytes", "kernel", "shards", "query_ms", "reference_ms", "speedup",
    "batch", "repeat_ratio", "recall", "ties", "per_query", "relevance", "n_judged", "health", "codes",
    "fitted_as", "blocks", "notes",
)  # fmt: skip


class NoFigures(Exception):
    """Carry the status and the reason of a configuration that gives no figures."""

    def __init__(self, status: str, reason: str, details: Row | None = None) -> None:
        self.row: Row = {"status": status, "reason": reason} | (details or {})
        super().__init__(reason)


class Bench:
    """Hold what the configurations of one data set share: staged arrays, exact answers, what was measured already."""

    def __init__(
        self, dataset: Dataset, plan: Plan, store: Store, folder: Path,
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:  # fmt: skip
        self.dataset_sha256 = dataset.sha256()
        self.machine = resources.machine()
        self.software = software()
        self.profile = Profile()
        self.workers = Workers(folder, seconds=plan.seconds, memory_bytes=plan.memory_bytes, plugins=plan.plugins,
                               profile=self.profile, ahead=AHEAD)  # fmt: skip
        self.truth_seconds = 0.0
        # Seconds that workers spent in methods and in the reference so far; aside, where a next cell may be under way.
        self.spent = self.spent_aside = 0.0
        self.aside = Aside(beside=resources.cores() > max(plan.build_threads, plan.threads))
        self._dataset, self._plan, self._store, self._folder = dataset, plan, store, folder
        self._known: dict[str, Row] = {
            row["measurement"]: row for row in store.rows() if row.get("measurement") and "recall" in row
        }
        self._measured: dict[str, Future[Row]] = {}
        self._alone = alone  # entered while a search is timed
        self._built: dict[str, Row | NoFigures] = {}
        self._longest: dict[str, Method] = {}
        self._fits: dict[str, Row | None] = {}
        self._validated: dict[str, Future[float]] = {}

    def close(self) -> None:
        """End what is under way aside, if it takes long, and the workers that wait for jobs.

        A run that is over has nothing under way; one that was interrupted keeps what is all but done.
        """
        if not self.aside.wait(GRACE_SECONDS):
            self.aside.drop()  # first, or what is left of a worker would be stored as its answer
            self.workers.stop()
        self.aside.close()
        self.workers.close()

    def stage(self) -> None:
        """Write what workers read and find the exact answers; test queries lie apart from what a build is given."""
        dataset = self._dataset
        for name in ("stage", "queries", "validation"):
            (self._folder / name).mkdir()
        worker.stage(self._folder / "stage", "items", dataset.items)
        worker.stage(self._folder / "stage", "fit", dataset.fit)
        if dataset.fit_queries is not None:
            worker.stage(self._folder / "stage", "fit_queries", dataset.fit_queries)
        for name, array in dataset.fit_extras.items():
            worker.stage(self._folder / "stage", f"extra-{name}", array)
        worker.stage(self._folder / "queries", "queries", dataset.queries)
        worker.stage(self._folder / "validation", "queries", dataset.validation)
        begin = time.perf_counter()
        with self.profile.span("truth"):
            truth = truth_of(dataset.queries, dataset.items, dataset.metric, dataset.self_rows)
            chosen = truth_of(dataset.validation, dataset.items, dataset.metric, dataset.validation_self_rows)
        self.truth_seconds = time.perf_counter() - begin
        self._judge = self._judge_of(dataset.queries, truth)
        self._chooser = self._judge_of(dataset.validation, chosen)
        self._relevance = Relevance(dataset) if dataset.qrels else None
        self._factors = self.aside.later(self._stage_factors)

    @property
    def factor_seconds(self) -> float:
        """Return what it took to compute what many fits have in common, once that is done."""
        return self._factors.result()

    def _stage_factors(self) -> float:
        """Let a worker compute what many fits have in common, with the threads of a build: others round otherwise."""
        fit = self._dataset.fit
        if isinstance(fit, Ragged) or fit.ndim != 2 or fit.dtype.kind != "f":
            return 0.0
        job = {"stage": str(self._folder / "stage"), "factors": str(self._folder / "factors"),
               "metric": self._dataset.metric, "seed": self._plan.seeds[0],
               "threads": self._plan.build_threads}  # fmt: skip
        answer = self.workers.run("factors", job)
        if "ok" not in answer:
            raise Infrastructure(f"moments of the fit sample: {answer['status']}: {answer['reason']}")
        return float(answer["ok"]["seconds"]["factors"])

    def _judge_of(self, queries: Items, truth: Truth) -> Judge:
        return Judge(queries, self._dataset.items, self._dataset.metric, truth)

    def key(self, method: Method, seed: int) -> str:
        """Hash what a measurement depends on: not the budget, so that one spec is measured once for all budgets."""
        parts = [SCHEMA, str(method), registry.version(method), seed, self.dataset_sha256, self.machine["id"],
                 self.software, self._plan.threads, self._plan.build_threads, self._plan.deployment_n]  # fmt: skip
        return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]

    def nest(self, methods: Iterable[Method], longest: Method, seed: int) -> None:
        """Let several configurations, where they are not known yet, take theirs out of the fit of one."""
        new = [key for method in methods if (key := self.key(method, seed)) not in self._known]
        if len(new) > 1:
            self._longest |= dict.fromkeys(new, longest)

    def _fit_of(self, longest: Method, seed: int) -> tuple[Path, Row | None]:
        """Return the file of a fit that others are taken out of, and its seconds; none where it failed."""
        key = self.key(longest, seed)
        file = self._folder / "fits" / f"{key}.npz"
        if key not in self._fits:
            file.parent.mkdir(exist_ok=True)
            job = self._job(longest, seed) | {"fitted": str(file)}
            answer = self.workers.run("fit", job)
            self._fits[key] = ok = answer.get("ok")
            if ok is not None:
                self.spent += ok["seconds"]["fit"] - ok["handed_seconds"]
        return file, self._fits[key]

    def _job(self, method: Method, seed: int) -> Row:
        """Return what a worker has to know to fit, once what fits have in common is there."""
        self._factors.result()
        return {"spec": str(method), "seed": seed, "threads": self._plan.build_threads, "metric": self._dataset.metric,
                "stage": str(self._folder / "stage"), "factors": str(self._folder / "factors")}  # fmt: skip

    def build(self, method: Method, seed: int) -> Row:
        """Return the bytes, seconds and peaks of fit and encode; the arrays lie on disk until they are measured.

        Raises:
            NoFigures: it failed, ran out of time or memory, or broke a rule.
        """
        key = self.key(method, seed)
        if key not in self._built:
            known = self._known.get(key)
            self._built[key] = known if known is not None else self._build_now(method, seed, key)
        built = self._built[key]
        if isinstance(built, NoFigures):
            raise built
        return built

    def _build_now(self, method: Method, seed: int, key: str) -> Row | NoFigures:
        self._rehearse(method, seed)
        folder = self._folder / key
        folder.mkdir(exist_ok=True)
        job = self._job(method, seed) | {"artefact": str(folder), "shards": self._plan.shards}
        longest = self._longest.get(key)
        file, fit = self._fit_of(longest, seed) if longest is not None else (None, None)
        answer = self.workers.run("build", job | ({"fitted": str(file)} if fit else {}))
        if "ok" in answer:
            ok: Row = answer["ok"]
            self.spent += sum(ok["seconds"].values()) - ok.pop("handed_seconds")
            if fit:
                # Nobody knows what it alone would have taken: no more than the fit that it was taken out of.
                ok["seconds"]["fit"] += fit["seconds"]["fit"]
                ok["peak_bytes"]["fit"] = fit["peak_bytes"]["fit"]
                ok["fitted_as"] = str(longest)
            return ok
        shutil.rmtree(folder, ignore_errors=True)
        return no_figures(answer, "build")

    def _rehearse(self, method: Method, seed: int) -> None:
        """Once per installation and version of a method's code, let its kernels be compiled outside the timed phases.

        Kernels are compiled for widths of codes, metrics and scorers, but not for sizes: configurations that differ in
        numbers of two digits or more share theirs. Training may take long, and what is trained shares them always.
        """
        alike = type(method).__name__ if imports_of(method) else re.sub(r"\d{2,}", "n", str(method))
        key = canonical([registry.version(method), alike, self._dataset.metric, metadata.version("numba"), __file__])
        done = cache_dir() / "compiled" / hashlib.sha256(key.encode()).hexdigest()[:24]
        items = self._dataset.items
        vectors = (items.values if isinstance(items, Ragged) else items).ndim == 2
        if done.exists() or not vectors:
            return
        job = {"spec": str(method), "seed": seed, "threads": self._plan.build_threads,
               "metric": self._dataset.metric, "d": self._dataset.d, "ragged": isinstance(items, Ragged)}  # fmt: skip
        # A method that fails here fails in its cell too, where it becomes a row.
        if "ok" in self.workers.run("rehearse", job, REHEARSAL_SECONDS):
            with contextlib.suppress(OSError):
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()

    def _present(self, method: Method, seed: int) -> None:
        """Make the arrays of a configuration again if they are not on disk: it is known from the store, or was judged.

        Raises:
            NoFigures: they could not be made again.
        """
        key = self.key(method, seed)
        if key in self._measured:
            self.aside.wait()  # there they go, once they have been looked at
        if not (self._folder / key / "manifest.json").exists():
            remade = self._build_now(method, seed, key)
            if isinstance(remade, NoFigures):
                raise remade

    def _search(self, method: Method, seed: int, queries: str, rows: Array | None, timed: bool) -> tuple[Row, Path]:
        """Answer the test queries (timed, at both depths) or the validation queries; return figures and the answers."""
        answers = Path(tempfile.mkdtemp(prefix="answers-", dir=self._folder))
        job = {"spec": str(method), "seed": seed, "threads": self._plan.threads,
               "artefact": str(self._folder / self.key(method, seed)), "queries": str(self._folder / queries),
               "answers": str(answers), "n": self._dataset.n, "depths": [SHALLOW, DEEP] if timed else [SHALLOW],
               "spare": int(rows is not None), "timed": timed, "timing_seconds": self._plan.timing_seconds}  # fmt: skip
        if timed:
            # Neither what is done aside nor the end of the last worker is part of being alone.
            self.aside.wait()
            self.workers.settle()
        with self._alone() if timed else nullcontext():
            answer = self.workers.run("search", job)
        if "ok" not in answer:
            raise no_figures(answer, "search")
        return answer["ok"], answers

    def validate(self, method: Method, seed: int) -> Future[float]:
        """Search the validation queries, aside; the future holds the recall@10 by which configurations are chosen.

        A search that gave none is raised by the future.

        Raises:
            NoFigures: the arrays to search could not be made again.
        """
        key = self.key(method, seed)
        if key not in self._validated:
            self._present(method, seed)
            self._validated[key] = self.aside.later(lambda: self._validated_now(method, seed))
        return self._validated[key]

    def _validated_now(self, method: Method, seed: int) -> float:
        rows = self._dataset.validation_self_rows
        found, answers = self._search(method, seed, "validation", rows, timed=False)
        self.spent_aside += sum(found["seconds"].values())
        ids, _ = _answers(answers, rows, str(SHALLOW))
        shutil.rmtree(answers, ignore_errors=True)
        return float(self._chooser.recall(ids, SHALLOW).per_query.mean())

    def measure(self, method: Method, seed: int) -> Future[Row]:
        """Search the test queries, timed; the future holds every figure of the configuration, measured once.

        Answers are judged aside. What no search gave, or what the judge disqualifies, is raised by the future.

        Raises:
            NoFigures: the build gave none.
        """
        key = self.key(method, seed)
        if key not in self._measured:
            built = self.build(method, seed)
            self._measured[key] = self._measure_now(method, seed, key, built)
        return self._measured[key]

    def _measure_now(self, method: Method, seed: int, key: str, built: Row) -> Future[Row]:
        if key in self._known:
            known = self._known[key]
            return self.aside.later(lambda: {name: known[name] for name in FIELDS if name in known})
        try:
            self._present(method, seed)
            found, answers = self._search(method, seed, "queries", self._dataset.self_rows, timed=True)
        except NoFigures as outcome:
            nothing: Future[Row] = Future()
            nothing.set_exception(outcome)
            return nothing
        self.spent += sum(found["seconds"].values())
        return self.aside.later(lambda: self._judged(method, seed, key, built, found, answers))

    def _judged(self, method: Method, seed: int, key: str, built: Row, found: Row, answers: Path) -> Row:
        """Return the figures of a search, once more of it is known than was timed."""
        rows = self._dataset.self_rows
        begin = time.perf_counter()
        shallow, deep = (_answers(answers, rows, str(depth)) for depth in (SHALLOW, DEEP))
        timed = np.load(answers / "timed-rows.npy"), np.load(answers / "timed-ids.npy")
        shutil.rmtree(answers, ignore_errors=True)
        waterfall, told, in_worker = self._waterfall(method, key, seed, shallow[0])
        self.spent_aside += in_worker
        shutil.rmtree(self._folder / key, ignore_errors=True)
        self._store.save_hits(key, ids_10=shallow[0], ids_100=deep[0])
        self._same_alone(shallow[0], *timed)
        with self.profile.span("judge"):
            quality = self._quality(shallow, deep)
        quality["per_query"] |= {f"{name} {RECALL}": right for name, right in waterfall.items()}
        own: Row = {
            "spec": str(method),
            "measurement": key,
            "seconds": built["seconds"] | found.pop("seconds") | {"judge": time.perf_counter() - begin},
            "peak_bytes": built["peak_bytes"] | {"search": found.pop("peak_bytes")},
            "bytes": built["bytes"] | {
                "deployed": built["bytes"]["payload"] + built["bytes"]["shared"] / self._plan.deployment_n,
                "resident": found.pop("resident_bytes"),
                "cold_per_query": found.pop("cold_bytes_per_query"),
            },
            "health": built.get("health", {}) | told,
            "codes": built["codes"],
            "fitted_as": built.get("fitted_as", str(method)),
            "blocks": built["blocks"],
        }  # fmt: skip
        return own | found | quality | _memory_notes(own["bytes"])

    def _waterfall(self, method: Method, key: str, seed: int, own: Array) -> tuple[dict[str, list[int]], Row, float]:
        """Return how many of the true ten each stage before the method's own answers finds, per query, and more health.

        A method that cannot be taken apart, or fails at it, has no stages: its figures stand all the same. `reordered`
        is the share of queries whose answers a second stage changes. The last is the seconds that it took a worker.
        """
        rows = self._dataset.self_rows
        answers = Path(tempfile.mkdtemp(prefix="answers-", dir=self._folder))
        job = {"spec": str(method), "seed": seed, "threads": self._plan.threads, "artefact": str(self._folder / key),
               "queries": str(self._folder / "queries"), "answers": str(answers), "n": self._dataset.n,
               "depth": SHALLOW, "spare": int(rows is not None)}  # fmt: skip
        answer = self.workers.run("waterfall", job)
        if "ok" not in answer:
            return {}, {"failed": answer["reason"]}, 0.0
        found: dict[str, list[int]] = {}
        told: Row = {}
        for name in answer["ok"]["stages"]:
            ids, scores = _answers(answers, rows, name)
            found[name] = self._judge.recall(ids, SHALLOW, scores).right.tolist()
            if name == "shortlist":
                told["reordered"] = float((ids != own).any(axis=1).mean())
        shutil.rmtree(answers, ignore_errors=True)
        return found, told, answer["ok"]["seconds"]

    def reference_curve(self, bytes_per_item: float) -> Row:
        """Return the recall of a code that were optimal for Gaussian vectors at this rate; nothing is weighed or timed.

        Under cosine it is given vectors of unit length.
        """
        dataset = self._dataset
        items = dataset.items
        if isinstance(items, OnDisk):
            into = open_memmap(self._folder / "reference.npy", "w+", np.float32, items.shape)
            coded = cast(Array, OnDisk(self._gaussian.code(items, 8 * bytes_per_item, 0, into)))
        else:
            coded = self._gaussian.code(as_vectors(items), 8 * bytes_per_item)
        rows = dataset.self_rows
        hits = search_exact(dataset.queries, coded, dataset.metric, min(SHALLOW + (rows is not None), dataset.n))
        ids = hits.ids if rows is None else without(hits.ids, rows)[:, :-1]
        right = self._judge.recall(ids, SHALLOW).right
        return {
            "recall": {RECALL: float(right.mean() / min(SHALLOW, dataset.n))},
            "per_query": {RECALL: right.tolist()},
        }

    @cached_property
    def _gaussian(self) -> Gaussian:
        return Gaussian.of(as_vectors(self._dataset.fit), self._dataset.metric)

    def _same_alone(self, batch: Array, rows: Array, alone: Array) -> None:
        """Judge what was timed, query by query: it has to be the search whose batches were judged.

        Raises:
            NoFigures: single queries are answered worse.
        """
        found = self._judge.share_right(rows, alone, SHALLOW)
        wanted = self._judge.share_right(rows, batch[rows], SHALLOW)
        if found < WORSE_ALONE * wanted:
            raise NoFigures(
                "disqualified", f"recall@{SHALLOW} is {found:.3f} for queries that come alone, which are timed, and "
                f"{wanted:.3f} for the same queries in a batch",
            )  # fmt: skip

    def _quality(self, shallow: tuple[Array, Array], deep: tuple[Array, Array]) -> Row:
        """Judge a search for 10 and one for 100.

        Ties at the boundary are seen whole only from further down; where the deeper search ranks otherwise (a rescored
        shortlist grows with the depth) the shallow one is bounded by itself.
        """
        same = np.array_equal(shallow[0], deep[0][:, : shallow[0].shape[1]])
        row: Row = {"recall": {}, "ties": {}, "per_query": {}}
        recalls = self._judge.recalls(deep[0], CUTOFFS, deep[1])
        if not same:
            recalls |= self._judge.recalls(shallow[0], [k for k in CUTOFFS if k <= SHALLOW], shallow[1])
        for k, of in recalls.items():
            row["recall"][f"recall@{k}"] = float(of.per_query.mean())
            row["ties"][f"recall@{k}"] = [float(bound.mean()) for bound in (of.worst, of.expected, of.best)]
            row["per_query"][f"recall@{k}"] = of.right.tolist()
            if (of.best > of.worst).any():
                row["per_query"][f"expected recall@{k}"] = np.round(of.expected * of.possible, 3).tolist()
        if self._relevance is not None:
            judged = self._relevance.per_query(ranking(shallow[0], deep[0]))
            row["relevance"] = {name: float(np.mean(values)) for name, values in judged.items()}
            row["per_query"] |= {name: [round(value, 5) for value in values] for name, values in judged.items()}
            row["n_judged"] = len(self._relevance.judged)
        return row


def software() -> str:
    """Hash the versions of what measures."""
    return hashlib.sha256(canonical(resources.versions()).encode()).hexdigest()[:12]


def _memory_notes(weighed: Row) -> Row:
    """Say so where a search holds more than a fifth beyond what was weighed: copies, tables, or room to work in."""
    known = weighed["payload"] * weighed["n"] + weighed["shared"]
    if weighed["resident"] <= MOST_RESIDENT * known:
        return {}
    return {"notes": [
        f"holds {weighed['resident'] / 1e6:.2f} MB while it searches, and its arrays weigh {known / 1e6:.2f} MB: "
        f"{(weighed['resident'] - known) / weighed['n']:.0f} bytes per item more, room to work in included"
    ]}  # fmt: skip


def no_figures(answer: Row, phase: str) -> NoFigures:
    """Return the exception that a worker's answer stands for."""
    details = {"phase": phase} | ({"traceback": answer["traceback"]} if "traceback" in answer else {})
    return NoFigures(answer["status"], answer["reason"], details)


def _answers(folder: Path, rows: Array | None, of: str) -> tuple[Array, Array]:
    """Return the ids and scores of one depth or stage, with each query's own row taken out."""
    ids, scores = np.load(folder / f"ids-{of}.npy"), np.load(folder / f"scores-{of}.npy")
    if rows is None:
        return ids, scores
    own = ids == rows[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    return without(ids, rows)[:, :-1], np.take_along_axis(np.where(own, -np.inf, scores), order, 1)[:, :-1]
