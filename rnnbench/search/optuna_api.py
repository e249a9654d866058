"""Wraps the private parts of Optuna that rnnbench builds on: nothing else uses Optuna's private names.

Checked for Optuna 5.0.0. tests/test_adapters.py fails first when one of these parts changes.
"""

import logging
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

__all__ = ["BaseJournalFileLock"]

FIXED = "fixed_params"  # Optuna's system attribute for parameters that are given, not drawn

CONSTRAINT = "constraints:"  # begins Optuna's system attributes for constraints


def study_id(study: Study) -> int:
    """Return the number by which a storage knows a study."""
    return study._study_id


def trial_id(trial: Trial | FrozenTrial) -> int:
    """Return the number by which a storage knows a trial."""
    return trial._trial_id


def begin_trial(
    study: Study,
    storage: BaseStorage,
    trials: list[FrozenTrial],
    *,
    attributes: dict[str, Any],
    parameters: dict[str, Any] | None,
) -> Trial:
    """Begin a trial as Study.ask() does, but create it with its user attributes in one step.

    Args:
        trials: the study's trials, just read, so that the sampler does not read them again.
        attributes: the user attributes.
        parameters: the trial's parameters; None: the sampler draws them.
    """
    template = create_trial(
        state=TrialState.RUNNING,
        user_attrs=attributes,
        system_attrs={} if parameters is None else {FIXED: parameters},
    )
    study._thread_local.cached_all_trials = trials
    return Trial(study, storage.create_new_trial(study_id(study), template))


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that a trial was begun with; {} if the sampler draws them."""
    return dict(trial.system_attrs.get(FIXED, {}))


def set_constraint(storage: BaseStorage, id: int, name: str, excess: float) -> None:
    """Set a constraint of a running trial as Trial.set_constraint() does; at most 0 says that it is kept."""
    storage.set_trial_system_attr(id, f"{CONSTRAINT}{name}", excess)


def silence_database() -> None:
    """Keep the storage in a database from logging what it also raises."""
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
