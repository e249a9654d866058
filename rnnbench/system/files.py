"""Writes files as a whole, and checks what is read.

Text is UTF-8. Bytes of a file name that are not UTF-8 (lone surrogates in Python) are written as they were,
and read back as the same text.
"""

import csv
import errno
import io
import json
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rnnbench.config import ConfigError
from rnnbench.system.plain_text import printable

T = TypeVar("T")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: the limit of `ulimit -f`
NOT_THERE = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # errors if a folder cannot be synced


class DamagedFile(ConfigError):
    """Raised if a file does not hold what it should; names the file and the reason."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(file, why)
        self.file, self.why = file, why

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"


class RecordsWarning(UserWarning):
    """Warns of a problem with records that stops nothing."""


class DamagedWarning(RecordsWarning):
    """Warns that a damaged file was skipped or renamed."""


class Together(threading.local):
    """The files that a thread writes in a block of `together`, each with the file that it is to replace."""

    parts: "list[tuple[Path, Path]] | None" = None


TOGETHER = Together()


@contextmanager
def together() -> Iterator[None]:
    """Let the files that `write` writes in the block replace the old ones at its end, synced to disk once.

    Each file is as whole as one that is written alone, at a small part of the time where there are thousands.
    They take their places in the order in which they were written, if the block ends without an error.
    """
    parts: list[tuple[Path, Path]] = []
    TOGETHER.parts = parts
    try:
        yield
        _sync_disk(parts)
        while parts:
            os.replace(*parts[0])
            parts.pop(0)
    finally:
        TOGETHER.parts = None
        for part, _ in parts:
            part.unlink(missing_ok=True)
    _sync_disk([])


def _sync_disk(parts: Iterable[tuple[Path, Path]]) -> None:
    """Sync what was written to disk, where the system can do that at once, else file by file."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for part, _ in parts:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())


def write(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one, after a power cut too.

    Several processes may write the same file at once: each writes a temporary file of its own, and the last
    one to finish replaces the file.

    Raises:
        OSError: the disk is full; the old file is unchanged.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    whole = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    try:
        with open(part, "wb") as file:
            file.write(whole)
            if TOGETHER.parts is not None:
                TOGETHER.parts.append((part, path))
                return
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, where the system can do that."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, or a folder that may not be read
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    finally:
        os.close(opened)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole.

    Raises:
        ValueError: a number is nan or infinite, which JSON does not have.
    """
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Replace a CSV file as a whole."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    write(path, text.getvalue())


def read(path: Path) -> str:
    """Read the text of a file.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it cannot be read, or is a pipe or a device.
    """
    return read_bytes(path).decode("utf-8", "surrogateescape")


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it cannot be read, or is a pipe or a device, which may never end.
    """
    try:
        # O_NONBLOCK, since opening a pipe that nobody writes to would wait for ever.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DamagedFile(path, "is no file")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(path, f"cannot be read ({error.strerror})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(path, f"is damaged: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedFile(path, "is damaged, or another tool's: its JSON is no object")
    return value


def check(path: Path, tree: dict[str, Any], needs: dict[str, Any]) -> None:
    """Check the values of a tree that was read from a file.

    Args:
        path: the file.
        needs: maps each needed key to a type, to several types, to the allowed values, or to a function that
            is true of allowed values.

    Raises:
        DamagedFile: a value is missing or not allowed; names the key.
    """
    for key, need in needs.items():
        if key not in tree:
            raise DamagedFile(path, f"is damaged, or another tool's: it has no {key!r}")
        value = tree[key]
        if isinstance(need, type | tuple):
            good = isinstance(value, need) and not (isinstance(value, bool) and need is not bool)
        elif isinstance(need, set):
            good = isinstance(value, str) and value in need
        else:
            good = need(value)
        if not good:
            raise DamagedFile(path, f"is damaged, or another tool's: {key!r} is {str(value)[:60]!r}")


def texts(value: Any) -> bool:
    """True if a value is a dict or a list of texts."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [None]
    return all(isinstance(item, str) for item in items)


def warn(error: DamagedFile, then: str) -> None:
    """Warn of a damaged file, once.

    Args:
        then: what is done about the file, for the message.
    """
    warnings.warn(f"{error}; {then}", DamagedWarning, stacklevel=1)


def sound(found: Iterable[Path], read: Callable[[Path], T]) -> Iterator[T]:
    """Read each path; skip damaged ones with a warning, and deleted ones without a warning."""
    for path in found:
        try:
            value = read(path)
        except DamagedFile as error:
            warn(error, "skipped")
        except FileNotFoundError:
            pass
        else:
            yield value


def set_aside(error: DamagedFile, then: str) -> None:
    """Rename a damaged file to NAME.unusable, and warn of it.

    Args:
        then: what is done without the file, for the message.
    """
    file = error.file
    aside, number = file.with_suffix(".unusable"), 1
    while os.path.lexists(aside):
        number += 1
        aside = file.with_suffix(f".unusable-{number}")
    os.rename(file, aside)
    warn(error, f"it is {aside.name} now, and {then}")


def show_warnings() -> None:
    """Print each RecordsWarning once as a message; for commands of rnnbench."""
    usual, told = warnings.formatwarning, set[str]()

    def shown(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, RecordsWarning):
            again = str(message) in told  # Python repeats warnings after libraries change its filters
            told.add(str(message))
            return "" if again else f"warning: {printable(str(message))}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = shown
    warnings.simplefilter("default", RecordsWarning)
