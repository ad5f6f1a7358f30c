"""Start the server that workers are forked from. Light to import, so that it can load beside the run that needs it."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
PRELOADED = "packbench.preload"
# Packages that take long to import, and what methods use of them; first faiss, whose thread pool others then find.
SLOW = {"sklearn": ("sklearn.cluster",), "torch": ("faiss", "torch", "torch.optim.adam")}


def start(packages: Iterable[str] = ()) -> None:
    """Let the server import what workers need, while the caller goes on; a first job waits for it.

    It is started once in a process. Of the packages that methods import, slow ones are loaded here too, or each worker
    that trains would pay for it.
    """
    slow = [module for package in sorted(set(packages) & set(SLOW)) for module in SLOW[package]]
    forkserver.set_forkserver_preload([*slow, PRELOADED])
    with as_server():
        forkserver.ensure_running()


@contextmanager
def as_server() -> Iterator[None]:
    """Be as the server and its workers start: with an environment of its own, and without the caller's __main__.

    Multiprocessing would import that script into each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with server_environment():
            yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def server_environment() -> Iterator[None]:
    """Let the fork server start without thread pools, which do not survive a fork, and with threads that wait quietly.

    OpenMP threads spin at barriers by default: beside one other busy process, two of them took thirty times longer
    over a product quantiser than one did.
    """
    wanted = dict.fromkeys(THREAD_VARIABLES, "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
    del wanted["NUMBA_NUM_THREADS"]
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
