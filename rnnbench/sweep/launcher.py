"""The Hydra side: checks before anything is made, the launcher.

Nothing slow is imported here: Hydra loads this module to look for plugins, and a mistake in the
command line is answered from here.
"""

import importlib
import os
import sys
import traceback
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, filter_overrides, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from rnnbench import config as schema
from rnnbench.config import Config, ConfigError, check_tree, own_code, to_yaml, trial_hash, typed
from rnnbench.nn.budget import resolved
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.hydra_jobs import (
    NUMBERED,
    Told,
    TrialFailed,
    check_alike,
    folder_name,
    surroundings,
)
from rnnbench.sweep.overrides import check_given, check_settings
from rnnbench.system.files import write

if TYPE_CHECKING:
    from rnnbench.sweep.recorder import Job, Sweep

OWNER = "RNNBENCH_SWEEP"  # environment: the sweep folders that an ancestor of this process holds
OPEN: "dict[str, Sweep]" = {}  # the sweep folders that this process holds


def register() -> None:
    """Tell Hydra the typed schema, and where our launcher and sweeper are."""
    store = ConfigStore.instance()
    nodes = {"config": Config, "model": schema.Model, "fit": schema.Fit, "data": schema.Data}
    nodes |= {kind.__name__.lower(): kind for kind in schema.DATA.values()}
    nodes |= {
        "tracking": schema.Tracking,
        "search": schema.Search,
        "slurm": schema.Slurm,
        "ray": schema.Ray,
        **schema.OPTIMISERS,
    }
    for name, node in nodes.items():
        # Below hydra/, so that it is not listed among the user's choices.
        store.store(group="hydra/schema", name=name, node=node)
    resolver = partial(OmegaConf.register_new_resolver, replace=True)
    resolver("named", lambda name, dated: name or dated)
    resolver("if_forget_gate", lambda cell, bias: bias if cell in schema.FORGET_GATES else None)
    ours = str(Path(__file__).parents[1] / "hydra_plugins")
    try:
        hydra_plugins: Any = importlib.import_module("hydra_plugins")
    except ImportError:  # no other plugin is installed
        hydra_plugins = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        hydra_plugins.__path__ = []
    if ours not in hydra_plugins.__path__:
        hydra_plugins.__path__.append(ours)


def task_config(cfg: DictConfig) -> Config:
    """The checked configuration of a job, from a composed config; imports code of one's own.

    Raises:
        ConfigError: it cannot be run.
    """
    config = typed(cfg)
    if "hydra" in cfg:
        check_given(cfg.hydra.overrides.task, config)
    return resolved(own_code(config))


class Gate(Callback):
    """Checks a single run before Hydra makes its folder; a sweep is checked by its sweeper."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with fatal(), refusals():
            check_settings(config, "sweep")
            check_tree(OmegaConf.to_container(config))
            if "rnnbench" not in str(config.hydra.sweeper._target_):  # it makes its folder at once
                own_folder(config, "sweep")

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with fatal(), refusals():
            from rnnbench.sweep.preflight import preflight

            check_settings(config, "run")
            check_tree(OmegaConf.to_container(config))
            checked = task_config(config)
            chosen, given = config.hydra.runtime.choices.get("search"), config.hydra.overrides.task
            # A winner's command line names its search, for what that sets besides its space.
            if chosen and not {text.partition("=")[0] for text in given} & config.hydra.sweeper.space.keys():
                raise ConfigError(f"search={chosen}: a search is a sweep: python -m rnnbench -m ...")
            folder = Path(config.hydra.run.dir)
            preflight([checked], folder)
            if checked.dry_run:
                from rnnbench.sweep.dry_run import show_plan

                show_plan([checked], 1)
                raise SystemExit(0)
            own_folder(config, "run")


@contextmanager
def fatal() -> Iterator[None]:
    """End the process with the traceback of any error: Hydra turns one of a callback into a warning."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a ConfigError into one message and exit code 1 (a traceback under HYDRA_FULL_ERROR=1).

    SystemExit, which Hydra passes on wherever it is raised.
    """
    try:
        yield
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        from rnnbench.terminal import refuse

        raise refuse(str(error)) from None


def identity(config: Config) -> str:
    """The trial hash of a configuration, with the checksum of its data."""
    from rnnbench import tasks

    return trial_hash(config, tasks.load(config.data).checksum)


def check_distinct(jobs: Sequence[tuple[Sequence[str], Config]]) -> None:
    """Refuse jobs that are one trial; our own sweeper has each trained once.

    Args:
        jobs: overrides and configurations.

    Raises:
        ConfigError: names two of them.
    """
    known: dict[str, Sequence[str]] = {}
    for overrides, config in jobs if len(jobs) > 1 else ():
        before = known.setdefault(identity(config), overrides)
        if before is not overrides:
            raise ConfigError(
                f"{' '.join(overrides)}: is the same trial as {' '.join(before)}; leave one away, or take "
                "hydra/sweeper=grid, which trains it once"
            )


def own_folder(config: DictConfig, kind: str) -> Path:
    """The folder of a `run` or a `sweep`. One that is named after the second is made here, for this process
    alone: another that starts in the same second gets another; the config then says so."""
    folder = Path(config.hydra[kind].dir)
    written: Any = OmegaConf.to_container(config.hydra[kind])
    if "%S" not in str(written["dir"]) or config.hydra.sweeper.get("study_name"):
        return folder
    from rnnbench.record import new_folder

    of_sweep = job_folder(folder).parent if kind == "run" else folder
    mine = new_folder(of_sweep) / folder.relative_to(of_sweep)
    if mine != folder:
        with read_write(config.hydra):
            config.hydra[kind].dir = str(mine)
            config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={mine}")  # for jobs that compose again
    return mine


def job_folder(folder: Path) -> Path:
    """Where a job's record goes: a numbered folder as it is, number 0 in any other."""
    return folder if folder.name[:1].isdigit() and folder.name.partition(".")[0].isdigit() else folder / "0"


def job_name(overrides: Sequence[str], config: Config) -> str:
    """Readable name of a job: what the command line says about it."""
    aside = ("hydra.", "hydra/", "tracking.", "tracking=", "data.root=")
    keep = [text for text in overrides if not text.startswith(aside)]
    return " ".join(keep) or f"{config.model.name} {config.data.name}"


def labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells the jobs of a sweep apart, in short: overrides that not all of them have."""
    shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    return [
        " ".join(word.removeprefix("model=") for word in overrides if word not in shared)
        for overrides in map(filter_overrides, job_overrides)
    ]


@contextmanager
def open_sweep(
    folder: Path, config: Config, name: str, single: bool, shared: bool = False, elsewhere: bool = False
) -> "Iterator[Sweep]":
    """Hold a sweep folder while its jobs run; at the end deliver the records and print the table.

    Whoever opened it first sees to the end: a caller in this process, or an ancestor of this process.

    Args:
        shared: other processes may hold it too, if they also share it.
        elsewhere: its jobs are trained by workers, who may be at it already.
    """
    from rnnbench.mlflow_sync.courier import Courier
    from rnnbench.record import SweepFolder
    from rnnbench.sweep.recorder import Sweep, close
    from rnnbench.system import signals
    from rnnbench.system.files import NO_SPACE
    from rnnbench.terminal import warn

    place = str(folder.resolve())
    if place in OPEN or place in os.environ.get(OWNER, "").split("\n"):
        with signals.listen():
            yield OPEN.get(place) or Sweep(folder, None, None)
        return

    claim = SweepFolder.claim(
        folder,
        name=name,
        command=sys.argv,
        tracking=config.tracking,
        single=single,
        shared=shared,
        elsewhere=elsewhere,
    )
    try:
        with signals.listen(), claim as records:
            courier = Courier(folder, warn) if config.tracking.uri is not None else None
            OPEN[place] = sweep = Sweep(folder, records, courier)
            os.environ[OWNER] = "\n".join(OPEN)  # several where runs were started in several threads
            try:
                yield sweep
            finally:
                del OPEN[place]
                os.environ[OWNER] = "\n".join(OPEN)
                close(sweep, config, sys.exc_info()[1])
    except OSError as error:
        if error.errno is None or error.errno not in NO_SPACE:
            raise
        key, reason = "hydra.run.dir" if single else "hydra.sweep.dir", os.strerror(error.errno).lower()
        raise ConfigError(
            f"{key}={folder}: {reason}; "
            "what is recorded so far is whole. Make room, and the same command goes on from there"
        ) from error


def run_jobs(sweep: "Sweep", jobs: "Sequence[Job]", max_stack: int | None) -> None:
    """Train the jobs that have no finished record of the same trial yet."""
    from rnnbench.terminal import say

    todo = [job for job in jobs if not sweep.finished(job)]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} trials are finished already in {sweep.folder}")
    elif len(jobs) > 1:
        say(f"{len(jobs)} trials; each has its folder, by number, in {os.path.relpath(sweep.folder)}")
    if todo:
        from rnnbench.sweep.scheduler import train

        train(sweep, todo, max_stack)


# A job's overrides to its config, typed and as plain dicts with the hydra node.
Checked = dict[tuple[str, ...], tuple[Config, dict[str, Any]]]


class TrialLauncher(Launcher, ABC):
    """Composes and checks jobs, holds their sweep folder, has them trained in stacks of equal shapes.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it and fit.
    """

    elsewhere = False  # whether other processes train, which may outlive this one

    def __init__(self, max_stack: int | None) -> None:
        if max_stack is not None and (type(max_stack) is not int or max_stack < 1):
            raise ConfigError(f"hydra.launcher.max_stack={max_stack}: must be a whole number of at least 1")
        self.max_stack = max_stack
        self.checked: Checked = {}  # filled by our sweeper
        self.base: dict[str, Any] | None = None  # of a search, what its jobs are compared with
        self.composing = Lock()  # jobs of a search may be launched from several threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.listened = bool(set(config.hydra.callbacks) - {"rnnbench"})  # whether callbacks are told of jobs

    @cached_property
    def composer(self) -> Composer:
        """Composes the jobs of this launcher's sweep."""
        return Composer(self.hydra_context.config_loader, self.config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs; one result each, in order, COMPLETED with the objective or FAILED.

        The configs are not among the results: 100 KB of each would stay in memory until the end.
        """
        setup_globals()
        folder = Path(self.config.hydra.sweep.dir)
        with refusals(), self.composing:
            if not job_overrides:
                raise ConfigError("hydra/sweeper: gives no trial; a range may be without values")
            for overrides in job_overrides:
                if tuple(overrides) not in self.checked:  # a sweeper other than ours
                    cfg = self.composer.check_and_compose(overrides)
                    self.checked[tuple(overrides)] = task_config(cfg), self.composer.plain(cfg)
            check_distinct([(overrides, self.checked[tuple(overrides)][0]) for overrides in job_overrides])
            trees = [self.checked[tuple(overrides)][1] for overrides in job_overrides]
            self.check(trees)
        first, _ = self.checked[tuple(job_overrides[0])]
        name = job_name(list(self.config.hydra.overrides.task), first)
        with refusals(), open_sweep(folder, first, name, single=False, elsewhere=self.elsewhere) as sweep:
            jobs = [self._job(*self.checked[tuple(overrides)], overrides) for overrides in job_overrides]
            for job, label in zip(jobs, labels(job_overrides), strict=True):
                job.label = label
            try:
                with self.around(trees[0]):
                    self.train(sweep, jobs, trees, initial_job_idx)
            finally:
                kept = map(filter_overrides, job_overrides)
                sweep.given |= {job.folder: words for job, words in zip(jobs, kept, strict=True)}
            for job in jobs:  # those that had nothing left to do
                job.started()
                job.ended("finished" if job.error is None else "failed")
        return [self._result(overrides, job) for overrides, job in zip(job_overrides, jobs, strict=True)]

    def check(self, trees: Sequence[dict[str, Any]]) -> None:
        """Refuse what Hydra's settings ask of single jobs and jobs that train together cannot have.

        Args:
            trees: of each job, the config as plain dicts with the hydra node.

        Raises:
            ConfigError: names the key.
        """
        check_alike(trees, self.elsewhere)

    def around(self, tree: dict[str, Any]) -> AbstractContextManager[None]:
        """The environment and the logging that Hydra's settings give to the jobs of a sweep."""
        return nullcontext() if self.elsewhere else surroundings(tree, self.config)

    @abstractmethod
    def train(
        self, sweep: "Sweep", jobs: "Sequence[Job]", trees: Sequence[dict[str, Any]], first: int
    ) -> None:
        """Give each job its folder, numbered from `first`, and have them trained: value or error are set.

        Args:
            trees: of each job, the config as plain dicts with the hydra node.
        """

    def job(self, overrides: Sequence[str], folder: Path) -> "Job":
        """The job with these overrides, to be trained by whoever asks for it.

        Raises:
            ConfigError: it cannot be run.
        """
        cfg = self.composer.check_and_compose(overrides)
        tree = self.composer.plain(cfg)
        self.check([self.base or tree, tree])
        job = self._job(task_config(cfg), tree, overrides)
        job.folder = folder
        return job

    def _job(self, config: Config, tree: dict[str, Any], overrides: Sequence[str]) -> "Job":
        from rnnbench.sweep.recorder import Job

        job = Job(job_name(overrides, config), config, Path(self.config.hydra.sweep.dir))
        job.prepare = partial(self._prepare, tree, job)
        if tree["hydra"]["sweep"]["subdir"] != NUMBERED:
            job.named = partial(self._folder_name, overrides)
        if self.listened:
            config_of = partial(self._composed, overrides)
            told = Told(
                job, self.hydra_context.callbacks, self.task_function, config_of, partial(number, job)
            )
            job.started, job.ended = told.started, told.ended
        return job

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        with self.composing:
            return self.composer.compose(overrides)

    def _folder_name(self, overrides: Sequence[str], number: int) -> str:
        return folder_name(self._composed(overrides), number)

    def _prepare(self, tree: dict[str, Any], job: "Job") -> None:
        """What Hydra leaves in a job's folder."""
        folder, hydra = job.folder, tree["hydra"]
        name = hydra["output_subdir"]
        if name is None:
            return
        num = number(job)
        id = folder.name if folder.name.partition(".")[0] == str(num) else str(num)
        place = {"output_dir": str(folder.absolute())}
        hydra = hydra | {"job": hydra["job"] | {"id": id, "num": num}, "runtime": hydra["runtime"] | place}
        if "${" in name:
            name = OmegaConf.create(tree | {"hydra": hydra}).hydra.output_subdir
        inner = folder / name
        inner.mkdir(parents=True, exist_ok=True)
        tree = {key: part for key, part in tree.items() if key != "hydra"}
        write(inner / "config.yaml", to_yaml(tree))
        write(inner / "hydra.yaml", to_yaml({"hydra": hydra}))
        write(inner / "overrides.yaml", to_yaml(hydra["overrides"]["task"]))

    def _result(self, overrides: Sequence[str], job: "Job") -> JobReturn:
        name = JobRuntime.instance().get("name")
        result = JobReturn(overrides=filter_overrides(overrides), task_name=name)
        result.working_dir = os.getcwd()
        if job.error is None:
            result.return_value, result.status = job.value, JobStatus.COMPLETED
        else:
            result.return_value, result.status = TrialFailed(job.error), JobStatus.FAILED
        return result


def number(job: "Job") -> int:
    """hydra.job.num of a job that has its folder."""
    return int(job.folder.name.partition(".")[0]) if job.number is None else job.number


class StackLauncher(TrialLauncher):
    """Groups jobs into stacks of equal shapes and trains each stack at once, in this process."""

    def train(
        self, sweep: "Sweep", jobs: "Sequence[Job]", trees: Sequence[dict[str, Any]], first: int
    ) -> None:
        sweep.place(jobs, first)
        run_jobs(sweep, jobs, self.max_stack)
