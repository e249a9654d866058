"""Keeps series as their files have them, before anything is standardised, filled or padded."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import ConfigError
from rnnbench.tasks.task import Labels

Array = NDArray[Any]
BLOCK = 2**20  # number of values that are looked at together


@dataclass(frozen=True)
class Collection:
    """Series of several lengths, one after the other, with what is asked of each."""

    values: Array  # (steps of all series, channels) float64 or float32; nan is missing
    lengths: Labels  # (N,) steps of each series
    channels: list[str]  # their names, for messages
    parts: dict[str, Labels]  # which series are published as train, val, test; train alone: not divided
    files: list[str]
    file: Labels  # (N,) which of the files each series is in
    rows: Labels  # (N,) row of the file where it begins, from 1 on
    # (N,) indices of `classes`, or (N, outputs) numbers; with `every_step` of the steps of all series:
    # (steps,), -1 where nothing is asked for, or (steps, outputs). None: none are asked for.
    answers: Array | None = None
    classes: list[str] = field(default_factory=list)
    every_step: bool = False
    where: str = "{file}, row {row:,}"  # how a message names the place of a series

    @cached_property
    def starts(self) -> Labels:
        """Place in `values` where each series begins (N,)."""
        return np.cumsum(self.lengths) - self.lengths

    def place(self, series: int) -> str:
        """Return file and row where a series begins, for a message."""
        return self.where.format(file=self.files[self.file[series]], row=self.rows[series])

    def place_of_step(self, step: int) -> str:
        """Return file and row of the series that a row of `values` is in, and which of its steps it is."""
        series = int(np.searchsorted(self.starts, step, side="right")) - 1
        return f"{self.place(series)}: step {step - self.starts[series] + 1} of the series"

    def steps_of(self, series: Labels) -> Array:
        """Return which steps of all are of these series: (steps,) True or False."""
        chosen = np.zeros(len(self.lengths), bool)
        chosen[series] = True
        return np.repeat(chosen, self.lengths)

    def answers_of(self, series: Labels) -> Array:
        """Return the answers of these series that count, (answers,) or (answers, outputs)."""
        assert self.answers is not None
        found: Array = self.answers[self.steps_of(series) if self.every_step else series]
        return found[found >= 0] if self.classes and self.every_step else found

    def digest(self) -> str:
        """Return a sha256 of all values, lengths and answers; order and split change it not."""
        found = hashlib.sha256(f"{self.values.shape} {self.classes}".encode())
        step = max(BLOCK // self.values.shape[1], 1)
        for start in range(0, len(self.values), step):
            found.update(np.ascontiguousarray(self.values[start : start + step], np.float64).data)
        found.update(np.ascontiguousarray(self.lengths, np.int64).data)
        if self.answers is not None:
            found.update(f"{self.answers.dtype}".encode())
            found.update(np.ascontiguousarray(self.answers).data)
        return found.hexdigest()


def in_order(labels: list[str]) -> list[str]:
    """Return the different labels, by their number if all are numbers, else by the alphabet."""
    found = sorted(set(labels))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def indices(labels: list[str], classes: list[str]) -> Labels:
    """Return the index of each label among the classes, -1 for those that are none of them."""
    number = {label: index for index, label in enumerate(classes)}
    return np.array([number.get(label, -1) for label in labels], np.int64)


def check_answers(found: Collection, labels: list[str], numbers: Labels | None = None) -> None:
    """Refuse a label outside of training that training does not have, and a single class.

    Args:
        found: the series and their answers, -1 where no class is known.
        labels: as the file has them.
        numbers: which of the labels each answer has, -1 if none; None: the first has the first, and so on.

    Raises:
        ConfigError: names file, row and label.
    """
    assert found.answers is not None
    numbers = np.arange(len(labels)) if numbers is None else numbers
    if (unknown := np.flatnonzero((found.answers < 0) & (numbers >= 0))).size:
        first = int(unknown[0])
        place, what = (
            (found.place_of_step(first), "steps")
            if found.every_step
            else (f"{found.place(first)}:", "series")
        )
        raise ConfigError(
            f"{place} has the label {labels[numbers[first]]}, which no training example has "
            f"({', '.join(found.classes[:12])}); remove the {len(unknown)} {what} of such labels, or give "
            "training examples of them"
        )
    if len(found.classes) == 1:
        raise ConfigError(
            f"{found.files[0]}: has the label {found.classes[0]} alone, so that there is nothing to learn"
        )
