"""Makes Optuna's samplers and pruners by name, with Optuna's defaults."""

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rnnbench.config import ConfigError
from rnnbench.search.hub import HUB, hub_sampler
from rnnbench.terminal import say

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
    "qmc": "QMCSampler",
    "brute_force": "BruteForceSampler",
}
PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "patient": "PatientPruner",
    "wilcoxon": "WilcoxonPruner",  # judges members, not epochs: rnnbench.search.turns
}
FOREIGN = {"MOTPESampler": "tpe"}  # classes that Optuna has removed, and their successors
# Share of fit.epochs after which asha first prunes: after one epoch of twenty it would stop the later winner.
FIRST_RUNG = 0.2
# Samplers whose workers must share a seed, since they divide one sequence of points among themselves.
COMMON_SEED = {"grid", "qmc"}
LEARN = {"tpe", "gp", "brute_force", HUB}  # from trials that they did not suggest
ONE_OBJECTIVE = {"cmaes"}
EXHAUSTIVE = {
    "grid",
    "brute_force",
}  # end by themselves: they ask Optuna's own loop to stop, which rnnbench does not use


def sampler_of(settings: dict[str, Any], grid: dict[str, list[Any]], objectives: int) -> BaseSampler:
    """Make the sampler that hydra.sweeper.sampler describes.

    Args:
        settings: `name`, `seed` and any argument of Optuna's class; or a `_target_` of the published plugin.
        grid: the values of each parameter, for the grid sampler only.
        objectives: the number of objectives.

    Raises:
        ConfigError: there is no such sampler or argument, or the sampler cannot handle several objectives.
    """
    name, arguments = _read("sampler", settings, SAMPLERS | {HUB: HUB})
    if objectives > 1 and name in ONE_OBJECTIVE:
        able = ", ".join(other for other in SAMPLERS if other not in ONE_OBJECTIVE)
        raise ConfigError(f"hydra/sweeper/sampler={name}: knows one objective, not {objectives}; take {able}")
    if name == "grid":
        arguments["search_space"] = grid
    kind = hub_sampler(arguments) if name == HUB else getattr(optuna.samplers, SAMPLERS[name])
    _check_arguments("sampler", name, kind, arguments)
    return Sampler(kind, arguments, own_seed=name not in COMMON_SEED, ends=name in EXHAUSTIVE)


def pruner_of(settings: dict[str, Any], epochs: int) -> BasePruner:
    """Make the pruner that hydra.sweeper.pruner describes.

    Args:
        settings: `name`, and any argument of Optuna's class.
        epochs: the most epochs that a trial trains.

    Raises:
        ConfigError: there is no such pruner or argument.
    """
    name, arguments = _read("pruner", settings, PRUNERS)
    if name == "hyperband":
        arguments.setdefault("max_resource", epochs)
    if name == "asha":  # Optuna's default waits for the first trial to end
        arguments.setdefault("min_resource", math.ceil(epochs * FIRST_RUNG))
    kind = getattr(optuna.pruners, PRUNERS[name])
    if name == "patient":
        inner = arguments.pop("wrapped_pruner", None)
        if inner == "wilcoxon":
            raise ConfigError("hydra.sweeper.pruner.wrapped_pruner=wilcoxon: judges no epochs; take median")
        arguments["wrapped_pruner"] = None if inner is None else pruner_of({"name": inner}, epochs)
    _check_arguments("pruner", name, kind, arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that the class is experimental
        return kind(**arguments)  # type: ignore[no-any-return]


def name_of(what: str, settings: dict[str, Any]) -> str:
    """Return the name of the sampler or pruner that settings describe."""
    return _read(what, settings, SAMPLERS | {HUB: HUB} if what == "sampler" else PRUNERS)[0]


def _read(what: str, settings: dict[str, Any], known: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments that settings give; null means Optuna's own default."""
    arguments = {key: value for key, value in settings.items() if value is not None}
    name = arguments.pop("name", None)
    target = arguments.pop("_target_", None)
    for key in ("_partial_", "_convert_", "_recursive_"):
        arguments.pop(key, None)
    if target is not None:
        ours = {cls: short for short, cls in known.items()} | FOREIGN
        name = ours.get(str(target).rpartition(".")[2], target)
    if name not in known:
        raise ConfigError(f"hydra/sweeper/{what}={name}: must be one of {', '.join(known)}")
    return name, arguments


def notice(settings: dict[str, Any]) -> None:
    """Print which sampler is used in place of the published plugin's."""
    if target := settings.get("_target_"):
        say(f"{target} is hydra/sweeper/sampler={name_of('sampler', settings)} here")


def _check_arguments(what: str, name: str, kind: type, arguments: dict[str, Any]) -> None:
    accepted = inspect.signature(kind).parameters
    any_goes = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for key in arguments:
        if key not in accepted and not any_goes:
            raise ConfigError(
                f"hydra.sweeper.{what}.{key}: {kind.__name__} has no such argument, "
                f"only {', '.join(accepted)}"
            )
    needed = [key for key, p in accepted.items() if _is_needed(p) and key not in arguments]
    if needed:
        raise ConfigError(f"hydra.sweeper.{what}.{needed[0]}: hydra/sweeper/{what}={name} needs a value")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind(**arguments)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"hydra/sweeper/{what}={name}: {error}") from None


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Return whether a class cannot be made without a value for this parameter."""
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not several


class Sampler(BaseSampler):
    """Wraps one of Optuna's samplers, created at its first trial, so that its seed can depend on the trial.

    Its seed is derived from (seed, n), where n is the number of the first trial that it is asked for. So no
    two workers of a study share a seed, nor do a killed worker and the one that resumes: with equal seeds
    they would suggest the same points again.
    """

    def __init__(
        self, kind: type[BaseSampler], arguments: dict[str, Any], own_seed: bool, ends: bool
    ) -> None:
        self.kind, self.arguments = kind, arguments
        self.own_seed, self.ends = own_seed, ends
        self.inner: BaseSampler | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self.inner is None:
            arguments = dict(self.arguments)
            if self.own_seed and "seed" in arguments:
                words = np.random.SeedSequence((arguments["seed"], trial.number)).generate_state(1)
                arguments["seed"] = int(words[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns that the class is experimental
                self.inner = self.kind(**arguments)
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self.inner is not None and not self.ends:
            self.inner.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        assert self.inner is not None
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self.inner is not None
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert self.inner is not None
        return self.inner.sample_independent(study, trial, param_name, param_distribution)
