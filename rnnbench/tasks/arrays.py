"""Reads the user's arrays from a .npz file."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.config.refusals import refuse
from rnnbench.tasks.array_file import Arrays, check, counted, counting, goal_of, read
from rnnbench.tasks.series import prepare
from rnnbench.tasks.series.answers import asked, warn_of_classes
from rnnbench.tasks.series.collection import Array, Collection
from rnnbench.tasks.task import (
    Examples,
    Goal,
    Labels,
    Shape,
    Task,
    check_metric,
    divided,
    enter,
    held,
    shape_of,
    terminal,
)

TEST_SEED = 0  # draws the test examples if the file has none


class OwnArrays:
    """Reads `data=npz data.path=FILE`, a file that numpy.savez has written.

        x_train (N, T, input)   numbers; entering as (value - data.mean) / data.std
        y_train (N,)            a class 0, 1, ..., without gaps: metric accuracy
             or (N, T)          a class at every step, with lengths -1 where nothing is asked for
             or (N,), (N, outputs)  floats: data.metric=mse
             or (N, T, outputs)     floats at every step, of one output (N, T, 1)
        lengths_train (N,)      optional: steps that count; the rest of x and y is padding, whatever it holds

    x_val, y_val, x_test, y_test and their lengths are optional. If the file has no test set, a sixth of the
    training examples is set aside under a fixed seed; if it has no validation set, data.val_size of the rest
    (null: a sixth) is set aside under data.split_seed. A constant answer scores the share of
    the commonest class, or the variance of y, over the answers that count.
    """

    folds: ClassVar[bool] = True
    same_examples: ClassVar[bool] = True

    def shape(self, data: Arrays) -> Shape:
        """Return the sizes; reads the file.

        Raises:
            ConfigError: as `load`.
        """
        return shape_of(self.load(data))

    @held(files=lambda data: [data.path])
    def load(self, data: Arrays) -> Task:
        """Return the task.

        Raises:
            ConfigError: a key of the file is missing or wrong; the message names it and what is allowed.
        """
        check_metric(data, "accuracy", "mse")
        arrays, digest = read(data.path)
        parts = [part for part in ("train", "val", "test") if part == "train" or f"x_{part}" in arrays]
        names = check(data, arrays, parts)
        x, y = (np.concatenate([arrays[f"{key}_{part}"] for part in parts]) for key in ("x", "y"))
        lengths = _lengths(arrays, parts)
        _check_goal(data, x, y)
        sizes = {part: len(arrays[f"x_{part}"]) for part in parts}
        found = _collection(data, sizes, Examples(x, y, lengths), names)
        gaps = prepare.check_values(data, found) if data.missing else np.zeros(0, np.int64)
        splits, how = prepare.split(data, found) if data.stratified else split(data, found.parts)
        warn_of_classes(found, splits)
        scaling = prepare.scaling_of(data, found, splits["train"], own=(data.mean, data.std))
        changed = data.standardise or data.missing is not None
        answers = asked(data, found, splits["train"], x.shape[1])
        return Task(
            inputs=prepare.padded(data, found, scaling, gaps, x.shape[1])
            if changed
            else _inputs(data, x, lengths),
            targets=answers.targets,
            splits=splits,
            mean=0.0 if changed else data.mean,
            std=1.0 if changed else data.std,
            outputs=answers.outputs,
            checksum=digest,
            details={
                "source": Path(data.path).name,
                **how,
                **scaling.details,
                **prepare.marked(data, gaps),
                **answers.details,
            },
            goal=answers.goal,
            metric=data.metric,
            lengths=lengths,
            classes=tuple(names),
            weights=answers.weights,
        )


def _check_goal(data: Arrays, x: Array, y: Array) -> None:
    """Refuse shares of classes that differ from step to step; warn of numbers that may be meant for steps."""
    goal = goal_of(data, y)
    if data.stratified and goal.every_step:
        refuse("data.stratified", True, "needs one class for each example, and y has one at every step")
    if y.shape[1:] == x.shape[1:2] != (1,) and goal is Goal.value:
        terminal().warn(
            f"data.path={data.path}: y has shape {y.shape}, read as {y.shape[1]} numbers at the end; a "
            f"number at every step has shape (N, {y.shape[1]}, 1): y[:, :, None]"
        )


def _lengths(arrays: dict[str, Array], parts: list[str]) -> Labels | None:
    """Return the lengths (N,) of all parts, T where a part has none; None if no part has any."""
    if not any(f"lengths_{part}" in arrays for part in parts):
        return None
    full = {part: np.full(arrays[f"x_{part}"].shape[0], arrays[f"x_{part}"].shape[1]) for part in parts}
    return np.concatenate([arrays.get(f"lengths_{part}", full[part]) for part in parts]).astype(np.int64)


def _collection(data: Arrays, sizes: dict[str, int], whole: Examples, names: list[str]) -> Collection:
    """Return the arrays as series, of which the steps that count are there.

    Args:
        data: the settings.
        sizes: number of examples of each part of the file.
        whole: those of all parts, one after the other.
        names: of the classes, where they have any.
    """
    x, y, lengths = whole.inputs, whole.targets, whole.lengths
    goal = goal_of(data, y)
    answers = counted(y, lengths, goal)
    if goal in (Goal.label, Goal.labels):
        names = names or [str(number) for number in range(int(answers.max()) + 1)]
    elif goal is Goal.value:
        answers = answers.reshape(len(y), -1)
    starts = np.cumsum([0, *sizes.values()]).tolist()
    return Collection(
        values=counting(x, lengths),
        lengths=np.full(len(x), x.shape[1]) if lengths is None else lengths,
        channels=[str(number) for number in range(x.shape[2])],
        parts={
            part: np.arange(start, start + sizes[part]) for part, start in zip(sizes, starts, strict=False)
        },
        files=[f"data.path={data.path}: x_{part}" for part in sizes],
        file=np.repeat(np.arange(len(sizes)), [*sizes.values()]),
        rows=np.concatenate([np.arange(size) for size in sizes.values()]),
        answers=answers,
        classes=names,
        every_step=goal.every_step,
        where="{file}[{row}]",
    )


def _inputs(data: Arrays, x: Array, lengths: Labels | None) -> Array:
    """Return inputs as they enter the network, with 0 for padding that float32 does not hold."""
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        x = ((x.astype(np.float64) - data.mean) / data.std).astype(np.float32)
    if lengths is not None:
        x[~np.isfinite(x)] = 0
    return x


def split(data: Arrays, parts: dict[str, Labels]) -> tuple[dict[str, Labels], dict[str, str]]:
    """Return the indices of each split into the examples, and how the test set was made, for the record."""
    splits = {part: index for part, index in parts.items() if part != "train"}
    pool, how = parts["train"], {}
    if "test" not in parts:
        drawn = np.random.RandomState(TEST_SEED).permutation(len(pool))
        sixth = len(pool) // 6
        if sixth < 1:
            raise ConfigError(f"data.path={data.path}: x_train has {len(pool)} examples, too few to be split")
        splits["test"], pool = drawn[:sixth], drawn[sixth:]
        how["test"] = "a sixth of x_train, set aside under a fixed seed"
    if "val" in parts and data.val_size is not None:
        raise ConfigError(f"data.val_size={data.val_size}: the file has x_val; use null")
    if "val" in parts and data.folds is not None:
        raise ConfigError(f"data.folds={data.folds}: the file has x_val; append it to x_train, or use null")
    share = 0 if "val" in parts else round(len(pool) / 6)
    chosen = {part: pool[index] for part, index in divided(data, len(pool), share).items()}
    return chosen | splits, how


enter("npz", OwnArrays(), Arrays)
