"""Finds tasks (data, targets, splits) by the name that `data=` selects.

`shape` gives a task's sizes without large files; `load` makes it, or reads, checks and if necessary
downloads it. Neither needs torch, so that bad data is refused before anything slow is imported.

A new task is one file in this folder and one in conf/data/. Its file has the settings (a `Data` with its
checks), one class (`Kind`, or for generated sequences `generated.Sequences`) and a call of `enter`; all
files of this folder are imported here.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, TypeVar

from rnnbench.config import ConfigError, Data
from rnnbench.config.advice import no_name
from rnnbench.config.loading import names, registered
from rnnbench.config.metrics import METRICS, Metric, find
from rnnbench.config.registry import register
from rnnbench.config.user_code import asked
from rnnbench.tasks.generated import Made
from rnnbench.tasks.task import TASKS, Examples, Goal, Kind, Shape, Task, check_examples, divided

__all__ = [
    "TASKS",
    "Examples",
    "Goal",
    "Kind",
    "Shape",
    "Task",
    "divided",
    "has_loss",
    "load",
    "register_task",
    "same_examples",
    "shape",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)

T = TypeVar("T", bound=Callable[..., Any])


def register_task(name: str) -> Callable[[T], T]:
    """Register the class below this decorator as the task that `data=NAME` selects.

    It is a `Kind`, made without arguments; or `generated.Sequences`, made of the `data` node, whose training
    examples are then made on demand. Its `metric` (default accuracy) is the one it reports; its `settings`,
    a dataclass that derives from `Data`, has the task's keys (`data.KEY`) and their checks.

    Raises:
        ConfigError: a task of rnnbench or a class in another file has this name; the class is not a task's.
    """
    if not isinstance(name, str):
        raise ConfigError('register_task: needs the name that data.name will have: @register_task("NAME")')
    if name in TASKS:
        raise ConfigError(f"register_task({name!r}): rnnbench has a task of that name; choose another")

    def enter(of: T) -> T:
        if not hasattr(of, "make") and not (hasattr(of, "shape") and hasattr(of, "load")):
            raise ConfigError(
                f"register_task({name!r}): {getattr(of, '__qualname__', of)} must have make(self, u), or "
                "shape(self, data) and load(self, data)"
            )
        settings = getattr(of, "settings", Data)
        if not (isinstance(settings, type) and issubclass(settings, Data) and is_dataclass(settings)):
            raise ConfigError(
                f"register_task({name!r}): settings must be a dataclass derived from rnnbench.config.Data"
            )
        made = Made(of, f"{of.__module__}.{of.__qualname__}") if hasattr(of, "make") else of()
        register("task", name, made, of)
        return of

    return enter


def kind(data: Data) -> Kind:
    """Return the task that is registered under data.name.

    Raises:
        ConfigError: there is no such task, or data.folds is given and it has no folds.
    """
    entry = registered("task", data.name)
    if entry is None and data.name not in TASKS:
        raise ConfigError(no_name("data.name", data.name, [*TASKS, *names("task")]))
    found: Kind = TASKS[data.name] if entry is None else entry.made
    instead = getattr(found, "folds", "does not divide its examples by rnnbench.tasks.divided")
    if data.folds is not None and instead is not True:
        raise ConfigError(
            f"data.folds={data.folds}: data={data.name} {instead}, so it has no folds; use null"
        )
    return found


def same_examples(data: Data) -> bool:
    """Return whether inputs, targets and loss are the same whichever fold validates; see `Kind`."""
    by_training = getattr(data, "standardise", False) or getattr(data, "class_weights", None)
    return bool(getattr(kind(data), "same_examples", False)) and not by_training


def shape(data: Data) -> Shape:
    """Return the sizes of the task that `load` would give, without reading large files.

    Raises:
        ConfigError: data.name is unknown, the task refuses the values, or the code of a user's task raises.
    """
    with asked("data.name", data.name):
        found = kind(data).shape(data)
    for key, name in [("data.metric", data.metric), *(("data.metrics", name) for name in data.metrics or [])]:
        goal, metric = found.goal.value, find(name, key)
        if goal not in metric.goals or not has_sums(data, metric):
            fitting = ", ".join(
                metric.name for metric in METRICS.values() if goal in metric.goals and has_sums(data, metric)
            )
            raise ConfigError(f"{key}={name}: does not go with data={data.name}, which has {fitting}")
    return found


def has_sums(data: Data, metric: Metric) -> bool:
    """Return whether a task gives the sums that a metric is computed from, if these are the task's own."""
    if not isinstance(metric.sums, str):
        return True
    found, method = kind(data), "sums" if metric.sums == "task" else metric.sums
    if not isinstance(found, Made) or not hasattr(sequences := found.build(data), method):
        return False
    return method != "sums" or metric.name in getattr(sequences, "summed", (metric.name,))


_REPLACED: dict[tuple[Kind, str], bool] = {}  # whether a task of one's own replaces its loss, by its settings


def has_loss(data: Data) -> bool:
    """Return whether a task of one's own replaces the loss of the goal.

    Raises:
        ConfigError: as `load`.
    """
    found = kind(data)
    if isinstance(found, Made):
        return hasattr(found.build(data), "loss")
    if data.name in TASKS:
        return False
    asked_for = found, repr(data)
    if (
        asked_for not in _REPLACED
    ):  # the question comes several times a trial, and the answer needs all the data
        _REPLACED[asked_for] = load(data).loss is not None
    return _REPLACED[asked_for]


def load(data: Data) -> Task:
    """Return the task: its examples, targets and splits.

    Raises:
        ConfigError: as `shape`; or its files are damaged, or absent and cannot be downloaded.
    """
    with asked("data.name", data.name):
        task = kind(data).load(data)
    if registered("task", data.name) is not None:
        try:
            check_examples(task, Examples(task.inputs, task.targets, task.lengths))
        except ConfigError as error:
            raise ConfigError(f"data.name={data.name}: {error}") from None
    return task
