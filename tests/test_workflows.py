"""The recipes for continuous integration: they hold to their schemas, and their shell steps do what docs/ci.md says.

The steps run as they are written, in a repository with a codec of its own. What only a runner can do (check out,
install Python, upload) is a `uses:` step, and is not run here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

yaml = pytest.importorskip("ruamel.yaml")
ROOT = Path(__file__).parent.parent
OURS, GITHUB, GITLAB = ".github/workflows/ci.yml", "docs/ci/github.yml", "docs/ci/gitlab.yml"
SUITE = "--items items.npy --plugin codec.py --method my_codec --budget 64"
CODEC = """
from dataclasses import dataclass
import numpy as np
from packbench import Codec, register

@register
@dataclass(frozen=True, slots=True)
class MyCodec(Codec):
    \"\"\"Keep some coordinates in a byte each.\"\"\"
    name = "my_codec"
    def encode(self, items, shared):
        return {"codes": np.clip(np.rint(items[:, :KEPT] * 40), -127, 127).astype(np.int8)}
    def decode(self, codes, shared):
        return np.pad(codes["codes"] / np.float32(40), ((0, 0), (0, 16 - KEPT)))
"""
# The commands themselves, with shorter timings. What was measured is not measured again: two runs of one codec then
# take the same time to the last digit, and no verdict hangs on how busy a machine is.
PACKBENCH = """#!{python}
import hashlib, pathlib, shutil, sys

def run(arguments):
    from packbench.cli import main
    from packbench.plan import Plan
    Plan.__init__.__kwdefaults__.update(timing_seconds=0.02, references=False)
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        return end.code

arguments = sys.argv[1:]
if arguments[0] != "run":
    sys.exit(run(arguments))
assert arguments[-2] == "--results"
of = repr(arguments[:-1]).encode() + pathlib.Path("codec.py").read_bytes()
kept = pathlib.Path("{kept}") / hashlib.sha256(of).hexdigest()
status = 0 if kept.exists() else run([*arguments[:-1], str(kept)])
shutil.copytree(kept, arguments[-1])
rows = pathlib.Path(arguments[-1]) / "results.jsonl"
rows.write_text("".join(f'{{{{"turn":"{{arguments[-1]}}",{{row[1:]}}' for row in rows.open()))  # of a run of its own
sys.exit(status)
"""


def load(name):
    return yaml.YAML(typ="safe").load(ROOT / name)


@pytest.mark.parametrize(
    ("name", "schema"),
    [(OURS, "vendor.github-workflows"), (GITHUB, "vendor.github-workflows"), (GITLAB, "vendor.gitlab-ci")],
)
def test_recipes_hold_to_their_schemas(name, schema):
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    checked = subprocess.run([*command, str(ROOT / name)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_linter_finds_a_step_that_does_nothing(tmp_path):
    pytest.importorskip("check_jsonschema")
    broken = tmp_path / "broken.yml"
    broken.write_text((ROOT / GITHUB).read_text().replace("run:", "runs:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(broken)]
    assert subprocess.run(command, capture_output=True).returncode == 1


@pytest.mark.parametrize("name", [OURS, GITHUB])
def test_workflows_may_do_little_and_say_what_they_use(name):
    workflow = load(name)
    assert workflow["permissions"] == {"contents": "read"}
    for title, job in workflow["jobs"].items():
        writes = "write" in dict(job.get("permissions", {})).values()
        assert writes == (title == "baseline")
        assert not writes or job["if"] == "github.event_name == 'workflow_dispatch'"
        assert job["timeout-minutes"] <= 40
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "actions/any@v1"))
            # An expression in a script is text from outside that a shell then runs; the environment is not.
            assert "${{" not in step.get("run", "")
            assert step.get("with", {}).get("cache", "pip") == "pip"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """Return a folder with `packbench`, and the environment of a runner that has no network."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "packbench").write_text(PACKBENCH.format(python=sys.executable, kept=folder))
    (folder / "packbench").chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    author = {f"GIT_{who}_{what}": "someone@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    quiet = {"PIP_NO_INDEX": "1", "PIP_QUIET": "1", "GIT_CONFIG_GLOBAL": str(folder / "gitconfig")}
    return os.environ | author | quiet | {"PATH": path}


@pytest.fixture
def repository(tmp_path, tools):
    """Return a clone, of a repository that has a codec and what is needed to measure it."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", "origin"], cwd=tmp_path, check=True)
    subprocess.run(["git", "clone", "-q", "origin", "clone"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    clone = tmp_path / "clone"
    np.save(clone / "items.npy", np.random.default_rng(3).standard_normal((600, 16), np.float32))
    (clone / "requirements-bench.txt").write_text("packbench\n")
    commit(clone, tools, "codec.py", CODEC.replace("KEPT", "16"))
    git(clone, tools, "push", "-q", "origin", "HEAD:main")
    return clone


def git(clone, tools, *words):
    command = ["git", "-c", "init.defaultBranch=main", *words]
    return subprocess.run(command, cwd=clone, env=tools, check=True, capture_output=True, text=True).stdout.strip()


def commit(clone, tools, file, text):
    (clone / file).write_text(text)
    git(clone, tools, "add", ".")
    git(clone, tools, "commit", "-q", "-m", f"Change {file}")


def on_github(job, clone, tools, **known):
    """Run a job's shell steps as a runner does; return their exit statuses by name."""
    workflow = load(GITHUB)
    assert "SUITE" in workflow["env"]
    environment = tools | {"SUITE": SUITE, "GITHUB_STEP_SUMMARY": str(clone / "summary.md")}
    for name, value in workflow["jobs"][job].get("env", {}).items():
        environment[name] = re.sub(r"\$\{\{ (\S+) \}\}", lambda found: known[found[1]], value)
    statuses = {}
    for step in workflow["jobs"][job]["steps"]:
        failed = any(statuses.values())
        if "run" not in step or (failed and step.get("if") != "success() || failure()"):
            continue
        done = shell(step["run"], clone, environment)
        statuses[step["name"]] = done.returncode
    return statuses


def shell(script, clone, environment):
    command = ["bash", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout.decode())  # noqa: T201  # shown where a test fails
    return done


def test_github_keeps_a_baseline_and_passes_a_change_that_loses_nothing(repository, tools):
    statuses = on_github("baseline", repository, tools)
    assert set(statuses.values()) == {0}, statuses
    assert (repository / "site" / "history.html").exists()
    base = git(repository, tools, "rev-parse", "origin/main")
    assert git(repository, tools, "ls-tree", "--name-only", base, "bench/") == "bench/baseline.jsonl"
    commit(repository, tools, "README.md", "Nothing that a codec depends on.\n")
    statuses = on_github("gate", repository, tools, **{"github.event.pull_request.base.sha": base})
    assert set(statuses.values()) == {0}, statuses
    assert "PASS" in (repository / "summary.md").read_text()
    assert (repository / "site" / "index.html").exists()


def test_gitlab_stops_a_change_that_loses_recall(repository, tools):
    pipeline = load(GITLAB)
    remote = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": "https://oauth2:secret@gitlab.example/me/codec.git"}
    remote |= {"GIT_CONFIG_KEY_0": f"url.{repository.parent / 'origin'}.insteadOf", "BASELINE_TOKEN": "secret"}
    about = {"CI_SERVER_HOST": "gitlab.example", "CI_PROJECT_PATH": "me/codec", "CI_DEFAULT_BRANCH": "main"}
    about |= {"CI_PROJECT_DIR": str(repository), "SUITE": SUITE}

    def on_gitlab(job, **known):
        script = [*pipeline["default"]["before_script"], *pipeline[job]["script"]]
        return shell("\n".join(script), repository, tools | remote | about | known).returncode

    assert on_gitlab("baseline") == 0
    git(repository, tools, "fetch", "-q")
    base = git(repository, tools, "rev-parse", "origin/main")
    commit(repository, tools, "codec.py", CODEC.replace("KEPT", "8"))
    assert on_gitlab("gate", CI_MERGE_REQUEST_DIFF_BASE_SHA=base) == 1
    for report in ("comparison", "baseline"):
        told = (repository / f"{report}.md").read_text()
        assert "REGRESSION" in told and "recall@10" in told
        assert "<failure" in (repository / f"{report}.xml").read_text()
    assert "my_codec" in (repository / "board.md").read_text()
