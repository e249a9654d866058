"""A stack that is sent elsewhere, as a file in the sweep folder: all that its worker is told.

stacks/NAME.json    the stack: sweep, jobs with their configurations, see `SentStack.write`
       NAME.task    where the stack was sent, written by its launcher
       NAME.lock    a lock that the worker holds while it trains the stack
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
    """The reason why a task neither waits nor runs any more."""

    reason: str
    again: bool = True  # whether to send its stack again, as long as the number of retries allows


class SentStack:
    """A stack in a file: `content` holds NAME.json, `task` what the launcher wrote to NAME.task."""

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
        """Write the file of a stack whose jobs have their folders already.

        Args:
            folder: the sweep folder.
            sweep: the sweep's id.
            search: hydra.sweeper and hydra.sweep.dir, if the jobs are one suggestion of a search.
            environment: the variables of hydra.job.env_set, which the worker sets.
        """
        file = folder / STACKS / f"{jobs[0].folder.name[:40]}-{uuid.uuid4().hex[:8]}.json"
        file.parent.mkdir(exist_ok=True)
        content = {
            "format": 1,
            "sweep": sweep,
            "cwd": str(Path.cwd()),  # the base of relative paths in the configurations
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
        """The sweep folder."""
        return self.file.parent.parent

    @property
    def on_card(self) -> bool:
        """Whether any of its jobs trains on a graphics card."""
        return any(job["config"]["fit"]["device"] != "cpu" for job in self.jobs)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.content["jobs"]
        return jobs

    def note(self, **facts: Any) -> None:
        """Add facts to NAME.task: where the stack was sent."""
        self.task |= facts
        write_json(self.file.with_suffix(".task"), self.task)

    def ended(self, job: dict[str, Any]) -> bool:
        """Return whether a job has ended since the stack was written, by its record."""
        folder = self.folder / job["folder"]
        try:
            result = read_result(folder)
        except (FileNotFoundError, DamagedFile):
            return False
        # A failure recorded before this stack was written is not its outcome. The end times are compared for
        # equality only, since the clocks of two machines differ.
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
    """Yield the stacks that were ever sent from a sweep folder; damaged files are skipped with a warning."""
    yield from sound(sorted((folder / STACKS).glob("*.json")), SentStack)
