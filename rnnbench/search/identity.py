"""Compares a search with what its study says it searches, and refuses to continue another search."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from rnnbench.config import ConfigError, is_off
from rnnbench.record import results

IDENTITY = "rnnbench"  # the study's attribute that describes the search
STUDY, NUMBER = "rnnbench.study", "rnnbench.number"  # tags of a record: its study, its number in it


def check_study(storage: BaseStorage, name: str, identity: dict[str, Any], directions: Sequence[str]) -> None:
    """Refuse a storage whose study of this name searches something else, and create no study.

    Raises:
        ConfigError: names the study and what differs.
    """
    if name in optuna.get_all_study_names(storage):
        check_identity(optuna.load_study(study_name=name, storage=storage), identity, directions)


def check_identity(study: optuna.Study, identity: dict[str, Any], directions: Sequence[str]) -> None:
    """Refuse to go on with a study that searches something else.

    Raises:
        ConfigError: names the study and what differs.
    """
    if differs := difference(study, identity, directions):
        raise ConfigError(
            f"hydra.sweeper.study_name={study.study_name}: is there, with {differs}; give another name"
        )


def check_earlier(
    study: optuna.Study, identity: dict[str, Any], directions: Sequence[str], said: str
) -> None:
    """Refuse to begin with what another study has found, if it searches something else.

    Args:
        said: the key and value that name the study.

    Raises:
        ConfigError: names the study and what differs.
    """
    if IDENTITY not in study.user_attrs:
        raise ConfigError(f"{said}: is no study of rnnbench")
    if differs := difference(study, identity, directions):
        raise ConfigError(f"{said}: has {differs}; only a study of the same search can be begun with")


def difference(study: optuna.Study, identity: dict[str, Any], directions: Sequence[str]) -> str | None:
    """Say how a study differs from a search; None if it does not."""
    theirs = [direction.name.lower() for direction in study.directions]
    if theirs != list(directions):
        return f"the directions {', '.join(theirs)}, not {', '.join(directions)}"
    known = study.user_attrs.get(IDENTITY, {})
    for what, value in json.loads(json.dumps(identity)).items():
        # Studies of earlier versions do not say everything; they had no constraints.
        there = known.get(what, [] if what == "constraint" and known else value)
        if _stated(there) != _stated(value):
            return f"another {what}: {_difference(there, value)}"
    return None


def check_records(storage: BaseStorage | None, name: str, folder: Path) -> None:
    """Refuse a folder with records that the study does not know, which its next trials would overwrite.

    Trial N of a study is recorded in the folders N, N.1, N.c0, and a study that is new, or whose storage was
    emptied, numbers its trials from 0.

    Args:
        storage: None if there is none yet.

    Raises:
        ConfigError: names a record, and the study that it belongs to.
    """
    found = results(folder)  # read before the study, since other workers may begin trials meanwhile
    if not found:
        return
    known: set[str] = set()
    if storage is not None and name in optuna.get_all_study_names(storage):
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        known = {str(trial.number) for trial in trials}
    strange = [
        job
        for job, result in found.items()
        if result["tags"].get(STUDY) != name or job.name.partition(".")[0] not in known
    ]
    if not strange:
        return
    study = found[strange[0]]["tags"].get(STUDY)
    of = "of no search" if study is None else f"of the study {study}"
    raise ConfigError(
        f"hydra.sweep.dir={folder}: holds {len(strange)} records that this study does not know "
        f"({strange[0].name} is {of}), and its trials would take their places; give a new folder, or the "
        "storage that knows them (hydra.sweeper.storage, hydra.sweeper.study_name)"
    )


def _stated(part: Any) -> Any:
    """Return a part of an identity without options that are off, which an earlier version may not have."""
    if not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if not is_off(key, value)}


def _item(item: Any) -> str:
    """Describe an item of an identity in a few words: for a parameter, its name and its values."""
    match item:
        case [name, {"attributes": {"choices": choices}}, _]:
            return f"{name} of {', '.join(map(str, choices))}"
        case [name, {"attributes": {"low": low, "high": high, **more}}, _]:
            step = f" in steps of {more['step']:g}" if more.get("step") not in (None, 1) else ""
            return f"{name} from {low:g} to {high:g}{step}{' (log)' if more.get('log') else ''}"
        case [name, str(value), _]:
            return f"{name}={value}"
    return str(item)


def _difference(there: Any, here: Any) -> str:
    """Describe in a few words where two parts of an identity differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        return ", ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys[:3])
    if isinstance(there, list) and isinstance(here, list):
        only_there = ", ".join(_item(item) for item in there if item not in here)
        only_here = ", ".join(_item(item) for item in here if item not in there)
        return f"there {only_there or 'less'}, here {only_here or 'less'}"
    return f"{there} there, {here} here"
