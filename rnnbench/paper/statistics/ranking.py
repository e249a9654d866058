"""Ranks rows over tasks: Friedman's test, and which rows differ (Demsar 2006, Benavoli et al. 2016)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from rnnbench.paper.statistics.differences import holm, rank_test
from rnnbench.paper.statistics.estimates import CONFIDENCE, Values, dense_ranks


@dataclass(frozen=True)
class Ranking:
    """Keeps the mean ranks of rows over tasks, and which of them differ significantly.

    Args:
        ranks: mean rank of each row, 1 the best.
        chi2: Friedman's statistic, with one degree of freedom less than there are rows.
        p: of Friedman's test that all rows are alike.
        pairs: p of each pair of rows, corrected for their number.
        critical: the difference of mean ranks beyond which Nemenyi's test tells two rows apart; None for
            other tests.
        alike: groups of rows none of whose pairs are told apart, each as large as it can be; all rows if
            Friedman's test finds no difference at all.
    """

    ranks: list[float]
    chi2: float
    p: float
    pairs: dict[tuple[int, int], float]
    critical: float | None
    alike: list[list[int]]


def rank(scores: Values, test: str = "nemenyi") -> Ranking:
    """Return the ranking of rows by their scores (tasks, rows), all finite; the highest score is the best.

    Args:
        test: `nemenyi`: of mean ranks; `wilcoxon`: signed ranks of each pair's differences over tasks, with
            Holm's correction, for scores of one unit.
    """
    tasks, rows = scores.shape
    ranks = np.array([stats.rankdata(-dense_ranks(task)) for task in scores])
    mean_ranks = [float(value) for value in ranks.mean(axis=0)]
    chi2, p = 0.0, 1.0
    if np.any(ranks != ranks[:, :1]):  # otherwise all are tied in every task
        chi2, p = map(float, stats.friedmanchisquare(*ranks.T))
    pairs = list(combinations(range(rows), 2))
    critical = None
    if test == "nemenyi":
        error = math.sqrt(rows * (rows + 1) / (12 * tasks))  # of a mean rank, over sqrt(2) of a difference
        apart = [abs(mean_ranks[a] - mean_ranks[b]) / error for a, b in pairs]
        corrected = [float(stats.studentized_range.sf(one, rows, np.inf)) for one in apart]
        critical = float(stats.studentized_range.ppf(CONFIDENCE, rows, np.inf)) * error
    else:
        corrected = holm([rank_test(scores[:, [a]], scores[:, [b]], True)[0] for a, b in pairs])
    told = {pair for pair, one in zip(pairs, corrected, strict=True) if one < 1 - CONFIDENCE}
    order = sorted(range(rows), key=lambda row: mean_ranks[row])
    alike = list(_groups([], order, [], told)) if p < 1 - CONFIDENCE else [order]
    return Ranking(mean_ranks, chi2, p, dict(zip(pairs, corrected, strict=True)), critical, alike)


def _groups(
    chosen: list[int], left: Sequence[int], tried: Sequence[int], told: set[tuple[int, int]]
) -> Iterator[list[int]]:
    """Yield the largest groups of at least two rows of which no pair is told apart (Bron and Kerbosch 1973).

    Args:
        chosen: rows of the group so far.
        left: rows that may join it.
        tried: rows that may join it too, whose groups have been found already.
    """
    if not left and not tried and len(chosen) > 1:
        yield chosen
    for n, row in enumerate(left):
        alike = [other for other in (*left, *tried) if (min(row, other), max(row, other)) not in told]
        yield from _groups(
            [*chosen, row],
            [other for other in left[n + 1 :] if other in alike],
            [other for other in (*left[:n], *tried) if other in alike],
            told,
        )
