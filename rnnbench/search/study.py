"""A study that any number of processes share: who may ask, who works on what, what counts.

A worker leaves a lease in each trial that it runs, on whatever storage: who it is, and signs of life.
Trials of dead workers are retired, and their parameters run again by whoever comes first; so together the
workers run exactly `n_trials`. Nothing else than the study is needed to agree on this: what several may
have taken at once, a place or a point to run again, belongs to the trial with the lowest number, since a
storage numbers trials as it makes them.
"""

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rnnbench.search.identity import IDENTITY, check_identity
from rnnbench.search.optuna_api import begin_trial, fixed_parameters, trial_id
from rnnbench.search.retry import RetryingStorage, StorageAway
from rnnbench.search.space import Parameter

WORKER, SEEN, RETIRED = "worker", "seen", "retired"  # attributes of trials
AGAIN = "again"  # likewise: number of the trial whose parameters it was the first to have
BEAT = 15.0  # seconds between two signs of life
LEASE = 60.0  # seconds without one after which a worker elsewhere counts as dead
LEFT_AT = "left at"  # likewise: what an attempt went on from, once it trains; an equal value is no progress
ATTEMPTS = 3  # of a trial whose workers die, without progress; the last one counts as failed
GIVEN_UP = f"{ATTEMPTS} workers died while they trained it, none of them had a new checkpoint"
SWEEP = 2.0  # seconds between two looks for dead workers


@dataclass(frozen=True)
class Suggestion:
    """A trial of the study that this process runs."""

    number: int
    id: int  # the storage's
    overrides: tuple[str, ...]
    attempts: tuple[int, ...] = ()  # numbers of earlier trials with its parameters, latest first


class Study:
    """A study as one of its workers sees it.

    Args:
        storage: open.
        name: None: a name that nobody else has.
        identity: JSON types; what makes it another search, compared with what the study says.
        objectives: their names.
        directions: one for each objective.
        n_trials: to be complete, pruned or failed in all.

    Raises:
        ConfigError: the study is there, but is another search.
    """

    def __init__(
        self,
        storage: RetryingStorage,
        name: str | None,
        identity: dict[str, Any],
        objectives: Sequence[str],
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
        if self.study.metric_names is None:  # for Optuna's dashboard and pictures
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.study.set_metric_names(list(objectives))
        self.me = myself()
        self.running: dict[int, Suggestion] = {}  # of this process, by number
        self.signs: dict[int, tuple[Any, float]] = {}  # of life, by number: the last, and since when it is
        self.swept = -SWEEP  # when dead workers were looked for
        self.over = threading.Event()
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
        trials = self.study.get_trials(deepcopy=False)
        if self.retire_dead(trials):
            trials = self.study.get_trials(deepcopy=False)
        if sum(counts(trial) for trial in trials) >= self.n_trials:
            return None
        lost = to_run_again(trials)
        trial = self._begin(trials, lost)
        # Several may have seen the last place free, or have taken up the same point.
        if trial.number >= self.n_trials or lost is not None:
            before = [other for other in self.trials() if other.number < trial.number]
            if len(before) >= self.n_trials or (lost and any(origin(t) == origin(lost) for t in before)):
                self.retire(trial_id(trial), "surplus")
                return None if len(before) >= self.n_trials else self.ask(point)
        attempts = [other.number for other in reversed(trials) if lost and origin(other) == origin(lost)]
        suggestion = Suggestion(trial.number, trial_id(trial), tuple(point(trial)), tuple(attempts))
        self.running[suggestion.number] = suggestion
        return suggestion

    def _begin(self, trials: list[FrozenTrial], lost: FrozenTrial | None) -> Trial:
        """Begin a trial that has its lease from the moment that it is there.

        Args:
            trials: just read; the sampler does not read them again.
            lost: whose parameters it is to have.
        """
        return begin_trial(
            self.study,
            self.storage,
            trials,
            attributes={WORKER: self.me} | ({} if lost is None else {AGAIN: origin(lost)}),
            parameters=None if lost is None else parameters(lost),
        )

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
            trial = self.storage.get_trial(suggestion.id)
            if trial.user_attrs.get(RETIRED):
                return False
            if trial.state != state:  # else it was told, and the answer was lost
                raise
        return True

    def report(self, suggestion: Suggestion, epoch: int, value: float) -> bool:
        """Tell the pruner what a trial has reached; whether it is to stop."""
        return report(self.study, self.storage, suggestion.id, epoch, value)

    def left_at(self, suggestion: Suggestion, place: list[int]) -> None:
        """Note what an attempt goes on from: one number a run, another after every checkpoint."""
        self.storage.set_trial_user_attr(suggestion.id, LEFT_AT, place)

    def release(self) -> None:
        """Give up the trials of this process, for others to run again, and leave the study."""
        self.over.set()
        for suggestion in list(self.running.values()):
            self.retire(suggestion.id, "interrupted")
        self.running.clear()

    def retire(self, id: int, why: str) -> None:
        """Take a running trial out of the count; its parameters, as far as drawn, are to be run again."""
        try:
            self.storage.set_trial_user_attr(id, RETIRED, why)
            self.storage.set_trial_state_values(id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # another process was quicker
            return

    def retire_dead(self, trials: Sequence[FrozenTrial]) -> int:
        """Retire those that dead workers ran, if that has not been done just now; how many they were."""
        if time.monotonic() - self.swept < SWEEP:
            return 0
        self.swept = time.monotonic()
        dead = [trial for trial in trials if trial.state == TrialState.RUNNING and self._dead(trial)]
        for trial in dead:
            died = [t for t in trials if t.user_attrs.get(RETIRED) == "dead" and origin(t) == origin(trial)]
            there = left_at(trial)
            again = sum(left_at(other) == there for other in died)
            if there is None or again + 1 < ATTEMPTS:
                self.retire(trial_id(trial), "dead")
            else:
                with suppress(UpdateFinishedTrialError):
                    self.storage.set_trial_user_attr(trial_id(trial), "record", {"error": GIVEN_UP})
                    self.storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
        return len(dead)

    def _dead(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a running trial any more.

        A worker elsewhere is given a lease from when its last sign of life was first seen here: clocks of
        machines differ, and while the storage is away nobody can leave a sign.
        """
        if trial.user_attrs.get(WORKER) == self.me:  # made by a call whose answer was lost, if not ours
            return trial.number not in self.running
        if (here := runs_here(trial)) is not None:
            return not here
        sign, now = trial.user_attrs.get(SEEN), time.monotonic()
        last, since = self.signs.get(trial.number, (sign, now))
        self.signs[trial.number] = (sign, since if sign == last else now)
        return now - max(self.signs[trial.number][1], self.storage.back) > LEASE

    def left(self) -> dict[int, str | None]:
        """Numbers of the trials that dead workers left; to each, why nobody is to run it again, if so."""
        found: dict[int, str | None] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.user_attrs.get(RETIRED) == "dead":
                found[trial.number] = None
            elif trial.user_attrs.get("record") == {"error": GIVEN_UP} and trial.state == TrialState.FAIL:
                found[trial.number] = GIVEN_UP
        return found

    def _beat(self) -> None:
        """Say again and again that this process lives."""
        while not self.over.wait(BEAT):
            for suggestion in list(self.running.values()):
                try:
                    self.storage.set_trial_user_attr(suggestion.id, SEEN, time.time())
                except UpdateFinishedTrialError:  # has just ended
                    continue
                except StorageAway:  # the search is given up by the thread that runs it
                    return


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the n_trials."""
    return trial.state != TrialState.WAITING and not trial.user_attrs.get(RETIRED)


def origin(trial: FrozenTrial) -> int:
    """Number of the first trial that had its parameters."""
    return int(trial.user_attrs.get(AGAIN, trial.number))


def left_at(trial: FrozenTrial) -> list[int] | None:
    """What an attempt went on from; None: it has not come so far. The first one has nothing to look for."""
    place: list[int] | None = trial.user_attrs.get(LEFT_AT, None if AGAIN in trial.user_attrs else [])
    return place


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial was given, as far as it was drawn."""
    return trial.params or fixed_parameters(trial)


def to_run_again(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The first trial that does not count, and whose parameters no other trial has that does."""
    taken = {origin(trial) for trial in trials if counts(trial)}
    lost = (trial for trial in trials if not counts(trial) and parameters(trial))
    return next((trial for trial in lost if origin(trial) not in taken), None)


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


def myself() -> dict[str, Any]:
    """This process, as a lease names it: numbers of processes are reused, their starts are not."""
    return {"host": host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def host() -> str:
    """This machine; containers on it have process numbers of their own."""
    numbers = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {numbers.stat().st_ino}" if numbers.exists() else "")


def runs_here(trial: FrozenTrial) -> bool | None:
    """Whether the worker of a trial lives on this machine; None: it is one of another machine."""
    worker = trial.user_attrs.get(WORKER)
    if worker is None or worker["host"] != host():
        return None
    try:
        process = psutil.Process(worker["pid"])
        same: bool = abs(process.create_time() - worker["started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
