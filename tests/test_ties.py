"""Scores that tie: what counts is the recall expected over their legal orders, never the order that was answered."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from packbench.leaderboard import board as boards
from packbench.leaderboard.gather import boards_of
from packbench.quality import Judge
from packbench.truth import truth_of

MADE = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))
row, hand_made, table = MADE["row"], MADE["hand_made"], MADE["table"]


@pytest.fixture
def one():
    (board,) = boards_of(hand_made())
    return board


def ranked(rows, budget=16.0):
    (board,) = boards_of(rows)
    return {entry.request: entry for entry in table(board, budget).ranked}


def test_wide_ties_are_shown(one):
    shown = {entry.request: entry.wide_ties for entry in table(one).ranked}
    assert (shown["sign"].low, shown["sign"].high) == (0.48, 0.62)
    assert shown["pca"] is None
    text = boards.to_markdown([one])
    assert "0.480–0.620" in text
    assert "over ties" not in boards.to_markdown(boards_of([row("pq", 16.0)]))


def sign_codes(folder):
    """Rows of two sign codes that answer 40 like queries: 5 bits whose order is lucky, 8 bits whose order is not.

    Items lie best first and Hamming distances tie in groups, so that a search from the first row finds what is right.
    """
    rng = np.random.default_rng(4)
    centre = rng.standard_normal(12)
    items = rng.standard_normal((300, 12))
    items = items[np.argsort(-items @ centre)].astype("f4")
    queries = (centre + 0.3 * rng.standard_normal((40, 12))).astype("f4")
    judge = Judge(queries, items, "ip", truth_of(queries, items, "ip", cache=folder))
    rows = [row("float32()", None, (10,), payload=64.0)]
    for name, bits, step in (("lucky", 5, 1), ("unlucky", 8, -1)):
        scores = ((queries[:, None, :bits] > 0) == (items[None, :, :bits] > 0)).sum(2).astype("f4")
        order = np.argsort(-scores[:, ::step], axis=1, kind="stable")
        ids = order if step == 1 else len(items) - 1 - order
        of = judge.recall(ids, 10, np.take_along_axis(scores, ids, 1))
        bounds = [float(bound.mean()) for bound in (of.worst, of.expected, of.best)]
        made = row(name, 16.0, of.right.tolist(), ties={"recall@10": bounds})
        made["per_query"]["expected recall@10"] = np.round(10 * of.expected, 3).tolist()
        rows.append(made)
    return rows


def test_ties_count_by_their_expectation(tmp_path):
    rows = sign_codes(tmp_path)
    measured = [np.mean(of["per_query"]["recall@10"]) / 10 for of in rows[1:]]
    expected = [np.mean(of["per_query"]["expected recall@10"]) / 10 for of in rows[1:]]
    assert measured[0] > measured[1] + 0.1
    assert expected[1] > expected[0] + 0.01
    (board,) = boards_of(rows)
    first, second = table(board).ranked
    assert (first.request, second.request) == ("unlucky", "lucky")
    assert [second.recall_at_10.value, first.recall_at_10.value] == pytest.approx(expected)
    for entry, of in ((second, rows[1]), (first, rows[2])):
        outcomes, counted = board.outcomes[entry.request, 16.0], np.array(of["per_query"]["expected recall@10"]) / 10
        assert outcomes == pytest.approx(counted)
        assert board.draws[entry.request, 16.0].mean() == pytest.approx(counted.mean(), abs=0.01)
        assert entry.recall_of_float32.value == pytest.approx(counted.mean())
    assert first.group == second.group  # a legal order of the tied scores would reverse them
    assert not any("older" in note for note in board.notes)


def test_older_rows_rank_by_the_mean_of_the_expectation():
    lucky = row("sign", 16.0, (6, 7), ties={"recall@10": [0.4, 0.5, 0.7]})
    (board,) = boards_of([lucky, row("pq", 16.0, (6, 6, 6, 5))])
    found = ranked([lucky, row("pq", 16.0, (6, 6, 6, 5))])
    assert found["sign"].recall_at_10.value > found["pq"].recall_at_10.value
    assert (found["pq"].rank, found["sign"].rank) == (1, 2)
    assert found["pq"].group == found["sign"].group
    assert sum(note.startswith("1 results with tied scores are older") for note in board.notes) == 1


def test_no_win_is_claimed_inside_the_interval_of_ties():
    def against(worst, best):
        rows = [row("sign", 16.0, (6,), ties={"recall@10": [worst, 0.6, best]}), row("pq", 16.0, (7,))]
        (board,) = boards_of(rows)
        return table(board).outcome("pq", "sign"), {
            of.request: (of.won, of.tied, of.lost) for of in table(board).ranked
        }

    assert against(0.6, 0.6) == ("win", {"pq": (1, 0, 0), "sign": (0, 0, 1)})
    assert against(0.5, 0.69) == ("win", {"pq": (1, 0, 0), "sign": (0, 0, 1)})
    assert against(0.5, 0.71) == ("tie", {"pq": (0, 1, 0), "sign": (0, 1, 0)})
