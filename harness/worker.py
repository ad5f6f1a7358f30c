"""Do one half of a cell in a process of its own: build (fit, encode, save) or search (load, open, answer, time)."""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np

from packbench import artefact, batches, factors, guard, kernels, latency, registry, resources, sandbox, shards
from packbench.blocks import encode_in_blocks, save_float32
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall, Disqualified
from packbench.exact import reference
from packbench.health import health_of
from packbench.items import Array, Items, OnDisk, Ragged, from_arrays, referred, to_arrays, width
from packbench.method import STAGES, Hits, Method, Sample, reseed
from packbench.quality import check_hits
from packbench.spec import parse

Json = dict[str, Any]
SEARCH_BATCH = 256


def stage(folder: Path, name: str, items: Items) -> None:
    """Write items where a worker can map them; vectors become the float32 that methods are given, extras stay as is.

    Of searched items that lie in a large file nothing is written but where it is: they are encoded from there.
    """
    if isinstance(items, OnDisk) and name == "items":
        items.refer(folder / f"{name}.npz")
        return
    for part, array in to_arrays(items).items():
        if (
            part in ("dense", "values")
            and not name.startswith("extra-")
            and array.ndim == 2
            and (array.dtype != np.float32 or isinstance(array, OnDisk))
            and array.dtype.kind in "fiu"
        ):
            save_float32(folder / f"{name}.{part}.npy", array)
        else:
            np.save(folder / f"{name}.{part}.npy", array, allow_pickle=False)


def staged(folder: Path, name: str) -> Items | None:
    """Map staged items read-only; None where there are none of that name."""
    if (folder / f"{name}.npz").is_file():
        return cast(Array, referred(folder / f"{name}.npz"))
    files = [file for file in sorted(folder.iterdir()) if file.name.startswith(f"{name}.") and file.suffix == ".npy"]
    if not files:
        return None
    return from_arrays({file.name.split(".")[1]: np.load(file, mmap_mode="r") for file in files})


def main(connection: Connection, output: str) -> None:
    """Wait for one job, run it and send one JSON answer: {'ok': ...} or {'status': ..., 'reason': ...}."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    _end_with_the_run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted run ends its workers itself
    # What a worker prints is read where it dies: the progress of a training says how far it came.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        job: Json = json.loads(connection.recv_bytes())
    except EOFError:
        os._exit(0)  # the run is over
    watch = guard.Guard(Path(job["scratch"]), compiles=job["kind"] == "rehearse")
    try:
        answer: Json = {"ok": _JOBS[job["kind"]](job, watch)}
        watch.check()
    except Disqualified as error:
        answer = {"status": "disqualified", "reason": str(error)}
    except MemoryError as error:
        answer = {"status": "out_of_memory", "reason": _told(error) or "an allocation failed"}
    except BaseException as error:
        if watch.attempts:
            answer = {"status": "disqualified", "reason": f"the method {watch.attempts[0]}"}
        elif "bad_alloc" in str(error):
            answer = {"status": "out_of_memory", "reason": f"{type(error).__name__}: {_told(error)}"}
        else:
            answer = {"status": "failed", "reason": f"{type(error).__name__}: {_told(error)}",
                      "traceback": traceback.format_exc()[-3000:]}  # fmt: skip
    connection.send_bytes(json.dumps(answer).encode())
    connection.close()
    sys.stdout.flush()
    # Nothing a method registered to run at exit may hold the worker up.
    os._exit(0)


def _end_with_the_run() -> None:
    """Die when the run's process dies, however it was killed: a method that loops would outlive it."""
    # The server lives as long as somebody holds this end of its pipe, and ends unnoticed while a worker does.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the parent is the server
    run = multiprocessing.parent_process()
    if run is None or wait([run.sentinel], 0):
        os._exit(1)


def _told(error: BaseException) -> str:
    return str(error).strip().replace("\n", " ")[:500]


@functools.cache
def own_folders() -> tuple[Path, ...]:
    """Return the folders of packbench's modules."""
    files = {str(module.__file__) for name, module in sys.modules.items() if name.startswith("packbench.")}
    return tuple(sorted({Path(file).parent for file in files}))


def _shut_in(job: Json, watch: guard.Guard, *writable: Path) -> None:
    """Leave the worker its scratch folder and what is open, then load the plug-ins: their import is held to it too."""
    compiles = job["kind"] == "rehearse"
    plugins = [Path(plugin).resolve() for plugin in job["plugins"]]
    caches = kernels.cache_folders([*own_folders(), *(plugin.parent for plugin in plugins)])
    kernels.keep_kernels(store=compiles)
    sys.dont_write_bytecode = True
    sandbox.scratch_only(Path(job["scratch"]))
    sandbox.confine([*plugins, *caches], [Path(job["scratch"]), *writable, *(caches if compiles else ())])
    with watch:
        for plugin in job["plugins"]:
            registry.load_plugin(plugin)


def _method(job: Json) -> Method:
    resources.limit_threads(job["threads"])
    return reseed(parse(job["spec"]), job["seed"])


def _sample(job: Json) -> Sample:
    """Return what `fit` may learn from, as it was staged."""
    folder = Path(job["stage"])
    fit = staged(folder, "fit")
    if fit is None:
        raise BadInput(f"nothing is staged in {folder}")
    names = sorted({file.name.split(".")[0] for file in folder.iterdir() if file.name.startswith("extra-")})
    extras = {name.removeprefix("extra-"): np.load(folder / f"{name}.dense.npy", mmap_mode="r") for name in names}
    return Sample(fit, job["metric"], staged(folder, "fit_queries"), extras)


def fit(job: Json, watch: guard.Guard) -> Json:
    """Fit on the sample and write all that was learnt to a file, for configurations that take theirs out of it."""
    sample, out = _sample(job), Path(job["fitted"])
    factors.use(Path(job["factors"]))
    _shut_in(job, watch, out.parent)
    method = _method(job)
    resources.limit_memory(job["memory_bytes"])
    resources.reset_peak()
    before = resources.resident_bytes()
    start = time.perf_counter()
    with watch:
        shared = artefact.checked(method.fit(sample), "fit")
    seconds, handed = time.perf_counter() - start, factors.handed_seconds()
    peak = _above(resources.peak_bytes(), before)
    np.savez(out, **cast(Any, shared))
    return {"seconds": {"fit": seconds + handed}, "handed_seconds": handed, "peak_bytes": {"fit": peak}}


def build(job: Json, watch: guard.Guard) -> Json:
    """Fit on the sample, encode the items, write the artefact; return seconds, peaks and the ledger.

    Where a file holds the fit of a configuration that this one nests in, it takes its own out of that.
    """
    folder, out = Path(job["stage"]), Path(job["artefact"])
    items, sample = staged(folder, "items"), _sample(job)
    if items is None:
        raise BadInput(f"nothing is staged in {folder}")
    longest = dict(np.load(job["fitted"])) if job.get("fitted") else None
    factors.use(Path(job.get("factors", "")))
    _shut_in(job, watch, out)
    method = _method(job)
    resources.limit_memory(job["memory_bytes"])
    resources.reset_peak()
    before = resources.resident_bytes()
    start = time.perf_counter()
    with watch:
        shared = artefact.checked(method.fit(sample) if longest is None else method.cut(longest), "fit")
    fitted, handed = time.perf_counter(), factors.handed_seconds()
    peak_fit = resources.peak_bytes()
    resources.reset_peak()
    middle = time.perf_counter()

    def encode(rows: Items) -> dict[str, Array]:
        with watch:
            return artefact.checked(method.encode(rows, shared), "encode")

    written_apart = ExitStack()  # of each shard, so that none overwrites another's; the last to use them is `save`

    def in_blocks(rows: Items) -> tuple[dict[str, Array], int]:
        return encode_in_blocks(encode, rows, Path(written_apart.enter_context(tempfile.TemporaryDirectory(dir=out))))

    cut = shards.most(method, job.get("shards", 1))
    if cut == 1:
        codes, count = in_blocks(items)
    else:
        codes, cut = shards.encode(lambda rows: in_blocks(rows)[0], items, cut)
        count = cut
    encoded = time.perf_counter()
    peak_encode = resources.peak_bytes()
    with watch:
        _check_batches(method, items, shared, codes, sample)
        health = _health(method, codes, shared, items)
    watch.check()
    ledger = artefact.weigh(codes, shared, len(items))
    written = artefact.save(
        out, codes, shared, spec=job["spec"], seed=job["seed"], metric=job["metric"], n=len(items), d=width(items),
        values=len(items.values) if isinstance(items, Ragged) else None, shards=cut,
    )  # fmt: skip
    written_apart.close()
    weighed = sum(entry.nbytes for entry in ledger.entries)
    if written != weighed:
        raise Disqualified(f"the arrays weigh {weighed} bytes and their files {written}")
    return {
        # What was handed out counts for those who use it as if it were their own work.
        "seconds": {"fit": fitted - start + handed, "encode": encoded - middle},
        "peak_bytes": {"fit": _above(peak_fit, before), "encode": _above(peak_encode, before)},
        "bytes": ledger.to_json() | {"disk": written},
        "handed_seconds": handed,
        "codes": artefact.fingerprint(codes, shared),
        "blocks": count,
        "health": health,
        "check_seconds": time.perf_counter() - encoded,
    }


def _health(method: Method, codes: dict[str, Array], shared: dict[str, Array], items: Items) -> Json:
    """Return figures about codes. A decode that fails takes them away and nothing else: searching may not need it."""
    try:
        return health_of(method, codes, shared, items)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {_told(error)}"}


def _above(peak: int | None, before: int) -> int | None:
    return None if peak is None else max(0, peak - before)


def _check_batches(
    method: Method, items: Items, shared: dict[str, Array], codes: dict[str, Array], sample: Sample
) -> None:
    """Encode a few rows again on their own: a code that depends on its batch could not be extended or served.

    Raises:
        Disqualified: the codes differ, or, where they have no rows to compare, the scores of their items.
    """
    n = len(items)
    told: str | None = ""
    for start in sorted({0, n // 2}):
        rows = slice(start, min(start + 16, n))
        alone = artefact.checked(method.encode(items[rows], shared), "encode")
        told = batches.differs(codes, alone, rows, n)
        if told:
            raise Disqualified(f"encode depends on the batch: {told} when they are encoded alone")
    queries = sample.queries if sample.queries is not None else items
    if told is None and (sample.queries is not None or not isinstance(items, Ragged)):
        told = batches.scores_differ(method, items, codes, shared, sample.metric, queries)
        if told:
            raise Disqualified(f"encode depends on the batch: {told}")


def search(job: Json, watch: guard.Guard) -> Json:
    """Open the artefact, answer the queries at each depth, and time; return ids in files and figures as JSON.

    `spare` answers more are asked for where a query's own row is to be taken out.
    """
    queries = staged(Path(job["queries"]), "queries")
    if queries is None:
        raise BadInput(f"no queries are staged in {job['queries']}")
    queries = _in_memory(queries)
    n, spare = int(job["n"]), int(job["spare"])
    codes, shared, manifest = artefact.load(Path(job["artefact"]))
    _shut_in(job, watch, Path(job["answers"]))
    method = _method(job)
    if job["timed"]:
        _touch_blas(width(queries))
    hot = sum(array.nbytes for array in (*codes.values(), *shared.values()) if not isinstance(array, np.memmap))
    resources.limit_memory(job["memory_bytes"])
    before = resources.resident_bytes() - hot
    resources.reset_peak()
    start = time.perf_counter()
    with watch:
        searcher = shards.open_shards(method, codes, shared, manifest["metric"], n, manifest["shards"])
    opened = time.perf_counter()
    del codes, shared
    gc.collect()
    seconds = {"open": opened - start}
    for depth in job["depths"]:
        k = min(depth + spare, n)
        begin = time.perf_counter()
        with watch:
            ids, scores = _answers(searcher, queries, k)
        seconds[f"search_{depth}"] = time.perf_counter() - begin
        check_hits(ids, len(queries), k, n)
        np.save(Path(job["answers"]) / f"ids-{depth}.npy", ids)
        np.save(Path(job["answers"]) / f"scores-{depth}.npy", scores)
    resident, peak = resources.resident_bytes() - before, resources.peak_bytes()
    answer: Json = {
        "kernel": str(getattr(searcher, "kernel", "unstated")),
        "shards": manifest["shards"],
        "resident_bytes": resident,
        "peak_bytes": _above(peak, before),
        "cold_bytes_per_query": _cold_per_query(searcher),
        "seconds": seconds,
    }
    if job["timed"]:
        begin = time.perf_counter()
        exact, scale = reference(n, int(manifest["d"]), manifest["metric"], manifest["values"])
        with watch:
            figures, rows, ids = latency.measure(searcher, exact, scale, queries, seconds=job["timing_seconds"])
        answer |= figures
        np.save(Path(job["answers"]) / "timed-rows.npy", rows)
        np.save(Path(job["answers"]) / "timed-ids.npy", ids)
        seconds["time"] = time.perf_counter() - begin
        if answer.pop("memoised"):
            raise Disqualified(
                f"a repeated query is answered {answer['repeat_ratio']:.0f} times faster than a new one: answers are "
                "remembered, so its latency is not that of a search"
            )
    return answer


def _answers(searcher: Any, queries: Items, k: int) -> tuple[Array, Array]:
    ids, scores = [], []
    for first in range(0, len(queries), SEARCH_BATCH):
        hits = searcher.search(queries[first : first + SEARCH_BATCH], k)
        if not isinstance(hits, Hits):
            raise Disqualified(f"search returned {type(hits).__name__}, expected packbench.Hits(ids, scores)")
        ids.append(np.asarray(hits.ids))
        scores.append(np.asarray(hits.scores, np.float32))
        if ids[-1].shape != scores[-1].shape:
            raise Disqualified(f"search returned ids {ids[-1].shape} and scores {scores[-1].shape}")
    return np.concatenate(ids), np.concatenate(scores)


def _in_memory(queries: Items) -> Items:
    if isinstance(queries, Ragged):
        return Ragged(np.array(queries.values), np.array(queries.offsets))
    return np.array(queries)


def waterfall(job: Json, watch: guard.Guard) -> Json:
    """Answer the queries at each stage between exact search and the method's own, for the waterfall of its losses."""
    queries = staged(Path(job["queries"]), "queries")
    if queries is None:
        raise BadInput(f"no queries are staged in {job['queries']}")
    queries = _in_memory(queries)
    codes, shared, manifest = artefact.load(Path(job["artefact"]))
    _shut_in(job, watch, Path(job["answers"]))
    method, k = _method(job), min(int(job["depth"]) + int(job["spare"]), int(job["n"]))
    begin = time.perf_counter()
    with watch:
        stages = method.stages(codes, shared, manifest["metric"])
        unknown = set(stages) - set(STAGES)
        if unknown:
            raise BadInput(f"{method}: stages are of {', '.join(STAGES)}; got {', '.join(sorted(unknown))}")
        found = {name: _answers(searcher, queries, k) for name, searcher in stages.items()}
    for name, (ids, scores) in found.items():
        check_hits(ids, len(queries), k, int(job["n"]))
        np.save(Path(job["answers"]) / f"ids-{name}.npy", ids)
        np.save(Path(job["answers"]) / f"scores-{name}.npy", scores)
    return {"stages": [name for name in STAGES if name in found], "seconds": time.perf_counter() - begin}


def _cold_per_query(searcher: Any) -> int:
    told = getattr(searcher, "cold_bytes_per_query", None)
    return int(told(latency.K)) if callable(told) else 0


def _touch_blas(d: int) -> None:
    """Let BLAS take its working memory now, so that it is not counted as the method's."""
    exact, _ = reference(256, d, "ip")
    exact.search(np.zeros((64, d), np.float32), 10)
    exact.search(np.zeros((1, d), np.float32), 10)


def rehearse(job: Json, watch: guard.Guard) -> Json:
    """Go through a method on a few random rows, so that what it compiles is on disk before anything is timed."""
    _shut_in(job, watch)
    method = _method(job)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((600, int(job["d"])), dtype=np.float32)
    rows: Items = Ragged(values, np.arange(0, 601, 3)) if job["ragged"] else values
    extras = {"pairs": np.repeat(np.arange(50)[:, None], 2, 1), "labels": np.arange(len(rows)) % 5}
    with watch:
        shared = method.fit(Sample(rows, job["metric"], rows[:50], extras))
        codes = method.encode(rows, shared)
        searcher = method.open(artefact.for_search(codes), artefact.for_search(shared), job["metric"])
        for batch in (rows[:1], rows[:64]):
            for k in (latency.K, 100):
                searcher.search(batch, k)
    return {}


def plan(job: Json, watch: guard.Guard) -> Json:
    """Ask a plug-in for its configurations here, where a loop or a crash of its costs one row and not the run."""
    _shut_in(job, watch)
    with watch:
        try:
            found = itertools.islice(registry.get(job["request"]).for_budget(Budget(**job["budget"])), job["tries"])
            return {"specs": [str(method) for method in found]}
        except BudgetTooSmall as error:
            return {"least": error.least, "reason": error.reason}


def stage_factors(job: Json, watch: guard.Guard) -> Json:
    """Compute what many methods ask of the fit sample, before any of them is run."""
    fit = staged(Path(job["stage"]), "fit")
    resources.limit_threads(job["threads"])
    begin = time.perf_counter()
    factors.stage(Path(job["factors"]), np.asarray(fit), job["metric"], job["seed"])
    return {"seconds": {"factors": time.perf_counter() - begin}}


def ping(job: Json, watch: guard.Guard) -> Json:
    """Answer at once: what is left is the cost of starting a worker."""
    return {}


_JOBS = {
    "ping": ping, "factors": stage_factors, "rehearse": rehearse, "plan": plan, "fit": fit, "build": build,
    "search": search, "waterfall": waterfall,
}  # fmt: skip
