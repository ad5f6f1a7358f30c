"""Keep a method to what it was given: watch a worker for files, memory maps, sockets and programs it has no use for."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from packbench.errors import Disqualified

# Importing code late is honest; reading data that was not handed over is not.
_CODE = (".py", ".pyc", ".pyi", ".so", ".nbi", ".nbc", ".pth", ".dylib", ".dll")
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/share/", "/usr/lib")
_FORBIDDEN = {
    "mmap.__new__": "mapped memory of its own",
    "socket.connect": "opened a connection",
    "socket.bind": "opened a port",
    "subprocess.Popen": "started a program",
    "os.system": "started a program",
    "os.posix_spawn": "started a program",
    "os.fork": "forked",
    "os.forkpty": "forked",
}
_MOVES = ("os.rename", "os.link", "os.symlink")
# Compiled code is first written under its name and a suffix, then renamed.
_COMPILED = re.compile(r"\.(pyc|nbi|nbc)(\.[\w.]+)?$")


class Guard:
    """Refuse, inside its `with` blocks, whatever lies outside the contract; `attempts` holds what was tried.

    A method may import code, read the system's own files and use the empty scratch folder; in a rehearsal, which sees
    no data, also keep compiled code. The hook sees what goes through Python and names it; `sandbox` holds where the
    hook does not see.
    """

    def __init__(self, scratch: Path, *, compiles: bool = False) -> None:
        self.attempts: list[str] = []
        self._watching = False
        self._compiles = compiles
        self._scratch = f"{scratch.resolve()}{os.sep}"
        self._libraries = tuple(f"{Path(prefix).resolve()}{os.sep}" for prefix in {sys.prefix, sys.base_prefix})
        self._own = f"{Path(__file__).resolve().parent.parent}{os.sep}"
        sys.addaudithook(self._hook)

    def __enter__(self) -> Guard:
        self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False

    def check(self) -> None:
        """Raise Disqualified if anything was attempted, even where the method caught the refusal."""
        if self.attempts:
            raise Disqualified(f"the method {self.attempts[0]}")

    def _refuse(self, what: str) -> None:
        self.attempts.append(what)
        raise PermissionError(f"packbench: a method {what}; it is given its arrays and nothing else")

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in _FORBIDDEN:
            self._refuse(_FORBIDDEN[event])
        elif event == "open" and isinstance(args[0], str | bytes):
            path, mode, flags = _real(args[0]), args[1] or "", args[2] or 0
            # A temporary file without a name is made by opening its folder.
            if f"{path}{os.sep}".startswith(self._scratch) or path in ("/dev/null", "/dev/tty"):
                return
            if set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                if not self._may_write(path):
                    self._refuse(f"wrote {path}")
            elif not self._may_read(path):
                self._refuse(f"read {path}")
        elif event in _MOVES:
            for path in map(_real, args[:2]):
                if not path.startswith(self._scratch) and not self._may_write(path):
                    self._refuse(f"moved or linked {path}")

    def _may_write(self, path: str) -> bool:
        return self._compiles and _COMPILED.search(path) is not None

    def _may_read(self, path: str) -> bool:
        if path.endswith(_CODE) or path.startswith(_SYSTEM):
            return True
        own_data = path.startswith(self._own) and path.endswith((".npy", ".npz", ".parquet"))
        # Looking for installed packages opens folders of sys.path; a folder holds no data.
        return (path.startswith(self._libraries) and not own_data) or Path(path).is_dir()


def _real(path: str | bytes) -> str:
    return os.path.realpath(os.fsdecode(path))
