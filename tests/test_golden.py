import io
import os
import runpy
from pathlib import Path

import pytest
from rich.console import Console

from packbench.leaderboard import board as boards
from packbench.leaderboard.gather import boards_of

GOLDEN = Path(__file__).parent / "golden"
everything = runpy.run_path(str(GOLDEN / "made.py"))["everything"]


def to_terminal(found):
    stream = io.StringIO()
    for board in found:
        boards.render_terminal(board, Console(file=stream, width=240))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("board.txt", to_terminal), ("board.md", boards.to_markdown), ("board.csv", boards.to_csv),
        ("board.json", boards.to_json), ("board.tex", boards.to_latex),
    ],
)  # fmt: skip
def test_golden(name, render):
    """PACKBENCH_GOLDEN=write writes the files anew; read the difference before keeping it."""
    text = render(boards_of(everything()))
    if os.environ.get("PACKBENCH_GOLDEN") == "write":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
