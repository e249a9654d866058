"""Settings of data=npz, and its file: reads the arrays, and refuses those that are not as documented."""

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from omegaconf import MISSING

from rnnbench.config import ConfigError
from rnnbench.config.refusals import finite, positive, refuse
from rnnbench.tasks.series.answers import listed
from rnnbench.tasks.series.collection import Array, in_order, indices
from rnnbench.tasks.series.settings import Series
from rnnbench.tasks.task import Goal, Labels

# Exceptions of numpy and zipfile for a file that is cut off, changed, or of another kind.
DAMAGED = (ValueError, zipfile.BadZipFile, zlib.error, AttributeError, EOFError, KeyError,
           NotImplementedError, RuntimeError, struct.error, SyntaxError, TypeError)  # fmt: skip
LARGEST = float(np.finfo(np.float32).max)
KEYS = ("x", "y", "lengths")


@dataclass
class Arrays(Series):
    """Settings of data=npz, see `arrays.OwnArrays`. val_size=null: a sixth of the training examples."""

    standardise: bool = False
    stratified: bool = False
    path: str = MISSING
    mean: float = 0.0  # inputs enter as (value - mean) / std
    std: float = 1.0

    def check(self) -> None:
        """Refuse a mean or std that cannot be, and two ways to standardise; see `Series.check`."""
        super().check()
        positive(("data.std", self.std))
        finite(("data.mean", self.mean))
        if self.standardise and (self.mean, self.std) != (0.0, 1.0):
            refuse("data.standardise", True, "computes mean and sd of each channel; leave out data.mean and "
                                             "data.std")  # fmt: skip
        if self.stratified and self.metric != "accuracy":
            refuse("data.stratified", True, f"needs classes, not data.metric={self.metric}")


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
                "numbers: sequences of several lengths are padded to one, with lengths_train beside them; "
                "labels that are texts by y.astype(str)"
            ) from None
        why = "" if "allow_pickle" in str(error) else f" ({error})"  # numpy's advice to unpickle is not ours
        raise ConfigError(
            f"data.path={file}: is not a file of arrays{why}; write it with numpy.savez"
        ) from None
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        there = np.ascontiguousarray(arrays[name])
        digest.update(
            there.data if there.dtype.kind in "fiub" else there.tobytes()
        )  # arrays of dates have no buffer
    return arrays, digest.hexdigest()


def check(data: Arrays, arrays: dict[str, Array], parts: list[str]) -> list[str]:
    """Refuse arrays that are not as documented; labels that are texts become whole numbers.

    Args:
        data: the settings.
        arrays: of the file; y that are texts are replaced.
        parts: the parts among train, val and test that the file has.

    Returns:
        The names of the classes where they are texts.

    Raises:
        ConfigError: an array is wrong; the message names its key, what is wrong, and what is allowed.
    """
    _check_keys(data, arrays, parts)
    for part in parts:
        _check_shapes(data, arrays, part)
        _check_lengths(data, arrays, part)
        _check_inputs(data, arrays, part)
    classes = _named(data, arrays, parts) if data.metric == "accuracy" else []
    for part in parts:
        if data.metric == "accuracy":
            _check_classes(data, arrays, part)
        else:
            _check_numbers(data, arrays, part)
    return classes


def goal_of(data: Arrays, y: Array) -> Goal:
    """Return what is asked for: the axes of y tell whether there is an answer at every step."""
    if data.metric == "accuracy":
        return Goal.labels if y.ndim == 2 else Goal.label
    return Goal.values if y.ndim == 3 else Goal.value


def _counts(values: Array, lengths: Labels) -> Array:
    """Return which steps of values (N, T, ...) count: (N, T) True or False."""
    return np.arange(values.shape[1]) < lengths[:, None]


def counting(values: Array, lengths: Labels | None) -> Array:
    """Return the steps that count of values (N, T, ...), those of one example after those of another."""
    if lengths is None:
        return values.reshape(-1, *values.shape[2:])
    counts: Array = values[_counts(values, lengths)]
    return counts


def counted(y: Array, lengths: Labels | None, goal: Goal) -> Array:
    """Return the answers that count, (answers,) or (answers, outputs)."""
    return counting(y, lengths) if goal.every_step else y


def _named(data: Arrays, arrays: dict[str, Array], parts: list[str]) -> list[str]:
    """Return the names of the classes, if y are texts, which are replaced by their indices.

    Raises:
        ConfigError: a part has other than texts, a label is empty, or training does not have it.
    """
    like = arrays["y_train"]
    if like.dtype.kind not in "US":
        return []
    classes: list[str] = []
    for part in parts:
        key, y, (N, T, _) = f"y_{part}", arrays[f"y_{part}"], arrays[f"x_{part}"].shape
        if y.dtype.kind not in "US" or y.shape not in ((N,), (N, T)) or y.ndim != like.ndim:
            what = f"must be texts (N,), or (N, {T}) at every step{_as_train(part)}"
            _refuse(data, key, f"has shape {y.shape} of {y.dtype}; {what}")
        texts, lengths = np.char.strip(y.astype(str)), arrays.get(f"lengths_{part}")
        goal = goal_of(data, y)
        classes = classes or in_order([*filter(None, counted(texts, lengths, goal).tolist())])
        found, empty = indices(texts.ravel().tolist(), classes).reshape(y.shape), texts == ""
        if goal.every_step and lengths is not None:
            found[~_counts(y, lengths)] = 0
        elif place := _first(empty):
            also = f", or lengths_{part}, with which it asks for nothing" if goal.every_step else ""
            _refuse(data, f"{key}{place}", f"is empty; leave the example out, or give it a label{also}")
        if place := _first(unknown := (found < 0) & ~empty):
            label = texts[unknown][0]
            _refuse(data, f"{key}{place}", f"has the label {label}, {_unknown(classes)}")
        arrays[key] = found
    return classes


def _first(wrong: Array) -> str:
    """Write the place of the first that is true, as [3, 0]; empty if none is."""
    return str([int(axis[0]) for axis in wrong.nonzero()]) if wrong.any() else ""


def _unknown(classes: list[str]) -> str:
    return (
        f"which y_train has not ({listed(classes)}); remove the examples of such labels, or give training "
        "examples of them"
    )


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
    whole, lengths = arrays[f"x_{part}"], arrays.get(f"lengths_{part}")
    x = counting(whole, lengths)
    if count := int(np.count_nonzero(_unreadable(data, x))):
        bad = _unreadable(data, whole)
        if lengths is not None:
            bad &= _counts(whole, lengths)[..., None]
        kinds = "infinite" if data.missing else "nan or infinite"
        remedy = "" if data.missing else "; data.missing=mask or data.missing=forward reads nan"
        _refuse(
            data,
            f"x_{part}",
            f"has {count:,} values that are not finite: {kinds}{_unless_padding(arrays, part)}, the first at "
            f"{_first(bad)}{remedy}",
        )
    if (
        x.dtype != np.uint8
        and not data.standardise
        and (count := _beyond((x.astype(np.float64) - data.mean) / data.std, LARGEST))
    ):
        _refuse(
            data,
            f"x_{part}",
            f"has {count:,} values beyond what float32 holds ({LARGEST:.2g}); divide them, or give "
            f"data.mean and data.std (here {data.mean:g} and {data.std:g})",
        )


def _unreadable(data: Arrays, values: Array) -> Array:
    """Return which values are infinite, or nan where data.missing says nothing."""
    return np.isinf(values) if data.missing else ~np.isfinite(values)


def _check_classes(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse targets that are not the classes 0, 1, ... of the training examples, or -1 within lengths."""
    y, like, (N, T, _) = arrays[f"y_{part}"], arrays["y_train"], arrays[f"x_{part}"].shape
    goal, lengths = goal_of(data, like), arrays.get(f"lengths_{part}")
    shaped = y.shape in ((N,), (N, T)) and y.ndim == like.ndim and y.dtype.kind in "biu"
    answers = counted(y, lengths, goal) if shaped else y
    least = -1 if goal.every_step and lengths is not None else 0
    if not shaped or answers.min() < least:
        found = f" with the class {answers.min()}{_unless_padding(arrays, part)}" if shaped else ""
        _refuse(
            data,
            f"y_{part}",
            f"has shape {y.shape} of {y.dtype}{found}; must be classes (N,), or (N, {T}) at every "
            f"step{_as_train(part)}, of whole numbers from 0 on, or take data.metric=mse",
        )
    if least and lengths is not None:
        silent = np.where(_counts(y, lengths), y, -1).max(1) < 0
        if place := _first(silent):
            _refuse(data, f"y_{part}{place}", "asks for nothing at any step; leave the example out")
    kinds = np.unique(counted(like, arrays.get("lengths_train"), goal))
    kinds = kinds[kinds >= 0]
    if len(kinds) == 1:
        _refuse(data, "y_train", f"has class {kinds[0]} alone, so that there is nothing to learn")
    if kinds[-1] != len(kinds) - 1:
        _refuse(
            data,
            "y_train",
            f"has the classes {listed([*map(str, kinds)])}: number them from 0 on without gaps, here to "
            f"{len(kinds) - 1}, for example with numpy.unique(y, return_inverse=True), or "
            "as names with y.astype(str)",
        )
    if answers.max() > kinds[-1]:
        place = f"y_{part}{_first(y == answers.max())}"
        known = _unknown([*map(str, kinds)])
        _refuse(data, f"y_{part}", f"has class {answers.max()}, first at {place}, {known}")


def _check_numbers(data: Arrays, arrays: dict[str, Array], part: str) -> None:
    """Refuse targets unless they are finite floats, vary, and can be squared."""
    y, like, T = arrays[f"y_{part}"], arrays["y_train"], arrays["x_train"].shape[1]
    shaped = y.shape[1:] == like.shape[1:] and 0 not in y.shape and y.dtype.kind == "f"
    shaped &= y.ndim in (1, 2) or (y.ndim == 3 and y.shape[1] == T)
    answers = counted(y, arrays.get(f"lengths_{part}"), goal_of(data, like)) if shaped else y
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
        place = _first(lengths < 1) if least and lengths.shape == (len(x),) else ""
        remedy = f", the first at {place}: leave such examples out" if place else ""
        _refuse(data, key, f"must be {len(x)} whole numbers of at least 1; it {found}{remedy}")
    if lengths.max() > x.shape[1]:
        _refuse(data, key, f"has {lengths.max()}, beyond the T={x.shape[1]} of x_{part}")


def _beyond(values: Array, largest: float) -> int:
    """Count the values whose absolute value is larger than `largest`."""
    return int(np.count_nonzero(np.abs(values) > largest))
