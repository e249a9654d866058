"""Defines the places that records are read from, by trial hash or by search; job folders are one of them."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.record.job_folder import (
    ROW,
    read_classes,
    read_confusion,
    read_delivery,
    read_metrics,
    read_result,
)
from rnnbench.record.sweep_folder import read_sweep, status_now
from rnnbench.system.files import read, sound

TRIAL = re.compile(r'"trial": "([0-9a-f]+)"')
STUDY = re.compile(r'"rnnbench.study": "([^"]*)"')
# Tags of a run in MLflow that a record has as fields.
FIELDS = {
    f"rnnbench.{name}" for name in ("trial", "job", "error", "folder", "attempt", "unset", "sweep_name")
}
STATE = {"rnnbench.status", "rnnbench.last_epoch"}  # tags that say how far a trial was trained


@dataclass
class Record:
    """The record of a job, from its folder or from MLflow; params and folder do not count for equality."""

    trial: str
    job: str  # identity of the job, the same in its folder and in MLflow
    name: str
    status: str
    started: int  # ms since 1970
    ended: int | None
    run_id: str | None  # id of MLflow's run
    parent: str | None  # id of MLflow's run of the sweep
    metrics: dict[str, float]  # the last value of a metric that is measured every epoch
    tags: dict[str, str]
    error: str | None
    params: dict[str, Any] = field(compare=False)  # by dotted name; {} where a source leaves them out
    folder: Path = field(compare=False)  # its job folder, which may be another machine's

    @property
    def origin(self) -> dict[str, str]:
        """The tags of rnnbench that say where the numbers come from, without those of the job's state."""
        return {k: v for k, v in self.tags.items() if k.startswith("rnnbench.") and k not in STATE}


@dataclass(frozen=True)
class SearchRecord:
    """The result of a finished search."""

    study: str
    command: str  # the command that trains the best trial
    winner: str  # number of the best trial
    metrics: dict[str, float]  # study/complete, study/importance/KEY, ...
    run_id: str | None


class Source(ABC):
    """A place where records are read; `name` is what the user calls it."""

    name: str

    @abstractmethod
    def all(self) -> list[Record]:
        """Read all runs with their params, in order of their start."""

    @abstractmethod
    def find(self, trials: Iterable[str]) -> list[Record]:
        """Read all runs of these trials, by trial hash, in order of their start; params may be left out."""

    @abstractmethod
    def of_study(self, study: str) -> list[Record]:
        """Read all runs that a search has trained, with their params, in order of their start."""

    @abstractmethod
    def searches(self) -> dict[str, SearchRecord]:
        """Read the finished searches by name; of several with the same name, the last one."""

    @abstractmethod
    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        """Read a metric of a run by epoch: pairs of an epoch and its value."""


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sort records by start; those that started in the same millisecond by identity."""
    return sorted(records, key=lambda record: (record.started, record.job))


def once(records: Sequence[Record]) -> list[Record]:
    """Leave out records that were reused from one that is there, since they are the same training.

    Of copies of a record that is not there, the first stays.
    """
    jobs = {record.job for record in records}
    kept: dict[str, Record] = {}
    for record in records:
        origin = record.tags.get("rnnbench.reused", record.job)
        if origin == record.job or origin not in jobs:
            kept.setdefault(origin, record)
    return list(kept.values())


def search_record(tags: dict[str, str], metrics: dict[str, float], run_id: str | None) -> SearchRecord:
    """Make a SearchRecord from the tags and metrics of its sweep."""
    names = {name: value for name, value in metrics.items() if name.startswith("study/")}
    study, command, winner = (tags[f"rnnbench.{key}"] for key in ("study", "best_command", "best_trial"))
    return SearchRecord(study, command, winner, names, run_id)


class Folders(Source):
    """Reads the job folders that are anywhere below a folder. A damaged one is skipped with a warning.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(
                f"source={folder}: no such folder; give one with job folders in it, or an MLflow URI"
            )
        self.folder = folder
        self.name = str(folder)

    @cached_property
    def _index(self) -> list[tuple[str, str | None, Path]]:
        """Trial hash, study and folder of every job. A damaged file that names neither is skipped."""
        found = []
        for job, text in sound(self.folder.rglob("result.json"), lambda file: (file.parent, read(file))):
            trial, study = TRIAL.search(text), STUDY.search(text)
            if trial is not None:
                found.append((trial[1], study[1] if study else None, job))
        return found

    def all(self) -> list[Record]:
        jobs = [file.parent for file in sorted(self.folder.rglob("result.json"))]
        return in_order(replace(record, folder=record.folder.resolve()) for record in sound(jobs, _read))

    def find(self, trials: Iterable[str]) -> list[Record]:
        wanted = set(trials)
        return in_order(sound([job for trial, _, job in self._index if trial in wanted], _read))

    def of_study(self, study: str) -> list[Record]:
        return in_order(sound([job for _, name, job in self._index if name == study], _read))

    def searches(self) -> dict[str, SearchRecord]:
        found = {}
        sweeps = [file.parent for file in sorted(self.folder.rglob("sweep.json"))]
        for sweep, info in sound(sweeps, lambda sweep: (sweep, read_sweep(sweep))):
            # A search without this tag has no command that is safe to paste, so tables leave it out.
            if "rnnbench.best_command" in info.get("study", {}).get("tags", {}):
                run = read_delivery(sweep).get("run_id")
                search = search_record(info["study"]["tags"], info["study"]["metrics"], run)
                found[search.study] = search
        return found

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        return [(row["epoch"], row[metric]) for row in read_metrics(record.folder) if metric in row]


def _read(job: Path) -> Record:
    """Read the record in a job folder.

    Raises:
        FileNotFoundError: the record has been deleted.
        DamagedFile: one of its files is damaged.
    """
    result = read_result(job)
    epochs = {name: value for row in read_metrics(job) for name, value in row.items() if name not in ROW}
    return Record(
        trial=result["trial"],
        job=result["job"],
        name=result["name"],
        status=status_now(result, job),
        started=result["started"],
        ended=result["ended"],
        run_id=read_delivery(job).get("run_id"),
        parent=read_delivery(job.parent).get("run_id"),
        metrics=epochs | result["metrics"],
        params=result["params"],
        tags=result["tags"] | {"rnnbench.data": result["dataset"]["checksum"]},
        error=result["error"],
        folder=job,
    )


def confusion(record: Record) -> list[list[int]]:
    """Read the confusion matrix of a run: counts (true class, predicted class).

    Raises:
        ConfigError: its job folder is not here, or its task has no classes.
    """
    return read_confusion(_with_confusion(record))


def classes(record: Record) -> list[str]:
    """Read the names of a run's classes, in the order of `confusion`; their numbers without names.

    Raises:
        ConfigError: as `confusion`.
    """
    return read_classes(_with_confusion(record))


def _with_confusion(record: Record) -> Path:
    """Return the job folder of a run that has a confusion matrix."""
    file = record.folder / "confusion.csv"
    # The job may have been trained again since, with other counts.
    if not file.exists() or read_result(record.folder)["job"] != record.job:
        raise ConfigError(
            f"figures: the confusion matrix of run {record.job} needs its job folder, which is not here; "
            "give source=FOLDER"
        )
    return record.folder
