"""Says what a run of a table is where its trials are folds: folds share training data."""

from statistics import fmean
from typing import Any

# Identifies a trial in a cell: its task, its seed, and its number of folds (None: none) with the fold.
At = tuple[tuple[Any, ...], int, tuple[int | None, int]]


def part_of(params: dict[str, Any]) -> tuple[int | None, int]:
    """Return the number of folds of a trial's data, and the fold that validates."""
    return params.get("data.folds"), params.get("data.fold", 0)


def run_of(at: At, by_fold: bool) -> tuple[tuple[Any, ...], int]:
    """Return the task of a trial, and its seed or its fold."""
    task, seed, (_, fold) = at
    return task, fold if by_fold else seed


def averaged(values: dict[At, float], by_fold: bool) -> dict[tuple[tuple[Any, ...], int], float]:
    """Return the mean over folds of each task and seed; or, of one seed, each fold's value.

    Folds share training data: as runs of their own they would make every spread look smaller than it is.
    """
    runs: dict[tuple[tuple[Any, ...], int], list[float]] = {}
    for at, value in values.items():
        runs.setdefault(run_of(at, by_fold), []).append(value)
    return {run: fmean(folds) for run, folds in runs.items()}
