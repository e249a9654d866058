"""The sweep folder: the parent of job folders. One living process holds it; it can be resumed."""

import json
import os
import shlex
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rnnbench.config import ConfigError, Tracking
from rnnbench.record.folder import now, read_result, write_json
from rnnbench.record.provenance import mask
from rnnbench.record.store import absolute

LOCK = ".lock"  # held by the process that trains the sweep


class SweepFolder:
    """A sweep folder that this process holds. `path` is the folder, `info` what sweep.json says."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info

    @classmethod
    @contextmanager
    def claim(
        cls, path: Path, *, name: str, command: Sequence[str], tracking: Tracking, single: bool
    ) -> "Iterator[SweepFolder]":
        """Make a sweep folder, or take one to resume it, and hold it until the block ends.

        The kernel lets go of it too if the process dies.

        Args:
            name: readable, for MLflow's parent run; a folder that is resumed keeps its own.
            command: argv, for the record; passwords are masked.
            tracking: where MLflow's copy goes; a relative SQLite file is noted as seen from here.
            single: the folder of a single run, which becomes an MLflow run without a parent.

        Raises:
            ConfigError: another living process holds the folder.
        """
        path.mkdir(parents=True, exist_ok=True)
        file = path / "sweep.json"
        lock = FileLock(path / LOCK)
        try:
            lock.acquire(timeout=0.5)  # `held` takes it for a moment
        except Timeout:
            key = "hydra.run.dir" if single else "hydra.sweep.dir"
            raise ConfigError(
                f"{key}={path}: in use by {_holder(file)}; wait for it, or give another folder"
            ) from None
        try:
            info = read_sweep(path) if file.exists() else {"format": 1, "sweep": uuid.uuid4().hex}
            info = {"name": name, "single": single, "started": now()} | info
            info |= {
                "command": [mask(word) for word in command],
                "tracking": {
                    "uri": None if tracking.uri is None else absolute(tracking.uri),
                    "experiment": tracking.experiment,
                    "artifacts": [artifact.value for artifact in tracking.artifacts],
                },
                "holder": {"pid": os.getpid(), "host": socket.gethostname()},
                "ended": None,
                "status": "running",
            }
            sweep = cls(path, info)
            write_json(file, info)
            yield sweep
        finally:
            lock.release()

    def end(self, status: str) -> None:
        """Note that the sweep has ended: finished, failed (a trial did) or interrupted.

        Call it before `Courier.close`, so that MLflow's parent run ends too.
        """
        self.info |= {"ended": now(), "status": status}
        write_json(self.path / "sweep.json", self.info)

    def trials(self) -> dict[str, list[Path]]:
        """Trial hash to the job folders that hold this trial, finished or not, in order of number."""
        found: dict[str, list[Path]] = {}
        for job in job_folders(self.path):
            found.setdefault(read_result(job)["trial"], []).append(job)
        return found


def _holder(file: Path) -> str:
    """Who holds a sweep folder, in words; its sweep.json may not be written yet."""
    if not file.exists():
        return "another process that has just started"
    holder = json.loads(file.read_text(encoding="utf-8"))["holder"]
    return f"process {holder['pid']} on {holder['host']}"


def read_sweep(path: Path) -> dict[str, Any]:
    """What sweep.json holds."""
    info: dict[str, Any] = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
    return info


def job_folders(path: Path) -> list[Path]:
    """The job folders of a sweep folder, in order of number."""
    found = [file.parent for file in path.glob("*/result.json")]
    return sorted(found, key=lambda job: (len(job.name), job.name))


def held(path: Path, patience: float = 0) -> bool:
    """Whether a living process holds the sweep folder, still after so many seconds."""
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return True
    lock.release()
    return False


def status_now(result: dict[str, Any], job: Path) -> str:
    """The status of a job as it is: one that runs by its record, but in no process, was interrupted."""
    status: str = result["status"]
    return "interrupted" if status == "running" and not held(job.parent) else status


def sync_command(path: Path) -> str:
    """The command that delivers a folder's records to MLflow."""
    return f"python -m rnnbench.record sync {shlex.quote(str(path))}"
