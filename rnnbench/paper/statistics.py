"""Computes the statistics of a table: the figure of each cell, and which cells differ significantly.

Values over seeds are (runs,) arrays; over seeds and tasks, as in rliable (Agarwal et al. 2021), (runs,
tasks) matrices. Entries that are not finite are left out: they pad the tasks that have fewer runs, or are
runs that diverged. Each task weighs the same, however many runs it has. Everything random (bootstrap,
permutations) has a fixed seed, so that a table is the same whoever computes it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Statistic = Callable[[Values], float]  # mean, median or iqm
UNBOUNDED = (-math.inf, math.inf)

CONFIDENCE = 0.95
RESAMPLES = 50_000  # bootstrap resamples, as in rliable
BLOCK = 4_000_000  # values resampled at once: 30 MB
EXACT = 9_999  # all permutations are tried if there are at most so many, else so many random ones
SEED = 0
# Numbers are the same if they differ by less than this share of the larger. Sums and differences of shares
# k/N carry rounding errors of about 1e-15; two that differ are at least 1e-9 apart for N up to a million and
# 20 runs, and single-precision losses at least 6e-8 of their size.
RESOLUTION = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A figure over n runs (of the task with the fewest); low and high bound its interval.

    The spread is None if n is too small for one; the value is NaN if no run has a finite one.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    deviation: float | None = None  # sample standard deviation


def _by_task(values: Values) -> Values:
    """Return the values as (runs, tasks), with NaN for those that are not finite."""
    matrix = values[:, None] if values.ndim == 1 else values
    return np.where(np.isfinite(matrix), matrix, np.nan)


def _counts(matrix: Values) -> NDArray[np.int64]:
    """Return the number of values of each task."""
    return np.asarray(np.sum(np.isfinite(matrix), axis=-2), np.int64)


def _trimmed(samples: Values, cut: Callable[[int], int]) -> Values:
    """Return the mean of each sample (..., runs, tasks) without its lowest and highest values.

    Runs of a task that has fewer of them weigh more, so that the tasks weigh the same: as if each task's
    runs were repeated up to the least common multiple of the numbers of runs. The values are added in
    ascending order, so that samples of the same values have the same mean to the last bit.

    Args:
        samples: all with the same number of runs in each task.
        cut: gives for n values the number to leave out on each side.
    """
    count = _counts(samples).reshape(-1, samples.shape[-1])[0]
    flat = samples.reshape(*samples.shape[:-2], -1)
    if len(set(count[count > 0])) <= 1:
        total = int(count.sum())
        ordered = np.sort(flat, axis=-1)  # NaN last
        return np.asarray(np.mean(ordered[..., cut(total) : total - cut(total)], axis=-1))
    multiple = math.lcm(*(int(n) for n in count if n))
    weights = np.where(np.isfinite(samples), multiple // np.maximum(count, 1), 0)
    order = np.argsort(flat, axis=-1)
    ordered = np.nan_to_num(np.take_along_axis(flat, order, -1))
    upto = np.cumsum(np.take_along_axis(weights.reshape(flat.shape), order, -1), axis=-1)
    total = multiple * int(np.sum(count > 0))
    left = cut(total)
    kept = np.diff(np.clip(upto, left, total - left), prepend=left)
    return np.asarray(np.sum(ordered * kept, axis=-1) / (total - 2 * left))


def _figures(samples: Values, of: Statistic) -> Values:
    """Return the figure of each sample (..., runs, tasks).

    Args:
        samples: all with the same number of runs in each task.
        of: mean, median or iqm.
    """
    count = _counts(samples).reshape(-1, samples.shape[-1])[0]
    if of is not median or np.sum(count > 0) < 2:
        return _trimmed(samples, CUTS[of])
    # In ascending order, so that samples of the same values have the same mean to the last bit.
    ordered = np.sort(samples[..., count > 0], axis=-2)
    return np.asarray(np.median(np.nansum(ordered, axis=-2) / count[count > 0], axis=-1))


def _figure(values: Values, of: Statistic) -> float:
    """Return the figure of the values; NaN where none is finite."""
    matrix = _by_task(values)
    return float(_figures(matrix, of)) if np.isfinite(matrix).any() else math.nan


def mean(values: Values) -> float:
    """Return the arithmetic mean of (runs,) or, over tasks, of the tasks' means of (runs, tasks)."""
    return _figure(values, mean)


def median(values: Values) -> float:
    """Return the median of the runs; over several tasks the median of the tasks' means.

    The latter is what Agarwal et al. (2021) and rliable call the median.
    """
    return _figure(values, median)


def iqm(values: Values) -> float:
    """Return the interquartile mean: of all values without the lowest and the highest quarter of them."""
    return _figure(values, iqm)


# The number of n values that each statistic leaves out on each side; the median keeps one or two values.
CUTS: dict[Statistic, Callable[[int], int]] = {
    mean: lambda n: 0,
    median: lambda n: (n - 1) // 2,
    iqm: lambda n: n // 4,
}


def same(a: float, b: float) -> bool:
    """Return whether two figures are equal up to the rounding errors of another order of summation."""
    return math.isclose(a, b, rel_tol=RESOLUTION)


def _ranks(values: Values, resolution: float | None = None) -> NDArray[np.int64]:
    """Return the rank of each value among the distinct values, from 0; equal values share a rank.

    Args:
        resolution: values at most so far apart are equal; None: as in `same`.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    size = np.maximum(np.abs(ordered[1:]), np.abs(ordered[:-1]))
    apart = np.diff(ordered) > (RESOLUTION * size if resolution is None else resolution)
    ranks = np.zeros(len(values), np.int64)
    ranks[order[1:]] = np.cumsum(apart)
    return ranks


@dataclass(frozen=True)
class Method:
    """Keeps the settings of a comparison of two samples.

    Args:
        test: `permutation`: of the difference of figures, by swapping within pairs, or of group membership
            within each task where the seeds are not shared; all of them where they are no more than 9,999,
            so that 5 pairs give at least p = 1/16; `wilcoxon`: signed ranks of pairs, the rank sum of Mann
            and Whitney, or over several tasks that of van Elteren, by permutation.
        of: mean, median or iqm.
        bounds: lowest and highest value of the metric; a difference is no larger than their distance.
        resamples: number of bootstrap resamples.
    """

    test: str = "permutation"
    of: Statistic = mean
    bounds: tuple[float, float] = UNBOUNDED
    resamples: int = RESAMPLES


def estimate(
    values: Values,
    interval: str = "student",
    of: Statistic = mean,
    bounds: tuple[float, float] = UNBOUNDED,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return a figure of the values (runs,) or (runs, tasks), with its spread.

    Args:
        interval: `student`: of the mean, by Student's t; `bootstrap`: percentiles over resampled runs,
            each task's runs by themselves (stratified); `none`.
        of: mean, median or iqm.
        bounds: lowest and highest value of the metric. Student's interval is cut there, which does not
            change its coverage, since the true mean is within them.
        resamples: number of bootstrap resamples.

    The bootstrap's interval of few runs is too narrow: of 4,000 samples of a normal distribution it covered
    the mean in 0.74 (n = 3), 0.83 (5), 0.89 (8), 0.90 (10) and 0.92 (20), the median in 0.75 at n = 3.

    Raises:
        ValueError: `student` of anything but the mean of (runs,).
    """
    matrix = _by_task(values)
    if interval == "student" and (of is not mean or matrix.shape[1] > 1):
        raise ValueError("Student's interval is one of the mean over the runs of one task")
    count = _counts(matrix)
    n = int(count[count > 0].min(initial=len(matrix))) if count.any() else 0
    value = of(matrix)
    if n < 2:
        return Estimate(value, n)
    low = high = deviation = None
    if matrix.shape[1] == 1:
        runs = matrix[np.isfinite(matrix)]
        deviation = 0.0 if same(runs.min(), runs.max()) else float(np.std(runs, ddof=1))
        if interval == "student":
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
            low, high = _within((value - half, value + half), bounds)
    if interval == "bootstrap":
        low, high = bootstrap(matrix, of, resamples)
    return Estimate(value, n, low, high, deviation)


def _within(interval: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in interval)
    return low, high


def resampled(values: NDArray[Any], seed: int = SEED, resamples: int = RESAMPLES) -> NDArray[Any]:
    """Return draws of the runs with replacement, each task's separately: (resamples, runs, ...).

    A task with fewer runs, padded with NaN, keeps its number of runs in each draw.
    """
    return np.concatenate(list(_resampled(values, seed, resamples, resamples)))


def _resampled(values: NDArray[Any], seed: int, resamples: int, at_once: int) -> Iterator[NDArray[Any]]:
    """Yield the draws of `resampled` in blocks of at most `at_once`, which does not change them."""
    rng = np.random.default_rng(seed)
    present = np.isfinite(values)
    count = present.sum(axis=0)
    front = np.take_along_axis(values, np.argsort(~present, axis=0, kind="stable"), axis=0)
    place = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    for first in range(0, resamples, at_once):
        shape = (min(at_once, resamples - first), *values.shape)
        index = rng.integers(0, len(values) if np.all(present) else np.maximum(count, 1), shape)
        drawn = np.take_along_axis(front[None], index, axis=1)
        yield drawn if np.all(present) else np.where(place < count, drawn, np.nan)


def _at_once(*samples: Values) -> int:
    """Return how many draws of samples take BLOCK values."""
    return max(1, BLOCK // max(1, *(sample.size for sample in samples)))


def bootstrap(values: Values, of: Statistic, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the percentile interval of a figure over resampled runs."""
    matrix = _by_task(values)
    blocks = _resampled(matrix, SEED, resamples, _at_once(matrix))
    return _percentiles(np.concatenate([_figures(block, of) for block in blocks]))


def _percentiles(figures: Sequence[float] | Values) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


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
    a, b = _by_task(ours), _by_task(theirs)
    if paired:
        whole = np.isfinite(a) & np.isfinite(b)
        a, b = np.where(whole, a, np.nan), np.where(whole, b, np.nan)
    both = (_counts(a) > 0) & (_counts(b) > 0)
    a, b = a[:, both], b[:, both]
    if not both.any():
        return Difference(math.nan, 0, paired, None, None, None, 1.0)
    n = int(min(_counts(a).min(), _counts(b).min()))
    value = _snapped(of(a) - of(b), a, b)
    if n < 2:
        return Difference(value, n, paired, None, None, None, 1.0, value)
    if of is not mean or a.shape[1] > 1:
        low, high = _percentiles(_resampled_difference(a, b, paired, method))
    elif paired:
        interval = estimate(a - b)
        assert interval.low is not None and interval.high is not None
        low, high = interval.low, interval.high
    else:
        low, high = _welch(a[np.isfinite(a)], b[np.isfinite(b)])
    widest = method.bounds[1] - method.bounds[0]
    low, high = _within((low, high), (-widest, widest))
    if method.test == "wilcoxon":
        p, least, sign = _rank_test(a, b, paired)
    else:
        p, least = _permutation_test(a, b, paired, lambda x, y: _figures(x, of) - _figures(y, of))
        sign = value
    return Difference(value, n, paired, low, high, p, least, sign)


def _noise(*samples: Values) -> float:
    """Return the largest rounding error of sums and differences of these values."""
    return RESOLUTION * max(float(np.nanmax(np.abs(sample))) for sample in samples)


def _snapped(difference: float, *samples: Values) -> float:
    """Return a difference, or 0 where it is rounding noise."""
    return 0.0 if abs(difference) <= _noise(*samples) else difference


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
    size = _at_once(a, b)
    ours = _resampled(a, SEED, method.resamples, size)
    theirs = _resampled(b, SEED if paired else SEED + 1, method.resamples, size)
    return np.concatenate(
        [_figures(x, method.of) - _figures(y, method.of) for x, y in zip(ours, theirs, strict=True)]
    )


def _permutation_test(
    a: Values, b: Values, paired: bool, statistic: Callable[[Values, Values], Values]
) -> tuple[float, float]:
    """Return the two-sided p (twice the smaller), and the smallest p that any arrangement of the values has.

    scipy.stats.permutation_test compares the statistic of each arrangement to within a share of the
    observed one, which does not see ties where large values have a small difference, and it has no strata.
    """
    x, y = _swapped(a, b) if paired else _divided(a, b)
    found = statistic(x, y)
    noise = _noise(x[0], y[0])
    above, below = (np.mean(found >= at - noise) for at in (found[0], found.max()))
    p = 2 * min(above, np.mean(found <= found[0] + noise))
    least = 2 * min(below, np.mean(found <= found.min() + noise))
    return min(1.0, float(p)), min(1.0, float(least))


def _swapped(a: Values, b: Values) -> tuple[Values, Values]:
    """Return both samples for every choice of pairs to swap, or for 9,999 random ones; first as they are.

    A pair of equal values is not swapped, since that changes nothing.
    """
    rows, tasks = np.nonzero(np.abs(a - b) > _noise(a, b))
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
    sizes = _counts(a)
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


def _rank_test(a: Values, b: Values, paired: bool) -> tuple[float, float, float]:
    """Return p, the smallest p that so many values with such ties can have, and the sign of the rank test."""
    if paired:
        d = (a - b)[np.isfinite(a - b)]
        d = np.where(np.abs(d) <= _noise(a, b), 0.0, d)
        size = _ranks(np.append(0.0, np.abs(d)), _noise(a, b))[1:]  # differences of 0 have rank 0
        if not size.any():
            return 1.0, 1.0, 0.0
        signed = np.sign(d) * size
        sign = float(np.sum(np.sign(d) * stats.rankdata(size) * (size > 0)))
        return float(stats.wilcoxon(signed).pvalue), float(stats.wilcoxon(size.astype(float)).pvalue), sign
    x, y = np.full_like(a, np.nan), np.full_like(b, np.nan)
    for task in range(a.shape[1]):
        ours, theirs = np.isfinite(a[:, task]), np.isfinite(b[:, task])
        ranks = stats.rankdata(_ranks(np.concatenate([a[ours, task], b[theirs, task]])))
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


def probability_of_improvement(ours: Values, theirs: Values) -> float:
    """Return P(a run of ours is better than one of theirs), the mean over tasks (runs, tasks).

    Higher is better, and a tie counts half. It is the statistic of Mann and Whitney over the number of pairs
    (Agarwal et al. 2021).
    """
    return improvement(ours, theirs).value


def improvement(ours: Values, theirs: Values, resamples: int = RESAMPLES) -> Estimate:
    """Return `probability_of_improvement` with its stratified bootstrap interval (both samples are drawn)."""
    a, b = _by_task(ours), _by_task(theirs)
    counts = np.minimum(_counts(a), _counts(b))
    if not counts.any():
        return Estimate(math.nan, 0)
    n = int(counts[counts > 0].min())
    tasks = np.nonzero(counts)[0]
    wins = [_wins(a[:, task], b[:, task]) for task in tasks]
    value = math.fsum(float(np.mean(one)) for one in wins) / len(wins)
    if n < 2:
        return Estimate(value, n)
    draws = []
    size = _at_once(a, b)
    blocks = (_shares(sample, seed, resamples, size) for sample, seed in ((a, SEED), (b, SEED + 1)))
    for x, y in zip(*blocks, strict=True):
        of_tasks = [
            np.sum(x[:, np.isfinite(a[:, task]), task] @ one * y[:, np.isfinite(b[:, task]), task], axis=1)
            for task, one in zip(tasks, wins, strict=True)
        ]
        draws.append(np.mean(of_tasks, axis=0))
    return Estimate(value, n, *_percentiles(np.concatenate(draws)))


def _wins(ours: Values, theirs: Values) -> Values:
    """Return 1 for each pair of runs of which ours is better, 0.5 for a tie: (finite ours, finite theirs)."""
    left, right = np.isfinite(ours), np.isfinite(theirs)
    ranks = _ranks(np.concatenate([ours[left], theirs[right]]))
    first, second = ranks[: left.sum(), None], ranks[None, left.sum() :]
    return np.asarray((first > second) + 0.5 * (first == second))


def _shares(values: Values, seed: int, resamples: int, at_once: int) -> Iterator[Values]:
    """Yield each run's share of each bootstrap draw, in blocks (draws, runs, tasks)."""
    runs, tasks = values.shape
    numbers = np.where(np.isfinite(values), np.arange(float(runs))[:, None], np.nan)
    for drawn in _resampled(numbers, seed, resamples, at_once):
        places = drawn + runs * np.arange(len(drawn))[:, None, None]  # each draw has its own range of bins
        counts = [
            np.bincount(at[np.isfinite(at)].astype(np.int64), minlength=len(drawn) * runs)
            for at in (places[..., task] for task in range(tasks))
        ]
        shares = np.stack(counts, axis=-1).reshape(len(drawn), runs, tasks)
        yield np.asarray(shares / np.maximum(_counts(values), 1))


def performance_profile(values: Values, thresholds: Values) -> Values:
    """Return for each threshold the share of runs (runs, tasks) above it, averaged over tasks."""
    return _above(_by_task(values), thresholds)


def profile_band(values: Values, thresholds: Values, resamples: int = RESAMPLES) -> Values:
    """Return the 95 % band of `performance_profile`, (2, thresholds): percentiles of the bootstrap."""
    matrix = _by_task(values)
    blocks = _resampled(matrix, SEED, resamples, _at_once(matrix))
    draws = np.concatenate([_above(block, thresholds) for block in blocks], axis=-1)
    return np.array([_percentiles(shares) for shares in draws]).T


def _above(samples: Values, thresholds: Values) -> Values:
    """Return the share of each sample (..., runs, tasks) that is above each threshold: (thresholds, ...)."""
    count = _counts(samples)
    shares = [
        np.sum(samples > threshold, axis=-2) / np.where(count, count, np.nan) for threshold in thresholds
    ]
    return np.asarray(np.nanmean(shares, axis=-1))
