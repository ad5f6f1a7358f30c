"""Object storage: rows and answers come back from objects, items are fetched once for each version of an object."""

import io
import json

import fsspec
import numpy as np
import pandas as pd
import pytest

from packbench import results, runner
from packbench.dataset import from_vectors
from packbench.errors import BadInput, Infrastructure
from packbench.places import fetched, is_url, store_at
from packbench.store import Store

FAST = {"timing_seconds": 0.02, "references": False, "deployment_n": 10_000, "budgets": (40.0,)}


@pytest.fixture(params=["memory", "s3"])
def bucket(request):
    """Return the URL of an empty place in storage, and its filesystem."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.makedirs("/bucket", exist_ok=True)
    yield "memory://bucket", files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def s3(monkeypatch):
    """Have a server that speaks S3 on this machine; what it takes is some forty packages, and no extra brings it."""
    s3fs = pytest.importorskip("s3fs", reason="pip install s3fs 'moto[server]' to test S3 itself")
    moto = pytest.importorskip("moto.server", reason="pip install s3fs 'moto[server]' to test S3 itself")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "made"),
                        ("AWS_SECRET_ACCESS_KEY", "up"), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    yield "s3://bucket", files
    files.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def dataset():
    return from_vectors(np.random.default_rng(5).standard_normal((300, 16)).astype("f4"), name="random")


def put(files, path, array):
    packed = io.BytesIO()
    np.save(packed, array)
    files.pipe_file(path, packed.getvalue())


def test_a_run_leaves_an_object_for_each_cell_and_resumes_from_them(bucket, dataset):
    url, files = bucket
    assert runner.run(dataset, ["sign()", "float32()"], f"{url}/run/", **FAST) == f"{url}/run"
    store = store_at(f"{url}/run")
    found = store.by_id()
    assert sorted(row["status"] for row in found.values()) == ["ok", "over_budget"]
    names = {name.rpartition("/")[2] for name in files.ls(f"{url}/run", detail=False)}
    assert names == {"hits", *(f"{key}.jsonl" for key in found)}
    (measured,) = (row for row in found.values() if row["status"] == "ok")
    assert store.hits(measured["measurement"])["ids_10"].shape == (len(dataset.queries), 10)
    runner.run(dataset, ["sign()", "float32()"], f"{url}/run", **FAST)
    assert {key: row["time"] for key, row in store.by_id().items()} == {key: row["time"] for key, row in found.items()}
    assert store.by_id() == found
    frame = results(f"{url}/run")
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 2


def test_rows_are_those_of_a_directory(bucket, tmp_path):
    url, files = bucket
    rows = [{"id": name, "list": [1, 2], "x": np.float32(0.5)} for name in "ba"]
    here, there = Store(tmp_path), store_at(f"{url}/rows")
    assert list(there.rows()) == []
    for row in rows:
        here.append(row)
        there.append(row)
    assert there.by_id() == here.by_id()
    there.append({"id": "a", "x": 2})
    assert there.by_id()["a"] == {"id": "a", "x": 2}
    files.pipe_file(f"{url}/rows/results.jsonl", here.file.read_bytes())
    assert there.by_id() == here.by_id() | {"a": here.by_id()["a"]}


def test_what_is_no_result_is_named(bucket):
    url, files = bucket
    files.pipe_file(f"{url}/run/other.jsonl", json.dumps({"x": 1}).encode() + b"\n")
    with pytest.raises(BadInput, match=r"other\.jsonl: line 1 is not a packbench result"):
        list(store_at(f"{url}/run").rows())


def test_items_are_fetched_once_and_again_when_they_change(bucket, monkeypatch):
    url, files = bucket
    first, second = np.zeros((3, 2), "f4"), np.ones((4, 2), "f4")
    put(files, f"{url}/items.npy", first)
    copy = fetched(f"{url}/items.npy")
    assert copy.name == "items.npy"
    assert (np.load(copy) == first).all()
    written = copy.stat().st_mtime_ns
    assert fetched(f"{url}/items.npy") == copy
    assert copy.stat().st_mtime_ns == written
    put(files, f"{url}/items.npy", second)
    other = fetched(f"{url}/items.npy")
    assert (np.load(other) == second).all()
    assert (np.load(copy) == first).all()  # whoever has it mapped keeps it


def test_a_fetch_that_breaks_off_leaves_nothing(memory, monkeypatch):
    url, files = memory
    put(files, f"{url}/items.npy", np.zeros((3, 2), "f4"))

    def torn(path, into):
        with open(into, "wb") as stream:  # noqa: PTH123
            stream.write(b"half")
        raise RuntimeError("cut")  # no OSError: each kind of storage has errors of its own

    with monkeypatch.context() as broken:
        broken.setattr(type(files), "get_file", lambda self, path, into: torn(path, into))
        with pytest.raises(Infrastructure, match="cut"):
            fetched(f"{url}/items.npy")
    assert np.load(fetched(f"{url}/items.npy")).shape == (3, 2)


@pytest.mark.parametrize(
    ("url", "told"),
    [("memory://bucket/none.npy", "no such object"), ("nonsense://bucket/x.npy", "expected a path, or a URL")],
)
def test_what_is_no_object_is_told(memory, url, told):
    with pytest.raises(BadInput, match=told):
        fetched(url)


def test_a_path_is_no_url(tmp_path):
    assert not is_url(tmp_path)
    assert is_url("s3://bucket/run")
    assert type(store_at(tmp_path)) is Store


def test_a_profile_is_not_put_into_storage(memory, dataset):
    with pytest.raises(BadInput, match="written to a folder"):
        runner.run(dataset, ["sign()"], f"{memory[0]}/run", profile=True, **FAST)
