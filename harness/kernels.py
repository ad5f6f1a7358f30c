"""Say where numba keeps what it compiled: read before workers are made and in each, written in a rehearsal alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numba.core import caching, config
from numba.core.dispatcher import Dispatcher


def keep_kernels(*, store: bool) -> None:
    """Let numba read its caches, and write to them only if told to.

    A worker that has seen a data set must leave nothing behind. numba picks a cache by trying to write to it, which
    such a worker may not do; so it is picked by permission, which comes to the same.
    """

    def permitted(locator: Any) -> None:
        path = Path(locator.get_cache_path())
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(nearest, os.W_OK):
            raise PermissionError(f"{nearest} may not be written")
        if store:
            path.mkdir(parents=True, exist_ok=True)

    # By setattr, for these are numba's own: it offers no setting for either.
    setattr(caching._CacheLocator, "ensure_cache_path", permitted)  # noqa: B010
    if not store:
        setattr(caching.Cache, "save_overload", lambda cache, signature, data: None)  # noqa: B010


def load_kernels() -> None:
    """Load what kernels of packbench lie compiled on disk for this processor, so that workers find them in memory."""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("packbench."):
            continue
        kernels: list[Any] = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
        for kernel in kernels:
            if isinstance(kernel._cache, caching.Cache):
                cache: Any = kernel._cache
                for key in cache._cache_file._load_index():
                    if key == cache._index_key(key[0], kernel.targetctx.codegen()):
                        kernel.compile(key[0])


def cache_folders(code: Iterable[Path]) -> list[Path]:
    """Return the folders in which numba keeps the kernels of code in those folders, made where that is allowed."""
    found = [folder / "__pycache__" for folder in code]
    for folder in found:
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
    locations: Any = caching
    chosen = getattr(config, "CACHE_DIR", "")
    user_wide = Path(locations.AppDirs(appname="numba", appauthor=False).user_cache_dir)
    return [*found, *([Path(chosen)] if chosen else []), user_wide]
