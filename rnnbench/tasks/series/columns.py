"""Reads a CSV or Parquet file in long form block by block, and keeps a large one in the data folder."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.config.advice import no_name
from rnnbench.tasks.series.collection import Array
from rnnbench.tasks.series.rows import MISSING, Columns, Scan, arrange, take
from rnnbench.tasks.task import Labels, terminal

FORMAT = 2  # of what is kept
KEPT = 2**24  # bytes of a file from which on its values are kept in the data folder
CSV = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Long:
    """Keeps the series of a file, one after the other, in the order in which they begin."""

    values: Array  # (rows, channels) float64, nan is missing; on disk if the file is large
    channels: list[str]
    lengths: Labels  # (N,)
    rows: Labels  # (N,) row of the file where each begins
    targets: list[Any]  # (N,) texts or numbers; [] without a target, or with one at every step
    parts: list[str]  # (N,); [] without a column of parts
    digest: str  # sha256 of the file
    # (rows,) numbers, or places in `words`, -1 where nothing is asked for; None unless asked at every step
    answers: Array | None
    words: list[str]  # the different targets of all steps, where they are no numbers


def read(path: Path, columns: Columns, folder: Path) -> Long:
    """Read a file; a large one just once, and from then on what is kept of it in `folder`.

    Raises:
        ConfigError: it cannot be read or kept, a column is missing, or a row is wrong.
    """
    try:
        with path.open("rb") as file:  # which refuses a folder too
            facts = os.fstat(file.fileno())
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
    arrays = {part.stem: np.load(part, allow_pickle=False) for part in folder.glob("*.npy")}
    return Long(values.reshape(shape), facts["channels"], arrays["lengths"], arrays["rows"], facts["targets"],
                facts["parts"], facts["digest"], arrays.get("answers"), facts["words"])  # fmt: skip


def _read(file: Path) -> Array:
    return np.frombuffer(file.read_bytes(), np.float64)


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
        raise ConfigError(f"{path}: {_plain(str(error), columns)}") from None
    if not found.read:
        raise ConfigError(f"{path}: has no rows below its header")
    lengths = arrange(found, folder / "values")
    facts = {
        "channels": found.channels,
        "targets": found.same.get("target", []),
        "parts": found.same.get("part", []),
        "words": [*found.words],
        "digest": digest(path),
    }
    for answers in found.answers:
        np.save(folder / "answers.npy", answers)
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "rows.npy", found.begins + found.first)
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _plain(message: str, columns: Columns) -> str:
    """Return an error of pyarrow with what to do about it."""
    classes = ", or take data.metric=accuracy for a target of classes" if columns.numbers else ""
    hints = {
        "invalid UTF8": "; save the file as UTF-8",
        "Empty CSV": "; it needs a header, and a row for each step",
        "conversion error": "; correct the value, write nothing or NA where it is missing, or name the "
        f"columns of numbers with data.values{classes}",
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
    for name in [*(name for _, name in keys), *found]:
        if names.count(name) > 1:
            raise ConfigError(f"{path}, row 1: has several columns {name}; rename them")
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
