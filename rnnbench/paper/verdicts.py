"""Judges each row at a margin: better than the one it is compared with, worse, equivalent or undecided."""

from dataclasses import dataclass

from rnnbench.config import direction
from rnnbench.paper import statistics
from rnnbench.paper.aggregate import ALPHA, Comparison, FilledTable, as_text, pairs
from rnnbench.paper.margins import margin_of
from rnnbench.paper.statistics import Estimate, Gap

BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
CHANCE = "at chance"  # neither row beats a constant answer, so that nothing follows from their difference


@dataclass(frozen=True)
class Verdict:
    """Keeps what holds of a row at a margin.

    Args:
        margin: in the metric's units.
        p: of the test of equivalence, corrected by Holm over those of the table; None with one run.
        effect: probability that a run of the row is better than one of the other, A12.
        word: better, worse, equivalent, undecided, or at chance.
        seeds: of so many a share of 0.8 would decide; None if it is decided, or with one run.
        telling: of so many a share of 0.8 would find a difference of the margin; None with one run.
    """

    comparison: Comparison
    margin: float
    p: float | None
    effect: Estimate
    word: str
    seeds: int | None
    telling: int | None


def judge(filled: FilledTable) -> list[Verdict]:
    """Return the verdict of each comparison whose metric has a margin, in the order of the comparisons.

    Equivalence comes first: a difference that is found and shown to be below the margin is equivalent.
    """
    of_margin = [c for c in filled.comparisons if c.metric in filled.table.margin]
    margins = [_margin(filled, c) for c in of_margin]
    drafts = [
        statistics.equivalence(*_values(filled, c), c.difference.paired, margin)
        for c, margin in zip(of_margin, margins, strict=True)
    ]
    adjusted = iter(statistics.holm([p for p in drafts if p is not None]))
    corrected = [None if p is None else next(adjusted) for p in drafts]
    # Holm divides the level by the number of tests that have not rejected yet.
    levels = _level([c.p for c in filled.comparisons]), _level(corrected)
    return [
        _verdict(filled, c, margin, p, levels)
        for c, margin, p in zip(of_margin, margins, corrected, strict=True)
    ]


def _level(corrected: list[float | None]) -> float:
    """Return the level of the next test that would reject, by Holm."""
    return ALPHA / max(1, sum(p is not None and p >= ALPHA for p in corrected))


def _verdict(
    filled: FilledTable, c: Comparison, margin: float, p: float | None, levels: tuple[float, float]
) -> Verdict:
    ours, theirs = _values(filled, c)
    sign = 1 if direction(c.metric) == "maximize" else -1
    effect = statistics.superiority(sign * ours, sign * theirs)
    word = UNDECIDED
    if p is not None and p < ALPHA:
        word = EQUIVALENT
    elif c.p is not None and c.p < ALPHA and not c.contradicts:
        word = BETTER if sign * c.difference.value > 0 else WORSE
    if word in (EQUIVALENT, UNDECIDED) and _at_chance(filled, c, sign):
        word = CHANCE
    found: Gap | None = statistics.gap(ours, theirs, c.difference.paired)
    if found is None:
        return Verdict(c, margin, p, effect, word, None, None)
    test = filled.table.test
    telling = statistics.telling_seeds(found, margin, levels[0], test)
    seeds = statistics.deciding_seeds(found, margin, *levels, test=test) if word == UNDECIDED else None
    return Verdict(c, margin, p, effect, word, seeds, telling)


def _at_chance(filled: FilledTable, c: Comparison, sign: int) -> bool:
    """Return whether the intervals of both rows reach what a constant answer scores, if that is stated.

    Args:
        sign: 1 where a higher value is better, else -1.
    """
    chance = filled.table.chance
    known = [float(chance[text]) for text in map(as_text, c.column) if text in chance]
    if not known:
        return False
    figures = [statistics.estimate(sign * one) for one in _values(filled, c)]
    ends = [figure.value if figure.low is None else figure.low for figure in figures]
    return max(ends) <= sign * known[0]


def _margin(filled: FilledTable, c: Comparison) -> float:
    figure = filled.cell(c.reference, c.column).figures[c.metric].value
    return margin_of(filled.table.margin[c.metric], figure)


def _values(filled: FilledTable, c: Comparison) -> tuple[statistics.Values, statistics.Values]:
    """Return the runs of the row and of the one that it is compared with, equal seeds at equal indices."""
    a, b, _ = pairs(filled.cell(c.row, c.column), filled.cell(c.reference, c.column), c.metric)
    return a[:, 0], b[:, 0]
