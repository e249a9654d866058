"""Loads code of one's own (files, entry points of installed packages), each again once it has changed."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from rnnbench.config.folders import conf_folder
from rnnbench.config.isolation import LOCK, Code
from rnnbench.config.metrics import METRICS
from rnnbench.config.optimisers import OPTIMISERS
from rnnbench.config.places import explained
from rnnbench.config.refusals import ConfigError
from rnnbench.config.registry import ACTIVE, REGISTERED, Entry, Key, Own, registered_twice
from rnnbench.config.schema import DATA
from rnnbench.config.sources import outside

LOADED: dict[str, list["Code"]] = {}  # by file or entry point, the one used last at the end
INSTALLED: set[EntryPoint] = set()  # those that were loaded


def _load(key: str, said: str, code: Code, point: EntryPoint | None = None) -> Code:
    """Return the code as it is now: what was loaded before if nothing has changed, else run `code`.

    Args:
        key: the code's key in LOADED.
        said: how a message names it.

    Raises:
        ConfigError: it raises; names file and line.
    """
    with LOCK:
        versions = LOADED.setdefault(key, [])
        same = next((known for known in versions if known.current), None)
        if same is not None:
            versions.remove(same)
            versions.append(same)
            return same
        importlib.invalidate_caches()  # a file may have been added just now
        try:
            with code.active():
                point.load() if point else code.run()
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{said}: {explained(error)}; correct the file (HYDRA_FULL_ERROR=1 shows the traceback)"
            ) from error
        with code.active():
            code.trace()
        versions.append(code)
        return code


def load_file(name: str) -> Code:
    """Return the code of a file in `rnnbench_import`."""
    path = Path(name).expanduser()
    try:
        path = path.resolve()
        path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"rnnbench_import={name}: cannot be read ({reason}); give a Python file") from None
    if path.suffix == ".ipynb":
        raise ConfigError(
            f"rnnbench_import={name}: is a notebook; save the cell that registers as a file NAME.py, or call "
            "rnnbench.run in the notebook"
        )
    return _load(str(path), f"rnnbench_import={name}", Code(str(path), path.stem, str(path.parent)))


@cache
def _points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of the packages in these folders; cached, since finding them is slow."""
    return tuple(entry_points(group="rnnbench"))


def plugins() -> list[Code]:
    """Load the entry points of installed packages; the code of those that are installed as editable.

    Raises:
        ConfigError: one cannot be loaded.
    """
    editable = []
    for point in _points(tuple(sys.path)):
        top = importlib.util.find_spec(point.module.partition(".")[0])
        places = (
            [top.origin] if top and top.origin else list(top.submodule_search_locations or []) if top else []
        )
        said = f"entry point {point.name} = {point.value}"
        if places and all(place is not None and outside(place) for place in places):
            file = str(places[0])
            editable.append(_load(point.value, said, Code(file, point.module, None), point))
        elif point not in INSTALLED:
            ACTIVE.package = point.dist
            try:
                point.load()
            except (Exception, SystemExit) as error:
                raise ConfigError(f"{said}: {explained(error)}; mend or uninstall the package") from error
            finally:
                ACTIVE.package = None
            INSTALLED.add(point)
    return editable


def entries_of(codes: Iterable[Code]) -> dict[Key, Entry]:
    """Return what the code of one trial has registered."""
    entries: dict[Key, Entry] = {}
    for code in codes:
        for key, entry in code.registered.items():
            entry = replace(entry, identity=code.identity)
            if key in entries and not entries[key].equals(entry):
                raise registered_twice(*key, entries[key], entry)
            entries[key] = entry
    return entries


def offer(files: Iterable[str]) -> dict[Key, Entry]:
    """Find what may be chosen where words name these files: what they, the user and packages have registered.

    Where two files that are alternatives in a sweep register one name, that of the later one.

    Raises:
        ConfigError: a file is not there, or raises.
    """
    found = entries_of(plugins()) | REGISTERED
    for name in files:
        found |= entries_of([load_file(name)])
    return found


def registered(kind: str, name: str) -> Entry | None:
    """Return what a name is bound to; else what the user or a package has registered under it."""
    if isinstance(name, Own) and name.entry is not None:
        return name.entry
    if (kind, name) in REGISTERED or is_ours(kind, name):
        return REGISTERED.get((kind, name))
    entries = entries_of(plugins())
    return entries.get((kind, name)) or REGISTERED.get((kind, name))


@cache
def is_ours(kind: str, name: str) -> bool:
    """True if rnnbench itself has a cell, an optimiser, a task or a metric of this name."""
    if kind in ("optimiser", "metric"):
        return name in (OPTIMISERS if kind == "optimiser" else METRICS)
    return name in DATA if kind == "task" else (conf_folder() / "model" / f"{name}.yaml").is_file()


def names(kind: str) -> list[str]:
    """Return the names under which code of one's own has registered something."""
    loaded = (key for versions in LOADED.values() for code in versions[-1:] for key in code.registered)
    return sorted({name for of, name in (*REGISTERED, *loaded) if of == kind})
