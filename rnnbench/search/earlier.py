"""Finds another study, by its folder or by its name, to begin a search with what it has found."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import TrialState
from yaml import YAMLError

from rnnbench.config import ConfigError
from rnnbench.search.storage import file_of, open_storage

BEST = "best:"  # begins a point that is the best of another study
FILE = "multirun.yaml"  # the file in a search's folder that says where its study is kept


def winners_of(entry: str, folder: Path, storage: str | None) -> list[str]:
    """Return the points of an entry of hydra.sweeper.enqueue: itself, or the best of the study that it names.

    Args:
        folder: the folder of the search that is to begin.
        storage: the URL of its storage.

    Raises:
        ConfigError: there is no such study, or it has no result.
    """
    if not entry.startswith(BEST):
        return [entry]
    said = f"hydra.sweeper.enqueue={entry}"
    study = find_study(entry.removeprefix(BEST), folder, storage, said)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise ConfigError(f"{said}: no trial of this study has a result")
    single = len(study.directions) == 1
    best = [study.best_trial] if single else sorted(study.best_trials, key=lambda trial: trial.values)
    recorded = [trial.user_attrs.get("record", {}).get("overrides") for trial in best]
    if None in recorded:
        raise ConfigError(f"{said}: is no study of rnnbench; write its values as overrides")
    return [" ".join(overrides) for overrides in recorded]


def find_study(where: str, folder: Path, storage: str | None, said: str) -> optuna.Study:
    """Load a study by its folder, by the name of its folder beside that of the search, or by its name.

    Args:
        folder: the folder of the search that is to begin.
        storage: the URL of its storage, in which a name is looked up too.
        said: the key and value that name the study, for messages.

    Raises:
        ConfigError: there is no such study, or it was kept in memory.
    """
    for place, url, name in _places(where, folder, storage):
        if url is None:
            raise ConfigError(
                f"{said}: the study of {place} was kept in memory and is gone; a search with a "
                "hydra.sweeper.study_name leaves one"
            )
        file = file_of(url)
        if file is not None and not file.exists():
            continue
        there = open_storage(url)
        if name in optuna.get_all_study_names(there):
            return optuna.load_study(study_name=name, storage=there)
    raise ConfigError(
        f"{said}: there is no such study; give the folder of a search (multirun/NAME), or the name of "
        "a study in this search's storage"
    )


def _places(where: str, folder: Path, storage: str | None) -> Iterator[tuple[Path | str, str | None, str]]:
    """Generate where a study may be: what it is called in a message, its storage's URL, its name."""
    for place in (Path(where), folder.parent / where):
        if where and (place / FILE).is_file():
            yield place, *_kept(place)
    if storage is not None and where:
        yield storage, storage, where


def _kept(folder: Path) -> tuple[str | None, str]:
    """Read from the folder of a search where its study is kept: the storage's URL, and the study's name."""
    try:
        config: Any = OmegaConf.load(folder / FILE)
        keys = ("sweeper.study_name", "sweeper.storage", "runtime.cwd")
        name, url, command = (OmegaConf.select(config, f"hydra.{key}") for key in keys)
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{folder / FILE}: cannot be read ({error})") from None
    named = name or os.path.relpath(folder, command)
    if url is None:
        return None if name is None else f"journal:///{folder.absolute() / 'journal.log'}", named
    file = file_of(url)
    return url if file is None else url.replace(f":///{file}", f":///{Path(command) / file}"), named
