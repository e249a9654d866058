"""Wraps the private parts of Hydra that rnnbench builds on: nothing else imports hydra._internal.

Checked for hydra-core 1.3.8. tests/test_adapters.py fails first when one of these parts changes. What Hydra
documents for its plugins (hydra.core.plugins, hydra.core.utils, hydra.plugins) is imported where it is used.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal import utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.plugins.launcher import Launcher
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

__all__ = ["Callbacks", "IConfigRepository"]

GLOBALS = (GlobalHydra, JobRuntime, VersionBase)  # the singletons that composing a config sets


def raise_errors() -> None:
    """Have hydra.main raise its errors, instead of printing them and ending the process."""
    utils.run_and_report = lambda func: func()


def arguments_parser() -> argparse.ArgumentParser:
    """Return a parser of the flags and overrides of Hydra's command line, which accepts no shortened flag."""
    parser = utils.get_args_parser()
    parser.allow_abbrev = False
    return parser


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return what a parser does for each flag; argparse has no public way to ask."""
    return parser._option_string_actions


def make_loader(config_path: str, extra: str | None) -> ConfigLoader:
    """Make a loader of config files, as hydra.main does.

    Args:
        config_path: the folder of the application's config files.
        extra: the absolute path of a folder whose files come before those (--config-dir).
    """
    path = utils.create_config_search_path(config_path)
    if extra is not None:
        path.prepend("command-line", f"file://{extra}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(path)


def files_of(loader: ConfigLoader) -> IConfigRepository:
    """Return the config files that a loader reads: they can be asked for groups, options and contents."""
    assert isinstance(loader, ConfigLoaderImpl)
    return loader.repository


def files_seen_with(
    loader: ConfigLoader, config_name: str | None, settings: Sequence[str]
) -> IConfigRepository:
    """Return the config files that a loader reads under overrides, of which hydra.searchpath adds folders.

    Raises:
        HydraException, OmegaConfBaseException: the overrides cannot be read.
    """
    assert isinstance(loader, ConfigLoaderImpl)
    _, files = loader._parse_overrides_and_create_caching_repo(config_name, list(settings))
    for source in files.get_sources():
        if source.scheme() == "structured":
            source.store = ConfigStore.instance()  # type: ignore[attr-defined]  # Hydra has copied it, and options may be added later
    return files


def apply_values(values: Sequence[Override], cfg: DictConfig) -> None:
    """Set the values of overrides in a composed config.

    Raises:
        HydraException: one of them cannot be set.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(values), cfg)


def note_overrides(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Write the overrides of a job into its composed config, in place of those that stand there."""
    hydra = cfg.hydra
    task = [override for override in overrides if not override.is_hydra_override()]
    hydra.overrides.task.clear()
    hydra.overrides.task.extend([override.input_line for override in task])
    if OmegaConf.is_interpolation(hydra.job, "override_dirname"):
        return  # Hydra 1.4 reads it from the list above
    from hydra._internal.config_loader_impl import get_overrides_dirname

    how = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        overrides=task, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
    )


def parsed_value(override: Override) -> Any:
    """Return the value of an override with quotes and functions as parsed: Override.value() removes them."""
    return override._value


def split_points(overrides: list[Override]) -> list[list[str]]:
    """Return the points of a grid, in the order of Hydra's basic sweeper: the overrides of each."""
    # Late: the plugin scan of Hydra 1.3 imports this module anew, and its old class would be another one.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return [point for batch in BasicSweeper.split_arguments(overrides, None) for point in batch]


def is_basic(launcher: Launcher) -> bool:
    """Return whether a launcher is Hydra's basic one, which runs one job after the other in this process."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher  # late: as in split_points

    return isinstance(launcher, BasicLauncher)


@contextmanager
def own_globals() -> Iterator[None]:
    """Remove the globals that composing sets from this process, and restore them at the end."""
    held: dict[type, Any] = Singleton._instances
    before: dict[type, Any] = {kind: held.pop(kind) for kind in GLOBALS if kind in held}
    try:
        yield
    finally:
        for kind in GLOBALS:
            held.pop(kind, None)
        held.update(before)
