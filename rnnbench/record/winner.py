"""Prints the command that trains the winner of a sweep again: python -m rnnbench.record best FOLDER."""

import os
import shlex
import statistics
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError, identifies
from rnnbench.job_state import JobState
from rnnbench.record.job_folder import read_overrides
from rnnbench.record.progress import Cell, JobNow, Reader, SweepNow
from rnnbench.record.show import label, of_what
from rnnbench.record.sweep_folder import find
from rnnbench.system.files import DamagedFile
from rnnbench.terminal import complain, mean_sd, say, title, train_command, under_folds

COMMAND = ["python", "-m", "rnnbench"]


def best(folder: Path) -> int:
    """Print the command on stdout, and on stderr what it trains.

    Args:
        folder: a sweep folder, or a folder with one sweep in it.

    Raises:
        ConfigError: there is no winner, or more than one sweep.
    """
    sweeps = find(folder)
    if not sweeps:
        raise ConfigError(f"no records in {folder}: it and the folders in it have no sweep.json")
    if len(sweeps) > 1:
        names = ", ".join(os.path.relpath(path) for path in sweeps[:3])
        raise ConfigError(f"{folder}: holds {len(sweeps)} sweeps; give one of them: {names}, ...")
    sweep = Reader().read(sweeps[0])
    for said in sweep.damaged:
        complain(f"left out: {said}", "yellow")
    study = sweep.info.get("study")
    if study is not None and sweep.status != JobState.running:
        say(_of_study(sweep, study))
        return 0
    cell = _winner(sweep)
    _explain(sweep, cell)
    say(train_command(_command(cell), sweep.info["command"]))
    return 0


def _of_study(sweep: SweepNow, study: dict[str, Any]) -> str:
    """Return the command of the winner that the search has reported."""
    command = study["tags"].get("rnnbench.best_command", "")
    words = shlex.split(command)
    number = study["tags"].get("rnnbench.best_trial", "?")
    if words[:3] != COMMAND:
        raise ConfigError(
            f"{sweep.folder}: the search has reported no command for its best trial, {number}; its folder "
            "has the configuration: config.yaml"
        )
    known = {k: v for k, v in study["metrics"].items() if k.startswith(("study/best/", "study/val/"))}
    values = ", ".join(f"{title(k.removeprefix('study/'))} {v:.4g}" for k, v in known.items())
    front = "the first of the front" if "," in number else "the best of the search"
    _note(sweep, f"trial {number}, {front}" + (f": {values}" if values else ""), words[3:])
    return shlex.join(words)


def _winner(sweep: SweepNow) -> Cell:
    """Return the best configuration of a grid, or the best suggestion of a search that has not ended.

    Raises:
        ConfigError: no trial has finished, or they cannot be compared.
    """
    found = sweep.best(final=True)
    if found is not None:
        return found
    if not any(job.state is JobState.finished for job in sweep.jobs):
        raise ConfigError(f"{sweep.folder}: no trial has finished; show it: {_show(sweep)}")
    if sweep.goal is None:
        raise ConfigError(
            f"{sweep.folder}: its trials are of several tasks or objectives, so none is the best of all; "
            f"show it: {_show(sweep)}"
        )
    raise ConfigError(f"{sweep.folder}: no trial has a finite {sweep.goal}; show it: {_show(sweep)}")


def _show(sweep: SweepNow) -> str:
    return f"python -m rnnbench.record show {shlex.quote(str(sweep.folder))}"


def _command(cell: Cell) -> list[str]:
    """Return the words that train the first finished job of a cell, under all the folds that its seed has.

    Raises:
        ConfigError: as `_overrides`.
    """
    words, first = _overrides(cell), _first(cell).params
    if first.get("data.folds") is None:
        return words
    mine = [job.params for job in cell.jobs if job.params["seed"] == first["seed"]]
    folds = sorted({params["data.fold"] for params in mine})
    return under_folds(words, folds, first["data.folds"]) if len(folds) > 1 else words


def _first(cell: Cell) -> JobNow:
    return next(job for job in cell.jobs if job.state is JobState.finished)


def _overrides(cell: Cell) -> list[str]:
    """Return the overrides of the first finished job of a cell.

    Raises:
        ConfigError: Hydra has left none in its folder, or one of them is a flag.
    """
    job = _first(cell)
    try:
        words = read_overrides(job.folder)
    except FileNotFoundError:
        raise ConfigError(
            f"{job.folder}: its overrides are not recorded (hydra.output_subdir=null, or rnnbench.run); its "
            "configuration is in config.yaml"
        ) from None
    if flag := next((word for word in words if word.startswith("-")), None):
        raise DamagedFile(job.folder / ".hydra" / "overrides.yaml", f"is damaged: {flag!a} is no override")
    return words


def _explain(sweep: SweepNow, cell: Cell) -> None:
    """Print on stderr which trial the command trains, and of how many its cell has the mean."""
    assert sweep.goal is not None
    job = _first(cell)
    value = f"{title(sweep.goal)} {mean_sd(cell.values, sweep.goal)}"
    name = f"trial {cell.number}" if cell.number is not None else label(sweep, cell)
    of = f"{name}: {value}" if name else value
    if len(cell.values) > 1:
        of += f", the mean of {of_what(cell)} ({statistics.fmean(cell.values):.6g})"
        of += "; the command trains the first"
    so_far = "" if sweep.status == JobState.finished else f", so far (the sweep is {sweep.status})"
    _note(sweep, f"{of}{so_far}; {os.path.relpath(job.folder)}", _overrides(cell))


def _note(sweep: SweepNow, which: str, words: list[str]) -> None:
    """Print on stderr what the command trains, and what is to be known before it is run."""
    complain(f"best: {which}")
    keys = [word.partition("=")[0].lstrip("+") for word in words]
    beside = [w for w, key in zip(words, keys, strict=True) if "." in key and not identifies(key)]
    beside += [word for word, key in zip(words, keys, strict=True) if key == "rnnbench_import"]
    if beside:
        complain(f"it imports code of your own, or says where to read and write: {' '.join(beside)}")
    complain("reuse=none trains it anew, where its record would be used")
