"""The sweep folder: the parent of job folders, with sweep.json. A sweep is resumed in its folder.

One living process holds the folder. Several processes may share the folder of a named study: each then holds
a lock of its own, and takes the common lock only briefly. Workers (processes elsewhere that train stacks for
the process that holds the folder) hold a lock each too, since they may outlive that process.
"""

import os
import platform
import shlex
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rnnbench.config import ConfigError, Tracking, mask
from rnnbench.config.destinations import note
from rnnbench.config.uris import absolute
from rnnbench.job_state import JobState
from rnnbench.record.job_folder import (
    STATUSES,
    is_job,
    moment,
    moment_or_none,
    now,
    read_delivery,
    read_result,
)
from rnnbench.system.files import NO_SPACE, DamagedFile, check, read_json, set_aside, sound, texts, write_json

LOCK = ".lock"  # held by the process that trains the sweep; in a shared folder while sweep.json changes
SHARED = ".lock-{}"  # held by one of the processes that share a folder
STACKS = "stacks"  # subfolder with the files that are sent to workers, see rnnbench.cluster
WORKERS = STACKS + "/{}.lock"  # held by the worker that trains this stack
MOMENT = 10.0  # seconds to wait for the common lock of a shared folder


class SweepFolder:
    """Writes the sweep.json of a folder that this process holds; `path` is the folder, `info` its content."""

    def __init__(self, path: Path, info: dict[str, Any], own: FileLock) -> None:
        self.path = path
        self.info = info
        self.own = own  # this process's lock in a shared folder

    @classmethod
    @contextmanager
    def claim(
        cls,
        path: Path,
        *,
        name: str,
        command: Sequence[str],
        tracking: Tracking,
        single: bool,
        shared: bool = False,
        elsewhere: bool = False,
    ) -> "Iterator[SweepFolder]":
        """Make a sweep folder, or take one to resume it, and hold it until the block ends.

        If the process dies, the operating system releases the lock.

        Args:
            name: readable, for MLflow's parent run; a folder that is resumed keeps its own.
            command: argv, for the record; passwords are masked.
            tracking: where MLflow's copy goes; a relative SQLite file is noted as seen from here.
            single: the folder of a single run, which becomes an MLflow run without a parent.
            shared: other processes may hold the folder too, if they also share it.
            elsewhere: workers train the jobs; workers of an earlier process may still be training.

        Raises:
            ConfigError: another living process holds the folder, or a worker does and `elsewhere` is False.
        """
        key = "hydra.run.dir" if single else "hydra.sweep.dir"
        with _hold(path, key, shared=shared, elsewhere=elsewhere) as (lock, own):
            info = _known(path) or {"format": 1, "sweep": uuid.uuid4().hex}
            info = {"name": name, "single": single, "started": now()} | info
            info |= {
                "command": [mask(word) for word in command],
                "tracking": _destination(tracking),
                "holder": {"pid": os.getpid(), "host": platform.node()},
                "ended": None,
                "status": JobState.running.value,
                "shared": shared,
                "elsewhere": elsewhere,
            }
            write_json(path / "sweep.json", info)
            if tracking.uri is not None:
                note(tracking.uri)
            if shared:
                _remove_dead_locks(path)
                own.acquire()
                lock.release()
            yield cls(path, info, own)

    def end(self, status: str) -> None:
        """Write that the sweep has ended: finished, failed (a trial has) or interrupted.

        Call it before `Courier.close`, so that MLflow's parent run ends too. A shared folder ends with the
        last process that holds it. This process releases it here: otherwise two processes that still deliver
        would each wait for the other.
        """
        if not self.info["shared"]:
            self.info |= {"ended": now(), "status": status}
            write_json(self.path / "sweep.json", self.info)
            return
        with FileLock(self.path / LOCK, timeout=MOMENT):
            self.info = read_sweep(self.path)
            _let_go(self.own)
            if not _sharers(self.path):
                self.info |= {"ended": now(), "status": status}
                write_json(self.path / "sweep.json", self.info)

    def note(self, **facts: Any) -> None:
        """Add facts to sweep.json, for MLflow's run of the sweep."""
        with nullcontext() if not self.info["shared"] else FileLock(self.path / LOCK, timeout=MOMENT):
            self.info = (read_sweep(self.path) if self.info["shared"] else self.info) | facts
            write_json(self.path / "sweep.json", self.info)

    def trials(self) -> dict[str, list[Path]]:
        """Map trial hashes to the job folders that hold the trial, finished or not, in order of number."""
        found: dict[str, list[Path]] = {}
        for job, result in results(self.path).items():
            found.setdefault(result["trial"], []).append(job)
        return found


def redirect(path: Path, uri: str) -> None:
    """Change the MLflow store that the records of a sweep folder go to.

    Raises:
        ConfigError: a living process holds the folder.
    """
    if held(path):
        raise ConfigError(f"{path}: in use by {_holder(path / 'sweep.json')}; wait for it")
    info = read_sweep(path)
    write_json(path / "sweep.json", info | {"tracking": info["tracking"] | {"uri": absolute(uri)}})


@contextmanager
def _hold(path: Path, key: str, *, shared: bool, elsewhere: bool) -> Iterator[tuple[FileLock, FileLock]]:
    """Make a folder if it is not there, and hold it until the block ends.

    Args:
        key: the config key that names the folder.
        shared, elsewhere: as in `SweepFolder.claim`.

    Returns:
        the common lock, which is held, and the lock of this process alone, which is not held yet.

    Raises:
        ConfigError: the folder is in use, or cannot be locked.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    own = FileLock(path / SHARED.format(uuid.uuid4().hex))
    _acquire(lock, path, key, shared=shared)
    try:
        if not elsewhere:
            _refuse_workers(path, key)
        yield lock, own
    finally:
        lock.release()
        _let_go(own)


def _acquire(lock: FileLock, path: Path, key: str, *, shared: bool) -> None:
    """Take the common lock of a sweep folder.

    Args:
        key: the config key that names the folder.
        shared: others may hold the folder too, if they share it.

    Raises:
        ConfigError: another living process holds the folder, or it cannot be locked.
    """
    try:
        lock.acquire(timeout=MOMENT if shared else 0.5)  # `held` takes it for a moment
        if not shared and _sharers(path):
            lock.release()
            raise Timeout(lock.lock_file)
    except Timeout:
        raise ConfigError(
            f"{key}={path}: in use by {_holder(path / 'sweep.json')}; wait for it, or give another folder"
        ) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigError(
            f"{key}={path}: cannot be locked ({LOCK}: {error.strerror}); give another folder"
        ) from None


def _refuse_workers(path: Path, key: str) -> None:
    """Refuse a sweep folder some of whose stacks are trained by workers.

    Raises:
        ConfigError: workers train some stacks; says how many.
    """
    if busy := workers(path):
        raise ConfigError(
            f"{key}={path}: {len(busy)} of its stacks train elsewhere; take the launcher that sent them, "
            "stop them there, or give another folder"
        )


def _destination(tracking: Tracking) -> dict[str, Any]:
    """Make the entry of sweep.json that says where MLflow's copy goes."""
    return {
        "uri": None if tracking.uri is None else absolute(tracking.uri),
        "experiment": tracking.experiment,
        "artifacts": [artifact.value for artifact in tracking.artifacts],
    }


def _remove_dead_locks(path: Path) -> None:
    """Remove the locks of processes that shared the folder and were killed."""
    for left in set(path.glob(SHARED.format("*"))) - set(_sharers(path)):
        left.unlink()


def _let_go(lock: FileLock) -> None:
    """Release and remove the lock of this process alone."""
    if lock.is_locked:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def new_folder(path: Path) -> Path:
    """Make a new folder; if the name is taken, as by a sweep of the same second, append -2 to it."""
    unique, number = path, 1
    while True:
        try:
            unique.mkdir(parents=True)
            return unique
        except FileExistsError:
            number += 1
            unique = path.with_name(f"{path.name}-{number}")


def _holder(file: Path) -> str:
    """Name the process that holds a sweep folder; its sweep.json may not be written yet."""
    try:
        holder = read_sweep(file.parent)["holder"]
    except (FileNotFoundError, DamagedFile):
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


SWEEP: dict[str, Any] = {
    "sweep": lambda value: isinstance(value, str) and value.isalnum(),
    "name": str,
    "single": bool,
    "started": moment,
    "command": lambda value: isinstance(value, list) and texts(value),
    "tracking": dict,
    "holder": dict,
    "ended": moment_or_none,
    "status": STATUSES,
}
TRACKING: dict[str, Any] = {
    "uri": (str, type(None)),
    "experiment": str,
    "artifacts": lambda value: isinstance(value, list) and texts(value),
}
FOUND: dict[str, Any] = {
    "tags": lambda value: isinstance(value, dict) and texts(value),
    "metrics": lambda value: (
        isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())
    ),
}


def is_sweep(path: Path) -> bool:
    """True if a folder holds a sweep."""
    return (path / "sweep.json").exists()


def find(folder: Path) -> list[Path]:
    """Find the sweep folders at or below a folder; for a job folder, the sweep that it belongs to."""
    if is_job(folder) and is_sweep(folder.parent):
        return [folder.parent]
    found = []
    for path, inner, files in os.walk(folder):
        if "sweep.json" in (*files, *inner):  # a folder with this name is reported as damaged
            found.append(Path(path))
            inner.clear()  # the folders below are jobs, not sweeps
    return sorted(found)


def read_sweep(path: Path) -> dict[str, Any]:
    """Read sweep.json.

    Raises:
        FileNotFoundError: the folder is not a sweep folder.
        DamagedFile: the file does not hold a sweep.
    """
    file = path / "sweep.json"
    info = read_json(file)
    check(file, info, SWEEP)
    check(file, info["tracking"], TRACKING)
    check(file, info["holder"], {"pid": int, "host": str})
    known = {"shared": False, "elsewhere": False, "best": None} | info
    check(file, known, {"shared": bool, "elsewhere": bool, "best": (str, type(None))})
    if "study" in info:
        check(file, info, {"study": dict})
        check(file, info["study"], FOUND)
    return info


def _known(path: Path) -> dict[str, Any]:
    """Read the sweep.json of a folder that is resumed; {} if there is none; rename a damaged one."""
    try:
        return read_sweep(path)
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        set_aside(error, "a new one is made; the records in the folder stay")
        state = read_delivery(path)  # keeps the identity by which MLflow's run of the sweep is found
        return (
            {"format": 1, "sweep": state["record"], "started": state["attempt"]} if "record" in state else {}
        )


def job_folders(path: Path) -> list[Path]:
    """List the job folders of a sweep folder, in order of number, without those whose record is damaged."""
    return list(results(path))


def results(path: Path) -> dict[Path, dict[str, Any]]:
    """Read the result.json of every job folder of a sweep folder, in order of number.

    Damaged ones are left out with a warning.
    """
    found = [file.parent for file in path.glob("*/result.json")]
    found.sort(key=lambda job: [(len(part), part) for part in job.name.split(".")])
    return dict(sound(found, lambda job: (job, read_result(job))))


def delivered_runs(path: Path) -> dict[str, str]:
    """Map names of job folders to the MLflow runs that they have become, as far as they are delivered."""
    states = ((file.parent.name, read_delivery(file.parent)) for file in path.glob("*/mlflow.json"))
    return {name: state["run_id"] for name, state in states if state}


def held(path: Path, patience: float = 0) -> bool:
    """True if a living process holds the sweep folder, still after `patience` seconds."""
    return _taken(path / LOCK, patience) or bool(_sharers(path) or workers(path))


@contextmanager
def work(path: Path, sweep: str, stack: str) -> Iterator[None]:
    """Hold a stack of a sweep folder while training it for the process that holds the folder.

    Waits for a worker that still holds the stack, because its task was wrongly believed lost.

    Args:
        sweep: the id of the sweep, as in sweep.json.
        stack: name of the stack.

    Raises:
        ConfigError: the folder is not here, is another's, or is in use by a process that trains by itself.
    """
    host = platform.node()
    if not is_sweep(path) or (info := read_sweep(path))["sweep"] != sweep:
        raise ConfigError(
            f"hydra.sweep.dir={path}: {host} does not see this sweep's folder; give one on a disk that every "
            "node shares"
        )
    if not info.get("elsewhere", False) and _taken(path / LOCK):
        raise ConfigError(f"hydra.sweep.dir={path}: in use by {_holder(path / 'sweep.json')}")
    with FileLock(path / WORKERS.format(stack)) as lock:
        yield
    Path(lock.lock_file).unlink(missing_ok=True)


def workers(path: Path) -> list[str]:
    """List the names of the stacks that living workers hold."""
    return [lock.stem for lock in path.glob(WORKERS.format("*")) if _taken(lock)]


def _sharers(path: Path) -> list[Path]:
    """List the locks of the living processes that share the folder."""
    return [lock for lock in path.glob(SHARED.format("*")) if _taken(lock)]


def _taken(lock: Path, patience: float = 0) -> bool:
    """True if a living process holds the lock, still after `patience` seconds, or if that is unknown."""
    probe = FileLock(lock)
    try:
        probe.acquire(timeout=patience)
    except (Timeout, OSError):  # another user's folder: it may be in use
        return True
    probe.release()
    return False


def status_now(result: dict[str, Any], job: Path) -> str:
    """Return the status of a job: interrupted if its record says running, but no process trains it."""
    status: str = result["status"]
    return JobState.interrupted.value if status == JobState.running and not held(job.parent) else status


def sync_command(path: Path) -> str:
    """Make the command that delivers a folder's records to MLflow."""
    return f"python -m rnnbench.record sync {shlex.quote(str(path))}"


def delete_command(path: Path) -> str:
    """Make the command that removes a folder together with its runs in MLflow."""
    return f"python -m rnnbench.record delete {shlex.quote(str(path))}"
