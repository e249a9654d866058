"""Registers rnnbench with Hydra, checks configs before anything is made, and defines the launcher.

Nothing slow is imported here, since Hydra loads this module to look for plugins, and since a mistake in
the command line is reported from here.
"""

import importlib
import os
import sys
import traceback
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, filter_overrides, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from rnnbench import config as schema
from rnnbench.config import Config, ConfigError, SharedYaml, to_yaml, typed
from rnnbench.config.secrets import check_tree
from rnnbench.config.user_code import own_code
from rnnbench.record import new_folder
from rnnbench.sweep import stages
from rnnbench.sweep.compose import Composer
from rnnbench.sweep.hydra_api import register_config, register_resolver
from rnnbench.sweep.hydra_jobs import (
    NUMBERED,
    Told,
    TrialFailed,
    check_alike,
    folder_name,
    surroundings,
)
from rnnbench.sweep.hydra_settings import check_settings
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.overrides import check_given
from rnnbench.sweep.placing import place
from rnnbench.sweep.points import as_typed, combines
from rnnbench.system.files import write
from rnnbench.terminal import refuse

if TYPE_CHECKING:
    from rnnbench.sweep.session import Sweep


def register() -> None:
    """Register the typed schema with Hydra, and the folder of our launchers and sweepers."""
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
        # Below hydra/, so that the schema is not listed among the user's options.
        register_config("hydra/schema", name, node)
    register_resolver("named", lambda name, dated: name or dated)
    register_resolver("if_forget_gate", stages.if_forget_gate)
    ours = str(Path(__file__).parents[1] / "hydra_plugins")
    try:
        hydra_plugins: Any = importlib.import_module("hydra_plugins")
    except ImportError:  # no other plugin is installed
        hydra_plugins = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        hydra_plugins.__path__ = []
    if ours not in hydra_plugins.__path__:
        hydra_plugins.__path__.append(ours)


def task_config(cfg: DictConfig) -> Config:
    """Return the checked configuration of a job from a composed config; code of one's own is imported.

    Raises:
        ConfigError: it cannot be run.
    """
    config = typed(cfg)
    if "hydra" in cfg:
        check_given(cfg.hydra.overrides.task, config)
    return stages.sized(own_code(config))


class Gate(Callback):
    """Checks a single run before Hydra makes its folder; a sweep is checked by its sweeper."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with fatal(), refusals():
            check_settings(config, "sweep")
            check_tree(OmegaConf.to_container(config))
            check_sweeper(config)
            if "rnnbench" not in str(config.hydra.sweeper._target_):  # others create it at once
                own_folder(config, "sweep")

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with fatal(), refusals():
            check_settings(config, "run")
            check_tree(OmegaConf.to_container(config))
            checked = task_config(config)
            chosen, given = config.hydra.runtime.choices.get("search"), config.hydra.overrides.task
            # The command that trains a winner may name its search, for settings outside of the space.
            if chosen and not {text.partition("=")[0] for text in given} & config.hydra.sweeper.space.keys():
                raise ConfigError(f"search={chosen}: a search is a sweep: python -m rnnbench -m ...")
            folder = Path(config.hydra.run.dir)
            stages.preflight([checked], folder)
            if checked.dry_run:
                stages.show_plan([checked], 1)
                raise SystemExit(0)
            own_folder(config, "run")


@contextmanager
def fatal() -> Iterator[None]:
    """Print any error's traceback and end the process: Hydra turns an error of a callback into a warning."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a ConfigError into one message and exit code 1 (a traceback under HYDRA_FULL_ERROR=1).

    The exit is a SystemExit, which Hydra passes on wherever it is raised.
    """
    try:
        yield
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise refuse(str(error)) from None


def check_sweeper(config: DictConfig) -> None:
    """Refuse words that combine the values of a grid, if the sweeper is not the one that expands them.

    Raises:
        ConfigError: names the word.
    """
    if str(config.hydra.sweeper._target_).endswith(".GridSweeper"):
        return
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    if found := next(filter(combines, [*params, *config.hydra.overrides.task]), None):
        sweeper = config.hydra.runtime.choices.get("hydra/sweeper")
        raise ConfigError(
            f"{as_typed(found)}: is of a grid, which hydra/sweeper={sweeper} cannot train; "
            "take hydra/sweeper=grid"
        )


def check_distinct(jobs: Sequence["Composed"]) -> None:
    """Refuse jobs that are the same trial; our own sweepers train each trial once.

    Raises:
        ConfigError: names two of them.
    """
    known: dict[str, Sequence[str]] = {}  # overrides by trial hash
    for job in jobs if len(jobs) > 1 else ():
        if job.trial in known:
            raise ConfigError(
                f"{' '.join(job.overrides)}: is the same trial as {' '.join(known[job.trial])}; leave one "
                "away, or take hydra/sweeper=grid, which trains it once"
            )
        known[job.trial] = job.overrides


def own_folder(config: DictConfig, kind: str) -> Path:
    """Return the folder of a `run` or a `sweep`.

    A folder whose name has the time in seconds is created here, for this process alone: another process that
    starts in the same second gets another folder, and the config is changed to name it.
    """
    folder = Path(config.hydra[kind].dir)
    written: Any = OmegaConf.to_container(config.hydra[kind])
    if "%S" not in str(written["dir"]) or config.hydra.sweeper.get("study_name"):
        return folder
    of_sweep = job_folder(folder).parent if kind == "run" else folder
    mine = new_folder(of_sweep) / folder.relative_to(of_sweep)
    if mine != folder:
        with read_write(config.hydra):
            config.hydra[kind].dir = str(mine)
            config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={mine}")  # for jobs that compose again
    return mine


def job_folder(folder: Path) -> Path:
    """Return the job folder of a single run: the folder itself if its name is a number, else its folder 0."""
    return folder if folder.name[:1].isdigit() and folder.name.partition(".")[0].isdigit() else folder / "0"


def job_name(overrides: Sequence[str], config: Config) -> str:
    """Return a readable name of a job: its overrides, without those that do not change the trial."""
    aside = ("hydra.", "hydra/", "tracking.", "tracking=", "data.root=")
    keep = [as_typed(text) for text in overrides if not text.startswith(aside)]
    return " ".join(keep) or f"{config.model.name} {config.data.name}"


def labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return a label for each job of a sweep: its overrides that not all jobs have."""
    shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    return [
        " ".join(word.removeprefix("model=") for word in overrides if word not in shared)
        for overrides in map(filter_overrides, job_overrides)
    ]


@dataclass
class Composed:
    """A job's checked config: typed, and as plain dicts with the hydra node."""

    overrides: Sequence[str]
    config: Config
    tree: dict[str, Any]

    @classmethod
    def of(cls, composer: Composer, overrides: Sequence[str]) -> "Composed":
        """Compose a job and check its config.

        Raises:
            ConfigError: it cannot be run.
        """
        config, tree = composer.job(overrides)
        check_given(tree["hydra"]["overrides"]["task"], config)
        return cls(overrides, stages.sized(own_code(config)), tree)

    @cached_property
    def trial(self) -> str:
        """The hash of the trial; it needs the data, so it is computed at first use."""
        return identity(self.config)


class TrialLauncher(Launcher, ABC):
    """Composes and checks jobs, holds their sweep folder, and trains them in stacks of equal shapes.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it and fit.
    """

    elsewhere = False  # whether other processes train, and may outlive this one

    def __init__(self, max_stack: int | None) -> None:
        if max_stack is not None and (type(max_stack) is not int or max_stack < 1):
            raise ConfigError(f"hydra.launcher.max_stack={max_stack}: must be a whole number of at least 1")
        self.max_stack = max_stack
        self.checked: dict[tuple[str, ...], Composed] = {}  # by overrides; our sweeper fills it
        self.base: dict[str, Any] | None = None  # in a search, the config that its jobs are compared with
        self.yaml = SharedYaml()  # of the parts that the configs of jobs share
        self.composing = Lock()  # jobs of a search may be launched from several threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.listened = bool(set(config.hydra.callbacks) - {"rnnbench"})  # whether callbacks are told of jobs

    @cached_property
    def composer(self) -> Composer:
        """The composer of the jobs of this launcher's sweep."""
        return Composer(self.hydra_context.config_loader, self.config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs; return one result for each, in order: COMPLETED with the objective, or FAILED.

        The results do not contain the configs: each would keep 100 KB in memory until the end.
        """
        setup_globals()
        folder = Path(self.config.hydra.sweep.dir)
        with refusals(), self.composing:
            if not job_overrides:
                raise ConfigError("hydra/sweeper: gives no trial; a range may be without values")
            for overrides in job_overrides:
                if tuple(overrides) not in self.checked:  # a sweeper other than ours
                    self.checked[tuple(overrides)] = Composed.of(self.composer, overrides)
            composed = [self.checked[tuple(overrides)] for overrides in job_overrides]
            check_distinct(composed)
            trees = [each.tree for each in composed]
            self.check(trees)
        name = job_name(list(self.config.hydra.overrides.task), composed[0].config)
        with (
            refusals(),
            stages.open_sweep(
                folder, composed[0].config, name, single=False, elsewhere=self.elsewhere
            ) as sweep,
        ):
            jobs = [self._job(each) for each in composed]
            for job, label in zip(jobs, labels(job_overrides), strict=True):
                job.label, job.name = label, label or job.name
            try:
                with self.around(trees[0]):
                    self.train(sweep, jobs, trees, initial_job_idx)
            finally:
                kept = map(filter_overrides, job_overrides)
                sweep.given |= {job.folder: words for job, words in zip(jobs, kept, strict=True)}
            for job in jobs:  # calls the callbacks of jobs that were finished already
                job.started()
                job.ended()
        return [self._result(overrides, job) for overrides, job in zip(job_overrides, jobs, strict=True)]

    def check(self, trees: Sequence[dict[str, Any]]) -> None:
        """Refuse settings of Hydra that jobs which train together cannot have.

        Args:
            trees: of each job, the config as plain dicts with the hydra node.

        Raises:
            ConfigError: names the key.
        """
        check_alike(trees, self.elsewhere)

    def around(self, tree: dict[str, Any]) -> AbstractContextManager[None]:
        """Set the environment and the logging that Hydra's settings give to the jobs of a sweep."""
        return nullcontext() if self.elsewhere else surroundings(tree, self.config)

    @abstractmethod
    def train(self, sweep: "Sweep", jobs: Sequence[Job], trees: Sequence[dict[str, Any]], first: int) -> None:
        """Give each job its folder, numbered from `first`, and train the jobs: each gets its value or error.

        Args:
            trees: of each job, the config as plain dicts with the hydra node.
        """

    def job(self, overrides: Sequence[str], folder: Path) -> Job:
        """Return the job with these overrides, which the caller trains.

        Raises:
            ConfigError: it cannot be run.
        """
        composed = Composed.of(self.composer, overrides)
        self.check([self.base or composed.tree, composed.tree])
        job = self._job(composed)
        job.folder = folder
        return job

    def _job(self, composed: Composed) -> Job:
        """Return the job of a composed config; its folder is chosen later."""
        config, tree, overrides = composed.config, composed.tree, composed.overrides
        job = Job(job_name(overrides, config), config, Path(self.config.hydra.sweep.dir), composed.trial)
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

    def _prepare(self, tree: dict[str, Any], job: Job) -> None:
        """Write Hydra's files to a job's folder: config.yaml, hydra.yaml, overrides.yaml."""
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
        write(inner / "config.yaml", self.yaml.write(tree))
        write(inner / "hydra.yaml", self.yaml.write(hydra, "hydra"))
        write(inner / "overrides.yaml", to_yaml(hydra["overrides"]["task"]))

    def _result(self, overrides: Sequence[str], job: Job) -> JobReturn:
        name = JobRuntime.instance().get("name")
        result = JobReturn(overrides=filter_overrides(overrides), task_name=name)
        result.working_dir = os.getcwd()
        if job.error is None:
            result.return_value, result.status = job.value, JobStatus.COMPLETED
        else:
            result.return_value, result.status = TrialFailed(job.error), JobStatus.FAILED
        return result


def number(job: Job) -> int:
    """Return hydra.job.num of a job that has its folder."""
    return int(job.folder.name.partition(".")[0]) if job.number is None else job.number


class StackLauncher(TrialLauncher):
    """Groups jobs into stacks of equal shapes and trains each stack at once, in this process."""

    def train(self, sweep: "Sweep", jobs: Sequence[Job], trees: Sequence[dict[str, Any]], first: int) -> None:
        place(jobs, sweep.folder, sweep.recorded, first=first)
        stages.run_jobs(sweep, jobs, self.max_stack)
