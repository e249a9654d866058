"""Measures how often one sample is better than another, and which share of runs is beyond a threshold."""

import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize, stats

from rnnbench.paper.statistics.estimates import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Estimate,
    Values,
    by_task,
    dense_ranks,
    draws_at_once,
    percentiles,
    resampled_blocks,
    run_counts,
)


def probability_of_improvement(ours: Values, theirs: Values) -> float:
    """Return P(a run of ours is better than one of theirs), the mean over tasks (runs, tasks).

    Higher is better, and a tie counts half. It is the statistic of Mann and Whitney over the number of pairs
    (Agarwal et al. 2021).
    """
    return improvement(ours, theirs).value


def improvement(ours: Values, theirs: Values, resamples: int = RESAMPLES) -> Estimate:
    """Return `probability_of_improvement` with its stratified bootstrap interval (both samples are drawn)."""
    a, b = by_task(ours), by_task(theirs)
    counts = np.minimum(run_counts(a), run_counts(b))
    if not counts.any():
        return Estimate(math.nan, 0)
    n = int(counts[counts > 0].min())
    tasks = np.nonzero(counts)[0]
    wins = [_wins(a[:, task], b[:, task]) for task in tasks]
    value = math.fsum(float(np.mean(one)) for one in wins) / len(wins)
    if n < 2:
        return Estimate(value, n)
    draws = []
    size = draws_at_once(a, b)
    blocks = (_shares(sample, seed, resamples, size) for sample, seed in ((a, SEED), (b, SEED + 1)))
    for x, y in zip(*blocks, strict=True):
        of_tasks = [
            np.sum(x[:, np.isfinite(a[:, task]), task] @ one * y[:, np.isfinite(b[:, task]), task], axis=1)
            for task, one in zip(tasks, wins, strict=True)
        ]
        draws.append(np.mean(of_tasks, axis=0))
    return Estimate(value, n, *percentiles(np.concatenate(draws)))


def _wins(ours: Values, theirs: Values) -> Values:
    """Return 1 for each pair of runs of which ours is better, 0.5 for a tie: (finite ours, finite theirs)."""
    left, right = np.isfinite(ours), np.isfinite(theirs)
    ranks = dense_ranks(np.concatenate([ours[left], theirs[right]]))
    first, second = ranks[: left.sum(), None], ranks[None, left.sum() :]
    return np.asarray((first > second) + 0.5 * (first == second))


def _shares(values: Values, seed: int, resamples: int, at_once: int) -> Iterator[Values]:
    """Yield each run's share of each bootstrap draw, in blocks (draws, runs, tasks)."""
    runs, tasks = values.shape
    numbers = np.where(np.isfinite(values), np.arange(float(runs))[:, None], np.nan)
    for drawn in resampled_blocks(numbers, seed, resamples, at_once):
        places = drawn + runs * np.arange(len(drawn))[:, None, None]  # each draw has its own range of bins
        counts = [
            np.bincount(at[np.isfinite(at)].astype(np.int64), minlength=len(drawn) * runs)
            for at in (places[..., task] for task in range(tasks))
        ]
        shares = np.stack(counts, axis=-1).reshape(len(drawn), runs, tasks)
        yield np.asarray(shares / np.maximum(run_counts(values), 1))


def superiority(ours: Values, theirs: Values) -> Estimate:
    """Return the probability of superiority (A12; Vargha and Delaney 2000) of (runs,) values.

    That is P(a run of ours is better than one of theirs), a tie for half; higher is better. The interval is
    Newcombe's (2006, method 5), a score interval that keeps its level with few runs and at 0 and 1, where
    the bootstrap has no width. It takes the samples as independent, so that pairs only make it wider than
    need be. None with fewer than two runs.
    """
    a, b = (sample[np.isfinite(sample)] for sample in (ours, theirs))
    n = min(len(a), len(b))
    if n == 0:
        return Estimate(math.nan, 0)
    value = float(np.mean(_wins(a, b)))
    if n < 2:
        return Estimate(value, n)
    size, more = len(a) * len(b), (len(a) + len(b)) / 2 - 1
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))

    def excess(true: float) -> float:
        variance = true * (1 - true) * (1 + more * ((1 - true) / (2 - true) + true / (1 + true))) / size
        return (value - true) ** 2 - z**2 * variance

    inside = min(max(value, 1e-12), 1 - 1e-12)  # at 0 and 1 the excess is 0 too
    low = 0.0 if value == 0 else float(optimize.brentq(excess, 0.0, inside))
    high = 1.0 if value == 1 else float(optimize.brentq(excess, inside, 1.0))
    return Estimate(value, n, low, high)


def performance_profile(values: Values, thresholds: Values) -> Values:
    """Return for each threshold the share of runs (runs, tasks) above it, averaged over tasks."""
    return _above(by_task(values), thresholds)


def profile_band(values: Values, thresholds: Values, resamples: int = RESAMPLES) -> Values:
    """Return the 95 % band of `performance_profile`, (2, thresholds): percentiles of the bootstrap."""
    matrix = by_task(values)
    blocks = resampled_blocks(matrix, SEED, resamples, draws_at_once(matrix))
    draws = np.concatenate([_above(block, thresholds) for block in blocks], axis=-1)
    return np.array([percentiles(shares) for shares in draws]).T


def _above(samples: Values, thresholds: Values) -> Values:
    """Return the share of each sample (..., runs, tasks) that is above each threshold: (thresholds, ...)."""
    count = run_counts(samples)
    shares = [
        np.sum(samples > threshold, axis=-2) / np.where(count, count, np.nan) for threshold in thresholds
    ]
    return np.asarray(np.nanmean(shares, axis=-1))
