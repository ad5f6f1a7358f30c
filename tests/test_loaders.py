import gzip
import hashlib
import json
import struct
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packbench import datasets
from packbench.dataset import from_vectors
from packbench.datasets import catalogue, encode, huggingface, load, read_vectors
from packbench.datasets import parquet as parquet_format
from packbench.errors import BadInput

RNG = np.random.default_rng(7)
X = RNG.standard_normal((60, 6)).astype(np.float32)
Q = RNG.standard_normal((12, 6)).astype(np.float32)
BYTES = RNG.integers(0, 256, (60, 6)).astype(np.uint8)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PACKBENCH_DATA", raising=False)


def vecs(path, rows, code):
    path.write_bytes(b"".join(struct.pack(f"<i{len(row)}{code}", len(row), *row.tolist()) for row in rows))
    return path


def bins(path, rows):
    path.write_bytes(struct.pack("<ii", *rows.shape) + rows.tobytes())
    return path


def hdf5(path, items=X, queries=Q, distance="angular", **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=items, **options)
        file.create_dataset("test", data=queries)
        file.create_dataset("neighbors", data=np.zeros((len(queries), 10), np.int32))
        file.attrs["distance"] = distance
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=17)
    return path


def write(path):
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez(path, items=X, queries=Q)
    elif path.suffix == ".fvecs":
        vecs(path, X, "f")
    elif path.suffix == ".bvecs":
        vecs(path, BYTES, "B")
    elif path.suffix == ".ivecs":
        vecs(path, BYTES.astype(np.int32), "i")
    elif path.suffix == ".fbin":
        bins(path, X)
    elif path.suffix == ".u8bin":
        bins(path, BYTES)
    elif path.suffix == ".i8bin":
        bins(path, BYTES.view(np.int8))
    elif path.suffix == ".ibin":
        bins(path, BYTES.astype(np.int32))
    elif path.suffix in (".h5", ".hdf5"):
        hdf5(path)
    else:
        parquet(path, id=[str(row) for row in range(60)], embedding=list(X))
    return path


EXPECTED = {".bvecs": BYTES, ".ivecs": BYTES, ".u8bin": BYTES, ".i8bin": BYTES.view(np.int8), ".ibin": BYTES}
SUFFIXES = [
    ".npy",
    ".npz",
    ".fvecs",
    ".bvecs",
    ".ivecs",
    ".fbin",
    ".u8bin",
    ".i8bin",
    ".ibin",
    ".h5",
    ".hdf5",
    ".parquet",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_back_what_was_written(tmp_path, suffix):
    path, expected = write(tmp_path / f"x{suffix}"), EXPECTED.get(suffix, X)
    found = read_vectors(path)
    np.testing.assert_array_equal(found, expected)
    np.save(tmp_path / "q.npy", Q)
    data = load(path, queries=tmp_path / "q.npy")
    assert data.items.dtype == np.float32
    np.testing.assert_array_equal(data.items, expected.astype(np.float32))
    assert data.card["dtype"] == found.dtype.name
    assert len(data.queries) + len(data.validation) == len(Q)


def test_the_formats_listed_are_the_formats_tested():
    assert sorted(datasets.read.READERS) == sorted(SUFFIXES)


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".fbin", ".hdf5"])
def test_large_float32_files_stay_memory_mapped(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}")
    base = load(path, queries=Q).items
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_vectors_with_queries_equal_those_built_in_code(tmp_path):
    np.save(tmp_path / "x.npy", X)
    one, other = load(tmp_path / "x.npy", queries=Q, seed=3), from_vectors(X, Q, seed=3)
    assert one.sha256() == other.sha256()
    assert load(tmp_path / "x.npy", queries=Q, seed=4).sha256() != other.sha256()


def test_without_queries_rows_are_held_out(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = load(str(tmp_path / "x.npy"), held_out=9, metric="l2")
    assert (data.n, len(data.queries) + len(data.validation), data.metric, data.fit_on) == (51, 9, "l2", "items")
    assert data.card["metric_from"] == "argument"


def test_queries_of_the_items_own_file_skip_themselves(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = load(tmp_path / "x.npy", queries=str(tmp_path / "x.npy"))
    assert data.card["self_match"] == "remove"
    np.testing.assert_array_equal(data.items[data.self_rows], data.queries)
    np.testing.assert_array_equal(data.items[data.validation_self_rows], data.validation)
    kept = load(tmp_path / "x.npy", queries=tmp_path / "x.npy", self_match="keep")
    assert kept.self_rows is None
    assert kept.card["self_match"] == "keep"


def test_self_match_remove_finds_equal_rows_in_another_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    queries = np.concatenate([X[[40, 3]], Q])
    data = load(tmp_path / "x.npy", queries=queries, self_match="remove", validation="documents")
    assert data.self_rows.tolist() == [40, 3] + [-1] * len(Q)
    assert load(tmp_path / "x.npy", queries=queries).self_rows is None


def test_validation_by_documents_leaves_every_query_to_the_test(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = load(tmp_path / "x.npy", queries=Q, validation="documents")
    np.testing.assert_array_equal(data.queries, Q)
    np.testing.assert_array_equal(data.items[data.validation_self_rows], data.validation)


def test_a_fit_file_is_a_disjoint_sample_and_the_items_own_file_is_not(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "fit.npy", X[:20].astype(np.float64) + 1)
    data = load(tmp_path / "x.npy", queries=Q, fit=tmp_path / "fit.npy")
    assert data.fit_on == "disjoint"
    np.testing.assert_array_equal(data.fit, X[:20] + np.float32(1))
    assert load(tmp_path / "x.npy", queries=Q, fit=tmp_path / "x.npy").fit_on == "items"


@pytest.mark.parametrize(
    ("distance", "metric"), [("angular", "cosine"), ("euclidean", "l2"), ("dot", "ip"), (b"euclidean", "l2")]
)
def test_hdf5_brings_queries_and_metric(tmp_path, distance, metric):
    data = load(hdf5(tmp_path / "a.hdf5", distance=distance))
    assert (data.metric, data.n, len(data.queries), data.card["metric_from"]) == (metric, 60, 8, "source")
    assert load(tmp_path / "a.hdf5", metric="ip").metric == "ip"
    compressed = load(hdf5(tmp_path / "b.h5", chunks=True, compression="gzip"))
    np.testing.assert_array_equal(compressed.items, X)


def test_npz_brings_queries_and_fit(tmp_path):
    np.savez(tmp_path / "x.npz", base=X, query=Q, learn=X[:5] + 2, notes=np.array(["a"]))
    data = load(tmp_path / "x.npz")
    assert (data.n, len(data.queries), len(data.fit), data.fit_on) == (60, 8, 5, "disjoint")
    np.savez(tmp_path / "odd.npz", a=X, b=Q)
    with pytest.raises(BadInput, match="a, b"):
        load(tmp_path / "odd.npz")
    np.testing.assert_array_equal(read_vectors(tmp_path / "odd.npz", column="b"), Q)
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.npz", part="queries"), Q)


def test_texmex_folder(tmp_path):
    vecs(tmp_path / "s_base.fvecs", X, "f")
    vecs(tmp_path / "s_query.fvecs", Q, "f")
    data = load(tmp_path)
    assert (data.metric, data.n, data.fit_on) == ("l2", 60, "items")
    vecs(tmp_path / "s_learn.fvecs", X[:9] + 1, "f")
    assert (len(load(tmp_path).fit), load(tmp_path).fit_on) == (9, "disjoint")
    (tmp_path / "s_query.fvecs").unlink()
    with pytest.raises(BadInput, match=r"NAME_query\.fvecs"):
        load(tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 6), pa.list_(pa.int8())]
)
def test_parquet_reads_every_kind_of_list(tmp_path, kind):
    values = np.round(X * 10).astype(kind.value_type.to_pandas_dtype())
    column = pa.array(list(values), kind)
    path = parquet(tmp_path / "x.parquet", text=["t"] * 60, tokens=pa.array([[1]] * 60), vector=column)
    np.testing.assert_array_equal(read_vectors(path), values)
    assert read_vectors(path, column="tokens").shape == (60, 1)


def test_parquet_names_what_is_wrong(tmp_path):
    rows = X.tolist()
    with pytest.raises(BadInput, match=r"no vector column.*text \(string\)"):
        load(parquet(tmp_path / "a.parquet", text=["t"] * 60))
    with pytest.raises(BadInput, match="several vector columns, a, b"):
        load(parquet(tmp_path / "b.parquet", a=rows, b=rows))
    with pytest.raises(BadInput, match="row 41 has 5 values, row 0 has 6"):
        load(parquet(tmp_path / "c.parquet", a=[*rows[:41], rows[41][:5], *rows[42:]]))
    with pytest.raises(BadInput, match="row 20 is missing"):
        load(parquet(tmp_path / "d.parquet", a=[*rows[:20], None, *rows[21:]]))
    with pytest.raises(BadInput, match="row 33 holds a missing value"):
        load(parquet(tmp_path / "e.parquet", a=[*rows[:33], [None, *rows[33][1:]], *rows[34:]]))
    with pytest.raises(BadInput, match="'z' is no list column"):
        load(tmp_path / "a.parquet", column="z")
    (tmp_path / "f.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-9])
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        load(tmp_path / "f.parquet")


def test_parquet_counts_rows_over_all_chunks():
    chunks = pa.chunked_array([pa.array([[1.0, 2], [3, 4]]), pa.array([[5.0, 6], [7]])])
    with pytest.raises(BadInput, match="row 3 has 1 values, row 0 has 2"):
        parquet_format.matrix(chunks, "here")
    sliced = pa.chunked_array([chunks.chunk(0).slice(1), chunks.chunk(1).slice(0, 1)])
    np.testing.assert_array_equal(parquet_format.matrix(sliced, "here"), [[3, 4], [5, 6]])


def test_not_a_number_is_refused_by_row_and_file(tmp_path):
    bad = X.copy()
    bad[37, 2] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(BadInput, match=r"bad\.npy: row 37 holds NaN or infinity"):
        load(tmp_path / "bad.npy")
    vecs(tmp_path / "inf.fvecs", np.where(np.arange(60)[:, None] == 4, np.inf, X), "f")
    with pytest.raises(BadInput, match=r"inf\.fvecs: row 4"):
        load(tmp_path / "inf.fvecs", queries=Q)
    np.save(tmp_path / "huge.npy", np.where(np.arange(60)[:, None] == 5, 1e300, X.astype(np.float64)))
    with pytest.raises(BadInput, match=r"huge\.npy: row 5"):
        load(tmp_path / "huge.npy")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadInput, match=r"bad\.npy: row 37"):
        load(tmp_path / "x.npy", queries=tmp_path / "bad.npy")


def test_wrong_dimension_of_queries_or_fit(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadInput, match="queries have 5 dimensions, items 6"):
        load(tmp_path / "x.npy", queries=Q[:, :5].copy())
    with pytest.raises(BadInput, match="fit have 4 dimensions, items 6"):
        load(tmp_path / "x.npy", queries=Q, fit=X[:, :4].copy())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"these are words and no vectors at all, in any format\n"])
def test_empty_and_text_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=str(path)):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_cut_short_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BadInput, match=str(path)):
        load(path)


def test_arrays_that_are_no_matrix_of_numbers(tmp_path):
    for what, array in {"words": np.array([["a"]]), "cube": np.zeros((2, 2, 2)), "none": np.zeros((0, 4)),
                        "flat": np.zeros(3), "complex": np.zeros((3, 3), complex)}.items():  # fmt: skip
        np.save(tmp_path / f"{what}.npy", array)
        with pytest.raises(BadInput, match=f"{what}.npy"):
            load(tmp_path / f"{what}.npy")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BadInput, match="never loaded"):
        load(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", items=np.array([[1, "a"]], object))
    with pytest.raises(BadInput, match="never loaded"):
        load(tmp_path / "x.npz")


def test_vecs_with_broken_headers(tmp_path):
    path = vecs(tmp_path / "x.fvecs", X, "f")
    raw = bytearray(path.read_bytes())
    raw[:4] = struct.pack("<i", -3)
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="states -3 dimensions"):
        load(path)
    raw[:4] = struct.pack("<i", 6)
    raw[5 * 28 : 5 * 28 + 4] = struct.pack("<i", 8)
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="row 5 states 8 dimensions, row 0 states 6"):
        load(path)
    path.write_bytes(raw + b"ab")
    with pytest.raises(BadInput, match="no whole number of rows"):
        load(path)


def test_bins_whose_header_does_not_match(tmp_path):
    path = tmp_path / "x.fbin"
    path.write_bytes(struct.pack("<ii", 61, 6) + X.tobytes())
    with pytest.raises(BadInput, match="61 x 6 values of 4 bytes, 1472 bytes in all, but the file holds 1448"):
        load(path)
    path.write_bytes(struct.pack("<ii", 0, 6))
    with pytest.raises(BadInput, match="empty"):
        load(path)


def test_hdf5_without_train_or_with_a_strange_distance(tmp_path):
    with pytest.raises(BadInput, match="jaccard"):
        load(hdf5(tmp_path / "a.hdf5", distance="jaccard"))
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["vectors"] = X
    with pytest.raises(BadInput, match="holds vectors; expected 'train'"):
        load(tmp_path / "b.hdf5")
    np.testing.assert_array_equal(read_vectors(tmp_path / "b.hdf5", column="vectors"), X)


def test_missing_files_and_unknown_names(tmp_path):
    with pytest.raises(BadInput, match="no such file or folder"):
        load(tmp_path / "nowhere.npy")
    with pytest.raises(BadInput, match=r"no data set 'pydoc'\. Did you mean 'pydocs'"):
        load("pydoc")
    with pytest.raises(BadInput, match="'beir/scifact/all-minilm-l6-v2'"):
        load("scifact")
    with pytest.raises(BadInput, match=r"A path may be a file \(\.npy"):
        load("zzz")
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(BadInput, match=r"'\.csv' is not one of \.npy"):
        load(tmp_path / "x.csv")
    with pytest.raises(BadInput, match="NAME_base"):
        load(tmp_path)
    with pytest.raises(BadInput, match="no data set 'none'"):
        datasets.card("none")


def test_arguments_that_do_not_apply_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadInput, match="digits takes no queries"):
        load("digits", queries=Q)
    with pytest.raises(BadInput, match="takes no encoder"):
        load(tmp_path / "x.npy", encoder="all-MiniLM-L6-v2")
    with pytest.raises(BadInput, match="takes no rank"):
        load("synthetic/clustered", rank=3)
    with pytest.raises(BadInput, match="validation='half'"):
        load(tmp_path / "x.npy", validation="half")
    with pytest.raises(BadInput, match="self_match needs queries"):
        load(tmp_path / "x.npy", self_match="remove")


def test_a_refused_load_writes_nothing(tmp_path):
    np.save(tmp_path / "bad.npy", X * np.nan)
    with pytest.raises(BadInput):
        load(tmp_path / "bad.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npy"]


# BEIR


class FakeModel:
    """Embed a text by its characters; counts the texts it was given."""

    max_seq_length = 512
    seen = 0

    def __init__(self, folder, local_files_only):
        assert local_files_only

    def encode_document(self, texts, normalize_embeddings, show_progress_bar):
        type(self).seen += len(texts)
        rows = np.array([[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_query = encode_document


@pytest.fixture
def model(tmp_path, monkeypatch):
    folder = tmp_path / "Tiny-Model"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(b"weights")
    library = type("library", (), {"SentenceTransformer": FakeModel})
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    FakeModel.seen = 0
    return folder


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def qrels(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "tiny"
    letters = "abcdefgh"
    documents = [
        {"_id": f"d{row}", "title": "a" if row % 2 else "", "text": letters[row % 8] * (row + 1)} for row in range(40)
    ]
    jsonl(folder / "corpus.jsonl", [*documents, {"_id": "q1", "text": "abc"}])
    jsonl(folder / "queries.jsonl", [{"_id": f"q{row}", "text": letters[row % 8] * 3 + "b"} for row in range(12)])
    qrels(folder / "qrels/test.tsv", [("q0", "d0", 2), ("q0", "d8", 1), ("q1", "d1", 1), ("q2", "d2", 0)])
    return folder


def test_beir_keeps_every_test_query_and_validates_with_documents(beir, model):
    data = load(f"beir:{beir}", encoder=model)
    assert data.name == "beir/tiny/tiny-model"
    assert list(data.query_ids) == ["q0", "q1", "q2"]
    assert data.qrels == {"q0": {"d0": 2, "d8": 1}, "q1": {"d1": 1}, "q2": {"d2": 0}}
    assert (data.n, data.metric, data.fit_on, data.fit_queries) == (41, "ip", "items", None)
    assert data.self_rows.tolist() == [-1, 40, -1]
    assert data.card["self_match"] == "remove"
    np.testing.assert_array_equal(data.items[data.validation_self_rows], data.validation)
    assert data.card["encoder_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert load(beir, encoder=model, self_match="keep").self_rows is None


def test_beir_titles_stand_before_texts(beir):
    texts = datasets.beir.read_texts(beir, "corpus", titled=True)
    assert texts["d0"] == "a"
    assert texts["d1"] == "a bb"


def test_beir_prefers_other_splits_for_validation_and_fitting(beir, model):
    qrels(beir / "qrels/dev.tsv", [("q3", "d3", 1), ("q4", "d4", 1), ("q0", "d0", 1)])
    qrels(beir / "qrels/train.tsv", [(f"q{row}", "d1", 1) for row in range(4, 10)])
    data = load(beir, encoder=model)
    assert (len(data.queries), len(data.validation), len(data.fit_queries)) == (3, 2, 5)
    assert data.card["validation"] == "2 dev queries"
    (beir / "qrels/dev.tsv").unlink()
    data = load(beir, encoder=model)
    assert (len(data.queries), len(data.validation), data.fit_queries) == (3, 6, None)
    data = load(beir, encoder=model, validation="test")
    assert (len(data.queries), len(data.validation)) == (2, 1)
    assert len(data.qrels) == 2
    assert data.sha256() != load(beir, encoder=model, validation="documents").sha256()


def test_beir_reads_gzip_and_falls_back_on_dev(beir, model):
    plain = load(beir, encoder=model)
    for name in ("corpus", "queries"):
        path = beir / f"{name}.jsonl"
        (beir / f"{name}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (beir / "qrels/test.tsv").rename(beir / "qrels/dev.tsv")
    data = load(beir, encoder=model)
    assert data.card["split"] == "dev"
    assert data.sha256() == plain.sha256()


def test_beir_embeds_each_text_once(beir, model, tmp_path):
    load(beir, encoder=model)
    once = FakeModel.seen
    assert once == 41 + 3
    first = load(beir, encoder=model)
    assert FakeModel.seen == once
    (model / "model.safetensors").write_bytes(b"other weights")
    assert load(beir, encoder=model).card["encoder_sha256"] != first.card["encoder_sha256"]
    assert FakeModel.seen == 2 * once
    torn = next((tmp_path / "cache/embeddings").glob("*.npy"))
    torn.write_bytes(torn.read_bytes()[:50])
    load(beir, encoder=model)
    (model / "model.safetensors").write_bytes(b"weights")
    assert load(beir, encoder=model).sha256() == first.sha256()


def test_beir_takes_vectors_that_lie_beside_the_texts(beir):
    kept = beir / "My-Model"
    kept.mkdir()
    ids = [f"d{row}" for row in reversed(range(40))] + ["q1"]
    vectors = RNG.standard_normal((41, 5)).astype(np.float16)
    np.save(kept / "corpus_f16.npy", vectors)
    (kept / "corpus_ids.txt").write_text("\n".join(ids))
    np.save(kept / "queries_f16.npy", vectors[:3] + 1)
    (kept / "test_query_ids.txt").write_text("q2\nq1\nq0\n")
    qrels(beir / "qrels/train.tsv", [("q7", "d1", 1)])
    data = load(beir)
    assert (data.name, data.card["encoder"]) == ("beir/tiny/my-model", "My-Model")
    np.testing.assert_array_equal(data.items[0], vectors[39].astype(np.float32))
    np.testing.assert_array_equal(data.queries, (vectors[:3] + 1)[::-1].astype(np.float32))
    assert len(data.validation) == 41  # q7 has no vector, so documents choose
    assert data.sha256() == load(beir, encoder="somewhere/my-model").sha256()
    (kept / "test_query_ids.txt").write_text("q2\nq1\nq9\n")
    with pytest.raises(BadInput, match="no vector for 1 of 3 query ids, 'q0' first"):
        load(beir)
    (kept / "test_query_ids.txt").write_text("q2\nq1\n")
    with pytest.raises(BadInput, match="lists 2 ids, 2 distinct, for 3 vectors"):
        load(beir)


def test_beir_names_what_is_wrong(beir, model):
    corpus, queries, test = beir / "corpus.jsonl", beir / "queries.jsonl", beir / "qrels/test.tsv"
    good = {path: path.read_text() for path in (corpus, queries, test)}

    def refuses(path, text, match):
        path.write_text(text)
        with pytest.raises(BadInput, match=match):
            load(beir, encoder=model)
        path.write_text(good[path])

    refuses(corpus, good[corpus] + "{no json\n", r"corpus\.jsonl line 42 is no JSON")
    refuses(corpus, good[corpus] + '{"_id": "z"}\n', "line 42: expected an object")
    refuses(corpus, good[corpus] + '["z"]\n', "line 42: expected an object")
    refuses(corpus, good[corpus] + '{"_id": "d3", "text": "x"}\n', "line 42: the id 'd3' occurs twice")
    refuses(queries, good[queries] + '{"_id": "q3", "text": "x"}\n', "line 13: the id 'q3' occurs twice")
    refuses(corpus, "\n", "empty")
    refuses(test, good[test] + "q3\td99\t1\n", r"test\.tsv line 6 judges the document 'd99'")
    refuses(test, good[test] + "q99\td3\t1\n", "judges 1 queries that queries.jsonl lacks, 'q99' first")
    refuses(test, good[test] + "q3 d3 1\n", "line 6: expected query, document and a whole grade")
    refuses(test, good[test] + "q3\td3\thigh\n", "line 6: expected query")
    test.unlink()
    with pytest.raises(BadInput, match=r"qrels/test\.tsv"):
        load(beir, encoder=model)
    assert FakeModel.seen == 0
    queries.unlink()
    with pytest.raises(BadInput, match=r"expected queries\.jsonl"):
        load(beir, encoder=model)
    with pytest.raises(BadInput, match=r"expected corpus\.jsonl"):
        load(f"beir:{beir / 'qrels'}", encoder=model)


def test_encoders_that_are_not_there(beir, model, monkeypatch, tmp_path):
    with pytest.raises(BadInput, match="name the model"):
        load(beir)
    monkeypatch.setattr(encode, "_hub_copy", lambda name: None)
    with pytest.raises(BadInput, match=r"some/model is not on this machine.*hf download some/model"):
        load(beir, encoder="some/model")
    (tmp_path / "void").mkdir()
    with pytest.raises(BadInput, match="no model folder"):
        load(beir, encoder=tmp_path / "void")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadInput, match=r"pip install 'packbench\[text\]'"):
        load(beir, encoder=model)


def test_the_minilm_alias_names_the_hub_model(monkeypatch):
    monkeypatch.setattr(encode, "_hub_copy", lambda name: None if name != encode.MINILM else encode.Path("/hub/abc"))
    assert encode.find_model("all-MiniLM-L6-v2") == (encode.Path("/hub/abc"), encode.MINILM, "abc")


# Hugging Face


class FakeSplit:
    def __init__(self, table):
        self._table = table

    def with_format(self, kind):
        assert kind == "arrow"
        return self

    def __getitem__(self, rows):
        assert rows == slice(None)
        return self._table


def test_hugging_face_reads_a_vector_column_and_a_test_split(monkeypatch):
    splits = {
        "train": FakeSplit(pa.table({"id": [1] * 60, "emb": list(X)})),
        "test": FakeSplit(pa.table({"emb": list(Q)})),
    }
    library = type("library", (), {"load_dataset": staticmethod(lambda name: splits)})
    monkeypatch.setattr(huggingface.importlib.metadata, "version", lambda name: "4.0")
    monkeypatch.setattr(huggingface.importlib, "import_module", lambda name: library)
    data = load("hf:someone/vectors")
    assert (data.name, data.n, len(data.queries)) == ("someone/vectors", 60, 8)
    with pytest.raises(BadInput, match=r"no split 'dev'; there are train, test"):
        load("hf:someone/vectors:dev")


def test_hugging_face_missing_says_what_to_install(monkeypatch):
    def version(name):
        raise huggingface.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(huggingface.importlib.metadata, "version", version)
    with pytest.raises(BadInput, match="pip install datasets"):
        load("hf:someone/vectors")


# Named sets


def test_every_card_states_the_facts():
    assert {"pydocs", "digits", "texmex/siftsmall", "synthetic/low-rank"} <= set(datasets.names())
    for name, card in catalogue.cards().items():
        assert card["name"] == name
        for field in ("title", "description", "metric", "d", "licence", "origin", "self_match", "mrl_trained"):
            assert field in card, (name, field)
        for download in card.get("downloads", ()):
            assert download["url"].startswith(("https://", "http://", "ftp://"))
            assert "sha256" in download or "checksums" in card, name
            assert len(download.get("sha256", "0" * 64)) == 64


def test_siftsmall_keeps_its_100_queries_for_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKBENCH_DATA", str(tmp_path))
    (tmp_path / "siftsmall").mkdir()
    vecs(tmp_path / "siftsmall/siftsmall_base.fvecs", X, "f")
    vecs(tmp_path / "siftsmall/siftsmall_query.fvecs", Q, "f")
    data = load("texmex/siftsmall")
    np.testing.assert_array_equal(data.queries, Q)
    assert (data.name, data.metric, data.card["metric_from"]) == ("texmex/siftsmall", "l2", "source")
    assert data.card["validation"] == "60 items as queries, each without itself"
    assert len(load("texmex/siftsmall", validation="test").queries) == 8


@pytest.mark.parametrize("name", [name for name in datasets.names() if "downloads" in datasets.card(name)])
def test_sets_that_were_not_fetched_say_how_to_get_them(name):
    with pytest.raises(BadInput, match=f"packbench fetch {name}") as caught:
        load(name)
    assert datasets.card(name)["downloads"][0]["url"] in str(caught.value)


def test_pydocs_is_what_its_card_says():
    data, card = load("pydocs"), datasets.card("pydocs")
    counts = card["counts"]
    assert (data.n, data.d, data.metric, data.fit_on) == (counts["items"], card["d"], card["metric"], "disjoint")
    assert len(data.fit) == counts["fit"]
    assert len(data.queries) == counts["queries_test"]
    assert len(data.validation) == counts["queries_validation"]
    assert len(data.fit_queries) == counts["queries_fit"]
    assert all(list(judged.values()) == [1] for judged in data.qrels.values())
    np.testing.assert_allclose(np.linalg.norm(data.items, axis=1), 1, atol=2e-3)
    position = {name: row for row, name in enumerate(data.item_ids)}
    own = np.array([position[next(iter(data.qrels[query]))] for query in data.query_ids])
    scores = data.queries @ data.items.T
    rank = (scores > scores[np.arange(len(own)), own][:, None]).sum(1)
    assert np.mean(rank < 10) > 0.5  # ids, vectors and judgements are in one order: by chance it would be 0.003


def test_digits_splits_images_and_judges_by_class():
    data = load("digits")
    assert {part: len(rows) for part, rows in data.parts().items()} == {
        "items": 1000, "fit": 400, "queries": 250, "validation": 147}  # fmt: skip
    rows = {row.tobytes() for part in data.parts().values() for row in part}
    assert len(rows) == 1797
    assert len(data.fit_extras["labels"]) == 400
    nearest = np.argmin(((data.queries[:, None] - data.items[None]) ** 2).sum(2), axis=1)
    right = [data.item_ids[row] in data.qrels[query] for row, query in zip(nearest, data.query_ids, strict=True)]
    assert np.mean(right) > 0.95
    assert load("digits", seed=1).sha256() != data.sha256() == load("digits").sha256()


SMALL = {"n": 800, "d": 32, "n_fit": 200, "n_queries": 50, "n_validation": 20}


@pytest.mark.parametrize("name", [name for name in datasets.names() if name.startswith("synthetic/")])
def test_synthetic_sets_are_seeded_and_disjoint(name):
    data = load(name, **SMALL)
    assert {part: rows.shape for part, rows in data.parts().items()} == {
        "items": (800, 32), "fit": (200, 32), "queries": (50, 32), "validation": (20, 32)}  # fmt: skip
    assert len({row.tobytes() for part in data.parts().values() for row in part}) == 1070
    assert data.sha256() == load(name, **SMALL).sha256() != load(name, seed=1, **SMALL).sha256()
    assert data.card["parameters"]["n"] == 800
    with pytest.raises(BadInput, match="n=0"):
        load(name, n=0)


def test_synthetic_structure_is_planted():
    low = load("synthetic/low-rank", rank=5, noise=0.01, **SMALL)
    values = np.linalg.svd(np.concatenate([low.items, low.queries]), compute_uv=False)
    assert values[4] > 20 * values[5]
    near = load("synthetic/clustered", clusters=8, spread=0.1, **SMALL)
    squared = ((near.queries[:, None] - near.items[None]) ** 2).sum(2)
    assert np.median(squared.min(1)) < 0.05 < np.median(squared)
    wide = load("synthetic/outliers", dimensions=3, scale=50.0, **SMALL)
    deviation = np.sort(wide.items.std(0))
    assert deviation[-3] > 40
    assert deviation[-4] < 1.2
    far = load("synthetic/off-centre", shift=4.0, **SMALL)
    centre = far.items.mean(0)
    assert np.linalg.norm(centre) / np.sqrt(((far.items - centre) ** 2).sum(1).mean()) == pytest.approx(4, rel=0.05)
    with pytest.raises(BadInput, match="rank=40"):
        load("synthetic/low-rank", **{**SMALL, "rank": 40})
