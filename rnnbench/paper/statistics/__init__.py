"""Computes the statistics of a table: the figure of each cell, and which cells differ significantly."""

from rnnbench.paper.statistics.differences import Difference, Method, compare, holm
from rnnbench.paper.statistics.equivalence import Gap, deciding_seeds, equivalence, gap, telling_seeds
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
from rnnbench.paper.statistics.ranking import Ranking, rank
from rnnbench.paper.statistics.shares import (
    improvement,
    performance_profile,
    probability_of_improvement,
    profile_band,
    superiority,
)

__all__ = [
    "CONFIDENCE", "RESAMPLES", "Difference", "Estimate", "Gap", "Method", "Ranking", "Statistic", "Values",
    "bootstrap", "compare", "compare_folds", "deciding_seeds", "equivalence", "estimate", "gap", "holm",
    "improvement", "iqm", "mean", "mean_of_folds", "median", "performance_profile",
    "probability_of_improvement", "profile_band", "rank", "resampled", "same", "superiority",
    "telling_seeds",
]  # fmt: skip
