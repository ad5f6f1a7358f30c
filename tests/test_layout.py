"""The rules of CONTRIBUTING.md that keep the layout working, one test each."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {"harness": "packbench", "methods": "packbench.methods", "datasets/loaders": "packbench.datasets",
         "leaderboard": "packbench.leaderboard"}  # fmt: skip
SOURCES = sorted(path for home in HOMES for path in (ROOT / home).rglob("*.py"))


@pytest.mark.parametrize("path", ["datasets/__init__.py", "tests/__init__.py", "conftest.py", "setup.py"])
def test_files_that_would_shadow_other_packages_do_not_exist(path):
    assert not (ROOT / path).exists()


def test_every_package_of_the_tree_is_listed():
    found = set()
    for home, package in HOMES.items():
        for init in (ROOT / home).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / home).parts
            found.add(".".join((package, *inside)))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_package_directories_are_mapped():
    mapped = {package: home for home, package in HOMES.items()}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == mapped


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_name_packbench_and_never_the_folders(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert (name or "").split(".")[0] not in ("harness", "methods", "leaderboard", "loaders"), path
            assert name != "datasets" or path.name == "huggingface.py", f"{path}: Hugging Face's datasets is optional"


def test_pytest_imports_by_importlib():
    assert "--import-mode=importlib" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"]


def test_hugging_face_datasets_is_asked_for_by_metadata():
    for path in SOURCES:
        asked = re.search(r"find_spec\(\s*['\"]datasets", path.read_text())
        assert not asked, f"{path}: a folder named datasets answers find_spec; ask importlib.metadata"


def test_the_core_needs_no_torch():
    core = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in core and "sentence" not in core


def test_constraints_pin_every_core_dependency():
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    for requirement in PROJECT["project"]["dependencies"]:
        assert requirement.split(">=")[0].lower() in pinned
