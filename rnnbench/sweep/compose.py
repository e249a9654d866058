"""Composes the jobs of a sweep as Hydra does, but once for each set of group choices.

Hydra merges every file of the config tree for every job, which takes 50 ms or more. The jobs of a
sweep differ mostly in values, and Hydra applies values last, to the config that the choices compose. So here
Hydra composes each set of choices once, and Hydra's own function applies the values to a copy.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from threading import RLock
from typing import Any

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import Config, check, conf_folder, typed
from rnnbench.sweep.explain import explained
from rnnbench.sweep.hydra_api import apply_values, files_seen_with, initialized, note_overrides, own_globals
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.own_options import offer
from rnnbench.sweep.template import Template, suits


class Composer:
    """Composes the jobs of a sweep with the same results and errors as `ConfigLoader.load_sweep_config`.

    Args:
        loader: Hydra's.
        master: the sweep's own config; its jobs take their overrides of Hydra's settings from it.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader = loader
        self.master = master
        # The files as a job sees them: hydra.searchpath may have added folders.
        settings = OmegaConf.to_container(master.hydra.overrides.hydra)
        assert isinstance(settings, list)
        self.files = files_seen_with(loader, master.hydra.job.config_name, settings)
        self.checker = Checker(loader, self.files)
        self.meant: set[str] = set()  # overrides that were checked
        self.groups: dict[str, bool] = {}  # whether a key is a config group
        self.chosen: dict[tuple[object, ...], Callable[[], DictConfig]] = {}  # functions that return copies
        self.common: dict[tuple[str, str], Any] = {}  # parts of hydra nodes, by key and repr
        self.templates: dict[tuple[object, ...], Template | None] = {}  # by choices, own code and keys set

    def job(self, overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
        """Compose a job and check it: typed, and as plain dicts with the hydra node, see `plain`.

        Raises:
            ConfigError: the overrides cannot be composed, or have no meaning, or a value cannot be run.
        """
        self.check(overrides)
        with explained(overrides):
            own = offer(overrides, self.files)
            parsed = [self.checker.read(text) for text in overrides]
        values = [override for override in parsed if not self.is_choice(override)]
        chosen = tuple(text for text in overrides if self.is_choice(self.checker.read(text)))
        alike = (own, chosen, *(override.key_or_group for override in values))
        template = self.templates.get(alike)
        if template is not None and (made := template.job(parsed, values)) is not None:
            check(made[0])
            return made
        with explained(overrides):
            cfg = self.compose(overrides)
        config, tree = typed(cfg), self.plain(cfg)
        if alike not in self.templates:
            fits = all(map(_is_plain, values)) and suits(values, tree)
            self.templates[alike] = Template(values, cfg, config, tree) if fits else None
        return config, tree

    def check(self, overrides: Sequence[str]) -> None:
        """Check the overrides of a job that were not checked before.

        Raises:
            ConfigError: they have no meaning.
        """
        self.checker.check(overrides, several=False, known=self.meant)
        self.meant.update(overrides)

    def check_and_compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose as `compose` does, but turn errors into one message that names a form that works.

        Raises:
            ConfigError: the overrides cannot be composed, or have no meaning.
        """
        self.check(overrides)
        with explained(overrides):
            return self.compose(overrides)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose the config of the job with these overrides, its hydra node included.

        Raises:
            HydraException: the overrides cannot be composed.
        """
        own = offer(overrides, self.files)
        parsed = [self.checker.read(text) for text in overrides]
        values = [override for override in parsed if not self.is_choice(override)]
        if all(map(_is_plain, values)):
            choices = tuple(text for text in overrides if self.is_choice(self.checker.read(text)))
            cfg = self._choose(choices, own)
            try:
                apply_values(values, cfg)
            except HydraException:
                pass  # Hydra composes the job itself below, and raises its own error if there is one
            else:
                note_overrides(parsed, cfg)
                return cfg
        return self.loader.load_sweep_config(self.master, list(overrides))

    def plain(self, cfg: DictConfig) -> dict[str, Any]:
        """Convert a job's config to plain dicts, unresolved; equal parts of hydra nodes are shared objects.

        This form is kept for every job of a sweep: a DictConfig takes fifteen times the memory.
        """
        tree: Any = OmegaConf.to_container(cfg, enum_to_str=True)
        for key, part in tree["hydra"].items():
            # Shared only under one key: YAML would write one object in two places of a file as a reference.
            tree["hydra"][key] = self.common.setdefault((key, repr(part)), part)
        return dict(tree)

    def is_choice(self, override: Override) -> bool:
        """Return whether an override chooses from a group; as in Hydra, a dict is a value, not a choice."""
        key = override.key_or_group
        if key not in self.groups:
            self.groups[key] = self.files.group_exists(key)
        return self.groups[key] and not isinstance(override.value(), dict)

    def _choose(self, choices: tuple[str, ...], own: tuple[object, ...]) -> DictConfig:
        """Return a copy of the config that the choices alone compose.

        Args:
            own: what `offer` has returned for the job.
        """
        if (choices, own) not in self.chosen:
            cfg = self.loader.load_sweep_config(self.master, list(choices))
            # Pickle copies faster than deepcopy, but cannot pickle a class of one's own by its name.
            self.chosen[choices, own] = (
                partial(deepcopy, cfg) if own else partial(pickle.loads, pickle.dumps(cfg))
            )
        cfg = self.chosen[choices, own]()
        OmegaConf.copy_cache(from_config=self.master, to_config=cfg)  # values that resolvers have cached
        return cfg


COMPOSING = RLock()  # held while composing, since Hydra's globals belong to the process


@contextmanager
def separate_hydra() -> Iterator[None]:
    """Initialise Hydra with our config folder, and restore its globals at the end.

    The caller may be a Hydra application, or one of several threads.
    """
    with COMPOSING, own_globals(), initialized(str(conf_folder())):
        yield


def compose_words(words: Sequence[str]) -> DictConfig:
    """Compose the config of one trial with these overrides, its hydra node included, in an initialised Hydra.

    Raises:
        ConfigError: they cannot be composed, or have no meaning.
    """
    Checker(GlobalHydra.instance().config_loader()).check(words, several=False)
    with explained(words):
        return hydra.compose("config", list(words), return_hydra_config=True)


def compose_one(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a single run with these overrides, its hydra node included.

    Raises:
        ConfigError: the overrides cannot be composed, or have no meaning.
    """
    with separate_hydra():
        return compose_words(overrides)


def _is_plain(override: Override) -> bool:
    """Return whether an override only sets a value of the job.

    A deletion is not plain, since it may depend on values that Hydra writes last; nor is hydra.KEY=VALUE,
    which may change how Hydra composes.
    """
    of_hydra = override.key_or_group.partition(".")[0] == "hydra"
    return not (override.is_sweep_override() or override.is_delete() or of_hydra)
