"""Reads and checks what a search will do, and refuses it before anything is made if it cannot be run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study

from rnnbench import config as schema
from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Reuse, Search
from rnnbench.config.advice import unknown_key
from rnnbench.config.keys import is_free, keys
from rnnbench.search import samplers as by_name
from rnnbench.search.aims import aims_of, pruner_for
from rnnbench.search.constraints import Constraint, read_constraints
from rnnbench.search.earlier import find_study, winners_of
from rnnbench.search.known import check_points, point_of, read_points
from rnnbench.search.members import Member, config_of, members_of
from rnnbench.search.over import check_scales, check_tasks
from rnnbench.search.space import Condition, Lookup, Parameter, Space, is_finite, read_space, text
from rnnbench.search.storage import check_storage, file_of
from rnnbench.search.study import Given
from rnnbench.search.turns import first_turn
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.explain import of_point
from rnnbench.sweep.groups import no_option
from rnnbench.sweep.launcher import task_config
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.stages import preflight
from rnnbench.sweep.swept_options import of_options

COUNTED = 10_000  # points of a space up to which an earlier study may have used it up


@dataclass
class Plan:
    """A search that can be run."""

    settings: Search
    space: Space
    fixed: list[str]  # overrides that all trials have
    tasks: list[list[str]]  # the overrides of each task of hydra.sweeper.over
    bases: list[Config]  # what they compose, one for each task
    tree: dict[str, Any]  # the same as plain dicts, with the hydra node
    lookup: Lookup  # gives the values of keys that the search does not set
    objectives: list[str]
    directions: list[str]
    sampler: BaseSampler
    pruner: BasePruner
    storage: str | None  # URL
    folder: Path
    n_trials: int  # no more than there are points
    points: int | None  # points of the space, if they are fewer than the trials that are asked for
    known: list[Given]  # points to train first
    earlier: Study | None  # whose trials the sampler is told of
    constraints: list[Constraint]  # that the winner has to keep
    samples: list[Config]  # of trials that the search may come to

    @property
    def base(self) -> Config:
        """What all trials compose, in the first task."""
        return self.bases[0]

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this search from others, as JSON types."""
        groups = {key for key in self.space.keys if "." not in key}
        searched = self.space.keys | {f"{group}.name" for group in groups}
        flat = schema.flatten(schema.plain(self.base))
        fixed = not any(key == "data" or key.startswith("data.") for key in self.space.keys)
        data = [tasks.load(base.data).checksum[:16] for base in self.bases] if fixed else ["searched"]
        more: dict[str, Any] = {} if self.settings.over is None else {"over": self.settings.over}
        if self.base.data.folds is not None:  # of one fold and of all of them data.fold is the same
            more["fold"] = list(schema.folds_of(self.base, self.fixed))
        return more | {
            "data": ", ".join(data),
            "space": [*self.space.identity(), *filter(None, [self.settings.custom_search_space])],
            "objective": self.objectives,
            "repeats": self.settings.repeats,
            "constraint": sorted(map(str, self.constraints)),
            "setting": {k: v for k, v in flat.items() if schema.identifies(k) and k not in searched},
        }

    @property
    def name(self) -> str:
        """The study's name: its own, else that of the folder."""
        return self.settings.study_name or str(self.folder)

    @property
    def prunes(self) -> bool:
        """True if there is a pruner."""
        return by_name.name_of("pruner", self.settings.pruner) != "none"

    @cached_property
    def members(self) -> list[Member]:
        """The members of each suggestion."""
        return members_of(self.bases, self.fixed, range(self.settings.repeats))

    @property
    def first_turn(self) -> int | None:
        """Rounds that train before the pruner judges them; None: it judges no members."""
        return first_turn(self.settings.pruner, len(self.members), len(self.tasks))

    @property
    def named(self) -> bool:
        """True if the study has a name, by which other processes can find it."""
        return self.settings.study_name is not None


def make_plan(
    loader: ConfigLoader, config: DictConfig, composer: Composer, arguments: list[str], *, here: bool = True
) -> Plan:
    """Read and check the settings of a search; nothing is created.

    Args:
        loader: Hydra's.
        config: as Hydra composed it for the sweep.
        arguments: the overrides of the command line without those of Hydra's settings.
        here: whether this machine is the one to train on.

    Raises:
        ConfigError: names the key, the value and what would do.
    """
    settings = _settings(config)
    parameters, fixed = _read_overrides(settings, loader, composer.checker, arguments)
    options = _options(parameters, composer.checker)
    over = check_tasks(settings, fixed, {p.key for p in parameters}, composer.checker)
    cfgs = [_base(composer, [*fixed, *task], options) for task in over]
    bases = list(map(task_config, cfgs))
    lookup = _lookup(cfgs[0])
    space = _space(parameters, lookup, composer.checker)
    objectives, directions = aims_of(settings, over, bases)
    members = members_of(bases, fixed, range(settings.repeats))
    storage = _storage(settings, folder := Path(config.hydra.sweep.dir))
    known = _known(settings, space, lookup, loader, partial(winners_of, folder=folder, storage=storage))
    points = [*space.corners(lookup), *(point_of(given, space, lookup) for given in known)]
    plan = Plan(
        settings=settings,
        space=space,
        fixed=fixed,
        tasks=over,
        bases=bases,
        tree=composer.plain(cfgs[0]),
        lookup=lookup,
        objectives=objectives,
        directions=directions,
        sampler=_sampler(settings, space, len(objectives)),
        pruner=pruner_for(settings, objectives, bases[0], len(members)),
        storage=storage,
        folder=folder,
        n_trials=_n_trials(settings, space, lookup),
        points=_points(settings, space, lookup, bases[0].reuse),
        known=known,
        earlier=_earlier(settings, folder, storage),
        constraints=_constraints(settings, bases),
        samples=[_compose(composer, options, [*fixed, *task], point) for task in over for point in points],
    )
    _check(plan, here)
    return plan


def _check(plan: Plan, here: bool) -> None:
    """Refuse trials that could not run, and tasks whose objectives have no scale."""
    preflight(plan.samples, plan.folder, here or plan.base.dry_run)
    check_scales(plan.settings, [config_of(plan.bases[member.task], member) for member in plan.members])


def _earlier(settings: Search, folder: Path, storage: str | None) -> Study | None:
    """Return the study that the search begins with; samplers that do not learn from it are refused."""
    where = settings.warm_start
    if where is None:
        return None
    name = by_name.name_of("sampler", settings.sampler)
    if name not in by_name.LEARN:
        raise ConfigError(
            f"hydra.sweeper.warm_start={where}: hydra/sweeper/sampler={name} learns nothing from trials of "
            f"another study; take {', '.join(sorted(by_name.LEARN))}"
        )
    if where == settings.study_name or Path(where).resolve() == folder.resolve():
        raise ConfigError(f"hydra.sweeper.warm_start={where}: is this search itself; name an earlier one")
    return find_study(where, folder, storage, f"hydra.sweeper.warm_start={where}")


def _constraints(settings: Search, bases: Sequence[Config]) -> list[Constraint]:
    """Return the constraints; a sampler that would warn at each trial that it ignores them is refused."""
    name = by_name.name_of("sampler", settings.sampler)
    if settings.constraints and name == "cmaes":
        raise ConfigError(
            "hydra.sweeper.constraints: hydra/sweeper/sampler=cmaes ignores them; take tpe, gp or nsgaii"
        )
    given, tested = settings.constraints, settings.use_test_set
    constraints, *_ = [read_constraints(given, base, use_test_set=tested) for base in bases]
    return constraints


def _known(
    settings: Search,
    space: Space,
    lookup: Lookup,
    loader: ConfigLoader,
    points_of: Callable[[str], list[str]],
) -> list[Given]:
    """Return the points that are trained first.

    Args:
        points_of: returns the points, as overrides, of an entry of hydra.sweeper.enqueue.
    """
    if settings.enqueue and by_name.name_of("sampler", settings.sampler) == "grid":
        raise ConfigError(
            "hydra.sweeper.enqueue: hydra/sweeper/sampler=grid trains all points; take brute_force to begin "
            "with some of them"
        )
    points = [point for entry in settings.enqueue or [] for point in points_of(entry)]
    known = read_points(points, space, lookup, OverridesParser.create(config_loader=loader))
    check_points(known, settings.n_trials)
    return known


def _read_overrides(
    settings: Search, loader: ConfigLoader, checker: Checker, arguments: list[str]
) -> tuple[list[Parameter], list[str]]:
    """Return the parameters to search, and the overrides that all trials have."""
    params = [f"{key}={text(value)}" for key, value in (settings.params or {}).items()]
    checker.check([*params, *arguments], several=True)
    parser = OverridesParser.create(config_loader=loader)
    return read_space(settings.space, [*params, *arguments], parser)


def _space(parameters: Sequence[Parameter], lookup: Lookup, checker: Checker) -> Space:
    """Check the conditions of the parameters, and return the space of those that can matter."""
    for parameter in parameters:
        _check_when(parameter, checker)
    searched = {parameter.key for parameter in parameters}
    return Space([p for p in parameters if _matters(p.when, lookup, searched)])


def _sampler(settings: Search, space: Space, objectives: int) -> BaseSampler:
    """Return the sampler for this number of objectives; grid is refused where there are conditions."""
    grid = {}
    if by_name.name_of("sampler", settings.sampler) == "grid":
        if any(parameter.when for parameter in space.drawn):
            raise ConfigError("hydra/sweeper/sampler=grid: cannot have conditions (when:); take brute_force")
        grid = space.grid()
    return by_name.sampler_of(settings.sampler, grid, objectives)


def _n_trials(settings: Search, space: Space, lookup: Lookup) -> int:
    """Return the number of trials; for samplers that exhaust the space, at most its number of points."""
    exhaustive = by_name.name_of("sampler", settings.sampler) in by_name.EXHAUSTIVE
    if exhaustive and settings.custom_search_space is None:
        return sum(1 for _ in islice(space.points(lookup), settings.n_trials))
    return settings.n_trials


def _points(settings: Search, space: Space, lookup: Lookup, reuse: Reuse) -> int | None:
    """Count the points of a space, after which a search has nothing to train; None if n_trials are fewer."""
    if (
        reuse is Reuse.none
        or settings.custom_search_space is not None
        or not all(map(is_finite, space.drawn))
    ):
        return None
    most = settings.n_trials if settings.warm_start is None else max(settings.n_trials, COUNTED)
    count = sum(1 for _ in islice(space.points(lookup), most))
    return count if count < most else None


def _storage(settings: Search, folder: Path) -> str | None:
    """Return the URL of the storage; by default a named study has a journal in its folder, others None."""
    if settings.storage is not None:
        check_storage(settings.storage)
        return settings.storage
    return None if settings.study_name is None else f"journal:///{folder / 'journal.log'}"


def _check_custom_space(settings: Search) -> None:
    """Refuse a custom_search_space that cannot be imported."""
    if settings.custom_search_space is not None:
        try:
            get_method(settings.custom_search_space)
        except Exception as error:  # Hydra raises what importing the user's module raises
            reason = " ".join(str(error).split())
            raise ConfigError(f"hydra.sweeper.custom_search_space: {reason}") from error


def _settings(config: DictConfig) -> Search:
    tree = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(tree, dict)
    known = {key: value for key, value in tree.items() if key != "_target_"}
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Search), known))
    assert isinstance(settings, Search)
    _check_numbers(settings)
    _check_custom_space(settings)
    by_name.notice(settings.sampler)
    return settings


def _check_numbers(settings: Search) -> None:
    for key, least in (("n_trials", 1), ("n_jobs", 1), ("repeats", 1), ("confirm", 0)):
        value = getattr(settings, key)
        if value < least:
            raise ConfigError(f"hydra.sweeper.{key}={value}: must be a whole number of at least {least}")
    if settings.stop_after is not None and settings.stop_after < 1:
        raise ConfigError(f"hydra.sweeper.stop_after={settings.stop_after}: must be at least 1 trial")
    if settings.timeout is not None and not settings.timeout > 0:
        raise ConfigError(f"hydra.sweeper.timeout={settings.timeout:g}: must be hours, such as 0.5, above 0")
    rate = settings.max_failure_rate
    if not 0 <= rate <= 1:
        raise ConfigError(f"hydra.sweeper.max_failure_rate={rate}: must be between 0 and 1")
    name = settings.study_name
    if name is not None and (not name or name.startswith((".", "/")) or ".." in Path(name).parts):
        raise ConfigError(f"hydra.sweeper.study_name={name}: must do as the name of a folder in multirun/")


def _lookup(cfg: DictConfig) -> Lookup:
    """Return a function that gives the value of a key or group in a composed config, as text."""
    choices = cfg.hydra.runtime.choices

    def lookup(key: str) -> str | None:
        if key in choices:
            return None if choices[key] is None else str(choices[key])
        value = OmegaConf.select(cfg, key)
        if isinstance(value, Enum):
            return value.name
        return text(value) if value is None or isinstance(value, bool | int | float | str) else str(value)

    return lookup


def _check_when(parameter: Parameter, checker: Checker) -> None:
    """Refuse a condition on a key, or on an option of a group, that does not exist."""
    when = parameter.when
    if when is None:
        return
    place = f"hydra.sweeper.space: {parameter.key}: when"
    if checker.groups.has(when.key):
        options = checker.groups.options(when.key)
        for value in when.values:
            if value not in (*options, "null"):
                raise ConfigError(f"{place}: {no_option(when.key, value, options)}")
    elif when.key not in keys() and not is_free(when.key):
        raise ConfigError(f"{place}: {unknown_key(when.key, ','.join(when.values))}")


def _matters(when: Condition | None, lookup: Lookup, searched: set[str]) -> bool:
    """Return whether a condition can hold; on a key that is not searched it holds always or never."""
    return when is None or when.key in searched or when.holds(lookup(when.key))


def _options(parameters: Sequence[Parameter], checker: Checker) -> dict[str, list[str]]:
    """Return the options that are searched, by group."""
    searched = [p for p in parameters if p.when is None and checker.groups.has(p.key)]
    return {
        p.key: list(map(text, p.over.choices))
        for p in searched
        if isinstance(p.over, CategoricalDistribution)
    }


def _base(composer: Composer, fixed: Sequence[str], options: Mapping[str, Sequence[str]]) -> DictConfig:
    """Compose what all trials have; with the first of the searched options where the default lacks a key."""
    try:
        return composer.check_and_compose(fixed)
    except ConfigError as error:
        first = [f"{group}={names[0]}" for group, names in options.items()]
        try:
            return composer.check_and_compose([*first, *fixed])
        except ConfigError as again:
            raise of_options(composer, options, fixed, [*first, *fixed], again if first else error) from None


def _compose(
    composer: Composer, options: Mapping[str, Sequence[str]], fixed: Sequence[str], point: Sequence[str]
) -> Config:
    try:
        return task_config(composer.check_and_compose([*fixed, *point]))
    except ConfigError as error:
        said = of_options(composer, options, fixed, [*fixed, *point], error)
        raise said if said is not error else of_point(point, error) from None


def file_exists(url: str | None) -> bool:
    """Return whether a storage may hold a study already: it is a server, or a file that exists."""
    if url is None:
        return False
    file = file_of(url)
    return file is None or file.exists()
