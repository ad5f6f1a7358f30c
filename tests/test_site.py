import html
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from packbench import datasets, registry
from packbench.errors import BadInput
from packbench.leaderboard.entries import Table
from packbench.leaderboard.site.about import TRAINING, needs_and_training
from packbench.leaderboard.site.card import card_of
from packbench.leaderboard.site.data import STEPS, history_script, outcomes_script
from packbench.leaderboard.site.pages import HISTORY
from packbench.leaderboard.site.reproduce import cell_of, run_of
from packbench.leaderboard.site.slugs import slugs
from packbench.leaderboard.site.write import MANIFEST, write_history, write_html

MADE = runpy.run_path(str(Path(__file__).parent / "made_site.py"))
ATTACK, Page, answers, board, conformance, entry, history, past, small = (
    MADE[name] for name in ("ATTACK", "Page", "answers", "board", "conformance", "entry", "history", "past", "small")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "new" / "site"
    write_html(small(), folder, conformance())
    write_history(history(), folder)
    return folder


def test_every_link_leads_somewhere(site):
    for file in site.rglob("*.html"):
        page = Page(file.read_text(encoding="utf-8"))
        assert page.open == [], file
        links = [value for _, name, value in page.attributes if name in ("href", "src")]
        assert links
        for link in links:
            path, _, part = link.partition("#")
            found = (file.parent / path).resolve() if path else file
            assert found.is_file(), (file, link)
            assert found.is_relative_to(site)
            assert not part or f'id="{part}"' in found.read_text(encoding="utf-8")


def test_outcomes_are_held_exactly_and_once():
    tables = [np.arange(0, 100) % 11 / 10, np.arange(0, 100) % 21 / 20, np.arange(0, 100) % 31 / 30]
    for outcome in tables:
        np.testing.assert_allclose(np.rint(outcome * STEPS) / STEPS, outcome, atol=1e-12)
    one = board(outcomes={("pq", 8.0): answers(0.5)})
    many = board(outcomes={("pq", float(budget)): answers(0.5) for budget in range(50)})
    assert len(outcomes_script(many, "key")) == len(outcomes_script(one, "key"))


def test_names_of_files_never_meet():
    hard = ["a/b", "a b", "a-b", "A", "a", "", "..", "../x", "x", "a" * 300, "a" * 301, "é", "a_b", "CON.", "pq", "PQ",
            slugs(["a/b"])["a/b"]]  # fmt: skip
    found = slugs(hard)
    assert len({slug.casefold() for slug in found.values()}) == len(hard)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,64}", slug) for slug in found.values())
    assert found["pq"] == "pq"
    assert slugs(["a/b"])["a/b"] == found["a/b"]


def parsed(command):
    """Read a command as the command line would; return what `packbench run` is given."""
    import click
    import typer

    from packbench.cli import app

    words = shlex.split(command)
    assert words[0] == "packbench"
    group = typer.main.get_command(app)
    name, sub, rest = group.resolve_command(click.Context(group), words[1:])
    assert name == "run"
    return sub.make_context(name, rest).params


@pytest.mark.parametrize("request_", ["pq", "pca(dim=4) | int8()", "faiss(factory='PQ8, x')", "sign(); rm -rf ~", "-x"])
def test_commands_ask_for_what_was_asked(request_):
    one = board(disk_budget=96.0, metric="l2", deployment_n=50_000_000, tries=5)
    of = entry(request_, "spec()", 0.5, seeds=(0, 3))
    given = parsed(f"{run_of(one)} {cell_of(of, 64.0)}")
    wanted = {
        "dataset": ["pydocs"], "metric": "l2", "rows": "50000000", "tries": 5, "threads": 1, "build_threads": 2,
        "disk": 96.0, "method": [request_], "budget": [64.0], "seed": [0, 3],
    }  # fmt: skip
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()
            if name in wanted} == wanted  # fmt: skip


def test_commands_say_what_results_do_not_hold():
    assert "--dataset YOUR_DATA" in run_of(board("my vectors"))
    assert cell_of(entry("mine", "mine()", 0.5), 8.0).endswith("--plugin YOUR_PLUGIN.py")
    assert "--plugin" not in cell_of(entry("centre() | sign()", "centre() | sign()", 0.5, family="plugin"), 8.0)
    assert "--budget 64" in cell_of(entry("float32()", "float32()", 1.0, deployed_bytes=63.5), None)


@pytest.mark.parametrize(
    ("spec", "needs", "training"),
    [
        ("float16()", "none", "none"), ("pq(m=8)", "none", "vectors"), ("pca(dim=4) | sign()", "none", "vectors"),
        ("truncate(dim=4)", "none", "retrained"), ("never_heard_of()", "–", "–"),
    ],
)  # fmt: skip
def test_needs_and_training(spec, needs, training):
    assert needs_and_training(entry(spec, spec, 0.5)) == (needs, training)


def test_training_follows_needs():
    found = {name: needs_and_training(entry(name)) for name in registry.methods()}
    for name, cls in registry.methods().items():
        learnt = found[name][1]
        assert (learnt in ("queries", "pairs", "labels")) <= (learnt in cls.needs), name
        assert found[name][0] == (", ".join(sorted(cls.needs)) or "none")
    assert {training for _, training in found.values()} == set(TRAINING)


def test_a_site_is_brought_up_to_date(tmp_path):
    folder = tmp_path / "site"
    write_html(small(), folder)
    (folder / "mine.txt").write_text("kept")
    (folder / "boards" / "mine.txt").write_text("kept")
    write_html(small()[:1], folder)
    listed = set(json.loads((folder / MANIFEST).read_text())["files"])
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == listed | {MANIFEST, "mine.txt", "boards/mine.txt"}
    assert sorted(tmp_path.iterdir()) == [folder]
    fresh = tmp_path / "fresh"
    write_html(small()[:1], fresh)
    for path in listed:
        assert (fresh / path).read_bytes() == (folder / path).read_bytes()


def test_what_is_not_a_site_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file; expected a folder"):
        write_html(small(), tmp_path / "file")
    with pytest.raises(BadInput, match=r"give a folder, such as board"):
        write_html(small(), tmp_path / "board.html")
    with pytest.raises(BadInput, match="cannot be written"):
        write_html(small(), tmp_path / "file" / "site")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="holds files and is no site"):
        write_html(small(), tmp_path / "full")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "thesis.txt"]


def test_a_list_of_files_from_elsewhere_deletes_nothing_outside(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    folder = tmp_path / "site"
    write_html(small(), folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] += ["../outside.txt", str(outside), "a/../../outside.txt"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    write_html(small()[:1], folder)
    assert outside.exists()


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    folder = tmp_path / "site"
    write_html(small()[:1], folder)
    mine = folder / "methods" / f"{slugs([ATTACK])[ATTACK]}.html"
    mine.write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="is there and is not of a site"):
        write_html(small(), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_boards_of_one_data_set_have_pages_of_their_own(tmp_path):
    table = Table(8.0, (entry("pq", "pq(m=8)", 0.5),), ())
    write_html([board(tables=[table]), board(tables=[table], machine="m2")], tmp_path / "site")
    assert len([*(tmp_path / "site" / "boards").glob("*/8.html")]) == 2
    assert "pydocs (2 of 2)" in (tmp_path / "site" / "index.html").read_text()


def test_a_data_set_says_what_its_card_says():
    facts = dict(card_of(board(judged=7)))
    card = datasets.card("pydocs")
    assert (facts["Licence"], facts["Origin"], facts["Encoder"]) == (card["licence"], card["origin"], card["encoder"])
    assert facts["sha256"] == "c0ffee" * 10
    assert facts["Judged queries"] == "7"
    assert facts["Matryoshka-trained"].startswith("no")
    assert f"n = {card['n']}, d = {card['d']}" in facts["Note"]
    assert "Note" not in dict(card_of(board(n=card["n"], d=card["d"], metric=card["metric"])))


def test_a_data_set_without_a_card_says_what_rows_know():
    facts = dict(card_of(board(ATTACK, fit_on="items")))
    assert facts == {
        "Name": ATTACK, "Items": "1,000", "Dimensions": "16", "Metric": "ip", "Test queries": "100",
        "Judged queries": "none: quality is recall of exact neighbours",
        "Fit sample": "500 vectors, of the items themselves", "sha256": "c0ffee" * 10,
    }  # fmt: skip


def test_a_page_shows_the_card(site):
    text = html.unescape((site / "boards" / "pydocs.html").read_text(encoding="utf-8"))
    assert datasets.card("pydocs")["licence"] in text
    assert "c0ffee" * 10 in text


def test_nothing_is_said_of_conformance_where_nobody_looked(tmp_path):
    write_html(small(), tmp_path / "site")
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")]
    texts += [path.read_text(encoding="utf-8") for path in (tmp_path / "site" / "data").glob("*.js")]
    assert not [text for text in texts if "onformance" in text]


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_history_goes_into_a_site_and_stays(tmp_path):
    folder = tmp_path / "site"
    write_html(small(), folder)
    before = files_in(folder)
    write_history(history(), folder)
    after = files_in(folder)
    assert {path for path in after if after[path] != before.get(path)} == {HISTORY}
    write_html(small()[:1], folder)
    assert files_in(folder)[HISTORY] == after[HISTORY]
    assert json.loads(files_in(folder)[MANIFEST])["files"] == sorted(set(files_in(folder)) - {MANIFEST})


def test_a_history_makes_a_folder_that_boards_can_join(tmp_path):
    write_history(history(), tmp_path / "site")
    alone = files_in(tmp_path / "site")
    page = Page(alone["history.html"].decode())
    links = [value for _, name, value in page.attributes if name in ("href", "src") and not value.startswith("#")]
    assert set(links) < set(alone)
    write_html(small(), tmp_path / "site")
    write_html(small(), tmp_path / "other")
    both, boards_alone = files_in(tmp_path / "site"), files_in(tmp_path / "other")
    assert {path for path in both if both[path] != boards_alone.get(path)} == {HISTORY}
    assert both[HISTORY] == alone[HISTORY]


def test_a_history_is_not_put_among_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="holds files and is no site"):
        write_history(history(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_history_that_repeats_itself_is_small():
    made = [past([0.8] * 200, request=f"method_{at}") for at in range(100)]
    assert len(history_script(made)) < 30_000
