"""The courier's own process: delivers a sweep folder while another process trains it."""

import os
import queue
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.store import Refusal, StoreError
from rnnbench.record.sweep_folder import held, read_sweep, results, sync_command
from rnnbench.system.files import DamagedWarning
from rnnbench.terminal import say

LOCK = ".mlflow.lock"  # held by the process that delivers
FIRST_WAIT, LONGEST_WAIT = 5.0, 60.0  # seconds between two tries at a store that does not answer


def follow(sweep: Path) -> int:
    """Deliver the jobs that stdin names, as they change, and all that is left when it ends.

    Returns:
        0 if everything is delivered, else 1.
    """
    os.nice(10)  # training comes first
    warnings.simplefilter("ignore", DamagedWarning)  # the process that trains says so
    inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(line.strip())
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    lock = FileLock(sweep / LOCK)
    # The couriers of a shared folder take turns.
    with nullcontext() if read_sweep(sweep).get("shared") else lock:
        follower = Follower(sweep, inbox, lock)
        while follower.gather():
            follower.deliver()
        if any(result["status"] == JobState.running for result in results(sweep).values()):
            held(sweep, patience=1)  # a process that dies may let go of its pipe before its lock
        follower.deliver()
    return 1 if undelivered(sweep) else 0


class Follower:
    """Delivers what an inbox names, and rests between deliveries.

    Args:
        inbox: names of job folders that have news; None: there is nothing more to come.
        lock: held during a delivery.
    """

    def __init__(self, sweep: Path, inbox: "queue.SimpleQueue[str | None]", lock: FileLock) -> None:
        self.sweep = sweep
        self.inbox = inbox
        self.lock = lock
        self.delivery = Delivery(sweep, say)
        self.changed: set[Path] = set()  # job folders whose news is not delivered
        self.told: set[str] = set()  # the refused jobs that the user knows of
        self.silent = False  # the user knows that the store does not answer
        self.more = True  # there is more to come
        self.rest, self.wait = 0.0, FIRST_WAIT  # seconds until the next delivery, and after one that fails

    def gather(self) -> bool:
        """Collect the jobs that have news, while it rests, or else until there is one.

        Returns:
            False as soon as there is nothing more to come.
        """
        until = time.monotonic() + self.rest
        while True:
            left = until - time.monotonic()
            try:
                name = self.inbox.get(timeout=max(left, 0)) if self.changed or left > 0 else self.inbox.get()
            except queue.Empty:
                if self.changed:
                    return True
                continue
            if name is None:
                self.more = False
                return False
            self.changed.add(self.sweep / name)

    def deliver(self) -> None:
        """Deliver the news, or everything if there is nothing more to come; say what is not taken."""
        started = time.monotonic()
        try:
            with self.lock:
                if self.more:
                    self.delivery.deliver(sorted(self.changed))
                else:
                    self.delivery.deliver_all()
        except StoreError as error:
            self._tell(error)
            self.rest, self.wait = self.wait, min(2 * self.wait, LONGEST_WAIT)
        else:
            self.changed.clear()
            self.silent = False
            # Works a fifth of the time, but what is shown is seconds old, not minutes.
            self.rest = min(max(1.0, 4 * (time.monotonic() - started)), 5.0)
            self.wait = FIRST_WAIT
        for name in sorted(self.delivery.refused.keys() - self.told):
            say(f"MLflow did not take the record of {self.sweep / name}: {self.delivery.refused[name]}")
            self.told.add(name)

    def _tell(self, error: StoreError) -> None:
        """Say once that the store does not take records."""
        if not self.silent:
            goes_on = "training goes on, and " if self.more else ""
            say(
                f"MLflow at {self.delivery.uri} {verdict(error)}; "
                f"{goes_on}{sync_command(self.sweep)} delivers them later"
            )
            self.silent = True


def verdict(error: StoreError) -> str:
    """Say what keeps a store from taking records: trouble that may pass, or that somebody has to mend."""
    return f"{'refuses the records' if isinstance(error, Refusal) else 'does not take records now'} ({error})"
