"""Confine a worker to its own files by the kernel's rules (Landlock, Linux 5.13 and later), past any library's back.

The audit hook of `guard` sees what goes through Python; what a library in C++ opens, only the kernel sees.
"""

from __future__ import annotations

import ctypes
import functools
import os
import site
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

# System calls have the same numbers on every architecture that has Landlock; see linux/landlock.h for the bits.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH, _NO_NEW_PRIVS = 1, 1, 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1}  # from the third version on also to truncate
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/tty")


@functools.cache
def version() -> int:
    """Return the version of Landlock that this kernel has; 0 where it has none or has it switched off."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))))


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Let this process open, from here on, only the system's files, installed code, and what lies under given paths.

    What is open or mapped already stays so. Returns False, and does nothing, where the kernel knows no Landlock.

    Raises:
        OSError: the kernel knows it and refused.
    """
    if not version():
        return False
    handled = _ALL_BY_VERSION.get(version(), (1 << 15) - 1)
    attributes = ctypes.c_uint64(handled)
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(8), ctypes.c_uint32(0)))
    try:
        for path in (*map(Path, _SYSTEM), *installed(), *readable):
            _allow(ruleset, path, _READ & handled)
        for path in map(Path, _DEVICES):
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE) & handled)
        for path in writable:
            _allow(ruleset, path, handled)
        _checked(_libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return True


@functools.cache
def installed() -> tuple[Path, ...]:
    """Return the folders and files of installed code, packbench's own data sets left out."""
    import packbench.datasets
    import packbench.leaderboard
    import packbench.methods

    packages = (packbench, packbench.methods, packbench.datasets, packbench.leaderboard)
    prefixes = (sys.prefix, sys.base_prefix, *site.getsitepackages(), site.getusersitepackages())
    roots = {*prefixes, *(path for package in packages for path in package.__path__)}
    hidden = [Path(path).resolve() / "pydocs" for path in packbench.datasets.__path__]
    found: dict[Path, None] = {}
    for root in sorted(Path(root).resolve() for root in roots):
        found |= dict.fromkeys(_without(root, hidden))
    return tuple(found)


def _without(root: Path, hidden: list[Path]) -> list[Path]:
    """Return paths that cover a folder but for what is hidden in it."""
    if not any(path.is_relative_to(root) for path in hidden):
        return [root] if root.exists() else []
    if root in hidden:
        return []
    return [path for entry in sorted(root.iterdir()) for path in _without(entry, hidden)]


def scratch_only(folder: Path) -> None:
    """Let temporary files go to a worker's own folder."""
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Add a rule; a path that does not exist needs none."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights &= -1 if path.is_dir() else _ON_FILES
        attributes = rights.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        _checked(_call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), attributes, ctypes.c_uint32(0)))
    finally:
        os.close(descriptor)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return int(_libc().syscall(ctypes.c_long(number), *arguments))


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return answer
