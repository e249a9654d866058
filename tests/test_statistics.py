"""Each statistic of a table against an example worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.paper.statistics import (
    bootstrap,
    compare,
    estimate,
    holm,
    improvement,
    iqm,
    mean,
    median,
    performance_profile,
    probability_of_improvement,
    profile_band,
    resampled,
)


def test_students_interval():
    """1, 2, 3: mean 2, deviation 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653."""
    found = estimate(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.deviation, found.n) == (2.0, 1.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5)


def test_one_run_has_no_interval():
    for interval in ("student", "bootstrap", "none"):
        found = estimate(np.array([0.9]), interval)
        assert (found.value, found.n, found.low, found.high, found.deviation) == (0.9, 1, None, None, None)


def test_students_interval_is_refused_for_what_it_is_not_of():
    with pytest.raises(ValueError, match="mean"):
        estimate(np.array([1.0, 2.0]), "student", median)


def test_the_interquartile_mean_leaves_a_quarter_out_on_each_side():
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert median(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert iqm(np.array([[0.0, 1.0], [2.0, 100.0]])) == 1.5  # over runs and tasks alike


def test_the_bootstrap_resamples_each_task_by_itself():
    values = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    draws = resampled(values)
    assert draws.shape == (2000, 3, 2)
    assert set(np.unique(draws[:, :, 0])) == {0.0, 1.0, 2.0}
    assert set(np.unique(draws[:, :, 1])) == {10.0, 11.0, 12.0}
    low, high = bootstrap(values, mean)
    assert 5.0 <= low < 6.0 < high <= 7.0
    assert (low, high) == bootstrap(values, mean)  # the seed is fixed


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap(values, mean)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.1)


def test_five_pairs_that_all_point_one_way():
    """Of the 32 choices of signs, two are as extreme: p = 2/32, by permutation and by ranks."""
    ours, theirs = 0.9 + 0.001 * np.arange(5), np.full(5, 0.8)
    for test in ("permutation", "wilcoxon"):
        found = compare(ours, theirs, True, test)
        assert found.paired
        assert found.value == pytest.approx(0.102)
        assert found.p == pytest.approx(2 / 32) == found.least
    # Differences 0.100 to 0.104: deviation 0.0015811, t(0.975, 4) = 2.776445.
    half = 2.776445 * 0.0015811388 / 5**0.5
    assert (found.low, found.high) == (pytest.approx(0.102 - half), pytest.approx(0.102 + half))


def test_other_seeds_are_not_pairs():
    """Two groups of 3, apart: of the 20 ways to divide six values, two are as extreme."""
    for test in ("permutation", "wilcoxon"):
        found = compare(np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0]), False, test)
        assert not found.paired
        assert found.value == -10.0
        assert found.p == pytest.approx(2 / 20) == found.least
    # Welch: both variances 1, standard error sqrt(2/3), 4 degrees of freedom, t(0.975, 4) = 2.776445.
    assert found.high == pytest.approx(-10 + 2.776445 * (2 / 3) ** 0.5)
    assert compare(np.arange(2.0), np.arange(5.0), False).least == pytest.approx(2 / 21)


def test_the_same_numbers_do_not_differ_and_one_run_says_nothing():
    same = np.array([0.5, 0.6])
    assert compare(same, same.copy(), True).p == 1.0
    one = compare(np.array([0.5]), np.array([0.4]), True)
    assert (one.p, one.low, one.n) == (None, None, 1)


def test_what_is_not_finite_has_no_spread_and_no_test():
    endless = np.array([0.5, np.inf])
    found = estimate(endless)
    assert (found.value, found.n, found.low, found.deviation) == (np.inf, 2, None, None)
    assert compare(endless, np.array([0.5, 0.6]), True).p is None
    assert compare(endless, endless, True).p is None


def test_a_difference_over_tasks_has_an_interval_stratified_by_task():
    """Task 1 differs by 1 in every pair, task 2 by 3: the mean is 2, whichever pairs are drawn."""
    theirs = np.array([[0.0, 100.0], [5.0, 200.0], [9.0, 300.0]])
    shift = np.array([1.0, 3.0])
    found = compare(theirs + shift, theirs, True)
    assert (found.value, found.low, found.high) == (2.0, pytest.approx(2.0), pytest.approx(2.0))
    assert (found.n, found.p) == (3, pytest.approx(2 / 64))  # six pairs of one sign
    apart = compare(theirs + shift, theirs, False)  # drawn by themselves: another matter
    assert apart.low < -10 < 10 < apart.high


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(p):
    adjusted = holm(p)
    assert all(1 >= after >= before for before, after in zip(p, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)


def test_probability_of_improvement_by_hand():
    """Task 1: 3 of 4 pairs won. Task 2: one won, one lost, two ties. Mean of 0.75 and 0.5."""
    ours = np.array([[3.0, 1.0], [1.0, 2.0]])
    theirs = np.array([[2.0, 1.0], [0.0, 2.0]])
    assert probability_of_improvement(ours, theirs) == pytest.approx((0.75 + 0.5) / 2)
    found = improvement(ours, theirs)
    assert (found.value, found.n) == (pytest.approx(0.625), 2)
    assert 0 <= found.low < 0.625 < found.high <= 1
    always = improvement(ours + 10, theirs)  # whatever is drawn, ours is better
    assert (always.value, always.low, always.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_an_improvement_is_that_of_its_resamples():
    """The weighted sum over pairs is the statistic of the drawn runs themselves."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.integers(0, 6, (5, 3)).astype(float), rng.integers(0, 6, (4, 3)).astype(float)
    found = improvement(ours, theirs)
    a, b = resampled(ours, 0)[:, :, None], resampled(theirs, 1)[:, None]
    draws = np.mean((a > b) + 0.5 * (a == b), axis=(1, 2, 3))  # over pairs and tasks
    assert draws[7] == pytest.approx(probability_of_improvement(a[7, :, 0], b[7, 0]))
    assert (found.low, found.high) == (
        pytest.approx(np.quantile(draws, 0.025)),
        pytest.approx(np.quantile(draws, 0.975)),
    )


def test_the_performance_profile_by_hand():
    values = np.array([[0.1, 0.5], [0.5, 0.9]])
    assert performance_profile(values, np.array([0.0, 0.3, 0.5, 1.0])).tolist() == [1.0, 0.75, 0.25, 0.0]


def test_the_band_of_a_profile_is_stratified_by_task():
    """A task whose runs are all below, one whose runs are all above: half, whatever is drawn."""
    values = np.array([[0.1, 0.8], [0.2, 0.9], [0.3, 0.7]])
    assert profile_band(values, np.array([0.5])).tolist() == [[0.5], [0.5]]
    low, high = profile_band(values, np.array([0.15]))
    assert low[0] < performance_profile(values, np.array([0.15]))[0] < high[0]


def test_rliable_says_the_same():
    """Agarwal et al.'s own code on the same scores (its bootstrap does not run with today's arch)."""
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    library = pytest.importorskip("rliable.library")
    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(0.6, 0.2, (5, 4)), rng.normal(0.5, 0.2, (6, 4))
    assert iqm(ours) == pytest.approx(metrics.aggregate_iqm(ours))
    assert probability_of_improvement(ours, theirs) == pytest.approx(
        metrics.probability_of_improvement(ours, theirs)
    )
    thresholds = np.linspace(0, 1, 9)
    assert performance_profile(ours, thresholds) == pytest.approx(
        [library.run_score_deviation(ours, threshold) for threshold in thresholds]
    )
