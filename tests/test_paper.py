import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import packbench
from packbench.leaderboard import figure
from packbench.leaderboard.figure import write_figure
from packbench.leaderboard.gather import boards_of
from packbench.leaderboard.paper import escaped, label_of, methods_paragraph, papers_of, to_bibtex, to_latex
from packbench.registry import methods

HERE = Path(__file__).parent
row = runpy.run_path(str(HERE / "golden" / "made.py"))["row"]
HOSTILE = "50% of $x_1^2$ & {\\input{/etc/passwd}} #~|<>\"`' \\end{table*} -- Jégou 中"


def of_a_paper():
    return [
        row("float32()", None, (10,), payload=64.0),
        row("opq", 16.0, (8, 9, 9, 7, 9), spec="opq(m=15)", family="codebook", payload=15.9),
        row("pca", 16.0, (8, 9, 9, 8, 8), spec="pca(dim=16) | int4(granularity='dim')", family="projection"),
        row("rabitq", 16.0, (6, 7), family="binary"),
        row("bitplane", 16.0, (2, 3), spec="bitplane(planes=4)", fidelity="ANALOGUE", payload=8.0),
        row("int8", 16.0, status="no_fit", least=20.0),
        row("learned_code", 16.0, status="needs"),
        row("opq", 8.0, (6, 7, 6), spec="opq(m=8)", family="codebook"),
    ]


def tables_of(text):
    return dict(re.findall(r"\\label\{(.*?)\}(.*?)\\end\{table\*\}", text, re.DOTALL))


@pytest.fixture
def one():
    (board,) = boards_of(of_a_paper())
    return board


def test_bold_is_the_first_rank_group(one):
    table = one.tables[1]
    text = tables_of(to_latex([one]))[label_of(one, "16")]
    lines = [line for line in text.splitlines() if line.endswith(r"\\")][1:]
    first = set(table.ranked[0].group)
    for entry, line in zip(table.ranked, lines, strict=False):
        assert (r"\textbf" in line) == bool(first & set(entry.group)), entry.name
        assert rf"\textsuperscript{{{entry.group}}}" in line
        recall = entry.recall_at_10
        assert f"{recall.value:.3f}" in line
        assert f"[{recall.low:.3f}, {recall.high:.3f}]" in line
    assert [r"\textbf" in line for line in lines] == [True, True, False, False, False]
    assert "float32" in lines[-1]


def test_tables_say_what_was_measured(one):
    found = tables_of(to_latex([one]))
    assert all(label.startswith("tab:made-by-hand-") for label in found)
    for table in one.tables:
        text = found[label_of(one, f"{table.budget:g}")]
        for entry in table.absent:
            assert escaped(entry.label) in text.replace(r"\allowbreak{}", "")
    text = found[label_of(one, "16")]
    assert r"no fit: \texttt{int8} (at least 20.0 bytes)" in text
    assert r"needs: \texttt{learned\_\allowbreak{}code}" in text
    assert " & ANALOGUE & " in text
    caption = re.search(r"\\caption\{(.*)\}", to_latex([one])).group(1)
    for said in ("8 bytes per item", r"made/by\_hand", "1,234", "$d$ = 16", "metric ip", "1,000,000 items", r"95\%"):
        assert said in caption


def test_long_tables_go_on():
    (board,) = boards_of([row("float32()", None)] + [row(f"m{at}", 16.0, (at % 9,)) for at in range(50)])
    first, second = to_latex([board]).split(r"\end{table*}")[:2]
    assert first.count(r"\texttt") == 32
    assert second.count(r"\texttt") == 19
    (label,) = re.findall(r"\\label\{(.*?)\}", first + second)
    assert rf"Table~\ref{{{label}}}, continued" in second
    assert second.count(r"\caption") == 0


def test_a_table_over_all_budgets(one):
    whole, half = row("float32()", None, (10,)), row("sign", 8.0, (5,))
    rows = [*(of | {"n_queries": 400, "per_query": {name: 10 * every for name, every in of["per_query"].items()}}
              for of in (whole, row("int8", 16.0, (10,)), half))]  # fmt: skip
    (board,) = boards_of(rows)
    text = tables_of(to_latex([board]))[label_of(board, "all")]
    heads = next(line for line in text.splitlines() if line.startswith("Method"))
    assert heads == r"Method & B for 95\% & B for 98\% & B for 99\% & area [95\%] & safe budget & lossless budgets \\"
    assert r"\texttt{int8} & $\leq$16.0 & $\leq$16.0 & $\leq$16.0 & 0.000 [0.000, 0.000] & 16 & 16 \\" in text
    assert (
        r"\texttt{sign} & \textgreater{}16 & \textgreater{}16 & \textgreater{}16 & 0.500 [0.500, 0.500] & no &  \\"
        in text
    )
    caption = re.findall(r"\\caption\{(.*)\}\\label", to_latex([board]))[-1]
    assert "Over all budgets on made/by\\_hand" in caption
    assert "within 0.01 of float32's" in caption
    (bare,) = boards_of([half])
    assert "lossless" not in tables_of(to_latex([bare]))[label_of(bare, "all")]


def test_disk_has_its_column(one):
    assert "Disk" not in to_latex([one])
    cold = {"payload": 8.0, "shared": 0, "cold": 32.0, "total": 40.0, "deployed": 8.0}
    (board,) = boards_of([row("rescore", 16.0, disk_budget=64.0, bytes=cold)])
    assert " & Disk & " in to_latex([board])
    assert " & 8.0 & 32 & " in to_latex([board])


LEGAL = (
    r"""\\(?:[{}$&#_%]|[a-zA-Z]+\{\}|char34\{\}|["'`^~=.a-zA-Z]\{[a-zA-Z]\})|-\{\}|\$\\[a-z]+\$|\{\\.\{[a-zA-Z]\}\}"""
)


@given(st.text())
def test_escaping_leaves_nothing_special(text):
    said = escaped(text)
    assert said.isascii()
    assert said.isprintable()
    assert "--" not in said
    assert not set(re.sub(LEGAL, "", said)) & set('\\{}$&#_%^~"`<>|')


def test_escaping():
    assert escaped("---x–") == r"-{}-{}-x\textendash{}"
    assert escaped("a_b|c 5% Jégou Łukasz 中 \n") == r"a\_b\textbar{}c 5\% J{\'{e}}gou \L{}ukasz [U+4E2D]  "


@pytest.mark.parametrize(
    ("text", "authors", "title"),
    [
        ("Jégou, Douze, Schmid, Product Quantization, 2011", ("Jégou", "Douze", "Schmid"), "Product Quantization"),
        ("Luan, Eisenstein, Sparse, Dense, and Attentional Ones, 2020", ("Luan", "Eisenstein"),
         "Sparse, Dense, and Attentional Ones"),
        ("Sharif Razavian, Van den Broeck, O'Neill, Ben-Itzhak, Zipfian Whitening, 2024",
         ("Sharif Razavian", "Van den Broeck", "O'Neill", "Ben-Itzhak"), "Zipfian Whitening"),
        ("Zhang, byteSteady: Fast, 2021", ("Zhang",), "byteSteady: Fast"),
        ("with agreement: Marks, Paren, Enhancing Them, 2024", ("Marks", "Paren"), "Enhancing Them"),
        ("SVD-Free Optimization for Models, 2025", (), "SVD-Free Optimization for Models"),
        ("Smith and Doe, Codes, 2025", ("Smith", "Doe"), "Codes"),
        ("no year at all", (), "no year at all"),
    ],
)  # fmt: skip
def test_papers_are_read(text, authors, title):
    (paper,) = papers_of(text)
    assert (paper.authors, paper.title, paper.others) == (authors, title, False)


def test_et_al_and_several_papers():
    first, second = papers_of("Douze et al., The Faiss Library, 2024; Gan et al., Binary, Again, 2023")
    assert (first.authors, first.others, first.title, first.key) == (
        ("Douze",), True, "The Faiss Library", "douze2024faiss")  # fmt: skip
    assert (second.title, second.year) == ("Binary, Again", "2023")
    assert papers_of("") == []


def test_papers_of_all_methods():
    titles = {}
    for name, cls in methods().items():
        for paper, part in zip(papers_of(cls.paper), cls.paper.split(";"), strict=False):
            written = ", ".join([*paper.authors, paper.title, paper.year]).replace(", " + paper.title, " et al., "
                                + paper.title if paper.others else ", " + paper.title)  # fmt: skip
            assert part.strip().removeprefix("with agreement: ") == written, name
            assert re.fullmatch(r"[a-z0-9]+\d{4}[a-z0-9]+", paper.key), name
            same = re.sub(r"\W", "", paper.title.lower())
            assert titles.setdefault(paper.key, same) == same, f"{name}: {paper.key} is another paper's"


def entries_of(text):
    found = {}
    for key, body in re.findall(r"^@misc\{(\w+),\n(.*?)^\}$", text, re.DOTALL | re.MULTILINE):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
        assert len(fields) == len(body.strip().splitlines())
        for value in fields.values():
            bare = re.sub(r"\\[{}]", "", value)
            assert bare.count("{") == bare.count("}")
        found[key] = fields
    assert len(found) == text.count("@")
    return found


def test_bibtex(one):
    entries = entries_of(to_bibtex([one]))
    assert set(entries) == {"packbench", "ge2013optimized", "pearson1901lines", "wu2020integer", "gao2024rabitq",
                            "ivan2022bitwise"}  # fmt: skip
    assert entries["ge2013optimized"] == {
        "author": "{Ge} and {He} and {Ke} and {Sun}", "year": "2013",
        "title": "{Optimized Product Quantization for Approximate Nearest Neighbor Search}",
    }  # fmt: skip
    assert entries["packbench"]["note"] == "Version 0.1.0"
    assert {field for fields in entries.values() for field in fields} <= {"author", "title", "year", "key", "note"}


def test_bibtex_knows_the_parts_of_composites():
    (board,) = boards_of([row("x", 16.0, spec="rescore(sign(), faiss(factory='OPQ32,PQ32'), factor=10)")])
    assert {"grzegorczyk2019vector", "courbariaux2015binaryconnect", "douze2024faiss"} < set(
        entries_of(to_bibtex([board]))
    )
    (foreign,) = boards_of([row("mine", 16.0, spec="mine(("), row("sign", 16.0)])
    assert set(entries_of(to_bibtex([foreign]))) == {"packbench", "courbariaux2015binaryconnect"}


def test_papers_that_share_a_key_stay_apart(one, monkeypatch):
    monkeypatch.setattr(methods()["opq"], "paper", "Ge, Optimized One, 2013")
    monkeypatch.setattr(methods()["rabitq"], "paper", "Ge, Optimized Other, 2013")
    entries = entries_of(to_bibtex([one]))
    titles = {fields["title"] for key, fields in entries.items() if key.startswith("ge2013optimized")}
    assert titles == {"{Optimized One}", "{Optimized Other}"}


def test_paragraph_says_the_facts(one):
    text = methods_paragraph([one])
    facts = dict(one.facts())
    for label in ("Data", "Queries", "Fit", "Bytes", "Interval", "Speed", "Machine", "Versions", "Measured"):
        for number in re.findall(r"\d[\d.,]*\d|\d", facts[label]):
            assert number in text, f"{label}: {number}"
    assert "8 and 16 bytes per item" in text
    assert "Of 12 cells" in text
    assert "7 gave no figure" in text
    keys = {key for keys in re.findall(r"\\cite\{(.*?)\}", text) for key in keys.split(",")}
    assert keys == set(entries_of(to_bibtex([one])))
    assert methods_paragraph([]) == ""


def test_paragraph_tells_data_sets_apart(one):
    (other,) = boards_of([row("pq", 16.0, dataset="second", tries=9, n_fit=42, fit_on="items")])
    text = methods_paragraph([one, other])
    assert re.search(r"On \\emph\{made/by\\_hand\}: Configurations [^.]*at most 3 for", text)
    assert re.search(r"On \\emph\{second\}: Configurations [^.]*at most 9 for", text)
    assert "On \\emph{second}: Methods were fitted on 42 of the searched items themselves." in text
    assert text.count("The machine was") == 1


def many():
    """Two families of seven methods: `second` is the frontier, and the third and the sixth come nearest to it."""
    rights = {"first": (1, 1, 1, 1, 1, 7, 1), "second": range(3, 10)}
    return [
        row(f"{family}{at}", 16.0 + at, (right,), spec=f"{family}{at}()", family=family)
        for family, of in rights.items()
        for at, right in enumerate(of)
    ]


def test_frontier_and_names(one):
    series = figure._series(one)
    assert [(point.size, round(point.recall, 4)) for point in figure._frontier(series)] == [
        (8.0, 0.6325), (15.9, 0.84), (64.0, 1.0)]  # fmt: skip
    assert figure._behind(one, series, "rabitq") == pytest.approx((0.6325 + 0.84 - 0.65) / 2)
    assert figure._behind(one, series, "opq") == 0
    assert sorted(figure._named([(one, series)])) == ["bitplane", "float32()", "opq", "pca", "rabitq"]
    (crowd,) = boards_of(many())
    assert sorted(figure._named([(crowd, figure._series(crowd))])) == ["first5", "second2"]


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_figure(tmp_path, one, suffix):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'packbench[paper]'")
    files = [tmp_path / f"{name}{suffix}" for name in ("one", "again")]
    for file in files:
        write_figure([one], file)
    first, again = (file.read_bytes() for file in files)
    assert first == again
    if suffix == ".pdf":
        assert b"/CIDFontType2" in first
        assert b"/Type3" not in first
        assert b"CreationDate" not in first
    if suffix == ".svg":
        assert b"<dc:date>" not in first


def test_figure_shows_every_method(tmp_path, one):
    """Text stays text in an SVG, so that it can be looked for."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'packbench[paper]'")
    (hostile,) = boards_of([row("_odd", 16.0, dataset="50% of $x_1^2$ & \\frac{")])
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        write_figure([one, hostile], tmp_path / "few.svg")
        write_figure([one, *boards_of(many())], tmp_path / "many.svg")
    few, crowd = (
        re.findall("<text[^>]*>([^<]*)</text>", (tmp_path / name).read_text(encoding="utf-8"))
        for name in ("few.svg", "many.svg")
    )
    for said in (
        "opq",
        "bitplane",
        "float32()",
        "frontier",
        "_odd",
        "50% of $x_1^2$ &amp; \\frac{  (n = 1,234, d = 16)",
        "recall@10",
    ):
        assert said in few
    assert "others" not in few
    assert "others" in crowd
    assert "second2" in crowd
    assert "second1" not in crowd


def test_figure_refuses(tmp_path, one, monkeypatch):
    with pytest.raises(packbench.BadInput, match=r"ends in \.pdf, \.svg, \.png"):
        write_figure([one], tmp_path / "figure.jpeg")
    with pytest.raises(packbench.BadInput, match="no entry of the boards has figures"):
        write_figure(boards_of([row("pq", 16.0, status="failed")]), tmp_path / "figure.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(packbench.BadInput, match=r"pip install 'packbench\[paper\]'"):
        write_figure([one], tmp_path / "figure.pdf")
    assert list(tmp_path.iterdir()) == []


def test_the_paper_compiles(tmp_path, one):
    if shutil.which("pdflatex") is None or shutil.which("bibtex") is None:
        pytest.skip("pdflatex and bibtex are not installed (TeX Live: latex-base, latex-recommended)")
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'packbench[paper]'")
    rows = [row("opq", 16.0, spec=HOSTILE, dataset=HOSTILE), row("sign", 16.0, status=HOSTILE, dataset=HOSTILE)]
    rows[0]["machine_facts"] = rows[0]["machine_facts"] | {"cpu": HOSTILE}
    boards = [one, *boards_of(rows)]
    (tmp_path / "board.tex").write_text(to_latex(boards), encoding="utf-8")
    (tmp_path / "board.bib").write_text(to_bibtex(boards), encoding="utf-8")
    (tmp_path / "methods.tex").write_text(methods_paragraph(boards), encoding="utf-8")
    write_figure(boards[:1], tmp_path / "frontier.pdf")
    shutil.copy(HERE / "paper" / "paper.tex", tmp_path)
    for command in ("pdflatex", "bibtex", "pdflatex", "pdflatex"):
        options = ["-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"] if command == "pdflatex" else []
        done = subprocess.run([command, *options, "paper"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(encoding="latin-1")
    assert "undefined" not in log.lower().replace("undefined references, if any", "")
    assert not re.findall(r"Overfull \\hbox \((?:[2-9]\d|\d{3,})", log)
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
