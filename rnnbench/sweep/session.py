"""An open sweep: holds its folder, and at the end delivers the records and prints the table."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnnbench import terminal
from rnnbench.config import Config, ConfigError, Select, objective
from rnnbench.config.uris import ui_command
from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.courier import Courier
from rnnbench.record import SweepFolder, results, sync_command
from rnnbench.sweep.recorder import Recorder
from rnnbench.system import signals
from rnnbench.system.files import NO_SPACE

OWNER = "RNNBENCH_SWEEP"  # environment: the sweep folders that an ancestor of this process holds
OPEN: "dict[str, Sweep]" = {}  # the sweep folders that this process holds
HASTE = 5.0  # seconds that the last deliveries have where someone waits for the end


@dataclass
class Sweep:
    """An open sweep folder, and the recorder of its jobs."""

    folder: Path
    recorder: Recorder
    record: SweepFolder | None  # None in a process that works for the one that holds the folder
    compared: bool = True  # whether its table compares all trials
    given: dict[Path, Sequence[str]] = field(default_factory=dict)  # overrides of its jobs, by folder

    @property
    def recorded(self) -> dict[Path, dict[str, Any]]:
        """What result.json holds, by job folder; nothing where another process holds the sweep's."""
        return {} if self.record is None else results(self.folder)


@contextmanager
def open_sweep(
    folder: Path, config: Config, name: str, *, single: bool, shared: bool = False, elsewhere: bool = False
) -> Iterator[Sweep]:
    """Hold a sweep folder while its jobs run; at the end deliver the records and print the table.

    Whoever opened it first sees to the end: a caller in this process, or an ancestor of this process.

    Args:
        config: of any of its jobs.
        name: readable, for MLflow.
        single: whether it is of one run, whose record in MLflow has no parent.
        shared: whether other processes may hold it too, if they also share it.
        elsewhere: whether its jobs are trained by workers, who may be at it already.

    Raises:
        ConfigError: the folder cannot be held, or has no room.
    """
    place = str(folder.resolve())
    if place in OPEN or place in os.environ.get(OWNER, "").split("\n"):
        with signals.listen():
            yield OPEN.get(place) or Sweep(folder, Recorder(), None)
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
            OPEN[place] = sweep = Sweep(folder, Recorder(courier), record)
            os.environ[OWNER] = "\n".join(OPEN)  # several where runs were started in several threads
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
    """End a sweep: save and print its table, note its end, deliver what is not in MLflow yet.

    Args:
        error: what ended it before its time.
    """
    courier = sweep.recorder.courier
    if isinstance(error, OSError) and error.errno in NO_SPACE:  # nothing more can be written
        if courier is not None:
            courier.close(HASTE)
        return
    there = results(sweep.folder)
    if there:
        _compare(sweep, there, objective(config))
    if config.fit.select is Select.test:
        terminal.say("This protocol watches the test set: its accuracies are optimistic.", "yellow")
    # A search goes on without a trial that fails, and has ended well where a comparison has not.
    lost = sweep.compared and any(result["status"] == JobState.failed for result in there.values())
    state = JobState.failed if lost or error is not None else JobState.finished
    interrupted = isinstance(error, KeyboardInterrupt)
    record.end((JobState.interrupted if interrupted else state).value)
    terminal.say(f"records: {os.path.relpath(sweep.folder)}")
    if courier is not None:
        left = courier.close(*[HASTE] if interrupted else [])
        _say_store(sweep.folder, str(config.tracking.uri), left, len(there))


def _compare(sweep: Sweep, there: dict[Path, dict[str, Any]], goal: str) -> None:
    """Save the table of a sweep; print it, with the best trial, if it compares all of them."""
    folders, ended = list(there), list(there.values())
    judged = terminal.judge(goal, ended)
    comparison = terminal.compare(ended, judged)
    terminal.save_comparison(comparison, sweep.folder)
    if sweep.compared:
        whole = os.path.relpath(sweep.folder / "comparison.md")
        terminal.print_layout(comparison, terminal.legend(comparison, judged), whole)
        say_best(judged, folders, ended, sweep.given)


def _say_store(folder: Path, uri: str, left: int, jobs: int) -> None:
    """Print where MLflow shows the records, or how to deliver those that are left."""
    if left:
        terminal.warn(f"{left} of {jobs} trials are not in MLflow yet: {sync_command(folder)}")
    else:
        terminal.say(f"compare: {ui_command(uri) if uri.startswith('sqlite') else uri}")


def say_best(
    goal: str | None,
    folders: Sequence[Path],
    results: Sequence[dict[str, Any]],
    given: dict[Path, Sequence[str]],
) -> None:
    """Print the best trial of a grid: its value, its folder, the command that trains it again.

    Args:
        goal: the metric that trials are compared by; None: there is none that all have.
        folders: the job folder of each result.
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
