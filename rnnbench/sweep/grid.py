"""hydra/sweeper=grid: every combination of the values, each composed once and checked before any trains.

Besides training them it can say what they are, and train some of them: by that rnnbench.paper runs the
trials that a table lacks.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, filter_overrides
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import ConfigError, flatten, plain
from rnnbench.record import results
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.hydra_api import split_points
from rnnbench.sweep.hydra_jobs import NUMBERED, TrialFailed, check_names, folder_name
from rnnbench.sweep.launcher import (
    Checked,
    TrialLauncher,
    identity,
    job_name,
    open_sweep,
    own_folder,
    refusals,
    task_config,
)
from rnnbench.sweep.overrides import of_point
from rnnbench.system.files import write
from rnnbench.terminal import say


class GridSweeper(Sweeper):
    """Hydra's basic sweeper, but every point is composed once and checked before anything is made.

    Args:
        max_batch_size: points that are handed to the launcher at once; null: all.
        params: overrides to sweep over, as in Hydra's basic sweeper.
        plan: a file to write the points to, as JSON: the overrides, trial hash and config values of each;
            nothing is trained then.
        only: a file of trial hashes, one a line: other points are left out.
        of_a_search: what a file of the group `search` sets; it needs another sweeper, and is refused.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None,
        plan: str | None,
        only: str | None,
        **of_a_search: Any,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.plan, self.only = plan, only
        self.of_a_search = of_a_search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @cached_property
    def composer(self) -> Composer:
        """Composes the points of the grid."""
        if isinstance(self.launcher, TrialLauncher):
            return self.launcher.composer
        assert self.hydra_context is not None and self.config is not None
        return Composer(self.hydra_context.config_loader, self.config)

    def sweep(self, arguments: list[str]) -> Any:
        """Train every point of the grid.

        Raises:
            TrialFailed: at the end, if any of them failed.
        """
        assert self.config is not None and self.launcher is not None
        with refusals():
            points, checked, equal = self.points(arguments)
            first, _ = checked[tuple(points[0])]
            if self.plan is not None:
                write_plan(self.plan, trials(points, checked))
                raise SystemExit(0)
            if equal:
                said = f"{equal} of {len(points) + equal} points are the same trial as another point"
                say(f"{said}: each trial is trained once")
            ours = self.launcher if isinstance(self.launcher, TrialLauncher) else None
            if first.dry_run:
                from rnnbench.sweep.dry_run import show_plan

                configs = [checked[tuple(point)][0] for point in points]
                show_plan(configs, ours.max_stack if ours else 1)
                raise SystemExit(0)
            if ours:
                ours.checked = checked
            _check_no_search(Path(self.config.hydra.sweep.dir))
            size = self.max_batch_size or len(points)
            folder, name = own_folder(self.config, "sweep"), job_name(arguments, first)
            with open_sweep(folder, first, name, single=False, elsewhere=bool(ours and ours.elsewhere)):
                OmegaConf.save(self.config, folder / "multirun.yaml")
                batches = [
                    self.launcher.launch(points[first : first + size], initial_job_idx=first)
                    for first in range(0, len(points), size)
                ]
        results = [result for batch in batches for result in batch]
        failed = sum(result.status is JobStatus.FAILED for result in results)
        if failed:
            raise TrialFailed(f"{failed} of {len(results)} trials failed; see above")
        return batches

    def points(self, arguments: list[str]) -> tuple[list[list[str]], Checked, int]:
        """Compose and check the points of the grid that are to be trained. Nothing is made yet.

        Returns:
            the overrides of each trial, the configs by overrides, and how many further points are one of
            these trials again.

        Raises:
            ConfigError: the grid, or one of its points, cannot be run.
        """
        points = self._expand(arguments)
        checked = self._check(points)
        if self.only is not None:
            with _named("only", self.only):
                wanted = set(Path(self.only).read_text(encoding="utf-8").split())
            points = [point for point in points if identity(checked[tuple(point)][0]) in wanted]
            if not points:
                raise ConfigError(
                    f"hydra.sweeper.only={self.only}: none of the grid's trials is in this file"
                )
        distinct: dict[str, list[str]] = {}
        for point in points:
            distinct.setdefault(identity(checked[tuple(point)][0]), point)
        equal, points = len(points) - len(distinct), list(distinct.values())
        check_names(
            [
                folder_name(self.composer.compose(point), number)
                for number, point in enumerate(points)
                if checked[tuple(point)][1]["hydra"]["sweep"]["subdir"] != NUMBERED
            ]
        )
        return points, checked, equal

    def _expand(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of every point of the grid.

        Raises:
            ConfigError: a setting of the sweeper, or an override, is none of a grid.
        """
        assert self.config is not None
        # A winner's command line names its search, for what that sets besides its space.
        given = {text.partition("=")[0] for text in arguments}
        if self.of_a_search and not given & self.of_a_search.get("space", {}).keys():
            groups = ("search", "hydra/sweeper/sampler", "hydra/sweeper/pruner")
            chosen = self.config.hydra.runtime.choices
            said = [f"{group}={chosen[group]}" for group in groups if chosen.get(group)]
            said += [f"hydra.sweeper.{key}" for key in self.of_a_search]
            raise ConfigError(f"hydra/sweeper=grid: has no use for {said[0]}; take hydra/sweeper=optuna")
        size = self.max_batch_size
        if size is not None and (type(size) is not int or size < 1):
            raise ConfigError(
                f"hydra.sweeper.max_batch_size={size}: must be a whole number of at least 1, or null"
            )
        if not isinstance(self.params, Mapping):
            raise ConfigError("hydra.sweeper.params: must be a mapping, such as {seed: '0,1'}")
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        self.composer.checker.check(words, several=True)
        overrides = self.composer.checker.parser.parse_overrides(words)
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigError(f"{override.input_line}: a grid needs values: a,b,c or choice() or range()")
        return split_points(overrides)

    def _check(self, points: list[list[str]]) -> Checked:
        """Compose and check all points of the grid; return their configs.

        Raises:
            ConfigError: with the point that cannot be run.
        """
        from rnnbench.sweep.preflight import preflight

        assert self.config is not None
        ours = self.launcher if isinstance(self.launcher, TrialLauncher) else None
        checked: Checked = {}
        for overrides in points:
            try:
                cfg = self.composer.check_and_compose(overrides)
                checked[tuple(overrides)] = task_config(cfg), self.composer.plain(cfg)
            except ConfigError as error:
                raise of_point(filter_overrides(overrides), error) from None
        if not points:
            raise ConfigError("hydra/sweeper=grid: gives no trial; a choice() or range() is without values")
        if ours:
            ours.check([tree for _, tree in checked.values()])
        configs = [config for config, _ in checked.values()]
        folder = Path(self.config.hydra.sweep.dir)
        preflight(configs, folder, not (ours and ours.elsewhere) or configs[0].dry_run)
        return checked


def trials(points: list[list[str]], checked: Checked) -> list[dict[str, Any]]:
    """Return the overrides, trial hash and config values of each point, as JSON types."""
    configs = [checked[tuple(point)][0] for point in points]
    return [
        {"overrides": point, "trial": identity(config), "params": flatten(plain(config))}
        for point, config in zip(points, configs, strict=True)
    ]


def write_plan(file: str, trials: list[dict[str, Any]]) -> None:
    """Write the points of a grid as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    with _named("plan", file):
        write(Path(file), json.dumps(trials, indent=1) + "\n")


@contextmanager
def _named(key: str, file: str) -> Iterator[None]:
    """Say which setting named a file that cannot be read or written."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"hydra.sweeper.{key}={file}: {reason}; give another file") from error


def _check_no_search(folder: Path) -> None:
    """Refuse the folder of a search: a grid's jobs would take the numbers of its next trials.

    Raises:
        ConfigError: names the folder and the search.
    """
    for result in results(folder).values():
        study = result["tags"].get("rnnbench.study")
        if study is not None:
            raise ConfigError(
                f"hydra.sweep.dir={folder}: holds the search {study}, whose next trials need their numbers; "
                "give another folder"
            )
