"""Reads a CSV or Parquet file in long form block by block, and keeps a large one in the data folder."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.config.advice import no_name
from rnnbench.tasks.series.collection import BLOCK, Array
from rnnbench.tasks.task import Labels, terminal

FORMAT = 1  # of what is kept
KEPT = 2**24  # bytes of a file from which on its values are kept in the data folder
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "?"]
CSV = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Columns:
    """Names the columns of a file; None: it has none for this."""

    series: str | None
    time: str | None
    values: tuple[str, ...]  # none: all that are not named otherwise
    target: str | None
    part: str | None
    numbers: bool  # whether the target is a number in place of a class
    delimiter: str


@dataclass(frozen=True)
class Long:
    """Keeps the series of a file, one after the other, in the order in which they begin."""

    values: Array  # (rows, channels) float64, nan is missing; on disk if the file is large
    channels: list[str]
    lengths: Labels  # (N,)
    rows: Labels  # (N,) row of the file where each begins
    targets: list[Any]  # (N,) texts or numbers; [] without a target
    parts: list[str]  # (N,); [] without a column of parts
    digest: str  # sha256 of the file


def read(path: Path, columns: Columns, folder: Path) -> Long:
    """Read a file; a large one just once, and from then on what is kept of it in `folder`.

    Raises:
        ConfigError: it cannot be read or kept, a column is missing, or a row is wrong.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise ConfigError(f"data.path={path}: cannot be read ({error.strerror or error})") from None
    if path.suffix.lower() not in CSV + PARQUET:
        raise ConfigError(f"data.path={path}: must end in {', '.join(CSV + PARQUET)}")
    if facts.st_size < KEPT:
        with tempfile.TemporaryDirectory() as place:
            scan(path, columns, Path(place))
            return stored(Path(place), on_disk=False)
    stamp = repr((FORMAT, facts.st_size, facts.st_mtime_ns))
    name = hashlib.sha256(repr((str(path.resolve()), columns)).encode()).hexdigest()[:16]
    kept = folder / f"{path.stem}-{name}"
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            if not (kept / "stamp").is_file() or (kept / "stamp").read_text(encoding="utf-8") != stamp:
                _keep(path, columns, kept, stamp)
    except OSError as error:
        raise ConfigError(
            f"data.root={folder.parent}: what is read of {path} cannot be kept there ({error}); use a folder "
            "that can be written to, with room for it"
        ) from None
    return stored(kept, on_disk=True)


def _keep(path: Path, columns: Columns, kept: Path, stamp: str) -> None:
    """Read a file into the folder `kept`, which appears as a whole."""
    new = kept.with_name(f".{kept.name}.new")
    for old in (new, kept):
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    try:
        scan(path, columns, new)
        (new / "stamp").write_text(stamp, encoding="utf-8")
        new.rename(kept)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def stored(folder: Path, *, on_disk: bool) -> Long:
    """Return what `scan` has written to a folder."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    shape = (-1, len(facts["channels"]))
    file = folder / "values"
    values: Array = np.memmap(file, np.float64, "r") if on_disk else _read(file)
    lengths, rows = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("lengths", "rows"))
    return Long(values.reshape(shape), facts["channels"], lengths, rows, facts["targets"], facts["parts"],
                facts["digest"])  # fmt: skip


def _read(file: Path) -> Array:
    return np.frombuffer(file.read_bytes(), np.float64)


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

    def refuse(self, at: int, what: str) -> NoReturn:
        """Refuse the file for a row of the block that is being read."""
        raise ConfigError(f"{self.path}, row {self.first + self.read + at:,}: {what}")


def scan(path: Path, columns: Columns, folder: Path) -> None:
    """Read a file block by block, and write values and facts to a folder.

    Raises:
        ConfigError: as `read`.
    """
    import pyarrow

    try:
        with opened(path, columns) as (names, batches):
            found = Scan(path, columns, channels_of(path, columns, names), 1 if path.suffix in PARQUET else 2)
            with open(folder / "values", "wb") as file:
                for batch in batches:
                    take(found, batch, file)
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: {_plain(str(error))}") from None
    if not found.read:
        raise ConfigError(f"{path}: has no rows below its header")
    lengths = arrange(found, folder / "values")
    facts = {
        "channels": found.channels,
        "targets": found.same.get("target", []),
        "parts": found.same.get("part", []),
        "digest": digest(path),
    }
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "rows.npy", found.begins + found.first)
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _plain(message: str) -> str:
    """Return an error of pyarrow with what to do about it."""
    hints = {
        "conversion error": "; correct the value, write nothing or NA where it is missing, or name the "
        "columns of numbers with data.values",
        "Expected": "; give each row all columns, or the separator with data.delimiter",
    }
    return message.partition("\n")[0] + next((hint for key, hint in hints.items() if key in message), "")


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: Path, columns: Columns) -> Iterator[tuple[list[str], Iterator[Any]]]:
    """Open a file; gives the names of its columns, and its rows as record batches of the columns needed."""
    if path.suffix.lower() in PARQUET:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            batches = file.iter_batches(columns=needed(path, columns, names), batch_size=2**18)
            yield names, shown(path, batches, file.metadata.num_rows)
        return
    from pyarrow import csv, float64, string

    delimiter = "\t" if path.suffix.lower() == ".tsv" else columns.delimiter
    parsing = csv.ParseOptions(delimiter=delimiter)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
        header = text.readline()
    with csv.open_csv(_header(header), parse_options=parsing) as head:
        names = head.schema.names
    kinds = dict.fromkeys(channels_of(path, columns, names), float64())
    kinds |= {name: string() for name in (columns.series, columns.part) if name}
    if columns.target and columns.target not in kinds:
        kinds[columns.target] = float64() if columns.numbers else string()
    converting = csv.ConvertOptions(
        column_types=kinds,
        include_columns=needed(path, columns, names),
        null_values=MISSING,
        strings_can_be_null=True,
    )
    reading = csv.ReadOptions(use_threads=False, block_size=2**22)  # rows of errors are known with one thread
    with csv.open_csv(path, reading, parsing, converting) as batches:
        yield names, shown(path, batches, None)


def _header(line: str) -> Any:
    """Return a file of the header and one empty row, whose columns can be read."""
    import io

    return io.BytesIO((line.rstrip("\r\n") + "\n").encode())


def channels_of(path: Path, columns: Columns, names: list[str]) -> list[str]:
    """Return the columns of values.

    Raises:
        ConfigError: the file has none, or lacks a column that is named.
    """
    named = {"series": columns.series, "time": columns.time, "target": columns.target, "part": columns.part}
    keys = [(f"data.{key}", name) for key, name in named.items() if name is not None]
    for key, name in [*keys, *(("data.values", name) for name in columns.values)]:
        if name not in names:
            raise ConfigError(f"{path}, row 1: {no_name(key, name, names)}")
    found = list(columns.values) or [name for name in names if name not in named.values()]
    if not found:
        raise ConfigError(f"{path}, row 1: has no column of values beside {', '.join(names)}")
    return found


def needed(path: Path, columns: Columns, names: list[str]) -> list[str]:
    """Return the columns to read, each once."""
    others = (columns.series, columns.time, columns.target, columns.part)
    return list(dict.fromkeys([*channels_of(path, columns, names), *(name for name in others if name)]))


def shown(path: Path, batches: Any, rows: int | None) -> Iterator[Any]:
    """Yield the batches of a file, with a progress bar if it is large.

    Args:
        rows: of the file; None: not known, so that bytes are counted.
    """
    size = path.stat().st_size
    with terminal().Reading(f"reading {path.name}", rows or size, shown=size >= KEPT) as bar:
        for batch in batches:
            yield batch
            bar.advance(batch.num_rows if rows else batch.nbytes)


def take(found: Scan, batch: Any, file: IO[bytes]) -> None:
    """Take over the rows of one batch: check them, and write their values."""
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


def _check_same(found: Scan, batch: Any, codes: Labels, key: str, name: str) -> None:
    """Keep what each series has in a column, and refuse a series whose rows differ in it."""
    import pyarrow

    numbers = key == "target" and found.columns.numbers
    column = batch.column(name).cast(pyarrow.float64() if numbers else pyarrow.string())
    encoded = column.dictionary_encode()
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        found.refuse(at, f"has nothing in column {name} (data.{key}); leave the series out, or complete it")
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
            f"{known[codes[at]]}; all rows of a series must have the same",
        )


def arrange(found: Scan, file: Path) -> Labels:
    """Return the length of each series, after putting the rows of each series together in the file."""
    codes, counts = (np.concatenate(parts) for parts in zip(*found.runs, strict=True))
    lengths = np.bincount(codes, weights=counts).astype(np.int64)
    joins = np.flatnonzero(np.diff(codes) != 0).size + 1
    if joins == len(lengths):  # each series stands together, in the order in which they begin
        return lengths
    order = np.argsort(np.repeat(codes, counts), kind="stable")
    width = len(found.channels)
    values = np.memmap(file, np.float64, "r").reshape(-1, width)
    with open(file.with_name("arranged"), "wb") as target:
        for start in range(0, len(order), BLOCK):
            values[order[start : start + BLOCK]].tofile(target)
    file.with_name("arranged").replace(file)
    return lengths
