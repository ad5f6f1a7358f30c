"""The contract over everything registered: test ids are specs, so `pytest -k "pq("` runs the checks of one method."""

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from threadpoolctl import threadpool_limits

from packbench import registry
from packbench.testing import MethodChecks, run_checks

# `faiss` is as many methods as there are factory strings: a flat list of codes, inverted lists, a graph.
BY_SPEC = {
    "faiss": ["faiss(factory='PQ8np')", "faiss(factory='IVF8,SQ8', search='nprobe=8')", "faiss(factory='HNSW16')"]
}
BUILT_IN = {name: cls for name, cls in registry.methods().items() if cls.family() != "plugin"}
# What an extra brings is checked where it is installed; test_peers.py says what is not.
INSTALLED = {name: cls for name, cls in BUILT_IN.items() if all(map(importlib.util.find_spec, cls.imports))}


CLUMSY = Path(__file__).parent / "plugins" / "clumsy.py"
CHECKS = [name.removeprefix("test_") for name in vars(MethodChecks) if name.startswith("test_")]
# Cheats break these: see test_red_team.py.
BY_CHEATS = {
    "a_budget_is_answered_in_time", "a_configuration_weighs_what_was_asked", "same_answers_after_saving",
    "same_answers_alone_as_in_a_batch", "same_codes_in_parts_as_at_once",
}  # fmt: skip
# These faults show in other checks as well.
SEVERAL = {
    "inputs_are_accepted_and_left_alone",
    "k_distinct_ids_best_first",
    "gives_a_configuration",
    "spec_round_trip",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep threads from waiting for each other: the data are small, and test machines are shared."""
    with threadpool_limits(1):
        yield


class TestRegistry(MethodChecks):
    methods: ClassVar = [one for name, cls in INSTALLED.items() for one in BY_SPEC.get(name, [cls])]
    # That check is for plug-ins, whose for_budget runs in a process of its own; that of a built-in method does not.
    test_a_budget_is_answered_in_time = None


class TestScorers(MethodChecks):
    """What is taken out of the fit for another scorer, and searched otherwise."""

    n, n_queries, dims, budget_dims = 150, 16, (16, 17), (16,)
    methods: ClassVar = [
        "itq(bits=12, scorer='asymmetric')", "ksh(bits=12, anchors=20, scorer='asymmetric')",
        *(["binary_autoencoder(bits=12, scorer='asymmetric')", "csr(k=4, atoms=32, scorer='decoder')"]
          if "csr" in INSTALLED else []),
    ]  # fmt: skip
    test_a_budget_is_answered_in_time = None


class Quick(MethodChecks):
    n, n_queries, dims, budget_dims, seconds = 150, 16, (16, 17), (16,), 20
    test_a_budget_is_answered_in_time = None


@pytest.fixture(scope="module")
def clumsy():
    """Load the clumsy methods for this file alone: other tests see the registry without them."""
    before = registry.methods()
    found = {cls.name: cls for cls in registry.load_plugin(CLUMSY)}
    yield found
    registry._methods.clear()
    registry._methods.update(before)
    sys.modules.pop(found["documentation"].__module__)


@pytest.mark.parametrize("check", [check for check in CHECKS if check not in BY_CHEATS])
def test_every_check_finds_its_fault(clumsy, check):
    found = {finding.check: finding for finding in run_checks(clumsy[check], Quick)}
    assert not found[check].passed
    assert found[check].message
    if check == "survives_in_processes_of_its_own":
        assert list(found) == ["survives_in_processes_of_its_own"], "what crashes must run in no other check"
    elif check not in SEVERAL:
        assert [name for name, finding in found.items() if not finding.passed] == [check]


def test_known_failures_are_told_with_their_reason():
    class Known(Quick):
        methods: ClassVar = ["float32()"]
        known_failures: ClassVar = {("spec_round_trip", "float32"): "a reason"}

    marked = []

    class Asked:
        fixturenames = ("method",)

        def __init__(self, check):
            self.function = getattr(Known, f"test_{check}")

        def parametrize(self, argument, chosen):
            marked.extend(mark for one in chosen for mark in one.marks)

    Known().pytest_generate_tests(Asked("quality_is_above_chance"))
    assert not marked
    Known().pytest_generate_tests(Asked("spec_round_trip"))
    assert [(mark.name, mark.kwargs) for mark in marked] == [("xfail", {"reason": "a reason", "strict": True})]
