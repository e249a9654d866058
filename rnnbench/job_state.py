"""The state of a job, and the changes of it that there may be.

The words are those of result.json and of the tables; `waiting` and `deleted` stand in no file.
"""

from enum import StrEnum


class JobState(StrEnum):
    """What has become of a job so far."""

    waiting = "waiting"  # in no stack yet
    running = "running"  # its record has begun
    finished = "finished"  # with its final metrics
    failed = "failed"  # without a result; its record says why
    pruned = "pruned"  # stopped by its search, which expected no more of it
    interrupted = "interrupted"  # stopped between two epochs, to go on from its snapshot later
    deleted = "deleted"  # its folder was deleted while it trained

    @property
    def has_ended(self) -> bool:
        """True if this attempt to train the job is over."""
        return self not in (JobState.waiting, JobState.running)

    @property
    def is_error(self) -> bool:
        """True if the job has ended without what it was trained for."""
        return self in (JobState.failed, JobState.deleted)

    def then(self, after: "JobState") -> "JobState":
        """Return the state `after`, if a job may come to it from this one.

        Raises:
            ValueError: TRANSITIONS does not have this change.
        """
        if after not in TRANSITIONS[self]:
            raise ValueError(f"a job that is {self} cannot become {after}")
        return after


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # A job whose folder holds its finished record is finished without being trained again.
    JobState.waiting: frozenset({JobState.running, JobState.finished}),
    JobState.running: frozenset(
        {JobState.finished, JobState.failed, JobState.pruned, JobState.interrupted, JobState.deleted}
    ),
    JobState.finished: frozenset(),
    # What has ended without final metrics is trained again when its command is given again.
    JobState.failed: frozenset({JobState.running}),
    JobState.pruned: frozenset({JobState.running}),
    # A search gives a trial up, whose workers have died too often: nobody goes on with it.
    JobState.interrupted: frozenset({JobState.running, JobState.failed}),
    JobState.deleted: frozenset(),
}
RECORDED = frozenset(JobState) - {JobState.waiting, JobState.deleted}  # states that stand in result.json
