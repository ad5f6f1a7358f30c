"""Know data sets by name: one card each, and the folder in which its files lie."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from packbench.errors import BadInput
from packbench.truth import cache_dir

CARDS = Path(__file__).parent / "cards"
Card = dict[str, Any]


def cards() -> dict[str, Card]:
    """Return every card by name."""
    found: dict[str, Card] = {}
    for path in sorted(CARDS.glob("*.toml")):
        try:
            entry = tomllib.loads(path.read_text(encoding="utf-8"))
            found[entry["name"]] = entry
        except (tomllib.TOMLDecodeError, KeyError) as error:
            raise BadInput(f"the card {path} is not valid: {type(error).__name__}: {error}") from None
    return dict(sorted(found.items()))


def names() -> list[str]:
    """Return the names of all data sets that have a card."""
    return list(cards())


def card(name: str) -> Card:
    """Return the card of a data set: origin, licence, citation, encoder, files and checksums.

    Raises:
        BadInput: no such name; the nearest ones are suggested.
    """
    known = cards()
    if name in known:
        return known[name]
    raise BadInput(f"no data set {name!r}.{near(name, known)} `packbench list datasets` shows all {len(known)}")


def near(name: str, known: dict[str, Card]) -> str:
    """Suggest names that resemble one, or that contain it."""
    close = [other for other in known if name.lower() in other]
    close += [other for other in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5) if other not in close]
    return f" Did you mean {' or '.join(repr(other) for other in close[:3])}?" if close else ""


def downloads_dir() -> Path:
    """Return the folder into which data sets are fetched."""
    return cache_dir() / "datasets"


def is_complete(entry: Card, folder: Path) -> bool:
    """Tell whether a folder holds the files that a data set cannot be loaded without."""
    return all((folder / name).is_file() for name in entry["needs"])


def folder_of(entry: Card) -> Path | None:
    """Return where a data set's files lie: in the folder PACKBENCH_DATA names, or fetched; None if in neither."""
    shared = os.environ.get("PACKBENCH_DATA")
    places = ([Path(shared)] if shared else []) + [downloads_dir()]
    return next((place / entry["folder"] for place in places if is_complete(entry, place / entry["folder"])), None)


def how_to_get(entry: Card, into: Path | None = None) -> str:
    """Say which files to get from where, and into which folder to put them."""
    place = downloads_dir() if into is None else into
    lines = [
        f"get {download['url']} and put it at {place / download['file']}"
        + (" as it is (packbench fetch checks and unpacks it)" if "unpack" in download else "")
        for download in entry["downloads"]
    ]
    kept = ", ".join(entry["needs"])
    return (
        f"{'; '.join(lines)}; then run `packbench fetch {entry['name']}`. Or put {kept} into {place / entry['folder']}"
    )
