"""Trains jobs in stacks of equal shapes, several stacks at a time, and has each epoch recorded.

It does not use Hydra: a job is a checked configuration and the folder of its record.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain, pairwise
from threading import Lock

from rnnbench import tasks, terminal
from rnnbench.config import Config, Kernel, objective
from rnnbench.config.user_code import failure
from rnnbench.job_state import JobState
from rnnbench.kernels import choose, cores_used, kernel_name, on_card, slower
from rnnbench.kernels.compiled import cores
from rnnbench.sweep import snapshots
from rnnbench.sweep.job import Job
from rnnbench.sweep.recorder import Recorder
from rnnbench.system import signals
from rnnbench.train import fastest, resources
from rnnbench.train import stack as engine
from rnnbench.train.stack import Outcome, Report, Slot, Snapshot, Stack, shape_key

say_once, warn_once = lru_cache(terminal.say), lru_cache(terminal.warn)


def train(recorder: Recorder, jobs: Sequence[Job], max_stack: int | None) -> None:
    """Train jobs, with progress on the terminal; each ends with a value or an error, or is pruned.

    A signal (see `rnnbench.system.signals`) leaves every job with a snapshot of its last whole epoch.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it.
    """
    scheduler = Scheduler(recorder, max_stack)
    scheduler.queue(jobs)
    epochs = sum(job.config.fit.epochs for job in jobs)
    with recorder.progress(objective(jobs[0].config), len(jobs), epochs), signals.deferred():
        scheduler.run()


def by_shape(jobs: Sequence[Job]) -> dict[object, list[Job]]:
    """Group jobs by shape, which the trials of one stack have in common."""
    shapes: dict[object, list[Job]] = {}
    for job in jobs:
        shapes.setdefault(shape_key(job.config), []).append(job)
    return shapes


def spread(jobs: Sequence[Job], count: int) -> list[Sequence[Job]]:
    """Divide jobs into so many parts of nearly equal sizes, none of them empty."""
    count = min(count, len(jobs))
    bounds = [len(jobs) * n // count for n in range(count + 1)]
    return [jobs[start:end] for start, end in pairwise(bounds)]


class Scheduler:
    """Keeps several stacks, to which jobs may be added at any time.

    There are two ways to drive them. `run` trains each stack to its end at its own speed. It is for a grid,
    whose jobs are all known at the start: waiting for the slowest stack after each epoch would leave cores
    idle. `round` trains one epoch of every stack. It is for a search, where the next suggestion depends on
    the jobs that have ended, and must not depend on the speed of the machine.

    A graphics card trains one stack at a time, and all cards that fit.device names train side by side.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it.
    """

    def __init__(self, recorder: Recorder, max_stack: int | None) -> None:
        self.recorder = recorder
        self.max_stack = max_stack
        self.stacks: dict[object, list[JobStack]] = {}  # by shape
        self.stopping = False  # whether stacks in other threads have to stop as well
        self.taking = Lock()  # cards take their next stack one after the other
        self.trial_epochs = self.stack_epochs = 0  # trained so far by `round`

    def queue(self, jobs: Sequence[Job]) -> None:
        """Add jobs to one stack for each shape; jobs wait while their stack is full.

        On several cards a shape is divided into as few stacks as give each card equally many.
        """
        shapes = by_shape(jobs)
        kinds = Counter(members[0].config.fit.device for members in shapes.values())
        for shape, members in shapes.items():
            asked = members[0].config.fit.device
            count = resources.parts(len(resources.devices(asked)), kinds[asked])
            there = self.stacks.setdefault(shape, [])
            for part in spread(members, count):
                stack = self._open(part[0])
                if not stack.on_card:  # a card that is free chooses its stack
                    self._place(stack, part[0].config, stack.device)
                stack.waiting += part
                there.append(stack)

    def add(self, jobs: Sequence[Job]) -> None:
        """Add jobs of one shape to a stack with room for all, or a new one; they join at the next epoch.

        Of several cards the one with the fewest jobs gets them.
        """
        config = jobs[0].config
        there = self.stacks.setdefault(shape_key(config), [])
        busy = Counter(stack.device for stack in chain(*self.stacks.values()) for _ in stack.jobs)
        device = min(resources.devices(config.fit.device), key=lambda name: busy[name])
        stack = next((each for each in there if each.device == device and each.room >= len(jobs)), None)
        if stack is None:
            stack = self._open(jobs[0])
            self._place(stack, config, device)
            there.append(stack)
        stack.waiting += jobs

    def _open(self, like: Job) -> "JobStack":
        """Return a new stack for jobs of the same shape as this one, which `_place` gives its places."""
        if line := slower(like.config):
            warn_once(line)
        return JobStack(self.recorder, resources.devices(like.config.fit.device), self._poll)

    def _place(self, stack: "JobStack", like: Config, device: str) -> None:
        """Give a stack without trials its device, and as many places as that has room for."""
        config = like.on(device)
        shape = tasks.shape(config.data)
        stack.device = device
        stack.width = resources.places(config, shape, self.max_stack)
        if card := on_card(config):
            taken = resources.data_bytes(shape) + resources.stack_bytes(config, shape)(stack.width)
            room = f"up to {stack.width:,} trials a stack, for which {taken / 2**20:,.0f} MiB are reckoned"
            say_once(f"training with {kernel_name(config)}{card}: {room}")

    def _poll(self) -> None:
        """Stop an epoch between minibatches, after a signal or the failure of another stack."""
        signals.check()
        if self.stopping:
            raise KeyboardInterrupt

    def run(self) -> None:
        """Train every stack to its end: on cards, then those that fill the cores, then others in threads."""
        stacks = list(chain(*self.stacks.values()))
        self._run_on_cards([stack for stack in stacks if stack.on_card])
        narrow = [stack for stack in stacks if not (stack.on_card or stack.fills_the_cores)]
        for stack in stacks:
            if not stack.on_card and stack not in narrow:
                stack.run()
        if narrow:
            self._side_by_side([stack.run for stack in narrow], _beside(narrow))

    def _run_on_cards(self, stacks: "list[JobStack]") -> None:
        """Train stacks on their cards: a card that is free takes the next stack that may have it."""
        left = list(stacks)
        cards = dict.fromkeys(device for stack in stacks for device in stack.devices)

        def work(device: str) -> None:
            while not self.stopping:
                with self.taking:
                    stack = next((each for each in left if device in each.devices), None)
                    if stack is None:
                        return
                    left.remove(stack)
                self._place(stack, stack.jobs[0].config, device)
                stack.run()

        self._side_by_side([partial(work, device) for device in cards], len(cards))

    def _side_by_side(self, tasks: Sequence[Callable[[], None]], at_a_time: int) -> None:
        """Run tasks in threads; a single one in this thread, since it gains nothing from another."""
        if len(tasks) < 2:
            for task in tasks:
                task()
            return
        with ThreadPoolExecutor(at_a_time) as pool:
            pending = {pool.submit(task) for task in tasks}
            try:
                while pending:  # with a timeout, so that this thread handles Ctrl-C
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:
                self.stopping = True
                pool.shutdown(cancel_futures=True)
                raise

    def round(self, ended: Callable[[list[Job]], None]) -> None:
        """Train an epoch of every stack, and record the stacks in a fixed order.

        Args:
            ended: called after each stack with its jobs that have ended; it may add jobs, which begin in the
                next round.
        """
        stacks = list(chain(*self.stacks.values()))
        narrow = [stack for stack in stacks if not (stack.on_card or stack.fills_the_cores)]
        narrow = narrow if len(narrow) > 1 else []  # a single stack gains nothing from another thread
        on_cards = [stack for stack in stacks if stack.on_card]
        cards = {stack.device for stack in on_cards}
        threaded = [*narrow, *(on_cards if len(cards) > 1 else [])]
        at_a_time = {"cpu": _beside(narrow) if narrow else 1} | dict.fromkeys(cards, 1)
        try:
            with signals.deferred(), ExitStack() as opened:
                pools = {
                    device: opened.enter_context(ThreadPoolExecutor(count))
                    for device, count in at_a_time.items()
                }
                training = {stack: pools[stack.device].submit(stack.epoch) for stack in threaded}
                try:
                    for stack in stacks:
                        ended(self._settle(stack, training.get(stack)))
                except BaseException:
                    self.stopping = True
                    raise
        except BaseException:  # when all threads have stopped
            for stack in stacks:
                stack.interrupt()
            raise
        for shape, there in list(self.stacks.items()):
            self.stacks[shape] = [stack for stack in there if stack.jobs]
            if not self.stacks[shape]:
                del self.stacks[shape]

    def _settle(self, stack: "JobStack", training: "Future[None] | None") -> list[Job]:
        """Record an epoch of a stack, which a thread has trained or which is trained here.

        Returns:
            the jobs that have ended.
        """
        try:
            while training and not training.done():
                wait([training], timeout=0.5)  # with a timeout, so that this thread handles Ctrl-C
            if training:
                training.result()
            else:
                stack.epoch()
        except Exception as error:
            return stack.recover(error)
        self.trial_epochs += len(stack.active)
        self.stack_epochs += 1
        return stack.settle()


def _beside(narrow: "Sequence[JobStack]") -> int:
    """Return how many of these stacks train at a time."""
    return cores() // max(stack.cores_used for stack in narrow)


class JobStack:
    """Trains jobs of equal shapes as a stack, in the order of arrival, and has their epochs recorded.

    A job whose loss is not finite fails alone. When the stack raises an error, its jobs go on from their last
    whole epoch one by one, so that only the job that causes the error fails, with its own traceback. If
    memory ran out, they go on in halves.

    Args:
        devices: those that it may train on; it trains on one of them.
        poll: called between minibatches, a few times a second; what it raises stops the epoch.
    """

    def __init__(self, recorder: Recorder, devices: Sequence[str], poll: Callable[[], None]) -> None:
        self.recorder = recorder
        self.devices = devices
        self.device = devices[0]
        self.width = 1  # places of the stack
        self.poll = poll
        self.stack: Stack | None = None
        self.kernel: Kernel | None = None  # of the stack
        self.waiting: list[Job] = []  # jobs waiting for a place in the stack
        self.admitted: list[Job] = []  # jobs being admitted to the stack
        self.active: dict[Slot, Job] = {}  # jobs in the stack
        self.held: dict[Job, Snapshot] = {}  # snapshots of jobs that have begun and are in no stack
        self.report: Report | None = None  # last epoch's report, not yet recorded
        self.outcomes: list[Outcome] = []  # outcomes of trials that ended in the last epoch
        # Jobs of a stack that raised an error: they go on before any other, `at_a_time` at a time.
        self.suspects: list[Job] = []
        self.at_a_time = 0

    @property
    def jobs(self) -> list[Job]:
        """All jobs that have not ended."""
        return [*self.active.values(), *self.suspects, *self.waiting]

    @property
    def room(self) -> int:
        """Number of places that no job has or waits for."""
        return self.width - len(self.jobs)

    @property
    def on_card(self) -> bool:
        """True if it trains on a graphics card."""
        return self.device != "cpu"

    @property
    def cores_used(self) -> int:
        """Number of cores that its jobs keep busy as a stack."""
        return cores_used(self.jobs[0].config, min(len(self.jobs), self.width))

    @property
    def fills_the_cores(self) -> bool:
        """True if it uses more than half of the cores, so that no equal stack fits beside it."""
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
        """Fill the free places and train an epoch; then call `settle`, or `recover` if this raises."""
        self.admitted = self._next()
        for job in self.admitted:
            job.device = self.device
        if self.stack is None:
            config = self.jobs[0].config.on(self.device)
            task = tasks.load(config.data)
            if len(self.jobs) == 1:
                fastest.settle(config, task)
            self.kernel = choose(config)  # it stays, also where another stack finds another to be the faster
            if self.kernel is Kernel.cudnn:
                self.width, self.admitted = 1, self.admitted[:1]
            self.stack = Stack(replace(config, fit=replace(config.fit, kernel=self.kernel)), task, self.poll)
        for job in self.admitted:
            job.kernel = self.kernel
        self._admit(self.stack)
        if not any(slot.ended for slot in self.stack.slots):  # a snapshot may be of a trial's last epoch
            self.report = next(self.stack.epochs())
        self.outcomes = engine.conclude(self.stack, [slot for slot in self.stack.slots if slot.ended])

    def settle(self) -> list[Job]:
        """Record the results of an epoch; return the jobs that have ended, whose places are free again."""
        assert self.stack is not None
        with self.recorder.lock:
            # There is no report if trials were restored from a snapshot of their last epoch.
            for slot in self._record() or [outcome.slot for outcome in self.outcomes]:
                job = self.active[slot]
                if job.watch and slot.due and not slot.diverged:
                    job.watch.seen(job, slot)
            ended = self._finish()
            for slot in self.stack.slots:
                job = self.active[slot]
                if job.watch and job.watch.stopped:
                    self.recorder.prune(job, slot.best)
                else:
                    self.recorder.snapshot(job, self.stack.at(slot))
            through = [slot for slot in self.stack.slots if self.active[slot].state.has_ended]
            if through:
                self.stack.stop(through)
            return ended + [self.active.pop(slot) for slot in through]

    def interrupt(self) -> None:
        """Interrupt its jobs, each with a snapshot of its last whole epoch."""
        with self.recorder.lock:
            self._record()
            self._finish()
            self._hold()
            for job in [*self.active.values(), *self.admitted, *self.suspects]:
                self.recorder.interrupt(job, self.held.get(job))

    def recover(self, error: Exception) -> list[Job]:
        """Continue the jobs of a stack that has raised an error in smaller stacks; a single job fails.

        Returns:
            the jobs that have ended.
        """
        with self.recorder.lock:
            self._record()
        self._hold()
        deleted = [job for job in self.active.values() if job.state is JobState.deleted]
        suspects = [*(job for job in self.active.values() if job not in deleted), *self.admitted]
        self.waiting = [job for job in self.waiting if job not in suspects]
        self.suspects = [job for job in self.suspects if job not in suspects]
        self.stack, self.active, self.admitted = None, {}, []
        if len(suspects) == 1 and not deleted:
            self.held.pop(suspects[0], None)
            with self.recorder.lock:
                self.recorder.fail(suspects[0], failure(suspects[0].config, error), error)
            return suspects
        half = resources.ran_out(error)
        if half:
            resources.give_back(error, self.device)
        self.at_a_time = -(-len(suspects) // 2) if half else 1
        how = f"{self.at_a_time} at a time" if half else "one by one"
        with self.recorder.lock:
            terminal.warn(f"a stack of {len(suspects + deleted)} stopped: {error!r}; its trials go on {how}")
        self.width = self.at_a_time if half else self.width
        self.suspects = suspects + self.suspects
        for job in deleted:
            self.held.pop(job, None)
        return deleted

    def _next(self) -> list[Job]:
        """Choose the jobs that take the free places of the stack."""
        if self.at_a_time and self.active:  # suspects train to their end before others join
            return []
        jobs = self.suspects[: self.at_a_time]
        self.at_a_time = self.at_a_time if jobs else 0
        return jobs or self.waiting[: self.width - len(self.active)]

    def _admit(self, stack: Stack) -> None:
        """Begin the records of the jobs being admitted, and give them their places in the stack."""
        jobs = self.admitted
        if not jobs:
            return
        with self.recorder.lock:
            first = [job for job in jobs if job not in self.held]
            for job in first:
                trial = snapshots.find(job, stack.fresh(job.config))
                self.recorder.start(job, trial.slot.epoch)
                self.held[job] = trial
            _say_resumed(self.held[job].slot.epoch for job in first)
            stack.admit([self.held[job] for job in jobs])
            for job in jobs:
                self.active[self.held.pop(job).slot] = job
            self.suspects = [job for job in self.suspects if job not in jobs]
            self.waiting = [job for job in self.waiting if job not in jobs]
            self.admitted = []

    def _record(self) -> list[Slot]:
        """Record the last epoch, unless that is done already; return the slots that it advanced."""
        report, self.report = self.report, None
        if report is None:
            return []
        for slot, metrics in zip(report.slots, report.metrics, strict=True):
            self.recorder.epoch(self.active[slot], slot.epoch, metrics)
        return report.slots

    def _finish(self) -> list[Job]:
        """Record the ends of the jobs that are no longer in the stack, and return them."""
        slots = self.stack.slots if self.stack else []
        outcomes = {outcome.slot: outcome for outcome in self.outcomes}
        ended = {slot: self.active.pop(slot) for slot in list(self.active) if slot not in slots}
        for slot, job in ended.items():
            if slot in outcomes:
                self.recorder.finish(job, outcomes[slot])
            elif job.state is JobState.running:
                self.recorder.fail(
                    job,
                    f"the training loss is not finite in epoch {slot.epoch}; "
                    f"a lower optim.lr (here {job.config.optim.lr:g}) or fit.clip=1 may help",
                )
        return list(ended.values())

    def _hold(self) -> None:
        """Take a snapshot of each job that is in the stack."""
        if self.stack is not None:
            self.held |= {self.active[slot]: self.stack.at(slot) for slot in self.stack.slots}


def _say_resumed(epochs: Iterable[int]) -> None:
    """Print how many trials go on from a snapshot, and from which epoch."""
    for epoch, count in sorted(Counter(epochs).items()):
        if epoch:
            terminal.say(f"{count} {'trial goes' if count == 1 else 'trials go'} on from epoch {epoch}")
