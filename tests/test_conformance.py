"""Conformance: codes that threads, SIMD or a fresh process change are found, and steady ones are not accused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from packbench import conformance, registry
from packbench.dataset import from_vectors
from packbench.errors import BadInput
from packbench.spec import parse

PLUGIN = Path(__file__).parent / "plugins" / "unsteady.py"
UNSTEADY = ("sums_by_thread", "sums_by_thread_and_says_so", "restless", "remembers", "dies")
STEADY = ("int8()", "float16()", "pq(m=8)")


@pytest.fixture(scope="module")
def dataset():
    items = np.random.default_rng(5).standard_normal((600, 32)).astype("f4")
    return from_vectors(items, name="planted", metric="ip")


@pytest.fixture(scope="module")
def entries(dataset):
    registry.load_plugin(PLUGIN)
    found = conformance.conformance(dataset, [*STEADY, *UNSTEADY], plugins=[str(PLUGIN)])
    return {entry["request"]: entry for entry in found}


def results(entry):
    return {check["check"]: check["result"] for check in entry["checks"]}


@pytest.mark.parametrize("request_", STEADY)
def test_steady_codes_are_identical(request_, entries):
    entry = entries[request_]
    assert entry["badge"] == "identical", entry
    assert set(results(entry).values()) <= {"identical", "not applicable"}
    assert entry["spec"] == request_
    assert entry["version"] == registry.version(parse(request_))


def test_sums_that_follow_the_threads_are_found(entries):
    entry = entries["sums_by_thread"]
    assert entry["badge"] == "differs"
    found = results(entry)
    assert found.pop("2 threads") == "differs"
    assert set(found.values()) <= {"identical", "not applicable"}


def test_a_declared_tolerance_is_granted_and_said(entries):
    entry = entries["sums_by_thread_and_says_so"]
    assert entry["badge"] == "tolerance"
    assert results(entry)["2 threads"] == "within tolerance"
    told = next(check["told"] for check in entry["checks"] if check["check"] == "2 threads")
    assert "5.0000% may" in told


def test_a_fit_that_changes_is_found_and_no_tolerance_covers_it(entries):
    assert results(entries["restless"])["again"] == "differs"
    assert results(entries["restless"])["2 threads"] == "identical"


def test_answers_that_do_not_survive_a_reload_are_found(entries):
    assert results(entries["remembers"])["reload"] == "differs"
    assert results(entries["int8()"])["reload"] == "identical"


def test_a_death_is_told_and_leaves_the_other_checks(entries):
    entry = entries["dies"]
    assert entry["badge"] == "failed"
    found = {check["check"]: check for check in entry["checks"]}
    assert "SIGABRT" in found["2 threads"]["told"]
    assert found["again"]["result"] == "identical"


LOOK = """
import json, faiss, numpy, scipy.linalg, numba, threadpoolctl
@numba.njit(fastmath=True)
def total(x):
    s = numpy.float32(0)
    for i in range(len(x)): s += x[i]
    return s
total(numpy.ones(9, numpy.float32))
print(json.dumps({
    "faiss": faiss.SIMDConfig.get_level_name(),
    "numpy": numpy.show_config(mode="dicts")["SIMD Extensions"].get("found", []),
    "blas": [pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"],
    "numba": sorted(name for name in ("ymm", "zmm") if name in list(total.inspect_asm().values())[0]),
}))
"""


def test_generic_instructions_are_in_force():
    if not conformance.available("generic"):
        pytest.skip("no levels are known for this processor")
    wanted = os.environ | conformance.environment("generic")
    answer = subprocess.run([sys.executable, "-c", LOOK], env=wanted, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    # OpenBLAS calls its oldest kernels by the name of either processor.
    blas = found.pop("blas")
    assert blas and set(blas) <= {"Prescott", "Katmai"}
    assert found == {"faiss": "NONE", "numpy": [], "numba": []}


def test_bytes_that_differ_are_counted():
    codes = {"a": np.zeros((4, 2), np.uint8), "b": np.zeros(2, np.float32)}
    turned = {"a": np.eye(4, 2, dtype=np.uint8), "b": np.zeros(2, np.float32)}
    assert conformance.share_unlike(codes, codes) == 0
    assert conformance.share_unlike(codes, turned) == 2 / 16
    assert conformance.share_unlike(codes, turned | {"a": turned["a"].astype(np.int16)}) == 1


def test_a_composition_is_as_tolerant_as_its_parts(entries):
    assert conformance.tolerance_of(parse("pca(dim=8) | sums_by_thread_and_says_so()")) == 0.05
    assert conformance.tolerance_of(parse("rescore(sign(), int8())")) == 0


def test_the_file_holds_one_entry_a_request(tmp_path):
    assert conformance.read(tmp_path / "none") == {}
    for badge in ("differs", "identical"):
        conformance.record(tmp_path, {"request": "pq", "badge": badge})
    conformance.record(tmp_path, {"request": "int8", "badge": "identical"})
    assert {request: entry["badge"] for request, entry in conformance.read(tmp_path).items()} == {
        "int8": "identical",
        "pq": "identical",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["conformance.json"]
    (tmp_path / "conformance.json").write_text("{")
    with pytest.raises(BadInput, match=r"conformance\.json"):
        conformance.read(tmp_path)
