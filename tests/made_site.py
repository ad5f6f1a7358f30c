"""Boards by hand for the tests of the site, and the browser that looks at it."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.history import Change, Point, Series, changes_of
from packbench.leaderboard.stats import Interval

ATTACK = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"' onfocus=window.hit=1 <!--{{ 7*7 }}"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
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


def conformance():
    """Return what is known of two requests, one of them hostile in every text."""
    checks = [{"check": "two threads", "result": "identical", "told": "all codes alike"},
              {"check": "SIMD generic", "result": "within tolerance", "told": "3 of 4,000 bytes differ"}]  # fmt: skip
    said = {"method": "opq", "request": "opq", "spec": "opq(m=8)", "version": "v1", "software": "s1", "machine": "m1",
            "badge": "tolerance", "checks": checks, "time": "2030-01-01"}  # fmt: skip
    hostile = dict.fromkeys(said, ATTACK) | {"request": f"evil{ATTACK}"}
    hostile["checks"] = [dict.fromkeys(("check", "result", "told"), ATTACK)]
    return {of["request"]: of for of in (said, hostile)}


def past(values, metric="recall@10", request="pq", dataset="pydocs", budget=8.0, conditions="data c0ffee"):
    """Make a series of one value per day."""
    points = tuple(Point(f"{at:040x}", f"2030-01-{at + 1:02d}", value) for at, value in enumerate(values))
    return Series(dataset=dataset, request=request, label=request, budget=budget, metric=metric, conditions=conditions,
                  points=points, changes=tuple(changes_of(values)))  # fmt: skip


def history():
    """Return a change, a series without one and one too short, a method that fails at last, and hostile text."""
    hostile = Series(
        dataset=ATTACK, request=ATTACK, label=ATTACK, budget=None, metric="bytes", conditions=ATTACK,
        points=tuple(Point(ATTACK + str(at), ATTACK, value) for at, value in enumerate((1.0, 1.0, 2.0, 2.0))),
        changes=(Change(2, 1.0, 2.0),),
    )  # fmt: skip
    return [
        past([0.8, 0.8, 0.8, 0.7, 0.7]), past([8.0] * 5, "bytes"), past([1.9, None, 2.1, 2.0, 2.2], "speedup"),
        past([0.9, 0.9], request="opq"), past([0.5, 0.5, 0.5, 0.5, None], request="lsh", budget=16.0), hostile,
    ]  # fmt: skip


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
