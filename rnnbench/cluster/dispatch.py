"""Sends stacks to be trained elsewhere, follows the records of their jobs, and sends lost stacks again."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnbench import terminal
from rnnbench.cluster.stack_file import Lost, SentStack, sent
from rnnbench.config import objective
from rnnbench.job_state import JobState
from rnnbench.record import abandon, is_job, read_metrics, read_result, workers
from rnnbench.sweep.job import Job
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.scheduler import by_shape, spread
from rnnbench.sweep.session import Sweep
from rnnbench.system import signals
from rnnbench.system.files import sound
from rnnbench.train.resources import gaining_elsewhere

if TYPE_CHECKING:
    from rnnbench.cluster.base import RemoteLauncher

WAIT = 1.0  # seconds between looks at the records


class Dispatch:
    """Sends the stacks of an open sweep, and waits until their jobs have ended.

    Args:
        launcher: submits stacks as tasks, and finds tasks that are over.
        environment: the variables of hydra.job.env_set, which workers set.
    """

    def __init__(self, launcher: "RemoteLauncher", sweep: Sweep, environment: dict[str, str]) -> None:
        self.launcher = launcher
        self.sweep = sweep
        self.environment = environment
        self.living: list[SentStack] = []  # stacks that an earlier process sent and that have not ended

    def find_living(self) -> dict[str, list[Path]]:
        """Find the stacks that an earlier process sent and that have not ended.

        Returns:
            the job folders in these stacks, by trial hash.
        """
        open_stacks = [stack for stack in sent(self.sweep.folder) if not stack.done]
        over = self._over(open_stacks)
        self.living = [stack for stack in open_stacks if stack.name not in over]
        folders: dict[str, list[Path]] = {}
        for stack in self.living:
            for entry in stack.jobs:
                folders.setdefault(entry["trial"], []).append(self.sweep.folder / entry["folder"])
        return folders

    def train(self, jobs: Sequence[Job]) -> None:
        """Train jobs that have their folders; afterwards each has its value or its error.

        Jobs in a stack that was sent already are waited for; the others are sent.
        """
        taken = self.sweep.library.take(self.sweep, jobs)
        for line in taken.lines():
            terminal.say(line)
        todo = {job.folder.name: job for job in taken.todo}
        if taken.finished:
            terminal.say(
                f"{taken.finished} of {len(jobs)} trials are finished already in {self.sweep.folder}"
            )
        if not todo:
            return
        there = [stack for stack in self.living if any(entry["folder"] in todo for entry in stack.jobs)]
        under_way = {entry["folder"] for stack in there for entry in stack.jobs}
        rest = [job for name, job in todo.items() if name not in under_way]
        stacks = [self._write(members) for members in cut(rest, self.launcher.max_stack)]
        self._submit(stacks)
        terminal.say(
            f"{len(rest)} trials in {len(stacks)} stacks sent to {self.launcher.place}"
            + (f", {len(under_way)} in {len(there)} stacks are there already" if there else "")
        )
        epochs = sum(job.config.fit.epochs for job in todo.values())
        with self.sweep.recorder.progress(objective(jobs[0].config), len(todo), epochs):
            self._wait(there + stacks, list(todo.values()))

    def train_suggestion(self, runs: Sequence[Job], search: dict[str, Any]) -> None:
        """Train members of a suggestion of a search as one stack.

        Args:
            search: what the worker needs to find the study: hydra.sweeper, hydra.sweep.dir.
        """
        if self.sweep.library.take(self.sweep, runs).todo:
            stack = self._write(runs, search)
            self._submit([stack])
            self._wait([stack], runs)
            self.sweep.library.add(runs)

    def _write(self, jobs: Sequence[Job], search: dict[str, Any] | None = None) -> SentStack:
        """Write the file of a stack, and Hydra's files in its jobs' folders."""
        assert self.sweep.record is not None
        for job in jobs:
            job.prepare()
        sweep = self.sweep.record.info["sweep"]
        return SentStack.write(
            self.sweep.folder,
            sweep,
            jobs,
            max_stack=self.launcher.max_stack,
            search=search,
            environment=self.environment,
        )

    def _submit(self, stacks: Sequence[SentStack]) -> None:
        """Send stacks, and note in their files that they were sent."""
        for stack in stacks:
            stack.note(sent=stack.task.get("sent", 0) + 1, place=self.launcher.place)
        if stacks:
            self.launcher.submit(stacks)

    def _over(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        """Return the stacks whose tasks are over, by name; their running jobs are recorded as interrupted."""
        place = self.launcher.place
        over = self.launcher.lost([stack for stack in stacks if stack.task.get("place") == place])
        for stack in stacks:
            if stack.task.get("place") != place:
                over[stack.name] = Lost(f"was sent to {stack.task.get('place', 'nowhere')}")
        held = set(workers(stacks[0].folder)) if over else set()
        over = {name: lost for name, lost in over.items() if name not in held}
        for stack in stacks:
            if stack.name in over:
                for entry in stack.jobs:
                    if is_job(stack.folder / entry["folder"]):
                        abandon(stack.folder / entry["folder"])
        return over

    @contextmanager
    def _left(self, stacks: list[SentStack]) -> Iterator[None]:
        """Pass the stacks that are still in the list when the block ends to the launcher's `leave`."""
        try:
            yield
        finally:
            if stacks:
                self.launcher.leave(stacks)

    def _wait(self, stacks: list[SentStack], jobs: Sequence[Job]) -> None:
        """Wait until all stacks have ended; stacks that were lost are sent again, or fail."""
        followed = {job.folder.name: RemoteJob(job, self.sweep.recorder) for job in jobs}
        with self._left(stacks):
            while True:
                signals.check()  # a signal ends the main thread only, and this may be another one
                _look(stacks, followed)
                if not stacks:
                    return
                over = self._over(stacks)
                _look(stacks, followed)  # records written since the first look, before the task ended
                for stack in [stack for stack in stacks if stack.name in over]:
                    self._again(stack, over[stack.name], followed)
                time.sleep(WAIT)

    def _again(self, stack: SentStack, lost: Lost, followed: "dict[str, RemoteJob]") -> None:
        """Send a stack again whose task ended before its jobs did, or fail the jobs after too many tries."""
        recorder, place = self.sweep.recorder, self.launcher.place
        if lost.again and stack.task["sent"] <= self.launcher.retries:
            with recorder.lock:
                terminal.warn(f"stack {stack.name} {lost.reason}; sending it to {place} again")
            self._submit([stack])
            return
        for entry in stack.jobs:
            if entry["folder"] in followed:
                followed[entry["folder"]].give_up(stack, entry, f"its stack {stack.name} {lost.reason}")


class RemoteJob:
    """Follows the record of a job that is trained elsewhere, and shows what is new, until the job ends."""

    def __init__(self, job: Job, recorder: Recorder) -> None:
        self.job = job
        self.recorder = recorder
        self.stamp: tuple[int, ...] = ()  # times and sizes of its files when they were last looked at
        self.epochs = 0  # number of epochs that were shown

    def look(self, stack: SentStack, entry: dict[str, Any]) -> None:
        """Show the new epochs of the job's record and its end, and queue them for MLflow.

        Args:
            stack: the stack that the job is in.
            entry: the job's entry in the stack's file.
        """
        if self.job.state.has_ended:
            return
        with self.recorder.lock:
            if self._changed():
                self.recorder.changed(self.job)
                self._show_epochs()
                if stack.ended(entry):
                    self._end()

    def give_up(self, stack: SentStack, entry: dict[str, Any], reason: str) -> None:
        """Record that the job has failed, since its stack is not sent again."""
        if self.job.state.has_ended:
            return
        with self.recorder.lock:
            if is_job(self.job.folder):
                abandon(self.job.folder, reason)
                self.look(stack, entry)
            if not self.job.state.has_ended:  # there is no record, or only one of an earlier failure
                self.recorder.fail(self.job, reason)

    def _changed(self) -> bool:
        """Return whether the job's files exist and have changed; a waiting job with files becomes running."""
        files = (self.job.folder / "result.json", self.job.folder / "metrics.csv")
        if not files[0].exists():
            return False
        if self.job.state is JobState.waiting:
            self.job.become(JobState.running)
            self.job.started()
        before = self.stamp
        self.stamp = tuple(
            number for file in files for number in (file.stat().st_mtime_ns, file.stat().st_size)
        )
        return self.stamp != before

    def _show_epochs(self) -> None:
        """Show the rows of metrics.csv that have not been shown yet."""
        rows = next(sound([self.job.folder], read_metrics), [])
        if self.recorder.live is not None and len(rows) > self.epochs:
            split, _, name = objective(self.job.config).removeprefix("best/").partition("_")
            measured = [row[f"{split}/{name}"] for row in rows[self.epochs :] if f"{split}/{name}" in row]
            self.recorder.live.epoch(len(rows) - self.epochs, measured)
        self.epochs = max(self.epochs, len(rows))

    def _end(self) -> None:
        """Take the state of the job from its record, with its value or its error, and print a line."""
        job, goal = self.job, objective(self.job.config)
        result = read_result(job.folder)
        state = JobState(result["status"])
        if state is JobState.finished:
            job.value = result["metrics"][goal]
            epoch = f"epoch {result['metrics']['best/epoch']:.0f} of {result['epochs']}"
            line = f"{terminal.title(goal)} {terminal.number(goal, job.value)} at {epoch}"
        elif state is JobState.failed:
            job.error = result["error"]
            line = f"failed: {job.error}"
        else:
            line = f"pruned at epoch {result['epochs']}"
        if self.recorder.live is not None:
            left = job.config.fit.epochs - result["epochs"]
            self.recorder.live.end(f"{job.title}: {line}", left, failed=state is JobState.failed)
        job.become(state)
        job.ended()


def _look(stacks: list[SentStack], followed: dict[str, RemoteJob]) -> None:
    """Look at the records of all jobs, and remove from the list the stacks whose jobs have all ended."""
    for stack in list(stacks):
        for entry in stack.jobs:
            if entry["folder"] in followed:
                followed[entry["folder"]].look(stack, entry)
        theirs = [followed[entry["folder"]] for entry in stack.jobs if entry["folder"] in followed]
        if all(each.job.state.has_ended for each in theirs):
            stacks.remove(stack)


def cut(jobs: Sequence[Job], max_stack: int | None) -> list[Sequence[Job]]:
    """Divide jobs into stacks of equal shapes; the jobs of one shape are spread evenly.

    Args:
        max_stack: jobs of a stack at most; None: as many as gain from it.
    """
    stacks: list[Sequence[Job]] = []
    for members in by_shape(jobs).values():
        most = max_stack or gaining_elsewhere(members[0].config)
        stacks += spread(members, -(-len(members) // most))
    return stacks
