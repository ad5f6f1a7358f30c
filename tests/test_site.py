import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from packbench import registry
from packbench.errors import BadInput
from packbench.leaderboard import board as boards
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.site.about import TRAINING, needs_and_training
from packbench.leaderboard.site.data import STEPS, outcomes_script
from packbench.leaderboard.site.reproduce import cell_of, run_of
from packbench.leaderboard.site.slugs import slugs
from packbench.leaderboard.site.write import MANIFEST, write_html
from packbench.leaderboard.stats import Bootstrap, Interval

ATTACK = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"' onfocus=window.hit=1 <!--{{ 7*7 }}"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
SCREENSHOTS = Path(__file__).parent.parent / "docs" / "screenshots"
FAMILY = {"pq": "codebook", "opq": "codebook", "float16": "scalar", "int8": "scalar", "float32": "scalar"}


def entry(request, spec=None, share=None, at=1, queries=100, **more):
    """Make an entry; share is what part of the answers is right, None where there are no figures."""
    method = re.split(r"\W", request)[0]
    found = {
        "name": spec or request, "label": request, "request": request, "spec": spec, "method": method,
        "family": FAMILY.get(method, "plugin"), "fidelity": "EXACT", "kind": "quantiser", "seeds": (0,),
    }  # fmt: skip
    if share is None:
        return Entry(**(found | {"status": "no_fit", "reason": "needs at least 99.00 bytes per item"} | more))
    found |= {
        "rank": at, "group": "a" if at == 1 else "b", "deployed_bytes": 8.0, "payload_bytes": 8.0,
        "shared_bytes_in_all": 1234.0, "cold_bytes": 0.0, "recall_at_10": Interval(share, share - 0.01, share + 0.01),
        "p50_ms": 0.25 * at, "speedup": Interval(2.0, 1.5, 2.5), "kernel": f"kernel {at % 2}",
    }  # fmt: skip
    return Entry(**(found | more))


def answers(share, queries=100, seed=0):
    return np.random.default_rng([seed, int(share * 1000)]).binomial(10, share, queries) / 10


def board(dataset="pydocs", tables=(), references=(), outcomes=None, queries=100, **more):
    found = {
        "dataset": dataset, "dataset_sha256": "c0ffee" * 10, "n": 1000, "d": 16, "metric": "ip", "queries": queries,
        "judged": None, "fit_on": "disjoint", "fit_items": 500, "deployment_n": 1_000_000, "disk_budget": 0.0,
        "search_threads": 1, "build_threads": 2, "tries": 3, "machine": "m1", "machine_facts": "a processor",
        "versions": ("python 3.11",), "measured": ("2030-01-01", "2030-01-02"), "notes": (),
        "references": tuple(references), "tables": tuple(tables), "outcomes": outcomes or {},
    }  # fmt: skip
    return Board(**(found | more))


def small():
    """Two data sets: one with rows of every kind, one with nothing but hostile text."""
    figures = {
        (8.0, "opq", "opq(m=8)"): 0.8, (8.0, "pq", "pq(m=8)"): 0.7, (8.0, "float16", "float16()"): 0.3,
        (16.0, "opq", "opq(m=16)"): 0.9, (16.0, "float16", "float16()"): 0.3,
    }  # fmt: skip
    outcomes = {(request, budget): answers(share) for (budget, request, _), share in figures.items()}
    outcomes["float32()", None] = np.ones(100)
    means = {key: float(of.mean()) for key, of in outcomes.items()}

    def ranked(budget):
        of = [key for key in figures if key[0] == budget]
        return tuple(
            entry(request, spec, means[request, budget], at, deployed_bytes=budget - at / 8)
            for at, (_, request, spec) in enumerate(of, 1)
        )

    first = board(
        tables=(Table(8.0, ranked(8.0), (entry("int8"),)), Table(16.0, ranked(16.0), (entry("int8"), entry("pq")))),
        references=(entry("float32()", "float32()", 1.0, rank=None, group="", deployed_bytes=64.0),),
        outcomes=outcomes,
    )
    hostile = entry(f"evil{ATTACK}", f"evil({ATTACK})", 0.5, kernel=ATTACK, method=ATTACK, family=ATTACK,
                    fidelity=ATTACK, kind=ATTACK)  # fmt: skip
    second = board(
        ATTACK,
        (Table(8.0, (hostile,), (entry("../../evil", status=ATTACK, reason=ATTACK, method="../../evil"),)),),
        outcomes={(hostile.request, 8.0): answers(0.5)}, metric=ATTACK, machine_facts=ATTACK, versions=(ATTACK,),
        notes=(ATTACK,), measured=(ATTACK, ATTACK),
    )  # fmt: skip
    return [first, second]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "new" / "site"
    write_html(small(), folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a page; at the end, it must have said nothing on the console and asked for nothing but files."""
    contexts, said, asked = [], [], []

    def opened(path, **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a machine with other work
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(Path(path.partition("#")[0]).as_uri() + "".join(path.partition("#")[1:]))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert asked
    assert [url for url in asked if not url.startswith("file://")] == []


def drawn(figure):
    """Return the marks of a figure once they are there: it is drawn when its width is known."""
    figure.locator(".mark").first.wait_for(state="attached")
    return figure.locator(".mark")


def test_sorts(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    table = page.locator("table.figures").first
    head = table.get_by_role("columnheader", name="recall@10 [95%]")
    order = lambda: table.locator("tbody").first.locator("tr > th").all_inner_texts()  # noqa: E731
    assert order() == ["opq(m=8)", "pq(m=8)", "float16()"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert order() == ["float16()", "pq(m=8)", "opq(m=8)"]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert order() == ["opq(m=8)", "pq(m=8)", "float16()"]
    table.get_by_role("columnheader", name="method").get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert table.locator(".references th").all_inner_texts() == ["float32()"]


def test_filters(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    rows = page.locator("table.figures").first.locator("tbody").first.locator("tr > th")
    page.get_by_label("find").fill("PQ")
    assert rows.all_inner_texts() == ["opq(m=8)", "pq(m=8)"]
    assert page.locator(".filters output").inner_text() == "2 of 3 rows"
    page.get_by_label("find").fill("")
    page.get_by_label("family").select_option("scalar")
    assert rows.all_inner_texts() == ["float16()"]
    page.get_by_label("family").select_option("all")
    page.get_by_label("training").select_option("vectors")
    assert rows.all_inner_texts() == ["opq(m=8)", "pq(m=8)"]
    page.get_by_label("kernel").select_option("kernel 0")
    assert rows.all_inner_texts() == ["pq(m=8)"]
    assert page.get_by_label("fidelity").count() == 0  # all rows share it, so there is nothing to choose


def test_what_is_absent_is_listed_with_its_reason(site, visit):
    page = visit(f"{site}/boards/pydocs/16.html")
    lost = page.get_by_role("region", name="Not on this board")
    assert lost.locator("tbody th").all_inner_texts() == ["int8", "pq"]
    assert lost.locator("tbody .reason").all_inner_texts() == ["needs at least 99.00 bytes per item"] * 2
    page = visit(f"{site}/failures.html")
    rows = page.locator("tbody tr")
    assert rows.count() == 4
    page.get_by_label("data set").select_option("pydocs")
    page.get_by_label("budget").select_option("16")
    assert rows.count() == 2
    page.get_by_label("find").fill("99.00 int8")
    assert rows.count() == 1


def test_a_mark_tells_and_leads(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    figure = page.locator("figure").first
    assert drawn(figure).count() == 6
    mark = figure.locator('.mark[aria-label^="pq(m=8)"]')
    box = mark.locator("path").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    told = figure.locator(".told").inner_text()
    value = answers(0.7).mean()
    recall = f"{value:.4f} [{value - 0.01:.4f}, {value + 0.01:.4f}]"
    assert told.startswith(f"pq(m=8): recall@10 {recall}, 7.75 bytes per item, 0.500 ms per query")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**/methods/pq.html")
    assert page.locator("h1").inner_text() == "pq"


def test_marks_are_reached_by_keyboard(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    figure = page.locator("figure").first
    drawn(figure)
    assert figure.locator('.mark[tabindex="0"]').count() == 1
    figure.locator('.mark[tabindex="0"]').focus()
    assert figure.locator(".told").inner_text().startswith("float16(): ")
    page.keyboard.press("ArrowRight")
    assert figure.locator(".told").inner_text().startswith("pq(m=8): ")
    page.keyboard.press("ArrowRight")
    assert figure.locator(".told").inner_text().startswith("opq(m=8): ")
    page.keyboard.press("Enter")
    page.wait_for_url("**/methods/opq.html")


def test_the_legend_picks_families(site, visit):
    page = visit(f"{site}/index.html")
    figure = page.locator("figure").first
    button = figure.get_by_role("button", name="codebook")
    drawn(figure)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert figure.locator(".mark").count() == 3
    button.click()
    assert figure.locator(".mark").count() == 6


def test_a_method_says_what_it_is_and_how_to_measure_it_again(site, visit):
    page = visit(f"{site}/methods/opq.html")
    text = page.locator("main").inner_text()
    assert registry.get("opq").paper in text
    assert registry.get("opq").formula in text
    assert registry.get("opq").summary() in " ".join(text.split())
    commands = page.locator("td.command").all_inner_texts()
    assert [shlex.split(command)[-6:] for command in commands] == [
        ["--method", "opq", "--budget", budget, "--seed", "0"] for budget in ("8", "16")
    ]
    assert page.locator("tbody th.spec").all_inner_texts() == ["opq(m=8)", "opq(m=16)"]


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


@pytest.mark.parametrize(("budget", "a", "b"), [(8, "opq", "pq"), (8, "float16", "opq"), (16, "opq", "float32()")])
def test_compares_as_the_board_would(site, visit, budget, a, b):
    outcomes = small()[0].outcomes
    own = " at its own size" if b == "float32()" else ""
    page = visit(f"{site}/compare.html")
    page.get_by_label("data set").select_option("pydocs")
    page.get_by_label("bytes per item").select_option(f"{budget}")
    page.get_by_label("method A").select_option(a)
    page.get_by_label("method B").select_option(b + own)
    left, right = outcomes[a, float(budget)], outcomes[b, None if own else float(budget)]
    truth = Bootstrap([left[None], right[None]], resamples=20_000).difference(0, 1)
    page.wait_for_function("document.querySelectorAll('.counts').length")
    wins, losses = int((left > right + 1e-9).sum()), int((left < right - 1e-9).sum())
    expected = f"{wins} wins, {100 - wins - losses} ties, {losses} losses of A over 100 queries"
    page.get_by_text(expected).wait_for()
    text = page.locator(".verdict").inner_text().replace("−", "-")
    value, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", text))
    assert value == pytest.approx(truth.value, abs=1e-4)
    assert (low, high) == pytest.approx((truth.low, truth.high), abs=0.1 * (truth.high - truth.low))
    assert ("A is better" in text) == (low > 0)
    assert ("B is better" in text) == (high < 0)
    again = visit(page.url.removeprefix("file://"))
    again.get_by_text(expected).wait_for()


def test_a_method_against_itself_ties(site, visit):
    page = visit(f"{site}/compare.html#board=pydocs&budget=8&a=opq&b=opq")
    page.get_by_text("0 wins, 100 ties, 0 losses").wait_for()
    assert "they cannot be told apart here" in page.locator(".verdict").inner_text()


def test_outcomes_are_held_exactly_and_once():
    tables = [np.arange(0, 100) % 11 / 10, np.arange(0, 100) % 21 / 20, np.arange(0, 100) % 31 / 30]
    for outcome in tables:
        np.testing.assert_allclose(np.rint(outcome * STEPS) / STEPS, outcome, atol=1e-12)
    one = board(outcomes={("pq", 8.0): answers(0.5)})
    many = board(outcomes={("pq", float(budget)): answers(0.5) for budget in range(50)})
    assert len(outcomes_script(many, "key")) == len(outcomes_script(one, "key"))


def test_no_page_scrolls_sideways_on_a_phone(site, visit):
    page = visit(f"{site}/index.html", viewport={"width": 320, "height": 640})
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        if page.locator(".told").count():
            drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, file


def test_dark_and_light_have_contrast(site, visit):
    for scheme in ("light", "dark"):
        page = visit(f"{site}/boards/pydocs/8.html", color_scheme=scheme)
        ground = luminance(colour(page, "body", "background-color"))
        assert (ground > 0.5) == (scheme == "light")
        texts = ["body", ".sizes", "a", ".figures thead button", ".references td", ".status", ".filters label", ".told"]
        for selector in texts:
            assert contrast(luminance(colour(page, selector, "color")), ground) >= 4.5, (scheme, selector)
        for hue in range(8):
            mark = page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--hue{hue}')")
            values = [int(mark[at : at + 2], 16) for at in (1, 3, 5)]
            assert contrast(luminance(values), ground) >= 4.5, (scheme, hue)


def colour(page, selector, name):
    style = page.locator(selector).first.evaluate(f"(node) => getComputedStyle(node).getPropertyValue('{name}')")
    return [int(value) for value in re.findall(r"\d+", style)[:3]]


def luminance(rgb):
    parts = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_what_assistive_technology_needs_is_there(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator("main").count() == page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = "[...document.querySelectorAll('input, select')].filter((node) => !node.labels.length).length"
    assert page.evaluate(unnamed) == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("svg:not([aria-label]):not([aria-hidden])").count() == 0
    assert page.locator(".scroll:not([role=region][aria-label][tabindex])").count() == 0
    page.locator(".figures button").first.focus()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_hostile_text_stays_text(site, visit):
    shown, page = 0, visit(f"{site}/index.html")
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        assert page.evaluate("window.hit") is None, file
        assert page.locator("img, iframe, object, [onerror], [onfocus]").count() == 0, file
        shown += ATTACK in page.locator("body").evaluate("(node) => node.textContent")
    assert shown >= 6
    files = [path for path in site.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in files)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "<script>window" not in text, file
        assert "<!--" not in text, file


def test_pages_run_the_sites_own_scripts_only(site, browser):
    for file in site.rglob("*.html"):
        page = Page(file.read_text(encoding="utf-8"))
        policy = next(value for _, _, value in page.attributes if value and value.startswith("default-src"))
        assert "'none'" in policy
        assert "unsafe" not in policy
        assert not [of for of in page.attributes if of[1].startswith("on") or of[1] == "style"]
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((site / "index.html").as_uri())
    inline = "Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'})"
    page.evaluate(f"document.body.append({inline})")
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in of for of in said)
    page.close()


def test_without_scripts_the_overview_is_read_and_the_rest_says_so(site, visit):
    page = visit(f"{site}/index.html", java_script_enabled=False)
    best = page.get_by_role("region", name="pydocs: the best of each family at each budget")
    assert best.locator("tbody tr").count() == 2
    assert f"{answers(0.9).mean():.3f}" in best.inner_text()
    assert "a processor" in page.locator("main").inner_text()
    for file in ("boards/pydocs.html", "boards/pydocs/8.html", "methods/pq.html", "compare.html", "failures.html"):
        page.goto((site / file).as_uri())
        assert "script" in page.locator("noscript").inner_text()


class Page(HTMLParser):
    """Collect what a browser would see."""

    VOID = frozenset(("meta", "link", "br", "img", "input", "hr"))

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


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


def test_boards_without_figures_are_shown_too(tmp_path, visit):
    failed = board(tables=[Table(8.0, (), (entry("pq", reason="gone wrong"),))])
    only = board("digits", references=[entry("float32()", "float32()", 1.0, rank=None)])
    write_html([failed, only], tmp_path / "site")
    assert "gone wrong" in visit(f"{tmp_path}/site/boards/pydocs/8.html").locator("main").inner_text()
    assert drawn(visit(f"{tmp_path}/site/boards/digits.html")).count() == 1
    assert "Nothing was measured" in visit(f"{tmp_path}/site/compare.html").locator("main").inner_text()


def large():
    """A hundred methods at six budgets on five data sets, with the specs and kernels of real rows."""
    methods = [*registry.methods()][:100]
    kernels = ["numba scan, blas float32 for batches", "faiss FastScan 4 x 1 bit", "faiss PQ look-up", "decode"]
    found = []
    for at, queries in enumerate((1000, 300, 323, 100, 920)):
        tables, outcomes = [], {}
        for budget in (8.0, 16.0, 32.0, 64.0, 128.0, 256.0):
            ranked = []
            for place, method in enumerate(methods, 1):
                share = 0.98 - 0.006 * place * 16 / (budget + 16)
                outcomes[method, budget] = answers(share, queries, place)
                spec = f"query_aware_svd(dim={place + 100}) | {method}(nbytes={budget:g}, wide={place})"
                ranked.append(entry(
                    method, spec, share, place, method=method, kernel=kernels[place % 4], resident_bytes=5e6 + place,
                    deployed_bytes=budget - place / 1000, fit_seconds=12.5 + place, encode_seconds=0.4 * place,
                    ndcg_at_10=Interval(share / 2, 0.1, 0.9), ndcg_of_float32=Interval(share, 0.1, 0.9),
                    recall_of_float32=Interval(share, 0.1, 0.9), family=registry.get(method).family(),
                ))  # fmt: skip
            tables.append(Table(budget, tuple(ranked), ()))
        found.append(board(f"data/set-{at}", tables, outcomes=outcomes, queries=queries))
    return found


def test_a_full_site_is_small(tmp_path, visit):
    write_html(large(), tmp_path / "site")
    size = sum(path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file())
    assert size < 3_000_000
    page = visit(f"{tmp_path}/site/index.html")
    page.wait_for_function("document.querySelectorAll('.mark').length === 3000")
    page = visit(f"{tmp_path}/site/methods/opq.html")
    assert page.locator("tbody tr").count() == 30


@pytest.mark.skipif("PACKBENCH_SCREENSHOTS" not in os.environ, reason="PACKBENCH_SCREENSHOTS=write takes them anew")
def test_screenshots(tmp_path, visit):
    """PACKBENCH_RESULTS names the results to show; look at the pictures before keeping them."""
    found = boards.load(os.environ.get("PACKBENCH_RESULTS", "results"))
    write_html(found, tmp_path / "site")
    key = next(slugs([of.dataset])[of.dataset] for of in found if of.dataset == "pydocs")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for name, path, scheme, size in (
        ("overview", "index.html", "light", (1280, 900)), ("board", f"boards/{key}/64.html", "light", (1280, 900)),
        ("board-dark", f"boards/{key}/64.html", "dark", (1280, 900)), ("phone", "index.html", "light", (320, 800)),
        ("method", "methods/pq.html", "light", (1280, 900)),
        ("compare", f"compare.html#board={key}&budget=64&a=opq&b=pq", "light", (1280, 700)),
    ):  # fmt: skip
        viewport = dict(zip(("width", "height"), size, strict=True))
        page = visit(f"{tmp_path}/site/{path}", color_scheme=scheme, viewport=viewport)
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
