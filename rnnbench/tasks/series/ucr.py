"""Reads data sets of the UCR and UEA archive, with training and test examples as published."""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from omegaconf import MISSING

from rnnbench.config import ConfigError
from rnnbench.config.refusals import refuse
from rnnbench.tasks.series import ts_format
from rnnbench.tasks.series.collection import Collection, check_answers, in_order, indices
from rnnbench.tasks.series.prepare import task_of
from rnnbench.tasks.series.settings import Series
from rnnbench.tasks.task import Shape, Task, check_metric, enter, held, shape_of


@dataclass
class Ucr(Series):
    """Settings of data=ucr, see `Archive`."""

    problem: str = MISSING  # its name in the archive, @problemName of its files
    root: str = "${oc.env:RNNBENCH_DATA,./data}"

    def check(self) -> None:
        """Refuse a name that is no file's; see `Series.check`."""
        super().check()
        if not re.fullmatch(r"\w[\w-]*", self.problem):
            refuse("data.problem", self.problem, "must be a data set's name, such as JapaneseVowels")


class Archive:
    """Reads `data=ucr data.problem=NAME`: NAME_TRAIN.ts and NAME_TEST.ts, or the same as .tsv.

        1.86,1.89,1.93:-0.2,-0.1,-0.2:2     a series of 2 channels and 3 steps, of class 2

    They are looked for in data.root/ucr/NAME, data.root/NAME, then in the package aeon, which ships some.
    Classes have the names of the file; with @targetLabel the answer is a number, data.metric=mse. A constant
    answer scores the share of the commonest class, or an mse of about 1, since numbers are standardised.
    """

    folds: ClassVar[bool] = True

    def shape(self, data: Ucr) -> Shape:
        """Return the sizes; reads the files.

        Raises:
            ConfigError: as `load`.
        """
        return shape_of(self.load(data))

    @held(files=lambda data: [str(file) for file in files(data)])
    def load(self, data: Ucr) -> Task:
        """Return the task.

        Raises:
            ConfigError: a file is missing, or a row is wrong; the message names file, row and remedy.
        """
        check_metric(data, "accuracy", "mse")
        if not (paths := files(data)):
            raise ConfigError(absent(data))
        read = [ts_format.read(path) for path in paths]
        source = {"source": data.problem}
        for path in paths:
            source[f"sha256 {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return task_of(data, joined(data, read), source)


def folders(data: Ucr) -> list[Path]:
    """Return the folders whose subfolders have data sets."""
    root = Path(data.root).expanduser()
    package = importlib.util.find_spec("aeon")  # importing it would take seconds
    shipped = [Path(package.origin).parent / "datasets" / "data"] if package and package.origin else []
    return [root / "ucr", root, *shipped]


def files(data: Ucr) -> list[Path]:
    """Return the files for training and testing; [] if they are nowhere."""
    for folder in folders(data):
        for suffix in (".ts", ".tsv"):
            for first in sorted(folder.glob(f"*/{data.problem}_TRAIN{suffix}")):
                pair = [first, first.with_name(f"{data.problem}_TEST{suffix}")]
                if pair[1].is_file():
                    return pair
    return []


def absent(data: Ucr) -> str:
    """Say where a data set was looked for, and how to get it."""
    places = folders(data)
    known = sorted({path.name.removesuffix("_TEST.ts") for path in places[-1].glob("*/*_TEST.ts")})
    has = f"; aeon has {', '.join(known)}" if len(places) > 2 else "; pip install --no-deps aeon brings some"
    return (
        f"data.problem={data.problem}: {data.problem}_TRAIN.ts and {data.problem}_TEST.ts (or .tsv) are not "
        f"in {places[0] / data.problem}; download them there from timeseriesclassification.com{has}"
    )


def joined(data: Ucr, read: list[ts_format.Series]) -> Collection:
    """Put the series of training and testing together.

    Raises:
        ConfigError: they do not fit together, or data.metric does not fit them.
    """
    train, test = read
    widths = [one.values[0].shape[1] for one in read]
    if widths[0] != widths[1]:
        raise ConfigError(
            f"{test.file}, row {test.rows[0]}: has {widths[1]} channels, and {train.file.name} has "
            f"{widths[0]}; both must have the same"
        )
    if train.numbers != (data.metric == "mse"):
        wanted = "mse" if train.numbers else "accuracy"
        what = "numbers" if train.numbers else "classes"
        refuse("data.metric", data.metric, f"{train.file.name} asks for {what}: data.metric={wanted}")
    counts = [len(one.values) for one in read]
    labels = train.labels + test.labels
    classes = [] if train.numbers else in_order(train.labels)
    found = Collection(
        values=np.concatenate([values for one in read for values in one.values]),
        lengths=np.array([len(values) for one in read for values in one.values], np.int64),
        channels=[str(number) for number in range(1, widths[0] + 1)],
        parts={"train": np.arange(counts[0]), "test": np.arange(counts[0], sum(counts))},
        files=[str(one.file) for one in read],
        file=np.repeat(np.arange(2), counts),
        rows=np.array(train.rows + test.rows, np.int64),
        answers=_answers(read) if train.numbers else indices(labels, classes),
        classes=classes,
    )
    if not train.numbers:
        check_answers(found, labels)
    return found


def _answers(read: list[ts_format.Series]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the numbers that are asked for, (N, 1)."""
    found = []
    for one in read:
        for label, row in zip(one.labels, one.rows, strict=True):
            try:
                found.append(float(label))
            except ValueError:
                raise ConfigError(
                    f"{one.file}, row {row}: has the target {label}, which is no number"
                ) from None
            if not np.isfinite(found[-1]):
                raise ConfigError(f"{one.file}, row {row}: has the target {label}; remove the row")
    return np.array(found)[:, None]


enter("ucr", Archive(), Ucr)
