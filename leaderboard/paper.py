"""Write boards for a paper in LaTeX: tables, the bibliography, a paragraph for the section on methods."""

from __future__ import annotations

import ast
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packbench.errors import BadInput
from packbench.leaderboard.columns import NONE, columns_of, fixed, short, summary_cells, title_of
from packbench.leaderboard.entries import Board, Entry, Table
from packbench.leaderboard.stats import LEVEL, RESAMPLES, Interval
from packbench.registry import methods

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "|": r"\textbar{}", "<": r"\textless{}",
    ">": r"\textgreater{}", '"': r"\char34{}", "`": r"\textasciigrave{}", "×": r"$\times$", "≤": r"$\leq$",
    "≥": r"$\geq$", "·": r"$\cdot$", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ł": r"\l{}", "Ł": r"\L{}",
    "œ": r"\oe{}", "ı": r"\i{}",
}  # fmt: skip
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
            "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"}  # fmt: skip
_SURNAME = re.compile(r"(?:\w+ )?(?:(?:van|von|den|der|de|del|la|le|Van|Von|De|La|Le) )*[^\W\d_][\w'’.-]*")
_DULL = frozenset(("a", "an", "and", "for", "of", "on", "the", "to", "towards", "in", "with"))
PAGE = 32  # rows of a table; a longer one goes on in another, since a table cannot break
_PARTS = re.compile(r"\(\d+\)|.")  # the letters of a rank group


def to_latex(boards: Sequence[Board]) -> str:
    """Return a table for every data set and budget, and one over its budgets; the document needs booktabs and tabularx.

    A budget has a table of its own because a method is configured anew for each, and the table says how. A table
    spans both columns of a page that has two; a long one goes on in another.
    """
    tables: list[str] = []
    for board in boards:
        tables += [_table(board, table) for table in board.tables or (Table(0, (), ()),)]
        tables += [_over_budgets(board)] if board.summaries else []
    return "\n".join(["% \\usepackage{booktabs,tabularx}", *tables])


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is, in any encoding of fonts; a letter that it may lack as [U+4E2D]."""
    return re.sub("-(?=-)", "-{}", "".join(map(_letter, text)))  # two hyphens are no dash


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    base, *accents = list(unicodedata.normalize("NFD", letter))
    if len(accents) == 1 and accents[0] in _ACCENTS and base.isascii():
        return f"{{\\{_ACCENTS[accents[0]]}{{{base}}}}}"
    return f"[U+{ord(letter):04X}]"


def _code(text: str) -> str:
    return r"\texttt{" + re.sub(r"(\(|\\_)", r"\1\\allowbreak{}", escaped(text)) + "}"  # where a long spec may break


def _table(board: Board, table: Table) -> str:
    entries = [*table.ranked, *(entry for entry in board.references if entry.status == "ok")]
    optional = [column for column in columns_of(board) if column.key == "fidelity"]
    judged = any(entry.ndcg_at_10 for entry in entries)
    on_disk = any(entry.cold_bytes for entry in entries)
    best = set(_PARTS.findall(table.ranked[0].group)) if table.ranked else set()

    def line(entry: Entry) -> str:
        bold = entry.rank is not None and (entry.rank == 1 or not best.isdisjoint(_PARTS.findall(entry.group)))
        cells = [_code(entry.name), *(escaped(column.text(entry)) for column in optional)]
        cells += [_number(fixed(entry.deployed_bytes, 1))] + [_number(fixed(entry.cold_bytes, 0))] * on_disk
        cells += [_figure(entry.recall_at_10, bold), rf"\textsuperscript{{{entry.group}}}" if entry.group else ""]
        cells += [_bounds(entry.recall_at_10)]
        cells += [_figure(entry.ndcg_at_10), _bounds(entry.ndcg_at_10)] * judged
        cells += [_number(short(entry.p50_ms))]
        cells += [_number(short(entry.speedup.value)) + r"$\times$" if entry.speedup else "--"]
        return " & ".join(cells) + r" \\"

    heads = ["Method", *(r"Fidelity" for _ in optional), r"B/item", *["Disk"] * on_disk]
    heads += [rf"\multicolumn{{3}}{{c}}{{Recall@10 [{100 * LEVEL:.0f}\%]}}"]
    heads += [rf"\multicolumn{{2}}{{c}}{{nDCG@10 [{100 * LEVEL:.0f}\%]}}"] * judged + ["ms", "Speed-up"]
    columns = "l" * len(optional) + "r" * (1 + on_disk) + r"r@{}l@{ }l" + "r@{ }l" * judged + "rr"
    rows = [line(entry) for entry in table.ranked]
    references = [line(entry) for entry in board.references if entry.status == "ok"]
    rows += [r"\midrule"] * bool(rows and references) + references
    absent = _absent([*table.absent, *(entry for entry in board.references if entry.status != "ok")])
    caption = _caption(board, table, judged, on_disk)
    return _pages(caption, label_of(board, f"{table.budget:g}"), columns, heads, rows, absent)


def _over_budgets(board: Board) -> str:
    """Write what each method did over all budgets, as every form of a board does."""
    (_, *heads), rows = summary_cells(board)
    caption = f"Over all budgets on {escaped(board.dataset)}. {escaped(dict(board.facts())['Curves'])}."
    if board.float32 is not None:
        caption += (
            f" Lossless budgets: where recall@10 was shown to be within {board.margin:g} of float32's (two one-sided "
            rf"tests at {100 * (1 - LEVEL):.0f}\%)."
        )
    lines = [rf"{_code(name)} & {' & '.join(map(escaped, cells))} \\" for name, *cells in rows]
    return _pages(caption, label_of(board, "all"), "l" * len(heads), ["Method", *map(escaped, heads)], lines, [])


def _pages(
    caption: str, label: str, columns: str, heads: Sequence[str], rows: Sequence[str], below: Sequence[str]
) -> str:
    """Write a table in as many parts as its rows need; columns are those beside the method's."""
    pages = [rows[at : at + PAGE] for at in range(0, len(rows), PAGE)] or [[]]
    text = ""
    for at, page in enumerate(pages):
        lines = [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}",
            rf"Table~\ref{{{label}}}, continued\par\smallskip" if at else
            rf"\caption{{{caption}}}\label{{{label}}}",
            rf"\begin{{tabularx}}{{\linewidth}}{{@{{}}>{{\raggedright\arraybackslash\hangindent=1em}}X{columns}@{{}}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *page,
            r"\bottomrule",
            r"\end{tabularx}",
            *(below if page is pages[-1] else []),
            r"\end{table*}",
        ]  # fmt: skip
        text += "\n".join(lines) + "\n"
    return text


def label_of(board: Board, budget: str) -> str:
    r"""Return what \ref calls a table: the data set and the budget (or all), and a hash to tell boards apart."""
    board_hash = hashlib.sha256(f"{board.dataset_sha256}{board.machine}{board.deployment_n}".encode()).hexdigest()[:4]
    return f"tab:{re.sub('[^a-z0-9]+', '-', board.dataset.lower()).strip('-')}-{budget}-{board_hash}"


def _caption(board: Board, table: Table, judged: bool, on_disk: bool) -> str:
    under = f"under {title_of(table)}" if table.ranked or table.absent else "of the references"
    sentences = [
        f"Retrieval quality {under} on {escaped(board.dataset)}: $n$ = {board.n:,}, $d$ = {board.d:,}, metric "
        f"{escaped(board.metric)}, {board.queries:,} queries"
        + (f", {board.judged or 0:,} of them judged." if judged else "."),
        f"B/item: bytes per item as weighed, shared arrays spread over {board.deployment_n:,} items"
        + ("; disk: those kept there beside." if on_disk else "."),
        rf"Brackets: {100 * LEVEL:.0f}\% bootstrap intervals over queries.",
    ]
    if table.ranked:
        sentences += [
            "Methods that share a letter could not be told apart by recall@10 (paired $t$-test over queries, "
            rf"Holm-corrected, {100 * LEVEL:.0f}\%, or by the order of tied scores); bold: the best and all that "
            "share a letter with it.",
            r"ms: median time of one query; speed-up: against exact float32 search.",
        ]
    if any(entry.rank is None for entry in board.references):
        sentences += ["Below the rule: references at their own size."] if table.ranked else []
    return " ".join(sentences)


def _number(text: str) -> str:
    return text.replace(NONE, "--").replace("<", r"\textless{}")


def _figure(of: Interval | None, bold: bool = False) -> str:
    if of is None:
        return "--"
    return rf"\textbf{{{of.value:.3f}}}" if bold else f"{of.value:.3f}"


def _bounds(of: Interval | None) -> str:
    return "" if of is None else rf"{{\scriptsize[{of.low:.3f}, {of.high:.3f}]}}"


def _absent(entries: Iterable[Entry]) -> list[str]:
    """Name what has no figure, by status: nothing is silently absent."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        least = f" (at least {entry.least_bytes:.1f} bytes)" if entry.least_bytes else ""
        found.setdefault(entry.status, []).append(_code(entry.label) + least)
    if not found:
        return []
    said = "; ".join(f"{escaped(status.replace('_', ' '))}: {', '.join(of)}" for status, of in sorted(found.items()))
    return [rf"\par\smallskip\parbox{{\linewidth}}{{\raggedright Without a figure: {said}.}}"]


@dataclass(frozen=True, slots=True)
class Paper:
    """Hold a paper as a method cites it: surnames, whether there are others, the title, the year."""

    authors: tuple[str, ...]
    others: bool
    title: str
    year: str

    @property
    def key(self) -> str:
        """Return the key that scholars' indexes use: surname, year, first telling word of the title."""
        words = [word for word in map(_ascii, re.split(r"[\s:,]+", self.title)) if word and word not in _DULL]
        named = [_ascii(self.authors[0])] if self.authors else words[:1]
        return "".join([*named, self.year, *words[0 if self.authors else 1 :][:1]]) or "paper"

    @property
    def _same(self) -> str:
        return _ascii(self.title)


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def papers_of(text: str) -> list[Paper]:
    """Read what a method cites: "Surname, Surname, Title, Year", or "Surname et al., Title, Year"; several by ";"."""
    return [_paper(part.strip()) for part in text.split(";") if part.strip()]


def _paper(text: str) -> Paper:
    text = re.sub(r"^[a-z][a-z ]*: ", "", text)  # what the paper is cited for
    dated = re.fullmatch(r"(.*), (\d{4})", text)
    rest, year = (dated[1], dated[2]) if dated else (text, "")
    with_others = re.fullmatch(r"([^:]*?) et al\.,? (.*)", rest)
    if with_others:
        return Paper(_surnames(with_others[1].split(", ")), True, with_others[2], year)
    parts = rest.split(", ")
    named = 0  # the last part is the title's, whatever it looks like
    while named < len(parts) - 1 and all(_SURNAME.fullmatch(name) for name in parts[named].split(" and ")):
        named += 1
    if named and parts[named].startswith("and "):
        named = max(named - 2, 0)  # a title that lists: "Sparse, Dense, and Attentional Representations"
    return Paper(_surnames(parts[:named]), False, ", ".join(parts[named:]), year)


def _surnames(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for part in parts for name in part.split(" and "))


def to_bibtex(boards: Sequence[Board]) -> str:
    """Return the papers that the methods of the boards cite, and packbench: what is known of them, nothing else."""
    _, papers = _cited(boards)
    versions = ", ".join(sorted({said for board in boards for said in _packbench(board)}))
    entries = [
        "@misc{packbench,\n  key = {packbench},\n  title = {{packbench: embedding-compression methods under fixed "
        "memory budgets}},\n" + (f"  note = {{Version {escaped(versions)}}},\n" if versions else "") + "}\n"
    ]
    for key, paper in sorted(papers.items()):
        names = [f"{{{escaped(name)}}}" for name in paper.authors] + ["others"] * paper.others
        fields = [f"author = {{{' and '.join(names)}}}"] if names else [f"key = {{{escaped(paper.title)}}}"]
        fields += [f"title = {{{{{escaped(paper.title)}}}}}"] + [f"year = {{{paper.year}}}"] * bool(paper.year)
        entries.append(f"@misc{{{key},\n" + "".join(f"  {field},\n" for field in fields) + "}\n")
    return "\n".join(entries)


def _packbench(board: Board) -> list[str]:
    return [found for line in board.versions for found in re.findall(r"\bpackbench ([^\s,]+)", line)]


def _cited(boards: Sequence[Board]) -> tuple[dict[str, list[str]], dict[str, Paper]]:
    """Return the keys that each method cites, methods in the order of the boards, and the papers by key."""
    cited: dict[str, list[str]] = {}
    papers: dict[str, Paper] = {}
    known = methods()
    for name in _used(boards):
        for paper in papers_of(known[name].paper if name in known else ""):
            key = paper.key
            if key in papers and papers[key]._same != paper._same:
                key += hashlib.sha256(paper._same.encode()).hexdigest()[:4]
            if key not in papers or len(paper.authors) > len(papers[key].authors):
                papers[key] = paper  # the same paper cited with more of its authors
            cited.setdefault(name, []).append(key)
        cited.setdefault(name, [])
    return cited, papers


def _used(boards: Sequence[Board]) -> list[str]:
    """Return the names of the methods of all entries, the parts of composites included."""
    names: dict[str, None] = {}
    for board in boards:
        for entry in [*board.references, *(one for table in board.tables for one in (*table.ranked, *table.absent))]:
            try:
                nodes = ast.walk(ast.parse(entry.spec or entry.request, mode="eval"))
                names |= dict.fromkeys(sorted(node.id for node in nodes if isinstance(node, ast.Name)))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                names[entry.method] = None
    return list(names)


def methods_paragraph(boards: Sequence[Board]) -> str:
    r"""Return what was measured and how, as the facts of the boards say it; its \cite are in `to_bibtex`."""
    if not boards:
        return ""
    cited, _ = _cited(boards)
    named = ", ".join(_code(name) + (rf"~\cite{{{','.join(keys)}}}" if keys else "") for name, keys in cited.items())
    data = "; ".join(dict.fromkeys(map(_data, boards)))
    budgets = sorted({table.budget for board in boards for table in board.tables})
    sizes = _listed([f"{budget:g}" for budget in budgets])
    cells = [entry for board in boards for table in board.tables for entry in (*table.ranked, *table.absent)]
    missing = sum(entry.status != "ok" for entry in cells)
    level = rf"{100 * LEVEL:.0f}\%"
    judged = any(entry.ndcg_at_10 for entry in cells)
    sentences = [
        rf"Measurements were made with \texttt{{packbench}}~\cite{{packbench}} on {data}.",
        f"The methods, composites by their parts, are {named}.",
        _each(boards, _fit),
        _each(boards, lambda board: "Configurations were chosen on validation queries that are no test queries, "
              f"at most {board.tries} for each method and budget; the test queries were asked once."),
        f"Budgets were {sizes} bytes per item." if budgets else "",
        f"Of {len(cells)} cells (a method under a budget on a data set), {missing} gave no figure and are named under "
        "their tables." if missing else "",
        _each(boards, lambda board: "Bytes are those of the arrays that a method returned, as saved: per item, those "
              "of the item and its part of what all items share (codebooks, rotations and the like), spread over a "
              f"deployment of {board.deployment_n:,} items; what is kept on disk is counted apart, at most "
              f"{board.disk_budget:g} bytes per item."),
        "Recall@10 is measured against exact search of the uncompressed vectors, ties in the true distance counted as "
        "right, and its expectation taken where the scores of a method tie"
        + ("; nDCG@10 is measured against relevance judgements." if judged else "."),
        f"Intervals are {level} percentile intervals of a paired bootstrap over queries (and seeds, where a cell has "
        f"several) with {RESAMPLES:,} resamples, the same resampled queries for every method.",
        "Methods under a budget are ranked by recall@10 and compared in pairs by "
        f"paired $t$-tests over queries, Holm-corrected over all pairs of the table at {level}; those that share a "
        "letter could not be told apart, or a legal order of tied scores would reverse them.",
        _each(boards, lambda board: "Time is that of one query at a time: its median, and the ratio to exact float32 "
              f"search timed in turn in the same process, with {board.search_threads} "
              f"thread{'s' * (board.search_threads > 1)} to search and {board.build_threads} to build."),
        _each(boards, lambda board: f"The machine was {escaped(board.machine_facts)}."),
        _each(boards, lambda board: f"Versions: {escaped(' / '.join(board.versions))}."),
        _each(boards, lambda board: f"Measured {escaped(' to '.join(dict.fromkeys(board.measured)))}."),
        _each(boards, lambda board: escaped(" ".join(f"{note[:1].upper()}{note[1:]}." for note in board.notes))),
    ]  # fmt: skip
    return "\n".join(sentence for sentence in sentences if sentence) + "\n"


def _data(board: Board) -> str:
    judged = f", {board.judged:,} of them judged for relevance" if board.judged else ""
    sha256 = escaped(board.dataset_sha256[:12])
    return (
        rf"\emph{{{escaped(board.dataset)}}} ($n$ = {board.n:,} items, $d$ = {board.d:,}, metric "
        rf"{escaped(board.metric)}, {board.queries:,} test queries{judged}; sha256 {sha256})"
    )


def _fit(board: Board) -> str:
    fitted = {
        "disjoint": f"{board.fit_items:,} vectors that are not among the items",
        "items": f"{board.fit_items:,} of the searched items themselves",
    }.get(board.fit_on, f"{board.fit_items:,} vectors ({escaped(board.fit_on)})")
    return f"Methods were fitted on {fitted}."


def _each(boards: Sequence[Board], say: Callable[[Board], str]) -> str:
    """Say once what holds for all boards, and otherwise of which data sets each holds."""
    said: dict[str, list[str]] = {}
    for board in boards:
        said.setdefault(say(board), []).append(rf"\emph{{{escaped(board.dataset)}}}")
    if len(said) == 1:
        return next(iter(said))
    return " ".join(f"On {_listed(list(dict.fromkeys(of)))}: {text}" for text, of in said.items() if text)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def write_paper(boards: Sequence[Board], path: str | Path) -> list[Path]:
    """Write the tables to a .tex file, the bibliography and the methods paragraph beside it; return the three files.

    Raises:
        BadInput: the path is none of a .tex file, or cannot be written.
    """
    file = Path(path)
    if file.suffix != ".tex":
        raise BadInput(f"{file}: expected a name that ends in .tex; .bib and -methods.tex are written beside it")
    texts = {
        file: to_latex(boards),
        file.with_suffix(".bib"): to_bibtex(boards),
        file.with_name(f"{file.stem}-methods.tex"): methods_paragraph(boards),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            name.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror or error}); choose another path") from None
    return list(texts)
