"""Bring a data set's files onto this machine by its card: resumed, checked, unpacked, put in place at once."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from packbench.datasets.catalogue import card, downloads_dir, folder_of, how_to_get, is_complete
from packbench.errors import BadInput, Infrastructure

BLOCK = 1 << 16
ATTEMPTS = 5
TIMEOUT_SECONDS = 60


def fetch(name: str, *, into: Path | None = None, progress: bool = True) -> Path:
    """Return the folder that holds a data set, after downloading what is missing.

    An archive already put there by hand is taken instead of a download. Progress goes to standard error. Sets
    that come with packbench need no fetching.

    Raises:
        BadInput: no such data set, or a file whose size or checksum is not that of the card; it is removed again unless
            it was put there by hand.
        Infrastructure: no network; the message says what to get from where, and where to put it.
    """
    entry = card(name)
    if "downloads" not in entry:
        return Path(__file__).parent
    place = downloads_dir() if into is None else Path(into)
    target: Path = place / entry["folder"]
    present = folder_of(entry) if into is None else (target if is_complete(entry, target) else None)
    if present is not None:
        return present
    place.mkdir(parents=True, exist_ok=True)
    archives = [place / download["file"] for download in entry["downloads"]]
    by_hand = [archive for archive in archives if archive.is_file()]
    for download, archive in zip(entry["downloads"], archives, strict=True):
        _download(entry, download, archive, progress)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{entry['folder']}-") as scratch:
            new = Path(scratch) / entry["folder"]
            new.mkdir()
            for download, archive in zip(entry["downloads"], archives, strict=True):
                _unpack(archive, new, download.get("unpack"))
            for file, expected in entry.get("files", {}).items():
                if (new / file).is_file():
                    _check(new / file, expected, f"{file} from {entry['downloads'][0]['file']}")
            if not is_complete(entry, new):
                raise BadInput(
                    f"{name}: the download lacks some of {', '.join(entry['needs'])}; its source has changed"
                )
            _put(new, target)
    finally:  # an archive of wrong contents would be found again by the next attempt; one put there by hand stays
        for archive in archives:
            if archive not in by_hand:
                archive.unlink(missing_ok=True)
    return target


def _download(entry: dict[str, Any], download: dict[str, Any], archive: Path, progress: bool) -> None:
    if archive.is_file():
        _check(archive, download, str(archive))
        return
    partial = archive.with_name(archive.name + ".part")
    _transfer(entry, download, partial, progress)
    try:
        _check(partial, download, download["url"])
    except BadInput:
        partial.unlink()
        raise
    partial.replace(archive)


def _transfer(entry: dict[str, Any], download: dict[str, Any], partial: Path, progress: bool) -> None:
    """Download into `partial`, going on where an earlier attempt or an earlier run stopped."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(download["file"], total=download.get("bytes"))
        failures, reached = 0, False
        while True:
            held = partial.stat().st_size if partial.is_file() else 0
            if held and held == download.get("bytes"):
                return
            reason = "the connection was cut"
            try:
                if _receive(download["url"], partial, held, bar, task):
                    return
                reached = True
            except urllib.error.HTTPError as error:
                if error.code == 416 and held:  # more is held than there is: begin anew
                    partial.unlink()
                    continue
                reason, reached, failures = str(error), False, ATTEMPTS
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error)
            grown = partial.is_file() and partial.stat().st_size > held
            reached, failures = reached or grown, 0 if grown else failures + 1  # no network: no second attempt
            if failures >= ATTEMPTS or not reached:
                raise Infrastructure(
                    f"{entry['name']} cannot be downloaded from {download['url']}: {reason}. Run the same command "
                    f"again to go on. On a machine with a network, {how_to_get(entry, partial.parent)}"
                )


def _receive(url: str, partial: Path, held: int, bar: Progress, task: Any) -> bool:
    """Append what the server sends to `partial`; True when all of it came."""
    request = urllib.request.Request(url, headers={"User-Agent": "packbench"})
    if held and url.startswith("http"):
        request.add_header("Range", f"bytes={held}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        resumed = getattr(answer, "status", None) == 206 and str(answer.headers["Content-Range"]).startswith(
            f"bytes {held}-"
        )
        have = held if resumed else 0  # a server that does not know ranges sends everything again
        length = answer.headers["Content-Length"]
        expected = have + int(length) if length else None
        bar.update(task, completed=have, total=expected)
        with partial.open("ab" if resumed else "wb") as file:
            try:
                while block := answer.read(BLOCK):
                    file.write(block)
                    have += len(block)
                    bar.update(task, completed=have)
            except http.client.IncompleteRead as error:
                file.write(error.partial)
                return False
    return expected is None or have == expected


def _check(file: Path, expected: dict[str, Any], what: str) -> None:
    """Compare size and checksums with those of the card."""
    found: dict[str, Any] = {"bytes": file.stat().st_size}
    for kind in ("sha256", "md5"):
        if kind in expected:
            with file.open("rb") as stream:
                found[kind] = hashlib.file_digest(stream, kind).hexdigest()
    wrong = next((kind for kind in found if kind in expected and found[kind] != expected[kind]), None)
    if wrong is not None:
        raise BadInput(
            f"{what}: {wrong} is {found[wrong]}, the card says {expected[wrong]}; the file is not used. Fetch it "
            "again; if that does not help, the source has changed"
        )


def _unpack(archive: Path, folder: Path, kind: str | None) -> None:
    """Put the files of an archive under `folder`, without the one folder that holds them all."""
    if kind is None:
        archive.replace(folder / archive.name)
        return
    inner = folder.parent / f"{archive.name}.unpacked"
    inner.mkdir()
    try:
        if kind == "zip":
            with zipfile.ZipFile(archive) as zipped:
                for member in zipped.infolist():
                    if not (inner / member.filename).resolve().is_relative_to(inner.resolve()):
                        raise BadInput(f"{archive}: the member {member.filename!r} lies outside; refused to unpack")
                zipped.extractall(inner)
        else:
            with tarfile.open(archive) as taped:
                taped.extractall(inner, filter="data")  # refuses absolute paths, .., links outside and devices
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"{archive} cannot be unpacked: {error}. Remove it and fetch again") from None
    listed = list(inner.iterdir())
    top = listed[0] if len(listed) == 1 and listed[0].is_dir() else inner
    for path in list(top.iterdir()):
        path.replace(folder / path.name)


def _put(new: Path, target: Path) -> None:
    """Rename a complete folder into place; into a folder that is there already, file by file."""
    if not target.exists():
        new.replace(target)
        return
    for path in sorted(p for p in new.rglob("*") if p.is_file()):
        place = target / path.relative_to(new)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
