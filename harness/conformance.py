"""Encode and search again in fresh processes, with other threads and SIMD levels, and say whether codes stay the same.

One fit serves them all: codes made with the same shared arrays are identical, within the share that the method
declares (`Method.tolerance`), or they differ. What a fit of its own under each setting would answer is told and not
judged, for a k-means that rounds one sum differently may settle elsewhere and be as good. `docs/ci.md` has the rule.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import faiss
import numpy as np

from packbench import artefact, registry, resources, worker
from packbench.budget import Budget
from packbench.dataset import Dataset
from packbench.errors import BadInput, BudgetTooSmall, Infrastructure
from packbench.folders import run_folder
from packbench.method import Arrays, Method, Sample, needs_of, parts_of
from packbench.server import server_environment
from packbench.spec import parse, parse_request
from packbench.store import canonical

Json = dict[str, Any]
Ask = Callable[[Json], Json]
FILE = "conformance.json"
K = 10
SECONDS = 600.0  # that one build or search may take
OWN = "own"  # the SIMD level that the libraries choose on this machine
# What each library is told when it is loaded: faiss, OpenBLAS, numba and torch which instructions to use, NumPy which
# of its own to leave out.
LEVELS = {
    "generic": {"faiss": "NONE", "openblas": "Prescott", "numba": "generic", "torch": "default", "numpy": ""},
    "avx2": {"faiss": "AVX2", "openblas": "Haswell", "numba": "haswell", "torch": "avx2", "numpy": "AVX512|X86_V4"},
    "avx512": {"faiss": "AVX512", "openblas": "SkylakeX", "numba": "skylake-avx512", "torch": "avx512",
               "numpy": "AVX512_(ICL|SPR)"},
}  # fmt: skip
CHECKS = ("again", "reload", "2 threads", *LEVELS)
BADGES = {"failed": "failed", "differs": "differs", "within tolerance": "tolerance"}  # the worst first


def environment(level: str) -> dict[str, str]:
    """Return the variables that hold the libraries of a new process to a SIMD level; none for the machine's own."""
    if level == OWN:
        return {}
    of = LEVELS[level]
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return {
        "FAISS_SIMD_LEVEL": of["faiss"],
        "NPY_DISABLE_CPU_FEATURES": " ".join(feature for feature in found if re.search(of["numpy"], feature)),
        "OPENBLAS_CORETYPE": of["openblas"],
        "NUMBA_CPU_NAME": of["numba"],
        "NUMBA_CPU_FEATURES": "",  # those that the name stands for; unset, numba takes this machine's
        "ATEN_CPU_CAPABILITY": of["torch"],
    }


def available(level: str) -> bool:
    """Tell whether this machine has a SIMD level."""
    known = getattr(faiss, f"SIMDLevel_{LEVELS[level]['faiss']}")
    return platform.machine() in ("x86_64", "AMD64") and faiss.SIMDConfig.is_simd_level_available(known)


def tolerance_of(method: Method) -> float:
    """Return the share of bytes of codes that may differ, by the most tolerant part of a composition."""
    return max([method.tolerance, *map(tolerance_of, parts_of(method))])


def share_unlike(codes: Arrays, others: Arrays) -> float:
    """Return the share of bytes that differ; 1 where names, types or shapes do."""
    if {name: (a.dtype, a.shape) for name, a in codes.items()} != {n: (a.dtype, a.shape) for n, a in others.items()}:
        return 1.0
    differ = total = 0
    for name, array in codes.items():
        one, other = (np.frombuffer(each.tobytes(), np.uint8) for each in (array, others[name]))
        differ, total = differ + int(np.count_nonzero(one != other)), total + one.size
    return differ / max(total, 1)


def conformance(
    dataset: Dataset, requests: Sequence[str], budget: float = 64.0, plugins: Sequence[str] = ()
) -> Iterator[Json]:
    """Yield, for each method, its badge and its checks.

    A name is solved for the budget, bytes per item, and taken at its own size where it does not fit. Queries are the
    validation queries: those of the test are left alone.
    """
    with run_folder() as folder, ExitStack() as open_servers:
        _stage(dataset, folder)
        servers = {level: open_servers.enter_context(_server(level, folder)) for level in (OWN, *LEVELS)
                   if level == OWN or available(level)}  # fmt: skip
        for request in requests:
            method = _configuration(request, budget, dataset)
            checks = _Checks(method, dataset, folder, servers, list(plugins)).all()
            results = {check["result"] for check in checks}
            yield {
                "method": method.name,
                "request": request,
                "spec": str(method),
                "version": registry.version(method),
                "software": hashlib.sha256(canonical(resources.versions()).encode()).hexdigest()[:12],
                "machine": resources.machine()["id"],
                "badge": next((badge for result, badge in BADGES.items() if result in results), "identical"),
                "checks": checks,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }


def read(folder: str | Path) -> dict[str, Json]:
    """Return what a directory of results knows of conformance, by request; nothing where it has no such file.

    Raises:
        BadInput: the file is no list of such entries.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return {}
    try:
        return {entry["request"]: entry for entry in json.loads(file.read_text())}
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file}: is no list of conformance entries; remove it and run `packbench conform`") from None


def record(folder: str | Path, entry: Json) -> None:
    """Put an entry in the place of the one of its request, in a file that is whole at any moment."""
    known = read(folder) | {entry["request"]: entry}
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = Path(folder) / f".{FILE}.{os.getpid()}"
    partial.write_text(json.dumps([known[request] for request in sorted(known)], indent=1) + "\n")
    partial.replace(Path(folder) / FILE)


def _configuration(request: str, budget: float, dataset: Dataset) -> Method:
    found = parse_request(request)
    if isinstance(found, Method):
        return found
    try:
        return next(iter(found.for_budget(Budget(budget, 1_000_000, dataset.d))))
    except BudgetTooSmall:
        return found()


class _Failed(Exception):
    """Say why a process gave no codes or no answers."""


class _Checks:
    """Make the checks of one method."""

    def __init__(
        self, method: Method, dataset: Dataset, folder: Path, servers: Mapping[str, Ask], plugins: list[str]
    ) -> None:
        self._method, self._dataset, self._servers, self._plugins = method, dataset, servers, plugins
        self._folder = folder / "checks"

    def all(self) -> list[Json]:
        """Return the outcome of every check, in the order of CHECKS."""
        lacking = needs_of(self._method) - self._dataset.sample.provides
        if lacking:
            told = f"needs {', '.join(sorted(lacking))}, which {self._dataset.name} does not have"
            return [_outcome(check, "failed", told) for check in CHECKS]
        try:
            self._first = self._run("first")
        except _Failed as error:
            return [_outcome(check, "failed", str(error)) for check in CHECKS]
        try:
            return [self._check(check) for check in CHECKS]
        finally:
            shutil.rmtree(self._folder)

    def _check(self, check: str) -> Json:
        try:
            if check == "again":
                return self._again()
            if check == "reload":
                return self._reload()
            if check == "2 threads":
                return self._same_codes(check, OWN, threads=2)
            if check not in self._servers:
                return _outcome(check, "not applicable", "this machine has no such instructions")
            return self._same_codes(check, check, threads=1)
        except _Failed as error:
            return _outcome(check, "failed", str(error))

    def _again(self) -> Json:
        """Fit and encode once more: same spec, same data, same bytes, of the shared arrays as well."""
        self._run("again")
        (one, shared), (other, fitted) = (self._arrays(name) for name in ("first", "again"))
        if artefact.fingerprint(one, shared) == artefact.fingerprint(other, fitted):
            return _outcome("again", "identical")
        told = f"{share_unlike(one, other):.3%} of the bytes of codes and {share_unlike(shared, fitted):.3%} of the "
        return _outcome("again", "differs", told + "bytes of shared arrays differ from one build to the next")

    def _reload(self) -> Json:
        """Load in a process that has seen nothing: the answers are those of the process that encoded."""
        found = self._unlike(self._run("reloaded", load=str(self._folder / "first")))
        told = f"{found} once saved and loaded in a fresh process" if found else ""
        return _outcome("reload", "differs" if found else "identical", told)

    def _same_codes(self, check: str, level: str, threads: int) -> Json:
        """Encode with the arrays of the first fit, then tell what a fit under this setting answers."""
        ids = self._run("encoded", level, threads=threads, shared=str(self._folder / "first" / "fitted.npz"))
        share = share_unlike(self._arrays("first")[0], self._arrays("encoded")[0])
        allowed = tolerance_of(self._method)
        fitted_anew = self._unlike(self._run("anew", level, threads=threads))
        told = [f"{share:.4%} of the bytes of codes differ, {allowed:.4%} may"] if share else []
        told += [found for found in [self._unlike(ids)] if found]
        told += [f"fitted anew, {fitted_anew}"] if fitted_anew else []
        result = "identical" if not share else "within tolerance" if share <= allowed else "differs"
        return _outcome(check, result, "; ".join(told))

    def _run(self, name: str, level: str = OWN, **job: Any) -> np.ndarray:
        """Return the ids (n_queries, K) that a fresh process answers; its arrays lie in a folder of that name."""
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        given = {"spec": str(self._method), "metric": self._dataset.metric, "threads": 1, "out": str(folder),
                 "plugins": self._plugins, "k": min(K, self._dataset.n)}  # fmt: skip
        answer = self._servers[level](given | job)
        if "failed" in answer:
            raise _Failed(answer["failed"])
        ids: np.ndarray = np.load(folder / "ids.npy")
        return ids

    def _arrays(self, name: str) -> tuple[Arrays, Arrays]:
        return artefact.load(self._folder / name)[:2]

    def _unlike(self, ids: np.ndarray) -> str:
        differ = int((ids != self._first).sum())
        return f"{differ:,} of {ids.size:,} answers differ" if differ else ""


def _outcome(check: str, result: str, told: str = "") -> Json:
    return {"check": check, "result": result, "told": told}


def _stage(dataset: Dataset, folder: Path) -> None:
    worker.stage(folder, "items", dataset.items)
    worker.stage(folder, "fit", dataset.fit)
    worker.stage(folder, "queries", dataset.validation)
    if dataset.fit_queries is not None:
        worker.stage(folder, "fit_queries", dataset.fit_queries)
    np.savez(folder / "extras.npz", allow_pickle=False, **dataset.fit_extras)


@contextmanager
def _server(level: str, folder: Path) -> Iterator[Ask]:
    """Start a process whose libraries are held to a level, and return what sends it a job and waits for the answer."""
    command = [sys.executable, "-m", "packbench.conformance"]
    with server_environment():
        # Two threads of OpenBLAS that spin on one core take minutes over what takes one of them seconds.
        wanted = os.environ | environment(level) | {"OPENBLAS_THREAD_TIMEOUT": "4"}
    with subprocess.Popen(command, env=wanted, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:

        def ask(job: Json) -> Json:
            sending, receiving = _pipes(server)
            sending.write(json.dumps(job).encode() + b"\n")
            sending.flush()
            line = receiving.readline()
            if not line:
                raise Infrastructure(f"the process for {level} ended: its message is above")
            answer: Json = json.loads(line)
            return answer

        yield ask


def _pipes(server: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert server.stdin is not None and server.stdout is not None
    return server.stdin, server.stdout


def _serve() -> None:
    """Answer jobs, one line of JSON each, every one in a fork of this process, which has but loaded the libraries."""
    import packbench.preload  # noqa: F401

    context = multiprocessing.get_context("fork")
    for line in sys.stdin:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(json.loads(line), sending))
        process.start()
        sending.close()
        try:
            answer = receiving.recv() if receiving.poll(SECONDS) else {"failed": f"ran longer than {SECONDS:g} s"}
        except EOFError:
            process.join()
            answer = {"failed": f"the process died of {signal.Signals(-(process.exitcode or 0)).name}"}
        process.kill()
        process.join()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _child(job: Json, sending: Any) -> None:
    os.dup2(2, 1)  # the server's answers alone go to its standard output
    try:
        sending.send(_do(job))
    except Exception as error:
        sending.send({"failed": f"{type(error).__name__}: {error}"})


def _do(job: Json) -> Json:
    """Load codes or make them, with shared arrays that are given or fitted; save them, search, and save the ids."""
    resources.limit_threads(job["threads"])
    for plugin in job["plugins"]:
        registry.load_plugin(plugin)
    method, here, folder = parse(job["spec"]), Path(), Path(job["out"])
    queries = worker.staged(here, "queries")
    items, fit = worker.staged(here, "items"), worker.staged(here, "fit")
    assert queries is not None and items is not None and fit is not None
    if "load" in job:
        codes, shared, _ = artefact.load(Path(job["load"]))
    else:
        if "shared" in job:
            shared = _arrays_of(Path(job["shared"]))
        else:
            sample = Sample(fit, job["metric"], worker.staged(here, "fit_queries"), _arrays_of(here / "extras.npz"))
            shared = artefact.checked(method.fit(sample), "fit")
        codes = artefact.checked(method.encode(items, shared), "encode")
        np.savez(folder / "fitted.npz", allow_pickle=False, **shared)
        artefact.save(folder, codes, shared)
    searcher = method.open(artefact.for_search(codes), artefact.for_search(shared), job["metric"])
    np.save(folder / "ids.npy", np.asarray(searcher.search(queries, job["k"]).ids))
    return {}


def _arrays_of(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as saved:
        return {name: saved[name] for name in saved.files}


if __name__ == "__main__":
    _serve()
