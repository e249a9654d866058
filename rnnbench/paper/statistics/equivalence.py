"""Tests whether two means are equivalent within a margin, and how many seeds would decide.

Equivalence is shown by two one-sided tests (TOST; Schuirmann 1987, Lakens 2017): that the difference is not
as low as minus the margin, and not as high as the margin.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from rnnbench.paper.statistics.differences import EXACT, rounding_noise
from rnnbench.paper.statistics.estimates import Values

SHARE = 0.8  # of tables with so many seeds, this share decides
MOST = 10_000  # no larger number of seeds is looked for
EFFICIENCY = 3 / math.pi  # of rank tests for a normal distribution, in runs, relative to tests of the mean


@dataclass(frozen=True)
class Gap:
    """Keeps the difference of two means with what its precision depends on.

    Args:
        value: the mean of ours minus the mean of theirs.
        scatter: standard deviation of the differences of pairs; without pairs the root of the sum of both
            variances. The standard error of n seeds is scatter / sqrt(n).
        n: number of pairs, or of runs in the smaller group.
        freedom: degrees of freedom for each seed beyond the first: 1 of pairs, 1 to 2 by Welch.
    """

    value: float
    scatter: float
    n: int
    paired: bool
    freedom: float = 1.0


def gap(ours: Values, theirs: Values, paired: bool) -> Gap | None:
    """Return the difference of the means of (runs,) values; None with fewer than two pairs or runs.

    Args:
        paired: whether values at equal indices have the same seed; only complete pairs count.
    """
    a, b = _complete(ours, theirs, paired)
    n = min(len(a), len(b))
    if n < 2:
        return None
    noise = rounding_noise(a, b)
    value = float(np.mean(a) - np.mean(b))
    value = 0.0 if abs(value) <= noise else value
    if paired:
        deviation = float(np.std(a - b, ddof=1))
        return Gap(value, 0.0 if deviation <= noise else deviation, n, True)
    variances = [
        0.0 if deviation <= noise else deviation**2 for deviation in (np.std(a, ddof=1), np.std(b, ddof=1))
    ]
    total = float(sum(variances))
    freedom = total**2 / float(sum(part**2 for part in variances)) if total else 1.0
    return Gap(value, math.sqrt(total), n, False, freedom)


def _complete(ours: Values, theirs: Values, paired: bool) -> tuple[Values, Values]:
    """Return the finite values of both samples; of pairs only those that are finite in both."""
    a, b = (np.isfinite(sample) for sample in (ours, theirs))
    return (ours[a & b], theirs[a & b]) if paired else (ours[a], theirs[b])


def equivalence(ours: Values, theirs: Values, paired: bool, margin: float) -> float | None:
    """Return p of the two one-sided t tests that the means differ by less than the margin (TOST).

    Of pairs they are of the differences, otherwise Welch's. None with fewer than two pairs or runs.
    """
    found = gap(ours, theirs, paired)
    if found is None:
        return None
    if found.scatter == 0:  # the t statistic is infinite, or 0/0
        return 0.0 if abs(found.value) < margin else 1.0
    a, b = _complete(ours, theirs, paired)
    tests = (("greater", -margin), ("less", margin))
    if paired:
        return max(float(stats.ttest_1samp(a - b, at, alternative=side).pvalue) for side, at in tests)
    return max(
        float(stats.ttest_ind(a - at, b, equal_var=False, alternative=side).pvalue) for side, at in tests
    )


def power_of_equivalence(found: Gap, n: int, margin: float, level: float) -> float:
    """Return the probability that n seeds show equivalence, if the true difference and scatter are these.

    It is the difference of two noncentral t distributions (Phillips 1990).
    """
    if found.scatter == 0:
        return float(abs(found.value) < margin)
    freedom = found.freedom * (n - 1)
    error = found.scatter / math.sqrt(n)
    edge = stats.t.isf(level, freedom)
    below, above = ((margin + side * found.value) / error for side in (-1, 1))
    both = _beyond(edge, freedom, below) - float(stats.nct.cdf(edge, freedom, above))
    return max(0.0, both)


def power_of_difference(found: Gap, n: int, level: float, test: str = "permutation") -> float:
    """Return the probability that the test of n seeds finds the difference, if it and the scatter are true.

    It is that of the t test at the highest level that so few permutations can have; to find it the wrong
    way round does not count.

    Args:
        test: permutation, or wilcoxon, whose ranks need more seeds for the same power.
    """
    ways = 2**n if found.paired else math.comb(2 * n, n)
    if ways <= EXACT:
        level = (
            (math.ceil(level * ways / 2) - 1) * 2 / ways
        )  # p is a multiple of 2 / ways, and below the level
    if level <= 0 or found.value == 0:
        return 0.0
    if found.scatter == 0:
        return 1.0
    freedom = found.freedom * (n - 1)
    shift = abs(found.value) / found.scatter * math.sqrt(n * (EFFICIENCY if test == "wilcoxon" else 1))
    edge = stats.t.isf(level / 2, freedom)
    return _beyond(edge, freedom, shift)


def _beyond(edge: float, freedom: float, shift: float) -> float:
    """Return the probability that a noncentral t exceeds the edge; 0 where scipy underflows to NaN."""
    return float(np.nan_to_num(stats.nct.sf(edge, freedom, shift)))


def deciding_seeds(
    found: Gap, margin: float, of_difference: float, of_equivalence: float, *, test: str = "permutation"
) -> int:
    """Return of how many seeds a share of 0.8 decides, if the true difference and scatter are as found.

    They decide if they find the difference, or show that it is within the margin. At a given spread these
    two exclude each other, or nothing is left between them, so that their probabilities add up. More than
    10,000 are returned as 10,001.

    Args:
        of_difference: the level of the test of the difference, after correction.
        of_equivalence: the level of the test of equivalence, after correction.
    """
    return _fewest(
        lambda n: (
            power_of_equivalence(found, n, margin, of_equivalence)
            + power_of_difference(found, n, of_difference, test)
        )
    )


def telling_seeds(found: Gap, size: float, level: float, test: str = "permutation") -> int:
    """Return of how many seeds a share of 0.8 tells a difference of a size apart, at the scatter as found.

    More than 10,000 are returned as 10,001.
    """
    true = replace(found, value=size)
    return _fewest(lambda n: power_of_difference(true, n, level, test))


def _fewest(power: Callable[[int], float]) -> int:
    """Return the lowest number of seeds, from 2 to 10,001, at which the power is a share of 0.8."""
    return 2 + bisect_left(range(2, MOST + 1), SHARE, key=power)
