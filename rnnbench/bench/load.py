"""Whether a long sweep stays as it began: memory and cost of a trial, from the first trials to the last."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from rnnbench.record import job_folders, read_result

FIRST = 500  # trials after which nothing should grow any more


@dataclass
class Load:
    """What a sweep of tiny trials took."""

    trials: int
    finished: int
    minutes: float  # of the command
    early: float  # ms a trial, of the FIRST after the first FIRST
    late: float  # ms a trial, of the last FIRST
    memory_early: float  # MiB of the training process, when the first FIRST had finished
    memory_late: float  # the most it had after that


def long_sweep(trials: int) -> Load:
    """Train so many one-epoch trials on the digits as one sweep, with MLflow in SQLite.

    Args:
        trials: at least four times FIRST.
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
