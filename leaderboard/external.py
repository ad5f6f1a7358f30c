"""Read what other benchmarks publish, as rows to stand beside a board: declared, not weighed, and never ranked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from packbench.errors import BadInput
from packbench.items import Array
from packbench.leaderboard.columns import NONE, fixed

HEADINGS = ("data set", "method", "B/item, declared, not weighed", "metric", "value", "how", "source")
SUFFIXES = (".json", ".hdf5", ".h5")
EPSILON = 1e-3  # ann-benchmarks: a neighbour is right within the distance of the k-th true one and this, absolutely


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """Hold one figure that another benchmark declares. It is shown, and enters no rank, no group and no mean.

    bytes_per_item is what that benchmark says of itself: packbench weighed nothing. how says what its metric is, where
    the same word means something else here. origin names the benchmark, source the file.
    """

    origin: str
    dataset: str
    label: str
    bytes_per_item: float | None
    metric: str
    value: float | None
    how: str
    source: str

    def cells(self) -> tuple[str, ...]:
        """Return what stands under HEADINGS, not yet escaped."""
        value = NONE if self.value is None else f"{self.value:.4f}"
        source = f"{self.origin}, {self.source}"
        return self.dataset, self.label, fixed(self.bytes_per_item, 1), self.metric, value, self.how, source


def read_external(path: str | Path, truth: str | Path | None = None) -> list[External]:
    """Return the rows of a result file, or of every one beneath a folder, sorted by path.

    Read are BitBudget's cards (of methods and of indexes), CoRECT's scores (in the folders that name what they score)
    and ann-benchmarks' HDF5 results. The latter hold no recall: it is computed with `truth`, the HDF5 of their data
    set, by the rule of their "k-nn" metric (a distance of at most the k-th true one plus 0.001), and else left blank.

    Raises:
        BadInput: nothing is there, or a file is none of the three or damaged.
    """
    given = Path(path)
    files = sorted(file for file in given.rglob("*") if file.suffix in SUFFIXES) if given.is_dir() else [given]
    if not files:
        raise BadInput(f"{given}: holds no {' or '.join(SUFFIXES)} files; give results of BitBudget, CoRECT or "
                       "ann-benchmarks")  # fmt: skip
    return [row for file in files for row in _rows(file, None if truth is None else Path(truth))]


def _rows(file: Path, truth: Path | None) -> list[External]:
    try:
        if file.suffix != ".json":
            return [_ann_benchmarks(file, truth)]
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"per_corpus", "embedder"} <= set(found):
            return list(_card(found, file))
        if isinstance(found, dict) and {"rows", "source", "k"} <= set(found):
            return list(_index_card(found, file))
        if isinstance(found, dict) and "ndcg_at_10" in found:
            return list(_corect(found, file))
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BadInput(f"{file}: damaged or of another version ({type(error).__name__}: {error})") from None
    raise BadInput(f"{file}: no BitBudget card, no CoRECT scores; keep other files elsewhere")


def _number(value: Any, what: str, most: float = math.inf) -> float | None:
    """Return a declared number; None where it is NaN, which is how a mean of nothing was written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is {value!r}, expected a number")
    if math.isnan(value):
        return None
    if not 0 <= value <= most:
        raise ValueError(f"{what} is {value!r}, expected a number from 0 to {most}")
    return float(value)


def _card(card: Mapping[str, Any], file: Path) -> Iterator[External]:
    """Read what `bitbudget run` writes, a corpus at a time; its means over corpora are left where they are."""
    for corpus, rows in card["per_corpus"].items():
        for row in rows:
            about: dict[str, Any] = {
                "origin": "BitBudget", "dataset": f"{corpus}/{card['embedder']}", "label": str(row["method"]),
                "bytes_per_item": _number(row["bytes"], "bytes"), "source": str(file),
            }  # fmt: skip
            yield External(**about, metric="nDCG@10", value=_number(row["ndcg"], "ndcg", 1.0),
                           how="relevance judgements, gain 2^grade - 1")  # fmt: skip
            yield External(**about, metric="recall@10", value=_number(row["recall"], "recall", 1.0),
                           how="ten exact neighbours by id, ties not counted")  # fmt: skip


def _index_card(card: Mapping[str, Any], file: Path) -> Iterator[External]:
    """Read what `bitbudget bench-index` writes."""
    for row in card["rows"]:
        yield External(
            origin="BitBudget", dataset=str(card["source"]), label=str(row["method"]),
            bytes_per_item=_number(row["bytes"], "bytes"), metric=f"recall@{int(card['k'])}",
            value=_number(row["recall"], "recall", 1.0), how="exact neighbours by id, vectors normalised first",
            source=str(file),
        )  # fmt: skip


_CORECT_METRICS = {"ndcg_at_10": "nDCG@10", "mrr_at_10": "MRR@10", "recall_at_100": "Recall@100"}


def _corect(scores: Mapping[str, Any], file: Path) -> Iterator[External]:
    """Read scores whose path says the rest: MODEL/CORPUS/dim=D/q=METHOD/NAME.json."""
    folders = file.resolve().parts[-5:-1]
    dim = re.fullmatch(r"dim=(\d+)", folders[2]) if len(folders) == 4 else None
    if dim is None or not folders[3].startswith("q="):
        raise BadInput(f"{file}: CoRECT says in folders what it scored; keep the file as MODEL/CORPUS/dim=D/q=METHOD/"
                       f"{file.name}")  # fmt: skip
    model, corpus, method = folders[0], folders[1], folders[3].removeprefix("q=")
    within = "" if file.stem == corpus else f"/{file.stem}"
    nbytes = _corect_bytes(method, int(dim[1]))
    for key, metric in _CORECT_METRICS.items():
        if key in scores:
            yield External(
                origin="CoRECT", dataset=f"{corpus}{within}/{model}", label=f"{method}, dim={dim[1]}",
                bytes_per_item=nbytes, metric=metric, value=_number(scores[key], key, 1.0),
                how="relevance judgements; bytes by the name of the method", source=str(file),
            )  # fmt: skip


def _corect_bytes(method: str, dim: int) -> float | None:
    """Return the bytes of a code as CoRECT names it: the files say nothing of size, and nothing counts what is shared.

    B_lsh is B bits in all, M_B_pq are M codes of B bits, P_pca are P float32; B_anything else is B bits a dimension.
    """
    named = re.fullmatch(r"(\d+)_(?:(\d+)_(pq)|(lsh|pca)|(?!\d)\w+)", method)
    if named is None:
        return None
    first = int(named[1])
    bits = {"pq": first * int(named[2] or 0), "lsh": first, "pca": 32 * first}.get(named[3] or named[4], first * dim)
    return bits / 8


def _ann_benchmarks(file: Path, truth: Path | None) -> External:
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    try:
        with h5py.File(file, "r") as run:
            algorithm, name, dataset = (_text(run.attrs[key]) for key in ("algo", "name", "dataset"))
            k = int(run.attrs["count"])
            index_kilobytes = run.attrs.get("index_size")
            neighbours, distances = np.asarray(run["neighbors"]), np.asarray(run["distances"])
    except (OSError, KeyError) as error:
        raise BadInput(f"{file}: no result of ann-benchmarks ({error})") from None
    if neighbours.ndim != 2 or neighbours.shape != distances.shape or not 1 <= k <= neighbours.shape[1]:
        raise ValueError(f"neighbors {neighbours.shape}, distances {distances.shape} and count {k} do not agree")
    ordered = np.sort(neighbours, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a query names a neighbour twice")
    recall, n = (None, None) if truth is None or truth.stem != dataset else _ann_recall(distances, k, truth)
    grown = None if index_kilobytes is None or not index_kilobytes > 0 else float(index_kilobytes) * 1024
    return External(
        origin="ann-benchmarks", dataset=dataset, label=f"{name} ({algorithm})",
        bytes_per_item=None if grown is None or n is None else grown / n, metric=f"recall@{k}", value=recall,
        how=f"blank: no true neighbours given ({dataset}.hdf5)" if recall is None else
        f"k-nn rule: distance at most the k-th true one + {EPSILON:g}; bytes: growth of the process while it built",
        source=str(file),
    )  # fmt: skip


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _ann_recall(distances: Array, k: int, truth: Path) -> tuple[float, int]:
    """Return the recall of found distances (n_queries, k) and the number of items that were searched."""
    try:
        with h5py.File(truth, "r") as dataset:
            exact = np.asarray(dataset["distances"])
            n = len(dataset["size_train" if "size_train" in dataset else "train"])  # sets lie flat, with their sizes
    except (OSError, KeyError) as error:
        raise BadInput(f"{truth}: no data set of ann-benchmarks ({error})") from None
    if exact.ndim != 2 or len(exact) != len(distances) or exact.shape[1] < k or n < 1:
        raise BadInput(f"{truth}: has true distances of shape {exact.shape}, the results {distances.shape} at k = {k}; "
                       "they do not belong together")  # fmt: skip
    return float((distances[:, :k] <= exact[:, k - 1 : k] + EPSILON).mean()), n
