import hashlib
import http.server
import io
import tarfile
import threading
import urllib.request
import zipfile

import numpy as np
import pytest

from packbench import datasets
from packbench.datasets import catalogue
from packbench.datasets.fetch import fetch
from packbench.errors import BadInput, Infrastructure

NPY = io.BytesIO()
np.save(NPY, np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32))
BASE = NPY.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serve `files`; cut each of the next answers in `cuts` after so many bytes; log the ranges asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.ranges, self.knows_ranges = {}, [], [], True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        content = self.server.files.get(self.path.strip("/"))
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        if content is None:
            self.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if first and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        body = content[first:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PACKBENCH_DATA", raising=False)
    monkeypatch.setattr(catalogue, "CARDS", tmp_path / "cards")
    (tmp_path / "cards").mkdir()


def write_card(url, content, name="thing", needs=("base.npy",), unpack="", files="", **stated):
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} | stated
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in facts.items() if value is not None]
    file = url.rpartition("/")[2]
    (catalogue.CARDS / f"{name}.toml").write_text(
        f'name = "{name}"\nformat = "hdf5"\nmetric = "ip"\nfolder = "{name}"\nneeds = {list(needs)}\n'
        f'[[downloads]]\nurl = "{url}"\nfile = "{file}"\n' + "\n".join(lines)
        + (f'\nunpack = "{unpack}"' if unpack else "") + f"\n{files}\n"
    )  # fmt: skip


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def taped(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def left(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def test_a_file_is_downloaded_checked_and_loaded(server, tmp_path):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE)
    with pytest.raises(BadInput, match="packbench fetch thing"):
        datasets.load("thing")
    place = fetch("thing", progress=False)
    assert place == tmp_path / "cache/datasets/thing"
    assert (place / "base.npy").read_bytes() == BASE
    assert datasets.load("thing").d == 16
    assert fetch("thing", progress=False) == place
    assert server.ranges == [None]  # the second call asked for nothing
    assert left(place.parent) == ["thing/base.npy"]


def test_a_cut_connection_is_resumed(server, tmp_path):
    server.files["base.npy"] = BASE
    server.cuts = [0, 70_000, 0, 50_000]
    write_card(f"{server.url}/base.npy", BASE)
    place = fetch("thing", into=tmp_path / "here", progress=False)
    assert (place / "base.npy").read_bytes() == BASE
    assert server.ranges == [None, None, "bytes=70000-", "bytes=70000-", "bytes=120000-"]


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE)
    (tmp_path / "base.npy.part").write_bytes(BASE[:1234])
    assert (fetch("thing", into=tmp_path, progress=False) / "base.npy").read_bytes() == BASE
    assert server.ranges == ["bytes=1234-"]
    assert not (tmp_path / "base.npy.part").exists()


def test_a_server_without_ranges_or_with_a_shorter_file_starts_anew(server, tmp_path):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE, bytes=None)
    server.knows_ranges = False
    (tmp_path / "base.npy.part").write_bytes(b"x" * 1234)
    assert (fetch("thing", into=tmp_path, progress=False) / "base.npy").read_bytes() == BASE
    server.knows_ranges = True
    (tmp_path / "again").mkdir()
    (tmp_path / "again/base.npy.part").write_bytes(BASE + b"more")
    assert (fetch("thing", into=tmp_path / "again", progress=False) / "base.npy").read_bytes() == BASE


def test_a_server_that_keeps_cutting_leaves_the_part_for_later(server, tmp_path):
    server.files["base.npy"] = BASE
    server.cuts = [100] + [0] * 20
    write_card(f"{server.url}/base.npy", BASE)
    with pytest.raises(Infrastructure, match="the connection was cut"):
        fetch("thing", into=tmp_path, progress=False)
    assert (tmp_path / "base.npy.part").read_bytes() == BASE[:100]
    assert len(server.ranges) == 6


@pytest.mark.parametrize("stated", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}, {"bytes": 5}])
def test_a_wrong_checksum_removes_the_file(server, tmp_path, stated):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE, **stated)
    kind = next(kind for kind, value in stated.items() if value is not None)
    with pytest.raises(BadInput, match=f"{kind} is .*, the card says {stated[kind]}"):
        fetch("thing", into=tmp_path / "here", progress=False)
    assert left(tmp_path / "here") == []


def test_md5_alone_is_enough(server, tmp_path):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE, sha256=None, md5=hashlib.md5(BASE).hexdigest())
    assert fetch("thing", into=tmp_path, progress=False) == tmp_path / "thing"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/base.npy", "http://nowhere.invalid/base.npy"])
def test_without_network_the_message_says_what_to_put_where(tmp_path, monkeypatch, url):
    write_card(url, BASE)
    opened, urlopen = [], urllib.request.urlopen
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **b: opened.append(1) or urlopen(*a, **b))
    with pytest.raises(Infrastructure) as caught:
        fetch("thing", progress=False)
    assert len(opened) == 1  # no use in trying again
    message = str(caught.value)
    place = tmp_path / "cache/datasets"
    assert f"get {url} and put it at {place / 'base.npy'}" in message
    assert str(place / "thing") in message
    assert "\n" not in message
    place.mkdir(parents=True, exist_ok=True)
    (place / "base.npy").write_bytes(BASE)  # as the message says
    assert fetch("thing", progress=False) == place / "thing"
    assert datasets.load("thing").d == 16


def test_files_put_into_the_folder_by_hand_are_loaded(tmp_path):
    write_card("http://nowhere.invalid/base.npy", BASE)
    (tmp_path / "cache/datasets/thing").mkdir(parents=True)
    (tmp_path / "cache/datasets/thing/base.npy").write_bytes(BASE)
    assert datasets.load("thing").d == 16


def test_an_archive_put_there_by_hand_is_checked_and_kept(tmp_path):
    write_card("http://nowhere.invalid/base.zip", zipped(thing__base="x"), needs=["base"], unpack="zip")
    (tmp_path / "base.zip").write_bytes(b"wrong")
    with pytest.raises(BadInput, match="bytes is 5"):
        fetch("thing", into=tmp_path, progress=False)
    assert (tmp_path / "base.zip").exists()


def test_a_status_error_is_reported_at_once(server, tmp_path):
    write_card(f"{server.url}/gone.npy", BASE, needs=["gone.npy"])
    with pytest.raises(Infrastructure, match="404"):
        fetch("thing", into=tmp_path, progress=False)
    assert len(server.ranges) == 1


def test_packbench_data_comes_first(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKBENCH_DATA", str(tmp_path / "shared"))
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE)
    assert fetch("thing", progress=False) == tmp_path / "cache/datasets/thing"  # not there: fetched
    (tmp_path / "shared/thing").mkdir(parents=True)
    (tmp_path / "shared/thing/base.npy").write_bytes(BASE)
    assert fetch("thing", progress=False) == tmp_path / "shared/thing"


@pytest.mark.parametrize("unpack", ["zip", "tar.gz"])
def test_archives_are_unpacked_without_their_outer_folder(server, tmp_path, unpack):
    content = (
        zipped(outer__a="1", outer__sub__b="22") if unpack == "zip" else taped({"outer/a": b"1", "outer/sub/b": b"22"})
    )
    server.files["x.bin"] = content
    checks = f'[files."sub/b"]\nbytes = 2\nsha256 = "{hashlib.sha256(b"22").hexdigest()}"'
    write_card(f"{server.url}/x.bin", content, needs=["a", "sub/b"], unpack=unpack, files=checks)
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/notes").write_text("mine")
    place = fetch("thing", into=tmp_path, progress=False)
    assert left(place) == ["a", "notes", "sub/b"]
    assert (place / "sub/b").read_bytes() == b"22"
    assert not (tmp_path / "x.bin").exists()


def test_archives_of_wrong_contents_leave_nothing(server, tmp_path):
    content = server.files["x.zip"] = zipped(outer__a="1")
    write_card(f"{server.url}/x.zip", content, needs=["a"], unpack="zip", files='[files.a]\nsha256 = "00"')
    with pytest.raises(BadInput, match=r"a from x\.zip: sha256 is"):
        fetch("thing", into=tmp_path / "here", progress=False)
    write_card(f"{server.url}/x.zip", content, needs=["a", "b"], unpack="zip")
    with pytest.raises(BadInput, match="lacks some of a, b"):
        fetch("thing", into=tmp_path / "here", progress=False)
    server.files["x.zip"] = b"PK no archive"
    write_card(f"{server.url}/x.zip", server.files["x.zip"], needs=["a"], unpack="zip")
    with pytest.raises(BadInput, match="cannot be unpacked"):
        fetch("thing", into=tmp_path / "here", progress=False)
    assert left(tmp_path / "here") == []


@pytest.mark.parametrize("unpack", ["zip", "tar.gz"])
def test_archives_that_reach_outside_are_refused(server, tmp_path, unpack):
    evil = "../../../escaped"
    content = taped({"a": b"1", evil: b"2"}) if unpack == "tar.gz" else zipped(**{"a": "1", evil: "2"})
    server.files["x.bin"] = content
    write_card(f"{server.url}/x.bin", content, needs=["a"], unpack=unpack)
    with pytest.raises(BadInput, match="outside"):
        fetch("thing", into=tmp_path / "one/two/three", progress=False)
    assert not list(tmp_path.rglob("escaped"))


def test_sets_that_come_with_packbench_need_no_fetching(monkeypatch):
    monkeypatch.undo()
    assert fetch("digits", progress=False).is_dir()


def test_progress_goes_to_standard_error(server, tmp_path, capsys):
    server.files["base.npy"] = BASE
    write_card(f"{server.url}/base.npy", BASE)
    fetch("thing", into=tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "base.npy" in err
