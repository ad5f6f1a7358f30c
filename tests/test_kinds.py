"""Items of later tracks fit the contract as it stands: token vectors end to end, text and sparse by contract."""

import sys
from pathlib import Path

import numpy as np
import pytest

from packbench import registry, runner
from packbench.dataset import from_vectors
from packbench.describe import describe
from packbench.exact import METRICS, scores_of_pairs, search_exact
from packbench.items import Ragged
from packbench.store import Store
from packbench.testing import MethodChecks, run_checks

PLUGIN = str(Path(__file__).parent / "plugins" / "kinds.py")
SPARSE = np.dtype([("index", np.int32), ("weight", np.float32)])


def pack(rows, dtype):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate([np.asarray(row, dtype) for row in rows]), offsets)


def tokens(n, d, seed):
    """Return n items of 1 to 6 unit token vectors, with planted topics."""
    topics = np.random.default_rng(0).standard_normal((12, d))
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        found = topics[rng.integers(12, size=rng.integers(1, 7))] + 0.5 * rng.standard_normal(d)
        found += 0.3 * rng.standard_normal(found.shape)
        rows.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    return pack(rows, np.float32)


def texts(n, d, seed):
    rng = np.random.default_rng(seed)
    return pack([rng.choice(26, rng.integers(3, 30)) ** 2 % 26 + 97 for _ in range(n)], np.uint8)


def sparse(n, d, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        index = np.sort(rng.choice(40, rng.integers(2, 8), replace=False))
        row = np.zeros(len(index), SPARSE)
        row["index"], row["weight"] = index, rng.random(len(index))
        rows.append(row)
    return pack(rows, SPARSE)


class Kind(MethodChecks):
    n, n_queries, dims, budget_dims, seconds = 120, 12, (8,), (8,), 30
    # A budget is bytes per item, and no formula knows how long items are: these methods leave it to the scales.
    test_a_configuration_weighs_what_was_asked = None


class Tokens(Kind):
    metrics = ("maxsim",)
    make_items = staticmethod(tokens)


class Texts(Kind):
    metrics = ("letters",)
    make_items = staticmethod(texts)

    def exact(self, queries, items, metric, k):
        counts = [np.array([np.bincount(one, minlength=128) for one in of]) for of in (queries, items)]
        return np.argsort(-np.minimum(counts[0][:, None], counts[1][None]).sum(2), axis=1, kind="stable")[:, :k]


class Sparse(Kind):
    metrics = ("ip",)
    make_items = staticmethod(sparse)

    def exact(self, queries, items, metric, k):
        dense = [np.zeros((len(of), 40)) for of in (queries, items)]
        for matrix, of in zip(dense, (queries, items), strict=True):
            for row, one in enumerate(of):
                matrix[row, one["index"]] = one["weight"]
        return np.argsort(-(dense[0] @ dense[1].T), axis=1, kind="stable")[:, :k]


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the toy methods for this file alone: other tests see the registry without them."""
    before = registry.methods()
    found = registry.load_plugin(PLUGIN)
    yield
    registry._methods.clear()
    registry._methods.update(before)
    sys.modules.pop(found[0].__module__)


@pytest.fixture(scope="module")
def dataset():
    items = tokens(150, 8, 1)
    return from_vectors(items, tokens(30, 8, 2), name="token vectors", metric="maxsim")


@pytest.mark.parametrize(
    ("name", "checks"), [("half_tokens", Tokens), ("letter_counts", Texts), ("sparse_pairs", Sparse)]
)
def test_every_kind_of_item_fits_the_contract(name, checks):
    findings = run_checks(registry.get(name), checks)
    assert len(findings) > 12
    assert not [finding for finding in findings if not finding.passed]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_token_vectors_run_end_to_end(dataset, tmp_path, dtype):
    if dtype == np.float16:
        stored = Ragged(dataset.items.values.astype(dtype), dataset.items.offsets)
        dataset = from_vectors(stored, dataset.queries, name="token vectors", metric="maxsim")
    runner.run(dataset, ["half_tokens"], tmp_path, budgets=(200.0,), plugins=(PLUGIN,), references=False,
               timing_seconds=0.02)  # fmt: skip
    (row,) = Store(tmp_path).rows()
    assert row["status"] == "ok", row["reason"]
    assert row["kernel"] == "maxsim float32"
    assert row["bytes"]["payload"] == pytest.approx((dataset.items.values.size * 2 + 8 * 151) / 150)
    # Rounding to float16 may swap near neighbours; on float16 items the code is exact.
    assert row["recall"]["recall@10"] == 1 if dtype == np.float16 else row["recall"]["recall@10"] > 0.95
    assert describe(dataset)["n"] == 150


def test_what_weighs_too_much_is_over_budget(dataset, tmp_path):
    runner.run(dataset, ["half_tokens()"], tmp_path, budgets=(10.0,), plugins=(PLUGIN,), references=False)
    (row,) = Store(tmp_path).rows()
    assert row["status"] == "over_budget"


def test_maxsim_is_the_sum_of_the_best_products():
    queries, items = tokens(5, 8, 3), tokens(9, 8, 4)
    wanted = [[sum(max(float(q @ x) for x in item) for q in query) for item in items] for query in queries]
    assert METRICS["maxsim"](queries, items) == pytest.approx(np.array(wanted), abs=1e-5)
    ids = search_exact(queries, items, "maxsim", 9).ids
    assert scores_of_pairs(queries, items, ids, "maxsim") == pytest.approx(
        -np.sort(-np.array(wanted), axis=1), abs=1e-5
    )


def test_an_item_without_values_ranks_last():
    items = Ragged(tokens(3, 8, 4).values[:4], np.array([0, 2, 2, 4, 4]))
    scores = METRICS["maxsim"](tokens(2, 8, 3), items)
    assert np.isneginf(scores[:, [1, 3]]).all()
    assert np.isfinite(scores[:, [0, 2]]).all()
