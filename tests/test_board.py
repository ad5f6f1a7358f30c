import io
import json
import math
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import packbench
from packbench.leaderboard import board as boards
from packbench.leaderboard.across import across
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.terminal import render_across
from packbench.store import Store

MADE = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))
row, hand_made, table, QUERIES = (MADE[name] for name in ("row", "hand_made", "table", "QUERIES"))


@pytest.fixture
def one():
    (board,) = boards_of(hand_made())
    return board


def ranked(rows, budget=16.0):
    (board,) = boards_of(rows)
    return {entry.request: entry for entry in table(board, budget).ranked}


def test_ranking(one):
    entries = table(one).ranked
    assert [entry.request for entry in entries] == ["opq", "pca", "rabitq", "sign", "truncate"]
    assert [entry.rank for entry in entries] == [1, 2, 3, 4, 5]
    # opq and pca have the same mean over different queries; rabitq, sign and truncate fall behind on nearly all.
    assert [entry.group for entry in entries] == ["a", "a", "b", "c", "d"]
    assert entries[0].recall_at_10.value == pytest.approx(0.84)
    assert entries[0].recall_at_10.low < 0.84 < entries[0].recall_at_10.high
    assert entries[4].recall_behind_first.value == pytest.approx(0.2 - 0.84)
    assert entries[4].recall_behind_first.high < 0


def test_equal_recall_ranks_the_lighter_first(one):
    first, second = table(one).ranked[:2]
    assert first.recall_at_10.value == second.recall_at_10.value
    assert (first.deployed_bytes, second.deployed_bytes) == (15.9, 16.0)


def test_seeds_are_averaged(one):
    entry = next(of for of in table(one).ranked if of.request == "rabitq")
    assert entry.seeds == (0, 1)
    assert entry.recall_at_10.value == pytest.approx((0.65 + 0.7) / 2)
    assert (entry.speedup.value, entry.speedup.low, entry.speedup.high) == (2.5, 1.25, 4.0)


def test_a_cell_with_a_failed_seed_is_not_ranked(one):
    entry = next(of for of in table(one).absent if of.request == "lsh")
    assert (entry.status, entry.reason) == ("failed", "1 of 2 seeds, seed 1: ValueError: no such seed")
    assert entry.recall_at_10 is None


def test_nothing_is_silently_absent(one):
    asked = {of["request"] for of in hand_made() if of["budget"] is not None}
    for of in one.tables:
        assert sorted(entry.request for entry in (*of.ranked, *of.absent)) == sorted(asked)
    assert {entry.request for entry in table(one, 8.0).absent if entry.status == "not_run"} == asked - {"int8"}
    assert {entry.request for entry in table(one).absent if entry.status == "not_run"} == {"int8"}


def test_fractions_of_float32(one):
    rows = hand_made()
    rows[0]["per_query"]["recall@10"] = [8] * QUERIES
    entry = ranked(rows)["opq"]
    assert entry.recall_of_float32.value == pytest.approx(0.84 / 0.8)
    assert entry.ndcg_of_float32.value == pytest.approx(
        rows[3]["relevance"]["nDCG@10"] / rows[0]["relevance"]["nDCG@10"]
    )


def test_without_float32_there_are_no_fractions():
    (board,) = boards_of(hand_made()[1:])
    assert table(board).ranked[0].recall_of_float32 is None
    assert any("no float32 row" in note for note in board.notes)


def test_what_could_have_kept_the_items_is_counted():
    def noted(**more):
        kept = {"payload": 15.0, "shared": 2 * 1234 * 16, "cold": 0.0, "total": 60.0, "deployed": 15.1}
        (board,) = boards_of([row("pq", 16.0, bytes=kept, **more), row("sign", 16.0, **more)])
        return [note for note in board.notes if "can remember items" in note]

    (note,) = noted(fit_on="items")
    assert note.startswith("1 results were fitted on the searched items")
    assert not noted(fit_on="disjoint")
    assert not noted(fit_on="items", d=17)


def test_float32_at_its_own_size_is_the_reference():
    own, under = row("float32()", None, (10,)), row("float32", 64.0, (5,))
    assert ranked([under, own], 64.0)["float32"].recall_of_float32.value == pytest.approx(0.5)
    assert ranked([under], 64.0)["float32"].recall_of_float32.value == pytest.approx(1.0)


def test_without_judgements_there_is_no_ndcg():
    rows = [row("float32()", None), row("pq", 16.0)]
    for of in rows:
        del of["relevance"], of["per_query"]["nDCG@10"], of["n_judged"]
    assert ranked(rows)["pq"].ndcg_at_10 is None
    assert "nDCG" not in boards.to_markdown(boards_of(rows))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("machine", "m2", "machine"),
        ("dataset_sha256", "beef" * 16, "version of the data"),
        ("deployment_n", 5000, "deployment size"),
        ("disk_budget", 100.0, "disk allowance"),
        ("threads", {"build": 2, "search": 2}, "threads"),
        ("tries", 1, "tries per method"),
    ],
)
def test_what_must_not_be_mixed_is_kept_apart(field, value, words):
    other = row("pq", 16.0, (3,)) | {field: value, "id": "other"}
    found = boards_of([row("pq", 16.0), other])
    assert len(found) == 2
    for board in found:
        assert len(table(board).ranked) == 1
        assert re.search(rf"board [12] of 2 for this data set: the results differ in {words} ", board.notes[0])
    assert len(boards_of([row("pq", 16.0), row("sign", 16)])) == 1


def test_the_same_number_written_otherwise_is_the_same():
    (board,) = boards_of([row("pq", 16.0), row("sign", 16) | {"disk_budget": 0}])
    assert len(table(board).ranked) == 2


def test_results_of_older_code_give_way():
    old = [row("pq", 16.0, (2,), seed=seed, version="v1") for seed in (0, 1)]
    new = row("pq", 16.0, (8,), version="v2", time="2030-01-02T00:00:00+00:00")
    for rows in ([*old, new], [new, *old]):
        (board,) = boards_of(rows)
        (entry,) = table(board).ranked
        assert entry.recall_at_10.value == pytest.approx(0.8)
        assert entry.seeds == (0,)
        assert any(note.startswith("2 older results are left out") for note in board.notes)


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        ({"payload": 15.0, "shared": 0, "cold": 4.0}, "4 on disk (0 allowed)"),
        ({"payload": 15.0, "shared": 2_000_000, "cold": 0.0}, "weighs 17.00 of 16 bytes"),
        ({"payload": 17.0, "shared": 0, "cold": 0.0}, "weighs 17.00 of 16 bytes"),
    ],
)
def test_rows_are_weighed_again(weight, why):
    heavy = row("pq", 16.0, bytes=weight | {"deployed": 1.0})
    (board,) = boards_of([heavy, row("sign", 16.0, (1,))])
    assert [entry.request for entry in table(board).ranked] == ["sign"]
    (entry,) = table(board).absent
    assert entry.status == "over_budget"
    assert why in entry.reason


def test_truncation_is_called_by_its_name():
    truncated = row("truncate", 16.0, spec="truncate(dim=8) | int8()", fidelity="READ-OUT")
    entry = ranked([truncated])["truncate"]
    assert (entry.name, entry.label) == ("naive_truncate(dim=8) | int8()", "naive_truncate")
    assert entry.spec == "truncate(dim=8) | int8()"  # what can be run again keeps its name
    for card in ({}, {"mrl_trained": False}):
        assert ranked([truncated | {"card": card}])["truncate"].name.startswith("naive_truncate(")
    assert ranked([truncated | {"card": {"mrl_trained": True}}])["truncate"].name == "truncate(dim=8) | int8()"
    (board,) = boards_of([row("truncate", 16.0, status="failed", reason="gone"), row("pq", 8.0)])
    (entry,) = table(board).absent[:1]
    assert (entry.name, entry.request) == ("naive_truncate", "truncate")
    other = row("my_truncate", 16.0, spec="my_truncate(dim=8)")
    assert ranked([other])["my_truncate"].name == "my_truncate(dim=8)"


@given(st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=4), min_size=1, max_size=5), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_a_method_registered_twice_shares_a_letter_with_itself(rights, seeds):
    names = [*"abcde"[: len(rights)], "twin"]
    rows = [
        row(name, 16.0, [max(0, one - seed) for one in right], seed=seed)
        for name, right in zip(names, [*rights, rights[0]], strict=True)
        for seed in range(seeds)
    ]
    found = ranked(rows)
    assert set(found["a"].group) & set(found["twin"].group)
    assert table(boards_of(rows)[0]).outcome("a", "twin") == "tie"


def many(request, budget, right, **more):
    """A row of 400 queries, which suffice to show that nothing is lost."""
    found = row(request, budget, right, **more) | {"n_queries": 400}
    found["per_query"] = {name: (of * 10) for name, of in found["per_query"].items()}
    return found


def test_lossless_is_said_only_where_it_was_shown():
    rows = [many("float32()", None, (10,), payload=64.0), many("int8", 16.0, (10,)), many("pq", 16.0, (10, 9))]
    found = ranked(rows)
    assert (found["int8"].lossless, found["pq"].lossless) == (True, False)
    (board,) = boards_of(rows)
    assert board.references[0].lossless is None
    assert {of.request: (of.lossless, of.safe_budget) for of in board.summaries} == {
        "int8": ((16.0,), 16.0), "pq": ((), None),
    }  # fmt: skip
    assert "| lossless |" in boards.to_markdown([board])
    few = boards_of([row("float32()", None, (10,), payload=64.0), row("int8", 16.0, (10,))])
    assert few[0].tables[0].ranked[0].lossless is False
    assert "| lossless |" not in boards.to_markdown(few)
    assert "inconclusive: 299 queries" in boards.to_markdown(few)
    (wide,) = boards_of([row("float32()", None, (10,), payload=64.0), row("int8", 16.0, (10,))], margin=0.1)
    assert wide.tables[0].ranked[0].lossless
    with pytest.raises(packbench.BadInput, match="margin 1: expected the recall that may be lost"):
        boards_of(rows, margin=1.0)


def test_summaries_follow_a_method_over_budgets():
    rows = [row("float32()", None, (10,), payload=64.0)]
    rows += [row("pq", budget, (right,)) for budget, right in ((8.0, 6), (16.0, 8), (32.0, 10))]
    rows += [row("sign", 32.0, (9,), payload=20.0), row("sign", 8.0, status="no_fit", reason="too little")]
    (board,) = boards_of(rows)
    pq, sign = board.summaries
    assert (pq.request, sign.request) == ("pq", "sign")
    assert [of.value for of in pq.bytes_for] == [pytest.approx(2 ** (4 + part)) for part in (0.75, 0.9, 0.95)]
    assert pq.area.value == pytest.approx((0.7 + 0.9) / 2)
    assert [of.value for of in sign.bytes_for] == [None] * 3
    assert sign.area.value == pytest.approx(0.9 * math.log2(32 / 20) / 2)
    text = boards.to_markdown([board])
    assert "| `pq` | 26.9 | 29.9 | 30.9 | 0.800" in text
    bare = boards_of(rows[1:])[0]
    assert bare.summaries[0].bytes_for == ()
    assert "safe budget |" not in boards.to_markdown([bare])


def two_sets():
    first = [row("float32()", None, (10,), payload=64.0), row("pq", 16.0, (8,)), row("sign", 16.0, (9,))]
    second = [row("float32()", None, (5,), payload=64.0), row("pq", 16.0, (4,))]
    second.append(row("sign", 16.0, status="failed", reason="gone"))
    return first + [of | {"dataset": "made/otherwise", "id": f"{of['id']}-2"} for of in second]


def test_a_failure_is_not_averaged_away():
    found = boards_of(two_sets())
    (together,) = across(found)
    assert together.datasets == ("made/by_hand", "made/otherwise")
    ((budget, (pq, sign)),) = together.tables
    assert (budget, pq.request, sign.request) == (16.0, "pq", "sign")
    assert (pq.held, pq.missed, pq.relative.value) == (2, (), pytest.approx(0.8))
    assert (sign.held, sign.missed) == (1, ("made/otherwise: failed",))
    assert sign.relative.value == pytest.approx(0.45)  # 0.9 and nothing
    assert (pq.won, pq.tied, pq.lost, sign.won, sign.tied, sign.lost) == (1, 0, 1, 1, 0, 1)
    text = boards.to_markdown(found)
    assert "| 2 | `sign` | 0.4500 \\[0.0000, 0.9000\\] | 1 of 2 | 1–0–1 | made/otherwise: failed |" in text
    assert json.loads(boards.to_json(found))["across"][0]["tables"][0][1][1]["missed"] == ["made/otherwise: failed"]
    stream = io.StringIO()
    render_across(found, Console(file=stream, width=160))
    assert "made/otherwise: failed" in stream.getvalue()


def test_only_what_may_be_compared_is_put_together():
    rows = two_sets()
    assert across(boards_of(rows[:3])) == []
    assert across(boards_of(rows[:3] + [of | {"tries": 9} for of in rows[3:]])) == []
    assert across(boards_of([of for of in rows if of["method"] != "float32"])) == []
    third = [of | {"dataset": "third", "id": f"{of['id']}-3"} for of in rows[1:3]]
    (together,) = across(boards_of(rows + third))
    assert (len(together.datasets), together.left_out) == (2, ("third",))
    later = [of | {"dataset_sha256": "beef" * 16, "time": "2031-01-01T00:00:00+00:00"} for of in rows[:3]]
    later[1]["per_query"] = {name: of[::-1] for name, of in row("pq", 16.0, (6,))["per_query"].items()}
    (together,) = across(boards_of(rows + later))
    assert next(of for of in together.tables[0][1] if of.request == "pq").relative.value == pytest.approx(0.7)


def test_load(tmp_path):
    store = Store(tmp_path)
    for of in hand_made():
        store.append(of)
    (board,) = boards.load(tmp_path)
    assert boards.to_json([board]) == boards.to_json(boards_of(hand_made()))


def test_load_refuses(tmp_path):
    with pytest.raises(packbench.BadInput, match="no results"):
        boards.load(tmp_path / "missing")
    with pytest.raises(packbench.BadInput, match="no results"):
        boards.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(packbench.BadInput, match="is a file"):
        boards.load(tmp_path / "file")


@pytest.mark.parametrize("change", [{"per_query": {}}, {"bytes": None}, {"versions": None}, {"machine_facts": {}}])
def test_foreign_rows_are_refused(change):
    with pytest.raises(packbench.BadInput, match="cannot be read"):
        boards_of([row("pq", 16.0) | change])


def test_rows_without_what_groups_them_are_refused():
    broken = row("pq", 16.0)
    del broken["tries"]
    with pytest.raises(packbench.BadInput, match=r"pq-16\.0-0.*KeyError: 'tries'"):
        boards_of([broken])


def test_rows_of_other_queries_are_refused():
    other = row("sign", 16.0)
    other["per_query"] = {"recall@10": [9] * 3, "nDCG@10": [0.5] * 3}
    with pytest.raises(packbench.BadInput, match="cannot be read"):
        boards_of([row("pq", 16.0), other])


def taken_apart(request, codes, own, **more):
    made = row(request, 16.0, own, **more)
    made["per_query"]["codes recall@10"] = [codes[at % len(codes)] for at in range(len(made["per_query"]["recall@10"]))]
    return made


def test_waterfall_sums_to_the_gap():
    (board,) = boards_of([row("float32()", None, (10, 9)), taken_apart("pq", (9, 8, 8), (7, 7, 8))])
    (entry,) = table(board).ranked
    assert [name for name, _ in entry.waterfall] == ["coding", "scoring"]
    lost = sum(step.value for _, step in entry.waterfall)
    assert lost == pytest.approx(entry.recall_at_10.value - board.references[0].recall_at_10.value)
    assert all(step.low <= step.value <= step.high < 0 for _, step in entry.waterfall)
    assert "coding" in boards.to_markdown([board])


def test_a_method_without_stages_is_not_taken_apart(one):
    assert [name for name, _ in table(one).ranked[0].waterfall] == ["all"]
    assert "lost by" not in boards.to_markdown([one])


def test_red_flags_are_shown():
    (board,) = boards_of([row("pq", 16.0, (9,), health={"use": 0.2}), row("opq", 16.0, (8,), health={"use": 0.9})])
    flagged = {entry.request: entry.flags for entry in table(board).ranked}
    assert flagged["opq"] == () and "1.6 of the 8 bits" in flagged["pq"][0]
    for render in (boards.to_markdown, boards.to_csv, boards.to_json):
        assert "1.6 of the 8 bits" in render([board])


def test_hardest_queries():
    (board,) = boards_of([row("pq", 16.0, (10, 10, 2, 10)), row("opq", 16.0, (9, 9, 4, 9))])
    assert {entry.request: entry.recall_on_hardest for entry in table(board).ranked} == pytest.approx(
        {"pq": 0.2, "opq": 0.4}
    )


def test_the_reference_curve_is_no_row():
    curve = row("gaussian reference", 16.0, (9, 8), status="ok") | {"status": "reference"}
    (board,) = boards_of([row("pq", 16.0, (9,)), curve])
    assert [entry.request for entry in table(board).ranked] == ["pq"] and table(board).absent == ()
    ((size, recall),) = board.reference_curve
    assert size == 16 and recall.value == pytest.approx(0.85)
    assert any("a reference, not a bound" in sentence for _, sentence in board.facts())
