import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

from packbench import registry
from packbench.leaderboard import board as boards
from packbench.leaderboard.entries import Table
from packbench.leaderboard.site.slugs import slugs
from packbench.leaderboard.site.write import write_history, write_html
from packbench.leaderboard.stats import Bootstrap, Interval

MADE = runpy.run_path(str(Path(__file__).parent / "made_site.py"))
ATTACK, Page, answers, board, browser, conformance, entry, history, small, visit = (
    MADE[name]
    for name in (
        "ATTACK", "Page", "answers", "board", "browser", "conformance", "entry", "history", "small", "visit",
    )
)  # fmt: skip

SCREENSHOTS = Path(__file__).parent.parent / "docs" / "screenshots"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "new" / "site"
    write_html(small(), folder, conformance())
    write_history(history(), folder)
    return folder


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
    assert page.locator("#method tbody th.spec").all_inner_texts() == ["opq(m=8)", "opq(m=16)"]


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
    for file in (
        "boards/pydocs.html",
        "boards/pydocs/8.html",
        "methods/pq.html",
        "compare.html",
        "failures.html",
        "history.html",
    ):
        page.goto((site / file).as_uri())
        assert "script" in page.locator("noscript").inner_text()


def test_a_badge_is_a_column_and_a_filter(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    rows = page.locator("table.figures").first.locator("tbody").first.locator("tr")
    assert [row.locator("td").last.inner_text() for row in rows.all()] == ["tolerance", "–", "–"]
    page.get_by_label("conformance").select_option("tolerance")
    assert rows.locator("th").all_inner_texts() == ["opq(m=8)"]
    page = visit(f"{site}/methods/opq.html")
    table = page.get_by_role("region", name="Conformance of opq")
    assert table.locator("tbody td").all_inner_texts() == [
        "all together", "tolerance", "s1; machine m1; 2030-01-01", "two threads", "identical", "all codes alike",
        "SIMD generic", "within tolerance", "3 of 4,000 bytes differ",
    ]  # fmt: skip
    page = visit(f"{site}/methods/pq.html")
    assert page.get_by_role("region", name="Conformance").count() == 0


def test_the_card_of_a_data_set_is_a_click_away(site, visit):
    page = visit(f"{site}/boards/pydocs/8.html")
    page.get_by_role("link", name="The data set").click()
    page.wait_for_url("**/boards/pydocs.html#card")
    card = page.locator("#card")
    card.locator("summary").click()
    assert "PSF-2.0" in card.inner_text()


def test_a_history_marks_and_names_what_changed(site, visit):
    page = visit(f"{site}/index.html")
    page.get_by_role("link", name="Over commits").click()
    changes = page.get_by_role("region", name="Change points").locator("tbody tr")
    assert changes.count() == 2
    assert page.get_by_text("2 change points in 6 series").count() == 1
    row = changes.filter(has_text="0.8000")
    assert row.locator("th, td").all_inner_texts() == [
        "recall@10", "pq", "pydocs", "8", "0.8000", "0.7000", f"{3:040x}"
    ]  # fmt: skip
    section = page.locator("section", has=page.locator("h3", has_text=re.compile("^pq$")))
    figures = section.get_by_role("img")
    assert [figure.get_attribute("aria-label") for figure in figures.all()] == [
        "pq, recall@10 over 5 commits, now 0.7000: changed at 0000000000, 0.8000 to 0.7000",
        "pq, bytes over 5 commits, now 8.00: no change points",
        "pq, speedup over 5 commits, now 2.2×: no change points",
    ]
    assert [figure.locator("circle").count() for figure in figures.all()] == [5, 5, 4]
    assert [figure.locator(".turned").count() for figure in figures.all()] == [1, 0, 0]
    assert figures.last.locator("polyline").count() == 2  # a value is missing between them
    section.locator("summary").press("Enter")
    table = section.get_by_role("region", name="pq, pydocs, 8 by commit")
    table.locator("tbody td").first.wait_for()  # rows are made when the summary has opened
    assert table.locator("tbody tr").first.locator("td").all_inner_texts()[1:] == ["0.7000", "8.00", "2.2×"]
    assert table.get_by_text("0.7000 (changed)").count() == 1
    page.get_by_label("data set and budget").select_option("pydocs, 16 bytes per item")
    assert page.locator("h3").all_inner_texts() == ["lsh"]
    assert "now –" in page.get_by_role("img").get_attribute("aria-label")


def test_a_site_without_history_says_how_to_get_one(tmp_path, visit):
    write_html(small()[:1], tmp_path / "site")
    page = visit(f"{tmp_path}/site/history.html")
    assert "packbench history FILES --html FOLDER" in page.locator("main").inner_text()


def test_a_history_alone_is_a_site(tmp_path, visit):
    write_history(history(), tmp_path / "site")
    page = visit(f"{tmp_path}/site/history.html")
    assert page.locator("h3").count() == 2
    assert page.locator("header a").count() == 0


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
    kernels = ["numba scan, blas float32 for batches", "numba look-up, 4 x 1 bit", "faiss PQ look-up", "decode"]
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
