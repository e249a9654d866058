"""A study that any number of processes share: asks for trials, tells their results, and counts them.

Trials whose worker is dead (`rnnbench.search.lease`) are retired, and the next worker that asks runs their
parameters again; so together the workers run exactly `n_trials`. They agree on this through the study
alone: if several have taken the last place, or the same parameters to run again, the trial with the
lowest number keeps it, since a storage numbers trials in the order in which it creates them.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rnnbench.search.ending import Ending
from rnnbench.search.identity import IDENTITY, check_identity
from rnnbench.search.lease import WORKER, Heartbeat, Leases, myself
from rnnbench.search.optuna_api import begin_trial, fixed_parameters, set_constraint, trial_id
from rnnbench.search.retry import RetryingStorage
from rnnbench.search.space import Parameter

# Attributes of trials
RETIRED = "retired"  # why the trial does not count
AGAIN = "again"  # its origin: the number of the first trial that had its parameters, or a known point
EARLIER = "earlier"  # the study and number of the trial that this one is a copy of, which does not count
LEFT_AT = "left at"  # where an attempt began: the times of its snapshots, which members have finished; equal
# places show no progress

ATTEMPTS = 3  # attempts without progress after which a trial whose workers die counts as failed
GIVEN_UP = f"{ATTEMPTS} workers died while they trained it, none of them had a new checkpoint"
LOOK = 2.0  # seconds between two looks for dead workers


@dataclass(frozen=True)
class Given:
    """Parameters that a trial is begun with; the sampler draws those that are missing."""

    origin: int | str  # what all trials share that were begun with them
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Suggestion:
    """A trial of the study that this process trains."""

    number: int
    id: int  # the storage's id of the trial
    overrides: tuple[str, ...]
    attempts: tuple[int, ...] = ()  # numbers of earlier trials with its parameters, latest first


class Study:
    """One worker's view of a study.

    Args:
        storage: the open storage.
        name: the study's name; None gives it a name that no other study has.
        identity: JSON types; a study with another identity is another search.
        objectives: the names of the objectives.
        directions: maximize or minimize, one for each objective.
        n_trials: number of trials of all workers that are complete, pruned or failed in the end.

    Raises:
        ConfigError: a study of this name exists, but is another search.
    """

    def __init__(
        self,
        storage: RetryingStorage,
        name: str | None,
        *,
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
        self.points: int | None = None  # points of a finite space, after which the study ends
        self.known: Sequence[Given] = ()  # points to train first
        self.ending: Ending | None = None  # None: it ends after its n_trials
        check_identity(self.study, identity, directions)
        if IDENTITY not in self.study.user_attrs:
            self.study.set_user_attr(IDENTITY, identity)
            check_identity(self.study, identity, directions)  # another process may have set it too
        if self.study.metric_names is None:  # for Optuna's dashboard and pictures
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.study.set_metric_names(list(objectives))
        self.running: dict[int, Suggestion] = {}  # this process's trials, by number
        self.leases = Leases(storage, myself())
        self.heartbeat = Heartbeat(storage, lambda: [s.id for s in list(self.running.values())])
        self.looked = -LOOK  # when dead workers were last looked for, on the monotonic clock

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return str(self.study.study_name)

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that count: complete, pruned, failed, or running in any process."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if counts(trial)]

    def done(self) -> list[FrozenTrial]:
        """Return the trials that count and have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def earlier(self) -> list[FrozenTrial]:
        """Return the trials of an earlier study that the sampler was told of."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if is_earlier(trial) and trial.state.is_finished()]

    def over(self) -> str | None:
        """Return why no further trial is begun although n_trials are not done; None if one is."""
        return self._over(self.done(), self.earlier())

    def _over(self, ended: Sequence[FrozenTrial], earlier: Sequence[FrozenTrial]) -> str | None:
        if self.points is not None and _distinct([*ended, *earlier]) >= self.points:
            return f"all {self.points} points of the space are trained"
        return None if self.ending is None else self.ending.reason(ended, earlier)

    def used_up(self) -> bool:
        """Return whether every point of a finite space has a trial that has ended."""
        return self.points is not None and _distinct([*self.done(), *self.earlier()]) >= self.points

    def ask(self, point: Callable[[Trial], list[str]]) -> Suggestion | None:
        """Return the next trial to run; None if all are done or running, or the search ends before.

        Args:
            point: draws the trial's parameters and returns its overrides.
        """
        trials = self.study.get_trials(deepcopy=False)
        if self.retire_dead(trials):
            trials = self.study.get_trials(deepcopy=False)
        counted = [trial for trial in trials if counts(trial)]
        ended = [trial for trial in trials if trial.state.is_finished()]
        over = self._over(list(filter(counts, ended)), list(filter(is_earlier, ended)))
        if len(counted) >= self.n_trials or over:
            return None
        given = to_run_again(trials) or to_run_first(self.known, counted)
        attempts = [other.number for other in reversed(trials) if given and origin(other) == given.origin]
        trial = self._begin(trials, given, not attempts)
        # Several workers may have taken the last place, or the same parameters.
        if trial.number >= self.n_trials or given is not None:
            before = [other for other in self.trials() if other.number < trial.number]
            if len(before) >= self.n_trials or (given and any(origin(t) == given.origin for t in before)):
                self.retire(trial_id(trial), "surplus")
                return None if len(before) >= self.n_trials else self.ask(point)
        suggestion = Suggestion(trial.number, trial_id(trial), tuple(point(trial)), tuple(attempts))
        self.running[suggestion.number] = suggestion
        return suggestion

    def _begin(self, trials: list[FrozenTrial], given: Given | None, first: bool) -> Trial:
        """Begin a trial, which is created with its lease in one step.

        Args:
            trials: the study's trials, just read, so that the sampler does not read them again.
            given: the parameters that it gets; None: all are drawn.
            first: whether no trial was begun with them before.
        """
        attributes: dict[str, Any] = {WORKER: self.leases.me}
        if given is not None:
            attributes |= {AGAIN: given.origin} | ({LEFT_AT: []} if first else {})
        parameters = None if given is None else given.parameters
        return begin_trial(self.study, self.storage, trials, attributes=attributes, parameters=parameters)

    def tell(
        self,
        suggestion: Suggestion,
        state: TrialState,
        values: Sequence[float] | None,
        record: dict[str, Any],
    ) -> bool:
        """Tell the study how a trial of this process ended.

        Args:
            record: JSON types: the trial's folder, overrides, jobs, epochs and seconds, or its error.

        Returns:
            False if another worker has retired the trial meanwhile, since this process seemed to be dead.
        """
        del self.running[suggestion.number]
        try:
            self.storage.set_trial_user_attr(suggestion.id, "record", record)
            for name, excess in record.get("constraints", {}).items():
                set_constraint(self.storage, suggestion.id, name, excess)
            self.study.tell(suggestion.number, values=values, state=state)
        except (UpdateFinishedTrialError, ValueError):
            trial = self.storage.get_trial(suggestion.id)
            if trial.user_attrs.get(RETIRED):
                return False
            if trial.state != state:  # equal if an earlier call was carried out, but its answer lost
                raise
        return True

    def report(self, suggestion: Suggestion, epoch: int, value: float) -> bool:
        """Report a trial's value after an epoch to the pruner; return whether the trial is to stop."""
        return report(self.study, self.storage, suggestion.id, epoch, value)

    def left_at(self, suggestion: Suggestion, place: list[int]) -> None:
        """Note the times of the snapshots that an attempt goes on from, one for each job."""
        self.storage.set_trial_user_attr(suggestion.id, LEFT_AT, place)

    def release(self) -> None:
        """Retire the trials of this process, so that others run them again, and stop renewing leases."""
        self.heartbeat.stop()
        for suggestion in list(self.running.values()):
            self.retire(suggestion.id, "interrupted")
        self.running.clear()

    def retire(self, id: int, why: str) -> None:
        """End a running trial so that it does not count; its parameters, as far as drawn, are run again."""
        try:
            self.storage.set_trial_user_attr(id, RETIRED, why)
            self.storage.set_trial_state_values(id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # another process was quicker
            return

    def retire_dead(self, trials: Sequence[FrozenTrial]) -> int:
        """Retire the trials of dead workers, at most every LOOK seconds; return how many there were."""
        if time.monotonic() - self.looked < LOOK:
            return 0
        self.looked = time.monotonic()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        dead = [trial for trial in running if self.leases.expired(trial, self.running)]
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

    def left(self) -> dict[int, str | None]:
        """Return the trials of dead workers by number, each with its error, or None if it is run again."""
        found: dict[int, str | None] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.user_attrs.get(RETIRED) == "dead":
                found[trial.number] = None
            elif trial.user_attrs.get("record") == {"error": GIVEN_UP} and trial.state == TrialState.FAIL:
                found[trial.number] = GIVEN_UP
        return found


def counts(trial: FrozenTrial) -> bool:
    """Return whether a trial is one of the n_trials."""
    own = not trial.user_attrs.get(RETIRED) and EARLIER not in trial.user_attrs
    return own and trial.state != TrialState.WAITING


def is_earlier(trial: FrozenTrial) -> bool:
    """Return whether a trial is a copy of one of an earlier study."""
    return EARLIER in trial.user_attrs and not trial.user_attrs.get(RETIRED)


def _distinct(trials: Sequence[FrozenTrial]) -> int:
    """Count the points that trials are of."""
    return len({repr(sorted((name, _place(trial, name)) for name in trial.params)) for trial in trials})


def _place(trial: FrozenTrial, name: str) -> Any:
    """Return a trial's value of a parameter; in a range of floats, whose sums samplers round, its place."""
    value, over = trial.params[name], trial.distributions[name]
    if isinstance(over, FloatDistribution) and over.step is not None:
        return round((value - over.low) / over.step)
    return value


def origin(trial: FrozenTrial) -> int | str:
    """Return what all trials share that were begun with a trial's parameters."""
    start: int | str = trial.user_attrs.get(AGAIN, trial.number)
    return start


def left_at(trial: FrozenTrial) -> list[int] | None:
    """Return the times of the snapshots that an attempt began from.

    They are [] for a first attempt, and None for a later one that has not begun to train.
    """
    place: list[int] | None = trial.user_attrs.get(LEFT_AT, None if AGAIN in trial.user_attrs else [])
    return place


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's parameters, as far as they were drawn."""
    return fixed_parameters(trial) | trial.params


def to_run_again(trials: Sequence[FrozenTrial]) -> Given | None:
    """Return the parameters that a trial lost and no counting trial has, or None."""
    taken = {origin(trial) for trial in trials if counts(trial)}
    lost = (t for t in trials if not counts(t) and EARLIER not in t.user_attrs and parameters(t))
    return next((Given(origin(t), parameters(t)) for t in lost if origin(t) not in taken), None)


def to_run_first(known: Sequence[Given], counted: Sequence[FrozenTrial]) -> Given | None:
    """Return the first known point that no counting trial was begun with, or None."""
    taken = {origin(trial) for trial in counted}
    return next((point for point in known if point.origin not in taken), None)


def report(study: optuna.Study, storage: BaseStorage, id: int, epoch: int, value: float) -> bool:
    """Report a trial's value after an epoch to the study's pruner; return whether the trial is to stop."""
    storage.set_trial_intermediate_value(id, epoch, value)
    return bool(study.pruner.prune(study, storage.get_trial(id)))


def suggest(trial: Trial, parameter: Parameter) -> Any:
    """Draw a value of the parameter for this trial."""
    over = parameter.over
    if isinstance(over, CategoricalDistribution):
        return trial.suggest_categorical(parameter.name, over.choices)
    if isinstance(over, IntDistribution):
        return trial.suggest_int(parameter.name, over.low, over.high, step=over.step, log=over.log)
    assert isinstance(over, FloatDistribution)
    return trial.suggest_float(parameter.name, over.low, over.high, step=over.step, log=over.log)
