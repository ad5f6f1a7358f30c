"""Load a data set from what a person gives: a name, beir:DIR, hf:NAME, or the path of a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from packbench.dataset import Dataset
from packbench.datasets import beir, catalogue, digits, pydocs, synthetic
from packbench.datasets.huggingface import read_hub
from packbench.datasets.parts import Parts, float32_rows
from packbench.datasets.read import formats, is_beir, read_parts
from packbench.datasets.vectors import dataset_of, same_rows
from packbench.errors import BadInput
from packbench.items import Array
from packbench.method import Metric
from packbench.places import fetched, is_url

VALIDATION = ("auto", "documents", "test")
_TEXT = frozenset({"metric", "fit", "encoder", "validation", "self_match"})
_VECTORS = frozenset({"metric", "fit", "queries", "validation", "self_match", "held_out", "column"})


def load(
    source: str | Path,
    *,
    queries: str | Path | Array | None = None,
    metric: Metric | None = None,
    fit: str | Path | Array | None = None,
    encoder: str | Path | None = None,
    validation: str = "auto",
    self_match: str | None = None,
    held_out: int | None = None,
    column: str | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Dataset:
    """Load a data set by name or from a path.

    Vectors become float32 and are never normalised; float32 files stay memory-mapped.

    Args:
        source: a name that `names()` lists, beir:DIR, hf:NAME[:SPLIT], or a path: a file of vectors told by its
            suffix, a BEIR folder, a TEXMEX folder. A file of items, queries or fit may be a URL that fsspec knows.
        queries: vectors that query, as a path or an array; the file of the items itself makes every item a query.
        metric: ip, cosine or l2; by default what the file or the card states, otherwise ip.
        fit: vectors to fit on, disjoint from the items; by default the data set's own, otherwise the items.
        encoder: for texts, a sentence-transformers model by name or folder.
        validation: which queries choose configurations. "auto": for texts, those of the other splits, or else
            documents; for vectors, a third of the queries. "documents": 300 items as queries, each without itself,
            so that all queries test. "test": a third of the queries.
        self_match: "remove" or "keep" an item that is the query itself. By default it is removed where ids are equal
            (BEIR's convention) and where the queries are the file of the items.
        held_out: where vectors come without queries, how many rows leave the items to become queries.
        column: the array, data set or column that holds the vectors, where there are several.
        seed: of every random choice: splits, fit sample, synthetic vectors.
        parameters: for synthetic sets, n, d and what their card lists under [parameters].

    Raises:
        BadInput: what is wrong with the source or an argument, and what to do about it.
    """
    source, queries, fit = map(_here, (source, queries, fit))
    given: dict[str, Any] = {
        "queries": queries, "metric": metric, "fit": fit, "encoder": encoder, "self_match": self_match,
        "held_out": held_out, "column": column, "validation": None if validation == "auto" else validation,
    }  # fmt: skip
    given = {word: value for word, value in given.items() if value is not None} | parameters
    for word, value, words in (("validation", validation, VALIDATION), ("self_match", self_match, ("remove", "keep"))):
        if value is not None and value not in words:
            raise BadInput(f"{word}={value!r}: expected {', '.join(words)}")
    text = str(source)
    known = catalogue.cards()
    if text in known:
        return _named(known[text], given, seed)
    if text.startswith("beir:"):
        return _beir(Path(text.removeprefix("beir:")).expanduser(), given, seed)
    if text.startswith("hf:"):
        name = text.removeprefix("hf:")
        parts = read_hub(name, column)
        short = Path(name).name if Path(name.partition(":")[0]).is_dir() else name
        return _vectors(parts, short.replace(":", "/"), {"format": "hf"}, None, given, seed)
    path = Path(source).expanduser()
    if path.is_dir() and is_beir(path):
        return _beir(path, given, seed)
    if path.exists():
        return _file(path, {}, given, seed)
    if path.suffix or isinstance(source, Path) or text.startswith((".", "/", "~")):
        raise BadInput(f"{source}: no such file or folder, and no data set of that name.{catalogue.near(text, known)}")
    raise BadInput(
        f"no data set {text!r}.{catalogue.near(text, known)} `packbench list datasets` shows all {len(known)}. "
        f"A path may be a file ({formats()}), a TEXMEX folder or a BEIR folder"
    )


def _here(part: Any) -> Any:
    """Return a local copy of what a URL names, and all else as it is."""
    return fetched(part) if isinstance(part, str) and is_url(part) else part


def _named(card: catalogue.Card, given: dict[str, Any], seed: int) -> Dataset:
    kind = card.get("format", card["name"])
    if kind == "pydocs":
        return pydocs.load_pydocs(card, **_only(card["name"], given, frozenset({"metric"})))
    if kind == "digits":
        return digits.load_digits_set(card, seed=seed, **_only(card["name"], given, frozenset({"metric"})))
    if kind == "synthetic":
        return synthetic.load_synthetic(
            card, seed=seed, **_only(card["name"], given, frozenset({"metric", *card["parameters"]}))
        )
    folder = catalogue.folder_of(card)
    if folder is None:
        raise BadInput(
            f"the data set {card['name']} is not on this machine: run `packbench fetch {card['name']}`. Without a "
            f"network, {catalogue.how_to_get(card)}"
        )
    if kind == "beir":
        return _beir(folder, given, seed, card)
    return _file(folder / card["needs"][0] if kind == "hdf5" else folder, card, given, seed)


def _beir(folder: Path, given: dict[str, Any], seed: int, card: catalogue.Card | None = None) -> Dataset:
    options = _only(f"beir:{folder}", given, _TEXT)
    if "fit" in options:
        options["fit"] = _rows(options["fit"], None)
    return beir.load_beir(folder, card=card, seed=seed, **options)


def _file(path: Path, card: catalogue.Card, given: dict[str, Any], seed: int) -> Dataset:
    notes = {**card, "format": card.get("format", path.suffix.lstrip(".") or "texmex")}
    parts = read_parts(path, given.get("column"))
    return _vectors(parts, card.get("name", path.stem or path.resolve().name), notes, path, given, seed)


def _vectors(
    parts: Parts, name: str, card: catalogue.Card, path: Path | None, given: dict[str, Any], seed: int
) -> Dataset:
    given = _only(name, given, _VECTORS)
    column = given.get("column")
    items = float32_rows(parts.items, str(path or name))
    asked, same = given.get("queries"), False
    if asked is None:
        queries = None if parts.queries is None else float32_rows(parts.queries, f"{path or name}, queries")
    elif path is not None and not isinstance(asked, np.ndarray) and _is_same(asked, path):
        queries, same = items, True
    else:
        queries = _rows(asked, column)
    fit = given.get("fit")
    if fit is not None:
        fit = (
            None if path is not None and not isinstance(fit, np.ndarray) and _is_same(fit, path) else _rows(fit, column)
        )
    elif parts.fit is not None:
        fit = float32_rows(parts.fit, f"{path or name}, fit")
    rule, own = given.get("self_match"), None
    if queries is None and rule == "remove":
        raise BadInput(f"data set {name}: self_match needs queries; held-out rows leave the items")
    if queries is not None and rule != "keep" and (same or rule == "remove"):
        own = np.arange(len(items)) if same else same_rows(queries, items)
    metric = given.get("metric") or card.get("metric") or parts.metric
    stated = "argument" if "metric" in given else "source" if metric else "default"
    notes = {
        **card, "dtype": parts.items.dtype.name, "metric_from": stated,
        "self_match": "remove" if own is not None else rule or card.get("self_match", "none"),
    }  # fmt: skip
    return dataset_of(
        items, queries, fit, name=name, metric=metric or "ip", self_rows=own,
        validation=given.get("validation") or card.get("validation", "auto"),
        held_out=given.get("held_out"), seed=seed, card=notes,
    )  # fmt: skip


def _is_same(one: str | Path, other: Path) -> bool:
    return Path(one).resolve() == other.resolve() and not Path(one).is_dir()


def _rows(given: str | Path | Array, column: str | None) -> Array:
    if isinstance(given, np.ndarray):
        return float32_rows(given, "the given array")
    path = Path(given)
    parts = read_parts(path, column)
    return float32_rows(parts.items if parts.queries is None else parts.queries, str(path))


def _only(name: str, given: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    other = sorted(set(given) - allowed)
    if other:
        raise BadInput(f"{name} takes no {', '.join(other)}; it takes {', '.join(sorted(allowed))} and seed")
    return dict(given)
