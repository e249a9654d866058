"""Defines the states of a job and the allowed transitions between them.

result.json and the tables use the same words; `waiting` and `deleted` are never written to a file.
"""

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    waiting = "waiting"  # in no stack yet
    running = "running"  # its record has begun
    finished = "finished"  # with its final metrics
    failed = "failed"  # without a result; its record says why
    pruned = "pruned"  # stopped early by the pruner of its search
    interrupted = "interrupted"  # stopped between two epochs, to go on from its snapshot later
    deleted = "deleted"  # its folder was deleted while it trained

    @property
    def has_ended(self) -> bool:
        """True if this attempt to train the job is over."""
        return self not in (JobState.waiting, JobState.running)

    @property
    def is_error(self) -> bool:
        """True if the job has ended by an error, without a result."""
        return self in (JobState.failed, JobState.deleted)

    def then(self, after: "JobState") -> "JobState":
        """Return the state `after`, if a job may change to it from this one.

        Raises:
            ValueError: TRANSITIONS does not have this change.
        """
        if after not in TRANSITIONS[self]:
            raise ValueError(f"a job that is {self} cannot become {after}")
        return after


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # A job whose folder holds its finished record is not trained again.
    JobState.waiting: frozenset({JobState.running, JobState.finished}),
    JobState.running: frozenset(
        {JobState.finished, JobState.failed, JobState.pruned, JobState.interrupted, JobState.deleted}
    ),
    JobState.finished: frozenset(),
    # A job that ended without final metrics is trained again when its command is given again.
    JobState.failed: frozenset({JobState.running}),
    JobState.pruned: frozenset({JobState.running}),
    # A search fails an interrupted trial whose workers have died too often.
    JobState.interrupted: frozenset({JobState.running, JobState.failed}),
    JobState.deleted: frozenset(),
}
RECORDED = frozenset(JobState) - {JobState.waiting, JobState.deleted}  # states that result.json may hold
