"""Prints metrics for people: their titles, their values, mean and deviation over seeds."""

import math
import statistics
from collections.abc import Sequence

from rnnbench.config import digits


def title(metric: str) -> str:
    """Return the title of an objective for the lines of a sweep, without the words for the best epoch."""
    split, _, name = metric.removeprefix("best/").partition("_")
    return f"{split}/{name}" if metric.startswith("best/") and name else metric


def number(metric: str, value: float) -> str:
    """Return a value with the metric's digits; seconds have one decimal, others four significant digits."""
    if (fixed := digits(metric)) is not None:
        tiny = 0 < abs(value) < 0.5 * 10**-fixed
        return f"{value:.2e}" if tiny else f"{value:.{fixed}f}"
    if metric.endswith("_seconds"):
        return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"
    return f"{value:.4g}"


def mean_sd(values: Sequence[float], metric: str) -> str:
    """Return mean and sample standard deviation of the finite values; a single value has no deviation."""
    finite = [value for value in values if math.isfinite(value)]
    parts = [number(metric, statistics.fmean(finite))] if finite else []
    if len(finite) > 1:
        deviation = statistics.stdev(finite)
        shown = number(metric, deviation)
        if metric.endswith("_seconds") and "e" not in parts[0]:  # as many decimals as the mean
            shown = f"{deviation:.{len(parts[0].partition('.')[2])}f}"
        parts = [f"{parts[0]} ± {shown}"]
    if len(finite) < len(values):
        parts.append(f"{len(values) - len(finite)} not finite")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
