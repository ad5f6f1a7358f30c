"""The store: canonical lines, torn ones tolerated, nothing whole ever lost."""

import json
import threading

import numpy as np
import pytest

from packbench.errors import BadInput
from packbench.store import IDENTITY, Store, canonical, results, row_id

IDENTITY_ROW = dict.fromkeys(IDENTITY, 1)


def test_rows_come_back(tmp_path):
    store = Store(tmp_path / "made" / "when missing")
    store.append({"id": "a", "x": np.float32(0.5), "list": np.arange(3), "nan": float("nan")})
    assert list(store.rows()) == [{"id": "a", "x": 0.5, "list": [0, 1, 2], "nan": None}]


def test_a_torn_last_line_is_passed_over_and_then_replaced(tmp_path):
    store = Store(tmp_path)
    store.append({"id": "a"})
    with store.file.open("a") as stream:
        stream.write('{"id": "b", "unfin')
    assert [row["id"] for row in store.rows()] == ["a"]
    store.append({"id": "c"})
    assert [row["id"] for row in store.rows()] == ["a", "c"]
    assert all(json.loads(line) for line in store.file.read_text().splitlines())


def test_a_damaged_line_in_the_middle_is_reported_by_number(tmp_path):
    store = Store(tmp_path)
    store.append({"id": "a"})
    store.file.write_text("garbage\n" + store.file.read_text())
    with pytest.raises(BadInput, match="line 1"):
        list(store.rows())


def test_every_file_is_read_and_the_later_row_of_an_id_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id":"x","v":1}\n')
    (tmp_path / "b.jsonl").write_text('{"id":"x","v":2}\n{"id":"y","v":3}\n')
    assert {key: row["v"] for key, row in Store(tmp_path).by_id().items()} == {"x": 2, "y": 3}


def test_writers_do_not_interleave(tmp_path):
    store = Store(tmp_path)
    writers = [
        threading.Thread(target=lambda n=n: [store.append({"id": f"{n}-{i}", "pad": "x" * 5000}) for i in range(20)])
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(store.by_id()) == 80


def test_the_id_depends_on_every_identity_field_and_on_nothing_else():
    base = row_id(IDENTITY_ROW)
    assert row_id(IDENTITY_ROW | {"recall": 0.5}) == base
    for field in IDENTITY:
        assert row_id(IDENTITY_ROW | {field: 2}) != base
    assert canonical({"b": 1, "a": 2}) == '{"a":2,"b":1}'


def test_results_are_a_frame_with_dotted_columns(tmp_path):
    Store(tmp_path).append({"id": "a", "recall": {"recall@10": 0.5}, "bytes": {"payload": 8.0}})
    frame = results(tmp_path)
    assert frame.loc[0, "recall.recall@10"] == 0.5
    assert frame.loc[0, "bytes.payload"] == 8.0


def test_an_empty_directory_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="packbench run"):
        results(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="directory"):
        Store(tmp_path / "file")


def test_hits_come_back(tmp_path):
    store = Store(tmp_path)
    store.save_hits("m", ids_10=np.arange(20).reshape(2, 10))
    assert (store.hits("m")["ids_10"] == np.arange(20).reshape(2, 10)).all()
