"""Give each run a temporary folder, and clear away those of runs that were killed before they could."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "packbench-run-"


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for the artefacts of a run and remove it at the end, with what killed runs of this user left."""
    _clear()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # The lock goes with the process however it ends; only this process has it open, its workers do not.
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _clear() -> None:
    """Remove folders whose run is no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # A folder without a lock is of a run that is just beginning, one that cannot be opened of another user.
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
