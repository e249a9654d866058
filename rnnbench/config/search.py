"""Defines the settings of a search, typed. The yaml in conf/hydra/sweeper only selects."""

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import MISSING


@dataclass
class Drawn:
    """The settings of one hyperparameter of a search space."""

    over: str = MISSING  # in Hydra's syntax: choice(), range(), interval(), tag(log, ...), or one value
    when: Optional[str] = None  # drawn only where it matters: optim=sgd, or several: optim=sgd,rmsprop
    complement: bool = False  # the trial gets 1 minus what is drawn


@dataclass
class Search:
    """Settings of hydra/sweeper=optuna; the first ten are those of the published plugin."""

    _target_: str = "hydra_plugins.rnnbench_stack.OptunaSweeper"
    _recursive_: bool = False  # sampler and pruner are read, not called
    direction: Any = None  # maximize or minimize, one for each objective; null: by the metric's name
    storage: Optional[str] = None  # a URL; null: in memory, and of a named study a journal in its folder
    study_name: Optional[str] = None  # a name: kept in multirun/NAME, can be shared and resumed
    n_trials: int = 20  # in all, whoever runs them
    n_jobs: int = 4  # trials in flight, in this process
    max_failure_rate: float = 0.5  # of the finished trials, from the tenth on
    sampler: dict[str, Any] = field(default_factory=dict)
    params: Optional[dict[str, Any]] = field(default_factory=dict)  # the space, a line of Hydra's syntax each
    custom_search_space: Optional[str] = None  # dotted name of a function (cfg, trial) that draws more
    space: dict[str, Any] = field(default_factory=dict)  # the space of search=NAME: Drawn, or lists of it
    pruner: dict[str, Any] = field(default_factory=dict)
    objectives: Optional[list[str]] = None  # metrics that are recorded; null: the trial's own objective
    use_test_set: bool = False  # whether a test metric may be an objective: then nothing is left to test on
    over: Optional[list[str]] = None  # tasks, overrides each; Optuna gets the mean of their scores
    repeats: int = 1  # seeds of each suggestion; Optuna gets their mean
    enqueue: Optional[list[str]] = None  # points to train first: overrides each, or best:FOLDER
    warm_start: Optional[str] = (
        None  # a search's folder or a study's name: its trials are told to the sampler
    )
    timeout: Optional[float] = None  # hours after which this command begins no further trial
    stop_after: Optional[int] = None  # trials without an improvement after which the search ends
    constraints: Optional[list[str]] = None  # on recorded metrics, such as parameters/total<=20000
    confirm: int = 0  # fresh seeds that the winner is trained under at the end
    trial: Optional[int] = None  # a job's number in the study, filled in by the job itself
