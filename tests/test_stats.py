import numpy as np
import pytest
from scipy import stats as reference

from packbench.leaderboard import stats
from packbench.leaderboard.stats import Bootstrap, groups, holm


def answers(rng, queries, seeds=1, quality=0.7):
    """Recall per query with hard and easy queries in it, (seeds, queries) in tenths."""
    return rng.binomial(10, rng.beta(10 * quality, 10 * (1 - quality), queries), (seeds, queries)) / 10


def test_one_seed_agrees_with_scipy():
    cell = answers(np.random.default_rng(1), 300)
    ours = Bootstrap([cell]).mean(0)
    theirs = reference.bootstrap((cell[0],), np.mean, n_resamples=2000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(cell.mean())
    # Two draws of 2,000 put a percentile within a tenth of the standard error of each other, or nearly.
    noise = cell.std() / np.sqrt(300) * 0.2
    assert ours.low == pytest.approx(theirs.low, abs=noise)
    assert ours.high == pytest.approx(theirs.high, abs=noise)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    true, trials, covered = 0.7, 400, 0
    for trial in range(trials):
        found = Bootstrap([answers(rng, 150, quality=true)], seed=trial, resamples=500).mean(0)
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / trials <= 0.975


def test_interval_covers_the_truth_when_seeds_differ():
    rng = np.random.default_rng(6)
    covered = naive = 0
    for trial in range(200):
        cell = rng.normal(0.7, 0.1, 100) + rng.normal(0, 0.05, (8, 1))
        found = Bootstrap([cell], seed=trial, resamples=500).mean(0)
        covered += found.low <= 0.7 <= found.high
        pooled = Bootstrap([cell.mean(0, keepdims=True)], seed=trial, resamples=500).mean(0)
        naive += pooled.low <= 0.7 <= pooled.high
    assert 0.88 <= covered / 200 <= 0.99
    assert naive < covered - 10  # what leaving the seeds out would cost


def test_resampling_is_paired():
    rng = np.random.default_rng(2)
    cell = answers(rng, 200)
    both = Bootstrap([cell, cell - 0.05])
    change = both.difference(0, 1)
    assert (change.low, change.high) == (pytest.approx(0.05), pytest.approx(0.05))
    assert both.mean(0).high - both.mean(0).low > 0.02
    ratio = Bootstrap([cell, cell / 2]).ratio(1, 0)
    assert ratio is not None
    assert (ratio.low, ratio.value, ratio.high) == (pytest.approx(0.5),) * 3


def test_a_cell_is_resampled_alike_in_any_company():
    rng = np.random.default_rng(3)
    cells = [answers(rng, 50) for _ in range(3)]
    alone = Bootstrap(cells[:1]).draws[:, 0]
    np.testing.assert_allclose(Bootstrap(cells).draws[:, 0], alone)  # a product of another shape may round otherwise


def test_blocks_do_not_change_the_draws(monkeypatch):
    cells = [answers(np.random.default_rng(4), 64, seeds=2)]
    whole = Bootstrap(cells).draws
    monkeypatch.setattr(stats, "_BLOCK", 64 * 7)
    np.testing.assert_allclose(Bootstrap(cells).draws, whole)


def test_seeds_are_an_outer_level():
    # Every query agrees, only the two seeds differ: a mean of two seeds drawn from {0, 1} is 0, 1/2 or 1.
    cell = np.array([[0.0] * 50, [1.0] * 50])
    found = Bootstrap([cell])
    assert sorted(set(np.round(found.draws[:, 0], 6))) == [0.0, 0.5, 1.0]
    assert (found.mean(0).low, found.mean(0).value, found.mean(0).high) == (0.0, 0.5, 1.0)


def test_cells_of_several_seeds_keep_to_their_own():
    cells = [np.full((seeds, 20), value) for seeds, value in ((3, 0.1), (1, 0.2), (2, 0.3), (1, 0.4))]
    np.testing.assert_allclose(Bootstrap(cells).draws, np.tile([0.1, 0.2, 0.3, 0.4], (2000, 1)))


def test_ratio_to_nothing_is_not_a_number():
    assert Bootstrap([np.ones((1, 9)), np.zeros((1, 9))]).ratio(0, 1) is None


def test_p_values_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(7)
    base = answers(rng, 250)
    cells = [base, np.clip(base + rng.normal(0.012, 0.1, base.shape), 0, 1), base + rng.normal(0, 0.1, base.shape)]
    found = Bootstrap(cells, resamples=20_000).p_values(np.array([0, 0]), np.array([1, 2]))
    for at, p_value in enumerate(found, 1):
        assert p_value == pytest.approx(reference.ttest_rel(cells[0][0], cells[at][0]).pvalue, rel=0.12, abs=0.01)


def test_holm_known_answer():
    # The example of Holm's procedure in most textbooks: 0.005·4, 0.01·3, 0.03·2, then no less than the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_separation():
    rng = np.random.default_rng(8)
    good = answers(rng, 300, quality=0.9)
    cells = Bootstrap([good, good.copy(), good - 0.001, answers(rng, 300, quality=0.5)])
    apart = cells.separated([0, 1, 2, 3])
    assert not apart[0, 1]
    assert apart[0, 2]  # by the same amount on every query: tiny, and beyond doubt
    assert apart[:3, 3].all()
    assert (apart == apart.T).all()
    assert cells.separated([3]).tolist() == [[False]]
    assert not Bootstrap([np.zeros((1, 1)), np.ones((1, 1))]).separated([0, 1]).any()  # one query proves nothing


def test_methods_that_are_alike_are_seldom_separated():
    rng = np.random.default_rng(9)
    wrong = 0
    for trial in range(200):
        hardness = rng.beta(7, 3, 120)
        cells = [rng.binomial(10, hardness)[None] / 10 for _ in range(5)]
        wrong += Bootstrap(cells, seed=trial, resamples=500).separated(range(5)).any()
    assert wrong / 200 <= 0.09


@pytest.mark.parametrize(
    ("pairs", "letters"),
    [
        ([], ["a", "a", "a"]),
        ([(0, 2)], ["a", "ab", "b"]),
        ([(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        ([(0, 1), (0, 2)], ["a", "b", "b"]),
        ([(0, 2), (1, 2)], ["a", "a", "b"]),
        ([(0, 1)], ["a", "b", "b"]),
    ],
)
def test_groups_known_answers(pairs, letters):
    apart = np.zeros((3, 3), dtype=bool)
    for left, right in pairs:
        apart[left, right] = apart[right, left] = True
    assert groups(apart) == letters


def test_groups_never_join_what_is_separated():
    rng = np.random.default_rng(10)
    for _ in range(200):
        apart = rng.random((8, 8)) < 0.3
        apart = np.triu(apart, 1) | np.triu(apart, 1).T
        letters = groups(apart)
        assert all(letters)
        for left, right in np.argwhere(apart):
            assert not set(letters[left]) & set(letters[right])
    assert len(set(groups(~np.eye(60, dtype=bool)))) == 60
