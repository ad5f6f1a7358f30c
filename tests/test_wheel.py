"""The wheel works from an empty environment: no file is missing, nothing is read from the source tree."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys
from pathlib import Path
import packbench, packbench.datasets, packbench.leaderboard, packbench.methods
for package in (packbench, packbench.datasets, packbench.leaderboard, packbench.methods):
    assert Path(package.__path__[0]).is_relative_to(sys.prefix), package.__path__
assert "torch" not in sys.modules
print(packbench.datasets.load("pydocs").n)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Install the wheel alone; the libraries it depends on are those of this environment, on the path behind it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-2000:]
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return folder, python


def run(environment, *command):
    folder, python = environment
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # A path file would put an editable install of packbench in front; PYTHONPATH reads none.
    clean |= {"PYTHONPATH": libraries}
    done = subprocess.run([python, *command], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_packages_and_their_data_are_in_it(environment):
    assert int(run(environment, "-c", SCRIPT)) > 4000


def test_it_runs_and_writes_a_board(environment):
    run(environment, "-m", "packbench", "run", "--quiet", "--budget", "64", "--method", "sign", "--method", "pq(m=48)",
        "--results", "results")  # fmt: skip
    run(environment, "-m", "packbench", "board", "--results", "results", "--html", "site")
    assert "pq" in (environment[0] / "site" / "index.html").read_text()
