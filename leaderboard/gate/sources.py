"""Read one side of a comparison: a file of results, a directory of them, or either at a git revision."""

from __future__ import annotations

import subprocess
from pathlib import Path

from packbench.errors import BadInput, Infrastructure
from packbench.places import is_url, store_at
from packbench.store import Row, Store, rows_in

SUFFIXES = (".jsonl", ".jsonl.gz")


def read(source: str | Path) -> list[Row]:
    """Return the rows of FILE, DIRECTORY, URL or REVISION:PATH, where PATH is a file or directory of the repository.

    Raises:
        Infrastructure: there is nothing to compare: no such file or revision, or no whole row in it.
        BadInput: a file holds something else than results.
    """
    path = Path(source)
    if is_url(source):
        rows = list(store_at(source).rows())
    elif path.is_dir():
        rows = list(Store(path).rows())
    elif path.is_file():
        rows = list(rows_in(path.read_bytes(), str(path)))
    elif ":" in str(source):
        rows = _of_revision(str(source))
    else:
        raise Infrastructure(f"results {source}: no such file or directory, and no REVISION:PATH of git")
    if not rows:
        raise Infrastructure(f"results {source}: no results there; the run that should have written them did not")
    return rows


def _of_revision(source: str) -> list[Row]:
    revision, _, path = source.partition(":")
    kind = _git("cat-file", "-t", f"{revision}:./{path}", what=source).decode().strip()
    if kind == "blob":
        return list(rows_in(_git("show", f"{revision}:./{path}", what=source), source))
    listed = _git("ls-tree", "--full-tree", "-z", "--name-only", f"{revision}:./{path}", what=source)
    names = sorted(listed.decode().split("\0"))
    files = [f"{path or '.'}/{name}" for name in names if name.endswith(SUFFIXES)]
    return [
        row
        for file in files
        for row in rows_in(_git("show", f"{revision}:./{file}", what=source), f"{revision}:{file}")
    ]


def _git(*words: str, what: str) -> bytes:
    try:
        found = subprocess.run(["git", *words], capture_output=True, check=False)
    except OSError:
        raise BadInput(f"results {what}: reads a git revision, and git is not installed") from None
    if found.returncode:
        told = found.stderr.decode(errors="replace").strip().splitlines()
        raise Infrastructure(f"results {what}: git cannot read it: {told[-1] if told else 'no reason given'}")
    return found.stdout
