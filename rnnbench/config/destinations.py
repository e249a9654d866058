"""Remembers the MLflow stores that this user has named, in a file of the user's own.

A sweep.json says where its records go. One that came from somebody else may name any host, or any file:
`record sync` sends records, and the user's credentials for MLflow, only to a store that the user has named.
"""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from rnnbench.config.uris import absolute, driven, sqlite_file


def note(uri: str) -> None:
    """Remember a store that the user has named. Where nothing can be written, `record sync` asks."""
    file = _file()
    if file is None or _destination(uri) in _noted():
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as noted:
            noted.write(_destination(uri) + "\n")


def is_own(uri: str, sweep: Path) -> bool:
    """True if the user has named the store of a sweep folder, or it is a file in a folder above."""
    file = sqlite_file(uri)
    if file is not None and file.resolve().parent in (sweep.resolve(), *sweep.resolve().parents):
        return True
    if not uri.isprintable():  # parsers do not agree on what is to be ignored
        return False
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return _destination(uri) in _noted() or (bool(named) and _destination(uri) == _destination(str(named)))


def _destination(uri: str) -> str:
    """Return what credentials go to: of a server its address, else the whole URI."""
    url = urlsplit(uri)
    return (
        f"{url.scheme}://{url.netloc.lower()}" if url.scheme in ("http", "https") else driven(absolute(uri))
    )


def _file() -> Path | None:
    """Return the file of destinations; None for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "rnnbench", "destinations") if os.path.isabs(state) else None


def _noted() -> set[str]:
    file = _file()
    try:
        return set() if file is None else set(file.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return set()
