"""Assigns folders to a sweep's jobs, and finds those that are finished already."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnbench import tasks
from rnnbench.config import ConfigError, objective, trial_hash
from rnnbench.job_state import JobState
from rnnbench.record import previous
from rnnbench.sweep.job import Job
from rnnbench.system.files import DamagedFile, set_aside


def take_finished(jobs: Sequence[Job]) -> list[Job]:
    """Set the value of each job whose folder holds a finished record of its trial; return the other jobs.

    Raises:
        ConfigError: a folder holds another trial.
    """
    return [job for job in jobs if not _take_finished(job)]


def _take_finished(job: Job) -> bool:
    result = previous(job.folder)
    if result is None:
        return False
    if result["trial"] != job.trial:
        raise ConfigError(
            f"hydra.sweep.dir={job.folder.parent}: {job.folder} holds another trial ({result['name']}); "
            "give a new folder"
        )
    if result["status"] != JobState.finished:
        return False
    goal = objective(job.config)
    if goal not in result["metrics"]:
        file = job.folder / "result.json"
        set_aside(DamagedFile(file, f"is damaged: it has no {goal}"), "the trial is trained again")
        return False
    job.value = result["metrics"][goal]
    job.become(JobState.finished)
    return True


def place(
    jobs: Sequence[Job],
    folder: Path,
    recorded: dict[Path, dict[str, Any]],
    *,
    first: int,
    promised: dict[str, list[Path]] | None = None,
) -> None:
    """Give each job its folder: that of the same trial if it exists, else the next free number.

    Args:
        folder: the sweep folder.
        recorded: the contents of result.json, by job folder.
        first: the first number.
        promised: folders, by trial hash, that other processes train in and may not have recorded yet.

    Raises:
        ConfigError: the data has changed since trials in the folder were trained, or a folder name that does
            not depend on the number is taken.
    """
    there: dict[str, list[Path]] = {}
    for path, result in recorded.items():
        there.setdefault(result["trial"], []).append(path)
    for trial, folders in (promised or {}).items():
        known = there.setdefault(trial, [])
        known += [path for path in folders if path not in known]
    taken = {path.name for paths in there.values() for path in paths}
    checksums = {result["dataset"]["checksum"] for result in recorded.values()}
    number = first
    for position, job in enumerate(jobs, first):
        _check_data(job, folder, checksums, there)
        if same := there.get(job.trial):
            job.folder = same.pop(0)
            job.number = _number(job, position, first + len(taken) + len(jobs))
            continue
        name, number = _free(job, folder, taken, number)
        job.folder, job.number = folder / name, number
        taken.add(name)
        number += 1


def _check_data(job: Job, folder: Path, checksums: set[str], there: dict[str, list[Path]]) -> None:
    """Refuse data that has changed since the same trial was trained in the folder.

    Raises:
        ConfigError: names both checksums.
    """
    if not checksums:
        return
    checksum = tasks.load(job.config.data).checksum
    for other in checksums - {checksum}:
        if trial_hash(job.config, other) in there:
            raise ConfigError(
                f"hydra.sweep.dir={folder}: data={job.config.data.name} is not what it was when "
                f"these were trained: its checksum was {other[:16]}, and is {checksum[:16]}; bring "
                "the old files back, or give a new folder"
            )


def _free(job: Job, folder: Path, taken: set[str], number: int) -> tuple[str, int]:
    """Return the name and number of the first free folder, from this number on.

    Raises:
        ConfigError: all numbers give the job the same folder, and it is taken.
    """
    while (name := job.named(number)) in taken or _in_the_way(folder / name):
        if job.named(number + 1) == name:
            raise ConfigError(
                f"hydra.sweep.subdir={name}: holds another trial; give a new hydra.sweep.dir, or "
                "have ${hydra.job.num} in the name"
            )
        number += 1
    return name, number


def _number(job: Job, position: int, numbers: int) -> int:
    """Return the number whose folder is the one where a job's trial was found, else the job's position."""
    name = job.folder.name
    if job.named is str:
        return int(name) if name.isdecimal() else position
    return next((n for n in (position, *range(numbers)) if job.named(n) == name), position)


def _in_the_way(folder: Path) -> bool:
    """Return whether something other than a folder has this name."""
    return os.path.lexists(folder) and not folder.is_dir()
