"""Export vectors as a compressed index in a folder, and open such a folder to search it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from packbench import __version__, artefact, registry
from packbench.artefact import Entry, Ledger
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall, Infrastructure
from packbench.exact import score_of
from packbench.folders import run_folder
from packbench.items import Array, as_vectors, blocks
from packbench.method import Hits, Method, Metric, Searcher, imports_of, needs_of, reseed
from packbench.spec import parse, parse_request

FORMAT = 1  # of the folder; what it holds is a manifest and the arrays of one artefact
TRIES = 3  # configurations of a name that may turn out too heavy on the scales
BATCH = 256  # queries answered at once, as in a run


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Answer queries from an opened folder. Ids are the rows of the exported vectors, counted from 0."""

    spec: str
    metric: Metric
    n: int
    d: int
    ledger: Ledger = field(repr=False)
    searcher: Searcher = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the arrays in memory, shared ones included, as `export` weighed them."""
        return round(self.ledger.payload * self.n) + self.ledger.shared

    def search(self, queries: Any, k: int = 10) -> Hits:
        """Return the k best ids and scores of each query (n_queries, d), best first; -1 where there are fewer items.

        Raises:
            BadInput: no matrix of finite numbers, another width than the items, or k below 1.
        """
        q = as_vectors(queries, "queries")
        if q.shape[1] != self.d:
            raise BadInput(f"queries have {q.shape[1]} dimensions, the index {self.d}; use the items' encoder")
        if k < 1:
            raise BadInput(f"k={k}: expected at least 1")
        found = [self.searcher.search(q[rows], min(k, self.n)) for rows in blocks(len(q), BATCH)]
        ids = np.full((len(q), k), -1, np.int64)
        scores = np.full((len(q), k), -np.inf, np.float32)
        for rows, hits in zip(blocks(len(q), BATCH), found, strict=True):
            ids[rows, : hits.ids.shape[1]], scores[rows, : hits.ids.shape[1]] = hits.ids, hits.scores
        return Hits(ids, scores)


def export(
    spec: str,
    vectors: str | Path | Array,
    folder: str | Path,
    *,
    metric: Metric | None = None,
    bytes_per_item: float | None = None,
    seed: int = 0,
    threads: int = 1,
    plugins: Sequence[str | Path] = (),
) -> Ledger:
    """Fit a method on vectors (at most 100,000 of them), encode all, and write what search needs to a new folder.

    It is built as a run builds it, in a process of its own, and so gives the same bytes and the same answers. The
    folder appears whole or not at all.

    Args:
        spec: a configuration such as ``pq(m=16)``; with bytes_per_item also a bare name, solved for that many bytes
            with the shared arrays spread over these vectors.
        vectors: a file that `packbench.datasets.read_vectors` reads, or an array (n, d).
        folder: where to; it must be missing or empty.
        metric: ip, cosine or l2; by default what the file states, otherwise ip.
        bytes_per_item: the most that an item may weigh.
        seed: added to the seeds of the method, as in a run.
        threads: of the build. Another number may give other bytes.
        plugins: Python files whose methods to add.

    Raises:
        BadInput: what is wrong with an argument, or why the method cannot code these vectors.
        Infrastructure: memory ran out.
    """
    target = Path(folder)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BadInput(f"export to {folder}: it exists and is no empty folder; name a new one, or remove that one")
    for plugin in plugins:
        registry.load_plugin(plugin)
    items, stated = _matrix(vectors)
    metric = metric or stated or "ip"
    score_of(metric)
    methods = _usable(_configurations(spec, bytes_per_item, items), spec)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}"
    try:
        ledger = _build(methods, items, metric, partial, bytes_per_item, seed, threads, plugins)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ledger


def _matrix(vectors: str | Path | Array) -> tuple[Array, Metric | None]:
    from packbench.datasets.parts import Parts, float32_rows
    from packbench.datasets.read import read_parts

    parts = Parts(vectors) if isinstance(vectors, np.ndarray) else read_parts(Path(vectors))
    what = "the given array" if isinstance(vectors, np.ndarray) else str(vectors)
    return float32_rows(parts.items, what), parts.metric


def _configurations(spec: str, bytes_per_item: float | None, items: Array) -> Iterable[Method]:
    """Return what may be built, best guess first."""
    request = parse(spec) if bytes_per_item is None else parse_request(spec)
    if isinstance(request, Method):
        return [request]
    budget = Budget(bytes_per_item or 0.0, *items.shape)
    try:
        return list(itertools.islice(request.for_budget(budget), TRIES))
    except BudgetTooSmall as error:
        raise BadInput(f"{spec} at {bytes_per_item:g} bytes per item: {error}, for {len(items):,} vectors") from None


def _usable(methods: Iterable[Method], spec: str) -> list[Method]:
    found = list(methods)
    if not found:
        raise BadInput(f"{spec}: it has no configuration for that many bytes; give a spec instead of a name")
    needed = sorted(needs_of(found[0]))
    if needed:
        raise BadInput(f"{found[0]} needs {', '.join(needed)} beside the vectors; choose a method that needs none")
    require_imports(found[0])
    return found


def require_imports(method: Method) -> None:
    """Refuse a method whose packages are not installed."""
    missing = [name for name in imports_of(method) if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"{method} needs {', '.join(missing)}: pip install 'packbench[learned]' or 'packbench[peers]'")


def _build(
    methods: Sequence[Method], items: Array, metric: Metric, partial: Path, bytes_per_item: float | None,
    seed: int, threads: int, plugins: Sequence[str | Path],
) -> Ledger:  # fmt: skip
    """Build the first configuration that the scales confirm, in a worker, and complete its manifest."""
    from packbench import worker
    from packbench.datasets.vectors import fit_sample
    from packbench.workers import Workers

    files = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    with run_folder() as scratch:
        stage = scratch / "stage"
        stage.mkdir()
        worker.stage(stage, "items", items)
        worker.stage(stage, "fit", fit_sample(items, seed=0))
        workers = Workers(
            scratch, seconds=math.inf, memory_bytes=int(psutil.virtual_memory().total * 0.75), plugins=files
        )
        for method in methods:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            job = {"spec": str(method), "seed": seed, "threads": threads, "metric": metric, "stage": str(stage),
                   "artefact": str(partial.resolve())}  # fmt: skip
            answer = workers.run("build", job)
            if "ok" not in answer:
                kind = Infrastructure if answer["status"] == "out_of_memory" else BadInput
                raise kind(f"export {method}: {answer['status']}: {answer['reason']}")
            weighed = answer["ok"]["bytes"]
            entries = (
                Entry(tier, name, dtype, tuple(shape), nbytes) for tier, name, dtype, shape, nbytes in weighed["arrays"]
            )
            ledger = Ledger(weighed["n"], tuple(entries))
            # The cold tier is part of the spec that was asked for; the budget is one of memory.
            if bytes_per_item is None or Budget(bytes_per_item, *items.shape).holds(ledger.payload, ledger.shared):
                _complete(partial, method, files)
                return ledger
    raise BadInput(
        f"{methods[-1]} weighs {ledger.total():.2f} bytes per item with its shared arrays spread over {ledger.n:,} "
        f"vectors, and {bytes_per_item:g} are allowed; allow more, or choose a lighter configuration"
    )


def _complete(folder: Path, method: Method, plugins: Sequence[str]) -> None:
    """Add to the manifest what an opener has to know of the code that made it."""
    file = folder / "manifest.json"
    notes = {"format": FORMAT, "packbench": __version__, "version": registry.version(method),
             "plugins": [Path(plugin).name for plugin in plugins]}  # fmt: skip
    file.write_text(json.dumps(json.loads(file.read_text()) | notes, indent=1))


def open_index(folder: str | Path, plugins: Sequence[str | Path] = ()) -> Index:
    """Open a folder that `export` made: its arrays are read into memory, cold ones stay memory-mapped.

    Raises:
        BadInput: no such folder, one cut short, or one whose method is not known here or has changed since.
    """
    for plugin in plugins:
        registry.load_plugin(plugin)
    try:
        codes, shared, manifest = artefact.load(Path(folder))
        made, kind = manifest["packbench"], manifest["format"]
        spec, seed, metric, n, d = (manifest[name] for name in ("spec", "seed", "metric", "n", "d"))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadInput(
            f"{folder} is no index that can be opened ({type(error).__name__}: {error}); expected a folder made by "
            "`packbench export`, whole. Export again into a new folder"
        ) from None
    remedy = f"open it with packbench {made}, or run `packbench export` again into a new folder"
    if kind != FORMAT:
        raise BadInput(f"{folder} has format {kind}, this packbench {__version__} reads {FORMAT}; {remedy}")
    try:
        method = reseed(parse(spec), seed)
    except BadInput as error:
        names = manifest["plugins"]
        hint = f"it was exported with the plug-in {', '.join(names)}: give its path in plugins=[...]"
        raise BadInput(f"{folder} holds {spec}, unknown here ({error}); {hint if names else remedy}") from None
    version = registry.version(parse(spec))
    if version != manifest["version"]:
        raise BadInput(
            f"{folder} holds codes of {spec} in its version {manifest['version']}, and here it has version {version}: "
            f"the method's code has changed since, and might misread them; {remedy}"
        )
    ledger = artefact.weigh(codes, shared, n)
    return Index(str(method), metric, n, d, ledger, method.open(codes, shared, metric))
