import gzip
import json
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from packbench.errors import BadInput
from packbench.leaderboard.history import (
    METRICS,
    change_cells,
    changes_of,
    history_of,
    history_of_git,
    told_of,
)
from packbench.leaderboard.history_command import history

pytest.importorskip("ruptures", reason="ruptures is not installed")
MADE = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))
RIGHT = {0.9: (9,), 0.8: (8,), 0.7: (7,)}


def row(day, recall=0.9, request="pq", budget=8.0, **more):
    """Make a result of a day, which is its commit too."""
    found = MADE["row"](request, budget, RIGHT[recall])
    found |= {"time": f"2030-01-{day:02d}T00:00:00+00:00", "commit": f"c{day}"} | more
    return found | {"id": f"{found['dataset_sha256']} {request} {budget} {found['seed']} {found['machine']} {day}"}


def write(path, rows):
    text = "".join(json.dumps(of) + "\n" for of in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def nightly(tmp_path, rows_of_days):
    """Write a file for each list of rows, named so that the order of names is not that of time."""
    count = len(rows_of_days)
    return [write(tmp_path / f"run-{count - at}.jsonl", rows) for at, rows in enumerate(rows_of_days)]


def values(series):
    return [point.value for point in series.points]


def rate(found):
    return np.mean([bool(of) for of in found])


@pytest.mark.parametrize("count", [4, 6, 10, 20, 50])
def test_noise_alone_rarely_shows_a_change(count):
    noise = 0.85 + 0.01 * np.random.default_rng(count).standard_normal((1000, count))
    # 5% and two standard errors of a rate measured on a thousand series
    assert rate([changes_of(of) for of in noise]) <= 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5


@pytest.mark.parametrize(("count", "at"), [(12, 6), (20, 10), (20, 17), (50, 25), (50, 47)])
def test_a_step_of_five_sigma_is_found_where_it_is(count, at):
    noise = 0.85 + 0.01 * np.random.default_rng(count + at).standard_normal((400, count))
    noise[:, at:] += 0.05
    found = [changes_of(of) for of in noise]
    assert rate(found) >= 0.95
    assert np.mean([any(abs(change.at - at) <= 1 for change in of) for of in found]) >= 0.94


@pytest.mark.parametrize(
    ("series", "changes"),
    [
        ([0.8] * 9, []),
        ([0.0] * 9, []),
        ([0.8, 0.8, 0.8, 0.8, 0.8 + 1e-9], []),  # rounding
        ([0.8, 0.8, 0.8, 0.7], [(3, 0.8, 0.7)]),
        ([0.8, 0.7, 0.7, 0.7], [(1, 0.8, 0.7)]),
        ([0.0, 0.0, 0.0, 1.0, 1.0], [(3, 0.0, 1.0)]),
        ([0.8, 0.8, 0.7, 0.7, 0.8, 0.8, 0.8], [(2, 0.8, 0.7), (4, 0.7, 0.8)]),
        ([None, 0.8, 0.8, None, 0.8, 0.7], [(5, 0.8, 0.7)]),  # the index counts what is missing
        ([0.8, 0.7, 0.7], []),  # too short
        ([0.8, None, 0.7, 0.7], []),
    ],
)
def test_a_series_without_noise(series, changes):
    assert [(at, round(before, 6), round(after, 6)) for at, before, after in changes_of(series)] == changes


def test_changes_do_not_depend_on_the_unit():
    series = 1 + 0.02 * np.random.default_rng(0).standard_normal(30)
    series[18:] += 0.2
    found = changes_of(series)
    assert [change.at for change in found] == [18]
    assert [change.at for change in changes_of(series * 1e7)] == [18]
    assert [change.at for change in changes_of(1e-7 * series)] == [18]


def test_files_are_points_in_the_order_of_time(tmp_path):
    files = nightly(tmp_path, [[row(day, recall)] for day, recall in enumerate([0.9, 0.9, 0.9, 0.7, 0.7], 1)])
    (recall,) = history_of(sorted(files), "recall@10")
    assert values(recall) == pytest.approx([0.9, 0.9, 0.9, 0.7, 0.7])
    assert [point.commit for point in recall.points] == ["c1", "c2", "c3", "c4", "c5"]
    assert [change.at for change in recall.changes] == [3]
    assert change_cells([recall]) == [("recall@10", "pq", "made/by_hand", "8", "0.9000", "0.7000", "c4")]
    assert told_of([recall]).startswith("1 change point in 1 series of 5 commits")


def test_a_file_that_names_no_commit_is_one_itself(tmp_path):
    (tmp_path / "a").mkdir()
    files = [
        write(tmp_path / "v1.0.jsonl.gz", [row(1, commit=None)]),
        write(tmp_path / "results.jsonl", [row(2, commit=None)]),
        write(tmp_path / "a" / "results.jsonl", [row(3, commit=None)]),
        write(tmp_path / "grown.jsonl", [row(4), row(5)]),
    ]
    (recall,) = history_of(files, "recall@10")
    assert [point.commit for point in recall.points] == ["v1.0", str(files[1]), str(files[2]), "c4", "c5"]


def test_what_must_not_be_mixed_is_another_series(tmp_path):
    rows = [row(1), row(1, machine="m2"), row(1, dataset_sha256="beef" * 16), row(1, deployment_n=50), row(1, tries=9),
            row(1, budget=16.0), row(1, seed=5, request="opq"), row(2, seed=6, request="opq")]  # fmt: skip
    found = history_of([write(tmp_path / "a.jsonl", rows)])
    of = {name: [series for series in found if series.metric == name] for name in METRICS}
    # Machines share a series of quality and bytes; every other difference parts series, and the seeds do.
    assert len(of["recall@10"]) == len(of["bytes"]) == 7
    assert len(of["speedup"]) == 8
    assert {series.conditions.partition(", ")[0] for series in found} == {"data c0ffeec0ffee", "data beefbeefbeef"}


def test_seeds_are_averaged_and_a_failed_one_leaves_no_figure(tmp_path):
    files = nightly(tmp_path, [
        [row(1, 0.9, seed=0), row(1, 0.7, seed=1)],
        [row(2, 0.9, seed=0), row(2, 0.7, seed=1) | {"status": "failed"}],
    ])  # fmt: skip
    (recall,) = history_of(files, "recall@10")
    assert values(recall) == [pytest.approx(0.8), None]
    assert "1 have no figure at their last commit" in told_of([recall])
    untimed = write(tmp_path / "untimed.jsonl", [row(3, seed=0), row(3, seed=1) | {"speedup": None}])
    assert not history_of([untimed], "speedup")


def test_the_latest_measurement_counts_and_one_too_heavy_does_not(tmp_path):
    again = row(1, 0.7) | {"time": "2030-01-01T09:00:00+00:00"}
    heavy = row(2)
    heavy["bytes"] = heavy["bytes"] | {"payload": 99.0}
    (recall,) = history_of(nightly(tmp_path, [[again, row(1, 0.9)], [heavy]]), "recall@10")
    assert values(recall) == [pytest.approx(0.7), None]


def test_tied_scores_count_as_boards_count_them(tmp_path):
    tied = row(1) | {"ties": {"recall@10": [0.2, 0.5, 0.8]}}
    (recall,) = history_of([write(tmp_path / "a.jsonl", [tied])], "recall@10")
    assert values(recall) == [0.5]


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def test_revisions_of_a_file_are_points_and_renames_are_followed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "some dir").mkdir()
    old, new = tmp_path / "some dir" / "old é.jsonl", tmp_path / "new.jsonl"
    rows = []
    for day, recall in enumerate([0.9, 0.9, 0.8, 0.8], 1):
        rows.append(row(day, recall))
        if day == 3:
            git(tmp_path, "mv", old, new)
        git(tmp_path, "add", write(old if day < 3 else new, rows))
        git(tmp_path, "commit", "-qm", f"day {day}")
    (recall,) = history_of_git(new, "recall@10")
    assert values(recall) == pytest.approx([0.9, 0.9, 0.8, 0.8])
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert recall.points[-1].commit == head.stdout.strip()
    git(tmp_path, "add", write(tmp_path / "packed.jsonl.gz", rows[:1]))
    git(tmp_path, "commit", "-qm", "packed")
    assert values(history_of_git(tmp_path / "packed.jsonl.gz", "recall@10")[0]) == pytest.approx([0.9])
    with pytest.raises(BadInput, match="git tracks no such file"):
        history_of_git(tmp_path / "other.jsonl")


def test_bad_input_is_told(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        history_of([tmp_path])
    with pytest.raises(BadInput, match="cannot be read"):
        history_of([tmp_path / "missing.jsonl"])
    with pytest.raises(BadInput, match="no results there"):
        history_of([write(tmp_path / "empty.jsonl", [])])
    with pytest.raises(BadInput, match=r"metric 'recall': expected recall@10, nDCG@10, bytes, speedup"):
        history_of([], "recall")
    with pytest.raises(BadInput, match=r"KeyError: 'tries'.*another version"):
        history_of([write(tmp_path / "odd.jsonl", [{key: of for key, of in row(1).items() if key != "tries"}])])
    with pytest.raises(BadInput, match="git cannot read it"):
        history_of_git(tmp_path / "empty.jsonl")


def asked(*words):
    app = typer.Typer()
    app.command()(history)
    return CliRunner().invoke(app, list(map(str, words)))


def test_the_command_names_what_changed(tmp_path):
    steps = [[row(day, 0.9 if day < 4 else 0.7), row(day, 0.9, "a|b`c")] for day in range(1, 7)]
    files = nightly(tmp_path, steps)
    told = asked(*files)
    assert told.exit_code == 0
    line = next(line for line in told.stdout.splitlines() if line.startswith("recall@10"))
    assert line.split() == ["recall@10", "pq", "made/by_hand", "8", "0.9000", "0.7000", "c4"]
    markdown = asked(*files, "--metric", "recall@10", "--markdown").stdout
    assert "| recall@10 | `pq` | made/by\\_hand | 8 | 0.9000 | 0.7000 | c4 |" in markdown
    found = json.loads(asked(*files, "--json", "--metric", "recall@10").stdout)
    assert [of["changes"] for of in found] == [
        [],
        [{"at": 3, "before": pytest.approx(0.9), "after": pytest.approx(0.7)}],
    ]
    assert found[1]["points"][0] == {"commit": "c1", "time": "2030-01-01T00:00:00+00:00", "value": 0.9}
    same = asked(*files[:3], "--metric", "bytes").stdout
    assert same.strip().startswith("no change points in 2 series of 3 commits; 2 hold fewer than 4 values")
    assert "wrote" in asked(*files, "--html", tmp_path / "site").stderr
    assert (tmp_path / "site" / "history.html").is_file()


def test_the_command_wants_files_or_git(tmp_path):
    for words in ([], ["a.jsonl", "--git", "b.jsonl"]):
        assert "either files of results or --git" in str(asked(*words).exception)
    assert "choose one" in str(asked("a.jsonl", "--json", "--markdown").exception)
