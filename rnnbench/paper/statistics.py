"""The statistics of a table: what stands in a cell, and which cells can be told apart.

Values over seeds are (runs,) arrays; over seeds and tasks, as in rliable (Agarwal et al. 2021), (runs,
tasks) matrices. Everything random (bootstrap, permutations) has a fixed seed, so that a table is the same
whoever computes it. Formulas are scipy's where it has them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2_000  # of the bootstrap
EXACT = 9_999  # permutations: all of them where there are no more
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A figure over n runs; low and high bound its interval.

    No spread (None) where n does not allow one, or where a value is not finite.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    deviation: float | None = None  # sample standard deviation


def mean(values: Values) -> float:
    """The arithmetic mean."""
    return float(np.mean(values))


def median(values: Values) -> float:
    """The median."""
    return float(np.median(values))


def iqm(values: Values) -> float:
    """The interquartile mean: of the values without the lowest and the highest quarter of them."""
    return float(stats.trim_mean(values, 0.25, axis=None))


def estimate(values: Values, interval: str = "student", of: Callable[[Values], float] = mean) -> Estimate:
    """A figure of the values (runs,) or (runs, tasks), with its spread; n is the runs of a task.

    Args:
        interval: `student`: of the mean, by Student's t; `bootstrap`: percentiles over resampled runs,
            each task's runs by themselves (stratified); `none`.
        of: mean, median or iqm.

    Raises:
        ValueError: `student` of anything but the mean of (runs,).
    """
    n = len(values)
    if n < 2 or not np.all(np.isfinite(values)):
        return Estimate(of(values), n)
    deviation = float(np.std(values, ddof=1)) if values.ndim == 1 else None
    low = high = None
    if interval == "student":
        if of is not mean or values.ndim != 1:
            raise ValueError("Student's interval is one of the mean over the runs of one task")
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * stats.sem(values))
        low, high = mean(values) - half, mean(values) + half
    elif interval == "bootstrap":
        low, high = bootstrap(values, of)
    return Estimate(of(values), n, low, high, deviation)


def resampled(values: NDArray[Any], seed: int = SEED) -> NDArray[Any]:
    """RESAMPLES draws of the runs with replacement, each task's by themselves: (RESAMPLES, runs, ...)."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(values), (RESAMPLES, *values.shape))
    return np.take_along_axis(values[None], index, axis=1)


def bootstrap(values: Values, of: Callable[[Values], float]) -> tuple[float, float]:
    """The percentile interval of a figure over resampled runs."""
    return _percentiles([of(draw) for draw in resampled(values)])


def _percentiles(figures: Sequence[float] | Values) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """How a cell of a table differs from another: in the mean, with interval, and how surprising it is."""

    value: float
    n: int  # pairs, or the smaller of two groups; of each task
    paired: bool
    low: float | None
    high: float | None
    p: float | None  # of the test, both sides; None where n does not allow one, or a value is not finite
    least: float  # the smallest p that the test can give with so many values


def compare(ours: Values, theirs: Values, paired: bool, test: str = "permutation") -> Difference:
    """The mean of ours less that of theirs, (runs,) or (runs, tasks).

    The interval is Student's of the paired differences, or Welch's of two groups; over several tasks
    percentiles of the bootstrap, each task's runs by themselves.

    Args:
        paired: whether the values at one place have the same seed (and task).
        test: `permutation`: of signs within pairs, or of group membership where the seeds are not shared,
            all of them where they are no more than 9,999, so that 5 pairs give at least p = 1/16;
            `wilcoxon`: signed ranks of pairs, or the rank sum of Mann and Whitney.
    """
    a, b = ours.ravel(), theirs.ravel()
    n = min(len(ours), len(theirs))
    with np.errstate(invalid="ignore"):  # of two infinite means
        value = float(np.mean(a) - np.mean(b))
    # All pairs of one sign, or all of one group above the other; both sides.
    least = 2.0 ** (1 - len(a)) if paired else 2 / math.comb(len(a) + len(b), len(a))
    least = min(1.0, max(least, 2 / (EXACT + 1))) if test == "permutation" else min(1.0, least)
    if n < 2 or not math.isfinite(value):
        return Difference(value, n, paired, None, None, None, least)
    low: float | None
    high: float | None
    if len(a) > len(ours):  # several tasks
        low, high = _percentiles(_mean_difference(ours, theirs, paired))
    elif paired:
        interval = estimate(a - b)
        low, high = interval.low, interval.high
    else:
        welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
        low, high = float(welch.low), float(welch.high)
    return Difference(value, n, paired, low, high, _p(a, b, paired, test), least)


def _mean_difference(ours: Values, theirs: Values, paired: bool) -> Values:
    """Resampled differences of the means; the same seed draws the same pairs."""
    draws = resampled(ours), resampled(theirs, SEED if paired else SEED + 1)
    a, b = (draw.reshape(RESAMPLES, -1).mean(axis=1) for draw in draws)
    return np.asarray(a - b)


def _p(a: Values, b: Values, paired: bool, test: str) -> float:
    if paired and not np.any(a - b):
        return 1.0
    if test == "wilcoxon":
        result = stats.wilcoxon(a, b) if paired else stats.mannwhitneyu(a, b)
        return float(result.pvalue)
    result = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=EXACT,
        batch=max(1, 2_000_000 // len(a)),  # memory
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """The p values adjusted for being many (Holm 1979): the k-th smallest of m times m - k + 1, rising."""
    order = np.argsort(p, kind="stable")
    adjusted, largest = [0.0] * len(p), 0.0
    for k, index in enumerate(order):
        largest = max(largest, min(1.0, p[index] * (len(p) - k)))
        adjusted[index] = largest
    return adjusted


def probability_of_improvement(ours: Values, theirs: Values) -> float:
    """P(a run of ours is better than one of theirs), mean over tasks (runs, tasks); a tie counts half.

    Higher is better. The statistic of Mann and Whitney over the number of pairs (Agarwal et al. 2021).
    """
    wins = [
        stats.mannwhitneyu(ours[:, task], theirs[:, task]).statistic / (len(ours) * len(theirs))
        for task in range(ours.shape[1])
    ]
    return float(np.mean(wins))


def improvement(ours: Values, theirs: Values) -> Estimate:
    """`probability_of_improvement` with its stratified bootstrap, ours and theirs drawn by themselves."""
    value, n = probability_of_improvement(ours, theirs), min(len(ours), len(theirs))
    if n < 2:
        return Estimate(value, n)
    wins = (ours[:, None] > theirs[None]) + 0.5 * (ours[:, None] == theirs[None])  # (ours, theirs, tasks)
    a, b = _shares(ours, SEED), _shares(theirs, SEED + 1)
    draws = [np.sum(a[..., task] @ wins[..., task] * b[..., task], axis=1) for task in range(ours.shape[1])]
    return Estimate(value, n, *_percentiles(np.mean(draws, axis=0)))


def _shares(values: Values, seed: int) -> Values:
    """How often each run is in each draw of the bootstrap, over the runs: (RESAMPLES, runs, tasks)."""
    runs, tasks = values.shape
    drawn = resampled(np.broadcast_to(np.arange(runs)[:, None], values.shape), seed)
    drawn = drawn + runs * np.arange(RESAMPLES)[:, None, None]  # each draw counts in a place of its own
    counts = [np.bincount(drawn[..., task].ravel(), minlength=RESAMPLES * runs) for task in range(tasks)]
    return np.asarray(np.stack(counts, axis=-1).reshape(RESAMPLES, runs, tasks) / runs)


def performance_profile(values: Values, thresholds: Values) -> Values:
    """For each threshold, the share of the runs of all tasks (runs, tasks) that are above it."""
    return np.array([np.mean(values > threshold) for threshold in thresholds])


def profile_band(values: Values, thresholds: Values) -> Values:
    """The 95 % band of `performance_profile`, (2, thresholds): percentiles of the stratified bootstrap."""
    draws = resampled(values).reshape(RESAMPLES, -1)
    return np.array([_percentiles(np.mean(draws > threshold, axis=1)) for threshold in thresholds]).T
