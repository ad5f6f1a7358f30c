"""Bytes for a quality, areas, equivalence, safe budgets, several data sets: known answers and simulated rates."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from packbench.errors import BadInput
from packbench.leaderboard.curves import Curve
from packbench.leaderboard.entries import Entry, Table
from packbench.leaderboard.stats import Bootstrap, Interval, over_datasets, overlapping
from packbench.leaderboard.verdicts import Verdicts

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WHOLE = np.ones(3)


@pytest.fixture(scope="module")
def simulated():
    return runpy.run_path(str(BENCHMARKS / "simulations.py"))


def curve(*points):
    """A curve whose resamples are what was measured; None is a budget without a row."""
    return Curve([(size, None if height is None else np.full(3, height)) for size, height in points])


def test_bytes_lie_on_a_line_in_log2_of_bytes():
    found = curve((8.0, 0.6), (32.0, 1.0)).taken_by(0.8, WHOLE, 32.0)
    assert (found.value, found.low, found.high) == (pytest.approx(16.0),) * 3
    assert curve((8.0, 0.6), (32.0, 1.0)).taken_by(0.8, WHOLE / 2, 32.0).value == 8.0


def test_bytes_are_censored_at_both_ends():
    line = curve((10.0, 0.6), (40.0, 0.8))
    over, under = line.taken_by(0.9, WHOLE, 64.0), line.taken_by(0.5, WHOLE, 64.0)
    assert (over.value, over.low, over.high, over.largest) == (None, None, None, 64.0)
    assert (under.value, under.low, under.high, under.least) == (10.0, 10.0, 10.0, 10.0)


def test_an_interval_may_end_beyond_the_largest_budget():
    rng = np.random.default_rng(1)
    heights = np.append(0.951, 0.951 + rng.normal(0, 0.01, 999))
    found = Curve([(8.0, np.full(1000, 0.5)), (64.0, heights)]).taken_by(0.95, np.ones(1000), 64.0)
    assert 55 < found.low < found.value < 64
    assert found.high is None


def test_more_bytes_never_lower_the_curve():
    falling = curve((8.0, 0.9), (16.0, 0.7), (32.0, 0.95))
    assert falling.quality[0].tolist() == [0.9, 0.9, 0.95]
    assert falling.taken_by(0.9, WHOLE, 32.0).value == 8.0


def test_a_budget_without_a_row_counts_as_the_next_smaller():
    gap = curve((8.0, 0.5), (16.0, None), (32.0, 0.9))
    assert gap.taken_by(0.7, WHOLE, 32.0).value == pytest.approx(2**4.5)
    assert gap.area(8.0, 32.0).value == pytest.approx((0.5 + 0.7) / 2)
    late = curve((8.0, None), (16.0, 0.6), (32.0, 0.6))
    assert late.area(8.0, 32.0).value == pytest.approx(0.3)


def test_area_known_answers():
    assert curve((8.0, 0.5), (128.0, 0.5)).area(8.0, 128.0).value == pytest.approx(0.5)
    assert curve((8.0, 0.0), (128.0, 1.0)).area(8.0, 128.0).value == pytest.approx(0.5)
    # What weighs less than the least budget serves from there, and stays level above its last row.
    assert curve((2.0, 0.4), (2.0, 0.4)).area(8.0, 128.0).value == pytest.approx(0.4)
    assert curve((4.0, 0.2), (16.0, 0.6)).area(8.0, 32.0).value == pytest.approx((0.5 + 0.6) / 2)
    assert curve((8.0, 0.5)).area(8.0, 8.0) is None


def test_area_equals_a_fine_sum():
    rng = np.random.default_rng(2)
    for _ in range(20):
        sizes = np.sort(rng.uniform(4, 300, 5))
        line = Curve([(size, rng.random(2)) for size in sizes])
        grid = np.linspace(3, 8, 200_001)
        heights = np.interp(grid, np.log2(line.bytes), line.quality[0]) * (grid >= np.log2(line.bytes[0]))
        assert line.area(8.0, 256.0).value == pytest.approx(heights.mean(), abs=1e-4)


def test_rows_of_equal_bytes_are_one_point():
    line = curve((48.0, 0.7), (48.0, 0.8), (48.0, 0.6))
    assert line.bytes.tolist() == [48.0]
    assert line.taken_by(0.8, WHOLE, 256.0).value == 48.0


def test_lossless_needs_evidence_and_not_its_absence():
    rng = np.random.default_rng(3)
    whole = np.ones((1, 1000))
    slight = whole - 0.1 * rng.binomial(1, 0.02, whole.shape)
    large = whole - 0.1 * rng.binomial(1, 0.2, whole.shape)
    found = Bootstrap([whole, whole, slight, large])
    assert found.lossless(0).tolist() == [True, True, True, False]
    assert found.lossless(0, 0.001).tolist() == [False] * 4  # a thousand queries do not show a thousandth
    few = Bootstrap([whole[:, :100], whole[:, :100]])
    assert not few.lossless(0).any()  # the same on a hundred queries: one in a hundred may still lose everything
    assert few.queries_needed(1, 0) == 299  # 0.99 to the 299th is 0.05
    assert few.lossless(0, 0.05).all()


def test_better_by_more_than_the_margin_is_not_equivalent():
    base = np.full((1, 2000), 0.5)
    found = Bootstrap([base, base + 0.02])
    assert not found.lossless(0)[1]
    assert found.bounds(0)[0][1] > 0  # but safe


def test_queries_needed_would_do():
    cell = np.random.default_rng(4).normal(0, 0.1, 200).clip(-0.4, 0.4)
    cell += 0.496 - cell.mean()
    found = Bootstrap([np.full((1, 200), 0.5), cell[None]])
    needed = found.queries_needed(1, 0)
    assert 500 < needed < 2000
    for factor, shown in ((1.25, True), (0.8, False)):
        many = np.resize(cell, round(needed * factor / 200) * 200)
        assert Bootstrap([np.full((1, len(many)), 0.5), many[None]]).lossless(0)[1] == shown
    assert Bootstrap([np.full((1, 200), 0.5), cell[None] - 0.02]).queries_needed(1, 0) is None


def entry(budget, **more):
    given = {"name": "m", "label": "m", "request": "m", "spec": "m", "method": "m", "family": "", "fidelity": "",
             "kind": "", "seeds": (0,), "deployed_bytes": budget}  # fmt: skip
    return Entry(**given | more)


def summary(losses, queries=1000):
    """Sum up a method that loses so much on every query, by budget."""
    whole = np.full((1, queries), 0.9)
    recall = Bootstrap([whole, *(whole - loss for loss in losses.values())])
    at = {("m", budget): place for place, budget in enumerate(losses, 1)}
    (found,) = Verdicts(recall, at, 0).summaries([Table(budget, (entry(budget),), ()) for budget in sorted(losses)])
    return found


def test_safe_budget_steps_down_and_stops_at_the_first_failure():
    assert summary({8.0: 0.2, 16.0: 0.0, 32.0: 0.0}).safe_budget == 16.0
    assert summary({8.0: 0.0, 16.0: 0.2, 32.0: 0.0}).safe_budget == 32.0  # 8 would pass, and is never asked
    beyond = summary({8.0: 0.0, 16.0: 0.2})
    assert (beyond.safe_budget, beyond.queries_needed, beyond.lossless) == (None, None, (8.0,))
    short = summary({8.0: 0.2, 16.0: 0.0}, queries=100)
    assert (short.safe_budget, short.queries_needed, short.lossless) == (None, 299, ())


def test_overlapping_intervals():
    point, left, right = Interval(0.5, 0.5, 0.5), Interval(0.45, 0.4, 0.5), Interval(0.5, 0.49, 0.6)
    found = overlapping([point, left, right, None])
    assert found[0, 2]
    assert found[1, 2]
    assert not found[0, 1]  # they meet in a point: no order reverses them
    assert not found[3].any()
    assert (found == found.T).all()


def test_outcome_of_one_against_another():
    apart = np.array([[False, False, True], [False, False, False], [True, False, False]])
    rows = tuple(entry(8.0, request=name) for name in "abc")
    table = Table(8.0, rows, (entry(8.0, request="gone", status="failed"), entry(8.0, request="lost")), apart)
    assert [table.outcome("a", other) for other in ("b", "c", "gone")] == ["tie", "win", "win"]
    assert [table.outcome(one, "a") for one in ("c", "gone")] == ["loss", "loss"]
    assert table.outcome("gone", "lost") == "tie"
    with pytest.raises(BadInput, match="request d: not in this table; it has a, b, c, gone, lost"):
        table.outcome("a", "d")


def test_one_data_set_has_the_interval_of_its_queries():
    alone = Bootstrap([np.random.default_rng(5).random((1, 200))])
    (found,) = over_datasets(alone.means[None], [alone.draws])
    plain = alone.mean(0)
    assert found.value == plain.value
    assert found.low == pytest.approx(plain.low, abs=0.01)
    assert found.high == pytest.approx(plain.high, abs=0.01)


def test_data_sets_that_differ_widen_the_interval():
    means = np.array([[0.2], [0.8], [0.5], [0.6]])
    (found,) = over_datasets(means, [np.full((2000, 1), mean) for mean in means[:, 0]])
    assert found.value == pytest.approx(0.525)
    assert found.low < 0.35
    assert found.high > 0.7


@pytest.mark.parametrize(
    ("measure", "given", "low", "high"),
    [
        ("queries_coverage", (200, 100), 0.89, 0.99),
        ("seeds_coverage", (150, 5), 0.82, 0.99),
        ("datasets_coverage", (150, 5), 0.88, 1.0),
        ("false_wins", (150, 5), 0.0, 0.1),
        ("bytes_coverage", (150, 100), 0.88, 1.0),
        ("advised_coverage", (100, 100), 0.88, 1.0),
    ],
)
def test_simulated_rates(simulated, measure, given, low, high):
    assert low <= simulated[measure](*given) <= high


@pytest.mark.parametrize("losses", ["even", "rare", "mixed"])
def test_simulated_claims_are_seldom_false(simulated, losses):
    assert simulated["false_lossless"](100, 500, simulated[losses]) <= 0.1
    assert simulated["false_safe"](60, 500, simulated[losses]) <= 0.1
    assert simulated["false_advice"](40, 250, simulated[losses]) <= 0.1


def test_simulated_claims_can_be_made(simulated):
    assert simulated["false_lossless"](50, 1000, simulated["even"], 0.002) >= 0.8


def test_expected_recall_over_ties_is_the_mean_over_orders(simulated):
    assert simulated["tie_error"](1000) < 4.5


def test_documentation_shows_the_simulations():
    text = (BENCHMARKS.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    shown = text[text.index("<!-- simulations -->") : text.index("<!-- end -->")]
    assert shown.count("%") > 40
