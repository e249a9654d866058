"""Times what a sweep costs beside its training: our launcher and sweeper beside Hydra's."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rnnbench.record import job_folders, read_result, read_sweep

TINY = ("data=digits", "data.train_size=32", "fit.epochs=1", "model.hidden_size=4")
STOCK = ("hydra/launcher=basic", "hydra/sweeper=basic", "tracking=none")


@dataclass
class Cost:
    """Keeps the milliseconds that a trial adds to a sweep beside its training, one figure a round."""

    what: str
    overrides: tuple[str, ...]
    share: int  # divisor of the number of trials in its sweeps
    recorded: list[float] = field(default_factory=list)  # until the last job folder is complete
    ended: list[float] = field(default_factory=list)  # until the command ends, with all runs in MLflow


def launcher_cost(trials: int, rounds: int = 3) -> list[Cost]:
    """Time what a trial costs beside its training, under our launcher and sweeper and under Hydra's.

    Each figure is the difference between two sweeps of tiny trials, one ten times the other, each a
    command of its own with its imports, divided by the difference in trials: so start-up is not in it.
    What the records call training (`time/train_seconds`) is taken off; what is left is to compose and
    check a trial, to make and evaluate its network, and to write its records, with the wait for
    MLflow at the end in `Cost.ended`. The contestants take turns.

    Hydra's launcher and sweeper have sweeps a tenth as long, and no MLflow: without an event at the end of a
    sweep, each job would start a courier and wait for it, which takes seconds.

    Args:
        trials: number of trials of the longer sweep, at least 200.
        rounds: number of figures for each contestant.
    """
    contestants = [
        Cost("stack and grid, MLflow in SQLite", (), 1),
        Cost("Hydra's basic and basic, job folders only", STOCK, 10),
    ]
    for _ in range(rounds):
        for one in contestants:
            long, short = trials // one.share, trials // one.share // 10
            (recorded, ended), (recorded_short, ended_short) = (
                sweep_seconds(count, one.overrides) for count in (long, short)
            )
            one.recorded.append(1e3 * (recorded - recorded_short) / (long - short))
            one.ended.append(1e3 * (ended - ended_short) / (long - short))
    return contestants


def sweep_seconds(trials: int, overrides: tuple[str, ...]) -> tuple[float, float]:
    """Time a sweep of tiny trials without its training: to its last record, and to the command's end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "rnnbench", "-m", f"seed=range({trials})", *TINY]
        started = time.time()
        subprocess.run(
            [*command, f"hydra.sweep.dir={folder}/sweep", *overrides],
            cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        ended = time.time() - started
        results = [read_result(job) for job in job_folders(folder / "sweep")]
        training = sum(result["metrics"]["time/train_seconds"] for result in results)
        recorded = read_sweep(folder / "sweep")["ended"] / 1e3 - started
        return recorded - training, ended - training
