"""The books of an open sweep: what becomes of its jobs goes into their folders, to MLflow's courier and
to the terminal."""

import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from rnnbench import tasks, terminal
from rnnbench.config import Config, ConfigError, Select, imported, objective, trial_hash
from rnnbench.config.uris import ui_command
from rnnbench.mlflow_sync.courier import Courier
from rnnbench.record import JobFolder, SweepFolder, previous, provenance, read_metrics, results, sync_command
from rnnbench.system.files import NO_SPACE, Damaged, set_aside

if TYPE_CHECKING:
    from rnnbench.train.stack import Checkpoint, Outcome, Slot


P = ParamSpec("P")
HASTE = 5.0  # seconds that the last deliveries have where someone waits for the end
CHECKPOINT_SECONDS = 60.0  # between two checkpoints of a trial, unless fit.checkpoint_every says else


@dataclass
class Job:
    """One trial to be trained, and where its record goes."""

    name: str
    config: Config
    folder: Path
    prepare: Callable[[], None] = lambda: None  # makes the folder's other files, just before it starts
    named: Callable[[int], str] = str  # the name of its folder, if it gets this number
    number: int | None = None  # in its sweep; None: its folder says it
    started: Callable[[], None] = lambda: None  # is called when its record begins, or goes on
    ended: Callable[[str], None] = lambda status: None  # is called once its record has ended
    tags: dict[str, str] = field(default_factory=dict)  # for its record, besides where it comes from
    watch: "Callable[[Slot], None] | None" = None  # is given its slot after every evaluation
    pruned: bool = False  # whoever watches it has seen enough
    record: JobFolder | None = None  # while it trains
    held: "Checkpoint | None" = None  # where it goes on from, while it is in no stack
    saved: float = 0.0  # when its checkpoint was written, on the monotonic clock
    value: float | None = None  # of the objective, once finished
    error: str | None = None  # why it failed
    label: str | None = None  # what tells it from the other jobs of its sweep

    @property
    def title(self) -> str:
        """What the terminal calls it: in a sweep its number, which is that of its folder, and its label."""
        return self.name if self.label is None else f"{self.folder.name} {self.label}"


def _unless_deleted(
    write: "Callable[Concatenate[Sweep, Job, P], None]",
) -> "Callable[Concatenate[Sweep, Job, P], None]":
    """Writing to a job's folder, whose deletion meanwhile costs this job alone."""

    @wraps(write)
    def guarded(sweep: "Sweep", job: Job, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if job.record is None:  # lost already
            return
        try:
            write(sweep, job, *args, **kwargs)
        except FileNotFoundError:
            if job.folder.exists():
                raise
            sweep.lose(job)

    return guarded


@dataclass
class Sweep:
    """An open sweep folder: its records, and their courier to MLflow."""

    folder: Path
    records: SweepFolder | None  # None in a process that works for the one that holds the folder
    courier: Courier | None
    live: terminal.Live | None = None
    interrupted: bool = False
    lock: RLock = field(default_factory=RLock)  # held by whoever writes records or to the terminal
    compared: bool = True  # whether its table compares all trials
    given: dict[Path, Sequence[str]] = field(default_factory=dict)  # overrides of its jobs, by folder
    traces: set[str] = field(default_factory=set)  # the tracebacks that were printed

    def begin(self, job: Job, fresh: "Checkpoint") -> "Checkpoint":
        """A job has its place in a stack: its record begins, or goes on. Where the trial is to start from.

        Args:
            fresh: the trial before its first epoch.
        """
        from rnnbench.train import snapshot as checkpoint

        trial = job.held or fresh
        file = job.folder / checkpoint.FILE
        if job.record is None and os.path.lexists(file):
            try:
                trial = checkpoint.load(job.folder, fresh, self._made_by(job))
                if previous(job.folder) is None or not _recorded(job.folder, trial.slot.epoch):
                    raise checkpoint.Unusable("has epochs that are not recorded")
            except checkpoint.Unusable as error:
                set_aside(Damaged(file, str(error)), "the trial starts over")
                trial = fresh
        if job.record is None:
            self.start(job, trial.slot.epoch)
        job.held, job.saved = trial, time.monotonic()
        return trial

    def start(self, job: Job, epochs: int = 0) -> None:
        """The record of a job begins, or goes on after so many epochs."""
        from rnnbench.kernels import kernel_name

        job.prepare()
        task = tasks.load(job.config.data)
        tags = provenance(job.config.fit.device) | {"rnnbench.kernel": kernel_name(job.config)} | job.tags
        tags |= {f"rnnbench.import.{name}": digest for name, digest in imported(job.config).items()}
        if epochs:
            before = previous(job.folder)
            earlier = before["tags"].get("rnnbench.resumed", "") if before else ""
            tags["rnnbench.resumed"] = f"{earlier} {epochs}".strip()  # after which epochs
        job.record = JobFolder.start(
            job.folder,
            name=job.name,
            config=job.config,
            trial=self._made_by(job)["trial"],
            dataset={"name": job.config.data.name, "checksum": task.checksum, "details": task.details},
            tags=tags,
            keep=epochs,
        )
        job.started()

    def _made_by(self, job: Job) -> dict[str, str]:
        """What a checkpoint of a job has to agree with: other kernels round differently."""
        from rnnbench.kernels import kernel_name

        trial = trial_hash(job.config, tasks.load(job.config.data).checksum)
        return {"trial": trial, "kernel": kernel_name(job.config)}

    @_unless_deleted
    def checkpoint(self, job: Job, trial: "Checkpoint") -> None:
        """Keep where a job is between two epochs, if it is time to."""
        every, now = job.config.fit.checkpoint_every, time.monotonic()
        if trial.slot.epoch % every == 0 if every else now - job.saved > CHECKPOINT_SECONDS:
            self._keep(job, trial)
            job.saved = now

    def _keep(self, job: Job, trial: "Checkpoint") -> None:
        from rnnbench.train.snapshot import save

        save(job.folder, trial, self._made_by(job))

    @_unless_deleted
    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        """A job has done an epoch."""
        assert job.record is not None and self.live is not None
        job.record.epoch(epoch, metrics)
        self._changed(job)
        split, _, name = objective(job.config).removeprefix("best/").partition("_")
        watched = f"{split}/{name}"
        self.live.epoch(1, [metrics[watched]] if watched in metrics else [])
        shown = dict.fromkeys(["train/loss", f"{split}/loss", watched])
        self.live.alone(epoch, job.config.fit.epochs, {key: metrics[key] for key in shown if key in metrics})

    @_unless_deleted
    def finish(self, job: Job, outcome: "Outcome") -> None:
        """A job has its final figures."""
        from rnnbench.train.snapshot import serialized

        task = tasks.load(job.config.data)
        assert job.record is not None
        job.record.write_network(
            serialized({"parameters": outcome.weights.clone()}),  # a view takes its stack along
            {"input_size": task.input_size, "outputs": task.outputs, "goal": task.goal.value},
        )
        if outcome.confusion is not None:
            job.record.write_confusion(outcome.confusion.tolist())
        if outcome.by_length is not None:
            job.record.write_lengths(outcome.by_length.tolist())
        goal, slot = objective(job.config), outcome.slot
        job.value = outcome.metrics[goal]
        value = f"{terminal.title(goal)} {terminal.number(goal, job.value)}"
        line = f"{value} at epoch {slot.best_epoch} of {slot.epoch}"
        self._end(job, "finished", line, metrics=outcome.metrics)

    @_unless_deleted
    def prune(self, job: Job, best: dict[str, float]) -> None:
        """A job was stopped, since the search expects no more of it.

        Args:
            best: the best value so far of each thing that an evaluation measures.
        """
        assert job.record is not None
        goal = objective(job.config)
        name = goal.partition("_")[2]
        reached = (
            f", {terminal.title(goal)} {terminal.number(goal, best[name])} so far" if name in best else ""
        )
        self._end(job, "pruned", f"pruned at epoch {job.record.result['epochs']}{reached}")

    def fail(self, job: Job, message: str, error: Exception | None = None) -> None:
        """A job has no result."""
        if job.record is None:
            self.start(job)
        job.error = message
        trace = "".join(traceback.format_exception(error)) if error else None
        self._end(job, "failed", f"failed: {message}; {job.folder}", error=message, trace=trace)
        if trace and trace not in self.traces:  # the trials of a stack often fail for the same reason
            self.traces.add(trace)
            terminal.complain(trace)

    @_unless_deleted
    def _end(
        self,
        job: Job,
        status: str,
        line: str,
        *,
        metrics: dict[str, float] | None = None,
        error: str | None = None,
        trace: str | None = None,
    ) -> None:
        from rnnbench.train.snapshot import FILE

        assert job.record is not None
        job.record.end(status, metrics or {}, error=error, traceback=trace)
        (job.folder / FILE).unlink(missing_ok=True)
        self._changed(job)
        left = job.config.fit.epochs - job.record.result["epochs"]
        if self.live is not None:
            self.live.end(f"{job.title}: {line}", left, failed=error is not None)
        job.record = None
        job.ended(status)

    @_unless_deleted
    def interrupt(self, job: Job) -> None:
        """A job is left where it is: what it holds is kept."""
        assert job.record is not None
        if job.held is not None and job.held.slot.epoch and not job.held.slot.diverged:
            self._keep(job, job.held)
        job.record.end("interrupted", {})
        self._changed(job)
        job.record = None
        job.ended("interrupted")

    def lose(self, job: Job) -> None:
        """A job's folder was deleted while it trained: there is nothing to write to."""
        assert self.live is not None
        job.error = f"{job.folder} was deleted while it trained; the same command trains it again"
        self.live.end(f"{job.title}: failed: {job.error}", job.config.fit.epochs, failed=True)
        job.record = None
        job.ended("failed")

    def _changed(self, job: Job) -> None:
        if self.courier is not None:
            self.courier.changed(job.folder)

    def finished(self, job: Job) -> bool:
        """Whether the job's folder holds the finished record of this very trial; then takes its value.

        Raises:
            ConfigError: the folder holds another trial.
        """
        result = previous(job.folder)
        if result is None:
            return False
        trial = trial_hash(job.config, tasks.load(job.config.data).checksum)
        if result["trial"] != trial:
            raise ConfigError(
                f"hydra.sweep.dir={self.folder}: {job.folder} holds another trial ({result['name']}); "
                "give a new folder"
            )
        if result["status"] != "finished":
            return False
        goal = objective(job.config)
        if goal not in result["metrics"]:
            file = job.folder / "result.json"
            set_aside(Damaged(file, f"is damaged: it has no {goal}"), "the trial is trained again")
            return False
        job.value = result["metrics"][goal]
        return True

    def place(self, jobs: Sequence[Job], first: int, promised: dict[str, list[Path]] | None = None) -> None:
        """Give each job its folder: that of the same trial if it is there, else the next free number.

        Args:
            promised: folders by trial hash that no record is in yet.
        """
        there = self.records.trials() if self.records is not None else {}
        kept = results(self.folder) if there else {}
        recorded = {result["dataset"]["checksum"] for result in kept.values()}
        for trial, folders in (promised or {}).items():
            known = there.setdefault(trial, [])
            known += [folder for folder in folders if folder not in known]
        taken = {path.name for paths in there.values() for path in paths}
        number = first
        for position, job in enumerate(jobs, first):
            checksum = tasks.load(job.config.data).checksum
            for other in recorded - {checksum}:
                if trial_hash(job.config, other) in there:
                    raise ConfigError(
                        f"hydra.sweep.dir={self.folder}: data={job.config.data.name} is not what it was when "
                        f"these were trained: its checksum was {other[:16]}, and is {checksum[:16]}; bring "
                        "the old files back, or give a new folder"
                    )
            same = there.get(trial_hash(job.config, checksum))
            if same:
                job.folder = same.pop(0)
                job.number = _number(job, position, first + len(taken) + len(jobs))
                continue
            while (name := job.named(number)) in taken or _in_the_way(self.folder / name):
                if job.named(number + 1) == name:
                    raise ConfigError(
                        f"hydra.sweep.subdir={name}: holds another trial; give a new hydra.sweep.dir, or "
                        "have ${hydra.job.num} in the name"
                    )
                number += 1
            taken.add(name)
            job.folder, job.number = self.folder / name, number
            number += 1


def _number(job: Job, position: int, numbers: int) -> int:
    """The number that gives a job the folder in which its trial was found; where none does, its position."""
    name = job.folder.name
    if job.named is str:
        return int(name) if name.isdecimal() else position
    return next((n for n in (position, *range(numbers)) if job.named(n) == name), position)


def close(sweep: Sweep, config: Config, error: BaseException | None) -> None:
    """The end of a sweep: its table, the last deliveries, where the records are.

    Args:
        error: what ended it before its time.
    """
    assert sweep.records is not None
    interrupted = isinstance(error, KeyboardInterrupt)
    if isinstance(error, OSError) and error.errno in NO_SPACE:  # nothing more can be written
        if sweep.courier is not None:
            sweep.courier.close(HASTE)
        return
    there = results(sweep.folder)
    folders, ended = list(there), list(there.values())
    # A search goes on without a trial that fails, and has ended well where a comparison has not.
    failed = error is not None or (sweep.compared and any(result["status"] == "failed" for result in ended))
    if ended:
        goal = terminal.judge(objective(config), ended)
        comparison = terminal.compare(ended, goal)
        comparison.save(sweep.folder)
        if sweep.compared:
            whole = os.path.relpath(sweep.folder / "comparison.md")
            comparison.print(terminal.legend(comparison, goal), whole)
            _say_best(goal, folders, ended, sweep.given)
    if config.fit.select is Select.test:
        terminal.say("This protocol watches the test set: its accuracies are optimistic.", "yellow")
    sweep.records.end("interrupted" if interrupted else "failed" if failed else "finished")
    terminal.say(f"records: {os.path.relpath(sweep.folder)}")
    if sweep.courier is not None:
        left = sweep.courier.close(*[HASTE] if interrupted else [])
        if left:
            terminal.warn(
                f"{left} of {len(ended)} trials are not in MLflow yet: {sync_command(sweep.folder)}"
            )
        elif str(config.tracking.uri).startswith("sqlite"):
            terminal.say(f"compare: {ui_command(str(config.tracking.uri))}")
        else:
            terminal.say(f"compare: {config.tracking.uri}")


def _say_best(
    goal: str | None,
    folders: Sequence[Path],
    results: Sequence[dict[str, Any]],
    given: dict[Path, Sequence[str]],
) -> None:
    """The best trial of a grid: its value, its folder, the command that trains it again.

    Args:
        given: overrides by folder, of the jobs of this command. What a file in a folder says of others is
            not printed ready to paste: somebody else may have written it.
    """
    values = [result["metrics"].get(goal, math.nan) for result in results]
    best = terminal.chosen(values, goal) if goal is not None else []
    if goal is None or not best:
        return
    folder, value = folders[best[0]], terminal.number(goal, values[best[0]])
    terminal.say(
        f"best: trial {folder.name}, {terminal.title(goal)} {value}; {os.path.relpath(folder)}", "bold"
    )
    if folder in given:
        terminal.say(f"  {terminal.train_command(given[folder])}")


def _in_the_way(folder: Path) -> bool:
    """Whether something that is no folder has the name of one."""
    return os.path.lexists(folder) and not folder.is_dir()


def _recorded(folder: Path, epochs: int) -> bool:
    """Whether metrics.csv has the rows of so many epochs."""
    try:
        rows = read_metrics(folder)
    except Damaged as error:
        set_aside(error, "the trial starts over")
        return False
    return [row["epoch"] for row in rows[:epochs]] == list(range(1, epochs + 1))
