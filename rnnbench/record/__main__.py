"""The command `python -m rnnbench.record`: shows a folder's sweeps, delivers or removes records."""

import argparse
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rnnbench.config import ConfigError, check_uri, mask
from rnnbench.config.destinations import is_own, note
from rnnbench.config.uris import absolute, check_store
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.deletion import delete_runs, find_runs, open_runs
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.follow import LOCK, follow, verdict
from rnnbench.mlflow_sync.store import StoreError, first_line
from rnnbench.record.job_folder import is_job
from rnnbench.record.show import show
from rnnbench.record.sweep_folder import find, held, is_sweep, job_folders, read_sweep, redirect, sync_command
from rnnbench.record.winner import best
from rnnbench.system.files import show_warnings, sound
from rnnbench.terminal import complain, open_streams, say


def sync(folder: Path, to: str | None = None) -> int:
    """Deliver every sweep and single run in a folder, and say what was done.

    Args:
        to: URI of the MLflow store for all of them from now on; None: the store that each sweep.json names.

    Returns:
        0 if everything is delivered, else 1.
    """
    sweeps = find(folder)
    if not sweeps:
        say(f"error: no records in {folder}: it and the folders in it have no sweep.json")
        return 1
    if to is not None:
        check_uri(to, "--to")
        check_store(to, "--to")
        note(to)
    codes = []
    for sweep, info in sound(sweeps, lambda sweep: (sweep, read_sweep(sweep))):
        if to is not None and info["tracking"]["uri"] != absolute(to):
            redirect(sweep, to)
        codes.append(sync_one(sweep))
    return max(codes) if len(codes) == len(sweeps) else 1


def agreed(sweep: Path) -> bool:
    """True if the user has named the store of a sweep.json before, or agrees to it now at a terminal."""
    uri = read_sweep(sweep)["tracking"]["uri"]
    if is_own(uri, sweep):
        return True
    what = f"{sweep}/sweep.json names MLflow at {mask(uri)!a}, where this account has not trained to"
    if sys.stdin.isatty() and confirm(f"{what}. Is it yours?"):
        note(uri)
        return True
    say(f"error: {what}: nothing was sent. If it is yours, name it: {sync_command(sweep)} --to URI")
    return False


def confirm(question: str) -> bool:
    """Ask a question at the terminal; return True only if the answer is yes."""
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def sync_one(sweep: Path) -> int:
    """Deliver one sweep folder, and say what was done.

    Returns:
        0 if everything is delivered, else 1.
    """
    if read_sweep(sweep)["tracking"]["uri"] is None:
        say(f"{sweep}: not meant for MLflow (tracking.uri=null)")
        return 0
    if not agreed(sweep):
        return 1
    try:
        with FileLock(sweep / LOCK, timeout=0):
            if read_sweep(sweep).get("shared") and held(sweep):
                raise Timeout(str(sweep / LOCK))
            delivery = Delivery(sweep, say)
            jobs = job_folders(sweep)
            try:
                delivery.deliver_all()
            except StoreError as error:
                say(f"error: {sweep}: MLflow at {delivery.uri} {verdict(error)}; "
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


def delete(folder: Path, yes: bool) -> int:
    """Remove a job folder or a sweep folder together with its runs in MLflow, once the user has agreed.

    The runs are deleted first: if the command dies in between, the folder is still there to repeat it.

    Args:
        yes: the user has agreed already.

    Returns:
        0 if both are removed, else 1.
    """
    folder = folder.resolve()
    whole = is_sweep(folder)
    sweep = folder if whole else folder.parent
    if not whole and not (is_job(folder) and is_sweep(sweep)):
        say(f"error: {folder}: neither a sweep folder nor a job folder; nothing was removed")
        return 1
    uri = read_sweep(sweep)["tracking"]["uri"]
    if uri is not None and not agreed(sweep):
        return 1
    try:
        with quiet(sweep):
            jobs = job_folders(sweep) if whole else [folder]
            runs = None if uri is None else open_runs(sweep)
            found = [] if runs is None else find_runs(runs, sweep, jobs, whole=whole)
            count = f"{len(jobs)} records" if len(jobs) != 1 else "1 record"
            what = f"{folder} with {count}, and {len(found)} of their runs in MLflow at {uri}"
            if not yes and not sys.stdin.isatty():
                say(f"{what}: to be removed with --yes; nothing was removed")
                return 1
            if not yes and not confirm(f"Remove {what}?"):
                say("nothing was removed")
                return 1
            if runs is not None:
                delete_runs(runs, found)
            shutil.rmtree(folder)
    except Timeout:
        say(f"error: {folder}: in use by a process that trains or delivers it; nothing was removed")
        return 1
    except StoreError as error:
        say(f"error: {folder}: its runs cannot be removed, so it stays: MLflow at {uri} says: {error}")
        return 1
    say(f"removed {what}")
    return 0 if whole or not found else sync_means(sweep)


def sync_means(sweep: Path) -> int:
    """Deliver a sweep's own runs again, whose means over seeds no longer have a trial that was removed.

    Returns:
        0 if they are delivered, else 1.
    """
    try:
        with FileLock(sweep / LOCK, timeout=0):
            Delivery(sweep, say).deliver([])
    except (StoreError, Timeout) as error:
        say(f"error: {sweep}: its means over seeds in MLflow are those with the removed trial ({error}); "
            f"{sync_command(sweep)} corrects them")  # fmt: skip
        return 1
    return 0


@contextmanager
def quiet(sweep: Path) -> Iterator[None]:
    """Lock a sweep folder that no process trains or delivers, until the block ends.

    Raises:
        filelock.Timeout: a process trains or delivers it.
    """
    if held(sweep):
        raise Timeout(str(sweep))
    with FileLock(sweep / ".lock", timeout=0.5), FileLock(sweep / LOCK, timeout=0):
        yield


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnbench.record",
        description="Show how far sweeps have come, deliver their records to MLflow, or remove both.",
    )
    commands = parser.add_subparsers(required=True, dest="command")
    about = (
        "Show the sweeps in FOLDER from their records, while they train or later: jobs by state, the best so "
        "far, the time left, failures with their reason."
    )
    zero = commands.add_parser("show", help="show how far sweeps have come", description=about)
    zero.add_argument("folder", type=Path, metavar="FOLDER")
    zero.add_argument("--watch", action="store_true", help="again each second, until no sweep runs")
    about = (
        "Print the command that trains the winner of the sweep in FOLDER again: of a grid the configuration "
        "with the best mean over its seeds, of a search its best trial. What it is stands on stderr."
    )
    winner = commands.add_parser("best", help="print the command that trains the winner", description=about)
    winner.add_argument("folder", type=Path, metavar="FOLDER")
    about = (
        "Deliver what MLflow does not have yet of the records in FOLDER: a sweep, a single run, or a folder "
        "of them such as multirun/. Each goes where its sweep.json says (tracking.uri when it was trained). "
        "Running it again delivers nothing twice. Exit code 1 if something could not be delivered."
    )
    one = commands.add_parser("sync", help="deliver records to MLflow", description=about)
    one.add_argument("folder", type=Path, metavar="FOLDER")
    one.add_argument("--to", metavar="URI", help="the MLflow store that they go to, from now on")
    one.add_argument(
        "--follow", action="store_true", help="used by a running sweep: deliver the jobs that stdin names"
    )
    about = (
        "Remove a job folder or a sweep folder, and its runs in MLflow. MLflow keeps deleted runs until "
        "`mlflow gc`. Nothing is removed as long as the folder is in use or MLflow does not answer."
    )
    two = commands.add_parser("delete", help="remove records and their runs together", description=about)
    two.add_argument("folder", type=Path, metavar="FOLDER")
    two.add_argument("--yes", action="store_true", help="do not ask")
    return parser.parse_args()


def main() -> int:
    """Run the command line; return its exit code."""
    given = arguments()
    tell = complain if given.command == "best" else say  # stdout of `best` is for a command
    open_streams()
    warnings.simplefilter("ignore")  # the user cannot act on warnings of libraries
    show_warnings()
    try:
        if given.command == "show":
            return show(given.folder, given.watch)
        if given.command == "best":
            return best(given.folder)
        if given.command == "delete":
            return delete(given.folder, given.yes)
        return follow(given.folder) if given.follow else sync(given.folder, given.to)
    except ConfigError as error:
        tell(f"error: {error}")
        return 1
    except OSError as error:  # the disk is full, or the folder may not be written
        tell(f"error: {given.folder}: {first_line(error)}; once that is mended, the same command goes on")
        return 1
    except KeyboardInterrupt:
        if given.command == "show":
            return 130
        say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
