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
    iqm,
    mean,
    median,
    performance_profile,
    probability_of_improvement,
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
    ours = {seed: 0.9 + 0.001 * seed for seed in range(5)}
    theirs = dict.fromkeys(range(5), 0.8)
    for test in ("permutation", "wilcoxon"):
        found = compare(ours, theirs, test)
        assert found.paired
        assert found.value == pytest.approx(0.102)
        assert found.p == pytest.approx(2 / 32)
    assert found.low < 0.102 < found.high


def test_other_seeds_are_not_pairs():
    """Two groups of 3, apart: of the 20 ways to divide six values, two are as extreme."""
    found = compare({0: 1.0, 1: 2.0, 2: 3.0}, {5: 11.0, 6: 12.0, 7: 13.0})
    assert not found.paired
    assert found.value == -10.0
    assert found.p == pytest.approx(2 / 20)
    assert found.low < -10 < found.high


def test_the_same_numbers_do_not_differ_and_one_run_says_nothing():
    same = {0: 0.5, 1: 0.6}
    assert compare(same, dict(same)).p == 1.0
    assert compare({0: 0.5}, {0: 0.4}).p is None


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


def test_the_performance_profile_by_hand():
    values = np.array([[0.1, 0.5], [0.5, 0.9]])
    assert performance_profile(values, np.array([0.0, 0.3, 0.5, 1.0])).tolist() == [1.0, 0.75, 0.25, 0.0]
