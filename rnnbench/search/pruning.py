"""Reports the mean over a suggestion's jobs to the pruner after each epoch, and stops them if it says so.

It is used by our launcher inside the sweeper's process, and by the jobs of any other launcher, which find
the study in its storage. A pruner that judges whole members takes `rnnbench.search.turns`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from rnnbench.config import Config, Search, per_epoch
from rnnbench.config.metrics import short
from rnnbench.record import read_metrics
from rnnbench.search import samplers as by_name
from rnnbench.search.identity import NUMBER, STUDY
from rnnbench.search.members import jobs_of, members_of
from rnnbench.search.optuna_api import study_id
from rnnbench.search.over import goal_of, tasks_of
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study, report
from rnnbench.search.turns import NAME, Turns, first_turn
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.launcher import Composed
from rnnbench.train.stack import Slot

OPEN: dict[str, Study] = {}  # the studies of this process, by name


class Watch:
    """Reports a suggestion to the pruner, epoch by epoch, and stops its jobs when the pruner says so.

    Args:
        judge: takes an epoch and the mean over the jobs, and returns whether to stop.
        jobs: the suggestion's jobs, one for each member.
        metric: the metric by which the best epoch is chosen: `loss`, or that of the task.
    """

    def __init__(self, judge: Callable[[int, float], bool], jobs: Sequence[Job], metric: str) -> None:
        self.judge = judge
        self.jobs = jobs
        self.metric = metric
        self.curves: list[dict[int, float]] = [{} for _ in jobs]  # for each job, best value by epoch
        self.ended = [False] * len(jobs)
        self.told = 0  # the last epoch that was reported to the pruner
        self.stopped = False
        for job in jobs:
            job.watch = self

    def seen(self, job: Job, slot: Slot) -> None:
        """Take a job's evaluation into account, and report each epoch that all jobs have reached."""
        number = self.jobs.index(job)
        if not self.curves[number] and slot.epoch > 1:
            self.curves[number] = self._before(job, slot.epoch)
        self.curves[number][slot.epoch] = slot.best[self.metric]
        self.ended[number] = slot.ended
        self.tell()

    def known(self, job: Job) -> None:
        """Take a job into account that does not train, since its trial's record is there."""
        number = self.jobs.index(job)
        self.curves[number] = self._before(job, job.config.fit.epochs + 1)
        self.ended[number] = True

    def tell(self) -> None:
        """Report each epoch that all jobs have reached, until the pruner stops them."""
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
        """Read the best values of the epochs before this one, for a job that went on from a snapshot."""
        again, curve = Slot(job.config), {}
        names = {name.partition("/")[2]: name for name in per_epoch(job.config)}
        for row in read_metrics(job.folder):
            if row["epoch"] < epoch and all(name in row for name in names.values()):
                again.judge({short: row[name] for short, name in names.items()})
                curve[row["epoch"]] = again.best[self.metric]
        return curve

    def _reached(self, run: int, epoch: int) -> float | None:
        """Return the best value of a job up to an epoch; a job that ended earlier keeps its last one."""
        curve = self.curves[run]
        if epoch in curve or not self.ended[run]:
            return curve.get(epoch)
        return curve[max(curve)]


def tags_of(study: str, number: int) -> dict[str, str]:
    """Return the tags by which a record names its study, and its trial's number in it."""
    return {STUDY: study, NUMBER: str(number)}


def turns_in_job(hydra: HydraConf, name: str, config: Config, folder: Path) -> Turns:
    """Return the turns of a suggestion under another launcher; a pruner that judges epochs watches them."""
    tree: Any = OmegaConf.to_container(hydra.sweeper, resolve=True)
    settings = search_of(tree | {"trial": hydra.job.num})
    place = str(hydra.sweep.dir), Path(hydra.runtime.cwd)
    job = Job(name, config, folder, identity(config))
    words = list(hydra.overrides.task)
    jobs = suggestion_of(settings, place[0], job, words, partial(_composed, hydra))
    watch(settings, *place, jobs)
    return turns_of(settings, *place, jobs)


def search_of(tree: dict[str, Any]) -> Search:
    """Read the sweeper's settings from hydra.sweeper as plain dicts."""
    return Search(**{key: value for key, value in tree.items() if not key.startswith("_")})


def _composed(hydra: HydraConf, words: Sequence[str]) -> Config:
    """Compose what a job of this search would be with other overrides."""
    master = OmegaConf.create({"hydra": hydra})
    return Composed.of(Composer(GlobalHydra.instance().config_loader(), master), words).config


def suggestion_of(
    settings: Search,
    sweep_dir: str,
    job: Job,
    words: Sequence[str],
    compose: Callable[[Sequence[str]], Config],
) -> list[Job]:
    """Return the jobs of a suggestion, with their tags; the first is the given job.

    Args:
        sweep_dir: hydra.sweep.dir, the name of a study that has no other name.
        words: the job's overrides, of which those of its task are the last.
        compose: returns the configuration of other overrides.
    """
    assert settings.trial is not None
    job.tags = tags_of(settings.study_name or sweep_dir, settings.trial)
    tasks = tasks_of(settings)
    shared = words[: len(words) - len(tasks[0])]
    configs = [job.config, *(compose([*shared, *task]) for task in tasks[1:])]
    return jobs_of(job, configs, members_of(configs, shared, range(settings.repeats)), tasks)


def watch(settings: Search, sweep_dir: str, cwd: Path, jobs: Sequence[Job]) -> None:
    """Watch the jobs of a suggestion, if the search has a pruner that judges epochs.

    Args:
        cwd: the folder of the command, to which sweep_dir is relative.
    """
    if by_name.name_of("pruner", settings.pruner) not in ("none", NAME):
        judge = _judge(settings, sweep_dir, cwd, jobs[0].config)
        Watch(judge, jobs, short(goal_of(settings, jobs[0].config)))


def turns_of(settings: Search, sweep_dir: str, cwd: Path, jobs: Sequence[Job]) -> Turns:
    """Return the turns in which the jobs of a suggestion train: one, unless the pruner judges members."""
    first = first_turn(settings.pruner, len(jobs), len(tasks_of(settings)))
    if first is None:
        return Turns(jobs)
    return Turns(jobs, first, _judge(settings, sweep_dir, cwd, jobs[0].config), settings)


def _judge(settings: Search, sweep_dir: str, cwd: Path, config: Config) -> Callable[[int, float], bool]:
    assert settings.trial is not None
    name = settings.study_name or sweep_dir
    if name in OPEN:  # the job runs in the sweeper's own process
        storage, study = OPEN[name].storage, OPEN[name].study
    else:
        storage = open_storage(settings.storage or f"journal:///{cwd / sweep_dir / 'journal.log'}")
        pruner = by_name.pruner_of(settings.pruner, config.fit.epochs)
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    id = storage.get_trial_id_from_study_id_trial_number(study_id(study), settings.trial)
    return partial(report, study, storage, id)
