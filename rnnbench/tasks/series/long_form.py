"""Reads a CSV or Parquet file in long form: a row for each step of each series."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Optional

import numpy as np
from omegaconf import MISSING

from rnnbench.config import ConfigError
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.series.collection import Array, Collection, check_answers, in_order, indices
from rnnbench.tasks.series.columns import Long, read
from rnnbench.tasks.series.forecast import Windows, forecast
from rnnbench.tasks.series.prepare import task_of
from rnnbench.tasks.series.rows import Columns
from rnnbench.tasks.series.settings import Series
from rnnbench.tasks.task import Labels, Shape, Task, check_metric, enter, held, shape_of

PARTS = ("train", "val", "test")


@dataclass
class LongForm(Series):
    """Settings of data=csv, see `OwnSeries`: its file and the names of its columns."""

    path: str = MISSING
    root: str = "${oc.env:RNNBENCH_DATA,./data}"
    series: Optional[str] = None  # column: which series a row is of; null: one series, to forecast
    time: Optional[str] = None  # column: numbers or dates that rise; null: the order of the file
    values: Optional[list[str]] = None  # columns: the channels; null: all that are not named otherwise
    target: Optional[str] = None  # column: class or number of a series; of a forecast, the channel asked for
    every_step: bool = False  # the target is asked for at every step; empty cells ask for no class
    part: Optional[str] = None  # column: train, val or test; null: a sixth is set aside for each
    delimiter: str = ","
    horizon: Optional[int] = None  # forecast so many steps; null: the target is asked for
    window: int = 50  # steps that a forecast is made from
    stride: int = 1  # steps from one forecast to the next

    def check(self) -> None:
        """Refuse a schema that asks for nothing, or for two things; see `Series.check`."""
        super().check()
        at_least(
            1, ("data.horizon", self.horizon), ("data.window", self.window), ("data.stride", self.stride)
        )
        if len(self.delimiter) != 1:
            refuse("data.delimiter", self.delimiter, "must be one character")
        if self.horizon is None:
            if self.target is None:
                refuse(
                    "data.target",
                    None,
                    "name the column that is asked for, or data.horizon=STEPS",
                )
            if self.series is None:
                refuse(
                    "data.series",
                    None,
                    "name the column that says which series a row is of; one series alone can be forecast: "
                    "data.horizon=STEPS",
                )
            if self.target in (self.values or []):
                refuse("data.target", self.target, "is among data.values too; name it in one of them")
            return
        if self.metric != "mse":
            refuse("data.metric", self.metric, "a forecast (data.horizon) is judged by data.metric=mse")
        if self.every_step:
            refuse("data.every_step", True, "asks for data.target, not for next steps: data.horizon=null")
        for key, value in (("part", self.part), ("folds", self.folds), ("val_size", self.val_size)):
            if value is not None:
                refuse(
                    f"data.{key}",
                    value,
                    "a forecast (data.horizon) divides each series by time: four sixths train, one sixth "
                    "validates, the last tests; use null",
                )


class OwnSeries:
    """Reads `data=csv data.path=FILE`, a .csv, .tsv or .parquet file with a row for each step.

        id,time,x,y,kind        data.series=id data.time=time data.target=kind: the class of each series,
        a,0,1.5,3,walk          of the channels x and y; with data.metric=mse a number
        a,1,1.6,,walk
        b,0,0.2,7,run           data.every_step=true: a kind at every step, which may differ within a series
                                data.horizon=3 data.metric=mse: the next three steps of x and y

    A constant answer scores the share of the commonest class, or an mse of about 1, since numbers are
    standardised.
    """

    folds: ClassVar[bool] = True

    def shape(self, data: LongForm) -> Shape:
        """Return the sizes; reads the file.

        Raises:
            ConfigError: as `load`.
        """
        return shape_of(self.load(data))

    @held(files=lambda data: [data.path])
    def load(self, data: LongForm) -> Task:
        """Return the task.

        Raises:
            ConfigError: a column is missing, or a row is wrong; the message names file, row and remedy.
        """
        check_metric(data, "accuracy", "mse")
        path = Path(data.path).expanduser()
        columns = Columns(
            data.series, data.time, tuple(data.values or ()), data.target, data.part, data.metric == "mse",
            data.every_step, data.delimiter
        )  # fmt: skip
        long = read(path, columns, Path(data.root).expanduser() / "series")
        source = {"source": path.name, "sha256": long.digest}
        found = collection(data, long)
        if data.horizon is not None:
            asked = [data.target] if data.target else long.channels
            windows = Windows(data.window, data.horizon, data.stride, [long.channels.index(c) for c in asked])
            return forecast(data, found, windows, source)
        return task_of(data, found, source)


def collection(data: LongForm, long: Long) -> Collection:
    """Return the series of a file.

    Raises:
        ConfigError: parts or targets are not as they should be.
    """
    N = len(long.lengths)
    parts = {"train": np.arange(N)} if not long.parts else parts_of(data, long)
    found = Collection(long.values, long.lengths, long.channels, parts, [data.path], np.zeros(N, np.int64),
                       long.rows)  # fmt: skip
    if data.horizon is not None:
        return found
    if long.answers is not None:
        return answered_at_steps(found, long.answers, long.words)
    texts = [str(target) for target in long.targets]
    if data.metric == "accuracy":
        classes = in_order([texts[k] for k in parts["train"]])
        found = replace(found, answers=indices(texts, classes), classes=classes)
        check_answers(found, texts)
        return found
    answers = np.array(long.targets, np.float64)[:, None]
    if (bad := np.flatnonzero(~np.isfinite(answers[:, 0]))).size:
        raise ConfigError(
            f"{data.path}, row {long.rows[bad[0]]:,}: has {texts[bad[0]]} in column {data.target}; "
            "leave the series out"
        )
    return replace(found, answers=answers)


def answered_at_steps(found: Collection, answers: Array, words: list[str]) -> Collection:
    """Return series with what is asked of their steps.

    Args:
        found: series without answers.
        answers, words: see `Long`.

    Raises:
        ConfigError: a class is not among the training examples, or the only one; or a series has none.
    """
    if answers.dtype.kind == "f":
        return replace(found, answers=answers[:, None], every_step=True)
    asked = answers >= 0
    if (silent := np.flatnonzero(np.add.reduceat(asked, found.starts) == 0)).size:
        raise ConfigError(
            f"{found.place(int(silent[0]))}: begins a series whose target is empty at every step; leave the "
            f"{len(silent)} series without any out"
        )
    trained = found.steps_of(found.parts["train"]) & asked
    classes = in_order([words[k] for k in np.unique(answers[trained])])
    known = np.append(indices(words, classes), -1)[answers]
    found = replace(found, answers=known, classes=classes, every_step=True)
    check_answers(found, words, answers)
    return found


def parts_of(data: LongForm, long: Long) -> dict[str, Labels]:
    """Return which series are published as which part.

    Raises:
        ConfigError: a part has another name, or nothing is for training.
    """
    for name, row in zip(long.parts, long.rows, strict=True):
        if name not in PARTS:
            raise ConfigError(
                f"{data.path}, row {row:,}: has {name} in column {data.part} (data.part); must be "
                f"{', '.join(PARTS)}"
            )
    found = {part: np.flatnonzero(np.array(long.parts) == part) for part in PARTS}
    if not found["train"].size:
        raise ConfigError(f"{data.path}: no row has train in column {data.part} (data.part)")
    return {part: series for part, series in found.items() if series.size}


enter("csv", OwnSeries(), LongForm)
