"""The contract over everything registered."""

from packbench import registry
from packbench.testing import MethodChecks


class TestRegistry(MethodChecks):
    methods = [cls for cls in registry.methods().values() if cls.family() != "plugin"]
