"""Searches over several tasks at once: reads the tasks, and brings what they reach to one scale.

Optuna is told one number for a suggestion, once, and it must not change when later suggestions end. So
ranks will not do, nor what is normalised by other trials: a suggestion is told the mean of its scores. A
score is linear in the task's own objective: 0 is a constant answer to the same examples, 1 is perfect. It is
never below -1, so that a single run that went wrong does not drown the other tasks.
"""

import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rnnbench.config import (
    Config,
    ConfigError,
    Search,
    bounds,
    direction,
    final_metrics,
    flatten,
    identifies,
    objective,
    plain,
)
from rnnbench.config.metrics import at_best, short
from rnnbench.search.members import Member, config_of
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.stages import constant_answer

KEY = "hydra.sweeper.over"
SCORE = "score"  # the objective of a search over several tasks
LEAST = -1.0  # the lowest score
ELSEWHERE = ("hydra", "tracking", "dry_run", "reuse", "search", "seed")  # sections that a task cannot set


@dataclass(frozen=True)
class Scale:
    """Turns values of a task's objective into scores."""

    objective: str
    constant: float  # what a constant answer reaches
    perfect: float

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the score of a run with these metrics."""
        share = (metrics[self.objective] - self.constant) / (self.perfect - self.constant)
        return max(share, LEAST)


def tasks_of(settings: Search) -> list[list[str]]:
    """Return the overrides of each task; where the search has one task, it has none of its own."""
    return [[]] if settings.over is None else [shlex.split(task) for task in settings.over]


def name_of(task: Sequence[str]) -> str:
    """Return a task's name in tables: the values of its overrides."""
    return ",".join(word.partition("=")[2] for word in task)


def check_tasks(
    settings: Search, fixed: Sequence[str], searched: Collection[str], checker: Checker
) -> list[list[str]]:
    """Return the overrides of each task.

    Args:
        fixed: the overrides that all trials have.
        searched: the keys of the space.

    Raises:
        ConfigError: names the task and what is wrong with it.
    """
    try:
        tasks = tasks_of(settings)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}; write overrides, as in ['data=digits', 'data=mnist']") from None
    if settings.over is None:
        return tasks
    if len(tasks) < 2 or not all(tasks):
        raise ConfigError(f"{KEY}: needs two tasks or more, as in ['data=digits', 'data=mnist']")
    given = {word.partition("=")[0] for word in fixed}
    for task in tasks:
        try:
            checker.check(task, several=False)
        except ConfigError as error:
            raise ConfigError(f"{KEY}: {error}") from None
        for key in (word.partition("=")[0].lstrip("+") for word in task):
            if key.split("/")[0].split(".")[0] in ELSEWHERE or key == "data.fold":
                raise ConfigError(f"{KEY}: {key} cannot differ by task; give it outside of the list")
            if key in searched or (data := {k for k in searched if k.split(".")[0] == "data"}):
                key = key if key in searched else min(data)
                raise ConfigError(f"{KEY}: the search draws {key}, which is of the tasks; leave one out")
            if key in given:
                raise ConfigError(f"{KEY}: {key} is given outside of the list too; leave that out")
    return tasks


def check_configs(settings: Search, tasks: Sequence[Sequence[str]], configs: Sequence[Config]) -> None:
    """Refuse equal tasks, several objectives, a metric that a task lacks, and one without a scale.

    Args:
        configs: what the tasks compose, one each.
    """
    if len(settings.objectives or []) > 1 or settings.direction is not None:
        raise ConfigError(
            f"{KEY}: a search over tasks has one objective, the score, which is maximised; leave "
            "hydra.sweeper.direction out, and give at most one of hydra.sweeper.objectives"
        )
    seen: dict[str, str] = {}
    for task, config in zip(tasks, configs, strict=True):
        text = repr({key: v for key, v in flatten(plain(config)).items() if identifies(key)})
        if text in seen:
            raise ConfigError(f"{KEY}: {seen[text]} and {' '.join(task)} are one task; leave one out")
        seen[text] = " ".join(task)
        name = goal_of(settings, config)
        if name not in final_metrics(config):
            raise ConfigError(
                f"hydra.sweeper.objectives={name}: {' '.join(task)} does not record it, only "
                f"{', '.join(final_metrics(config))}"
            )
    if len({config.data.folds for config in configs}) > 1:
        raise ConfigError(f"{KEY}: all tasks need the same data.folds; give it outside of the list")


def goal_of(settings: Search, config: Config) -> str:
    """Return the metric by which the runs of a task are judged, by default its own objective."""
    return at_best((settings.objectives or [objective(config)])[0], config)


SCALES: dict[tuple[str, str], Scale] = {}  # by data and objective


def scale_of(settings: Search, config: Config) -> Scale:
    """Return the scale of a task, whose constant answer is to the examples that the objective measures.

    Raises:
        ConfigError: the objective has no best value, or a constant answer is perfect.
    """
    goal = goal_of(settings, config)
    place = repr(config.data), goal
    if place not in SCALES:
        perfect = bounds(goal)[direction(goal) == "maximize"]
        split = "test" if goal.startswith(("test/", "best/test_")) else "val"
        found = constant_answer(config, split)
        if short(goal) not in found or not math.isfinite(perfect) or found[short(goal)] == perfect:
            raise ConfigError(
                f"{KEY}: {goal} of data={config.data.name} has no scale, which is from a constant answer "
                "to the best value; take another of hydra.sweeper.objectives"
            )
        SCALES[place] = Scale(goal, found[short(goal)], perfect)
    return SCALES[place]


def check_scales(settings: Search, configs: Iterable[Config]) -> None:
    """Refuse configurations of a search over tasks whose objectives have no scale.

    Raises:
        ConfigError: see `scale_of`.
    """
    if settings.over is not None:
        for config in configs:
            scale_of(settings, config)


@dataclass(frozen=True)
class ByTask:
    """What runs of a configuration have reached."""

    rounds: list[float]  # of each fold under each seed the mean score over the tasks
    means: list[dict[str, float]]  # of each task: its objective, that of a constant answer, its score

    @classmethod
    def of(
        cls,
        settings: Search,
        bases: Sequence[Config],
        members: Sequence[Member],
        results: Sequence[Mapping[str, Any]],
    ) -> "ByTask":
        """Bring the results of members to one scale.

        Args:
            bases: of any trial, one for each task.
            results: contents of result.json, one for each member.
        """
        scores: dict[tuple[int, int], list[float]] = {}
        values: list[list[tuple[float, float, float]]] = [[] for _ in bases]
        for member, result in zip(members, results, strict=True):
            scale = scale_of(settings, config_of(bases[member.task], member))
            score = scale.score(result["metrics"])
            scores.setdefault((member.seed, member.fold or 0), []).append(score)
            values[member.task].append((result["metrics"][scale.objective], scale.constant, score))
        means = [map(fmean, zip(*each, strict=True)) for each in values]
        return cls(
            [fmean(scores[key]) for key in sorted(scores)],
            [dict(zip(("value", "constant", "score"), each, strict=True)) for each in means],
        )


def value_of(settings: Search, config: Config, metrics: Mapping[str, Any]) -> float:
    """Return what one run counts: its score over several tasks, else its objective."""
    if settings.over is not None:
        return scale_of(settings, config).score(metrics)
    return float(metrics[goal_of(settings, config)])
