"""Measures on a shared machine: contestants in alternation, medians with their spread."""

import statistics
from collections.abc import Callable, Sequence


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median as text, with minimum and maximum in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def in_turn(contestants: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measure all contestants in each round, one after the other, after a warm-up round."""
    figures = [[contestant() for contestant in contestants] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*figures[1:], strict=True)]
