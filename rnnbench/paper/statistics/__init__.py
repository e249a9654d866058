"""Computes the statistics of a table: the figure of each cell, and which cells differ significantly."""

from rnnbench.paper.statistics.differences import Difference, Method, compare, holm
from rnnbench.paper.statistics.estimates import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    Statistic,
    Values,
    bootstrap,
    estimate,
    iqm,
    mean,
    median,
    resampled,
    same,
)
from rnnbench.paper.statistics.folds import compare_folds, mean_of_folds
from rnnbench.paper.statistics.shares import (
    improvement,
    performance_profile,
    probability_of_improvement,
    profile_band,
)

__all__ = [
    "CONFIDENCE", "RESAMPLES", "Difference", "Estimate", "Method", "Statistic", "Values", "bootstrap",
    "compare", "compare_folds", "estimate", "holm", "improvement", "iqm", "mean", "mean_of_folds", "median",
    "performance_profile",
    "probability_of_improvement", "profile_band", "resampled", "same",
]  # fmt: skip
