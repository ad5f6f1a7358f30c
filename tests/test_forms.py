"""A board in a terminal, in Markdown, CSV and JSON: all of it shown, nothing of it taken for markup."""

import csv
import io
import json
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from packbench.leaderboard import board as boards
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.markdown import code, escaped

MADE = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))
row, hand_made, table, ATTACK = (MADE[name] for name in ("row", "hand_made", "table", "ATTACK"))


@pytest.fixture
def one():
    (board,) = boards_of(hand_made())
    return board


def printed(board, width):
    stream = io.StringIO()
    boards.render_terminal(board, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120, 140, 160, 200, 300])
def test_terminal(width, one):
    text = printed(one, width)
    assert max(map(len, text.splitlines())) <= width
    for entry in (*table(one).ranked, *table(one).absent):
        assert entry.name.split("(")[0] in text
    assert "0.8400" in text
    assert "READ-OUT" in text or "Left out at this width:" in text
    assert ATTACK in text.replace("\n", "") or width < 140
    left_out = "".join(re.findall(r"Left out at this width: (.*?)\. A", text.replace("\n", " ")))
    assert bool(left_out) == (width < 300)
    for heading in ("p50 ms", "kernel", "status", "family", "payload"):
        assert (heading in left_out) != any(heading in line for line in text.splitlines() if line.startswith("#"))


def test_terminal_shows_text_as_it_is():
    broken = row("pq", 16.0, status="failed", reason="[red]not markup[/red] \x1b[2J\x07 gone\nbelow")
    text = printed(boards_of([broken])[0], 160)
    assert "[red]not markup[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "gone below" in text


@given(st.text(max_size=40), st.text(max_size=40))
def test_markdown_cells_stay_in_their_columns(spec, reason):
    (board,) = boards_of([row("pq", 16.0, status="failed", reason=reason), row("sign", 16.0, spec=spec or "sign()")])
    for block in re.split(r"\n\n", boards.to_markdown([board])):
        lines = [line for line in block.split("\n") if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) <= 1


def test_markdown_escapes():
    assert escaped("<b> a|b *c* [d](e) `f` x_y \\") == r"&lt;b&gt; a\|b \*c\* \[d\](e) \`f\` x\_y \\"
    assert code("pca(dim=2) | int8()") == r"`pca(dim=2) \| int8()`"
    assert code("a`b``c") == "``` a`b``c ```"


def test_csv_holds_every_entry(one):
    lines = list(csv.DictReader(io.StringIO(boards.to_csv([one]))))
    places = [line["place"] for line in lines]
    assert places.count("reference") == len(one.references) == 3
    assert places.count("ranked") == sum(len(of.ranked) for of in one.tables)
    assert places.count("absent") == sum(len(of.absent) for of in one.tables)
    cheat = next(line for line in lines if line["request"] == "cheat" and line["budget"] == "16.0")
    assert cheat["reason"].startswith(ATTACK)
    assert boards.to_csv([]) == "\n"


def test_json_reads_back(one):
    written = json.loads(boards.to_json([one, one]))
    assert written["format"] == 1
    assert len(written["boards"]) == 2
    of = next(of for of in written["boards"][0]["tables"] if of["budget"] == 16.0)
    assert of["ranked"][0]["recall_at_10"]["value"] == 0.84
    assert [entry["status"] for entry in of["ranked"]] == ["ok"] * 5


def test_boards_without_figures_are_shown_too():
    failed = boards_of([row("pq", 16.0, status="failed", reason="gone wrong")])
    references = boards_of([row("float32()", None, (10,))])
    for found in (failed, references):
        assert printed(found[0], 120)
        assert boards.to_csv(found)
    assert "gone wrong" in boards.to_markdown(failed)
