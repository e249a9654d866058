"""Reads the user's arrays from a .npz file."""

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from rnnbench.config import ConfigError, Data
from rnnbench.config.refusals import finite, positive
from rnnbench.tasks.task import Goal, Labels, Shape, Task, check_metric, divided, enter, held, terminal

Array = NDArray[Any]
# Exceptions of numpy and zipfile for a file that is cut off, changed, or of another kind.
DAMAGED = (ValueError, zipfile.BadZipFile, zlib.error, AttributeError, EOFError, KeyError,
           NotImplementedError, RuntimeError, struct.error, SyntaxError, TypeError)  # fmt: skip
TEST_SEED = 0  # draws the test examples if the file has none
LARGEST = float(np.finfo(np.float32).max)
KEYS = ("x", "y", "lengths")


@dataclass
class Arrays(Data):
    """Settings of data=npz, see `OwnArrays`. val_size=null: a sixth of the training examples."""

    path: str = MISSING
    mean: float = 0.0  # inputs enter as (value - mean) / std
    std: float = 1.0

    def check(self) -> None:
        """Refuse a mean that is not finite and a std that is not positive; see `Data.check`."""
        super().check()
        positive(("data.std", self.std))
        finite(("data.mean", self.mean))


class OwnArrays:
    """Reads `data=npz data.path=FILE`, a file that numpy.savez has written.

        x_train (N, T, input)   numbers; entering as (value - data.mean) / data.std
        y_train (N,)            a class 0, 1, ..., without gaps: metric accuracy
             or (N, T)          a class at every step
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
        task = self.load(data)
        train, val, test = (len(task.splits[name]) for name in ("train", "val", "test"))
        T, width = task.inputs.shape[1:]
        return Shape(T, width, task.outputs, train, val, test, task.goal)

    @held(files=lambda data: [data.path])
    def load(self, data: Arrays) -> Task:
        """Return the task.

        Raises:
            ConfigError: a key of the file is missing or wrong; the message names it and what is allowed.
        """
        check_metric(data, "accuracy", "mse")
        arrays, digest = read(data.path)
        parts = [part for part in ("train", "val", "test") if part == "train" or f"x_{part}" in arrays]
        check(data, arrays, parts)
        x, y = (np.concatenate([arrays[f"{key}_{part}"] for part in parts]) for key in ("x", "y"))
        splits, how = split(data, {part: len(arrays[f"x_{part}"]) for part in parts})
        lengths, goal = _lengths(arrays, parts), _goal(data, y)
        if goal in (Goal.label, Goal.labels):
            _warn_of_classes(data, y, lengths, splits)
        elif y.shape[1:] == x.shape[1:2] != (1,):
            terminal().warn(
                f"data.path={data.path}: y has shape {y.shape}, read as {y.shape[1]} numbers at the end; a "
                f"number at every step has shape (N, {y.shape[1]}, 1): y[:, :, None]"
            )
        targets = _targets(y, lengths, goal)
        return Task(
            inputs=_inputs(data, x, lengths),
            targets=targets,
            splits=splits,
            scale=1.0,
            mean=data.mean,
            std=data.std,
            outputs=int(targets.max()) + 1 if data.metric == "accuracy" else targets.shape[-1],
            checksum=digest,
            details={"source": Path(data.path).name, **how},
            goal=goal,
            metric=data.metric,
            lengths=lengths,
        )


def _lengths(arrays: dict[str, Array], parts: list[str]) -> Labels | None:
    """Return the lengths (N,) of all parts, T where a part has none; None if no part has any."""
    if not any(f"lengths_{part}" in arrays for part in parts):
        return None
    full = {part: np.full(arrays[f"x_{part}"].shape[0], arrays[f"x_{part}"].shape[1]) for part in parts}
    return np.concatenate([arrays.get(f"lengths_{part}", full[part]) for part in parts]).astype(np.int64)


def _goal(data: Arrays, y: Array) -> Goal:
    """Return what is asked for: the axes of y tell whether there is an answer at every step."""
    if data.metric == "accuracy":
        return Goal.labels if y.ndim == 2 else Goal.label
    return Goal.values if y.ndim == 3 else Goal.value


def _counting(values: Array, lengths: Labels | None) -> Array:
    """Return the steps that count of values (N, T, ...), those of one example after those of another."""
    if lengths is None:
        return values.reshape(-1, *values.shape[2:])
    counts: Array = values[np.arange(values.shape[1]) < lengths[:, None]]
    return counts


def _answers(y: Array, lengths: Labels | None, goal: Goal) -> Array:
    """Return the answers that count, (answers,) or (answers, outputs)."""
    return _counting(y, lengths) if goal.every_step else y


def _inputs(data: Arrays, x: Array, lengths: Labels | None) -> Array:
    """Return inputs as they enter the network, with 0 for padding that float32 does not hold."""
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        x = ((x.astype(np.float64) - data.mean) / data.std).astype(np.float32)
    if lengths is not None:
        x[~np.isfinite(x)] = 0
    return x


def _targets(y: Array, lengths: Labels | None, goal: Goal) -> Array:
    """Return targets as `Goal` has them, with 0 for those that do not count."""
    if goal is Goal.value:
        return y.reshape(len(y), -1).astype(np.float32)
    if lengths is not None and goal.every_step:
        padding = np.arange(y.shape[1]) >= lengths[:, None]
        y = np.where(padding if goal is Goal.labels else padding[..., None], 0, y)
    return y.astype(np.float32 if goal is Goal.values else np.int64)


def _warn_of_classes(data: Arrays, y: Array, lengths: Labels | None, splits: dict[str, Labels]) -> None:
    """Warn of classes without training examples, and of parts with a single class."""
    goal = _goal(data, y)

    def classes(index: Labels) -> Array:
        return np.unique(_answers(y[index], None if lengths is None else lengths[index], goal))

    if (rare := np.setdiff1d(_answers(y, lengths, goal), classes(splits["train"]))).size:
        terminal().warn(
            f"data.path={data.path}: {_list(rare)} of the classes are not among the "
            f"{len(splits['train'])} examples for training, only in validation or test"
        )
    for part in ("val", "test"):
        if len(alone := classes(splits[part])) == 1:
            terminal().warn(
                f"data.path={data.path}: class {alone[0]} is the only one in {part}, where an answer that is "
                "always the same scores 1.0"
            )


def read(file: str) -> tuple[dict[str, Array], str]:
    """Return the arrays of a file, and a sha256 of their names and bytes.

    Raises:
        ConfigError: the file cannot be read, or does not hold arrays.
    """
    arrays: dict[str, Array] = {}
    name = ""
    try:
        with np.load(Path(file).expanduser(), allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except OSError as error:
        raise ConfigError(f"data.path={file}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise ConfigError(f"data.path={file}: {name or 'an array'} is larger than the free memory") from None
    except DAMAGED as error:
        if "allow_pickle" in str(error) and name:
            raise ConfigError(
                f"data.path={file}: {name} holds Python objects, which are not read; make it an array of "
                "numbers: sequences of several lengths are padded to one, with lengths_train beside them"
            ) from None
        raise ConfigError(
            f"data.path={file}: is not a file of arrays ({error}); write it with numpy.savez"
        ) from None
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        there = np.ascontiguousarray(arrays[name])
        digest.update(
            there.data if there.dtype.kind in "fiub" else there.tobytes()
        )  # arrays of dates have no buffer
    return arrays, digest.hexdigest()


def check(data: Arrays, arrays: dict[str, Array], parts: list[str]) -> None:
    """Refuse arrays that are not as documented.

    Args:
        parts: the parts among train, val and test that the file has.

    Raises:
        ConfigError: an array is wrong; the message names its key, what is wrong, and what is allowed.
    """
    _check_keys(data, arrays, parts)
    for part in parts:
        _check_shapes(data, arrays, part)
        _check_lengths(data, arrays, part)
        _check_inputs(data, arrays, part)
        if data.metric == "accuracy":
            _check_classes(data, arrays, part)
        else:
            _check_numbers(data, arrays, part)


def _refuse(data: Arrays, key: str, what: str) -> NoReturn:
    raise ConfigError(f"data.path={data.path}: {key} {what}")


def _check_keys(data: Arrays, arrays: dict[str, Array], parts: list[str]) -> None:
    """Refuse an unknown key, and a part without its inputs or targets."""
    known = [f"{key}_{part}" for part in ("train", "val", "test") for key in KEYS]
    for key in arrays:
        if key not in known:
            _refuse(data, key, f"is none of the keys that are read: {', '.join(known)}")
        name, _, part = key.partition("_")
        if name != "x" and part not in parts:
            _refuse(data, f"x_{part}", f"is missing, and {key} is there")
    for part in parts:
        for key in (f"x_{part}", f"y_{part}"):
            if key not in arrays:
                _refuse(data, key, f"is missing; the file has {', '.join(arrays) or 'no arrays'}")


def _check_shapes(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse inputs but numbers (N, T, input), and another number of targets."""
    x, y, like = arrays[f"x_{part}"], arrays[f"y_{part}"], arrays["x_train"]
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape or x.shape[1:] != like.shape[1:]:
        wanted = "(N, T, input)" if part == "train" else f"(N, {like.shape[1]}, {like.shape[2]})"
        if x.ndim == 3 and x.shape[2:] == like.shape[2:]:
            wanted += "; pad all parts to one T, and give lengths"
        elif x.ndim == 2:
            wanted += "; with one input a step, x[:, :, None]"
        _refuse(data, f"x_{part}", f"has shape {x.shape} of {x.dtype}; must be numbers of shape {wanted}")
    if y.ndim == 0 or len(y) != len(x):
        count = len(y) if y.ndim else 1
        _refuse(data, f"y_{part}", f"has {count} answers for {len(x)} examples")


def _check_inputs(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse inputs that are not finite, or that float32 does not hold, in steps that count."""
    x = _counting(arrays[f"x_{part}"], arrays.get(f"lengths_{part}"))
    if count := int(np.count_nonzero(~np.isfinite(x))):
        _refuse(
            data,
            f"x_{part}",
            f"has {count:,} values that are not finite: nan or infinite{_unless_padding(arrays, part)}",
        )
    if x.dtype != np.uint8 and (count := _beyond((x.astype(np.float64) - data.mean) / data.std, LARGEST)):
        _refuse(
            data,
            f"x_{part}",
            f"has {count:,} values beyond what float32 holds ({LARGEST:.2g}); divide them, or give "
            f"data.mean and data.std (here {data.mean:g} and {data.std:g})",
        )


def _check_classes(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse targets that are not the classes 0, 1, ... of the training examples."""
    y, like, (N, T, _) = arrays[f"y_{part}"], arrays["y_train"], arrays[f"x_{part}"].shape
    goal = _goal(data, like)
    shaped = y.shape in ((N,), (N, T)) and y.ndim == like.ndim and y.dtype.kind in "biu"
    answers = _answers(y, arrays.get(f"lengths_{part}"), goal) if shaped else y
    if not shaped or answers.min() < 0:
        found = f" with the class {answers.min()}{_unless_padding(arrays, part)}" if shaped else ""
        _refuse(
            data,
            f"y_{part}",
            f"has shape {y.shape} of {y.dtype}{found}; must be classes (N,), or (N, {T}) at every "
            f"step{_as_train(part)}, of whole numbers from 0 on, or take data.metric=mse",
        )
    kinds = np.unique(_answers(like, arrays.get("lengths_train"), goal))
    if len(kinds) == 1:
        _refuse(data, "y_train", f"has class {kinds[0]} alone, so that there is nothing to learn")
    if kinds[-1] != len(kinds) - 1:
        _refuse(
            data,
            "y_train",
            f"has the classes {_list(kinds)}: number them from 0 on without gaps, here to "
            f"{len(kinds) - 1}, for example with numpy.unique(y, return_inverse=True)",
        )
    if answers.max() > kinds[-1]:
        _refuse(data, f"y_{part}", f"has class {answers.max()}, which y_train has not")


def _check_numbers(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse targets unless they are finite floats, vary, and can be squared."""
    y, like, T = arrays[f"y_{part}"], arrays["y_train"], arrays["x_train"].shape[1]
    shaped = y.shape[1:] == like.shape[1:] and 0 not in y.shape and y.dtype.kind == "f"
    shaped &= y.ndim in (1, 2) or (y.ndim == 3 and y.shape[1] == T)
    answers = _answers(y, arrays.get(f"lengths_{part}"), _goal(data, like)) if shaped else y
    missing = np.count_nonzero(~np.isfinite(answers)) if shaped else 0
    if not shaped or missing:
        found = f" with {missing:,} that are not finite{_unless_padding(arrays, part)}" if missing else ""
        _refuse(
            data,
            f"y_{part}",
            f"has shape {y.shape} of {y.dtype}{found}; must be finite floats (N,), (N, outputs), or "
            f"(N, {T}, outputs) at every step{_as_train(part)}, or take data.metric=accuracy",
        )
    if part == "train" and (answers == answers[0]).all():
        _refuse(data, "y_train", "has the same answer everywhere, so that there is nothing to learn")
    if count := _beyond(answers, LARGEST**0.5):
        _refuse(
            data,
            f"y_{part}",
            f"has {count:,} values whose squares are beyond what float32 holds ({LARGEST:.2g}); divide them",
        )


def _as_train(part: str) -> str:
    return "" if part == "train" else " as y_train"


def _unless_padding(arrays: dict[str, Array], part: str) -> str:
    """Say how steps that do not count are named, where the file has no lengths."""
    return "" if f"lengths_{part}" in arrays else f" (where it is padding, give lengths_{part})"


def _check_lengths(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse lengths that are not (N,) integers from 1 to T."""
    key, x = f"lengths_{part}", arrays[f"x_{part}"]
    if (lengths := arrays.get(key)) is None:
        return
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu" or not lengths.min() >= 1:
        least = f" from {lengths.min()}" if lengths.size and lengths.dtype.kind in "iuf" else ""
        found = f"has shape {lengths.shape} of {lengths.dtype}{least}"
        _refuse(data, key, f"must be {len(x)} whole numbers of at least 1; it {found}")
    if lengths.max() > x.shape[1]:
        _refuse(data, key, f"has {lengths.max()}, beyond the T={x.shape[1]} of x_{part}")


def _beyond(values: Array, largest: float) -> int:
    """Count the values whose absolute value is larger than `largest`."""
    return int(np.count_nonzero(np.abs(values) > largest))


def _list(classes: Array) -> str:
    """Write classes as text: all if there are at most six, else the first three and the last."""
    words = [f"{number}" for number in classes]
    return ", ".join(words if len(words) <= 6 else [*words[:3], "...", words[-1]])


def split(data: Arrays, sizes: dict[str, int]) -> tuple[dict[str, NDArray[np.int64]], dict[str, str]]:
    """Return the indices of each split into the examples, and how the test set was made, for the record."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    pool = np.arange(sizes["train"])
    splits: dict[str, NDArray[np.int64]] = {}
    how = {}
    for part in ("val", "test"):
        if part in sizes:
            splits[part] = np.arange(starts[part], starts[part] + sizes[part])
    if "test" not in sizes:
        drawn = np.random.RandomState(TEST_SEED).permutation(len(pool))
        sixth = len(pool) // 6
        if sixth < 1:
            raise ConfigError(f"data.path={data.path}: x_train has {len(pool)} examples, too few to be split")
        splits["test"], pool = drawn[:sixth], drawn[sixth:]
        how["test"] = "a sixth of x_train, set aside under a fixed seed"
    if "val" in sizes and data.val_size is not None:
        raise ConfigError(f"data.val_size={data.val_size}: the file has x_val; use null")
    if "val" in sizes and data.folds is not None:
        raise ConfigError(f"data.folds={data.folds}: the file has x_val; append it to x_train, or use null")
    share = 0 if "val" in sizes else round(len(pool) / 6)
    chosen = {part: pool[index] for part, index in divided(data, len(pool), share).items()}
    return chosen | splits, how


enter("npz", OwnArrays(), Arrays)
