"""Finds records of finished trials by trial hash, with an index in the folder that the sweeps lie in.

The index is a cache: what it says of a folder counts as long as the folder's times are those that it knows.
A record that was changed since is read again by whoever uses it. Processes that write it at once replace it
as a whole, and the last one's stays.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rnnbench.job_state import JobState
from rnnbench.system.files import DamagedFile, read_json, write

FILE = ".records.json"
FORMAT = 1
SETTLED = 2_000_000_000  # ns after which a second change of a folder has another time
DEEP = 6  # folders below multirun/ or outputs/ in which sweeps are looked for
AGAIN = 5.0  # seconds between two looks at the folders
Stamp = list[int]


class Index:
    """The finished records in the sweeps below a folder.

    Args:
        root: the folder.
        depth: how far below it a sweep may lie; 0: it is a sweep itself, which needs no file.
    """

    def __init__(self, root: Path, depth: int) -> None:
        self.root, self.depth = root, depth
        self.sweeps: dict[str, Any] = {}  # by path: stamp, whether it has ended, jobs
        self.folders: dict[str, Any] = {}  # by path: time, names of the folders in it
        self.made = 0  # when it was written, ns
        self.looked = -AGAIN
        self.trials: dict[str, list[Path]] = {}  # job folders by trial hash
        self.epochs: set[int] = set()  # values of fit.epochs
        if depth:
            self._read()

    def find(self, trial: str) -> list[Path]:
        """Return the job folders that held a finished record of a trial when the folders were looked at."""
        return self.trials.get(trial, [])

    def refresh(self) -> None:
        """Look at what has changed in the folders, unless just done, and write the index if anything has."""
        if time.monotonic() - self.looked < AGAIN:
            return
        before = (self.sweeps, self.folders)
        try:
            self._look(*before)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # an index of another form
            before = ({}, {})
            self._look(*before)
        if before != (self.sweeps, self.folders) and self.depth:
            self._write()
        self.looked = time.monotonic()

    def _look(self, sweeps: dict[str, Any], folders: dict[str, Any]) -> None:
        """Look through the folders.

        Args:
            sweeps, folders: what is known of them.
        """
        made = time.time_ns()
        self.sweeps, self.folders = {}, {}
        for path in self._walk("", self.depth, folders):
            self.sweeps[path] = self._sweep(path, sweeps.get(path))
        self.made = made
        self.trials, self.epochs = {}, set()
        for path, sweep in self.sweeps.items():
            for name, (_, trial, epochs) in sweep["jobs"].items():
                if trial is not None:
                    self.trials.setdefault(trial, []).append(self.root / path / name)
                    self.epochs.add(epochs)

    def _read(self) -> None:
        try:
            kept = read_json(self.root / FILE)
            if kept["format"] == FORMAT and kept["depth"] == self.depth:
                self.made, self.sweeps, self.folders = (kept[key] for key in ("made", "sweeps", "folders"))
        except (FileNotFoundError, NotADirectoryError, DamagedFile, KeyError, TypeError):
            pass  # made again

    def _write(self) -> None:
        whole = {"format": FORMAT, "depth": self.depth, "made": self.made}
        with suppress(OSError):  # a folder that may not be written, a full disk: it is a cache
            write(self.root / FILE, json.dumps(whole | {"sweeps": self.sweeps, "folders": self.folders}))

    def _walk(self, path: str, depth: int, known: dict[str, Any]) -> Iterator[str]:
        """Generate the paths of the sweeps at or below a path, down to a depth."""
        folder = self.root / path if path else self.root
        if os.path.exists(f"{folder}/sweep.json"):
            yield path
        elif depth:
            for name in self._inner(path, str(folder), known):
                yield from self._walk(f"{path}/{name}" if path else name, depth - 1, known)

    def _inner(self, path: str, folder: str, known: dict[str, Any]) -> list[str]:
        """Return the names of the folders in a folder; they are listed again if its time is another."""
        try:
            changed = os.stat(folder).st_mtime_ns
            before = known.get(path)
            if before is None or before[0] != changed or changed > self.made - SETTLED:
                with os.scandir(folder) as found:
                    names = sorted(
                        each.name
                        for each in found
                        if not each.name.startswith(".") and each.is_dir(follow_symlinks=False)
                    )
                before = [changed, names]
        except OSError:  # gone, or not to be read
            return []
        self.folders[path] = before
        return list(before[1])

    def _sweep(self, path: str, known: dict[str, Any] | None) -> dict[str, Any]:
        """Return the entry of a sweep folder; of one that has ended and is unchanged, what is known."""
        folder = str(self.root / path)
        stamp = [*_stamp(f"{folder}/sweep.json"), *_stamp(folder)[:1]]
        settled = known is not None and known["stamp"] == stamp and known["ended"]
        if known is not None and settled and stamp[0] < self.made - SETTLED:
            return known
        jobs = {} if known is None else known["jobs"]
        try:
            status = read_json(Path(folder, "sweep.json")).get("status")
            with os.scandir(folder) as found:
                names = [each.name for each in found if each.is_dir() and not each.name.startswith(".")]
        except (OSError, DamagedFile):
            return {"stamp": stamp, "ended": False, "jobs": {}}
        entries = {name: _job(f"{folder}/{name}/result.json", jobs.get(name)) for name in names}
        ended = status in (JobState.finished.value, JobState.failed.value)
        return {"stamp": stamp, "ended": ended, "jobs": {k: v for k, v in entries.items() if v}}


def _job(file: str, known: list[Any] | None) -> list[Any] | None:
    """Return stamp, trial hash and epochs of a record, the hash as None unless it is finished."""
    stamp = _stamp(file)
    if not stamp:
        return None
    if known is not None and known[0] == stamp:
        return known
    try:
        result = read_json(Path(file))
        if result["status"] == JobState.finished:
            return [stamp, str(result["trial"]), int(result["params"]["fit.epochs"])]
    except (FileNotFoundError, DamagedFile, KeyError, TypeError, ValueError):
        pass  # half-written, damaged or another tool's
    return [stamp, None, 0]


def _stamp(file: str) -> Stamp:
    """Return time, size and number of a file, by which a change shows; [] if it is not there."""
    try:
        about = os.stat(file)
    except OSError:
        return []
    return [about.st_mtime_ns, about.st_size, about.st_ino]


def roots(folder: Path) -> list[tuple[Path, int]]:
    """Return the folders in which records of earlier sweeps are looked for, each with how deep.

    All sweeps below multirun/ and outputs/ in the working directory, and below the nearest folder of one of
    these names that the sweep lies in. A sweep that lies elsewhere has its own folder besides.

    Args:
        folder: the sweep folder.
    """
    whole = folder.resolve()
    named = [Path(name).resolve() for name in ("multirun", "outputs")]
    named += [above for above in whole.parents if above.name in ("multirun", "outputs")][:1]
    deep = [root for root in dict.fromkeys(named) if root.is_dir()]
    if any(whole.is_relative_to(root) for root in deep):
        return [(root, DEEP) for root in deep]
    return [*((root, DEEP) for root in deep), (whole, 0)]
