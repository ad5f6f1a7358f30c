"""Name the files of pages after what they show, whatever that is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_LONGEST = 48


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Return a file name without suffix for each name: lower-case ASCII letters, digits, dashes and underscores.

    Names that read alike, or that a file name cannot hold, are told apart by a hash of the name itself, so that a page
    keeps its address when others come or go.
    """
    return {name: _slug(name) for name in names}


def _slug(name: str) -> str:
    if re.fullmatch(rf"[a-z0-9_]{{1,{_LONGEST}}}", name):
        return name
    # A dash stands before every hash and in no name that is kept, so the two never meet.
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
