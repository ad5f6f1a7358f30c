"""Read items from and keep results in object storage, by whatever URL fsspec knows: s3://, gs://, az://, memory://."""

from __future__ import annotations

import hashlib
import importlib
import io
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from packbench.errors import BadInput, Infrastructure
from packbench.items import Array
from packbench.store import Row, Store, canonical, rows_in
from packbench.truth import cache_dir


def is_url(place: str | Path) -> bool:
    """Say whether a place is a URL rather than a path."""
    return "://" in str(place)


def fetched(url: str) -> Path:
    """Return a local copy of an object, in the cache, made anew when the object has changed.

    Raises:
        BadInput: no such object, or no package for such URLs.
        Infrastructure: the storage does not answer, or does not let this user in.
    """
    files, path = _filesystem(url)
    with _reached(url):
        files.invalidate_cache()
        version = files.ukey(path)  # of the ETag, where there is one
        key = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:16]
        copy = cache_dir() / "objects" / key / posixpath.basename(path)
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
                files.get_file(path, f"{scratch}/partial")
                Path(scratch, "partial").replace(copy)
    return copy


def store_at(place: str | Path) -> Store:
    """Return the store of a directory, or of a URL under which objects lie."""
    return ObjectStore(str(place)) if is_url(place) else Store(place)


class ObjectStore(Store):
    """Keep one object per cell, URL/<id>.jsonl, and one per measurement, URL/hits/<measurement>.npz.

    Objects cannot be appended to, and are put whole or not at all; a cell that is measured anew replaces its object.
    Directories of .jsonl files that were copied to storage can be read too.
    """

    def __init__(self, url: str) -> None:
        self.place = self._url = url.rstrip("/")
        self._files, self._root = _filesystem(self._url)

    def rows(self) -> Iterator[Row]:
        """Yield every row, in objects sorted by name.

        Raises:
            BadInput: an object holds something else than results.
        """
        with _reached(self._url):
            self._files.invalidate_cache()
            listed: list[str] = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else []
            names = sorted(name for name in listed if name.endswith((".jsonl", ".jsonl.gz")))
            found: dict[str, bytes] = self._files.cat(names) if names else {}
        for name in names:
            yield from rows_in(found[name], posixpath.basename(name))

    def append(self, row: Row) -> None:
        """Put one row."""
        with _reached(self._url):
            self._files.pipe_file(f"{self._root}/{row['id']}.jsonl", canonical(row).encode() + b"\n")

    def save_hits(self, measurement: str, **ids: Array) -> None:
        """Keep the answers of a measurement."""
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **{name: array.astype(np.int32) for name, array in ids.items()})
        with _reached(self._url):
            self._files.pipe_file(f"{self._root}/hits/{measurement}.npz", packed.getvalue())

    def hits(self, measurement: str) -> dict[str, Array]:
        """Return the answers of a measurement: ids_10, ids_100."""
        with _reached(self._url):
            packed = self._files.cat_file(f"{self._root}/hits/{measurement}.npz")
        with np.load(io.BytesIO(packed)) as saved:
            return {name: saved[name] for name in saved.files}


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Tell what keeps this user from the storage."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"{url}: no such object or bucket ({error})") from None
    except Exception as error:  # each kind of storage has errors of its own
        raise Infrastructure(
            f"{url}: {type(error).__name__}: {error}; see that the storage can be reached and the credentials hold"
        ) from error


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fsspec = importlib.import_module("fsspec")
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec itself, or the package of one kind of storage, which it names
        raise BadInput(f"{url}: {error}; pip install 'packbench[cluster]' brings s3://") from None
    except ValueError as error:
        raise BadInput(f"{url}: {error}; expected a path, or a URL such as s3://bucket/run") from None
    return files, str(path).rstrip("/")
