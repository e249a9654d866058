"""Opens the study of a search, and what trains its trials: `runner` under our launcher, else `launched`."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from rnnbench.search.ending import Ending
from rnnbench.search.launched import JobSearch
from rnnbench.search.plan import Plan
from rnnbench.search.pruning import OPEN
from rnnbench.search.retry import RetryingStorage
from rnnbench.search.runner import Search, StackSearch
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study
from rnnbench.search.warm import copy_trials, said_of
from rnnbench.sweep.launcher import StackLauncher
from rnnbench.sweep.session import Sweep
from rnnbench.terminal import say


@contextmanager
def open_search(
    plan: Plan, storage: RetryingStorage | None, config: DictConfig, sweep: Sweep, launcher: Launcher
) -> Iterator[Search]:
    """Open the study of a plan, so that jobs in this process find it, and the search that trains its trials.

    Args:
        storage: the study's storage, if it is open already.
        config: the config of the sweep, as Hydra composed it.
    """
    study = Study(
        storage or open_storage(plan.storage),
        plan.name,
        identity=plan.identity,
        objectives=plan.objectives,
        directions=plan.directions,
        sampler=plan.sampler,
        pruner=plan.pruner,
        n_trials=plan.n_trials,
    )
    study.points, study.known = plan.points, plan.known
    study.ending = Ending(plan.settings, plan.directions)
    if plan.earlier is not None:
        copy_trials(study, plan.earlier)
        say(f"the sampler knows {said_of(study.earlier())}; they do not count among the {plan.n_trials}")
    OPEN[study.name] = study
    try:
        if isinstance(launcher, StackLauncher):
            yield StackSearch(plan, study, config, sweep, launcher)
        else:
            yield JobSearch(plan, study, config, sweep, launcher)
    finally:
        del OPEN[study.name]
