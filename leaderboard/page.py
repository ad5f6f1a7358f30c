"""Write boards as one page of HTML that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from packbench.errors import BadInput
from packbench.leaderboard.columns import columns_of, detail, title_of, why
from packbench.leaderboard.entries import Board
from packbench.leaderboard.plot import plot_of


def to_html(boards: Sequence[Board]) -> str:
    """Return the page. Whatever comes from a plug-in or a file is escaped, and only the page's own script may run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("packbench.leaderboard", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = (_beside(environment, name) for name in ("board.css", "board.js"))
    return environment.get_template("board.html.jinja").render(
        boards=[(board, columns_of(board), plot_of(board)) for board in boards],
        style=style,
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        detail=detail,
        title_of=title_of,
        why=why,
    )


def _beside(environment: jinja2.Environment, name: str) -> str:
    if environment.loader is None:
        raise BadInput(f"{name}: the page has no place to load it from")
    return environment.loader.get_source(environment, name)[0]


def write_html(boards: Sequence[Board], path: str | Path) -> None:
    """Write the page to a file, whose folder is made where it is missing.

    Raises:
        BadInput: the path cannot be written.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(to_html(boards), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror or error}); choose another path") from None
