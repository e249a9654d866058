"""Optuna's journal file under a lock of the kernel's."""

import json
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from rnnbench.system.files import Damaged

LINE = 2**20  # bytes that an entry does not have


def open_journal(file: Path) -> JournalStorage:
    """The storage in a journal file, which is made if it is not there.

    Raises:
        Damaged: it holds something else.
    """
    # Without flock (Windows) Optuna's own lock; it is a link to the file, which has to lead somewhere.
    path = file.absolute()
    backend = JournalFileBackend(str(path), KernelLock(path) if os.name == "posix" else None)
    try:
        storage = JournalStorage(backend)
        json.loads(_last_line(path))  # Optuna takes one that it cannot read for half written, and goes on
        return storage
    except OSError:
        raise
    except Exception as error:  # whatever its lines make of Optuna
        why = f"is damaged, or no journal of Optuna's ({type(error).__name__}: {error})"
        raise Damaged(file, why) from error


def _last_line(journal: Path) -> bytes:
    """The last whole line of a journal; an empty object if it has none."""
    with open(journal, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LINE))
        lines = file.read().rpartition(b"\n")[0].rsplit(b"\n", 1)
    return lines[-1] or b"{}"


class KernelLock(BaseJournalFileLock):
    """flock of the journal: writers queue in the kernel, which takes it from a process that dies.

    Optuna's own lock is polled, after pauses of up to a second, so that under load few writers get it again
    and again and others wait for long; and it stays for 30 s where a process died with it. That lock is for
    disks which know no flock; the folder of a named study has to be on one that does in any case.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def acquire(self) -> bool:
        """Wait for the lock, and cut off what a write left unfinished: nobody was told that it was there."""
        import fcntl

        self.file = open(self.journal, "r+b")  # noqa: SIM115
        fcntl.flock(self.file, fcntl.LOCK_EX)
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, end - 1))
        if self.file.read() not in (b"", b"\n"):  # the disk was full
            start = self.file.seek(max(0, end - LINE))
            self.file.truncate(start + self.file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        self.file.close()
