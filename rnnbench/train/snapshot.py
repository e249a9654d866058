"""A trial's snapshot on disk: replaced as a whole, and taken only if it is sound and this very trial's."""

import hashlib
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from rnnbench.nn.optimisers import State
from rnnbench.system import files
from rnnbench.train.stack import Slot, Snapshot

FILE = "checkpoint.pt"  # in the job folder, while the trial is under way
LAST = "last.pt"  # after the last epoch of a finished trial, if it was trained with fit.checkpoint_every
SLOT = [field.name for field in fields(Slot) if field.name != "config"]


class Unusable(Exception):
    """A snapshot that a trial cannot go on from; says why."""


def save(folder: Path, trial: Snapshot, made_by: dict[str, str], file: str = FILE) -> None:
    """Write a trial's snapshot to its job folder.

    Args:
        made_by: trial (its hash), device (cpu, or the name of a card) and kernel, for `load` to compare.
    """
    rows = {name: row.cpu().clone() for name, row in trial.rows.items()}  # a view takes its whole stack along
    slot = {name: getattr(trial.slot, name) for name in SLOT}
    held = {"made_by": made_by, "slot": slot, "rows": rows, "sha256": _digest(slot, rows)}
    files.write(folder / file, serialized(held))


def serialized(value: Any) -> bytes:
    """Return the file that torch.save makes of a value.

    `system.files` writes it, since torch.save itself raises an error of its own where the disk is full.
    """
    whole = io.BytesIO()
    torch.save(value, whole)
    return whole.getvalue()


def load(folder: Path, fresh: Snapshot, made_by: dict[str, str]) -> Snapshot:
    """Read the snapshot in a job folder.

    It has to be of the same trial, and of the same kernel, since others round differently; but trials move
    between the CPU and cards, where each has other kernels. An older snapshot does not name its device.

    Args:
        fresh: the trial before its first epoch, whose rows have the shapes that are expected.
        made_by: what `save` was given.

    Raises:
        Unusable: it is damaged, or another trial's, version's or kernel's.
    """
    theirs, slot, rows = _read(folder / FILE)
    moved = "device" in theirs and theirs["device"] != made_by["device"]
    for what in ("trial",) if moved else ("trial", "kernel"):
        value = made_by[what]
        if theirs.get(what) != value:
            raise Unusable(f"has another {what} ({theirs.get(what)}, not {value})")
    if list(slot) != SLOT or _shapes(rows) != _shapes(fresh.rows):
        raise Unusable("is of another version of rnnbench")
    return Snapshot(Slot(fresh.slot.config, **slot), rows)


def go_on_from(folder: Path, new: Path, made_by: dict[str, str]) -> None:
    """Copy the last snapshot of a finished trial to the folder of a trial that goes on with it.

    Args:
        made_by: of the trial that goes on; the snapshot has to be of the same device and kernel.

    Raises:
        Unusable: it is damaged, or another kernel's.
    """
    theirs, slot, rows = _read(folder / LAST)
    if {**theirs, "trial": None} != {**made_by, "trial": None}:
        raise Unusable(f"is of another kernel ({theirs.get('kernel')}, not {made_by['kernel']})")
    held = {"made_by": made_by, "slot": slot, "rows": rows, "sha256": _digest(slot, rows)}
    files.write(new / FILE, serialized(held))


def _read(file: Path) -> tuple[dict[str, str], dict[str, Any], State]:
    """Read a snapshot: what it was made by, the slot, the rows.

    Raises:
        Unusable: it is not there, or damaged.
    """
    try:
        content = io.BytesIO(files.read_bytes(file))
        held: dict[str, Any] = torch.load(content, weights_only=True, map_location="cpu")
        theirs, slot, rows, digest = (held[key] for key in ("made_by", "slot", "rows", "sha256"))
        sound = digest == _digest(slot, rows)
    except Exception as error:  # a damaged file may raise any exception
        raise Unusable(f"cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})") from None
    if not sound:
        raise Unusable("is damaged: its checksum does not match")
    return theirs, slot, rows


def _digest(slot: dict[str, Any], rows: State) -> str:
    """Compute the checksum of all that is in a snapshot: torch.load does not look at those of its archive."""
    digest = hashlib.sha256(repr(slot).encode())
    for name, row in rows.items():
        digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
        digest.update(row.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _shapes(rows: State) -> dict[str, Any]:
    return {name: (row.dtype, tuple(row.shape)) for name, row in rows.items()}
