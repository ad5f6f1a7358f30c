"""The contract over everything registered: test ids are specs, so `pytest -k "pq("` runs the checks of one method."""

from typing import ClassVar

from packbench import registry
from packbench.testing import MethodChecks

# `faiss` is as many methods as there are factory strings: a flat list of codes, inverted lists, a graph.
BY_SPEC = {
    "faiss": ["faiss(factory='PQ8np')", "faiss(factory='IVF8,SQ8', search='nprobe=8')", "faiss(factory='HNSW16')"]
}
BUILT_IN = {name: cls for name, cls in registry.methods().items() if cls.family() != "plugin"}


class TestRegistry(MethodChecks):
    methods: ClassVar = [one for name, cls in BUILT_IN.items() for one in BY_SPEC.get(name, [cls])]
    # That check is for plug-ins, whose for_budget runs in a process of its own; that of a built-in method does not.
    test_a_budget_is_answered_in_time = None
