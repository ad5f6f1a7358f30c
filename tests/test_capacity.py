"""Bytes grow by the item: a line through two sizes tells the third, and a method that breaks it is named."""

import dataclasses
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from packbench import Codec
from packbench.artefact import weigh
from packbench.capacity import CHECKED, FORMATS, capacity, embeddings, footprint, measured
from packbench.commands import add_to
from packbench.describe import spectrum
from packbench.errors import BadInput
from packbench.method import Sample
from packbench.spec import parse
from packbench.store import Store

row = runpy.run_path(str(Path(__file__).parent / "golden" / "made.py"))["row"]
SPECS = [
    *FORMATS, "bfloat16()", "lvq(bits=8, residual=4)", "eden(bits=2)", "turboquant_mse(bits=3)", "pca(dim=8) | int8()",
    "pq(m=6)", "pq(m=6, bits=4)", "opq(m=6)", "rq(m=2, bits=4)", "itq(bits=24)", "ternary()",
    "random_rows(int8(), keep=0.5)", "rescore(sign(), int8(), tier='disk')",
    "ivf(int8(), nlist=16)", "faiss(factory='PQ6x4')",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_the_third_size_is_told_within_two_per_cent(spec):
    one = footprint(parse(spec), 48)
    assert one.holds, one
    assert one.error == pytest.approx((one.fixed + one.marginal * CHECKED) / one.weighed - 1)


def test_lines_are_those_of_the_formulas():
    assert dataclasses.astuple(footprint(parse("float32()"), 48))[2:] == (0, 192, 0, 192 * CHECKED)
    pq = footprint(parse("pq(m=6)"), 48)
    assert pq.marginal == 6
    assert 256 * 48 * 4 <= pq.fixed <= 256 * 48 * 4 + 16
    disk = footprint(parse("rescore(sign(), int8(), tier='disk')"), 48)
    assert (disk.marginal, disk.cold) == (6, 48)


def test_another_size_is_told_too():
    method, items = parse("rq(m=2, bits=4)"), embeddings(4500, 48, seed=9)
    shared = method.fit(Sample(items[:1500]))
    ledger = weigh(method.encode(items[1500:], shared), shared, 3000)
    assert footprint(method, 48).nbytes(3000) == pytest.approx(ledger.total() * 3000, rel=0.001)


@dataclass(frozen=True, slots=True)
class Pairs(Codec):
    """Keep something for each pair of a hundred items: bytes that do not grow by the item."""

    name: ClassVar[str] = "pairs_of_test_capacity"

    def encode(self, items, shared):
        return {"codes": np.zeros((len(items), len(items) // 100), np.uint8)}

    def decode(self, codes, shared):
        raise NotImplementedError


def test_bytes_that_do_not_grow_by_the_item_are_said_not_to():
    one = footprint(Pairs(), 8)
    assert not one.holds
    assert one.error == pytest.approx((-7500 + 20 * CHECKED) / (CHECKED * CHECKED / 100) - 1)


def test_what_fits_is_the_line_read_backwards():
    one = footprint(parse("pq(m=6)"), 48)
    most = one.items_in(10**6)
    assert one.nbytes(most) <= 10**6 < one.nbytes(most + 1)
    assert one.items_in(1000) == 0


def test_vectors_look_like_embeddings():
    rows = embeddings(2000, 64)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert 20 < spectrum(rows.astype("f8"))["effective_rank"] < 45
    assert np.array_equal(rows, embeddings(2000, 64))


def test_names_are_solved_for_the_memory_at_each_number_of_rows():
    found, notes = capacity(["pq", "float16"], rows=[1000, 100_000, 200_000], memory_bytes=1_300_000, d=48)
    pq = [one for one in found if one.spec.startswith("pq")]
    assert len(found) == len(pq) == 2  # float32 fits 1,000 times, so nothing is to be solved there
    for one, n in zip(pq, (100_000, 200_000), strict=True):
        assert 0.5 * 1_300_000 < one.nbytes(n) <= 1_300_000
    assert len(notes) == 2
    assert "float16 has 13.0 bytes per item for 100,000 items: it needs at least 96" in notes[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"methods": ["pq"]}, "give --memory"),
        ({"methods": ["pqq"]}, "Did you mean 'pq'"),
        ({"methods": ["pq(m=60)"], "d": 48}, "cannot be weighed at d=48"),
        ({"d": 0}, "d 0: expected at least 1"),
        ({"rows": [0]}, "rows 0"),
    ],
)
def test_bad_input_is_refused(arguments, told):
    with pytest.raises(BadInput, match=told):
        capacity(**arguments)


def test_the_command_says_what_fits_and_what_is_extrapolated():
    app = typer.Typer()
    add_to(app)
    asked = ["capacity", "--memory", "1MB", "--rows", "10k", "--rows", "100k", "--d", "32", "--method", "int8()"]
    told = CliRunner().invoke(app, asked).stdout
    line = next(line for line in told.splitlines() if line.startswith("int8()"))
    assert line.split() == [
        "int8()",
        "32.0",
        "256",
        "bytes",
        "+0.0%",
        "320.3",
        "kB",
        "fits",
        "3.2",
        "MB",
        "-",
        "31,242",
    ]
    assert "larger sizes are extrapolated" in told


@pytest.fixture
def results(tmp_path):
    """Results of the same method at two sizes, the lesser one measured later, and of another at the lesser alone."""
    store = Store(tmp_path)
    rows = [
        row("int8()", None, (9,), n=4000, dataset="large", time="2030-01-01T00:00:00+00:00"),
        row("int8()", None, (10,), n=50, dataset="small", time="2031-01-01T00:00:00+00:00"),
        row("sign", 16.0, (6, 7), n=50, dataset="small"),
        row("pq", 16.0, status="failed", n=4000, dataset="large"),
    ]
    for of in rows:
        store.append(of | {"id": f"{of['id']} {of['dataset']}"})
    return tmp_path


def test_recall_is_known_at_the_largest_size_measured(results):
    known = measured(results, 16)
    assert {spec: (of.dataset, of.n, round(of.recall.value, 4)) for spec, of in known.items()} == {
        "int8()": ("large", 4000, 0.9), "sign()": ("small", 50, 0.65),
    }  # fmt: skip
    assert known["sign()"].recall.low < 0.65 < known["sign()"].recall.high
    with pytest.raises(BadInput, match="none at d=17, only at 16; give --d"):
        measured(results, 17)
    with pytest.raises(BadInput, match="no results there"):
        measured(results / "missing", 16)


def test_the_command_says_at_which_size_recall_is_known(results):
    app = typer.Typer()
    add_to(app)
    asked = ["capacity", "--rows", "10k", "--d", "16", "--method", "int8()", "--method", "float16()"]
    told = CliRunner().invoke(app, [*asked, "--results", str(results)]).stdout
    assert "int8(): recall@10 0.900 (0.900 to 0.900) on large, not measured beyond n = 4,000\n" in told
    assert "float16(): not measured\n" in told
    assert "a ranking at one n is not extrapolated" in told
    assert "recall at these sizes is not known" not in told
    without = CliRunner().invoke(app, asked).stdout
    assert "recall at these sizes is not known" in without
    assert "0.900" not in without
