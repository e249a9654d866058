"""Measuring on a machine that others use too: contestants in alternation, medians with their spread."""

import statistics
from collections.abc import Callable, Sequence


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and the least and the greatest in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def in_turn(contestants: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measure each contestant in rounds that alternate, after one round that does not count."""
    figures = [[contestant() for contestant in contestants] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*figures[1:], strict=True)]
