"""Keeps snapshots of jobs in their folders, from which interrupted jobs go on."""

import os
from pathlib import Path

from rnnbench.kernels import kernel_name
from rnnbench.kernels.gpu import cards
from rnnbench.record import previous, read_metrics
from rnnbench.sweep.job import Job
from rnnbench.system.files import DamagedFile, set_aside
from rnnbench.train import snapshot
from rnnbench.train.stack import Snapshot


def keep(job: Job, trial: Snapshot) -> None:
    """Write the snapshot of a job to its folder, and replace an earlier one."""
    snapshot.save(job.folder, trial, _made_by(job))


def keep_last(job: Job, trial: Snapshot) -> None:
    """Write the snapshot of a finished job, from which the same trial goes on if fit.epochs is raised."""
    snapshot.save(job.folder, trial, _made_by(job), snapshot.LAST)


def go_on_from(job: Job, origin: Path) -> None:
    """Give a job the last snapshot of a finished one, the same trial with fewer epochs.

    Raises:
        Unusable: says why it cannot go on from there.
    """
    snapshot.go_on_from(origin, job.folder, _made_by(job))


def drop(job: Job) -> None:
    """Remove the snapshot of a job that has ended."""
    (job.folder / snapshot.FILE).unlink(missing_ok=True)


def find(job: Job, fresh: Snapshot) -> Snapshot:
    """Return the snapshot that a job goes on from: the one in its folder, or `fresh` if there is none.

    A snapshot that is damaged, of another trial or kernel, or of epochs that metrics.csv does not have, is
    renamed and not used. One of a card is used on the CPU or another card, and one of the CPU on a card.

    Args:
        fresh: the trial before its first epoch.
    """
    file = job.folder / snapshot.FILE
    if not os.path.lexists(file):
        return fresh
    try:
        found = snapshot.load(job.folder, fresh, _made_by(job))
        if previous(job.folder) is None or not _recorded(job, found.slot.epoch):
            raise snapshot.Unusable("has epochs that are not recorded")
    except snapshot.Unusable as error:
        set_aside(DamagedFile(file, str(error)), "the trial starts over")
        return fresh
    return found


def _made_by(job: Job) -> dict[str, str]:
    """Return the trial, device and kernel that a job's snapshot is compared with, see `snapshot.load`."""
    device = job.placed.fit.device
    place = device if device == "cpu" else cards.card(device).name
    return {"trial": job.trial, "device": place, "kernel": kernel_name(job.placed)}


def _recorded(job: Job, epochs: int) -> bool:
    """Return whether metrics.csv has the rows of all epochs up to this number."""
    try:
        rows = read_metrics(job.folder)
    except DamagedFile as error:
        set_aside(error, "the trial starts over")
        return False
    return [row["epoch"] for row in rows[:epochs]] == list(range(1, epochs + 1))
