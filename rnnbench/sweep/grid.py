"""hydra/sweeper=grid: every combination of the values, each composed once, and all checked before any trains.

It can also write the combinations to a file, or train only some of them: rnnbench.paper uses this to run
the trials that a table lacks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, filter_overrides
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import ConfigError, flatten, folds_of, plain
from rnnbench.record import results
from rnnbench.sweep import stages
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.explain import of_point
from rnnbench.sweep.hydra_jobs import NUMBERED, TrialFailed, check_names, folder_name
from rnnbench.sweep.launcher import (
    Composed,
    TrialLauncher,
    job_name,
    own_folder,
    refusals,
)
from rnnbench.sweep.points import Expansion
from rnnbench.sweep.swept_options import of_options, swept_options
from rnnbench.system.files import write
from rnnbench.terminal import say


class GridSweeper(Sweeper):
    """Trains every point of a grid, as Hydra's basic sweeper does, but checks all points before it begins.

    Args:
        max_batch_size: points that are passed to the launcher at once; null: all.
        params: overrides to sweep over, as in Hydra's basic sweeper.
        plan: a file to write the points to, as JSON: the overrides, trial hash and config values of each.
            Nothing is trained then.
        only: a file of trial hashes, one a line: other points are left out.
        of_a_search: settings of a file of the group `search`, which are refused: they need another sweeper.
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
        """The composer of the grid's points."""
        if isinstance(self.launcher, TrialLauncher):
            return self.launcher.composer
        assert self.hydra_context is not None and self.config is not None
        return Composer(self.hydra_context.config_loader, self.config)

    def sweep(self, arguments: list[str]) -> Any:
        """Train every point of the grid.

        Raises:
            TrialFailed: at the end, if any trial failed.
        """
        assert self.config is not None
        with refusals():
            jobs, equal = self.points(arguments)
            if self.plan is not None:
                write_plan(self.plan, trials(jobs))
                raise SystemExit(0)
            if equal:
                said = f"{equal} of {len(jobs) + equal} points are the same trial as another point"
                say(f"{said}: each trial is trained once")
            if jobs[0].config.dry_run:
                most, elsewhere = (self.ours.max_stack, self.ours.elsewhere) if self.ours else (1, False)
                stages.show_plan([job.config for job in jobs], most, elsewhere)
                raise SystemExit(0)
            _check_no_search(Path(self.config.hydra.sweep.dir))
            batches = self._launch(jobs, job_name(arguments, jobs[0].config))
        results = [result for batch in batches for result in batch]
        failed = sum(result.status is JobStatus.FAILED for result in results)
        if failed:
            raise TrialFailed(f"{failed} of {len(results)} trials failed; see above")
        return batches

    @property
    def ours(self) -> TrialLauncher | None:
        """The launcher, if it is one of rnnbench's."""
        return self.launcher if isinstance(self.launcher, TrialLauncher) else None

    def points(self, arguments: list[str]) -> tuple[list[Composed], int]:
        """Compose and check the points of the grid that are to be trained; nothing is created.

        Returns:
            each distinct trial, and the number of further points that repeat one of them.

        Raises:
            ConfigError: the grid, or one of its points, cannot be run.
        """
        checked = self._check(self._expand(arguments), arguments)
        chosen = checked if self.only is None else _only(self.only, checked)
        distinct: dict[str, Composed] = {}
        for job in chosen:
            distinct.setdefault(job.trial, job)
        jobs = list(distinct.values())
        check_names(
            [
                folder_name(self.composer.compose(job.overrides), number)
                for number, job in enumerate(jobs)
                if job.tree["hydra"]["sweep"]["subdir"] != NUMBERED
            ]
        )
        return jobs, len(chosen) - len(jobs)

    def _expand(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of every point of the grid.

        Raises:
            ConfigError: a setting of the sweeper, or an override, does not suit a grid.
        """
        assert self.config is not None
        # The command that trains a winner may name its search, for settings outside of the space.
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
        points = Expansion(self.composer.checker).expand(list(_words(self.params)), arguments)
        return list(map(list, points))

    def _check(self, points: list[list[str]], words: Sequence[str]) -> list[Composed]:
        """Compose and check all points of the grid.

        Args:
            words: the overrides that give them.

        Raises:
            ConfigError: names the point that cannot be run.
        """
        assert self.config is not None
        checked = []
        for overrides in points:
            try:
                checked += _folded(self.composer, overrides)
            except ConfigError as error:
                options = swept_options(self.composer, points)
                said = of_options(self.composer, options, words, overrides, error)
                raise said if said is not error else of_point(filter_overrides(overrides), error) from None
        if not checked:
            raise ConfigError("hydra/sweeper=grid: gives no trial; a choice() or range() is without values")
        if self.ours:
            self.ours.check([job.tree for job in checked])
        configs = [job.config for job in checked]
        # A dry run measures stacks for a cluster here, if they need no card.
        measured = configs[0].dry_run and all(config.fit.device == "cpu" for config in configs)
        here = measured or not (self.ours and self.ours.elsewhere)
        stages.preflight(configs, Path(self.config.hydra.sweep.dir), here)
        return checked

    def _launch(self, jobs: list[Composed], name: str) -> list[Any]:
        """Have the launcher train the jobs, in batches of at most max_batch_size; return its results."""
        assert self.config is not None and self.launcher is not None
        if self.ours:
            self.ours.checked = {tuple(job.overrides): job for job in jobs}
        folder = own_folder(self.config, "sweep")
        elsewhere = self.ours is not None and self.ours.elsewhere
        with stages.open_sweep(folder, jobs[0].config, name, single=False, elsewhere=elsewhere) as sweep:
            sweep.note_plan(jobs=len({job.trial for job in jobs} | sweep.trials()))
            OmegaConf.save(self.config, folder / "multirun.yaml")
            points = [list(job.overrides) for job in jobs]
            size = self.max_batch_size or len(points)
            return [
                self.launcher.launch(points[first : first + size], initial_job_idx=first)
                for first in range(0, len(points), size)
            ]


def _folded(composer: Composer, overrides: list[str]) -> list[Composed]:
    """Compose a point of the grid; under data.folds one job for each fold, unless the point names one.

    Raises:
        ConfigError: it cannot be run.
    """
    job = Composed.of(composer, overrides)
    folds = folds_of(job.config, overrides)
    if len(folds) == 1:
        return [job]
    return [Composed.of(composer, [*overrides, f"data.fold={fold}"]) for fold in folds]


def _words(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield hydra.sweeper.params as words; several exclusions are a list."""
    for key, value in params.items():
        several = key == "exclude" and not isinstance(value, str)
        yield from (f"{key}={one}" for one in (value if several else [value]))


def trials(jobs: Sequence[Composed]) -> list[dict[str, Any]]:
    """Return the overrides, trial hash and config values of each job, as JSON types."""
    return [
        {"overrides": list(job.overrides), "trial": job.trial, "params": flatten(plain(job.config))}
        for job in jobs
    ]


def _only(file: str, jobs: list[Composed]) -> list[Composed]:
    """Return the jobs whose trial hashes are in a file, one a line.

    Raises:
        ConfigError: the file cannot be read, or has none of the hashes.
    """
    with _named("only", file):
        wanted = set(Path(file).read_text(encoding="utf-8").split())
    found = [job for job in jobs if job.trial in wanted]
    if not found:
        raise ConfigError(f"hydra.sweeper.only={file}: none of the grid's trials is in this file")
    return found


def write_plan(file: str, trials: list[dict[str, Any]]) -> None:
    """Write the points of a grid as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    with _named("plan", file):
        write(Path(file), json.dumps(trials, indent=1) + "\n")


@contextmanager
def _named(key: str, file: str) -> Iterator[None]:
    """Turn an error of reading or writing a file into a ConfigError that names the setting."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"hydra.sweeper.{key}={file}: {reason}; give another file") from error


def _check_no_search(folder: Path) -> None:
    """Refuse the folder of a search, since a grid's jobs would take the numbers of its next trials.

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
