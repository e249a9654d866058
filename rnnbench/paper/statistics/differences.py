"""Tests whether two samples of runs differ: the difference with its interval, permutations and ranks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy import stats

from rnnbench.paper.statistics.estimates import (
    CONFIDENCE,
    RESAMPLES,
    RESOLUTION,
    SEED,
    UNBOUNDED,
    Statistic,
    Values,
    by_task,
    cut_to,
    dense_ranks,
    draws_at_once,
    estimate,
    figures_of,
    mean,
    percentiles,
    resampled_blocks,
    run_counts,
)

EXACT = 9_999  # all permutations are tried if there are at most so many, else so many random ones
PAIRS = 36  # the permutations of the mean of so many pairs are counted, whatever their number


@dataclass(frozen=True)
class Method:
    """Keeps the settings of a comparison of two samples.

    Args:
        test: `permutation`: of the difference of figures, by swapping within pairs, or of group membership
            within each task where the seeds are not shared; all of them for means of up to 36 pairs, and
            where they are no more than 9,999, so that 5 pairs give at least p = 1/16; `wilcoxon`: signed
            ranks of pairs, the rank sum of Mann and Whitney, or over several tasks that of van Elteren, by
            permutation.
        of: mean, median or iqm.
        bounds: lowest and highest value of the metric; a difference is no larger than their distance.
        resamples: number of bootstrap resamples.
    """

    test: str = "permutation"
    of: Statistic = mean
    bounds: tuple[float, float] = UNBOUNDED
    resamples: int = RESAMPLES


DEFAULT = Method()


@dataclass(frozen=True)
class Difference:
    """Keeps how two cells of a table differ: difference of figures, its interval, p of the test."""

    value: float
    n: int  # number of pairs, or of runs in the smaller group, for the task with the fewest
    paired: bool
    low: float | None
    high: float | None
    p: float | None  # two-sided p of the test; None if n is too small
    least: float  # the smallest p that the test can give with these values, however they are arranged
    sign: float = 0.0  # sign of the tested difference, of figures or of ranks


def compare(ours: Values, theirs: Values, paired: bool, method: Method = DEFAULT) -> Difference:
    """Return the difference of the figures of ours and theirs, (runs,) or (runs, tasks).

    The interval is Student's of the paired differences, or Welch's of two groups; of a median, an
    interquartile mean or several tasks it is percentiles of the bootstrap, each task's runs separately.

    Args:
        paired: whether values at equal indices have the same seed (and task); only complete pairs count.
    """
    of = method.of
    a, b = by_task(ours), by_task(theirs)
    if paired:
        whole = np.isfinite(a) & np.isfinite(b)
        a, b = np.where(whole, a, np.nan), np.where(whole, b, np.nan)
    both = (run_counts(a) > 0) & (run_counts(b) > 0)
    a, b = a[:, both], b[:, both]
    if not both.any():
        return Difference(math.nan, 0, paired, None, None, None, 1.0)
    n = int(min(run_counts(a).min(), run_counts(b).min()))
    value = _snapped(of(a) - of(b), a, b)
    if n < 2:
        return Difference(value, n, paired, None, None, None, 1.0, value)
    if of is not mean or a.shape[1] > 1:
        low, high = percentiles(_resampled_difference(a, b, paired, method))
    elif paired:
        interval = estimate(a - b)
        assert interval.low is not None and interval.high is not None
        low, high = interval.low, interval.high
    else:
        low, high = _welch(a[np.isfinite(a)], b[np.isfinite(b)])
    widest = method.bounds[1] - method.bounds[0]
    low, high = cut_to((low, high), (-widest, widest))
    if method.test == "wilcoxon":
        p, least, sign = rank_test(a, b, paired)
    elif paired and of is mean and 0 < np.sum(np.abs(a - b) > rounding_noise(a, b)) <= PAIRS:
        (p, least), sign = _swaps_of_means(a, b), value
    else:
        p, least = _permutation_test(a, b, paired, lambda x, y: figures_of(x, of) - figures_of(y, of))
        sign = value
    return Difference(value, n, paired, low, high, p, least, sign)


def rounding_noise(*samples: Values) -> float:
    """Return the largest rounding error of sums and differences of these values."""
    return RESOLUTION * max(float(np.nanmax(np.abs(sample))) for sample in samples)


def _snapped(difference: float, *samples: Values) -> float:
    """Return a difference, or 0 where it is rounding noise."""
    return 0.0 if abs(difference) <= rounding_noise(*samples) else difference


def _welch(a: Values, b: Values) -> tuple[float, float]:
    """Return Welch's interval of the difference of means, of zero width if neither group has a spread."""
    left, right = (estimate(sample, "none") for sample in (a, b))
    shares = [float(one.deviation or 0.0) ** 2 / one.n for one in (left, right)]
    difference, variance = left.value - right.value, sum(shares)
    if variance == 0:
        return difference, difference
    freedom = variance**2 / (shares[0] ** 2 / (left.n - 1) + shares[1] ** 2 / (right.n - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return difference - half, difference + half


def _resampled_difference(a: Values, b: Values, paired: bool, method: Method) -> Values:
    """Return resampled differences of the figures; one seed for both samples draws whole pairs."""
    size = draws_at_once(a, b)
    ours = resampled_blocks(a, SEED, method.resamples, size)
    theirs = resampled_blocks(b, SEED if paired else SEED + 1, method.resamples, size)
    return np.concatenate(
        [figures_of(x, method.of) - figures_of(y, method.of) for x, y in zip(ours, theirs, strict=True)]
    )


def _swaps_of_means(a: Values, b: Values) -> tuple[float, float]:
    """Return `_permutation_test` of the mean difference of up to 36 pairs, of all choices of pairs to swap.

    A choice gives each difference a sign. The sums of one half of the pairs are looked up among the sorted
    ones of the other, which takes 2^(n/2) numbers where there are 2^n choices (Horowitz and Sahni 1974). Of
    9,999 random choices p = 0.0005 has a standard error of 0.0003, and Holm multiplies both.
    """
    noise = rounding_noise(a, b)
    shares = (a - b) / (run_counts(a) * a.shape[1])  # of the mean over tasks of each task's mean
    d = shares[np.abs(a - b) > noise]
    left, right = (np.sort(_signed_sums(half)) for half in np.array_split(d, 2))

    def share_from(least: float) -> float:
        below = np.searchsorted(right, least - noise - left)
        return float(np.mean(len(right) - below)) / len(right)

    found = float(np.sum(d))
    # With all signs changed a sum is its negative, so that as many are at most `found` as at least -found.
    p = 2 * min(share_from(found), share_from(-found))
    return min(1.0, p), min(1.0, 2 * share_from(float(np.sum(np.abs(d)))))


def _signed_sums(values: Values) -> Values:
    """Return the sums of the values under every choice of signs: (2^n,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _permutation_test(
    a: Values, b: Values, paired: bool, statistic: Callable[[Values, Values], Values]
) -> tuple[float, float]:
    """Return the two-sided p (twice the smaller), and the smallest p that any arrangement of the values has.

    scipy.stats.permutation_test compares the statistic of each arrangement to within a share of the
    observed one, which does not see ties where large values have a small difference, and it has no strata.
    """
    x, y = _swapped(a, b) if paired else _divided(a, b)
    found = statistic(x, y)
    noise = rounding_noise(x[0], y[0])
    above, below = (np.mean(found >= at - noise) for at in (found[0], found.max()))
    p = 2 * min(above, np.mean(found <= found[0] + noise))
    least = 2 * min(below, np.mean(found <= found.min() + noise))
    return min(1.0, float(p)), min(1.0, float(least))


def _swapped(a: Values, b: Values) -> tuple[Values, Values]:
    """Return both samples for every choice of pairs to swap, or for 9,999 random ones; first as they are.

    A pair of equal values is not swapped, since that changes nothing.
    """
    rows, tasks = np.nonzero(np.abs(a - b) > rounding_noise(a, b))
    n = len(rows)
    if n < EXACT.bit_length() and 2**n <= EXACT:
        swap = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    else:
        swap = np.random.default_rng(SEED).random((EXACT + 1, n)) < 0.5
        swap[0] = False
    x, y = (np.repeat(sample[None], len(swap), axis=0) for sample in (a, b))
    x[:, rows, tasks] = np.where(swap, b[rows, tasks], a[rows, tasks])
    y[:, rows, tasks] = np.where(swap, a[rows, tasks], b[rows, tasks])
    return x, y


def _divided(a: Values, b: Values) -> tuple[Values, Values]:
    """Return both samples for every division of each task's runs, or 9,999 random ones; first as they are."""
    sizes = run_counts(a)
    pools = [
        np.concatenate([a[:, task], b[:, task]])[np.isfinite(np.concatenate([a[:, task], b[:, task]]))]
        for task in range(a.shape[1])
    ]
    ways = math.prod(math.comb(len(pool), int(size)) for pool, size in zip(pools, sizes, strict=True))
    if ways <= EXACT:
        choices = [
            [
                [*left, *(k for k in range(len(pool)) if k not in left)]
                for left in combinations(range(len(pool)), size)
            ]
            for pool, size in zip(pools, map(int, sizes), strict=True)
        ]
        chosen = list(product(*choices))
        orders = [np.array([one[task] for one in chosen]) for task in range(len(pools))]
    else:
        rng = np.random.default_rng(SEED)
        orders = [np.argsort(rng.random((EXACT + 1, len(pool))), axis=1) for pool in pools]
        for order in orders:
            order[0] = np.arange(order.shape[1])
    x, y = (np.full((len(orders[0]), *sample.shape), np.nan) for sample in (a, b))
    for task, (pool, order, size) in enumerate(zip(pools, orders, sizes, strict=True)):
        x[:, :size, task] = pool[order[:, :size]]
        y[:, : len(pool) - size, task] = pool[order[:, size:]]
    return x, y


def rank_test(a: Values, b: Values, paired: bool) -> tuple[float, float, float]:
    """Return p, the smallest p that so many values with such ties can have, and the sign of the rank test."""
    if paired:
        d = (a - b)[np.isfinite(a - b)]
        d = np.where(np.abs(d) <= rounding_noise(a, b), 0.0, d)
        size = dense_ranks(np.append(0.0, np.abs(d)), rounding_noise(a, b))[
            1:
        ]  # differences of 0 have rank 0
        if not size.any():
            return 1.0, 1.0, 0.0
        signed = np.sign(d) * size
        sign = float(np.sum(np.sign(d) * stats.rankdata(size) * (size > 0)))
        return float(stats.wilcoxon(signed).pvalue), float(stats.wilcoxon(size.astype(float)).pvalue), sign
    x, y = np.full_like(a, np.nan), np.full_like(b, np.nan)
    for task in range(a.shape[1]):
        ours, theirs = np.isfinite(a[:, task]), np.isfinite(b[:, task])
        ranks = stats.rankdata(dense_ranks(np.concatenate([a[ours, task], b[theirs, task]])))
        x[ours, task], y[theirs, task] = np.split(ranks / (len(ranks) + 1), [ours.sum()])
    # A task's score minus its mean under the null hypothesis, (N + 1) / 2 a run.
    sign = _snapped(float(np.nansum(x - 0.5)), x, y)
    if a.shape[1] > 1:
        return *_permutation_test(x, y, False, lambda u, _: np.nansum(u, axis=(1, 2))), sign
    left, right = x[np.isfinite(x)], y[np.isfinite(y)]
    both = np.sort(np.concatenate([left, right]))
    # The two most extreme arrangements: either group above the other.
    extremes = [(both[: len(left)], both[len(left) :]), (both[len(right) :], both[: len(right)])]
    least = min(_mann_whitney(*one) for one in extremes)
    return _mann_whitney(left, right), least, sign


def _mann_whitney(a: Values, b: Values) -> float:
    p = float(stats.mannwhitneyu(a, b).pvalue)
    return p if math.isfinite(p) else 1.0  # p is NaN if all values are equal


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple tests (Holm 1979): the k-th smallest of m times m - k + 1."""
    order = np.argsort(p, kind="stable")
    adjusted, largest = [0.0] * len(p), 0.0
    for k, index in enumerate(order):
        largest = max(largest, min(1.0, p[index] * (len(p) - k)))
        adjusted[index] = largest
    return adjusted
