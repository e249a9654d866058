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
    """Deliver the jobs that stdin names as they change; when stdin ends, deliver everything that is left.

    Returns:
        0 if everything is delivered, else 1.
    """
    os.nice(10)  # training has priority
    warnings.simplefilter("ignore", DamagedWarning)  # the process that trains shows these warnings
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
            held(sweep, patience=1)  # a process that dies may close its pipe before its lock is released
        follower.deliver()
    return 1 if undelivered(sweep) else 0


class Follower:
    """Delivers the jobs that an inbox names, and rests between deliveries.

    Args:
        inbox: names of job folders that have changed; None: no more names follow.
        lock: held during a delivery.
    """

    def __init__(self, sweep: Path, inbox: "queue.SimpleQueue[str | None]", lock: FileLock) -> None:
        self.sweep = sweep
        self.inbox = inbox
        self.lock = lock
        self.delivery = Delivery(sweep, say)
        self.changed: set[Path] = set()  # job folders with changes to be delivered
        self.told: set[str] = set()  # refused jobs that were reported to the user
        self.silent = False  # the user was told that the store does not answer
        self.more = True  # False once the inbox has ended
        # Seconds until the next delivery, after success and after failure.
        self.rest, self.wait = 0.0, FIRST_WAIT

    def gather(self) -> bool:
        """Collect the jobs that have changed, until the rest is over and there is at least one.

        Returns:
            False as soon as the inbox has ended.
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
        """Deliver the changes, or everything if the inbox has ended; report what MLflow refuses."""
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
            # Delivery takes at most a fifth of the time, and rests at most 5 s, so that MLflow stays current.
            self.rest = min(max(1.0, 4 * (time.monotonic() - started)), 5.0)
            self.wait = FIRST_WAIT
        for name in sorted(self.delivery.refused.keys() - self.told):
            say(f"MLflow did not take the record of {self.sweep / name}: {self.delivery.refused[name]}")
            self.told.add(name)

    def _tell(self, error: StoreError) -> None:
        """Tell the user once that the store does not take records."""
        if not self.silent:
            goes_on = "training goes on, and " if self.more else ""
            say(
                f"MLflow at {self.delivery.uri} {verdict(error)}; "
                f"{goes_on}{sync_command(self.sweep)} delivers them later"
            )
            self.silent = True


def verdict(error: StoreError) -> str:
    """Say why a store does not take records: an error that may pass, or one that the user has to repair."""
    return f"{'refuses the records' if isinstance(error, Refusal) else 'does not take records now'} ({error})"
