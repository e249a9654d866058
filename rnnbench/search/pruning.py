"""A suggestion as its runs see it: the pruner is told the mean of what they have reached.

Used by our launcher inside the sweeper's process, and by the jobs of any other launcher, which find the
study in its storage.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.conf import HydraConf
from omegaconf import OmegaConf

from rnnbench.config import Config, Search, objective, per_epoch
from rnnbench.config.metrics import short
from rnnbench.record import read_metrics
from rnnbench.search import samplers as by_name
from rnnbench.search.identity import NUMBER, STUDY
from rnnbench.search.optuna_api import study_id
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study, report
from rnnbench.sweep.job import Job, identity
from rnnbench.train.stack import Slot

OPEN: dict[str, Study] = {}  # the studies of this process, by name


class Watch:
    """Reports a suggestion to the pruner, epoch by epoch, and has its runs stopped.

    Args:
        judge: is given an epoch and the runs' mean; answers whether to stop.
        jobs: the runs.
        metric: `loss`, or that of the task: what the best epoch is chosen by.
    """

    def __init__(self, judge: Callable[[int, float], bool], jobs: Sequence[Job], metric: str) -> None:
        self.judge = judge
        self.jobs = jobs
        self.metric = metric
        self.curves: list[dict[int, float]] = [{} for _ in jobs]  # epoch: best so far
        self.ended = [False] * len(jobs)
        self.told = 0  # the last epoch that the pruner knows
        self.stopped = False
        for job in jobs:
            job.watch = self

    def seen(self, job: Job, slot: Slot) -> None:
        """Take a run's evaluation, and report each epoch that all runs have reached."""
        number = self.jobs.index(job)
        if not self.curves[number] and slot.epoch > 1:
            self.curves[number] = self._before(job, slot.epoch)
        self.curves[number][slot.epoch] = slot.best[self.metric]
        self.ended[number] = slot.ended
        epochs = sorted({epoch for curve in self.curves for epoch in curve if epoch > self.told})
        for epoch in epochs:
            reached = [self._reached(run, epoch) for run in range(len(self.jobs))]
            last = all(self.ended) and epoch == epochs[-1]
            if None in reached or last:  # at the end there is nothing left to stop
                return
            self.told = epoch
            if self.judge(epoch, sum(value for value in reached if value is not None) / len(reached)):
                self.stopped = True
                return

    def _before(self, job: Job, epoch: int) -> dict[int, float]:
        """Read what a run had reached before this epoch, which it went on to from a checkpoint."""
        again, curve = Slot(job.config), {}
        names = {name.partition("/")[2]: name for name in per_epoch(job.config)}
        for row in read_metrics(job.folder):
            if row["epoch"] < epoch and all(name in row for name in names.values()):
                again.judge({short: row[name] for short, name in names.items()})
                curve[row["epoch"]] = again.best[self.metric]
        return curve

    def _reached(self, run: int, epoch: int) -> float | None:
        """Return the best value of a run up to an epoch; a run that has ended earlier keeps its last one."""
        curve = self.curves[run]
        if epoch in curve or not self.ended[run]:
            return curve.get(epoch)
        return curve[max(curve)]


def repeats_of(job: Job, count: int, name: str) -> list[Job]:
    """Return a job and its repeats under the next seeds, in the folders N, N.1, N.2, ..."""
    jobs = [job]
    for k in range(1, count):
        config = replace(job.config, seed=job.config.seed + k)
        folder = job.folder.with_name(f"{job.folder.name}.{k}")
        jobs.append(Job(f"{name} seed={config.seed}", config, folder, identity(config)))
    for again in jobs[1:]:
        again.tags = job.tags
    return jobs


def tags_of(study: str, number: int) -> dict[str, str]:
    """Return the tags by which a record names the study and the trial that it belongs to."""
    return {STUDY: study, NUMBER: str(number)}


def jobs_of(hydra: HydraConf, name: str, config: Config, folder: Path) -> list[Job]:
    """Return the runs of a suggestion that is a job of another launcher, watched if there is a pruner."""
    tree: Any = OmegaConf.to_container(hydra.sweeper, resolve=True)
    settings = search_of(tree | {"trial": hydra.job.num})
    jobs = suggestion_of(settings, str(hydra.sweep.dir), Job(name, config, folder, identity(config)))
    watch(settings, str(hydra.sweep.dir), Path(hydra.runtime.cwd), jobs)
    return jobs


def search_of(tree: dict[str, Any]) -> Search:
    """Read the sweeper's settings from hydra.sweeper as plain dicts."""
    return Search(**{key: value for key, value in tree.items() if not key.startswith("_")})


def suggestion_of(settings: Search, sweep_dir: str, job: Job) -> list[Job]:
    """Return the runs of the suggestion that a job stands for, with their tags.

    Args:
        sweep_dir: hydra.sweep.dir, which a study is named after that has no other name.
    """
    assert settings.trial is not None
    job.tags = tags_of(settings.study_name or sweep_dir, settings.trial)
    return repeats_of(job, settings.repeats, job.name)


def watch(settings: Search, sweep_dir: str, cwd: Path, jobs: Sequence[Job]) -> None:
    """Have the runs of a suggestion watched, if the search has a pruner.

    Args:
        cwd: the folder of the command, which sweep_dir is relative to.
    """
    if by_name.name_of("pruner", settings.pruner) != "none":
        watched = (settings.objectives or [objective(jobs[0].config)])[0]
        study = settings.study_name or sweep_dir
        default = f"journal:///{cwd / sweep_dir / 'journal.log'}"
        Watch(_judge(settings, study, default, jobs[0].config), jobs, short(watched))


def _judge(settings: Search, name: str, default: str, config: Config) -> Callable[[int, float], bool]:
    assert settings.trial is not None
    if name in OPEN:  # the job runs in the sweeper's own process
        storage, study = OPEN[name].storage, OPEN[name].study
    else:
        storage = open_storage(settings.storage or default)
        pruner = by_name.pruner_of(settings.pruner, config.fit.epochs)
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    id = storage.get_trial_id_from_study_id_trial_number(study_id(study), settings.trial)
    return partial(report, study, storage, id)
