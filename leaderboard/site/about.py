"""Say what the registry knows of a method that a board names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from dataclasses import dataclass
from typing import Any, cast

from packbench import registry
from packbench.errors import BadInput
from packbench.leaderboard.columns import NONE
from packbench.leaderboard.entries import Entry
from packbench.method import Chain, Method, parts_of
from packbench.reference import argument
from packbench.spec import parse_request

# What a method learns from, the most demanding last.
TRAINING = ("none", "vectors", "queries", "pairs", "labels", "retrained")


@dataclass(frozen=True, slots=True)
class About:
    """Describe a method for its page."""

    paragraphs: tuple[str, ...]
    paper: str
    formula: str
    needs: str
    training: str
    arguments: tuple[str, ...]


def about(name: str) -> About | None:
    """Return what a method is; None where it is not registered here, as a plug-in of another run."""
    cls = Chain if name == Chain.name else registry.methods().get(name)
    if cls is None:
        return None
    return About(
        tuple(filter(None, inspect.cleandoc(cls.__doc__ or "").split("\n\n"))),
        cls.paper,
        cls.formula,
        ", ".join([*sorted(cls.needs), *(f"package {package}" for package in cls.imports)]) or "item vectors only",
        _training(cls),
        tuple(argument(entry) for entry in dataclasses.fields(cast(Any, cls))),
    )


def needs_and_training(entry: Entry) -> tuple[str, str]:
    """Return what an entry needs beyond item vectors, and what it learns from, its parts included; – where unknown."""
    return _of_spec(entry.spec if entry.spec and len(entry.seeds) == 1 else entry.request)


@functools.cache
def _of_spec(spec: str) -> tuple[str, str]:
    try:
        found = parse_request(spec)
    except BadInput:
        return NONE, NONE
    parts = [found] if isinstance(found, type) else _all_parts(found)
    needs = set().union(*(part.needs if isinstance(part, type) else part.needed() for part in parts))
    classes = [part if isinstance(part, type) else type(part) for part in parts]
    return ", ".join(sorted(needs)) or "none", max(map(_training, classes), key=TRAINING.index)


def _all_parts(method: Method) -> list[Method]:
    return [method, *(inner for part in parts_of(method) for inner in _all_parts(part))]


def _training(cls: type[Method]) -> str:
    """Tell what a class learns from: its fidelity and its needs say so, or else whether it has a fit of its own."""
    if cls.fidelity == "READ-OUT":
        return "retrained"
    for source in ("labels", "pairs", "queries"):
        if source in cls.needs:
            return source
    # A composition fits nothing but its parts, and those speak for themselves.
    composed = cls is Chain or cls.fit is Method.fit
    return "none" if composed else "vectors"
