"""Makes targets of what is asked of series: classes or numbers, at the end or at every step."""

from dataclasses import dataclass, field

import numpy as np

from rnnbench.tasks.series.collection import Array, Collection
from rnnbench.tasks.series.settings import Series
from rnnbench.tasks.task import Goal, Labels, terminal


@dataclass(frozen=True)
class Answers:
    """Keeps what is asked for, as `Task` has it."""

    targets: Array
    goal: Goal
    outputs: int
    details: dict[str, str] = field(default_factory=dict)  # for the record
    weights: Array | None = None  # of the classes


def asked(data: Series, found: Collection, train: Labels, T: int) -> Answers:
    """Return the targets of all series.

    Args:
        data: the settings.
        found: the series.
        train: those that train.
        T: steps of the longest.
    """
    assert found.answers is not None
    known = found.answers_of(train)
    if found.classes:
        goal, outputs = Goal.labels if found.every_step else Goal.label, len(found.classes)
        targets = spread_out(found, found.answers.astype(np.int64), T)
        if data.class_weights is None:
            return Answers(targets, goal, outputs)
        weights = balanced(known, outputs)
        return Answers(targets, goal, outputs, {"class weights": numbers(weights)}, weights)
    answers, details = found.answers, {}
    if data.standardise:
        mean, sd = known.mean(0), known.std(0)
        sd = np.where(sd > 0, sd, 1.0)
        answers = (answers - mean) / sd
        details = {"target means": numbers(mean), "target sds": numbers(sd)}
    targets = spread_out(found, answers.astype(np.float32), T)
    return Answers(targets, Goal.values if found.every_step else Goal.value, answers.shape[1], details)


def spread_out(found: Collection, answers: Array, T: int) -> Array:
    """Return answers (N, ...), those of every step (steps, ...) as (N, T, ...) padded by 0."""
    if not found.every_step:
        return answers
    padded = np.zeros((len(found.lengths), T, *answers.shape[1:]), answers.dtype)
    padded[np.arange(T) < found.lengths[:, None]] = answers
    return padded


def warn_of_classes(found: Collection, splits: dict[str, Labels]) -> None:
    """Warn of classes without training examples, and of parts with a single class."""
    if not found.classes:
        return
    there = {part: np.unique(found.answers_of(index)) for part, index in splits.items()}
    everywhere = np.unique(np.concatenate([*there.values()]))
    if (rare := np.setdiff1d(everywhere, there["train"])).size:
        terminal().warn(
            f"{found.files[0]}: {listed([found.classes[k] for k in rare])} of the classes are not among the "
            f"{len(splits['train'])} examples for training, only in validation or test"
        )
    for part in ("val", "test"):
        if len(alone := there[part]) == 1:
            terminal().warn(
                f"{found.files[0]}: class {found.classes[alone[0]]} is the only one in {part}, where an "
                "answer that is always the same scores 1.0"
            )


def listed(names: list[str]) -> str:
    """Write names as text: all if there are at most six, else the first three and the last."""
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]])


def numbers(values: Array) -> str:
    """Write numbers for the record."""
    return " ".join(repr(float(value)) for value in values)


def balanced(classes: Labels, outputs: int) -> Array:
    """Return the weight of each class, by which all classes count the same: (outputs,)."""
    counts = np.bincount(classes, minlength=outputs)
    return len(classes) / (outputs * np.maximum(counts, 1))
