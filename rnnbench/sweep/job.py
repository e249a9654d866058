"""Defines a job: a trial's place in a sweep, with its folder and its state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rnnbench import tasks
from rnnbench.config import Config, Kernel, trial_hash
from rnnbench.job_state import JobState

if TYPE_CHECKING:
    from rnnbench.train.stack import Slot


class Watcher(Protocol):
    """Receives the evaluations of a job, and decides whether it goes on."""

    stopped: bool  # True once the job is to be pruned

    def seen(self, job: "Job", slot: "Slot") -> None:
        """Take the evaluation of the epoch just trained into account."""

    def known(self, job: "Job") -> None:
        """Take a job into account that does not train, since its trial's record is there."""


def do_nothing() -> None:
    """Do nothing: the default for the functions that a job calls."""


@dataclass(eq=False)
class Job:
    """A trial to be trained, and the folder that its record goes to."""

    name: str
    config: Config
    folder: Path
    trial: str  # hash of the trial, see `identity`
    prepare: Callable[[], None] = do_nothing  # called before the job starts: writes the folder's other files
    named: Callable[[int], str] = str  # returns the name of its folder for a number
    number: int | None = None  # its number in the sweep; None: that in its folder's name
    started: Callable[[], None] = do_nothing  # called when its record begins or goes on
    ended: Callable[[], None] = do_nothing  # called when its record has ended
    tags: dict[str, str] = field(default_factory=dict)  # tags for its record, besides its provenance
    device: str | None = None  # that its stack trains on, once it is in one: one of those of fit.device
    kernel: Kernel | None = None  # of that stack
    watch: Watcher | None = None
    state: JobState = JobState.waiting
    value: float | None = None  # its objective, once finished
    error: str | None = None  # why it has failed
    label: str | None = None  # what distinguishes it from the other jobs of its sweep

    @property
    def title(self) -> str:
        """The job's name on the terminal: in a sweep the name of its folder and its label."""
        return self.name if self.label is None else f"{self.folder.name} {self.label}"

    @property
    def placed(self) -> Config:
        """Its configuration, with the device that its stack trains on and the stack's kernel."""
        config = self.config if self.device is None else self.config.on(self.device)
        return replace(config, fit=replace(config.fit, kernel=self.kernel or config.fit.kernel))

    def become(self, state: JobState) -> None:
        """Change the state of the job.

        Raises:
            ValueError: a job in its present state cannot change to this one.
        """
        self.state = self.state.then(state)


def identity(config: Config) -> str:
    """Compute the trial hash of a configuration, with the checksum of its data.

    Raises:
        ConfigError: the data is not there, or is damaged.
    """
    return trial_hash(config, tasks.load(config.data).checksum)


def mean_value(jobs: Sequence[Job]) -> float | None:
    """Return the mean of the jobs' objectives; None unless every job has one."""
    values = [job.value for job in jobs if job.value is not None]
    return sum(values) / len(jobs) if len(values) == len(jobs) else None
