"""Hold two-stage search against the exact ranking of its second store, and its bytes against the scales."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.exact import DecodeSearcher, score_of, search_exact
from packbench.items import Array, Items
from packbench.method import COLD, Arrays, Codec, Hits, Method, Metric, Sample, needs_of, unnest
from packbench.methods.binary.sign import Sign
from packbench.methods.composite.rescore import BinaryRescore, Rescore
from packbench.methods.scalar.float32 import Float32
from packbench.registry import get
from packbench.spec import parse

METRICS = ["ip", "cosine", "l2"]


@dataclass(frozen=True, slots=True)
class Counting(Codec):
    """Keep one byte per coordinate on a shared scale, and note how many rows each call decoded."""

    name: ClassVar[str] = "counting"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    decoded: ClassVar[list[int]] = []

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return float(d), 4.0, 0.0

    def fit(self, sample: Sample) -> Arrays:
        return {"scale": np.array([np.abs(np.asarray(sample.items)).max() / 127], np.float32)}

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": np.rint(np.asarray(items) / shared["scale"]).astype(np.int8)}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        self.decoded.append(len(codes["codes"]))
        return codes["codes"] * shared["scale"]


@dataclass(frozen=True, slots=True)
class Uneven(Counting):
    """Keep values and offsets, as codes of unequal length do."""

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": np.zeros(3, np.int8), "offsets": np.zeros(len(items) + 1, np.int64)}


@dataclass(frozen=True, slots=True)
class Few(Method):
    """Find three items, the last ones first, and nothing more."""

    name: ClassVar[str] = "few"

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        return {"codes": np.zeros((len(items), 1), np.uint8)}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Few:
        return self

    def search(self, queries: Items, k: int) -> Hits:
        ids = np.full((len(queries), k), -1)
        ids[:, :3] = [9, 7, 2]
        return Hits(ids, np.zeros(ids.shape, np.float32))


def gaussian(n: int, d: int = 40, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def built(method: Rescore | BinaryRescore, items: Array, metric: Metric) -> tuple[Arrays, Arrays]:
    shared = method.fit(Sample(items, metric=metric))
    return method.encode(items, shared), shared


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tier", ["ram", "disk"])
@pytest.mark.parametrize("second", [Float32(), Counting()])
def test_a_shortlist_of_all_is_the_exact_ranking_of_the_second_store(metric: str, tier: str, second: Codec) -> None:
    items, queries = gaussian(300), gaussian(20, seed=1)
    items[200:210] = items[100:110]  # ties go to the lower id
    method = Rescore(Sign(), second, factor=30, tier=tier)
    codes, shared = built(method, items, metric)
    hits = method.open(codes, shared, metric).search(queries, 10)
    part = f"1.{second.name}"
    rows = {name.removeprefix(COLD): array for name, array in unnest(part, codes).items()}
    decoded = second.decode(rows, unnest(part, shared)).astype(np.float64)
    # Rounded as scores are returned: what float32 cannot tell apart goes by id.
    exact = score_of(metric)(queries.astype(np.float64), decoded).astype(np.float32)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    assert np.array_equal(hits.ids, order)
    assert np.allclose(hits.scores, np.take_along_axis(exact, order, axis=1), rtol=1e-5, atol=1e-5)
    searcher = DecodeSearcher(second, rows, unnest(part, shared), metric)
    assert np.mean(hits.ids == searcher.search(queries, 10).ids) > 0.95


@pytest.mark.parametrize("metric", METRICS)
def test_the_answer_is_the_best_of_the_first_stage_by_the_second(metric: str) -> None:
    items, queries = gaussian(2000), gaussian(30, seed=1)
    method = Rescore(Sign(), Float32(), factor=4)
    codes, shared = built(method, items, metric)
    listed = Sign().open(unnest("0.sign", codes), {}, metric).search(queries, 40).ids
    hits = method.open(codes, shared, metric).search(queries, 10)
    for row in range(30):
        among = np.sort(listed[row])
        assert np.array_equal(
            hits.ids[row], among[search_exact(queries[row : row + 1], items[among], metric, 10).ids[0]]
        )
    one = method.open(codes, shared, metric).search(queries[3:4], 10)
    assert np.array_equal(one.ids[0], hits.ids[3])


def test_only_shortlisted_rows_are_decoded_and_read_from_disk(tmp_path: Path) -> None:
    items, queries = gaussian(1000), gaussian(1, seed=1)
    method = Rescore(Sign(), Counting(), factor=3, tier="disk")
    codes, shared = built(method, items, "ip")
    assert set(codes) == {"0.sign/codes", COLD + "1.counting/codes"}
    assert set(shared) == {"1.counting/scale"}
    mapped = {}
    for position, (name, array) in enumerate(codes.items()):
        np.save(tmp_path / f"{position}.npy", array)
        mapped[name] = np.load(tmp_path / f"{position}.npy", mmap_mode="r")
    searcher = method.open(mapped, shared, "ip")
    Counting.decoded.clear()
    hits = searcher.search(queries, 7)
    assert Counting.decoded == [21]
    assert np.array_equal(hits.ids, method.open(codes, shared, "ip").search(queries, 7).ids)
    assert searcher.cold_bytes_per_query(7) == 21 * 40
    assert searcher.cold_bytes_per_query(1000) == 1000 * 40
    in_ram = Rescore(Sign(), Counting(), factor=3)
    assert in_ram.open(*built(in_ram, items, "ip"), "ip").cold_bytes_per_query(7) == 0
    outer = Rescore(method, Float32(), factor=2, tier="disk")
    assert outer.open(*built(outer, items, "ip"), "ip").cold_bytes_per_query(5) == 10 * 160 + 30 * 40


@pytest.mark.parametrize(
    "method",
    [Rescore(Sign(), Counting()), Rescore(Sign(), Counting(), tier="disk"), Rescore(Sign("mean"), Float32()),
     BinaryRescore(), BinaryRescore(tier="disk")],
)  # fmt: skip
@pytest.mark.parametrize("d", [37, 40])
def test_bytes_are_as_planned_tier_by_tier(method: Rescore | BinaryRescore, d: int) -> None:
    codes, shared = built(method, gaussian(30, d), "ip")
    cold = sum(array.nbytes for name, array in codes.items() if name.startswith(COLD))
    hot = sum(array.nbytes for array in codes.values()) - cold
    assert not any(name.startswith(COLD) for name in shared)
    assert method.planned_bytes(d) == (hot / 30, sum(array.nbytes for array in shared.values()), cold / 30)
    assert (cold > 0) == (method.tier == "disk")


def test_a_short_first_answer_leaves_gaps_and_equal_second_scores_go_to_the_lower_id() -> None:
    items = gaussian(20)
    items[2] = items[7] = items[9]
    method = Rescore(Few(), Counting())
    searcher = method.open(*built(method, items, "l2"), "l2")
    Counting.decoded.clear()
    assert searcher.search(items[:2], 5).ids.tolist() == [[2, 7, 9, -1, -1]] * 2
    assert Counting.decoded == [3]


@pytest.mark.parametrize("n", [0, 1, 6])
@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_few_rows(n: int, tier: str) -> None:
    items, queries = gaussian(6), gaussian(4, seed=1)
    method = Rescore(Sign(), Float32(), tier=tier)
    shared = method.fit(Sample(items))
    searcher = method.open(method.encode(items[:n], shared), shared, "ip")
    hits = searcher.search(queries, 9)
    assert hits.ids.shape == hits.scores.shape == (4, 9)
    assert np.all(np.sort(hits.ids, axis=1)[:, 9 - n :] == np.arange(n))
    assert np.all(hits.ids[:, n:] == -1)
    assert searcher.search(queries[:0], 3).ids.shape == (0, 3)


def test_a_wider_shortlist_recalls_more_and_halves_code_as_the_whole() -> None:
    items, queries = gaussian(3000), gaussian(40, seed=1)
    truth = search_exact(queries, items, "ip", 10).ids
    found = []
    for factor in (1, 5, 50):
        method = Rescore(Sign(), Float32(), factor)
        codes, shared = built(method, items, "ip")
        ids = method.open(codes, shared, "ip").search(queries, 10).ids
        found.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]))
    assert found[0] + 0.1 < found[1] < found[2] - 0.1
    halves = [method.encode(part, shared) for part in (items[:1500], items[1500:])]
    assert all(np.array_equal(np.concatenate([half[name] for half in halves]), codes[name]) for name in codes)


def test_needs_are_those_of_both_parts() -> None:
    assert needs_of(Rescore(Sign(), Counting())) == {"labels"}
    assert needs_of(Rescore(Sign(), Float32())) == frozenset()


@pytest.mark.parametrize(
    "spec",
    ["rescore(sign(), float32())", "rescore(sign(scorer='asymmetric'), float32(), factor=4, tier='disk')",
     "binary_rescore()", "binary_rescore(factor=4, tier='disk')"],
)  # fmt: skip
def test_specs_round_trip(spec: str) -> None:
    assert str(parse(spec)) == spec
    assert parse(str(parse(spec))) == parse(spec)


@pytest.mark.parametrize(
    "spec",
    ["rescore(sign(), sign())", "rescore(sign(), float32(), factor=0)", "rescore(sign(), float32(), tier='tape')",
     "binary_rescore(factor=0)", "binary_rescore(tier='tape')"],
)  # fmt: skip
def test_impossible_configurations_are_refused(spec: str) -> None:
    with pytest.raises(BadInput):
        parse(spec)


def test_a_second_store_without_one_row_per_item_is_refused() -> None:
    method = Rescore(Sign(), Uneven())
    with pytest.raises(BadInput, match="one row per item"):
        method.open(*built(method, gaussian(20), "ip"), "ip")


@pytest.mark.parametrize("metric", METRICS)
def test_binary_rescore_is_signs_then_int8(metric: str) -> None:
    items, queries = gaussian(800), gaussian(20, seed=1)
    written, short = parse("rescore(sign(), int8(), factor=5)"), BinaryRescore(factor=5)
    assert isinstance(written, Rescore)
    hits = [method.open(*built(method, items, metric), metric).search(queries, 10) for method in (written, short)]
    assert np.array_equal(hits[0].ids, hits[1].ids)
    assert written.planned_bytes(40) == short.planned_bytes(40)


@pytest.mark.parametrize("name", ["rescore", "binary_rescore"])
@pytest.mark.parametrize("d", [64, 385, 1024])
@pytest.mark.parametrize("cold", [0, 1, 4])
def test_budgets_are_met_in_both_tiers(name: str, d: int, cold: int) -> None:
    answered = 0
    for nbytes in (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 2 * d):
        budget = Budget(nbytes, 1_000_000, d, cold_bytes_per_item=cold * d + 8 * (cold > 0))
        try:
            found = list(get(name).for_budget(budget))
        except BudgetTooSmall as refusal:
            assert refusal.least > nbytes or "on disk" in refusal.reason
            continue
        answered += 1
        assert all(isinstance(method, Rescore) and parse(str(method)) == method for method in found)
        assert all(budget.holds(*method.planned_bytes(d)) for method in found)
        assert (found[0].tier == "disk") == (cold > 0)
        assert {method.tier for method in found} <= ({"ram", "disk"} if cold else {"ram"})
    assert answered
