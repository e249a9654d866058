"""hydra/sweeper=optuna: a search that can be left alone overnight.

Optuna is imported when a search starts: Hydra loads this module to look for plugins.
"""

import sys
from contextlib import nullcontext
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rnnbench.sweep.compose import Composer
from rnnbench.sweep.hydra_api import is_basic
from rnnbench.sweep.hydra_jobs import check_search
from rnnbench.sweep.launcher import StackLauncher, TrialLauncher, own_folder, refusals
from rnnbench.sweep.stages import open_sweep


class OptunaSweeper(Sweeper):
    """Searches with Optuna; its settings are those of `rnnbench.config.Search`."""

    def __init__(self, **settings: Any) -> None:
        """The settings are read from the config of the sweep."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search, report, and confirm the winner.

        Returns:
            the value of the best trial; of several objectives, which have a front, None.

        Raises:
            SearchFailed: no trial has a result, or too many fail.
        """
        from rnnbench.search.identity import check_records, check_study
        from rnnbench.search.plan import file_exists, make_plan
        from rnnbench.search.pruning import OPEN
        from rnnbench.search.report import close_study
        from rnnbench.search.runner import JobSearch, StackSearch
        from rnnbench.search.storage import open_storage
        from rnnbench.search.study import Study

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        stacks = self.launcher if isinstance(self.launcher, StackLauncher) else None
        elsewhere = isinstance(self.launcher, TrialLauncher) and self.launcher.elsewhere
        loader = self.hydra_context.config_loader
        with refusals():
            composer = stacks.composer if stacks else Composer(loader, self.config)
            plan = make_plan(loader, self.config, composer, arguments, here=not elsewhere)
            _check_launcher(plan, self.launcher)
            check_search(self.config)
            tree = composer.plain(composer.compose(plan.fixed))
            if isinstance(self.launcher, TrialLauncher):
                self.launcher.check([tree])
                self.launcher.base = tree
            storage = open_storage(plan.storage) if file_exists(plan.storage) else None
            if not plan.base.dry_run:
                plan.move(own_folder(self.config, "sweep"))
            if storage is not None:
                check_study(storage, plan.name, plan.identity, plan.directions)
            check_records(storage, plan.name, plan.folder)
            if plan.base.dry_run:
                from rnnbench.search.report import show_search

                show_search(plan, stacks.max_stack if stacks else 1)
                raise SystemExit(0)
            with open_sweep(
                *(plan.folder, plan.base, f"search {plan.name}"),
                single=False,
                shared=plan.named,
                elsewhere=elsewhere,
            ) as sweep:
                sweep.compared = False
                OmegaConf.save(self.config, plan.folder / "multirun.yaml")
                study = Study(
                    *(storage or open_storage(plan.storage), plan.name, plan.identity, plan.objectives),
                    *(plan.directions, plan.sampler, plan.pruner, plan.n_trials),
                )
                OPEN[study.name] = study
                search = (
                    StackSearch(plan, study, self.config, sweep, stacks)
                    if stacks
                    else JobSearch(plan, study, self.config, sweep, self.launcher)
                )
                with stacks.around(tree) if stacks else nullcontext():
                    try:
                        search.run()
                    finally:
                        del OPEN[study.name]
                        result = close_study(search, sys.exc_info()[1])
        return result


def _check_launcher(plan: Any, launcher: Any) -> None:
    """Refuse jobs in other processes that would have to find a study in this one's memory."""
    from rnnbench.config import ConfigError

    here = isinstance(launcher, StackLauncher) or is_basic(launcher)
    if plan.prunes and plan.storage is None and not here:
        raise ConfigError(
            "hydra.sweeper.storage=null: under this launcher the trials train in other processes, and a "
            "pruner has to hear of them: give the study a name (hydra.sweeper.study_name), or a storage"
        )


__all__ = ["OptunaSweeper"]
