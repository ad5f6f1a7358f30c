"""The contract over everything registered: test ids are specs, so `pytest -k "pq("` runs the checks of one method."""

from packbench import registry
from packbench.testing import MethodChecks

# `faiss` is as many methods as there are factory strings: a flat list of codes, inverted lists, a graph.
BY_SPEC = {"faiss": ["faiss(factory='PQ8')", "faiss(factory='IVF8,SQ8', search='nprobe=8')", "faiss(factory='HNSW16')"]}


class TestRegistry(MethodChecks):
    methods = [
        one for name, cls in registry.methods().items() if cls.family() != "plugin" for one in BY_SPEC.get(name, [cls])
    ]
    known_failures = {}
