"""Checks the rows of a file in long form block by block, and writes down what each series has."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.tasks.series.collection import BLOCK, Array
from rnnbench.tasks.task import Labels

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "?"]


@dataclass(frozen=True)
class Columns:
    """Names the columns of a file; None: it has none for this."""

    series: str | None
    time: str | None
    values: tuple[str, ...]  # none: all that are not named otherwise
    target: str | None
    part: str | None
    numbers: bool  # whether the target is a number in place of a class
    every_step: bool  # whether each row has a target of its own
    delimiter: str


@dataclass
class Scan:
    """Keeps what is known of the series of a file while it is read."""

    path: Path
    columns: Columns
    channels: list[str]
    first: int  # row of the file that has the first values
    read: int = 0  # rows
    codes: dict[str, int] = field(default_factory=dict)  # number of each series, by its name
    runs: list[tuple[Labels, Labels]] = field(default_factory=list)  # numbers, and how many rows follow
    begins: Labels = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,) row where a series begins
    last: Array | None = None  # (N,) last time of each series
    same: dict[str, list[Any]] = field(default_factory=dict)  # of each series, by target or part
    words: dict[str, int] = field(default_factory=dict)  # number of each class, where each row has a target
    answers: list[Array] = field(default_factory=list)  # (rows,) numbers of classes, or numbers asked for

    def refuse(self, at: int, what: str) -> NoReturn:
        """Refuse the file for a row of the block that is being read."""
        raise ConfigError(f"{self.path}, row {self.first + self.read + at:,}: {what}")


def take(found: Scan, batch: Any, file: IO[bytes]) -> None:
    """Take over the rows of one batch: check them, and write their values to a file."""
    columns, n = found.columns, batch.num_rows
    if not n:
        return
    values = np.empty((n, len(found.channels)))
    for channel, name in enumerate(found.channels):
        values[:, channel] = _numbers(found, batch, name)
    codes = _codes(found, batch)
    new = len(found.codes) - len(found.begins) if columns.series else int(not len(found.begins))
    if new:
        known = len(found.begins)
        fresh, at = np.unique(codes, return_index=True)
        found.begins = np.append(found.begins, found.read + at[fresh >= known])
    if columns.time is not None:
        _check_times(found, batch, codes)
    if columns.target is not None and columns.target not in found.channels:
        if columns.every_step:
            found.answers.append(_answers(found, batch, columns.target))
        else:
            _check_same(found, batch, codes, "target", columns.target)
    if columns.part is not None:
        _check_same(found, batch, codes, "part", columns.part)
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts = np.concatenate([[0], edges])
    found.runs.append((codes[starts], np.diff(np.append(starts, n))))
    values.tofile(file)
    found.read += n


def _numbers(found: Scan, batch: Any, name: str) -> Array:
    """Return a column of numbers, nan where it has none."""
    import pyarrow

    try:
        column = batch.column(name).cast(pyarrow.float64())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"{found.path}: column {name} has no numbers ({str(error).splitlines()[0]}); name those with "
            "numbers by data.values"
        ) from None
    numbers: Array = column.to_numpy(zero_copy_only=False)
    return numbers


def _codes(found: Scan, batch: Any) -> Labels:
    """Return the number of each row's series (rows,); the first of the file is 0."""
    import pyarrow

    if found.columns.series is None:
        return np.zeros(batch.num_rows, np.int64)
    column = batch.column(found.columns.series)
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        found.refuse(at, f"has no name of its series in column {found.columns.series}")
    encoded = column.cast(pyarrow.string()).dictionary_encode()
    codes = [found.codes.setdefault(name, len(found.codes)) for name in encoded.dictionary.to_pylist()]
    numbers: Labels = np.array(codes, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
    return numbers


def _check_times(found: Scan, batch: Any, codes: Labels) -> None:
    """Refuse times that do not rise within a series."""
    import pyarrow

    name = found.columns.time
    column = batch.column(name)
    kind = column.type
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        found.refuse(at, f"has no time in column {name}")
    if pyarrow.types.is_temporal(kind):
        unit = pyarrow.timestamp("us")
        column = column.cast(unit, safe=False).cast(pyarrow.int64())
    elif not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        found.refuse(0, f"has the time {column[0]} in {name}, no number and no date such "
                        "as 2024-05-31 or 2024-05-31 12:00:00; write it so, or data.time=null for the order "
                        "of the file")  # fmt: skip
    times = column.to_numpy(zero_copy_only=False)
    least: Any = np.iinfo(times.dtype).min if times.dtype.kind == "i" else -np.inf
    last = found.last if found.last is not None else np.zeros(0, times.dtype)
    last = np.append(last, np.full(len(found.begins) - len(last), least, times.dtype))
    order = np.argsort(codes, kind="stable")
    sorted_codes, sorted_times = codes[order], times[order]
    first = np.append(True, sorted_codes[1:] != sorted_codes[:-1])
    before = np.where(first, last[sorted_codes], np.append(sorted_times[:1], sorted_times[:-1]))
    known = ~first | (found.begins[sorted_codes] < found.read)
    if (wrong := known & ~(sorted_times > before)).any():
        at = int(order[wrong].min())
        at_sorted = int(np.flatnonzero(order == at)[0])
        twice = sorted_times[at_sorted] == before[at_sorted]
        what = "the same time as" if twice else "an earlier time than"
        found.refuse(
            at,
            f"has {what} the row before of its series: {name} {batch.column(name)[at]}; "
            + ("each time may occur once in a series" if twice else "sort the file by series and time"),
        )
    ends = np.append(first[1:], True)
    last[sorted_codes[ends]] = sorted_times[ends]
    found.last = last


def _answers(found: Scan, batch: Any, name: str) -> Array:
    """Return what is asked for at each row: a number, or that of its class, -1 where the cell is empty."""
    import pyarrow

    if found.columns.numbers:
        numbers: Array = batch.column(name).cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        if not (finite := np.isfinite(numbers)).all():
            at = int(finite.argmin())
            there = "an infinite number" if np.isinf(numbers[at]) else "nothing"
            found.refuse(
                at,
                f"has {there} in column {name} (data.target); data.metric=mse needs a number at every step: "
                "leave the row out, or complete it",
            )
        return numbers
    encoded = batch.column(name).cast(pyarrow.string()).dictionary_encode()
    words = encoded.dictionary.to_pylist()
    codes = [-1 if word in MISSING else found.words.setdefault(word, len(found.words)) for word in words]
    places: Labels = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.array([*codes, -1], np.int32)[places]


def _check_same(found: Scan, batch: Any, codes: Labels, key: str, name: str) -> None:
    """Keep what each series has in a column, and refuse a series whose rows differ in it."""
    import pyarrow

    numbers = key == "target" and found.columns.numbers
    column = batch.column(name).cast(pyarrow.float64() if numbers else pyarrow.string())
    encoded = column.dictionary_encode()
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        asked = key == "target" and not numbers
        also = "; data.every_step=true asks for a class at every step that has one" if asked else ""
        found.refuse(
            at, f"has nothing in column {name} (data.{key}); leave the series out, or complete it{also}"
        )
    words = encoded.dictionary.to_pylist()
    here = encoded.indices.to_numpy(zero_copy_only=False)
    known = found.same.setdefault(key, [])
    places = np.unique(codes, return_index=True)
    for code, at in zip(*(part.tolist() for part in places), strict=True):
        if code >= len(known):
            known.append(words[here[at]])
    number = {word: index for index, word in enumerate(words)}
    wanted = np.full(len(known), -1)
    for code in places[0].tolist():
        wanted[code] = number.get(known[code], -1)
    if (wrong := here != wanted[codes]).any():
        at = int(wrong.argmax())
        found.refuse(
            at,
            f"has {words[here[at]]} in column {name} (data.{key}), and its series began with "
            f"{known[codes[at]]}; all rows of a series must have the same"
            + (", or data.every_step=true asks for an answer at every step" if key == "target" else ""),
        )


def arrange(found: Scan, file: Path) -> Labels:
    """Return the length of each series, after putting the rows of each series together.

    Args:
        found: whose answers become one array.
        file: of the values.
    """
    codes, counts = (np.concatenate(parts) for parts in zip(*found.runs, strict=True))
    lengths = np.bincount(codes, weights=counts).astype(np.int64)
    found.answers[:] = [np.concatenate(found.answers)] if found.answers else []
    joins = np.flatnonzero(np.diff(codes) != 0).size + 1
    if joins == len(lengths):  # each series stands together, in the order in which they begin
        return lengths
    order = np.argsort(np.repeat(codes, counts), kind="stable")
    found.answers[:] = [answers[order] for answers in found.answers]
    width = len(found.channels)
    values = np.memmap(file, np.float64, "r").reshape(-1, width)
    with open(file.with_name("arranged"), "wb") as target:
        for start in range(0, len(order), BLOCK):
            values[order[start : start + BLOCK]].tofile(target)
    file.with_name("arranged").replace(file)
    return lengths
