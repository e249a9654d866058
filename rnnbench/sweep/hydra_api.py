"""Wraps the private parts of Hydra that rnnbench builds on: nothing else imports hydra._internal.

Checked for hydra-core 1.3.8 and 1.4.0rc3, which differ in what is marked with IS_1_3. tests/test_adapters.py
fails first when one of these parts changes. What Hydra documents for its plugins (hydra.core.plugins,
hydra.core.utils, hydra.plugins) is imported where it is used.
"""

import argparse
import copy
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra._internal import defaults_list, utils
from hydra._internal import hydra as hydra_main
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode, TaskFunction
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

__all__ = ["Callbacks", "IConfigRepository"]

IS_1_3 = hydra.__version__.startswith("1.3.")  # with OmegaConf 2.3; 1.4 comes with 2.4
BASE: dict[str, Any] = {"version_base": "1.3"} if IS_1_3 else {}  # 1.4 has one behaviour only
MERGED = 1000  # merged configs that are kept, of some 16 kB each
GLOBALS = (GlobalHydra, JobRuntime, VersionBase)  # the singletons that composing a config sets


def run_application(
    app: TaskFunction,
    folder: str,
    config_name: str,
    changed: Callable[[argparse.Namespace], argparse.Namespace] = lambda arguments: arguments,
) -> None:
    """Read the command line and run the application, by hydra.main.

    Args:
        changed: returns the flags and overrides that Hydra takes for those that it has read.

    Raises:
        Exception: whatever Hydra raises, where hydra.main prints it and ends the process.
    """
    utils.run_and_report = lambda func: func()
    hydra_main.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]
    main: Any = sys.modules["hydra.main"]  # its name in the package is the function
    main._run_hydra = lambda args, **rest: utils._run_hydra(args=changed(args), **rest)
    with warnings.catch_warnings():
        # Hydra 1.4 warns about each class that a config names, such as the user's callbacks and loggers.
        # Only the warning is suppressed: classes that Hydra refuses are still refused.
        warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved _target_=")
        hydra.main(config_path=folder, config_name=config_name, **BASE)(app)()


@contextmanager
def initialized(folder: str) -> Iterator[None]:
    """Initialise Hydra with a folder of config files, until the context ends."""
    with hydra.initialize_config_dir(folder, **BASE):
        application: Any = GlobalHydra.instance().hydra
        application.config_loader = Loader(application.config_loader.config_search_path)
        yield


def register_resolver(name: str, function: Callable[..., Any]) -> None:
    """Register a function as `${name:...}` in config files, and replace an earlier one of that name."""
    # In OmegaConf 2.3, register_resolver is another, older function.
    register: Any = OmegaConf.register_new_resolver if IS_1_3 else OmegaConf.register_resolver
    register(name, function, replace=True)


_REGISTERED: dict[tuple[str, str], tuple[ConfigStore, Any]] = {}


def register_config(group: str, name: str, node: Any) -> None:
    """Register a dataclass as a config file of a group, and replace an earlier one of that name."""
    store, known = ConfigStore.instance(), _REGISTERED.get((group, name))
    if known is not None and known[0] is store and known[1] is node:
        return  # to make a config of a dataclass takes a millisecond
    _REGISTERED[group, name] = store, node
    more: dict[str, Any] = {} if IS_1_3 else {"replace": True}  # 1.3 always replaces
    store.store(group=group, name=name, node=node, **more)


def arguments_parser() -> argparse.ArgumentParser:
    """Return a parser of the flags and overrides of Hydra's command line, which accepts no shortened flag."""
    parser = utils.get_args_parser()
    parser.allow_abbrev = False
    return parser


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return a parser's action for each flag; argparse has no public function for it."""
    return parser._option_string_actions


def make_loader(config_path: str, extra: str | None) -> ConfigLoader:
    """Make a loader of config files, as hydra.main does.

    Args:
        config_path: the folder of the application's config files.
        extra: the absolute path of a folder whose files take precedence (--config-dir).
    """
    path = utils.create_config_search_path(config_path)
    if extra is not None:
        path.prepend("command-line", f"file://{extra}", SearchPathQuery(provider="schema"))
    return Loader(path)


@dataclass
class Read(ConfigResult):
    """A config as Hydra reads it, and what it was read from: a file's text, or the registered node."""

    origin: str | DictConfig = ""


class Files(ConfigRepository):
    """Reads config files as Hydra does, but parses each text once in the life of the process.

    For each config Hydra copies its repository, with all that is registered in the ConfigStore, and parses
    some 20 files anew: together a third of the time that it takes to compose a config.
    """

    parsed: ClassVar[dict[tuple[str, ...], bytes]] = {}  # pickled results, by place and text

    def __deepcopy__(self, memo: dict[int, Any]) -> "Files":
        """Return a repository that shares the sources, until Hydra gives it a list of its own."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Read a config with its defaults list; None if there is none."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        text = None if source is None else _text(source, config_path)
        if source is None or text is None:
            result = super().load_config(config_path)
            if result is None or not result.is_schema_source:
                return result
            return Read(**vars(result), origin=_registered(config_path))
        key = (source.provider, source.path, config_path, text)
        if key not in self.parsed:
            self.parsed[key] = pickle.dumps(super().load_config(config_path))
        # A copy, since what composes it changes it.
        return Read(**vars(pickle.loads(self.parsed[key])), origin=text)


def _registered(config_path: str) -> DictConfig:
    """Return the node itself that is registered as a config file, of which Hydra hands out copies."""
    node: DictConfig = ConfigStore.instance()._load(ConfigSource._normalize_file_name(config_path)).node
    return node


def _text(source: ConfigSource, config_path: str) -> str | None:
    """Return the text of a config file; None if its source does not read texts."""
    name = source._normalize_file_name(config_path)
    if source.scheme() == "file":
        return Path(source.path, name).read_text(encoding="utf-8")
    if source.scheme() == "pkg":
        return resources.files(source.path).joinpath(name).read_text(encoding="utf-8")
    return None


def _choices_to_insert(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig | None:
    """Return the choices that the options of a defaults list name as ${GROUP}; None if they name none.

    Hydra makes a config of all choices for each file that it reads, a fifth of the time that composing takes.
    """
    if any(default.is_interpolation() for default in defaults):
        return CHOICES(overrides, defaults, self_added)
    return None


CHOICES = defaults_list._create_interpolation_map
defaults_list._create_interpolation_map = _choices_to_insert  # type: ignore[assignment]


def _origin(default: ResultDefault, repo: IConfigRepository) -> str | DictConfig | None:
    """Return what the config of an entry of the defaults list is read from; None if that does not fix it."""
    path = default.config_path or ""
    read = repo.load_config(path)
    if not isinstance(read, Read):
        return None
    if isinstance(read.origin, str):  # Hydra merges a file with what is registered under its path
        return None if repo.get_schema_source().is_config(path) else read.origin
    # A class of one's own may be read again, and is then another under its name.
    kind = OmegaConf.get_type(read.origin) or dict
    return read.origin if kind.__module__.partition(".")[0] in ("rnnbench", "hydra", "builtins") else None


class Loader(ConfigLoaderImpl):
    """Loads configs as Hydra does, but in a sweep over options the default option need not have every key.

    Hydra composes a sweep's own config without what is swept: `optim=sgd,rmsprop optim.momentum=0.5` with
    the default option of `optim`. A value that this option refuses is left to the jobs, which are composed
    with the options of the sweep.
    """

    # What configs were merged from, so that the ids in the keys are given to nothing else; the forms of
    # ${now:...} that merging has read, and which are read again for each; the configs, pickled.
    merged: ClassVar[dict[tuple[Any, ...], tuple[list[Any], list[str], bytes]]] = {}

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Files(config_search_path)

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        """Merge the configs of a defaults list, once for equal ones in the life of the process.

        Merging is half of the time that composing takes, and most of what a process composes differs in
        values only, which are applied later.
        """
        origins = [_origin(default, repo) for default in defaults]
        if any(origin is None for origin in origins):
            return super()._compose_config_from_defaults_list(defaults, repo)
        key = tuple(
            (
                default.config_path,
                default.package,
                default.primary,
                origin if isinstance(origin, str) else id(origin),
            )
            for default, origin in zip(defaults, origins, strict=True)
        )
        if key not in self.merged:
            cfg = super()._compose_config_from_defaults_list(defaults, repo)
            read = OmegaConf.get_cache(cfg)
            if read.keys() - {"now"}:
                return cfg
            times = [f"${{now:{form}}}" for (form,) in read["now"]]
            OmegaConf.clear_cache(cfg)
            self.merged[key] = origins, times, pickle.dumps(cfg)
            if len(self.merged) > MERGED:
                del self.merged[next(iter(self.merged))]
        _, times, pickled = self.merged[key]
        merged: DictConfig = pickle.loads(pickled)
        now = OmegaConf.create(times)
        OmegaConf.resolve(now)
        OmegaConf.copy_cache(from_config=now, to_config=merged)
        return merged

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **more: Any
    ) -> DictConfig:
        load = super().load_configuration
        if run_mode is not RunMode.MULTIRUN:
            return load(config_name, overrides, run_mode, *args, **more)
        parsed, files = self._parse_overrides_and_create_caching_repo(config_name, list(overrides))
        groups = {o.key_or_group for o in parsed if files.group_exists(o.key_or_group)}
        values = [
            override
            for override in parsed
            if not (override.is_hydra_override() or override.is_sweep_override())
            and (override.key_or_group not in groups or isinstance(override.value(), dict))
        ]
        if not any(o.is_sweep_override() and (o.key_or_group in groups or _is_text(o)) for o in parsed):
            values = []
        apart = {id(override) for override in values}
        first = [word for word, o in zip(overrides, parsed, strict=True) if id(o) not in apart]
        cfg = load(config_name, first, run_mode, *args, **more)
        for override in values:
            with suppress(HydraException):
                apply_values([override], cfg)
        if values:
            note_overrides(parsed, cfg)
        return cfg


def _is_text(override: Override) -> bool:
    """Return whether a sweep is over one text: a word of rnnbench.sweep.points, which may be of groups."""
    sweep = override.value()
    return isinstance(sweep, ChoiceSweep) and [type(value) for value in sweep.list] == [str]


def files_of(loader: ConfigLoader) -> IConfigRepository:
    """Return the repository of config files that a loader reads, with their groups, options and contents."""
    assert isinstance(loader, ConfigLoaderImpl)
    return loader.repository


def files_seen_with(
    loader: ConfigLoader, config_name: str | None, settings: Sequence[str]
) -> IConfigRepository:
    """Return the config files that a loader reads under overrides: hydra.searchpath may add folders.

    Raises:
        HydraException, OmegaConfBaseException: the overrides cannot be read.
    """
    assert isinstance(loader, ConfigLoaderImpl)
    return loader._parse_overrides_and_create_caching_repo(config_name, list(settings))[1]


def apply_values(values: Sequence[Override], cfg: DictConfig) -> None:
    """Set the values of overrides in a composed config.

    Raises:
        HydraException: one of them cannot be set.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(values), cfg)


def note_overrides(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Replace the overrides in a job's composed config by the job's own."""
    hydra = cfg.hydra
    task = [override for override in overrides if not override.is_hydra_override()]
    hydra.overrides.task.clear()
    hydra.overrides.task.extend([override.input_line for override in task])
    name = override_dirname(task, hydra.job)
    if name is not None:
        hydra.job.override_dirname = name


def override_dirname(task: Sequence[Override], job: DictConfig) -> str | None:
    """Return hydra.job.override_dirname of a job with these overrides; None if it is read from their list.

    Args:
        job: the node hydra.job.
    """
    if not IS_1_3:  # there it is an interpolation; here an override with one may be part of the text
        return None
    from hydra._internal.config_loader_impl import get_overrides_dirname

    how = job.config.override_dirname
    return get_overrides_dirname(
        overrides=list(task), kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
    )


def parsed_value(override: Override) -> Any:
    """Return the value of an override with its quotes and functions, which Override.value() removes."""
    return override._value


def split_points(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each point of a grid, in the order of Hydra's basic sweeper."""
    # Late: the plugin scan of Hydra 1.3 imports this module again, and makes a second class of this name.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return [point for batch in BasicSweeper.split_arguments(overrides, None) for point in batch]


def is_basic(launcher: Launcher) -> bool:
    """Return whether a launcher is Hydra's basic one, which runs one job after the other in this process."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher  # late: as in split_points

    return isinstance(launcher, BasicLauncher)


@contextmanager
def own_globals() -> Iterator[None]:
    """Remove Hydra's globals from this process, and restore them when the context ends."""
    held: dict[type, Any] = Singleton._instances
    before: dict[type, Any] = {kind: held.pop(kind) for kind in GLOBALS if kind in held}
    try:
        yield
    finally:
        for kind in GLOBALS:
            held.pop(kind, None)
        held.update(before)
