"""Each statistic of a table against an example worked by hand."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench.paper.statistics import (
    Method,
    bootstrap,
    compare,
    estimate,
    estimates,
    holm,
    improvement,
    iqm,
    mean,
    median,
    performance_profile,
    probability_of_improvement,
    profile_band,
    resampled,
    same,
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


def test_the_median_over_tasks_is_that_of_their_means():
    """Means of the tasks: 1, 4 and 6. All nine runs together have the median 2."""
    values = np.array([[0.0, 2.0, 1.0], [1.0, 2.0, 2.0], [2.0, 8.0, 15.0]])
    assert median(values) == 4.0
    assert median(values.ravel()) == 2.0
    assert median(np.array([[1.0, 3.0], [3.0, np.nan], [8.0, np.nan]])) == 3.5  # of 4 and 3
    assert (
        median(np.array([[1.0, np.nan], [3.0, np.nan], [8.0, np.nan]])) == 3.0
    )  # one task has runs: of these
    found = compare(values, np.zeros((3, 3)), True, Method(of=median))
    assert found.value == 4.0
    # The lowest draw has the means 0, 2 and 1, the highest 2, 8 and 15: medians 1 and 8.
    figures = np.median(resampled(values).mean(axis=1), axis=1)
    assert (figures.min(), figures.max()) == (1.0, 8.0)
    assert bootstrap(values, median) == pytest.approx(tuple(np.quantile(figures, [0.025, 0.975])))


def test_blocks_draw_what_all_at_once_draw(monkeypatch):
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    ours[3, 1] = np.nan
    thresholds = np.array([-0.5, 0.0, 0.5])

    def found():
        return (
            [bootstrap(ours, of, 1000) for of in (mean, median, iqm)],
            [compare(ours, theirs, False, Method(of=of, resamples=1000)) for of in (median, iqm)],
            improvement(ours, theirs, 1000),
            profile_band(ours, thresholds, 1000).tolist(),
        )

    whole = found()
    monkeypatch.setattr(estimates, "BLOCK", 100)
    assert found() == whole


def test_the_bootstrap_resamples_each_task_by_itself():
    values = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    draws = resampled(values)
    assert draws.shape == (50_000, 3, 2)
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
        found = compare(ours, theirs, True, Method(test=test))
        assert found.paired
        assert found.value == pytest.approx(0.102)
        assert found.p == pytest.approx(2 / 32) == found.least
    # Differences 0.100 to 0.104: deviation 0.0015811, t(0.975, 4) = 2.776445.
    half = 2.776445 * 0.0015811388 / 5**0.5
    assert (found.low, found.high) == (pytest.approx(0.102 - half), pytest.approx(0.102 + half))


def test_other_seeds_are_not_pairs():
    """Two groups of 3, apart: of the 20 ways to divide six values, two are as extreme."""
    for test in ("permutation", "wilcoxon"):
        found = compare(np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0]), False, Method(test=test))
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


@pytest.mark.parametrize("diverged", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out(diverged):
    """A run that diverged changes neither a figure nor a test; its pair is left out with it."""
    ours, theirs = np.array([0.5, 0.7, 0.9, diverged]), np.array([0.4, 0.6, 0.7, 0.5])
    for interval, of in (("student", mean), ("bootstrap", mean), ("bootstrap", iqm), ("bootstrap", median)):
        found = estimate(ours, interval, of)
        whole = estimate(ours[:3], interval, of)
        assert (found.value, found.n, found.deviation) == (whole.value, 3, whole.deviation)
        assert found.low is not None and np.isfinite(found.low)
    for test in ("permutation", "wilcoxon"):
        assert compare(ours, theirs, True, Method(test=test)) == compare(
            ours[:3], theirs[:3], True, Method(test=test)
        )
        assert (
            compare(ours, theirs, False, Method(test=test)).p
            == compare(ours[:3], theirs, False, Method(test=test)).p
        )
    nothing = np.array([diverged, diverged])
    assert np.isnan(estimate(nothing).value) and estimate(nothing).n == 0
    assert compare(nothing, theirs[:2], True).p is None


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
    scores = np.random.default_rng(7).random((5, 4))
    assert median(scores) == pytest.approx(metrics.aggregate_median(scores))
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


def shares(low: int = 2, high: int = 12) -> st.SearchStrategy[tuple[int, list[int], list[int]]]:
    """N, and two lists of counts out of N that lie near each other, as accuracies of trained models do."""

    def counts(total: int) -> st.SearchStrategy[tuple[int, list[int], list[int]]]:
        some = st.lists(
            st.integers(max(0, total - 9), total) | st.integers(0, total), min_size=low, max_size=high
        )
        return st.tuples(st.just(total), some, some)

    return st.integers(2, 1_000_000).flatmap(counts)


def both_sides(observed: int, found: list[int]) -> tuple[float, float]:
    """p of integers, and the smallest p that any of them has."""
    above, below = sum(v >= observed for v in found), sum(v <= observed for v in found)
    least = min(found.count(max(found)), found.count(min(found)))
    return tuple(min(1.0, float(Fraction(2 * count, len(found)))) for count in (min(above, below), least))


def middle_of(values: list[int]) -> int:
    """Twice the median."""
    ordered, n = sorted(values), len(values)
    return ordered[(n - 1) // 2] + ordered[n // 2]


@settings(deadline=None, max_examples=60)
@given(shares(high=10), st.booleans())
def test_a_permutation_test_of_pairs_is_that_of_integers(given, medians):
    total, a, b = given
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    figure = middle_of if medians else sum
    differences = []
    for swapped in product((False, True), repeat=n):
        x = [theirs if swap else ours for ours, theirs, swap in zip(a, b, swapped, strict=True)]
        y = [ours if swap else theirs for ours, theirs, swap in zip(a, b, swapped, strict=True)]
        differences.append(figure(x) - figure(y))
    p, least = both_sides(figure(a) - figure(b), differences)
    found = compare(np.array(a) / total, np.array(b) / total, True, Method(of=median if medians else mean))
    assert (found.p, found.least) == (pytest.approx(p, abs=1e-12), pytest.approx(least, abs=1e-12))
    assert (found.value > 0) == (figure(a) > figure(b)) and (found.value < 0) == (figure(a) < figure(b))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-50, 60), min_size=14, max_size=36))
def test_all_choices_of_many_pairs_to_swap_are_counted(differences):
    """Counts the choices by their sum, one pair after the other: of 20 pairs there are a million."""
    sums = Counter([0])
    for one in differences:
        sums = sum((Counter({at + sign * one: n for at, n in sums.items()}) for sign in (1, -1)), Counter())
    beyond = sum(n for at, n in sums.items() if at >= abs(sum(differences)))
    theirs = np.linspace(0.5, 0.6, len(differences))
    found = compare(theirs + np.array(differences) / 1000, theirs, True)
    assert found.p == pytest.approx(min(1.0, 2 * beyond / 2 ** len(differences)), rel=1e-9)
    assert found.least == pytest.approx(min(1.0, 2 * sums[max(sums)] / 2 ** len(differences)), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(shares(high=6))
def test_a_permutation_test_of_groups_is_that_of_integers(given):
    total, a, b = given
    n, m, pooled = len(a), len(b), a + b
    sums = [sum(chosen) for chosen in combinations(pooled, n)]
    differences = [m * chosen - n * (sum(pooled) - chosen) for chosen in sums]
    p, least = both_sides(m * sum(a) - n * sum(b), differences)
    found = compare(np.array(a) / total, np.array(b) / total, False)
    assert (found.p, found.least) == (pytest.approx(p, abs=1e-12), pytest.approx(least, abs=1e-12))


@settings(deadline=None, max_examples=40)
@given(shares(high=20))
@example((1000, [930, 931, 935, 940], [929, 932, 934, 938]))
def test_rank_tests_are_those_of_integers(given):
    total, a, b = given
    n = min(len(a), len(b))
    if a[:n] != b[:n]:
        reference = stats.wilcoxon(np.array(a[:n], float), np.array(b[:n], float)).pvalue
        found = compare(np.array(a[:n]) / total, np.array(b[:n]) / total, True, Method(test="wilcoxon"))
        assert found.p == pytest.approx(reference, abs=1e-12)
        assert found.least <= found.p + 1e-12
    if len({*a, *b}) > 1:
        reference = stats.mannwhitneyu(np.array(a), np.array(b)).pvalue
        found = compare(np.array(a) / total, np.array(b) / total, False, Method(test="wilcoxon"))
        assert found.p == pytest.approx(reference, abs=1e-12)


@settings(deadline=None)
@given(shares(high=20), st.randoms())
def test_the_same_values_in_another_order_are_the_same_figure(given, random):
    total, a, _ = given
    other = random.sample(a, len(a))
    for of in (mean, median, iqm):
        assert of(np.array(a) / total) == of(np.array(other) / total)
    k = sum(a)
    spread = [k // len(a) + (n < k % len(a)) for n in range(len(a))]  # other values of the same sum
    assert same(mean(np.array(a) / total), mean(np.array(spread) / total))


def test_the_least_p_counts_the_pairs_that_differ():
    """Ten pairs of which five are the same: no choice of signs gives less than 2/32."""
    theirs = np.linspace(0.9, 0.99, 10)
    ours = theirs + np.where(np.arange(10) < 5, 0.01, 0.0)
    for test in ("permutation", "wilcoxon"):
        found = compare(ours, theirs, True, Method(test=test))
        assert found.least == pytest.approx(found.p) and found.p >= 2 / 32 - 1e-12
    assert compare(ours, theirs, True).p == pytest.approx(2 / 32)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["permutation", "wilcoxon"]), st.integers(1, 50))
def test_what_tells_tasks_apart_changes_no_test_of_rows(seed, test, offset):
    """Tasks that are far apart: p is what it is where they are not."""
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(900, 960, (6, 3)) / 1000, rng.integers(890, 950, (5, 3)) / 1000
    far = offset * np.array([0.0, 1.0, -2.0])
    a, b = (
        compare(ours, theirs, False, Method(test=test)),
        compare(ours + far, theirs + far, False, Method(test=test)),
    )
    assert (a.p, a.least, a.value) == (b.p, b.least, pytest.approx(b.value))


def test_groups_over_tasks_that_differ_in_all_of_them_are_told_apart():
    """A difference of 0.025 within each task, tasks 0.4 apart: p is small, as the interval says."""
    rng = np.random.default_rng(0)
    base = np.array([0.5, 0.7, 0.9])
    ours, theirs = base - 0.025 + rng.normal(0, 0.005, (6, 3)), base + rng.normal(0, 0.005, (6, 3))
    for test in ("permutation", "wilcoxon"):
        found = compare(ours, theirs, False, Method(test=test))
        assert found.high < 0 and found.p < 0.001


def test_a_task_with_fewer_runs_weighs_as_much():
    """As if each task's runs were repeated until all have equally many, for each statistic."""
    values = np.array([[0.1, 0.5], [0.2, 0.9], [0.4, np.nan]])
    repeated = np.array([[0.1, 0.1, 0.2, 0.2, 0.4, 0.4], [0.5, 0.9] * 3]).T
    for of in (mean, median, iqm):
        assert of(values) == pytest.approx(of(repeated))
        low, high = bootstrap(values, of)
        assert 0.1 <= low <= of(values) <= high <= 0.9
    assert mean(values) == pytest.approx((0.7 / 3 + 0.7) / 2)
    draws = resampled(values)
    assert np.array_equal(np.isfinite(draws).sum(axis=1), np.broadcast_to([3, 2], (50_000, 2)))
    assert performance_profile(values, np.array([0.3])).tolist() == [pytest.approx((1 / 3 + 1) / 2)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 100), min_size=2, max_size=8),
    st.lists(st.integers(0, 100), min_size=2, max_size=8),
)
def test_an_interval_stays_where_the_metric_can_be(a, b):
    ours, theirs = np.array(a) / 100, np.array(b) / 100
    for interval in ("student", "bootstrap"):
        found = estimate(ours, interval, bounds=(0.0, 1.0))
        assert 0 <= found.low <= found.value <= found.high <= 1
    found = compare(ours, theirs, len(a) == len(b), Method(bounds=(0.0, 1.0)))
    assert found.low >= -1 and found.high <= 1
