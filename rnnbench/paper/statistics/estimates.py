"""Computes the figure of a cell, a mean, median or interquartile mean, with its spread.

Values over seeds are (runs,) arrays; over seeds and tasks, as in rliable (Agarwal et al. 2021), (runs,
tasks) matrices. Entries that are not finite are left out: they pad the tasks that have fewer runs, or are
runs that diverged. Each task weighs the same, however many runs it has. Everything random (bootstrap,
permutations) has a fixed seed, so that a table is the same whoever computes it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


def by_task(values: Values) -> Values:
    """Return the values as (runs, tasks), with NaN for those that are not finite."""
    matrix = values[:, None] if values.ndim == 1 else values
    return np.where(np.isfinite(matrix), matrix, np.nan)


def run_counts(matrix: Values) -> NDArray[np.int64]:
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
    count = run_counts(samples).reshape(-1, samples.shape[-1])[0]
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


def figures_of(samples: Values, of: Statistic) -> Values:
    """Return the figure of each sample (..., runs, tasks).

    Args:
        samples: all with the same number of runs in each task.
        of: mean, median or iqm.
    """
    count = run_counts(samples).reshape(-1, samples.shape[-1])[0]
    if of is not median or np.sum(count > 0) < 2:
        return _trimmed(samples, CUTS[of])
    # In ascending order, so that samples of the same values have the same mean to the last bit.
    ordered = np.sort(samples[..., count > 0], axis=-2)
    return np.asarray(np.median(np.nansum(ordered, axis=-2) / count[count > 0], axis=-1))


def _figure(values: Values, of: Statistic) -> float:
    """Return the figure of the values; NaN where none is finite."""
    matrix = by_task(values)
    return float(figures_of(matrix, of)) if np.isfinite(matrix).any() else math.nan


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


def dense_ranks(values: Values, resolution: float | None = None) -> NDArray[np.int64]:
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
    matrix = by_task(values)
    if interval == "student" and (of is not mean or matrix.shape[1] > 1):
        raise ValueError("Student's interval is one of the mean over the runs of one task")
    count = run_counts(matrix)
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
            low, high = cut_to((value - half, value + half), bounds)
    if interval == "bootstrap":
        low, high = bootstrap(matrix, of, resamples)
    return Estimate(value, n, low, high, deviation)


def cut_to(interval: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in interval)
    return low, high


def resampled(values: NDArray[Any], seed: int = SEED, resamples: int = RESAMPLES) -> NDArray[Any]:
    """Return draws of the runs with replacement, each task's separately: (resamples, runs, ...).

    A task with fewer runs, padded with NaN, keeps its number of runs in each draw.
    """
    return np.concatenate(list(resampled_blocks(values, seed, resamples, resamples)))


def resampled_blocks(values: NDArray[Any], seed: int, resamples: int, at_once: int) -> Iterator[NDArray[Any]]:
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


def draws_at_once(*samples: Values) -> int:
    """Return how many draws of samples take BLOCK values."""
    return max(1, BLOCK // max(1, *(sample.size for sample in samples)))


def bootstrap(values: Values, of: Statistic, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the percentile interval of a figure over resampled runs."""
    matrix = by_task(values)
    blocks = resampled_blocks(matrix, SEED, resamples, draws_at_once(matrix))
    return percentiles(np.concatenate([figures_of(block, of) for block in blocks]))


def percentiles(figures: Sequence[float] | Values) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
