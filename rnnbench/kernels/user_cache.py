"""Keeps compiled libraries in the user's cache folder, so that each is built once, whichever process asks.

A library's file is KEY-CHECKSUM.so: what it is made of, and what it contains. A file that does not contain
what its name says is built again.
"""

import ctypes
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock

from rnnbench import terminal
from rnnbench.system.files import write

UNUSED = 90 * 24 * 3600.0  # seconds after which a library that nothing has loaded is removed
PATIENCE = 60.0  # seconds that a process waits for another one to build the same library


def folder() -> Path | None:
    """Return the folder of the libraries; None for a user without a home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "rnnbench", "kernels") if os.path.isabs(cache) else None


def load(key: str, build: Callable[[Path], None]) -> ctypes.CDLL:
    """Load the library of this key; if the user's cache folder does not have it, build it.

    Of several processes that ask at once, one builds, and the others wait for it. A library that cannot be
    kept serves this process alone.

    Args:
        build: writes the library to a path, or raises.

    Raises:
        OSError: the library cannot be written anywhere, or not be loaded.
    """
    place = folder()
    kept = None if place is None else _kept(place, key)
    if kept is not None:
        return kept
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="rnnbench-") as made:
        unkept = None if place else "there is no home"
        if place:
            try:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(FileLock(place / f"{key}.lock", timeout=PATIENCE))
                kept = _kept(place, key)  # another process may have built it meanwhile
                if kept is not None:
                    return kept
            except (OSError, NotImplementedError) as error:  # the latter: the disk has no locks
                unkept = str(error)
        library = Path(made, "kernels.so")
        build(library)
        if place and unkept is None:
            try:
                library = _keep(place, key, library.read_bytes())
            except OSError as error:
                unkept = str(error)
        if unkept:
            terminal.warn(f"the kernels serve this process alone, and cannot be kept for the next: {unkept}")
        return ctypes.CDLL(str(library))


def _kept(place: Path, key: str) -> ctypes.CDLL | None:
    """Load the library of this key if it is there and whole."""
    for file in place.glob(f"{key}-*.so"):
        try:
            if file.name == _name(key, file.read_bytes()):
                loaded = ctypes.CDLL(str(file))
                os.utime(file)
                return loaded
        except OSError:  # removed meanwhile; or of a newer machine, on a disk that both share
            continue
    return None


def _keep(place: Path, key: str, content: bytes) -> Path:
    """Write a library to the folder, in place of others of its key; remove what nothing has used for long."""
    library = place / _name(key, content)
    write(library, content)
    now = time.time()
    for file in place.iterdir():
        same = file.name.startswith(f"{key}-") and file != library
        if same or now - file.stat().st_mtime > UNUSED:
            file.unlink(missing_ok=True)
    return library


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:16]}.so"
