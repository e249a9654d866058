"""Composes the trials of a sweep's command line in this process, and trains nothing.

The words are read, checked and composed by the same functions as those of `python -m rnnbench`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from rnnbench.config.secrets import check_tree, check_words
from rnnbench.sweep.arguments import as_hydra_reads, loader_of, read_arguments
from rnnbench.sweep.compose import separate_hydra
from rnnbench.sweep.explain import explained
from rnnbench.sweep.grid import trials
from rnnbench.sweep.hydra_api import Callbacks
from rnnbench.sweep.hydra_settings import check_settings
from rnnbench.sweep.launcher import register
from rnnbench.sweep.overrides import Checker


def plan_grid(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the overrides, trial hash and config values of each trial of a grid, as JSON types.

    Args:
        words: a command line after `python -m rnnbench`: flags, then overrides.

    Raises:
        ConfigError: the grid, or one of its trials, cannot be run.
    """
    with grids(words) as plan:
        return plan([])


@contextmanager
def grids(words: Sequence[str]) -> Iterator[Callable[[Sequence[str]], list[dict[str, Any]]]]:
    """Yield a function that plans grids which have a beginning in common, as `plan_grid` does each.

    The files of the beginning are composed once, and those of each set of group choices once for all grids:
    a table with a search for each of its cells has hundreds of grids.

    Args:
        words: the flags and overrides with which all grids begin. The function is called with the
            further overrides of a grid, none of Hydra's settings among them.

    Raises:
        ConfigError: from the function too: a grid, or one of its trials, cannot be run.
    """
    with _composed(words, RunMode.MULTIRUN) as (loader, config):
        check_settings(config, "sweep")
        check_tree(OmegaConf.to_container(config))
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=config, hydra_context=context, task_function=_not_called
        )
        common = list(config.hydra.overrides.task)

        def plan(more: Sequence[str]) -> list[dict[str, Any]]:
            check_words(list(more))
            given = as_hydra_reads(read_arguments(more)).overrides
            Checker(loader).check([*common, *given], several=True)
            with explained([*common, *given]):
                jobs, _ = sweeper.points([*common, *given])
            return trials(jobs)

        yield plan


def sweeper_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the sweeper that a command line chooses, as plain dicts.

    Args:
        words: a command line after `python -m rnnbench`: flags, then overrides with a single value each.

    Raises:
        ConfigError: they cannot be composed.
    """
    with _composed(words, RunMode.RUN) as (_, config):
        settings: Any = OmegaConf.to_container(config.hydra.sweeper, enum_to_str=True)
        return dict(settings)


@contextmanager
def _composed(words: Sequence[str], mode: RunMode) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Compose the config of a command line, hydra node included, and restore Hydra's globals at the end."""
    register()
    check_words(list(words))
    arguments = read_arguments(words)
    loader = loader_of(arguments)
    Checker(loader).check(arguments.overrides, several=mode is RunMode.MULTIRUN)
    with separate_hydra(), explained(arguments.overrides):
        given = [*as_hydra_reads(arguments).overrides, f"hydra.mode={mode.name}"]
        yield loader, loader.load_configuration("config", given, mode)


def _not_called(config: DictConfig) -> None:
    """Stand in for the application in a launcher that launches nothing."""
