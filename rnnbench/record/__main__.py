"""python -m rnnbench.record sync FOLDER: deliver the records of a folder to MLflow."""

import argparse
import os
import queue
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from rnnbench.record.connection import StoreError
from rnnbench.record.courier import undelivered
from rnnbench.record.delivery import Delivery
from rnnbench.record.folder import read_result
from rnnbench.record.sweep import held, job_folders, read_sweep, sync_command

LOCK = ".mlflow.lock"  # held by the process that delivers
LONGEST_WAIT = 60.0  # seconds between two tries at a store that does not answer


def say(line: str) -> None:
    """One line on stdout at once. Who was listening may be gone: the delivery goes on without."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def follow(sweep: Path) -> int:
    """Deliver the jobs that stdin names, as they change, and all that is left when it ends.

    Returns:
        0 if everything is delivered, else 1.
    """
    os.nice(10)  # training comes first
    inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(line.strip())
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    lock = FileLock(sweep / LOCK)
    # The couriers of a shared folder take turns.
    with nullcontext() if read_sweep(sweep).get("shared") else lock:
        delivery = Delivery(sweep)
        changed: set[Path] = set()
        told: set[str] = set()  # the refused jobs that the user knows of
        silent = False  # whether the user knows that the store does not answer
        rest, wait, more = 0.0, 5.0, True
        while more:
            more = gather(inbox, changed, sweep, rest)
            if not more and any(read_result(job)["status"] == "running" for job in job_folders(sweep)):
                held(sweep, patience=1)  # a process that dies may let go of its pipe before its lock
            started = time.monotonic()
            try:
                with lock:
                    if more:
                        delivery.deliver(sorted(changed))
                    else:
                        delivery.deliver_all()
                changed.clear()
                silent = False
                # Works a fifth of the time, but what is shown is seconds old, not minutes.
                rest, wait = min(max(1.0, 4 * (time.monotonic() - started)), 5.0), 5.0
            except StoreError as error:
                if not silent:
                    say(
                        f"MLflow at {delivery.uri} does not take records now ({error}); "
                        f"{'training goes on, and ' if more else ''}{sync_command(sweep)} delivers them later"
                    )
                    silent = True
                rest, wait = wait, min(2 * wait, LONGEST_WAIT)
            for name in delivery.refused.keys() - told:
                say(f"MLflow did not take the record of {sweep / name}: {delivery.refused[name]}")
                told.add(name)
    return 1 if undelivered(sweep) else 0


def gather(inbox: "queue.SimpleQueue[str | None]", changed: set[Path], sweep: Path, rest: float) -> bool:
    """Add the jobs that have news to `changed`: those of `rest` seconds, or else the next one.

    Returns:
        False as soon as there is nothing more to come.
    """
    until = time.monotonic() + rest
    while True:
        left = until - time.monotonic()
        try:
            name = inbox.get(timeout=max(left, 0)) if changed or left > 0 else inbox.get()
        except queue.Empty:
            if changed:
                return True
            continue
        if name is None:
            return False
        changed.add(sweep / name)


def sync(folder: Path) -> int:
    """Deliver every sweep and single run in a folder, and say what was done.

    Returns:
        0 if everything is delivered, else 1.
    """
    sweeps = find(folder)
    if not sweeps:
        say(f"error: no records in {folder}: it and the folders in it have no sweep.json")
        return 1
    code = 0
    for sweep in sweeps:
        code = max(code, sync_one(sweep))
    return code


def find(folder: Path) -> list[Path]:
    """The sweep folders at or below a folder; for a job folder, the sweep that it belongs to."""
    if (folder / "result.json").exists() and (folder.parent / "sweep.json").exists():
        return [folder.parent]
    found = []
    for path, inner, files in os.walk(folder):
        if "sweep.json" in files:
            found.append(Path(path))
            inner.clear()  # below are jobs
    return sorted(found)


def sync_one(sweep: Path) -> int:
    """Deliver one sweep folder."""
    if read_sweep(sweep)["tracking"]["uri"] is None:
        say(f"{sweep}: not meant for MLflow (tracking.uri=null)")
        return 0
    try:
        with FileLock(sweep / LOCK, timeout=0):
            if read_sweep(sweep).get("shared") and held(sweep):
                raise Timeout(str(sweep / LOCK))
            delivery = Delivery(sweep)
            jobs = job_folders(sweep)
            try:
                delivery.deliver_all()
            except StoreError as error:
                say(f"error: {sweep}: MLflow at {delivery.uri} does not take records now ({error}); "
                    f"{len(undelivered(sweep))} of {len(jobs)} runs are still to be delivered")  # fmt: skip
                return 1
    except Timeout:
        say(f"{sweep}: another process delivers it at this moment")
        return 0
    for name, why in delivery.refused.items():
        say(f"error: MLflow did not take the record of {sweep / name}: {why}")
    left = len(undelivered(sweep))
    done = f"{delivery.delivered} runs delivered, {len(jobs) - delivery.delivered - left} already there"
    still = f", {left} not, or not wholly, delivered" if left else ""
    say(f"{sweep}: {done}{still}; MLflow at {delivery.uri}")
    return 1 if delivery.refused else 0


def main() -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnbench.record",
        description="Job folders are the truth of what was trained; this brings them to MLflow.",
    )
    commands = parser.add_subparsers(required=True)
    about = (
        "Deliver what MLflow does not have yet of the records in FOLDER: a sweep, a single run, or a folder "
        "of them such as multirun/. Each goes where its sweep.json says (tracking.uri when it was trained). "
        "Running it again delivers nothing twice. Exit code 1 if something could not be delivered."
    )
    one = commands.add_parser("sync", help="deliver records to MLflow", description=about)
    one.add_argument("folder", type=Path, metavar="FOLDER")
    one.add_argument(
        "--follow", action="store_true", help="used by a running sweep: deliver the jobs that stdin names"
    )
    given = parser.parse_args()
    try:
        return follow(given.folder) if given.follow else sync(given.folder)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
