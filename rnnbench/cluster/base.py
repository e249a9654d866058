"""A launcher whose stacks train elsewhere: sends them, waits for their records, sends lost ones again."""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rnnbench import terminal
from rnnbench.cluster.stack_file import SentStack, sent
from rnnbench.config import objective
from rnnbench.job_state import JobState
from rnnbench.record import abandon, read_metrics, read_result, workers
from rnnbench.sweep.hydra_jobs import for_workers
from rnnbench.sweep.job import Job
from rnnbench.sweep.launcher import TrialLauncher
from rnnbench.sweep.placing import place, take_finished
from rnnbench.system import signals
from rnnbench.system.files import sound

if TYPE_CHECKING:
    from rnnbench.sweep.recorder import Recorder
    from rnnbench.sweep.session import Sweep

WAIT = 1.0  # seconds between looks at the records


@dataclass(frozen=True)
class Lost:
    """A task that neither waits nor runs any more."""

    reason: str
    again: bool = True  # whether to send its stack again, if that was not done too often yet


@dataclass
class Watched:
    """A job whose record is written elsewhere."""

    job: Job
    stamp: tuple[int, ...] = ()  # of its files, when they were last looked at
    epochs: int = 0  # rows that were shown


class RemoteLauncher(TrialLauncher):
    """Sends stacks; a subclass knows where to, and what became of a task.

    Args:
        max_stack: trials of a stack at most; None: 16, which batched products gain from.
        retries: how often a stack is sent again whose task was lost.
    """

    elsewhere = True
    place = ""  # where stacks train, in a word

    def __init__(self, max_stack: int | None, retries: int) -> None:
        super().__init__(max_stack)
        self.retries = retries
        self.environment: dict[str, str] = {}  # of hydra.job.env_set

    @abstractmethod
    def submit(self, stacks: Sequence[SentStack]) -> None:
        """Have each stack trained as a task: `work_on(stack.file)`. May be called from several threads."""

    @abstractmethod
    def lost(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        """By name, the stacks whose tasks are over; those that an earlier process has sent, too.

        Called every second or so, from several threads: it sees to itself that nobody is asked too often. A
        task may end before its records are seen here; who asks looks at them again.
        """

    def leave(self, stacks: Sequence[SentStack]) -> None:
        """The sweep ends before these stacks (Ctrl-C, an error): what becomes of them is said, or seen to."""

    def train(self, sweep: "Sweep", jobs: Sequence[Job], trees: Sequence[dict[str, Any]], first: int) -> None:
        self.environment = for_workers(trees[0])
        if trees[0]["hydra"]["sweeper"].get("trial") is not None:
            self._suggestion(sweep, jobs[0], trees[0], first)
            return
        living = [stack for stack in sent(sweep.folder) if not stack.done]
        over = self._over(living)
        living = [stack for stack in living if stack.name not in over]
        if self.base is None:
            promised: dict[str, list[Path]] = {}
            for stack in living:
                for entry in stack.jobs:
                    promised.setdefault(entry["trial"], []).append(sweep.folder / entry["folder"])
            place(jobs, sweep.folder, sweep.recorded, first=first, promised=promised)
        else:  # they confirm a search's winner, in folders that it names
            for job, tree in zip(jobs, trees, strict=True):
                job.folder = sweep.folder / tree["hydra"]["sweep"]["subdir"]
        todo = {job.folder.name: job for job in take_finished(jobs)}
        if len(todo) < len(jobs):
            terminal.say(
                f"{len(jobs) - len(todo)} of {len(jobs)} trials are finished already in {sweep.folder}"
            )
        if not todo:
            return
        there = [stack for stack in living if any(entry["folder"] in todo for entry in stack.jobs)]
        under_way = {entry["folder"] for stack in there for entry in stack.jobs}
        rest = [job for name, job in todo.items() if name not in under_way]
        stacks = [self._write(sweep, members) for members in cut(rest, self.max_stack)]
        self._submit(stacks)
        terminal.say(
            f"{len(rest)} trials in {len(stacks)} stacks sent to {self.place}"
            + (f", {len(under_way)} in {len(there)} stacks are there already" if there else "")
        )
        epochs = sum(job.config.fit.epochs for job in todo.values())
        recorder = sweep.recorder
        with (
            recorder.progress(objective(jobs[0].config), len(todo), epochs),
            self._left(there + stacks) as waiting,
        ):
            self._wait(recorder, waiting, {name: Watched(job) for name, job in todo.items()})

    def _suggestion(self, sweep: "Sweep", job: Job, tree: dict[str, Any], number: int) -> None:
        """Train the runs of a suggestion of a search as one stack; the job gets their mean."""
        from rnnbench.search.pruning import search_of, suggestion_of

        sweeper: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        search = {
            "sweeper": sweeper | {"trial": tree["hydra"]["sweeper"]["trial"]},
            "sweep_dir": str(self.config.hydra.sweep.dir),
        }
        job.folder = sweep.folder / str(number)
        runs = suggestion_of(search_of(search["sweeper"]), search["sweep_dir"], job)
        if take_finished(runs):
            stack = self._write(sweep, runs, search)
            self._submit([stack])
            with self._left([stack]) as waiting:
                self._wait(sweep.recorder, waiting, {run.folder.name: Watched(run) for run in runs})
        job.error = next((run.error for run in runs if run.error is not None), None)
        values = [run.value for run in runs if run.value is not None]
        job.value = sum(values) / len(runs) if len(values) == len(runs) else None

    def _write(self, sweep: "Sweep", jobs: Sequence[Job], search: dict[str, Any] | None = None) -> SentStack:
        assert sweep.record is not None
        for job in jobs:
            job.prepare()
        return SentStack.write(
            sweep.folder, sweep.record.info["sweep"], jobs, self.max_stack, search, self.environment
        )

    def _submit(self, stacks: Sequence[SentStack]) -> None:
        for stack in stacks:
            stack.note(sent=stack.task.get("sent", 0) + 1, place=self.place)
        if stacks:
            self.submit(stacks)

    def _over(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        """Stacks of which nothing more is to come, as it seems; jobs that ran in them were interrupted."""
        over = self.lost([stack for stack in stacks if stack.task.get("place") == self.place])
        for stack in stacks:
            if stack.task.get("place") != self.place:
                over[stack.name] = Lost(f"was sent to {stack.task.get('place', 'nowhere')}")
        held = set(workers(stacks[0].folder)) if over else set()
        over = {name: lost for name, lost in over.items() if name not in held}
        for stack in stacks:
            if stack.name in over:
                for entry in stack.jobs:
                    if (stack.folder / entry["folder"] / "result.json").exists():
                        abandon(stack.folder / entry["folder"])
        return over

    @contextmanager
    def _left(self, stacks: list[SentStack]) -> Iterator[list[SentStack]]:
        """The stacks, which whoever waits takes out of the list as they end; what is left is seen to."""
        try:
            yield stacks
        finally:
            if stacks:
                self.leave(stacks)

    def _wait(self, recorder: "Recorder", stacks: list[SentStack], jobs: dict[str, Watched]) -> None:
        """Wait until all stacks have ended; stacks that were lost are sent again, or fail."""
        while True:
            signals.check()  # this may be another thread than the one that a signal ends
            self._look(recorder, stacks, jobs)
            if not stacks:
                return
            over = self._over(stacks)
            self._look(recorder, stacks, jobs)  # what was written since, before the task was over
            for stack in [stack for stack in stacks if stack.name in over]:
                self._again(recorder, stack, over[stack.name], jobs)
            time.sleep(WAIT)

    def _again(self, recorder: "Recorder", stack: SentStack, lost: Lost, jobs: dict[str, Watched]) -> None:
        """Send a stack again whose task is over before its jobs are; too often, and these have failed."""
        if lost.again and stack.task["sent"] <= self.retries:
            with recorder.lock:
                terminal.warn(f"stack {stack.name} {lost.reason}; sending it to {self.place} again")
            self._submit([stack])
            return
        for entry in stack.jobs:
            watched = jobs.get(entry["folder"])
            if watched is not None and not watched.job.state.has_ended:
                job, reason = watched.job, f"its stack {stack.name} {lost.reason}"
                with recorder.lock:
                    if (job.folder / "result.json").exists():
                        abandon(job.folder, reason)
                        _take(recorder, stack, entry, watched)
                    if not job.state.has_ended:  # its record is not there, or that of an earlier failure
                        recorder.fail(job, reason)

    def _look(self, recorder: "Recorder", stacks: list[SentStack], jobs: dict[str, Watched]) -> None:
        """Take what is new in the records; stacks that have ended leave the list."""
        for stack in list(stacks):
            for entry in stack.jobs:
                watched = jobs.get(entry["folder"])
                if watched is not None and not watched.job.state.has_ended:
                    with recorder.lock:
                        _take(recorder, stack, entry, watched)
            if all(
                entry["folder"] not in jobs or jobs[entry["folder"]].job.state.has_ended
                for entry in stack.jobs
            ):
                stacks.remove(stack)


def _take(recorder: "Recorder", stack: SentStack, entry: dict[str, Any], watched: Watched) -> None:
    """What is new in the record of a job: for the terminal, for MLflow, and its end."""
    job = watched.job
    files = (job.folder / "result.json", job.folder / "metrics.csv")
    if not files[0].exists():
        return
    if job.state is JobState.waiting:
        job.become(JobState.running)
        job.started()
    stamp = tuple(number for file in files for number in (file.stat().st_mtime_ns, file.stat().st_size))
    if stamp == watched.stamp:
        return
    watched.stamp = stamp
    recorder.changed(job)
    rows, goal = next(sound([job.folder], read_metrics), []), objective(job.config)
    if recorder.live is not None and len(rows) > watched.epochs:
        split, _, name = goal.removeprefix("best/").partition("_")
        measured = [row[f"{split}/{name}"] for row in rows[watched.epochs :] if f"{split}/{name}" in row]
        recorder.live.epoch(len(rows) - watched.epochs, measured)
    watched.epochs = max(watched.epochs, len(rows))
    if not stack.ended(entry):
        return
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
    if recorder.live is not None:
        left = job.config.fit.epochs - result["epochs"]
        recorder.live.end(f"{job.title}: {line}", left, failed=state is JobState.failed)
    job.become(state)
    job.ended()


def cut(jobs: Sequence[Job], max_stack: int | None) -> list[list[Job]]:
    """Jobs as stacks of equal shapes, those of a shape spread evenly."""
    from rnnbench.train.resources import ENOUGH
    from rnnbench.train.stack import shape_key

    shapes: dict[object, list[Job]] = {}
    for job in jobs:
        shapes.setdefault(shape_key(job.config), []).append(job)
    stacks = []
    for members in shapes.values():
        count = -(-len(members) // (max_stack or ENOUGH))
        bounds = [len(members) * n // count for n in range(count + 1)]
        stacks += [members[start:end] for start, end in pairwise(bounds)]
    return stacks
