"""A profile accounts for all the time of a run, once."""

import json
import time

import numpy as np
import pytest

from packbench.dataset import from_vectors
from packbench.profile import Profile, profile_file
from packbench.runner import run


def test_each_second_counts_once_and_for_the_innermost_span():
    profile = Profile()
    with profile.span("cell"):
        with profile.span("build"):
            begin = time.perf_counter()
            time.sleep(0.03)
            profile.told(begin, {"fit": 0.01, "encode": 0.005})
        time.sleep(0.01)
    whole = next(span for span in profile.spans if span.depth == 0)
    build = next(span for span in profile.spans if span.name == "build")
    phases = profile.phases()
    assert sum(phases.values()) == pytest.approx(whole.seconds)
    assert phases["fit"] == 0.01 and phases["build"] == pytest.approx(build.seconds - 0.015)
    assert set(phases) == {"between phases", "build", "fit", "encode"}


def test_a_run_writes_its_profile_where_asked(tmp_path):
    rng = np.random.default_rng(0)
    dataset = from_vectors(rng.standard_normal((300, 8)).astype(np.float32), name="own/vectors")
    options = {"budgets": [16.0], "references": False, "timing_seconds": 0.05}
    run(dataset, ["int8()"], tmp_path, profile=True, **options)
    file = profile_file(tmp_path, dataset.name)
    assert file.name == "profile-own_vectors.json"
    found = json.loads(file.read_text())
    names = [event["name"] for event in found["traceEvents"]]
    assert {"stage", "int8() @ 16.0", "build", "fit", "encode", "search", "judge"} <= set(names)
    assert {"fit", "encode", "time"} <= set(found["phases"]) and min(found["phases"].values()) > -1e-3
    run(dataset, ["sign()"], tmp_path / "other", **options)
    assert not list((tmp_path / "other").glob("profile*"))
