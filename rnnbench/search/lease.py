"""Tells whether the worker that runs a trial is alive.

A worker leaves a lease in each trial that it runs, on any storage: who it is, and a time that it renews.
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

WORKER, SEEN = "worker", "seen"  # attributes of trials
BEAT = 15.0  # seconds between two renewals of a lease
LEASE = 60.0  # seconds without a renewal after which a worker on another machine counts as dead


class Heartbeat:
    """Renews the leases of the trials that this process runs, in a thread of its own.

    Args:
        running: gives the storage's ids of these trials.
    """

    def __init__(self, storage: RetryingStorage, running: Callable[[], Iterable[int]]) -> None:
        self.storage, self.running = storage, running
        self.over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        """Renew no lease any more."""
        self.over.set()

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            for id in self.running():
                try:
                    self.storage.set_trial_user_attr(id, SEEN, time.time())
                except UpdateFinishedTrialError:  # has just ended
                    continue
                except StorageAway:  # the thread that runs the search ends it
                    return


class Leases:
    """Judges leases as one process sees them.

    Args:
        me: the worker that this process is.
    """

    def __init__(self, storage: RetryingStorage, me: dict[str, Any]) -> None:
        self.storage, self.me = storage, me
        self.renewals: dict[int, tuple[Any, float]] = {}  # by trial number: the last one, and when first seen

    def expired(self, trial: FrozenTrial, mine: Container[int]) -> bool:
        """Return whether nobody works on a running trial any more.

        The lease of a worker elsewhere lasts from the moment at which its last renewal was first seen here:
        clocks of machines differ, and nobody can renew a lease while the storage is away.

        Args:
            mine: numbers of the trials that this process runs.
        """
        if trial.user_attrs.get(WORKER) == self.me:  # made by a call whose answer was lost, if not ours
            return trial.number not in mine
        if (here := runs_here(trial)) is not None:
            return not here
        renewal, now = trial.user_attrs.get(SEEN), time.monotonic()
        last, since = self.renewals.get(trial.number, (renewal, now))
        self.renewals[trial.number] = (renewal, since if renewal == last else now)
        return now - max(self.renewals[trial.number][1], self.storage.back) > LEASE


def myself() -> dict[str, Any]:
    """Describe this process as leases do: process numbers are reused, their start times are not."""
    return {"host": host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def host() -> str:
    """Name this machine; containers on it have process numbers of their own, and so another name."""
    numbers = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {numbers.stat().st_ino}" if numbers.exists() else "")


def runs_here(trial: FrozenTrial) -> bool | None:
    """Return whether the worker of a trial lives on this machine; None if it is on another machine."""
    worker = trial.user_attrs.get(WORKER)
    if worker is None or worker["host"] != host():
        return None
    try:
        process = psutil.Process(worker["pid"])
        same: bool = abs(process.create_time() - worker["started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
