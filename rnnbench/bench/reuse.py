"""Times a sweep most of whose trials are recorded already: looking them up, and the whole command."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rnnbench.record import job_folders, read_result
from rnnbench.record.index import FILE, Index


@dataclass
class Reuse:
    """Keeps the seconds that a sweep takes with and without records of its trials."""

    trials: int
    known: int
    trained: float  # the command that trains the known ones
    reused: float  # the command that trains the others, records and MLflow included
    built: float  # seconds to build the index
    looked: float  # seconds to read it and look at what has changed


def reuse_times(trials: int, known: int) -> Reuse:
    """Train `known` one-epoch trials on the digits as a sweep with MLflow in SQLite, then a sweep of all.

    Args:
        trials: number of trials of the second sweep.
        known: number of them that the first sweep trains.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = _sweep(folder, "first", known)
        reused = _sweep(folder, "second", trials)
        results = [read_result(job) for job in job_folders(folder / "multirun" / "second")]
        assert len(results) == trials and sum("reused" in result for result in results) == known
        (folder / "multirun" / FILE).unlink()
        time.sleep(3)  # until the folders count as settled
        built = _time(Index(folder / "multirun", 2).refresh)
        looked = _time(lambda: Index(folder / "multirun", 2).refresh())
        return Reuse(trials, known, trained, reused, built, looked)


def _time(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _sweep(folder: Path, name: str, trials: int) -> float:
    """Run a sweep of tiny trials in a process of its own; return its seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rnnbench", "-m", f"seed=range({trials})", "fit.epochs=1",
         "model.hidden_size=8", f"hydra.sweep.dir=multirun/{name}"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return time.perf_counter() - started
