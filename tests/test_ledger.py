"""The ledger: bytes are those of the arrays as saved, whatever a method says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packbench import artefact, batches
from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall, Disqualified
from packbench.method import nest, unnest
from packbench.spec import parse

DTYPES = st.sampled_from(["u1", "i1", "<f2", "<f4", "<f8", "<i8", "?", "<u4"])
SHAPES = st.lists(st.integers(0, 7), min_size=0, max_size=3).map(tuple)


@given(st.lists(st.tuples(DTYPES, SHAPES), max_size=5))
def test_weighed_bytes_equal_bytes_on_disk(tmp_path_factory, kinds):
    folder = tmp_path_factory.mktemp("artefact")
    arrays = {f"a{i}/x": np.zeros(shape, dtype) for i, (dtype, shape) in enumerate(kinds)}
    ledger = artefact.weigh(arrays, {"cold/y": np.zeros(3)}, 10)
    written = artefact.save(folder, arrays, {"cold/y": np.zeros(3)}, spec="x()")
    assert written == sum(entry.nbytes for entry in ledger.entries)
    codes, shared, _ = artefact.load(folder)
    assert set(codes) == set(arrays)
    assert all((codes[name] == arrays[name]).all() and codes[name].dtype == arrays[name].dtype for name in arrays)
    assert isinstance(shared["cold/y"], np.memmap)


def test_tiers_are_told_apart():
    codes = {"codes": np.zeros((100, 8), "u1"), "cold/floats": np.zeros((100, 16), "f4")}
    shared = {"rotation": np.zeros((4, 4), "f4"), "build/network": np.zeros(10**6)}
    ledger = artefact.weigh(codes, shared, 100)
    assert (ledger.payload, ledger.shared, ledger.cold) == (8, 64, 64)
    assert ledger.total() == 8.64
    assert ledger.total(1_000_000) == 8 + 64e-6


def test_build_arrays_do_not_reach_the_searching_process(tmp_path):
    artefact.save(tmp_path, {"codes": np.zeros(3)}, {"build/secret": np.ones(5), "kept": np.ones(2)}, spec="x()")
    _, shared, _ = artefact.load(tmp_path)
    assert set(shared) == {"kept"}
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_views_are_weighed_by_what_they_show():
    whole = np.zeros((100, 1000), "f4")
    assert artefact.weigh({"part": whole[:, :2]}, {}, 100).payload == 8
    assert artefact.weigh({"wide": np.broadcast_to(np.zeros(1, "f4"), (100, 10))}, {}, 100).payload == 40


@pytest.mark.parametrize(
    "arrays",
    [{"x": [1, 2]}, {"x": np.array([object()])}, {"../x": np.zeros(1)}, {"/x": np.zeros(1)}, {1: np.zeros(1)}, 5],
)
def test_what_cannot_be_weighed_is_refused(arrays):
    with pytest.raises(Disqualified):
        artefact.checked(arrays, "fit")


@given(st.integers(1, 2000), st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 2000))
def test_a_budget_holds_what_adds_up(bytes_per_item, n, shared, item):
    assert Budget(bytes_per_item, n, 8).holds(item, shared) == (item + shared / n <= bytes_per_item * (1 + 1e-6))


def test_cold_bytes_have_an_allowance_of_their_own():
    assert not Budget(64, 1000, 8).holds(8, cold=1)
    assert Budget(64, 1000, 8, cold_bytes_per_item=1536).holds(8, cold=1536)


@pytest.mark.parametrize("bytes_per_item", [0, -1, float("nan")])
def test_an_impossible_budget_is_refused(bytes_per_item):
    with pytest.raises(BadInput, match="more than 0"):
        Budget(bytes_per_item, 1, 1)


def test_the_least_is_told_when_nothing_fits():
    with pytest.raises(BudgetTooSmall, match="at least 1536"):
        list(parse("float32()").for_budget(Budget(16, 10**6, 384)))


def test_names_nest_with_the_tier_in_front():
    arrays = {"codes": np.zeros(1), "cold/rows": np.ones(1), "build/net": np.ones(2)}
    nested = nest("1.int8", arrays)
    assert set(nested) == {"1.int8/codes", "cold/1.int8/rows", "build/1.int8/net"}
    assert set(unnest("1.int8", nested)) == set(arrays)
    assert unnest("0.int8", nested) == {}


def test_codes_that_depend_on_the_batch_are_told():
    whole = {"c": RNG.integers(0, 255, (100, 8)).astype("u1")}
    assert batches.differs(whole, {"c": whole["c"][10:20]}, slice(10, 20), 100) == ""
    assert "change" in batches.differs(whole, {"c": whole["c"][11:21]}, slice(10, 20), 100)


RNG = np.random.default_rng(0)
