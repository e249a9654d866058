"""Defines the recorder, which passes job events to the job folder, MLflow's courier and the terminal."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec

from rnnbench import tasks, terminal
from rnnbench.config import direction, objective
from rnnbench.config.metrics import described
from rnnbench.config.user_code import IMPORT, imported
from rnnbench.job_state import JobState
from rnnbench.kernels import kernel_name
from rnnbench.kernels.gpu import cards
from rnnbench.mlflow_sync.courier import Courier
from rnnbench.record import JobFolder, previous, provenance
from rnnbench.sweep import snapshots
from rnnbench.sweep.job import Job
from rnnbench.train.snapshot import serialized
from rnnbench.train.stack import Outcome, Snapshot

P = ParamSpec("P")
SNAPSHOT_SECONDS = 60.0  # between two snapshots of a trial, unless fit.checkpoint_every is set


def unless_deleted(
    write: "Callable[Concatenate[Recorder, Job, P], None]",
) -> "Callable[Concatenate[Recorder, Job, P], None]":
    """Decorate a method that records an event of a job: if the job's folder was deleted, only this job fails.

    Events of a job that is not running are ignored: its folder was deleted before.
    """

    @wraps(write)
    def guarded(recorder: "Recorder", job: Job, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if job.state is not JobState.running:
            return
        try:
            write(recorder, job, *args, **kwargs)
        except FileNotFoundError:
            if job.folder.exists():
                raise
            recorder.lose(job)

    return guarded


def resumed(before: dict[str, str], now: dict[str, str], epochs: int) -> dict[str, str]:
    """Return tags that say after which epochs a trial went on, and where it had trained if elsewhere.

    Args:
        before: tags of its record so far.
        now: its new tags.
    """
    tags = {"rnnbench.resumed": f"{before.get('rnnbench.resumed', '')} {epochs}".strip()}
    was, here = (tags.get("rnnbench.card", tags.get("rnnbench.device")) for tags in (before, now))
    moves = [before["rnnbench.moved"]] if "rnnbench.moved" in before else []
    if was not in (None, here):
        moves.append(f"to epoch {epochs} on {was} with {before.get('rnnbench.kernel')}")
    return tags | ({"rnnbench.moved": "; ".join(moves)} if moves else {})


class Recorder:
    """Writes every job event to its job folder, queues it for MLflow and prints it.

    A caller holds its `lock` if other threads may call it too.

    Args:
        courier: delivers records to MLflow; None: they are not delivered, or by the process that holds the
            sweep folder.
    """

    def __init__(self, courier: Courier | None = None) -> None:
        self.courier = courier
        self.lock = RLock()
        self.live: terminal.Live | None = None
        self.records: dict[Job, JobFolder] = {}  # of the running jobs
        self.kept: dict[Job, float] = {}  # when a running job's snapshot was written, on the monotonic clock
        self.traces: set[str] = set()  # the tracebacks that were printed

    @contextmanager
    def progress(self, goal: str, jobs: int, epochs: int) -> Iterator[None]:
        """Show the progress of this number of jobs and epochs, until the block ends.

        Args:
            goal: the metric whose best value is shown.
        """
        self.live = terminal.Live(jobs, epochs, goal, direction(goal) == "maximize")
        try:
            yield
        finally:
            self.live.close()

    def start(self, job: Job, epochs: int = 0) -> None:
        """Begin the record of a job, or go on with it after this number of epochs."""
        job.prepare()
        task = tasks.load(job.config.data)
        fit = job.placed.fit
        tags = provenance(job.config.fit.device) | {"rnnbench.kernel": kernel_name(job.placed)}
        tags |= cards.tags(fit.device, fit.precision.value) | job.tags
        tags |= {f"{IMPORT}{name}": digest for name, digest in imported(job.config).items()}
        tags |= described(job.config)
        if epochs:
            before = previous(job.folder)
            tags |= resumed(before["tags"] if before else {}, tags, epochs)
        self.records[job] = JobFolder.start(
            job.folder,
            name=job.name,
            config=job.config,
            trial=job.trial,
            dataset={"name": job.config.data.name, "checksum": task.checksum, "details": task.details},
            tags=tags,
            keep=epochs,
        )
        self.kept[job] = time.monotonic()
        if job.state is not JobState.running:  # a job that a worker trained may be running already
            job.become(JobState.running)
        job.started()

    @unless_deleted
    def snapshot(self, job: Job, trial: Snapshot) -> None:
        """Write a snapshot of a job between two epochs, if it is time for one."""
        every, now = job.config.fit.checkpoint_every, time.monotonic()
        if trial.slot.epoch % every == 0 if every else now - self.kept[job] > SNAPSHOT_SECONDS:
            snapshots.keep(job, trial)
            self.kept[job] = now

    @unless_deleted
    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        """Record the metrics of an epoch, counted from 1."""
        assert self.live is not None
        self.records[job].epoch(epoch, metrics)
        self.changed(job)
        split, _, name = objective(job.config).removeprefix("best/").partition("_")
        watched = f"{split}/{name}"
        same = (
            self.live.metric == f"{split}_{name}" and watched in metrics
        )  # tasks differ in their objectives
        self.live.epoch(1, [metrics[watched]] if same else [])
        shown = dict.fromkeys(["train/loss", f"{split}/loss", watched])
        self.live.alone(epoch, job.config.fit.epochs, {key: metrics[key] for key in shown if key in metrics})

    @unless_deleted
    def finish(self, job: Job, outcome: Outcome) -> None:
        """Record the final metrics and the weights of a job."""
        task, record = tasks.load(job.config.data), self.records[job]
        record.write_network(
            serialized({"parameters": outcome.weights.clone()}),  # a view would save the whole stack
            {"input_size": task.input_size, "outputs": task.outputs, "goal": task.goal.value},
        )
        if outcome.confusion is not None:
            record.write_confusion(outcome.confusion.tolist(), task.classes)
        if outcome.by_length is not None:
            record.write_lengths(outcome.by_length.tolist())
        if job.config.fit.checkpoint_every is not None and outcome.last is not None:
            snapshots.keep_last(job, outcome.last)
        goal, slot = objective(job.config), outcome.slot
        job.value = outcome.metrics[goal]
        value = f"{terminal.title(goal)} {terminal.number(goal, job.value)}"
        line = f"{value} at epoch {slot.best_epoch} of {slot.epoch}"
        self._end(job, JobState.finished, line, metrics=outcome.metrics)

    @unless_deleted
    def prune(self, job: Job, best: dict[str, float]) -> None:
        """Record that the pruner of its search stopped a job.

        Args:
            best: the best value so far of each metric, by its name without the split.
        """
        epochs, goal = self.records[job].result["epochs"], objective(job.config)
        name = goal.partition("_")[2]
        reached = (
            f", {terminal.title(goal)} {terminal.number(goal, best[name])} so far" if name in best else ""
        )
        self._end(job, JobState.pruned, f"pruned at epoch {epochs}{reached}")

    def fail(self, job: Job, message: str, error: Exception | None = None) -> None:
        """Record that a job failed, and why; begin its record if it has none."""
        if job not in self.records:
            self.start(job)
        job.error = message
        trace = "".join(traceback.format_exception(error)) if error else None
        self._end(job, JobState.failed, f"failed: {message}; {job.folder}", error=message, trace=trace)
        if trace and trace not in self.traces:  # the trials of a stack often fail for the same reason
            self.traces.add(trace)
            terminal.complain(trace)

    @unless_deleted
    def _end(
        self,
        job: Job,
        state: JobState,
        line: str,
        *,
        metrics: dict[str, float] | None = None,
        error: str | None = None,
        trace: str | None = None,
    ) -> None:
        """Close the record of a job and print a line about it."""
        record = self.records[job]
        record.end(state, metrics or {}, error=error, traceback=trace)
        snapshots.drop(job)
        self.changed(job)
        left = job.config.fit.epochs - record.result["epochs"]
        if self.live is not None:
            self.live.end(f"{job.title}: {line}", left, failed=error is not None)
        self._leave(job, state)

    @unless_deleted
    def interrupt(self, job: Job, trial: Snapshot | None) -> None:
        """Record that a job was interrupted, and write its snapshot.

        Args:
            trial: the job's snapshot; None if the job was not in a stack yet.
        """
        if trial is not None and trial.slot.epoch and not trial.slot.diverged:
            snapshots.keep(job, trial)
        self.records[job].end(JobState.interrupted, {})
        self.changed(job)
        self._leave(job, JobState.interrupted)

    def lose(self, job: Job) -> None:
        """Print that a job's folder was deleted while it trained; nothing more is written for this job."""
        assert self.live is not None
        job.error = f"{job.folder} was deleted while it trained; the same command trains it again"
        self.live.end(f"{job.title}: failed: {job.error}", job.config.fit.epochs, failed=True)
        self._leave(job, JobState.deleted)

    def changed(self, job: Job) -> None:
        """Queue the folder of a job for MLflow."""
        if self.courier is not None:
            self.courier.changed(job.folder)

    def _leave(self, job: Job, state: JobState) -> None:
        """Give a job that has ended its last state, and drop its record."""
        del self.records[job], self.kept[job]
        job.become(state)
        job.ended()
