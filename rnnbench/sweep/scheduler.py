"""Train jobs: grouping into stacks, stacks side by side, the engine's reports into the books.

No Hydra here: a job is a checked configuration and the folder that its record goes to. The engine,
and with it torch, is imported when training starts.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from rnnbench import tasks, terminal
from rnnbench.config import direction, failure, objective
from rnnbench.sweep.recorder import Job, Sweep
from rnnbench.system import signals

if TYPE_CHECKING:
    from rnnbench.train.stack import Outcome, Report, Slot, Stack

warn_once = lru_cache(terminal.warn)


def train(sweep: Sweep, jobs: Sequence[Job], max_stack: int | None) -> None:
    """Train jobs as stacks of equal shapes; each ends with its value or its error set, or pruned.

    A job whose loss is not finite fails alone. When a stack raises, its jobs go on from their last whole
    epoch one by one, so that only the guilty one fails, with its own traceback; where memory ran out, in
    halves. A signal (see `rnnbench.system.signals`) leaves every job with a checkpoint of its last whole
    epoch.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it.
    """
    from rnnbench.train.stack import shape_key

    shapes: dict[object, list[Job]] = {}
    for job in jobs:
        shapes.setdefault(shape_key(job.config), []).append(job)
    groups = [Group(sweep, members, _width(members[0], max_stack)) for members in shapes.values()]
    epochs = sum(job.config.fit.epochs for job in jobs)
    with progress(sweep, jobs[0], len(jobs), epochs), signals.deferred():
        _train(sweep, groups)


@contextmanager
def progress(sweep: Sweep, like: Job, jobs: int, epochs: int) -> Iterator[None]:
    """Show how far a sweep of so many jobs and epochs is; they have the objective of `like`."""
    goal = objective(like.config)
    sweep.live = terminal.Live(jobs, epochs, goal, direction(goal) == "maximize")
    try:
        yield
    finally:
        sweep.live.close()


def _width(job: Job, max_stack: int | None) -> int:
    """Places of a stack for jobs of this shape."""
    from rnnbench.kernels import missing
    from rnnbench.train.resources import places

    if line := missing(job.config):
        warn_once(line)
    return places(job.config, tasks.shape(job.config.data), max_stack)


def _train(sweep: Sweep, groups: "Sequence[Group]") -> None:
    """Groups that fill the cores one after the other; then the others, several side by side."""
    wide = [group for group in groups if group.fills_the_cores]
    narrow = [group for group in groups if not group.fills_the_cores]
    for group in wide:
        group.run()
    if len(narrow) < 2:  # in this thread, as long as nothing is gained by another
        for group in narrow:
            group.run()
        return
    with ThreadPoolExecutor(_beside(narrow)) as pool:
        pending = {pool.submit(group.run) for group in narrow}
        try:
            while pending:  # wakes up now and then: a Ctrl-C may have been delivered to another thread
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            sweep.interrupted = True
            pool.shutdown(cancel_futures=True)
            raise


def _beside(narrow: "Sequence[Group]") -> int:
    """How many of these groups train side by side."""
    from rnnbench.kernels.compiled import cores

    return cores() // max(group.cores_used for group in narrow)


@dataclass(eq=False)
class Group:
    """Jobs of equal shapes: a stack, and those that wait for a place in it."""

    sweep: Sweep
    waiting: list[Job]
    width: int  # places of the stack
    stack: "Stack | None" = None
    active: dict[int, Job] = field(default_factory=dict)  # in the stack, by id of the slot
    coming: list[Job] = field(default_factory=list)  # about to be
    report: "Report | None" = None  # of an epoch that is not in the books yet
    outcomes: "list[Outcome]" = field(default_factory=list)  # of those that it has ended
    # After the stack has raised: its jobs go on, so many at a time, before any other.
    suspects: list[Job] = field(default_factory=list)
    at_a_time: int = 0

    @property
    def jobs(self) -> list[Job]:
        """All that are not through."""
        return [*self.active.values(), *self.suspects, *self.waiting]

    @property
    def cores_used(self) -> int:
        """Cores that its jobs keep busy as a stack."""
        from rnnbench.kernels import cores_used

        return cores_used(self.jobs[0].config, min(len(self.jobs), self.width))

    @property
    def fills_the_cores(self) -> bool:
        """Whether nothing is gained by another stack beside it."""
        from rnnbench.kernels.compiled import cores

        return 2 * self.cores_used > cores()

    def run(self) -> None:
        """Train all its jobs to their ends."""
        try:
            while self.jobs:
                try:
                    self.epoch()
                except Exception as error:
                    self.recover(error)
                else:
                    self.settle()
        except KeyboardInterrupt:
            self.interrupt()
            raise

    def epoch(self) -> None:
        """Fill the free places and train an epoch. To be followed by `settle`, or `recover` if it raises."""
        from rnnbench.train.stack import Stack, conclude

        self.coming = self._next()
        if self.stack is None:
            config = self.jobs[0].config
            self.stack = Stack(config, tasks.load(config.data), self._poll)
        self._admit(self.stack)
        if not any(slot.ended for slot in self.stack.slots):  # else a checkpoint was that of a last epoch
            self.report = next(self.stack.epochs())
        self.outcomes = conclude(self.stack, [slot for slot in self.stack.slots if slot.ended])

    def settle(self) -> list[Job]:
        """Write down what an epoch has brought; the jobs that have ended, whose places are free again."""
        assert self.stack is not None
        sweep = self.sweep
        with sweep.lock:
            # The checkpoint of a last epoch has come to its end without another one.
            for slot in self._write() or [outcome.slot for outcome in self.outcomes]:
                job = self.active[id(slot)]
                if job.watch and slot.due and not slot.diverged:
                    job.watch(slot)
            ended = self._finish()
            for slot in self.stack.slots:
                job = self.active[id(slot)]
                if job.pruned:
                    sweep.prune(job, slot.best)
                else:
                    sweep.checkpoint(job, self.stack.at(slot))
            through = [slot for slot in self.stack.slots if self.active[id(slot)].record is None]
            if through:
                self.stack.stop(through)
            return ended + [self.active.pop(id(slot)) for slot in through]

    def interrupt(self) -> None:
        """Leave its jobs where they are, each with a checkpoint of its last whole epoch."""
        with self.sweep.lock:
            self._write()
            self._finish()
            self._hold()
            for job in [*self.active.values(), *self.coming, *self.suspects]:
                self.sweep.interrupt(job)

    def recover(self, error: Exception) -> list[Job]:
        """After the stack has raised, have its jobs go on apart; one alone has failed by it. Those that are
        through."""
        with self.sweep.lock:
            self._write()
        self._hold()
        lost = [job for job in self.active.values() if job.record is None]
        suspects = [*(job for job in self.active.values() if job not in lost), *self.coming]
        self.waiting = [job for job in self.waiting if job not in suspects]
        self.suspects = [job for job in self.suspects if job not in suspects]
        self.stack, self.active, self.coming = None, {}, []
        if len(suspects) == 1 and not lost:
            with self.sweep.lock:
                self.sweep.fail(suspects[0], failure(suspects[0].config, error), error)
            return suspects
        from rnnbench.train.resources import ran_out

        half = ran_out(error)
        if half:
            traceback.clear_frames(error.__traceback__)  # which hold what the epoch had computed so far
        self.at_a_time = -(-len(suspects) // 2) if half else 1
        how = f"{self.at_a_time} at a time" if half else "one by one"
        with self.sweep.lock:
            terminal.warn(f"a stack of {len(suspects + lost)} stopped: {error!r}; its trials go on {how}")
        self.width = self.at_a_time if half else self.width
        self.suspects = suspects + self.suspects
        return lost

    def _next(self) -> list[Job]:
        """The jobs that take the free places of the stack."""
        if self.at_a_time and self.active:  # suspects train to their end by themselves
            return []
        jobs = self.suspects[: self.at_a_time]
        self.at_a_time = self.at_a_time if jobs else 0
        return jobs or self.waiting[: self.width - len(self.active)]

    def _admit(self, stack: "Stack") -> None:
        """The jobs that are coming take their places."""
        jobs = self.coming
        if not jobs:
            return
        with self.sweep.lock:
            first = [job for job in jobs if job.record is None and job.held is None]
            trials = [self.sweep.begin(job, stack.fresh(job.config)) for job in jobs]
            _say_resumed(job.held.slot.epoch for job in first if job.held is not None)
            stack.admit(trials)
            for job, trial in zip(jobs, trials, strict=True):
                self.active[id(trial.slot)], job.held = job, None
            self.suspects = [job for job in self.suspects if job not in jobs]
            self.waiting = [job for job in self.waiting if job not in jobs]
            self.coming = []

    def _write(self) -> "list[Slot]":
        """The rows of the last epoch go into the books, unless they are there; the slots that it advanced."""
        report, self.report = self.report, None
        if report is None:
            return []
        for slot, metrics in zip(report.slots, report.metrics, strict=True):
            job = self.active[id(slot)]
            self.sweep.epoch(job, slot.epoch, metrics)
        return report.slots

    def _finish(self) -> list[Job]:
        """Whoever is no longer in the stack has ended; these jobs."""
        held = {id(slot) for slot in self.stack.slots} if self.stack else set()
        outcomes = {id(outcome.slot): outcome for outcome in self.outcomes}
        ended = {key: self.active.pop(key) for key in list(self.active) if key not in held}
        for key, job in ended.items():
            if key in outcomes:
                self.sweep.finish(job, outcomes[key])
            elif job.record is not None:
                self.sweep.fail(
                    job,
                    f"the training loss is not finite in epoch {job.record.result['epochs']}; "
                    f"a lower optim.lr (here {job.config.optim.lr:g}) or fit.clip=1 may help",
                )
        return list(ended.values())

    def _hold(self) -> None:
        """Each job that is in the stack holds where it is."""
        if self.stack is not None:
            for slot in self.stack.slots:
                self.active[id(slot)].held = self.stack.at(slot)

    def _poll(self) -> None:
        signals.check()
        if self.sweep.interrupted:
            raise KeyboardInterrupt


def _say_resumed(epochs: Iterable[int]) -> None:
    """How many trials go on from a checkpoint, and from which epoch."""
    for epoch, count in sorted(Counter(epochs).items()):
        if epoch:
            terminal.say(f"{count} {'trial goes' if count == 1 else 'trials go'} on from epoch {epoch}")


class Rounds:
    """Stacks side by side that jobs may join at any time; each round is an epoch of every stack.

    What happens, and in which order, does not depend on how fast the machine is: rounds are settled stack
    by stack, in the order in which the stacks were opened.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it.
    """

    def __init__(self, sweep: Sweep, max_stack: int | None) -> None:
        self.sweep = sweep
        self.max_stack = max_stack
        self.groups: dict[object, list[Group]] = {}  # by shape
        self.trial_epochs = self.stack_epochs = 0

    def add(self, jobs: Sequence[Job]) -> None:
        """Jobs of one shape join a stack that has room for them, or open one."""
        from rnnbench.train.stack import shape_key

        there = self.groups.setdefault(shape_key(jobs[0].config), [])
        group = next((group for group in there if group.width - len(group.jobs) >= len(jobs)), None)
        if group is None:
            group = Group(self.sweep, [], _width(jobs[0], self.max_stack))
            there.append(group)
        group.waiting += jobs

    def round(self, ended: Callable[[list[Job]], None]) -> None:
        """Train an epoch of every stack.

        Args:
            ended: is given the jobs that have ended, as soon as those of a stack have; it may add others,
                which begin in the next round.
        """
        groups = [group for there in self.groups.values() for group in there]
        narrow = [group for group in groups if not group.fills_the_cores]
        narrow = narrow if len(narrow) > 1 else []  # in this thread, as long as nothing is gained by another
        try:
            with signals.deferred(), ThreadPoolExecutor(_beside(narrow) if narrow else 1) as pool:
                training = {id(group): pool.submit(group.epoch) for group in narrow}
                try:
                    for group in groups:
                        ended(self._settle(group, training.get(id(group))))
                except BaseException:
                    self.sweep.interrupted = True
                    raise
        except BaseException:  # when all threads have stopped
            for group in groups:
                group.interrupt()
            raise
        for shape, there in list(self.groups.items()):
            self.groups[shape] = [group for group in there if group.jobs]
            if not self.groups[shape]:
                del self.groups[shape]

    def _settle(self, group: Group, training: "Future[None] | None") -> list[Job]:
        try:
            while training and not training.done():
                wait([training], timeout=0.5)  # so that a Ctrl-C is seen, whichever thread was given it
            if training:
                training.result()
            else:
                group.epoch()
        except Exception as error:
            return group.recover(error)
        self.trial_epochs += len(group.active)
        self.stack_epochs += 1
        return group.settle()
