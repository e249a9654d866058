"""A study that any number of processes share: who may ask, who works on what, what counts.

A worker leaves a lease in each trial that it runs, on whatever storage: who it is and when it was last
seen. Trials of dead workers are retired, and their parameters drawn again by whoever comes first; so
together the workers run exactly `n_trials`. Nothing else than the study is needed to agree on this.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rnnbench.config import ConfigError
from rnnbench.sweep.space import Parameter

IDENTITY = "rnnbench"  # the study's attribute that says what is searched
WORKER, SEEN, RETIRED, ATTEMPT = "worker", "seen", "retired", "attempt"  # attributes of trials
BEAT = 15.0  # seconds between two signs of life
LEASE = 60.0  # seconds without one after which a worker elsewhere counts as dead
ATTEMPTS = 3  # of a trial whose workers die; the last one counts as failed


@dataclass(frozen=True)
class Suggestion:
    """A trial of the study that this process runs."""

    number: int
    id: int  # the storage's
    overrides: tuple[str, ...]


class Study:
    """A study as one of its workers sees it.

    Args:
        storage: open.
        name: None: a name that nobody else has.
        identity: JSON types; what makes it another search, compared with what the study says.
        directions: one for each objective.
        n_trials: to be complete, pruned or failed in all.

    Raises:
        ConfigError: the study is there, but is another search.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str | None,
        identity: dict[str, Any],
        directions: Sequence[str],
        sampler: BaseSampler,
        pruner: BasePruner,
        n_trials: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = storage
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[StudyDirection[direction.upper()] for direction in directions],
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        self.n_trials = n_trials
        check_identity(self.study, identity, directions)
        if IDENTITY not in self.study.user_attrs:
            self.study.set_user_attr(IDENTITY, identity)
            check_identity(self.study, identity, directions)  # another process may have been as quick
        self.me = myself()
        self.running: dict[int, Suggestion] = {}  # of this process, by number
        self.swept = 0.0  # when dead workers were looked for
        self.over = threading.Event()
        if not isinstance(storage, InMemoryStorage):
            threading.Thread(target=self._beat, daemon=True).start()

    @property
    def name(self) -> str:
        """Its name in the storage."""
        return str(self.study.study_name)

    def trials(self) -> list[FrozenTrial]:
        """The trials that count: complete, pruned, failed, and under way in any process."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if counts(trial)]

    def done(self) -> list[FrozenTrial]:
        """The trials that count and have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def ask(self, point: Callable[[Trial], list[str]]) -> Suggestion | None:
        """The next trial to run; None if all are done or under way.

        Args:
            point: draws the trial's parameters, gives its overrides.
        """
        self.retire_dead()
        if len(self.trials()) >= self.n_trials:
            return None
        trial = self.study.ask()
        trial.set_user_attr(WORKER, self.me)
        suggestion = Suggestion(trial.number, trial._trial_id, tuple(point(trial)))
        # Several may have seen the last place free: it belongs to the lowest number.
        before = sum(other.number < trial.number for other in self.trials())
        if before >= self.n_trials:
            self.retire(self.storage.get_trial(suggestion.id), "surplus")
            return None
        self.running[suggestion.number] = suggestion
        return suggestion

    def tell(
        self,
        suggestion: Suggestion,
        state: TrialState,
        values: Sequence[float] | None,
        record: dict[str, Any],
    ) -> bool:
        """The end of a trial of this process.

        Args:
            record: JSON types; where it is recorded, and what it left.

        Returns:
            False if the study has given the trial up meanwhile, since this process seemed to be dead.
        """
        del self.running[suggestion.number]
        try:
            self.storage.set_trial_user_attr(suggestion.id, "record", record)
            self.study.tell(suggestion.number, values=values, state=state)
        except (UpdateFinishedTrialError, ValueError):
            if not self.storage.get_trial(suggestion.id).user_attrs.get(RETIRED):
                raise
            return False
        return True

    def report(self, suggestion: Suggestion, epoch: int, value: float) -> bool:
        """Tell the pruner what a trial has reached; whether it is to stop."""
        return report(self.study, self.storage, suggestion.id, epoch, value)

    def release(self) -> None:
        """Give up the trials of this process, for others to run again, and leave the study."""
        self.over.set()
        for suggestion in list(self.running.values()):
            self.retire(self.storage.get_trial(suggestion.id), "interrupted")
        self.running.clear()

    def retire(self, trial: FrozenTrial, why: str) -> None:
        """Take a running trial out of the count, and have its parameters drawn again."""
        attempt = trial.user_attrs.get(ATTEMPT, 1) + (why == "dead")
        again = attempt <= ATTEMPTS
        try:
            if again:
                self.storage.set_trial_user_attr(trial._trial_id, RETIRED, why)
            if not self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
                return
        except UpdateFinishedTrialError:  # another process was quicker
            return
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if again and params:
            self.study.enqueue_trial(params, user_attrs={ATTEMPT: attempt, "again": trial.number})

    def retire_dead(self) -> None:
        """Retire the trials of dead workers, if that has not been done just now."""
        if time.monotonic() - self.swept < 2.0 or isinstance(self.storage, InMemoryStorage):
            return
        self.swept = time.monotonic()
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [trial for trial in running if trial.number not in self.running and not alive(trial)]
        for trial in dead:
            self.retire(trial, "dead")

    def retired(self, why: str) -> list[FrozenTrial]:
        """The trials that do not count, for this reason."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get(RETIRED) == why]

    def _beat(self) -> None:
        """Say again and again that this process lives."""
        while not self.over.wait(BEAT):
            for suggestion in list(self.running.values()):
                try:
                    self.storage.set_trial_user_attr(suggestion.id, SEEN, time.time())
                except UpdateFinishedTrialError:  # has just ended
                    continue


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the n_trials."""
    return trial.state != TrialState.WAITING and not trial.user_attrs.get(RETIRED)


def report(study: optuna.Study, storage: BaseStorage, id: int, epoch: int, value: float) -> bool:
    """Tell the pruner of a study what a trial has reached after an epoch; whether it is to stop."""
    storage.set_trial_intermediate_value(id, epoch, value)
    return bool(study.pruner.prune(study, storage.get_trial(id)))


def suggest(trial: Trial, parameter: Parameter) -> Any:
    """A value of the parameter for this trial."""
    over = parameter.over
    if isinstance(over, CategoricalDistribution):
        return trial.suggest_categorical(parameter.name, over.choices)
    if isinstance(over, IntDistribution):
        return trial.suggest_int(parameter.name, over.low, over.high, step=over.step, log=over.log)
    assert isinstance(over, FloatDistribution)
    return trial.suggest_float(parameter.name, over.low, over.high, step=over.step, log=over.log)


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
        if known[what] != value:
            raise ConfigError(
                f"hydra.sweeper.study_name={name}: is there, with another {what}: "
                f"{_difference(known[what], value)}; give another name"
            )


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


def myself() -> dict[str, Any]:
    """This process, as a lease names it: numbers of processes are reused, their starts are not."""
    return {"host": host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def host() -> str:
    """This machine; containers on it have process numbers of their own."""
    numbers = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {numbers.stat().st_ino}" if numbers.exists() else "")


def alive(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial lives: seen by its process here, by its lease elsewhere."""
    worker = trial.user_attrs.get(WORKER)
    if worker is not None and worker["host"] == host():
        try:
            process = psutil.Process(worker["pid"])
            same: bool = abs(process.create_time() - worker["started"]) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    assert trial.datetime_start is not None
    seen = max(trial.user_attrs.get(SEEN, 0.0), trial.datetime_start.timestamp())
    return bool(time.time() - seen < LEASE)


def check_study(storage: BaseStorage, name: str, identity: dict[str, Any], directions: Sequence[str]) -> None:
    """Refuse a storage whose study of this name searches something else; makes nothing.

    Raises:
        ConfigError: names the study and what differs.
    """
    if name in optuna.get_all_study_names(storage):
        check_identity(optuna.load_study(study_name=name, storage=storage), identity, directions)
