"""Render the pages of the site: an overview, a board per data set and budget, a page per method, a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from packbench.leaderboard.across import across
from packbench.leaderboard.columns import across_cells, across_facts, across_title, title_of
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.ladder import Ladder, crossing_told, ladder_cells, ladder_facts
from packbench.leaderboard.site.about import about
from packbench.leaderboard.site.card import card_of
from packbench.leaderboard.site.data import board_script, history_script, outcomes_script
from packbench.leaderboard.site.slugs import slugs
from packbench.reference import FAMILIES, WORDS

HISTORY = "history-points.js"  # what history.html draws; beside the pages, where no data set's file can be
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("packbench.leaderboard.site", "templates"), autoescape=True, trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
)  # fmt: skip
_ASSETS = resources.files("packbench.leaderboard.site") / "assets"


@dataclass(frozen=True, slots=True)
class Shown:
    """Hold a board with the name of its files and its title, which tells boards of one data set apart."""

    board: Board
    key: str
    title: str

    def page(self, table: Table) -> str:
        """Return the address of the board of one budget."""
        return f"boards/{self.key}/{table.budget:.15g}.html"

    @property
    def families(self) -> list[str]:
        """Return the families that are ranked at any budget, in the order of the reference."""
        found = {entry.family for table in self.board.tables for entry in table.ranked}
        return [family for family in FAMILIES if family in found] + sorted(found - set(FAMILIES))

    @staticmethod
    def best(table: Table, family: str) -> Entry | None:
        """Return the best of a family at a budget."""
        return next((entry for entry in table.ranked if entry.family == family), None)

    @property
    def absent(self) -> Counter[str]:
        """Count what is not on the boards, by status."""
        failed = [entry for entry in self.board.references if entry.status != "ok"]
        return Counter(entry.status for entry in (*failed, *(e for table in self.board.tables for e in table.absent)))


def site_files(
    boards: Sequence[Board], conformance: Mapping[str, Mapping[str, Any]], ladders: Sequence[Ladder] = ()
) -> dict[str, str]:
    """Return the text of every file by its path in the site; conformance is what is known of it by request.

    Whatever comes from a plug-in or a file is escaped, and pages may run the site's own scripts only.
    """
    shown = _shown(boards)
    entries = [(one, entry) for one in shown for entry in _entries(one.board)]
    methods = slugs(dict.fromkeys(entry.method for _, entry in entries))
    common: dict[str, Any] = {"shown": shown, "methods": methods, "key": None, "ladders": ladders}
    common |= {"title_of": title_of, "words": WORDS, "families": FAMILIES}

    def page(template: str, path: str, **more: Any) -> tuple[str, str]:
        context = common | {"root": "../" * path.count("/"), "path": path} | more
        return path, _ENVIRONMENT.get_template(f"{template}.html.jinja").render(context) + "\n"

    files = _assets()
    for one in shown:
        files[f"data/{one.key}.js"] = board_script(
            one.board, one.key, one.title, [*map(one.page, one.board.tables)], methods, conformance
        )
        files[f"data/{one.key}-queries.js"] = outcomes_script(one.board, one.key)
        files |= dict([page("dataset", f"boards/{one.key}.html", one=one, table=None, key=one.key,
                            card=card_of(one.board))])  # fmt: skip
        files |= dict(page("board", one.page(table), one=one, table=table, key=one.key) for table in one.board.tables)
    for name, slug in methods.items():
        of = [(one, entry) for one, entry in entries if entry.method == name]
        held = list(dict.fromkeys(one.key for one, _ in of))
        some = of[0][1]
        checked = [conformance[request] for request in dict.fromkeys(entry.request for _, entry in of)
                   if request in conformance]  # fmt: skip
        files |= dict([page("method", f"methods/{slug}.html", name=name, some=some, about=about(name), keys=held,
                            checked=checked)])  # fmt: skip
    statuses = sorted({status for one in shown for status in one.absent})
    together = {"across_cells": across_cells, "across_facts": across_facts, "across_title": across_title}
    files |= dict([page("across", "across.html", found=across(boards), **together)])
    files |= dict(page(name, f"{name}.html") for name in ("compare", "failures", "history"))
    if ladders:
        told = {"ladder_cells": ladder_cells, "ladder_facts": ladder_facts, "crossing_told": crossing_told}
        files |= dict([page("sizes", "sizes.html", **told)])
    files[HISTORY] = history_script(())
    return files | dict([page("index", "index.html", statuses=statuses)])


def history_files() -> dict[str, str]:
    """Return the files of a site that shows a history and no boards, by path, but for the history itself."""
    context: dict[str, Any] = {"shown": [], "ladders": (), "root": "", "path": "history.html", "key": None}
    return _assets() | {"history.html": _ENVIRONMENT.get_template("history.html.jinja").render(context) + "\n"}


def _assets() -> dict[str, str]:
    return {f"assets/{file.name}": file.read_text("utf-8") for file in _ASSETS.iterdir()}


def _shown(boards: Sequence[Board]) -> list[Shown]:
    total, met, found = Counter(board.dataset for board in boards), Counter[str](), []
    for board in boards:
        met[board.dataset] += 1
        several, at = total[board.dataset], met[board.dataset]
        # Names of data sets hold no line break, so a number after one makes no other data set's name.
        name = board.dataset if several == 1 else f"{board.dataset}\n{at}"
        title = board.dataset if several == 1 else f"{board.dataset} ({at} of {several})"
        found.append(Shown(board, slugs([name])[name], title))
    return found


def _entries(board: Board) -> Iterable[Entry]:
    yield from board.references
    for table in board.tables:
        yield from (*table.ranked, *table.absent)
