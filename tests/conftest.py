"""Settings of all tests: no deadlines on shared machines, and a cache of the session's own."""

import os
import sys

import pytest
from hypothesis import settings

# Before anything loads OpenMP: its threads are not to spin beside the other processes of a test machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("packbench", deadline=None)
settings.load_profile("packbench")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of the cache."""
    before = os.environ.get("PACKBENCH_CACHE")
    os.environ["PACKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["PACKBENCH_CACHE"]
    else:
        os.environ["PACKBENCH_CACHE"] = before


@pytest.fixture(autouse=True, scope="module")
def own_plugins():
    """Let the plug-ins that a file loads be its own: other files see the registry without them."""
    from packbench import registry

    before, modules = registry.methods(), set(sys.modules)
    yield
    registry._methods.clear()
    registry._methods.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("packbench_plugin_"):
            del sys.modules[name]
