"""hydra/sweeper=optuna: a search with Optuna.

Optuna and the engine are imported only in `OptunaSweeper.sweep`, since Hydra loads this module to look for
plugins before it has read a command line.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import ConfigError
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.hydra_api import is_basic
from rnnbench.sweep.hydra_jobs import check_search
from rnnbench.sweep.launcher import StackLauncher, TrialLauncher, own_folder, refusals
from rnnbench.sweep.stages import open_sweep

if TYPE_CHECKING:
    from rnnbench.search.plan import Plan
    from rnnbench.search.retry import RetryingStorage
    from rnnbench.sweep.session import Sweep


class OptunaSweeper(Sweeper):
    """Searches with Optuna; its settings are those of `rnnbench.config.Search`."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings, which are read from the config of the sweep."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep Hydra's context and config, and make the launcher that the config names."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search, report, and confirm the winner.

        Returns:
            the value of the best trial; None for several objectives, which have a Pareto front.

        Raises:
            SearchFailed: no trial has a result, or too many fail.
        """
        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        stacks = self.launcher if isinstance(self.launcher, StackLauncher) else None
        elsewhere = isinstance(self.launcher, TrialLauncher) and self.launcher.elsewhere
        loader = self.hydra_context.config_loader
        with refusals():
            # Late: importing Optuna takes half a second, which a command that Hydra refuses need not spend.
            from rnnbench.search.plan import make_plan

            composer = stacks.composer if stacks else Composer(loader, self.config)
            plan = make_plan(loader, self.config, composer, arguments, here=not elsewhere)
            _check_launcher(plan, self.launcher)
            check_search(self.config)
            if isinstance(self.launcher, TrialLauncher):
                self.launcher.check([plan.tree])
                self.launcher.base = plan.tree
            storage = self._storage(plan)
            # Late: importing the engine takes seconds, which a search that is refused need not spend.
            from rnnbench.search.opening import open_search
            from rnnbench.search.report import close_study, show_search

            if plan.base.dry_run:
                show_search(plan, stacks.max_stack if stacks else 1, elsewhere)
                raise SystemExit(0)
            with (
                self._open(plan, elsewhere=elsewhere) as sweep,
                stacks.around(plan.tree) if stacks else nullcontext(),
                open_search(plan, storage, self.config, sweep, self.launcher) as search,
            ):
                try:
                    search.run()
                finally:
                    result = close_study(search, sys.exc_info()[1])
        return result

    def _storage(self, plan: "Plan") -> "RetryingStorage | None":
        """Open the study's storage if it may exist, and refuse the study or records of another search."""
        from rnnbench.search.identity import check_earlier, check_records, check_study
        from rnnbench.search.plan import file_exists
        from rnnbench.search.storage import open_storage

        assert self.config is not None
        storage = open_storage(plan.storage) if file_exists(plan.storage) else None
        if not plan.base.dry_run:
            plan.folder = own_folder(self.config, "sweep")
        if storage is not None:
            check_study(storage, plan.name, plan.identity, plan.directions)
        check_records(storage, plan.name, plan.folder)
        if plan.earlier is not None:
            said = f"hydra.sweeper.warm_start={plan.settings.warm_start}"
            check_earlier(plan.earlier, plan.identity, plan.directions, said)
        return storage

    @contextmanager
    def _open(self, plan: "Plan", *, elsewhere: bool) -> "Iterator[Sweep]":
        """Open the folder of the search, and hold it until the block ends."""
        name = f"search {plan.name}"
        with open_sweep(
            plan.folder, plan.base, name, single=False, shared=plan.named, elsewhere=elsewhere
        ) as sweep:
            sweep.compared = False
            jobs = plan.n_trials * len(plan.members)
            sweep.note_plan(jobs=jobs, trials=plan.n_trials, objectives=plan.objectives)
            OmegaConf.save(self.config, plan.folder / "multirun.yaml")
            yield sweep


def _check_launcher(plan: "Plan", launcher: Any) -> None:
    """Refuse pruning if the jobs run in other processes and the study is in this one's memory."""
    here = isinstance(launcher, StackLauncher) or is_basic(launcher)
    if plan.prunes and plan.storage is None and not here:
        raise ConfigError(
            "hydra.sweeper.storage=null: under this launcher the trials train in other processes, and the "
            "pruner needs their reports: give the study a name (hydra.sweeper.study_name), or a storage"
        )


__all__ = ["OptunaSweeper"]
