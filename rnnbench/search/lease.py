"""Tells whether the worker that runs a trial is alive.

A worker writes a lease to each trial that it runs, on any storage: its host and process, and a time that it
renews.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from rnnbench.search.retry import RetryingStorage, StorageAway

WORKER, SEEN = "worker", "seen"  # attributes of a trial that hold its lease
BEAT = 15.0  # seconds between two renewals of a lease
LEASE = 60.0  # seconds without a renewal after which a worker on another machine counts as dead


class Heartbeat:
    """Renews the leases of the trials that this process runs, in a separate thread.

    Args:
        running: returns the storage's ids of these trials.
    """

    def __init__(self, storage: RetryingStorage, running: Callable[[], Iterable[int]]) -> None:
        self.storage, self.running = storage, running
        self.over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        """Stop renewing leases."""
        self.over.set()

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            for id in self.running():
                try:
                    self.storage.set_trial_user_attr(id, SEEN, time.time())
                except UpdateFinishedTrialError:  # the trial has just ended
                    continue
                except StorageAway:  # the thread that runs the search gets this error too
                    return


class Leases:
    """Decides, for one process, which leases have expired.

    Args:
        me: this process, as `myself` describes it.
    """

    def __init__(self, storage: RetryingStorage, me: dict[str, Any]) -> None:
        self.storage, self.me = storage, me
        self.renewals: dict[int, tuple[Any, float]] = {}  # by trial number: last renewal, when first seen

    def expired(self, trial: FrozenTrial, mine: Container[int]) -> bool:
        """Return whether the worker of a running trial is dead.

        The lease of a worker on another machine is counted from the moment at which its last renewal was
        first seen here, since the clocks of machines differ, and not before the storage last came back,
        since no lease can be renewed while the storage is away.

        Args:
            mine: numbers of the trials that this process runs.
        """
        if trial.user_attrs.get(WORKER) == self.me:  # not in `mine`: a lost answer made it
            return trial.number not in mine
        if (here := runs_here(trial)) is not None:
            return not here
        renewal, now = trial.user_attrs.get(SEEN), time.monotonic()
        last, since = self.renewals.get(trial.number, (renewal, now))
        self.renewals[trial.number] = (renewal, since if renewal == last else now)
        return now - max(self.renewals[trial.number][1], self.storage.back) > LEASE


def myself() -> dict[str, Any]:
    """Describe this process for a lease: process ids are reused, so its start time is included."""
    return {"host": host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def host() -> str:
    """Return a name of this machine; a container has its own process ids, and so a name of its own."""
    numbers = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {numbers.stat().st_ino}" if numbers.exists() else "")


def runs_here(trial: FrozenTrial) -> bool | None:
    """Return whether the worker of a trial is alive on this machine; None if it is on another one."""
    worker = trial.user_attrs.get(WORKER)
    if worker is None or worker["host"] != host():
        return None
    try:
        process = psutil.Process(worker["pid"])
        same: bool = abs(process.create_time() - worker["started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
