"""Computes statistics of the folds of one seed, whose training data overlap.

The runs of two folds are correlated, and the deviation over k folds divided by the root of k would be far too
small. Nadeau and Bengio (2003) estimate the correlation as the share of the examples that a fold holds back:
the variance of the mean is then (1/n + 1/(k - 1)) times the variance over the n folds that were trained.
"""

import math

import numpy as np
from scipy import stats

from rnnbench.paper.statistics.differences import Difference
from rnnbench.paper.statistics.estimates import (
    CONFIDENCE,
    RESOLUTION,
    UNBOUNDED,
    Estimate,
    Values,
    cut_to,
    estimate,
)


def _error(figure: Estimate, folds: int) -> float:
    """Return the standard error of the mean of n of the folds."""
    return float(figure.deviation or 0.0) * math.sqrt(1 / figure.n + 1 / (folds - 1))


def _interval(figure: Estimate, folds: int) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, figure.n - 1)) * _error(figure, folds)
    return figure.value - half, figure.value + half


def mean_of_folds(
    values: Values, folds: int, student: bool, bounds: tuple[float, float] = UNBOUNDED
) -> Estimate:
    """Return the mean of the values (n,) of folds, with their deviation.

    Args:
        folds: number of folds of the data, of which n were trained.
        student: whether it has an interval, by Student's t with the corrected variance.
        bounds: lowest and highest value of the metric.
    """
    figure = estimate(values, "none")
    if figure.n < 2 or not student:
        return figure
    return Estimate(
        figure.value, figure.n, *cut_to(_interval(figure, folds), bounds), deviation=figure.deviation
    )


def compare_folds(
    ours: Values, theirs: Values, paired: bool, folds: int, bounds: tuple[float, float] = UNBOUNDED
) -> Difference:
    """Return the difference of the means of folds (n,), with the corrected resampled t-test.

    Args:
        paired: whether values at equal indices are of one fold and seed; without pairs there is no test.
        folds, bounds: as in `mean_of_folds`.
    """
    if not paired:
        means = estimate(ours, "none"), estimate(theirs, "none")
        n = min(mean.n for mean in means)
        return Difference(means[0].value - means[1].value, n, False, None, None, None, 1.0)
    noise = RESOLUTION * max(np.max(np.abs(ours)), np.max(np.abs(theirs)), 0.0)
    differences = np.where(np.abs(ours - theirs) <= noise, 0.0, ours - theirs)
    figure = estimate(differences, "none")
    value = 0.0 if abs(figure.value) <= noise else figure.value
    if figure.n < 2:
        return Difference(value, figure.n, True, None, None, None, 1.0, value)
    error, widest = _error(figure, folds), bounds[1] - bounds[0]
    if error == 0:
        p = 1.0 if value == 0 else 0.0
    else:
        p = 2 * float(stats.t.sf(abs(value) / error, figure.n - 1))
    return Difference(
        value, figure.n, True, *cut_to(_interval(figure, folds), (-widest, widest)), p, 0.0, value
    )
