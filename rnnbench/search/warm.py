"""Copies the finished trials of an earlier study into a study, once over all its workers.

A copy is begun with the lease of its worker and ended at once. If several workers copy a trial, the copy with
the lowest number is kept; one whose worker has died is retired, and made again by another worker.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from rnnbench.search.lease import WORKER
from rnnbench.search.optuna_api import CONSTRAINT, study_id, trial_id
from rnnbench.search.study import EARLIER, RETIRED, Study

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
PAUSE = 0.2  # seconds between looks at what other workers copy


def copy_trials(study: Study, source: optuna.Study) -> None:
    """Copy the trials that have a result or were pruned, and wait for those that other workers copy."""
    found = source.get_trials(deepcopy=False, states=FINISHED)
    trials = {_origin(trial, source.study_name): trial for trial in found}
    while True:
        study.retire_dead(study.study.get_trials(deepcopy=False))
        copies = _copies(study)
        left = {origin: trial for origin, trial in trials.items() if origin not in copies}
        if left:
            _copy(study, left)
        elif all(copy.state.is_finished() for copy in copies.values()):
            return
        else:
            time.sleep(PAUSE)


def _copy(study: Study, trials: dict[tuple[str, int], FrozenTrial]) -> None:
    """Begin copies of trials, and end those that no other worker has begun before."""
    begun = {origin: _begin(study, origin, trial) for origin, trial in trials.items()}
    copies = _copies(study)
    for origin, id in begun.items():
        trial = trials[origin]
        if trial_id(copies[origin]) != id:
            study.retire(id, "surplus")
            continue
        with suppress(UpdateFinishedTrialError):  # retired, since this process seemed to be dead
            study.storage.set_trial_state_values(id, trial.state, trial.values)


def _begin(study: Study, origin: tuple[str, int], trial: FrozenTrial) -> int:
    record = {key: value for key, value in trial.user_attrs.items() if key == "record"}
    template = create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs={EARLIER: origin, WORKER: study.leases.me} | record,
        system_attrs={key: v for key, v in trial.system_attrs.items() if key.startswith(CONSTRAINT)},
    )
    return study.storage.create_new_trial(study_id(study.study), template)


def _copies(study: Study) -> dict[tuple[str, int], FrozenTrial]:
    """Return the copies in a study by the trial that each is of; of several the first."""
    copies: dict[tuple[str, int], FrozenTrial] = {}
    for trial in study.study.get_trials(deepcopy=False):
        if EARLIER in trial.user_attrs and not trial.user_attrs.get(RETIRED):
            copies.setdefault(_origin(trial, ""), trial)
    return copies


def _origin(trial: FrozenTrial, name: str) -> tuple[str, int]:
    """Return the study and number of the trial that this one is, or is a copy of."""
    study, number = trial.user_attrs.get(EARLIER, (name, trial.number))
    return study, number


def said_of(trials: Sequence[FrozenTrial]) -> str:
    """Say in a few words of which studies trials are copies."""
    names = sorted({trial.user_attrs[EARLIER][0] for trial in trials})
    return f"{len(trials)} trials of {', '.join(names)}"
