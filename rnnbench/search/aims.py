"""Reads and checks what a search aims at, and the pruner that judges it: objectives, their directions."""

from collections.abc import Sequence

from optuna.pruners import BasePruner

from rnnbench import config as schema
from rnnbench.config import Config, ConfigError, Search, final_metrics, objective, per_epoch
from rnnbench.config.metrics import at_best
from rnnbench.search import samplers as by_name
from rnnbench.search.over import SCORE, check_configs
from rnnbench.search.turns import NAME, first_turn


def aims_of(
    settings: Search, over: Sequence[Sequence[str]], bases: Sequence[Config]
) -> tuple[list[str], list[str]]:
    """Return the objectives and their directions; over several tasks it is the score."""
    if settings.over is not None:
        check_configs(settings, over, bases)
    objectives, *_ = [_objectives(settings, base) for base in bases]
    if settings.over is not None:
        return [SCORE], ["maximize"]
    return objectives, directions_of(settings, objectives)


def _objectives(settings: Search, base: Config) -> list[str]:
    known = final_metrics(base)
    given = settings.objectives or [objective(base)]
    chosen = [at_best(name, base) for name in given]
    for name in chosen:
        if name not in known:
            raise ConfigError(
                f"hydra.sweeper.objectives={name}: must be metrics that are recorded: {', '.join(known)}"
            )
        if name.startswith(("test/", "best/test_")) and not settings.use_test_set:
            raise ConfigError(
                f"hydra.sweeper.objectives={name}: what a search chooses by the test set has no honest test "
                f"figure left; search by val/{base.data.metric}, or insist with "
                "hydra.sweeper.use_test_set=true"
            )
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"hydra.sweeper.objectives={', '.join(chosen)}: one is given twice")
    return chosen


def directions_of(settings: Search, objectives: Sequence[str]) -> list[str]:
    if settings.direction is None:
        return [schema.direction(name) for name in objectives]
    given = settings.direction if isinstance(settings.direction, list) else [settings.direction]
    directions = [str(getattr(item, "name", item)).lower() for item in given]
    if not set(directions) <= {"maximize", "minimize"}:
        raise ConfigError(f"hydra.sweeper.direction={', '.join(directions)}: must be maximize or minimize")
    if len(directions) != len(objectives):
        raise ConfigError(
            f"hydra.sweeper.direction={', '.join(directions)}: one for each objective is needed, "
            f"and there are {len(objectives)}: {', '.join(objectives)}; name them in hydra.sweeper.objectives"
        )
    for name, way in zip(objectives, directions, strict=True):
        if way != schema.direction(name):
            better = "higher" if way == "minimize" else "lower"
            raise ConfigError(
                f"hydra.sweeper.direction={way}: of {name} the {better} value is the better one; leave "
                "direction out, since it follows from the metric's name"
            )
    return directions


def pruner_for(settings: Search, objectives: Sequence[str], base: Config, members: int) -> BasePruner:
    """Return the pruner, if it suits the objectives and the number of members."""
    pruner = by_name.pruner_of(settings.pruner, base.fit.epochs)
    if by_name.name_of("pruner", settings.pruner) != "none":
        _check_pruning(settings, objectives, base)
        first_turn(settings.pruner, members, len(settings.over or [base]))
    return pruner


def _check_pruning(settings: Search, objectives: Sequence[str], base: Config) -> None:
    name = by_name.name_of("pruner", settings.pruner)
    watched = [at_best(metric, base) for metric in per_epoch(base)]
    if settings.over is not None and name != NAME:
        raise ConfigError(
            f"hydra/sweeper/pruner={name}: judges epochs, and tasks (hydra.sweeper.over) share none; take "
            f"pruner=none, or {NAME} with hydra.sweeper.repeats or data.folds"
        )
    if len(objectives) > 1:
        raise ConfigError(
            f"hydra/sweeper/pruner={name}: Optuna cannot prune where there are several objectives "
            f"({', '.join(objectives)}), since no trial is worse in all before it ends; take pruner=none"
        )
    if objectives[0] not in watched and name != NAME:
        raise ConfigError(
            f"hydra/sweeper/pruner={name}: {objectives[0]} is known only at the end of a trial; "
            f"take pruner=none, or an objective that each epoch measures: {', '.join(per_epoch(base))}"
        )
