"""What a study searches, as it says itself: a command with another search is refused."""

import json
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage

from rnnbench.config import ConfigError

IDENTITY = "rnnbench"  # the study's attribute that says what is searched


def check_study(storage: BaseStorage, name: str, identity: dict[str, Any], directions: Sequence[str]) -> None:
    """Refuse a storage whose study of this name searches something else; makes nothing.

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
    name = study.study_name
    theirs = [direction.name.lower() for direction in study.directions]
    if theirs != list(directions):
        raise ConfigError(
            f"hydra.sweeper.study_name={name}: is there, and goes to {', '.join(theirs)}, "
            f"not to {', '.join(directions)}; give another name"
        )
    known = study.user_attrs.get(IDENTITY)
    if known is None:
        return
    for what, value in json.loads(json.dumps(identity)).items():
        there = known.get(what, value)  # studies of earlier versions do not say everything
        if _stated(there) != _stated(value):
            raise ConfigError(
                f"hydra.sweeper.study_name={name}: is there, with another {what}: "
                f"{_difference(there, value)}; give another name"
            )


def _stated(part: Any) -> Any:
    """A part of an identity without options that are off: an earlier version may not have had them."""
    if not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if value is not None and value is not False}


def _difference(there: Any, here: Any) -> str:
    """Where two parts of an identity differ, in few words."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        return ", ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys[:3])
    if isinstance(there, list) and isinstance(here, list):
        only_there = ", ".join(str(item) for item in there if item not in here)
        only_here = ", ".join(str(item) for item in here if item not in there)
        return f"there {only_there or 'less'}, here {only_here or 'less'}"
    return f"{there} there, {here} here"
