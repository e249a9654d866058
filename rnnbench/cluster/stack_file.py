"""A stack that is sent elsewhere, as a file in the sweep folder: what its worker is told, and nothing more.

stacks/NAME.json    the stack: sweep, jobs with their configurations, see `SentStack.write`
       NAME.task    where it was sent, as its launcher notes it
       NAME.lock    held by the worker that trains it
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnbench.config import plain
from rnnbench.job_state import JobState
from rnnbench.record import STACKS, previous, read_result
from rnnbench.sweep.job import Job
from rnnbench.system.files import DamagedFile, check, read_json, sound, warn, write_json

ENDS = (JobState.finished, JobState.failed, JobState.pruned)
CONTENT: dict[str, Any] = {"sweep": str, "cwd": str, "jobs": list}
JOB: dict[str, Any] = {"name": str, "folder": str, "trial": str, "tags": dict, "config": dict}


@dataclass(frozen=True)
class Lost:
    """Why a task neither waits nor runs any more."""

    reason: str
    again: bool = True  # whether to send its stack again, if that was not done too often yet


class SentStack:
    """A stack in a file. `content` is what it says, `task` what its launcher has noted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content = read_json(file)
        check(file, self.content, CONTENT)
        for job in self.content["jobs"]:
            if not isinstance(job, dict):
                raise DamagedFile(file, "is damaged, or another tool's: its jobs are no objects")
            check(file, job, JOB)
        try:
            self.task = read_json(file.with_suffix(".task"))
        except FileNotFoundError:
            self.task = {}
        except DamagedFile as error:
            warn(error, "taken as not sent")
            self.task = {}

    @classmethod
    def write(
        cls,
        folder: Path,
        sweep: str,
        jobs: Sequence[Job],
        *,
        max_stack: int | None,
        search: dict[str, Any] | None,
        environment: dict[str, str] | None = None,
    ) -> "SentStack":
        """Write the file of a stack; its jobs have their folders.

        Args:
            folder: of the sweep.
            sweep: its id.
            search: of the jobs that are one suggestion of a search: hydra.sweeper, hydra.sweep.dir.
            environment: variables that the worker sets, of hydra.job.env_set.
        """
        file = folder / STACKS / f"{jobs[0].folder.name[:40]}-{uuid.uuid4().hex[:8]}.json"
        file.parent.mkdir(exist_ok=True)
        content = {
            "format": 1,
            "sweep": sweep,
            "cwd": str(Path.cwd()),  # what relative paths in the configurations are relative to
            "max_stack": max_stack,
            "search": search,
            "environment": environment or {},
            "jobs": [
                {
                    "name": job.name,
                    "folder": job.folder.name,
                    "trial": job.trial,
                    "tags": job.tags,
                    "before": _ended(job.folder),
                    "config": plain(job.config),
                }
                for job in jobs
            ],
        }
        write_json(file, content)
        return cls(file)

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return self.file.parent.parent

    @property
    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.content["jobs"]
        return jobs

    def note(self, **facts: Any) -> None:
        """Add to the note of where it was sent."""
        self.task |= facts
        write_json(self.file.with_suffix(".task"), self.task)

    def ended(self, job: dict[str, Any]) -> bool:
        """Return whether the record of a job says what came of it since the stack was written."""
        folder = self.folder / job["folder"]
        try:
            result = read_result(folder)
        except (FileNotFoundError, DamagedFile):
            return False
        # A failed record of before this stack is not its outcome. (No clocks are compared.)
        return result["status"] in ENDS and (
            result["status"] == JobState.finished or result["ended"] != job["before"]
        )

    @property
    def done(self) -> bool:
        """Whether all its jobs have ended."""
        return all(map(self.ended, self.jobs))


def _ended(folder: Path) -> int | None:
    """Return when a job's last attempt ended; None if there was none."""
    before = previous(folder)
    return before["ended"] if before else None


def sent(folder: Path) -> Iterator[SentStack]:
    """List the stacks that were ever sent from a sweep folder; a damaged file is skipped with a warning."""
    yield from sound(sorted((folder / STACKS).glob("*.json")), SentStack)
