"""Keeps studies in Optuna's journal file, for workers that share a disk; writers queue for a flock."""

import json
import os
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from rnnbench.config import ConfigError
from rnnbench.search.optuna_api import BaseJournalFileLock
from rnnbench.search.storages.kind import StorageKind
from rnnbench.system.files import DamagedFile

LINE = 2**20  # bytes, more than any entry of a journal has


class Journal(StorageKind):
    """A journal file, in which each change of a study is one line."""

    scheme = "journal"
    form = "journal:///FILE"

    @property
    def file(self) -> Path | None:
        """The file that the URL names, after three slashes."""
        file = Path(self.url.removeprefix("journal:///"))
        return file if self.url.startswith("journal:///") else None

    def check(self, key: str) -> None:
        """Refuse a URL without a file, one whose folder does not exist, and a folder in the file's place."""
        file = self.file
        if file is None or file == Path("."):
            raise ConfigError(f"{key}={self.url}: names no file; must be like journal:///study.db")
        folder = file.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{key}={self.url}: there is no folder {folder}; make it, or name another file")
        if file.is_dir():
            raise ConfigError(f"{key}={self.url}: {file} is a folder; name a file")

    def open(self) -> BaseStorage:
        """Open the journal file; it is created if it does not exist."""
        assert self.file is not None
        return open_journal(self.file)


def open_journal(file: Path) -> JournalStorage:
    """Open the storage in a journal file; it is created if it does not exist.

    Raises:
        DamagedFile: the file is no journal, or a damaged one.
    """
    # Without flock (Windows) Optuna's own lock is used: a link to the file, so the path must be absolute.
    path = file.absolute()
    backend = JournalFileBackend(str(path), KernelLock(path) if os.name == "posix" else None)
    try:
        storage = JournalStorage(backend)
        json.loads(_last_line(path))  # Optuna ignores a last line that it cannot parse, as half written
        return storage
    except OSError:
        raise
    except Exception as error:  # damaged lines make Optuna raise errors of any type
        why = f"is damaged, or no journal of Optuna's ({type(error).__name__}: {error})"
        raise DamagedFile(file, why) from error


def _last_line(journal: Path) -> bytes:
    """Return the last whole line of a journal; an empty JSON object if it has none."""
    with open(journal, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LINE))
        lines = file.read().rpartition(b"\n")[0].rsplit(b"\n", 1)
    return lines[-1] or b"{}"


class KernelLock(BaseJournalFileLock):
    """Locks the journal by flock: writers queue in the kernel, and a process that dies loses the lock.

    Optuna's own lock is polled with pauses of up to a second, so under load a few writers get it again and
    again while others wait long, and it lasts for 30 s after its process has died. It is meant for disks
    without flock, but the folder of a named study must be on a disk with flock in any case.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def acquire(self) -> bool:
        """Wait for the lock, and remove an unfinished last line, whose write was never acknowledged."""
        import fcntl

        self.file = open(self.journal, "r+b")  # noqa: SIM115
        fcntl.flock(self.file, fcntl.LOCK_EX)
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, end - 1))
        if self.file.read() not in (b"", b"\n"):  # a full disk cut the last line off
            start = self.file.seek(max(0, end - LINE))
            self.file.truncate(start + self.file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        self.file.close()
