"""Runs a search: asks, trains and tells, without waiting for batches, until the study has its n_trials.

Under our own launcher the trials train in this process, in stacks that they join and leave between
epochs, up to n_jobs at a time. Other launchers are for `rnnbench.search.launched`.
"""

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from hydra.utils import get_method
from omegaconf import DictConfig
from optuna.trial import Trial, TrialState

from rnnbench import terminal
from rnnbench.config import ConfigError, objective
from rnnbench.config.metrics import short
from rnnbench.job_state import JobState
from rnnbench.record import abandon, inherit, is_job, read_result
from rnnbench.search.constraints import excesses
from rnnbench.search.members import Member, folders_of, jobs_of
from rnnbench.search.over import ByTask
from rnnbench.search.plan import Plan
from rnnbench.search.pruning import Watch, tags_of
from rnnbench.search.sizes import broken_by
from rnnbench.search.study import Study, Suggestion, suggest
from rnnbench.search.turns import Turns
from rnnbench.sweep.job import Job
from rnnbench.sweep.launcher import StackLauncher, job_name
from rnnbench.sweep.reuse import Taken
from rnnbench.sweep.scheduler import Scheduler, by_shape, train
from rnnbench.sweep.session import Sweep
from rnnbench.system.files import DamagedFile
from rnnbench.train.snapshot import FILE

FIRST_CHECK = 10  # finished trials before the failure rate counts
WAIT = 1.0  # seconds between looks at what other workers do


class SearchFailed(CompactHydraException):
    """The search has no result, or too many of its trials failed."""


@dataclass
class TrialRuns:
    """A suggestion with its jobs, one for each member, and the turns in which they train."""

    suggestion: Suggestion
    turns: Turns

    @property
    def jobs(self) -> Sequence[Job]:
        """The jobs of all members."""
        return self.turns.jobs


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds the record of a job that has finished, and can be read."""
    try:
        return is_job(folder) and read_result(folder)["status"] == JobState.finished
    except DamagedFile:  # its trial is trained again
        return False


class Search(ABC):
    """Asks the study for suggestions and tells it their results, for one process; a subclass trains them."""

    def __init__(self, plan: Plan, study: Study, config: DictConfig, sweep: Sweep) -> None:
        self.plan, self.study, self.sweep = plan, study, sweep
        self.config = config  # of the sweep, as Hydra composed it
        more = plan.settings.custom_search_space
        self.extend: Callable[[DictConfig, Trial], None] | None = get_method(more) if more else None

    def run(self) -> None:
        """Train until the study has its n_trials, those of other workers included.

        Raises:
            SearchFailed: too many trials fail.
        """
        try:
            self._check_failures()
            self._run()
            done = len(self.study.done())
            if done < self.plan.n_trials and (why := self.study.over()):
                terminal.say(f"{why}, so the search ends after {done} of {self.plan.n_trials} trials")
        finally:
            self.study.release()
            self._bury()

    def _bury(self) -> None:
        """End the records of dead workers' trials, which still have the state running."""
        for number, error in self.study.left().items():
            for job in self._folders(number):
                if is_job(job):
                    abandon(job, error)

    def _folders(self, number: int) -> list[Path]:
        """Return the job folders of a trial, one for each member."""
        return folders_of(self.plan.folder / str(number), len(self.plan.members))

    def _trained(self, number: int) -> dict[Member, Path]:
        """Return the job folders of the members that were trained: all, unless the pruner judges members."""
        folders = dict(zip(self.plan.members, self._folders(number), strict=True))
        every = self.plan.first_turn is None
        return {member: folder for member, folder in folders.items() if every or is_job(folder)}

    def _take_up(self, suggestion: Suggestion) -> None:
        """Copy the snapshots of earlier attempts to a suggestion's folders, if this machine sees them."""
        if not suggestion.attempts:
            return
        folders = self._folders(suggestion.number)
        for number in suggestion.attempts:
            for old, new in zip(self._folders(number), folders, strict=True):
                if (old / FILE).exists() and not (new / FILE).exists():
                    inherit(old, new, FILE)
        kept = [folder / FILE for folder in folders if (folder / FILE).exists()]
        times = [file.stat().st_mtime_ns for file in kept]
        self.study.left_at(suggestion, [*times, *self._finished(suggestion.attempts)])

    def _finished(self, attempts: Sequence[int]) -> list[int]:
        """Return the places of the members that have finished in one of these trials."""
        folders = zip(*map(self._folders, attempts), strict=True)
        return [place for place, those in enumerate(folders) if any(map(is_finished, those))]

    @abstractmethod
    def _run(self) -> None: ...

    @abstractmethod
    def confirm(
        self, overrides: Sequence[str], number: int, members: Sequence[Member]
    ) -> list[dict[str, Any]]:
        """Train a configuration as fresh members, in the folders N.c0, N.c1, ...; return the results."""

    def point(self, trial: Trial) -> list[str]:
        """Draw a trial's parameters and return its overrides."""
        drawn = self.plan.space.point(partial(suggest, trial), self.plan.lookup)
        if self.extend is not None:
            before = set(trial.params)
            self.extend(self.config, trial)
            drawn += [f"{name}={value}" for name, value in trial.params.items() if name not in before]
        return drawn

    def overrides(self, suggestion: Suggestion, task: int = 0) -> list[str]:
        """Return all overrides of a suggestion's first job in a task."""
        return [*self.plan.fixed, *suggestion.overrides, *self.plan.tasks[task]]

    def conclude(self, suggestion: Suggestion, error: str | None = None) -> None:
        """Tell the study how a suggestion has ended, from the records of its jobs.

        Args:
            error: why there is no record; None: there is one.
        """
        folders = self._folders(suggestion.number)
        record: dict[str, Any] = {
            "folder": str(folders[0].absolute()),
            "overrides": list(suggestion.overrides),
        }
        state, values = TrialState.FAIL, None
        if error is not None:
            record["error"] = error
        else:
            trained = self._trained(suggestion.number)
            results = list(map(read_result, trained.values()))
            record |= {
                "jobs": [result["job"] for result in results],
                "epochs": [result["epochs"] for result in results],
                "seconds": sum(result["ended"] - result["started"] for result in results) / 1000,
            }
            record["constraints"] = self._excesses(list(trained), results)
            states = {result["status"] for result in results}
            if JobState.failed in states:
                record["error"] = next(result["error"] for result in results if result["error"])
            elif JobState.pruned in states:
                state = TrialState.PRUNED
            else:
                state = TrialState.COMPLETE
                values = self._values(list(trained), results, record)
                if len(results) < len(folders):
                    record["members"] = len(folders)  # had the pruner not stopped it
        self.study.tell(suggestion, state, values, record)
        self._check_failures()

    def _values(
        self, members: Sequence[Member], results: Sequence[dict[str, Any]], record: dict[str, Any]
    ) -> list[float]:
        """Return the objectives' means over the members; their spread goes into the record."""
        if self.plan.settings.over is None:
            columns = [[result["metrics"][name] for result in results] for name in self.plan.objectives]
        else:
            found = ByTask.of(self.plan.settings, self.plan.bases, members, results)
            columns, record["tasks"] = [found.rounds], found.means
        if len(columns[0]) > 1:
            record["spread"] = [statistics.stdev(column) for column in columns]
        return [statistics.fmean(column) for column in columns]

    def _excesses(self, members: Sequence[Member], results: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return by how much the means over members break each constraint, in the worst task."""
        names = set.intersection(*(set(result["metrics"]) for result in results))
        worst: dict[str, float] = {}
        for task in dict.fromkeys(member.task for member in members):
            own = [r["metrics"] for m, r in zip(members, results, strict=True) if m.task == task]
            means = {name: statistics.fmean(metrics[name] for metrics in own) for name in names}
            found = excesses(self.plan.constraints, means)
            worst = {key: max(value, worst.get(key, value)) for key, value in found.items()}
        return worst

    def _check_failures(self) -> None:
        done = self.study.done()
        failed = sum(trial.state == TrialState.FAIL for trial in done)
        rate = self.plan.settings.max_failure_rate
        if len(done) >= FIRST_CHECK and failed > rate * len(done):
            raise SearchFailed(
                f"{failed} of {len(done)} trials failed, more than hydra.sweeper.max_failure_rate={rate}; "
                "the last lines above, and result.json in their folders, say why"
            )

    def _wait_for_others(self) -> bool:
        """Return False if the search has ended; else wait a moment for other workers and return True."""
        if self.study.over():
            return False
        left = self.plan.n_trials - len(self.study.done())
        if left > 0:
            time.sleep(WAIT)
        return left > 0


class StackSearch(Search):
    """Trains the trials in this process, in stacks."""

    def __init__(
        self, plan: Plan, study: Study, config: DictConfig, sweep: Sweep, launcher: StackLauncher
    ) -> None:
        super().__init__(plan, study, config, sweep)
        self.launcher = launcher
        self.scheduler = Scheduler(sweep.recorder, launcher.max_stack)
        self.running: dict[Job, TrialRuns] = {}  # by job, those that have not ended
        self.waiting: list[tuple[TrialRuns, Sequence[Job]]] = []  # turns whose trials train at this moment
        self.in_flight: list[int] = []  # number of trials in flight at each round

    def _run(self) -> None:
        members, epochs = len(self.plan.members), self.plan.base.fit.epochs
        left = members * (self.plan.n_trials - len(self.study.done()))
        with self.sweep.recorder.progress(objective(self.plan.base), left, left * epochs):
            while True:
                self._fill()
                if self.running:
                    self.in_flight.append(len(self.study.running))
                    self.scheduler.round(self._ended)
                elif not self._wait_for_others():
                    return

    def _fill(self) -> None:
        """Ask for trials until n_jobs are in flight or none is left."""
        while len(self.study.running) < self.plan.settings.n_jobs:
            suggestion = self.study.ask(self.point)
            if suggestion is None:
                return
            name = f"trial {suggestion.number}: {job_name(suggestion.overrides, self.plan.base)}"
            try:
                folder = self.plan.folder / str(suggestion.number)
                words = [self.overrides(suggestion, task) for task in range(len(self.plan.tasks))]
                first, *others = [self.launcher.job(each, folder) for each in words]
            except ConfigError as error:
                self._never_trained(suggestion, str(error))
                continue
            configs = [job.config for job in (first, *others)]
            if found := next(filter(None, (broken_by(self.plan.constraints, c) for c in configs)), None):
                self._turn_down(suggestion, name, found)
                continue
            first.name = " ".join([name, *self.plan.tasks[0]])
            first.tags = tags_of(self.study.name, suggestion.number)
            jobs = jobs_of(first, configs, self.plan.members, self.plan.tasks)
            self._take_up(suggestion)
            self._next(TrialRuns(suggestion, self._turns(suggestion, jobs)))

    def _turns(self, suggestion: Suggestion, jobs: Sequence[Job]) -> Turns:
        """Return the turns in which a suggestion's jobs train; a pruner that judges epochs watches them."""
        judge = partial(self.study.report, suggestion)
        if self.plan.first_turn is not None:
            return Turns(jobs, self.plan.first_turn, judge, self.plan.settings)
        if self.plan.prunes:
            Watch(judge, jobs, short(self.plan.objectives[0]))
        return Turns(jobs)

    def _next(self, runs: TrialRuns) -> None:
        """Begin the next turn of a suggestion; conclude it if there is none."""
        if turn := runs.turns.next():
            self._begin(runs, turn)
            return
        self._say_saved(runs)
        deleted = (job.error for job in runs.jobs if job.state is JobState.deleted)
        self.conclude(runs.suggestion, next(deleted, None))

    def _begin(self, runs: TrialRuns, turn: Sequence[Job]) -> None:
        """Answer jobs of a suggestion from their records, and train those that have none.

        Jobs of which one trains at this moment already wait for it.
        """
        trials = {job.trial for job in self.running}
        if self.sweep.library.indexes and any(job.trial in trials for job in turn):
            self.waiting.append((runs, turn))
            return
        taken = self.sweep.library.take(self.sweep, turn)
        self._say_known(runs, taken)
        if not taken.todo:
            self._tell_curve(runs)
            self._next(runs)
            return
        self.running |= dict.fromkeys(taken.todo, runs)
        for alike in by_shape(taken.todo).values():  # folds differ
            self.scheduler.add(alike)

    def _say_saved(self, runs: TrialRuns) -> None:
        """Print why a suggestion has ended before its last members."""
        saved, live = runs.turns.saved, self.sweep.recorder.live
        assert live is not None
        if saved:
            count = len(runs.jobs)
            why = "worse than the best" if runs.turns.hopeless else "one has failed"
            line = (
                f"trial {runs.suggestion.number}: stopped after {count - len(saved)} of {count} runs, {why}"
            )
            live.leave_out(line, len(saved), sum(job.config.fit.epochs for job in saved))

    def _say_known(self, runs: TrialRuns, taken: Taken) -> None:
        """Print from which records a suggestion is answered, or why it trains from the start."""
        live = self.sweep.recorder.live
        assert live is not None
        for job, origin in taken.reused.items():
            goal = objective(job.config)
            value = terminal.number(goal, job.value if job.value is not None else math.nan)
            line = f"{job.name}: {terminal.title(goal)} {value}, reused from {origin}"
            live.end(line, job.config.fit.epochs, failed=False)
        for why in taken.shorter:
            terminal.say(f"trial {runs.suggestion.number}: trains from the start: {why}")

    def _tell_curve(self, runs: TrialRuns) -> None:
        """Report the epochs of a suggestion that is answered from records, which the pruner compares with."""
        watch = runs.jobs[0].watch
        if isinstance(watch, Watch):
            watch.judge = partial(self._note, runs.suggestion.id)
            watch.tell()

    def _note(self, id: int, epoch: int, value: float) -> bool:
        self.study.storage.set_trial_intermediate_value(id, epoch, value)
        return False

    def _never_trained(self, suggestion: Suggestion, reason: str) -> None:
        live = self.sweep.recorder.live
        assert live is not None
        live.end(f"trial {suggestion.number}: failed: {reason}", 0, failed=True)
        self.conclude(suggestion, reason)

    def _turn_down(self, suggestion: Suggestion, name: str, excess: dict[str, float]) -> None:
        """Tell the study that a suggestion breaks constraints on its size, without training it."""
        count, live = len(self.plan.members), self.sweep.recorder.live
        assert live is not None
        broken = ", ".join(constraint for constraint, over in excess.items() if over > 0)
        live.leave_out(f"{name}: not trained, breaks {broken}", count, count * self.plan.base.fit.epochs)
        folder = str(self._folders(suggestion.number)[0].absolute())
        record = {"folder": folder, "overrides": list(suggestion.overrides), "constraints": excess}
        self.study.tell(suggestion, TrialState.PRUNED, None, record)

    def _ended(self, jobs: Sequence[Job]) -> None:
        """Conclude trials whose jobs have all ended, and ask for others in their places."""
        self.sweep.library.add(jobs)
        for job in jobs:
            running = self.running.pop(job)
            if not any(other in self.running for other in running.jobs):
                self._next(running)
        if jobs:
            waiting, self.waiting = self.waiting, []
            for runs, turn in waiting:
                self._begin(runs, turn)
            self._fill()

    def occupancy(self) -> str | None:
        """Return a line on how many trials this process had in flight; None if it trained none."""
        if not self.in_flight:
            return None
        trials = self.scheduler.trial_epochs / self.scheduler.stack_epochs
        return (
            f"{statistics.fmean(self.in_flight):.1f} of {self.plan.settings.n_jobs} trials in flight, "
            f"{trials:.1f} runs a stack"
        )

    def confirm(
        self, overrides: Sequence[str], number: int, members: Sequence[Member]
    ) -> list[dict[str, Any]]:
        jobs = []
        for k, member in enumerate(members):
            words = [*self.plan.tasks[member.task], *member.words(self.plan.base.seed)]
            job = self.launcher.job([*overrides, *words], self.plan.folder / f"{number}.c{k}")
            job.name, job.tags = " ".join([f"confirm {number}", *words]), tags_of(self.study.name, number)
            jobs.append(job)
        taken = self.sweep.library.take(self.sweep, jobs)
        for line in taken.lines():
            terminal.say(line)
        if taken.todo:
            train(self.sweep.recorder, taken.todo, self.launcher.max_stack)
        return [read_result(job.folder) for job in jobs]
