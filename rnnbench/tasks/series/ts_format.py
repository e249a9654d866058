"""Reads the archive's files: .ts, whose header is checked against the data, and .tsv."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import ConfigError

Array = NDArray[Any]


@dataclass
class Series:
    """Keeps what one file says."""

    file: Path
    header: dict[str, list[str]] = field(default_factory=dict)  # words after @key, by the key in lower case
    values: list[Array] = field(default_factory=list)  # (steps, channels) of each series
    labels: list[str] = field(default_factory=list)  # the class or the number of each series
    rows: list[int] = field(default_factory=list)  # of the file, from 1 on

    @property
    def numbers(self) -> bool:
        """Whether the file asks for a number in place of a class."""
        return self.says("targetlabel") is True

    def says(self, key: str) -> bool | None:
        """Return whether the header says true or false of a key; None if it says nothing."""
        words = self.header.get(key)
        return None if not words else words[0].lower() == "true"

    def number(self, *keys: str) -> int | None:
        """Return the whole number that the header gives under one of the keys."""
        for key in keys:
            if words := self.header.get(key):
                if not words[0].isdigit():
                    raise ConfigError(f"{self.file}: @{key} {words[0]} must be a whole number")
                return int(words[0])
        return None


def read(file: Path) -> Series:
    """Read a .ts or .tsv file.

    Raises:
        ConfigError: it cannot be read, a row is wrong, or the header says what the data is not.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    found = Series(file)
    (_read_tsv if file.suffix == ".tsv" else _read_ts)(found, lines)
    if not found.values:
        raise ConfigError(f"{file}: has no series")
    return found


def _refuse(found: Series, row: int, what: str) -> NoReturn:
    raise ConfigError(f"{found.file}, row {row:,}: {what}")


def _read_tsv(found: Series, lines: list[str]) -> None:
    """Read rows of a label and the values of one channel; nan at the end of a row is padding."""
    for row, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, *cells = line.rstrip("\r\n").split("\t")
        values = _floats(found, row, cells)
        known = np.flatnonzero(~np.isnan(values))
        values = values[: known[-1] + 1 if known.size else 0]
        _keep(found, row, label.strip(), [values])


def _read_ts(found: Series, lines: list[str]) -> None:
    """Read the header, and rows of channels separated by colons with the label after the last."""
    begin = next((n for n, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if begin is None:
        raise ConfigError(f"{found.file}: has no line @data before its series, so it is no .ts file")
    for line in lines[:begin]:
        if line.strip().startswith("@"):
            key, *words = line.strip()[1:].split()
            found.header[key.lower()] = words
    if found.says("timestamps"):
        raise ConfigError(
            f"{found.file}: has time stamps (@timeStamps true), which are not read; write the values alone"
        )
    if not (found.says("classlabel") or found.numbers):
        raise ConfigError(
            f"{found.file}: asks for nothing: its header has neither @classLabel true nor @targetLabel true"
        )
    for row, line in enumerate(lines[begin + 1 :], begin + 2):
        if line.strip() and not line.startswith(("#", "%")):
            *channels, label = line.strip().split(":")
            _keep(found, row, label.strip(), [_floats(found, row, cells.split(",")) for cells in channels])
            _check_row(found)
    _check_header(found)


def _floats(found: Series, row: int, cells: list[str]) -> Array:
    """Return the numbers of a row; nan for ? and NaN."""
    cells = ["nan" if cell.strip() in ("?", "") else cell for cell in cells] if cells != [""] else []
    try:
        return np.array(cells, np.float64)
    except ValueError as error:
        _refuse(found, row, f"has a value that is no number ({error}); a missing value is written ? or NaN")


def _keep(found: Series, row: int, label: str, channels: list[Array]) -> None:
    """Keep one series, of channels that have equally many steps, at least one."""
    lengths = {len(channel) for channel in channels}
    if not channels or 0 in lengths:
        _refuse(found, row, "has a series of length 0; remove the row")
    if len(lengths) > 1:
        _refuse(
            found,
            row,
            f"has channels of {', '.join(map(str, sorted(lengths)))} steps; all channels of a series must "
            "have equally many, with ? where a value is missing",
        )
    if found.values and found.values[0].shape[1] != len(channels):
        _refuse(
            found,
            row,
            f"has {len(channels)} channels where row {found.rows[0]:,} has {found.values[0].shape[1]}; each "
            "series must have all",
        )
    if not label or label == "?":
        _refuse(found, row, "has no label after its values")
    found.values.append(np.stack(channels, 1))
    found.labels.append(label)
    found.rows.append(row)


def _check_row(found: Series) -> None:
    """Refuse a series that is not as the header says."""
    (steps, channels), row, label = found.values[-1].shape, found.rows[-1], found.labels[-1]
    wanted = found.number("dimensions", "dimension")
    if wanted is not None and wanted != channels:
        _refuse(found, row, f"has {channels} channels; the header says @dimensions {wanted}: correct one")
    if found.says("univariate") and channels > 1:
        _refuse(found, row, f"has {channels} channels; the header says @univariate true: correct one")
    length = found.number("serieslength")
    if length is not None and found.says("equallength") is not False and length != steps:
        _refuse(found, row, f"has {steps} steps; the header says @seriesLength {length}: correct one")
    if found.says("equallength") and len(found.values[0]) != steps:
        _refuse(
            found,
            row,
            f"has {steps} steps, and row {found.rows[0]:,} has {len(found.values[0])}; the header says "
            "@equalLength true: write false",
        )
    if found.says("missing") is False and np.isnan(found.values[-1]).any():
        _refuse(found, row, "has a missing value; the header says @missing false: write true")
    known = found.header.get("classlabel", [])[1:]
    if known and label not in known:
        _refuse(
            found,
            row,
            f"has the label {label}; the header says @classLabel true {' '.join(known[:12])}: correct one",
        )


def _check_header(found: Series) -> None:
    """Refuse a header that says what no row alone shows to be wrong."""
    if found.says("univariate") is False and found.values and found.values[0].shape[1] == 1:
        _refuse(found, found.rows[0], "has one channel; the header says @univariate false: write true")
