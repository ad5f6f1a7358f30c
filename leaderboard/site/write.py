"""Put the site into a folder: whole, or not at all, and nothing in it that is not the site's touched."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from packbench.errors import BadInput
from packbench.leaderboard.entries import Board
from packbench.leaderboard.history import Series
from packbench.leaderboard.ladder import Ladder
from packbench.leaderboard.site.data import history_script
from packbench.leaderboard.site.pages import HISTORY, history_files, site_files

MANIFEST = "packbench-site.json"


def write_html(
    boards: Sequence[Board],
    folder: str | Path,
    conformance: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ladders: Sequence[Ladder] = (),
) -> None:
    """Write the site, index.html first to open; a folder that holds an earlier one is brought up to date.

    conformance is what `packbench.conformance.read` returns, by request; ladders are of `ladder.ladders_of`. A history
    that is there stays.

    Raises:
        BadInput: the folder is a file, holds something else, or cannot be written.
    """
    target = Path(folder)
    had = _files_of(target)
    files = site_files(boards, conformance, ladders)
    if HISTORY in had and (target / HISTORY).is_file():
        del files[HISTORY]
    _put(files, target, had, had.difference(files, {HISTORY}))


def write_history(series: Sequence[Series], folder: str | Path) -> None:
    """Write history.html into a folder: into the site that is there, or as a site of its own.

    Raises:
        BadInput: as `write_html`.
    """
    target = Path(folder)
    had = _files_of(target)
    shell = {} if "history.html" in had else history_files()
    _put({HISTORY: history_script(series)} | shell, target, had, set())


def _put(files: Mapping[str, str], target: Path, had: set[str], stale: set[str]) -> None:
    """Write files into a folder that had some of the site, and drop the stale ones: all of it, or nothing."""
    foreign = sorted(path for path in files if path not in had and os.path.lexists(target / path))
    if foreign:
        raise BadInput(f"site {target}: {foreign[0]} is there and is not of a site; move it, or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for path, text in files.items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                (fresh / path).write_text(text, encoding="utf-8")
            _install(fresh, target, list(files), had, stale)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise BadInput(f"site {target}: cannot be written ({error.strerror or error}); choose another folder") from None


def _files_of(target: Path) -> set[str]:
    """Return the files of the site that a folder holds; none where it is empty or missing."""
    if target.suffix in (".html", ".htm") and not target.is_dir():
        raise BadInput(f"site {target}: the board is a site of several files; give a folder, such as {target.stem}")
    if os.path.lexists(target) and not target.is_dir():
        raise BadInput(f"site {target}: is a file; expected a folder for the site")
    if not target.is_dir() or not any(target.iterdir()):
        return set()
    try:
        had = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
        # A list from elsewhere must not lead out of the folder.
        return {path for path in had if not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts}
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"site {target}: holds files and is no site of packbench; give an empty or a new folder"
        ) from None


def _install(fresh: Path, target: Path, files: list[str], had: set[str], stale: set[str]) -> None:
    """Move the files in place, the overview last, then drop the stale ones."""
    target.mkdir(exist_ok=True)
    # Until all is in place both lists count, so that a site cut short is still known for one and can be repaired.
    _list_files(target, had.union(files))
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).replace(target / path)
    for path in stale:
        (target / path).unlink(missing_ok=True)
    _list_files(target, had.union(files) - stale)


def _list_files(target: Path, files: Iterable[str]) -> None:
    text = json.dumps({"site": "packbench", "files": sorted(files)}, indent=0)
    partial = target / f".{MANIFEST}"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(target / MANIFEST)
