"""Starts the courier: a process beside the training that delivers records from job folders to MLflow.

Training writes only files, and lines to a pipe that it never waits for, so that a slow or dead server
does not slow it down. Nothing is lost either: the courier looks through the whole folder at the end, and
`python -m rnnbench.record sync` does the same later.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from rnnbench.config.uris import sqlite_file
from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.copies import run_of_origin
from rnnbench.record.job_folder import read_delivery
from rnnbench.record.sweep_folder import held, job_folders, read_sweep, results, sync_command, workers

GRACE, AGAIN = 15.0, 30.0  # seconds until the first and each later message that the end of a sweep waits


class Courier:
    """Starts the courier's process for a sweep folder, and tells it which job folders change.

    The courier has a session of its own, so that Ctrl-C in the terminal does not reach it. When this process
    dies, the pipe ends, and the courier delivers what is there and exits.

    Args:
        folder: the sweep folder, claimed.
        warn: is given each message for the user, from a thread.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.warn = warn
        self.told: set[str] = set()  # names of the jobs that this process has reported as changed
        self.waiting: dict[str, None] = {}  # job names that the pipe has no room for, oldest first
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rnnbench.record", "sync", "--follow", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            # The courier imports the same rnnbench, and prints UTF-8 whatever the terminal's encoding is.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONIOENCODING": "utf-8"},
        )
        assert self.process.stdin is not None
        self.pipe = self.process.stdin.fileno()
        os.set_blocking(self.pipe, False)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.warn(line.rstrip())

    def changed(self, job: Path) -> None:
        """Tell the process that a job folder has changed. Never waits."""
        self.told.add(job.name)
        self.waiting[job.name] = None
        try:
            for name in list(self.waiting):
                os.write(self.pipe, f"{name}\n".encode())  # a line this short is written whole or not at all
                del self.waiting[name]
        except (BlockingIOError, BrokenPipeError):  # busy: sent at the next change; dead: `close` reports it
            pass

    def close(self, timeout: float | None = None) -> int:
        """Wait until everything is delivered, and say so if it takes long.

        After `timeout` seconds, or on Ctrl-C, the process is stopped.

        Args:
            timeout: seconds; None: two minutes, and a tenth of a second for each job.

        Returns:
            the number of jobs that are not fully delivered; in a shared folder only those of this process.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        if timeout is None:
            timeout = 120 + 0.1 * len(job_folders(self.folder))
        until = time.monotonic() + timeout
        try:
            for pause in chain([GRACE], repeat(AGAIN)):
                try:
                    self.process.wait(max(0.0, min(pause, until - time.monotonic())))
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= until:
                        break
                    self._say_wait(until - time.monotonic())
        except KeyboardInterrupt:
            self._stop()
            self.warn(f"{len(undelivered(self.folder))} records are not in MLflow yet: "
                      f"{sync_command(self.folder)}")  # fmt: skip
            raise
        self._stop()
        shared = read_sweep(self.folder)["shared"]
        return sum(job.name in self.told or not shared for job in undelivered(self.folder))

    def _say_wait(self, seconds: float) -> None:
        left, jobs = len(undelivered(self.folder)), len(job_folders(self.folder))
        uri = read_sweep(self.folder)["tracking"]["uri"]
        file = sqlite_file(uri)
        first = "" if file is None or file.exists() else " (it makes its tables first, once)"
        what = f"{left} of {jobs} records are" if left else "the sweep's own record is"
        self.warn(
            f"all is recorded; MLflow at {uri} is slow to take it{first}, {what} to come; "
            f"waiting at most {seconds:.0f} s. Ctrl-C is safe: {sync_command(self.folder)} goes on from there"
        )

    def _stop(self) -> None:
        self.process.kill()  # safe at any moment, since delivery can be repeated
        self.process.wait()
        self.listener.join()


def undelivered(folder: Path) -> list[Path]:
    """List the job folders of a sweep whose current record is not fully in MLflow.

    Jobs that other processes train, in a shared folder or elsewhere, are left out: those deliver them.
    """
    info = read_sweep(folder)
    tracking = info["tracking"]
    others = (info.get("shared", False) and held(folder)) or bool(workers(folder))

    def delivered(job: Path, result: dict[str, Any]) -> bool:
        state = read_delivery(job)
        if not state and run_of_origin(result, tracking["uri"], tracking["experiment"]) is not None:
            return True
        if others and result["status"] == JobState.running:
            return True
        return (
            bool(state)
            and state["final"]
            and state["attempt"] == result["started"]
            and (state["uri"], state["experiment"]) == (tracking["uri"], tracking["experiment"])
        )

    return [job for job, result in results(folder).items() if not delivered(job, result)]
