"""The commands: documented, honest about bad input, answers on standard output and nothing else there."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.main import get_command

from packbench import datasets, registry
from packbench.cli import app, main

COMMANDS = get_command(app).commands


def in_process(*arguments):
    """Run a command as the console script would, and return its status and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["packbench", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(1)
    np.save(folder / "items.npy", rng.standard_normal((400, 16)).astype("f4"))
    np.save(folder / "queries.npy", rng.standard_normal((30, 16)).astype("f4"))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = COMMANDS[name].help or ""
    assert "Example" in text
    assert f"`packbench {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name):
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_method_is_documented():
    for name, cls in registry.methods().items():
        assert cls.summary().endswith("."), name
        assert cls.fidelity in ("EXACT", "READ-OUT", "ANALOGUE", "TRANSFER"), name
        assert cls.formula, name


def test_the_readme_names_every_command():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for name in COMMANDS:
        assert f"packbench {name}" in readme, name


def test_the_plugin_of_the_readme_passes_the_contract(tmp_path):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (tmp_path / "third.py").write_text(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1])
    done = in_process("check", str(tmp_path / "third.py"))
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout


def test_list_names_everything():
    out = in_process("list").stdout
    assert all(name in out for name in registry.methods())
    out = in_process("list", "datasets").stdout
    assert all(name in out for name in datasets.names())


@pytest.mark.parametrize("name", ["pq", "pydocs"])
def test_info_tells(name):
    done = in_process("info", name)
    assert done.returncode == 0
    assert name in done.stdout


def test_own_vectors_need_no_code(vectors, tmp_path):
    results = str(tmp_path / "results")
    done = in_process(
        "run", "--items", str(vectors / "items.npy"), "--queries", str(vectors / "queries.npy"), "--budget", "10",
        "--method", "sign", "--method", "int8", "--results", results,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    shown = in_process("board", "--results", results, "--json")
    assert shown.returncode == 0, shown.stderr
    assert "sign" in json.dumps(json.loads(shown.stdout))
    for form in ("--csv", "--markdown"):
        assert "sign" in in_process("board", "--results", results, form).stdout
    assert "sign" in in_process("board", "--results", results).stdout
    assert in_process("board", "--results", results, "--html", str(tmp_path / "site")).returncode == 0
    assert "sign" in (tmp_path / "site" / "index.html").read_text()


def test_describe_writes_json(vectors):
    facts = json.loads(in_process("describe", str(vectors / "items.npy"), "--json").stdout)
    assert facts["d"] == 16


def test_check_passes_an_honest_method_and_fails_a_cheat(tmp_path):
    assert in_process("check", "sign").returncode == 0
    plugin = tmp_path / "liar.py"
    plugin.write_text(LIAR)
    done = in_process("check", str(plugin))
    assert done.returncode == 1
    assert "FAILED" in done.stdout


LIAR = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from packbench import Codec, register

@register
@dataclass(frozen=True, slots=True)
class Liar(Codec):
    """Keep the mean of whatever batch it is shown."""
    name: ClassVar[str] = "liar"
    def encode(self, items, shared):
        return {"c": (np.asarray(items) - np.asarray(items).mean(0)).astype(np.float16)}
    def decode(self, codes, shared):
        return codes["c"].astype(np.float32)
    @classmethod
    def for_budget(cls, budget):
        return [cls()]
'''


BAD = {
    "nan": lambda p: np.save(p / "x.npy", np.full((50, 4), np.nan, "f4")),
    "infinity": lambda p: np.save(p / "x.npy", np.full((50, 4), np.inf, "f4")),
    "one dimension": lambda p: np.save(p / "x.npy", np.zeros(50, "f4")),
    "empty file": lambda p: (p / "x.npy").write_bytes(b""),
    "empty array": lambda p: np.save(p / "x.npy", np.zeros((0, 4), "f4")),
    "text": lambda p: (p / "x.npy").write_text("hello, world"),
    "objects": lambda p: np.save(p / "x.npy", np.array([{}] * 50), allow_pickle=True),
    "strings": lambda p: np.save(p / "x.npy", np.array([["a", "b"]] * 50)),
    "missing": lambda p: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_vectors_get_one_message_and_nothing_is_written(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BAD[kind](tmp_path)
    done = in_process("run", "--items", "x.npy", "--budget", "64", "--results", "results")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("packbench: ") and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--budget", "0"], "more than 0"),
        (["--budget", "-1"], "more than 0"),
        (["--method", "sing"], "Did you mean 'sign'"),
        (["--method", "__import__('os')"], "no method '__import__'"),
        (["--method", "pq(m=__import__('os'))"], "no method '__import__'"),
        (["--method", "pq(m=1+1)"], "is code"),
        (["--method", "faiss"], "factory"),
        (["--dataset", "pydoc"], "pydocs"),
        (["--plugin", "nowhere.py"], "no such file"),
        (["--memory-limit", "lots"], "8GB"),
        (["--rows", "0"], "at least 1"),
        (["--queries", "q.npy"], "--items"),
    ],
)
def test_bad_arguments_get_one_message_and_nothing_is_written(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = in_process("run", *arguments, "--results", "results")
    assert done.returncode == 2
    assert told in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_queries_of_another_width_are_refused(vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "q.npy", np.zeros((20, 5), "f4"))
    done = in_process("run", "--items", str(vectors / "items.npy"), "--queries", "q.npy", "--results", "r")
    assert done.returncode == 2
    assert "5" in done.stderr and "16" in done.stderr
    assert not (tmp_path / "r").exists()


def test_usage_errors_exit_with_two(tmp_path):
    assert in_process("nonsense").returncode == 2
    assert in_process("board", "--results", str(tmp_path / "none")).returncode == 2


def test_the_module_runs_as_the_console_script_does():
    done = subprocess.run([sys.executable, "-m", "packbench", "list"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "float32" in done.stdout and done.stderr == ""
