"""Opens a sweep: holds its folder, and at the end delivers the records and prints the table."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from rnnbench import terminal
from rnnbench.config import Config, ConfigError, Select, objective
from rnnbench.config.uris import ui_command
from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.courier import Courier
from rnnbench.record import SweepFolder, read_delivery, results, sync_command
from rnnbench.record.job_folder import now
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.reuse import Library
from rnnbench.system import signals
from rnnbench.system.files import NO_SPACE

OWNER = "RNNBENCH_SWEEP"  # environment variable: sweep folders that an ancestor process holds
OPEN: "dict[str, Sweep]" = {}  # the sweep folders that this process holds
HASTE = 5.0  # seconds for the last deliveries when the user has interrupted the sweep


@dataclass
class Sweep:
    """An open sweep folder with the recorder of its jobs."""

    folder: Path
    recorder: Recorder
    record: SweepFolder | None  # None if another process holds the folder
    library: Library  # the records in which its trials are looked up
    compared: bool = True  # whether its table compares all trials
    given: dict[Path, Sequence[str]] = field(default_factory=dict)  # overrides of its jobs, by folder

    @property
    def recorded(self) -> dict[Path, dict[str, Any]]:
        """The contents of result.json by job folder; {} if another process holds the sweep folder."""
        return {} if self.record is None else results(self.folder)

    def trials(self) -> set[str]:
        """Return the hashes of the trials that have a record in the folder."""
        return {result["trial"] for result in self.recorded.values()}

    def note_plan(self, **plan: Any) -> None:
        """Write to sweep.json how much there is to train, for `python -m rnnbench.record show`."""
        if self.record is not None:
            self.record.note(plan=plan | {"since": now()})


@contextmanager
def open_sweep(
    folder: Path, config: Config, name: str, *, single: bool, shared: bool = False, elsewhere: bool = False
) -> Iterator[Sweep]:
    """Hold a sweep folder while its jobs run; at the end deliver the records and print the table.

    The first to open it does this, be it a caller in this process or an ancestor process.

    Args:
        config: the config of any of its jobs.
        name: a readable name, for MLflow.
        single: whether it is a single run, which has no parent run in MLflow.
        shared: whether other processes that share it may hold it too.
        elsewhere: whether workers train its jobs, possibly already.

    Raises:
        ConfigError: the folder cannot be held, or has no room.
    """
    place = str(folder.resolve())
    if place in OPEN or place in os.environ.get(OWNER, "").split("\n"):
        with signals.listen():
            yield OPEN.get(place) or Sweep(folder, Recorder(), None, Library(folder, config))
        return
    claim = SweepFolder.claim(
        folder,
        name=name,
        command=sys.argv,
        tracking=config.tracking,
        single=single,
        shared=shared,
        elsewhere=elsewhere,
    )
    try:
        with signals.listen(), claim as record:
            courier = Courier(folder, terminal.warn) if config.tracking.uri is not None else None
            OPEN[place] = sweep = Sweep(folder, Recorder(courier), record, Library(folder, config))
            os.environ[OWNER] = "\n".join(OPEN)  # several if several threads train
            try:
                yield sweep
            finally:
                del OPEN[place]
                os.environ[OWNER] = "\n".join(OPEN)
                _close(sweep, record, config, sys.exc_info()[1])
    except OSError as error:
        if error.errno is None or error.errno not in NO_SPACE:
            raise
        key, reason = "hydra.run.dir" if single else "hydra.sweep.dir", os.strerror(error.errno).lower()
        raise ConfigError(
            f"{key}={folder}: {reason}; "
            "what is recorded so far is whole. Make room, and the same command goes on from there"
        ) from error


def _close(sweep: Sweep, record: SweepFolder, config: Config, error: BaseException | None) -> None:
    """End a sweep: save and print its table, record its end, deliver the remaining records to MLflow.

    Args:
        error: the error that ended it early; None: it ended by itself.
    """
    courier = sweep.recorder.courier
    if isinstance(error, OSError) and error.errno in NO_SPACE:  # nothing more can be written
        if courier is not None:
            courier.close(HASTE)
        return
    there = results(sweep.folder)
    if there:
        best = _compare(sweep, there, objective(config))
        if sweep.compared and not record.info["single"]:
            record.note(best=None if best is None else best.name)
    if config.fit.select is Select.test:
        terminal.say("This protocol watches the test set: its accuracies are optimistic.", "yellow")
    # A failed trial fails a grid, but not a search, which does without it.
    lost = sweep.compared and any(result["status"] == JobState.failed for result in there.values())
    state = JobState.failed if lost or error is not None else JobState.finished
    interrupted = isinstance(error, KeyboardInterrupt)
    if reused := sum("reused" in result for result in there.values()):
        terminal.say(
            f"{reused} of {len(there)} trials were reused: each says in its folder from which record"
        )
        record.note(reused=reused)
    record.end((JobState.interrupted if interrupted else state).value)
    terminal.say(f"records: {os.path.relpath(sweep.folder)}")
    if courier is not None:
        left = courier.close(*[HASTE] if interrupted else [])
        _say_store(sweep.folder, str(config.tracking.uri), left, len(there))


def _compare(sweep: Sweep, there: dict[Path, dict[str, Any]], goal: str) -> Path | None:
    """Save the table of a sweep; print it, with the best trial, if it compares all of them.

    Returns:
        the folder of the best trial, if it is printed.
    """
    folders, ended = list(there), list(there.values())
    judged = terminal.judge(goal, ended)
    comparison = terminal.compare(ended, judged)
    terminal.save_comparison(comparison, sweep.folder)
    if sweep.compared:
        whole = os.path.relpath(sweep.folder / "comparison.md")
        terminal.print_layout(comparison, terminal.legend(comparison, judged), whole)
        return say_best(judged, folders, ended, sweep.given)
    return None


def _say_store(folder: Path, uri: str, left: int, jobs: int) -> None:
    """Print how to see the records in MLflow, or how to deliver those that are not there yet."""
    if left:
        terminal.warn(f"{left} of {jobs} trials are not in MLflow yet: {sync_command(folder)}")
    else:
        terminal.say(f"compare: {_page(folder, uri) if uri.startswith('http') else ui_command(uri)}")


def _page(folder: Path, uri: str) -> str:
    """Return the address of the page of a tracking server that shows the runs of a sweep's experiment."""
    folders = chain([folder], (file.parent for file in folder.glob("*/mlflow.json")))
    experiment = next(filter(None, (read_delivery(each).get("experiment_id") for each in folders)), None)
    return uri if experiment is None else f"{uri.rstrip('/')}/#/experiments/{experiment}/runs"


def say_best(
    goal: str | None,
    folders: Sequence[Path],
    results: Sequence[dict[str, Any]],
    given: dict[Path, Sequence[str]],
) -> Path | None:
    """Print the best trial of a grid: its value, its folder, and the command that trains it again.

    Folds validate on different examples, so the trials of all folds are judged together, by their mean.

    Returns:
        its folder; None if there is none.

    Args:
        goal: the metric that trials are compared by; None if no metric suits all of them.
        folders: the job folder of each result.
        given: overrides by folder, of the jobs of this command. For other jobs no command is printed: their
            overrides stand only in files, which somebody else may have written.
    """
    alike = _all_folds(results)
    values = [fmean(results[at]["metrics"].get(goal, math.nan) for at in places) for places in alike]
    best = terminal.chosen(values, goal) if goal is not None else []
    if goal is None or not best:
        return None
    folder, places = folders[best[0]], alike[best[0]]
    several = len(places) > 1
    value = f"{terminal.title(goal)} {terminal.number(goal, values[best[0]])}"
    value += f" in the mean over {len(places)} folds" if several else ""
    terminal.say(f"best: trial {folder.name}, {value}; {os.path.relpath(folder)}", "bold")
    if folder in given:
        words = list(given[folder])
        if several:
            trials = [results[at]["params"] for at in places]
            words = terminal.under_folds(words, [t["data.fold"] for t in trials], trials[0]["data.folds"])
        terminal.say(f"  {terminal.train_command(words)}")
    return folder


def _all_folds(results: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Return for each trial the places of the trials that differ from it in nothing but the fold."""
    places: dict[str, list[int]] = {}
    names = []
    for place, result in enumerate(results):
        folded = result["params"].get("data.folds") is not None
        rest = {key: value for key, value in result["params"].items() if key != "data.fold"}
        names.append(repr(rest) if folded else f"{place}")
        places.setdefault(names[-1], []).append(place)
    return [places[name] for name in names]
