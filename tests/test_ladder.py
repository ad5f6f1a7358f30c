"""A ladder keeps queries and judged items, adds distractors, and says what size does to quality."""

import dataclasses

import numpy as np
import pytest

from packbench.dataset import Dataset, from_vectors
from packbench.errors import BadInput
from packbench.ladder import rungs
from packbench.leaderboard.board import load, write_html
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.ladder import ladders_of
from packbench.runner import run
from packbench.store import Store

rng = np.random.default_rng(3)
VECTORS = rng.standard_normal((900, 16)).astype(np.float32)
PLAIN = from_vectors(VECTORS[:800], VECTORS[800:], name="cloud", fit=VECTORS[:200].copy())
JUDGED = Dataset(
    name="judged", metric="ip", items=VECTORS[:600], fit=VECTORS[:100], queries=VECTORS[600:640],
    validation=VECTORS[700:720], item_ids=[f"d{row}" for row in range(600)], query_ids=[f"q{row}" for row in range(40)],
    qrels={f"q{row}": {f"d{599 - row}": 1} for row in range(40)},
    self_rows=np.r_[-1, np.arange(2, 80, 2)],
)  # fmt: skip


def test_rungs_are_nested_and_end_with_the_data_set_itself():
    small, middle, whole = rungs(PLAIN, [100, 400, 800])
    assert whole is PLAIN and [small.name, middle.name] == ["cloud@100", "cloud@400"]
    rows = [{vector.tobytes() for vector in one.items} for one in (small, middle, whole)]
    assert rows[0] < rows[1] < rows[2] and list(map(len, rows)) == [100, 400, 800]
    assert small.queries is whole.queries and small.fit is whole.fit
    assert small.card["ladder_of"] == "cloud" and len({one.sha256() for one in (small, middle, whole)}) == 3


def test_judged_items_and_own_rows_are_in_every_rung():
    (small,) = rungs(JUDGED, [90])
    assert {f"d{599 - row}" for row in range(40)} <= set(small.item_ids)
    for query, own in enumerate(small.self_rows):
        before = JUDGED.self_rows[query]
        assert own == -1 if before == -1 else (small.items[own] == JUDGED.items[before]).all()
    for name, vector in zip(small.item_ids, small.items, strict=True):
        assert (JUDGED.items[int(name[1:])] == vector).all()


def test_sizes_go_up_in_half_decades():
    assert [one.n for one in rungs(PLAIN)] == [300, 800]
    assert [one.n for one in rungs(dataclasses.replace(PLAIN, items=np.tile(VECTORS, (5, 1))))] == [
        300,
        1000,
        3000,
        4500,
    ]


@pytest.mark.parametrize("sizes", [[50], [700], [90, 601]])
def test_a_size_that_cannot_be_had_is_refused(sizes):
    with pytest.raises(BadInput, match=r"expected 7\d .* to 600"):
        rungs(JUDGED, sizes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    for rung in rungs(PLAIN, [100, 800]):
        run(rung, ["int4()", "sign()"], folder, budgets=[16.0], timing_seconds=0.05, references=False)
    return list(Store(folder).rows())


def test_recall_falls_with_size_and_the_slope_is_that_of_the_means(measured):
    (ladder,) = ladders_of(measured)
    assert ladder.dataset == "cloud" and ladder.sizes == (100, 800)
    assert [climb.request for climb in ladder.climbs] == ["int4()", "sign()"] and not ladder.crossings
    signs = ladder.climbs[1]
    expected = (signs.recall[1].value - signs.recall[0].value) / np.log10(8)
    assert signs.slope.value == pytest.approx(expected) and signs.slope.high < 0


def turned(rows, request, n, gain):
    """Return rows in which one request has other hits at one size."""
    found = []
    for row in rows:
        if row["request"] == request and row["n"] == n:
            hits = np.clip(np.array(row["per_query"]["recall@10"]) + gain, 0, 10)
            row = row | {"per_query": {"recall@10": hits.tolist()}}
        found.append(row)
    return found


def test_a_crossing_is_named_and_one_within_chance_is_not(measured):
    (ladder,) = ladders_of(turned(measured, "sign()", 800, 9))
    (crossing,) = ladder.crossings
    assert (crossing.request, crossing.other) == ("int4()", "sign()")
    assert (crossing.ahead_at, crossing.behind_at) == (100, 800)
    int4 = next(row for row in measured if row["request"] == "int4()" and row["n"] == 800)["per_query"]["recall@10"]
    nearly = [dict(row) for row in measured]
    for row in nearly:
        if row["request"] == "sign()" and row["n"] == 800:
            row["per_query"] = {"recall@10": [min(10, int4[0] + 1), *int4[1:]]}
    assert not ladders_of(nearly)[0].crossings


def test_a_size_without_a_figure_is_a_gap_that_shows(measured):
    rows = [row | {"status": "failed"} if row["n"] == 100 and row["request"] == "sign()" else row for row in measured]
    (ladder,) = ladders_of(rows)
    signs = next(climb for climb in ladder.climbs if climb.request == "sign()")
    assert signs.recall[0] is None and signs.slope is None


def test_one_size_is_no_ladder(measured):
    assert ladders_of([row for row in measured if row["n"] == 100]) == []


def test_the_site_shows_ladders_where_there_are_any(measured, tmp_path):
    boards = boards_of([row for row in measured if not row["ladder_of"]])
    write_html(boards, tmp_path / "with", ladders=ladders_of(measured))
    page = (tmp_path / "with" / "sizes.html").read_text()
    assert "cloud at 2 sizes" in page and "<code>sign()</code>" in page and "n = 800" in page
    assert 'href="sizes.html"' in (tmp_path / "with" / "index.html").read_text()
    write_html(boards, tmp_path / "without")
    assert not (tmp_path / "without" / "sizes.html").exists()
    assert "sizes.html" not in (tmp_path / "without" / "index.html").read_text()


def test_rungs_are_no_data_sets_of_a_board(measured, tmp_path):
    for row in measured:
        Store(tmp_path).append(row)
    assert [board.dataset for board in load(tmp_path)] == ["cloud"]
    for row in measured:
        if row["ladder_of"]:
            Store(tmp_path / "rungs").append(row)
    with pytest.raises(BadInput, match="packbench ladder --results"):
        load(tmp_path / "rungs")
