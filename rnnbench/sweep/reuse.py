"""Finds a finished record of a job's trial before it trains, and uses it: nothing is trained twice.

A record is used if it is whole, has the job's objective, and was made by what would train the job now, see
`rnnbench.record.same_numbers`. Where there is none, the job goes on from the same trial with fewer epochs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rnnbench import tasks
from rnnbench.config import Config, Reuse, mask, objective, trial_hash
from rnnbench.config.uris import absolute, sqlite_file
from rnnbench.job_state import JobState
from rnnbench.kernels import kernel_name
from rnnbench.kernels.gpu import cards
from rnnbench.nn.optimisers import learning_rate
from rnnbench.reader import Record, Source, once, open_source
from rnnbench.record import (
    begin_from,
    copy_record,
    is_job,
    is_whole,
    provenance,
    read_result,
    same_numbers,
    write_copy,
)
from rnnbench.record.index import Index, roots
from rnnbench.sweep import snapshots
from rnnbench.sweep.job import Job
from rnnbench.sweep.placing import take_finished
from rnnbench.system.files import DamagedFile, together, warn
from rnnbench.train import snapshot

FINAL = ("best/", "test/", "parameters/", "time/")  # beginnings of the metrics that are measured at the end


@dataclass
class Taken:
    """What became of jobs that were looked up."""

    todo: list[Job]  # those that have to train
    finished: int = 0  # number of those that had their record in their own folders
    reused: dict[Job, Path] = field(default_factory=dict)  # those whose record was found, and where
    shorter: Counter[str] = field(default_factory=Counter)  # why trials with fewer epochs were of no use

    def lines(self) -> Iterator[str]:
        """Generate the lines that say what was reused, and what could not be."""
        if self.reused:
            sweeps = len({origin.parent for origin in self.reused.values()})
            where = next(iter(self.reused.values()))
            place = str(where if len(self.reused) == 1 else where.parent)
            more = f" and {sweeps - 1} more" if sweeps > 1 else ""
            count, all = len(self.reused), len(self.reused) + len(self.todo) + self.finished
            yield (
                f"{count} of {all} trials {'is' if count == 1 else 'are'} trained already, and reused from "
                f"{place}{more}; reuse=none trains again"
            )
        for why, count in self.shorter.items():
            yield (
                f"{count} {'trial' if count == 1 else 'trials'} with records of fewer epochs "
                f"train from the start: {why}"
            )


class Library:
    """The records in which the trials of a sweep are looked up.

    Args:
        folder: the sweep folder.
        config: of any of the sweep's jobs.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        places: list[tuple[Path, int]] = []
        if config.reuse is Reuse.sweep:
            places = [(folder.resolve(), 0)]
        elif config.reuse is not Reuse.none:
            places = roots(folder)
        self.store = config.tracking.uri if config.reuse is Reuse.store else None
        self.indexes = [Index(*place) for place in places]
        self.ended: dict[str, Path] = {}  # folders of jobs that this process has finished, by trial hash

    def take(self, sweep: Any, jobs: Sequence[Job]) -> Taken:
        """Give each job whose trial is finished somewhere its record and its value.

        Args:
            sweep: the open sweep.

        Raises:
            ConfigError: a job's folder holds another trial.
        """
        todo = take_finished(jobs)
        taken = Taken(todo, len(jobs) - len(todo))
        if self.indexes and todo:
            for index in self.indexes:
                index.refresh()
            with together():
                taken.reused = {job: origin for job in todo if (origin := self._copy(job)) is not None}
                if self.store is not None:
                    self._copy_runs([job for job in todo if job not in taken.reused], taken)
            taken.todo = [job for job in todo if job not in taken.reused]
            for job in taken.reused:
                snapshots.drop(job)
                job.become(JobState.finished)
                sweep.recorder.changed(job)
            for job in taken.todo:
                if not is_job(job.folder) and (why := self._go_on(job)):
                    taken.shorter[why] += 1
        for job in jobs:
            if job.watch and job.state is JobState.finished:
                job.watch.known(job)
        return taken

    def add(self, jobs: Iterable[Job]) -> None:
        """Note which of these jobs have finished."""
        self.ended |= {job.trial: job.folder for job in jobs if job.state is JobState.finished}

    def _find(self, trial: str) -> Iterator[Path]:
        if self.indexes and trial in self.ended:
            yield self.ended[trial]
        for index in self.indexes:
            yield from index.find(trial)

    def _copy(self, job: Job) -> Path | None:
        """Copy a finished record of a job's trial to its folder; return where it was, or None if nowhere."""
        for origin, result in self._sound(job.trial, job.config):
            if objective(job.config) not in result["metrics"] or origin == job.folder.resolve():
                continue
            if not is_whole(origin, result):
                warn(DamagedFile(origin, "its record is not whole"), "its trial is trained again")
                continue
            job.prepare()
            copy_record(origin, result, job.folder, name=job.name, config=job.config, tags=job.tags)
            job.value = result["metrics"][objective(job.config)]
            return origin
        return None

    def _copy_runs(self, jobs: Sequence[Job], taken: Taken) -> None:
        """Copy the runs of finished trials from the tracking store to the folders of their jobs.

        They have no weights, which are in the folders that trained them.
        """
        assert self.store is not None
        file = sqlite_file(self.store)
        if not jobs or (file is not None and not file.exists()):
            return
        source = open_source(self.store)
        found: dict[str, Record] = {}
        for record in once(source.find(job.trial for job in jobs)):
            if record.status == JobState.finished:
                found[record.trial] = record
        for job in jobs:
            run = found.get(job.trial)
            if run is None or objective(job.config) not in run.metrics:
                continue
            if same_numbers(run.tags, made_by(job.config)):
                job.prepare()
                copy_run(job, source, run, absolute(self.store))
                job.value = run.metrics[objective(job.config)]
                taken.reused[job] = Path(f"{mask(self.store)}/{run.run_id}")

    def _sound(self, trial: str, config: Config) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Generate the finished records of a trial whose numbers are those that it would have now."""
        for origin in self._find(trial):
            try:
                result = read_result(origin)
            except FileNotFoundError:
                continue
            except DamagedFile as error:
                warn(error, "its trial is trained again")
                continue
            finished = result["status"] == JobState.finished and result["trial"] == trial
            if finished and same_numbers(result["tags"], made_by(config)):
                yield origin, result

    def _go_on(self, job: Job) -> str | None:
        """Let a job go on from its trial with fewer epochs, if that is recorded; return why it cannot."""
        config, why = job.config, None
        for epochs in sorted({e for index in self.indexes for e in index.epochs}, reverse=True):
            if epochs >= config.fit.epochs:
                continue
            shorter = replace(config, fit=replace(config.fit, epochs=epochs))
            trial = trial_hash(shorter, tasks.load(config.data).checksum)
            for origin, result in self._sound(trial, shorter):
                why = other_numbers(config, shorter)
                if why is None and not (origin / snapshot.LAST).exists():
                    why = "no checkpoint of their last epoch was kept, which fit.checkpoint_every does"
                if why is not None:
                    continue
                try:
                    job.folder.mkdir(parents=True, exist_ok=True)
                    snapshots.go_on_from(job, origin)
                except snapshot.Unusable as error:
                    why = f"{origin / snapshot.LAST} {error}"
                    continue
                begin_from(origin, result, job.folder, trial=job.trial, tags=job.tags)
                job.tags = job.tags | {"rnnbench.continues": result["job"]}
                return None
        return why


def copy_run(job: Job, source: Source, run: Record, store: str) -> None:
    """Write a run of the tracking store to a job's folder: its numbers and its curves."""
    final = {name for name in run.metrics if name.startswith(FINAL)}
    rows: dict[int, dict[str, Any]] = {}
    for name in run.metrics:
        if name not in final:
            for epoch, value in source.curve(run, name):
                rows.setdefault(epoch, {"epoch": epoch, "timestamp_ms": run.ended})[name] = value
    task = tasks.load(job.config.data)
    result = {
        "format": 1,
        "status": JobState.finished.value,
        "trial": job.trial,
        "metrics": {name: run.metrics[name] for name in final},
        "tags": run.tags,
        "started": run.started,
        "ended": run.ended,
        "epochs": max(rows, default=0),
        "error": None,
        "traceback": None,
        "dataset": {"name": job.config.data.name, "checksum": task.checksum, "details": task.details},
    }
    where = {"job": run.job, "folder": str(run.folder), "run_id": str(run.run_id), "store": store}
    curves = [rows[epoch] for epoch in sorted(rows)]
    write_copy(job.folder, result, curves, name=job.name, config=job.config, tags=job.tags, source=where)


def other_numbers(config: Config, shorter: Config) -> str | None:
    """Say why a trial's first epochs are not those of the same trial with fewer epochs; None if they are."""
    fit, less = config.fit, shorter.fit
    rates = [[learning_rate(1.0, each, epoch, 1.0) for epoch in range(less.epochs)] for each in (fit, less)]
    if rates[0] != rates[1]:
        return (
            f"fit.schedule={fit.schedule.value} makes the learning rates of all epochs depend on fit.epochs"
        )
    if less.epochs % fit.evaluate_every:
        every = fit.evaluate_every
        return f"fit.evaluate_every={every} leaves out their last evaluation, of epoch {less.epochs}"
    return None


def made_by(config: Config) -> dict[str, str]:
    """Return the tags that a record of this trial would have if it were trained now, on this machine.

    Where the machine lacks the card there are none, so that no record is taken for one of the card.
    """
    fit = config.fit
    if fit.device != "cpu" and not cards.count():
        return {}
    tags = provenance(fit.device) | {"rnnbench.kernel": kernel_name(config)}
    return tags | cards.tags(fit.device, fit.precision.value)
