"""Measures whether a long sweep slows down or grows: time and memory of a trial, from first to last."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from rnnbench.record import job_folders, read_result

FIRST = 500  # trials after which time and memory should be constant


@dataclass
class Load:
    """Keeps the time and memory of a sweep of tiny trials."""

    trials: int
    finished: int
    minutes: float  # duration of the command
    early: float  # ms a trial, over the second FIRST trials
    late: float  # ms a trial, over the last FIRST trials
    memory_early: float  # MiB of the training process after the first FIRST trials
    memory_late: float  # MiB, the maximum after that


def long_sweep(trials: int) -> Load:
    """Train one-epoch trials on the digits as one sweep, with MLflow in SQLite.

    Args:
        trials: number of trials, at least four times FIRST.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "rnnbench", "-m", f"seed=range({trials})", "fit.epochs=1",
             "model.hidden_size=8", "hydra.sweep.dir=sweep"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        seen: list[tuple[float, float]] = []  # ms since 1970, MiB
        while process.poll() is None:
            time.sleep(0.25)
            try:
                seen.append((time.time() * 1e3, psutil.Process(process.pid).memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                break
        process.wait()
        minutes = (time.monotonic() - started) / 60
        results = [read_result(job) for job in job_folders(folder / "sweep")]
        ends = sorted(result["ended"] for result in results if result["status"] == "finished")
        return Load(
            trials,
            len(ends),
            minutes,
            (ends[2 * FIRST - 1] - ends[FIRST - 1]) / FIRST,
            (ends[-1] - ends[-1 - FIRST]) / FIRST,
            max(memory for moment, memory in seen if moment <= ends[FIRST - 1]),
            max(memory for moment, memory in seen if ends[FIRST - 1] < moment <= ends[-1]),
        )
