"""Hold items that stay on disk and codes made by block to what items in memory give, and memory to its bound."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from packbench import artefact, items, worker
from packbench.batches import row_axis
from packbench.blocks import block_rows, encode_in_blocks, save_float32
from packbench.dataset import Dataset, from_vectors
from packbench.datasets import load
from packbench.errors import BadInput
from packbench.exact import search_exact
from packbench.items import OnDisk, check_finite, left_on_disk, take
from packbench.method import Sample
from packbench.spec import parse
from packbench.truth import truth_of

D = 32
VECTORS = (np.random.default_rng(0).standard_normal((700, D)) * np.linspace(2, 0.3, D)).astype(np.float16)
QUERIES = np.random.default_rng(1).standard_normal((40, D)).astype(np.float32)
WIDE = VECTORS.astype(np.float32)


@pytest.fixture
def small_is_large(monkeypatch):
    """Let a few rows count as too many for memory."""
    monkeypatch.setattr(items, "LARGE_BYTES", 4096)


@pytest.fixture
def on_disk(tmp_path):
    """Give VECTORS as rows of a float16 file."""
    np.save(tmp_path / "vectors.npy", VECTORS)
    return OnDisk(np.load(tmp_path / "vectors.npy", mmap_mode="r"))


def test_rows_on_disk_are_those_in_memory_as_float32(on_disk):
    assert on_disk.shape == WIDE.shape
    assert len(on_disk) == 700
    for rows in (slice(3, 90), slice(690, 800), np.array([5, 0, 5]), 17, np.int64(9), slice(None)):
        assert on_disk[rows].dtype == np.float32
        assert np.array_equal(on_disk[rows], WIDE[rows])
    assert np.array_equal(np.asarray(on_disk), WIDE)
    on_disk[:3][:] = 0  # a copy: the file keeps its values
    assert np.array_equal(on_disk[:3], WIDE[:3])


def _data(vectors):
    return Dataset("made", "ip", vectors, WIDE[:50], QUERIES[:30], QUERIES[30:])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_hash_and_truth_do_not_tell_disk_from_memory(on_disk, metric, tmp_path):
    assert _data(on_disk).sha256() == _data(WIDE).sha256()
    found = truth_of(QUERIES, on_disk, metric, cache=tmp_path / "one")
    wanted = truth_of(QUERIES, WIDE, metric, cache=tmp_path / "other")
    assert np.array_equal(found.ids, wanted.ids)
    assert np.array_equal(found.scores, wanted.scores)


def test_search_converts_by_block_what_is_of_another_type():
    found = search_exact(QUERIES.astype(np.float64), VECTORS, "l2", 10)
    assert np.array_equal(found.ids, search_exact(QUERIES, WIDE, "l2", 10).ids)
    assert np.array_equal(found.scores, search_exact(QUERIES, WIDE, "l2", 10).scores)


def test_a_bad_row_on_disk_is_named(tmp_path):
    broken = VECTORS.astype(np.float64)
    broken[432, 5] = 1e60  # more than float32 holds
    np.save(tmp_path / "broken.npy", broken)
    with pytest.raises(BadInput, match="row 432"):
        check_finite(OnDisk(np.load(tmp_path / "broken.npy", mmap_mode="r")), "vectors")


def test_only_large_mapped_matrices_stay_on_disk(tmp_path, small_is_large):
    np.save(tmp_path / "vectors.npy", VECTORS)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert isinstance(left_on_disk(np.asarray(mapped)), OnDisk)
    assert left_on_disk(mapped[:20]) is None  # too few
    assert left_on_disk(VECTORS) is None  # in memory
    assert left_on_disk(np.load(tmp_path / "vectors.npy", mmap_mode="c")) is None  # may be changed in memory
    assert left_on_disk(mapped.reshape(-1)) is None


def test_many_rows_taken_from_disk_stay_there(on_disk, small_is_large):
    rows = np.arange(0, 700, 2)
    chosen = take(on_disk, rows)
    assert isinstance(chosen, OnDisk)
    assert np.array_equal(np.asarray(chosen), WIDE[rows])
    again = take(chosen, np.arange(100, 300))
    assert isinstance(again, OnDisk)
    assert np.array_equal(again[:], WIDE[rows][100:300])
    assert isinstance(take(on_disk, rows[:3]), np.ndarray)


def test_queries_held_out_of_a_large_file_leave_its_items_there(on_disk, small_is_large):
    data, wanted = (from_vectors(vectors, held_out=60) for vectors in (on_disk, WIDE))
    assert isinstance(data.items, OnDisk)
    assert data.sha256() == wanted.sha256()


@pytest.mark.parametrize("chosen", [None, np.arange(50, 400, 3)])
def test_what_is_staged_of_a_large_file_is_where_it_lies(tmp_path, chosen):
    folder = tmp_path / "stage"
    folder.mkdir()
    (tmp_path / "raw.bin").write_bytes(b"headless" + np.pad(VECTORS, ((0, 0), (2, 0))).tobytes())
    mapped = np.memmap(tmp_path / "raw.bin", np.float16, "r", offset=8, shape=(700, D + 2))[:, 2:]
    given = OnDisk(np.asarray(mapped), chosen)
    worker.stage(folder, "items", given)
    assert sum(file.stat().st_size for file in folder.iterdir()) < VECTORS.nbytes / 4
    found = worker.staged(folder, "items")
    assert isinstance(found, OnDisk)
    assert np.array_equal(np.asarray(found), WIDE if chosen is None else WIDE[chosen])
    worker.stage(folder, "fit", given)  # what methods are given whole is an array
    assert isinstance(worker.staged(folder, "fit"), np.ndarray)
    assert np.array_equal(worker.staged(folder, "fit"), found[:])


def test_float32_files_written_by_block_are_those_of_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr("packbench.blocks.LARGE_BYTES", 1)
    np.save(tmp_path / "whole.npy", WIDE)
    save_float32(tmp_path / "blocks.npy", VECTORS)
    assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_blocks_begin_at_even_rows_and_keep_to_their_bytes():
    assert block_rows(384, 256 << 20) == 131072
    assert block_rows(4096, 256 << 20) == 16384
    assert block_rows(1 << 30, 256 << 20) == 2


# Of every family some whose arrays follow the items, and some that are given all items at once.
BY_BLOCK = [
    "float32()", "int8()", "int4(granularity='vector')", "lloyd_max(bits=3)", "turboquant_mse(bits=2)", "sign()",
    "itq(bits=24)", "rabitq()", "lsh(bits=40)", "pca(dim=16)", "pca(dim=16) | int4()", "random_rotation() | int8()",
    "pq(m=8)", "opq(m=8, dim=32)", "rq(m=2)", "rescore(sign(), int8(), factor=4)",
    "rescore(sign(), int8(), tier='disk')", "magnitude_prune(k=8)", "faiss(factory='SQ8')",
    "ivf(int8(), nlist=4, nprobe=2)",
]  # fmt: skip
AT_ONCE = ["random_rows(int8(), keep=0.5)", "faiss(factory='IVF4,SQ8')"]


def _coded(spec, given, folder, nbytes):
    method = parse(spec)
    shared = method.fit(Sample(WIDE[:400], "ip"))
    folder.mkdir()
    calls = []

    def encode(rows):
        calls.append(rows)
        return artefact.checked(method.encode(rows, shared), "encode")

    codes, count = encode_in_blocks(encode, given, folder, nbytes)
    assert all(type(rows).__name__ != "OnDisk" for rows in calls)  # methods are given arrays
    written = artefact.save(folder, codes, shared)
    assert written == sum(entry.nbytes for entry in artefact.weigh(codes, shared, 700).entries)
    loaded = artefact.load(folder)[0]
    return codes, count, artefact.fingerprint(codes, shared), loaded


@pytest.mark.parametrize("spec", BY_BLOCK + AT_ONCE)
def test_codes_made_by_block_are_those_made_at_once(spec, on_disk, tmp_path):
    whole, one, fingerprint, _ = _coded(spec, WIDE, tmp_path / "whole", 1 << 30)
    codes, count, same, loaded = _coded(spec, on_disk, tmp_path / "blocks", 4 * D * 64)
    assert one == 1
    assert count == (11 if spec in BY_BLOCK else 1)
    assert {name: array.dtype for name, array in codes.items()} == {name: array.dtype for name, array in whole.items()}
    for name, array in whole.items():
        assert np.array_equal(codes[name], array), name
    for name, array in artefact.for_search(whole).items():
        assert np.array_equal(loaded[name], array), name
    assert fingerprint == same


def test_items_may_lie_along_any_axis(on_disk, tmp_path):
    codes, count = encode_in_blocks(
        lambda rows: {"columns": rows.T.astype(np.int8), "rows": rows[:, :3]}, on_disk, tmp_path, 4 * D * 64
    )
    assert count == 11
    assert np.array_equal(codes["columns"], WIDE.T.astype(np.int8))
    assert np.array_equal(codes["rows"], WIDE[:, :3])
    assert row_axis((5, 64), (5, 16), 64, 16) == 1
    assert row_axis((5, 64), (4, 16), 64, 16) is None
    assert row_axis((5, 60), (5, 16), 64, 16) is None
    assert row_axis((8, 64), (2, 64), 64, 16) is None


def test_arrays_that_turn_out_not_to_follow_the_items_are_made_at_once(on_disk, tmp_path):
    def encode(rows):
        return {"kept": rows[:-1] if 16 < len(rows) < 100 else rows[:]}  # the last block has 60 rows

    codes, count = encode_in_blocks(encode, on_disk, tmp_path, 4 * D * 640)
    assert count == 1
    assert np.array_equal(codes["kept"], WIDE)
    assert not list(tmp_path.glob("block-*"))


def test_the_fingerprint_does_not_depend_on_how_much_is_hashed_at_a_time(monkeypatch):
    arrays = {"wide": WIDE, "fortran": np.asfortranarray(VECTORS), "one": np.array(3.5), "none": np.empty((0, 4)),
              "text": np.array(["ab", "c"])}  # fmt: skip
    digest = hashlib.sha256()
    for label, array in [*((f"codes {name}", arrays[name]) for name in sorted(arrays)), ("shared shared", QUERIES)]:
        digest.update(f"{label} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    for nbytes in (artefact.HASHED_BYTES, 100):
        monkeypatch.setattr(artefact, "HASHED_BYTES", nbytes)
        assert artefact.fingerprint(arrays, {"shared": QUERIES}) == digest.hexdigest()[:16]


SMALL = {"n": 3000, "d": D, "n_fit": 50, "n_queries": 20, "n_validation": 10, "clusters": 64}


def test_the_spectrum_is_what_its_card_says():
    data = load("synthetic/spectrum", n=8_000, n_fit=50, n_queries=20, n_validation=10)
    values = np.asarray(data.items, np.float64)
    assert np.abs(np.linalg.norm(values, axis=1) - 1).max() < 1e-3
    assert np.linalg.norm(values.mean(0)) == pytest.approx(0.44, abs=0.03)
    variances = np.linalg.eigvalsh(np.cov(values.T))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 129)), np.log(variances[:128]), 1)[0]
    assert slope == pytest.approx(-0.8, abs=0.06)
    for wrong in ({"mean": 1.0}, {"between": -0.1}, {"clusters": 0}):
        with pytest.raises(BadInput, match="synthetic/spectrum"):
            load("synthetic/spectrum", **SMALL | wrong)


def test_drawn_vectors_are_the_same_on_disk_and_begin_with_those_of_smaller_sets(monkeypatch, tmp_path):
    monkeypatch.setattr("packbench.datasets.synthetic.BLOCK_ROWS", 512)
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path))
    inside = load("synthetic/spectrum", **SMALL)
    assert isinstance(inside.items, np.ndarray)
    monkeypatch.setattr(items, "LARGE_BYTES", 4096)
    outside = load("synthetic/spectrum", **SMALL)
    assert isinstance(outside.items, OnDisk)
    assert outside.sha256() == inside.sha256()
    (file,) = (tmp_path / "synthetic").iterdir()
    before = file.stat().st_mtime_ns
    assert load("synthetic/spectrum", **SMALL).sha256() == inside.sha256()
    assert file.stat().st_mtime_ns == before  # drawn once
    fewer = load("synthetic/spectrum", **SMALL | {"n": 1024})
    assert np.array_equal(np.asarray(fewer.items), inside.items[:1024])
    assert np.array_equal(fewer.queries, inside.queries)


def test_a_cache_that_cannot_be_written_is_told_and_left_clean(monkeypatch, tmp_path):
    monkeypatch.setattr(items, "LARGE_BYTES", 4096)
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BadInput, match="PACKBENCH_CACHE"):
        load("synthetic/spectrum", **SMALL)
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("packbench.datasets.synthetic.write_array_header_1_0", _full_disk)
    with pytest.raises(BadInput, match="No space"):
        load("synthetic/spectrum", **SMALL)
    assert not list((tmp_path / "synthetic").iterdir())


def _full_disk(*_):
    raise OSError(28, "No space left on device")


RESIDENT = """
import json, sys
import numpy as np
from packbench import resources
from packbench.dataset import Dataset
from packbench.items import OnDisk
from packbench.truth import truth_of
file, cache = sys.argv[1:]
queries = np.load(file, mmap_mode="r")[:20].astype(np.float32)
search = lambda rows: truth_of(queries, rows, "ip", cache=__import__("pathlib").Path(cache))
search(queries)
before = resources.resident_bytes()
resources.reset_peak()
rows = OnDisk(np.load(file, mmap_mode="r"))
Dataset("made", "ip", rows, queries, queries, queries).sha256()
search(rows)
print(json.dumps([before, resources.peak_bytes()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_going_through_a_file_holds_a_small_part_of_it(tmp_path):
    rows = 400_000
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float16, (rows, 256))  # zeros weigh what others do
    told = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path / "large.npy"), str(tmp_path)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    before, peak = json.loads(told.stdout)
    assert peak - before < 2 * 256 * rows  # the file; its items weigh twice as much as float32
