"""Does what Hydra does around a job, for jobs that train together: folder, environment, logging, callbacks.

Hydra's own launchers call `hydra.core.utils.run_job`, which runs one job at a time. The trials of a stack
share a process, so settings of the process must be the same for all of them, or are refused.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.errors import CompactHydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config import ConfigError
from rnnbench.job_state import JobState
from rnnbench.record import STACKS
from rnnbench.sweep.hydra_api import Callbacks
from rnnbench.sweep.job import Job

NUMBERED = "${hydra.job.num}"  # hydra.sweep.subdir, unless the user says otherwise
NUMBERS = (NUMBERED, "${hydra:job.num}")  # two forms of the job's number
OURS = {STACKS, "study", "sweep.json", "multirun.yaml", "comparison.md", "comparison.csv", "journal.log"}
ALONE = "take hydra/launcher=basic, which trains one trial after the other"


class TrialFailed(CompactHydraException):
    """A trial has ended without a result; its folder says why."""


def check_alike(trees: Sequence[dict[str, Any]], elsewhere: bool) -> None:
    """Refuse settings of Hydra that jobs which train together cannot have.

    Args:
        trees: for each job, its config as plain dicts with the hydra node.
        elsewhere: whether workers train them.

    Raises:
        ConfigError: names the key.
    """
    shared = _shared(trees[0])
    for tree in trees:
        if tree["hydra"]["job"]["chdir"]:
            raise ConfigError(
                f"hydra.job.chdir=true: trials that train together have one working directory; {ALONE}, or "
                "leave it out"
            )
        for key, value in _shared(tree).items():
            if value != shared[key]:
                raise ConfigError(f"{key}: trials that train together share it, and theirs differ; {ALONE}")
    environment(trees[0])
    if logging(trees[0], Path()) and elsewhere:
        choice = trees[0]["hydra"]["runtime"]["choices"].get("hydra/job_logging")
        raise ConfigError(
            f"hydra/job_logging={choice}: the trials train in other processes, whose logs it does not reach; "
            "take hydra/launcher=stack or basic, or leave it out"
        )


def _shared(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of Hydra that belong to the process, by key."""
    hydra = tree["hydra"]
    return {
        "hydra.job.env_set": hydra["job"]["env_set"],
        "hydra/job_logging": hydra["job_logging"],
        "hydra.verbose": hydra["verbose"],
    }


def check_search(config: DictConfig) -> None:
    """Refuse settings of Hydra that a search has no use for, whatever its launcher.

    Args:
        config: the config of the sweep.

    Raises:
        ConfigError: names the key.
    """
    given = OmegaConf.to_container(config.hydra.sweep)
    assert isinstance(given, dict)
    if given["subdir"] not in NUMBERS:
        raise ConfigError(
            f"hydra.sweep.subdir={given['subdir']}: the folders of a search have the numbers of its trials; "
            "leave it out"
        )
    if config.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: a search has its study open while its trials train, relative to the "
            "folder of the command; leave it out"
        )


def environment(tree: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables that hydra.job.env_set gives to a sweep's jobs.

    Raises:
        ConfigError: one depends on the job.
    """
    variables = tree["hydra"]["job"]["env_set"]
    return _of_the_sweep(tree, "hydra.job.env_set", variables, "???") if variables else {}


def for_workers(tree: dict[str, Any]) -> dict[str, str]:
    """Return the variables of hydra.job.env_set for a worker.

    Those that read the environment (`${oc.env:NAME}`) are left for the worker to resolve, so that their
    values are not written to files.
    """
    written, resolved = tree["hydra"]["job"]["env_set"], environment(tree)
    return {
        name: written[name] if "${oc.env:" in written[name] else value for name, value in resolved.items()
    }


def logging(tree: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return the configuration of hydra/job_logging, whose files go into `folder`; None if there is none.

    Raises:
        ConfigError: it depends on the job.
    """
    written = tree["hydra"]["job_logging"]
    if not written or written.get("root") is None:
        return None
    configured: dict[str, Any] = _of_the_sweep(tree, "hydra/job_logging", written, str(folder.absolute()))
    return configured


def _of_the_sweep(tree: dict[str, Any], key: str, value: Any, output_dir: str) -> Any:
    """Resolve a value that may use Hydra's settings, as far as these are the same for all jobs.

    Raises:
        ConfigError: the value depends on the job.
    """
    hydra = tree["hydra"]
    job = hydra["job"] | {"num": "???", "id": "???", "override_dirname": "???"}
    hydra = hydra | {"job": job, "runtime": hydra["runtime"] | {"output_dir": output_dir}}
    try:
        return OmegaConf.to_container(OmegaConf.create({"hydra": hydra, "value": value}).value, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{key}: trials that train together share it, so it cannot depend on one "
            f"({str(error).splitlines()[0]}); {ALONE}"
        ) from None


@contextmanager
def surroundings(tree: dict[str, Any], config: DictConfig) -> Iterator[None]:
    """Set the environment and the logging of a sweep's jobs while they train in this process.

    Args:
        tree: the config of one of the jobs, as plain dicts.
        config: the config of the sweep, whose own logging is restored.
    """
    with env_override(environment(tree)):
        verbose = config.hydra.verbose
        configured = logging(tree, Path(config.hydra.sweep.dir))
        if configured is not None or verbose:
            configure_log(OmegaConf.create(configured or {"root": None}), verbose)
        try:
            yield
        finally:
            if configured is not None:
                configure_log(config.hydra.hydra_logging, verbose)


@contextmanager
def as_job(cfg: DictConfig, number: int, folder: Path | None = None) -> Iterator[None]:
    """Make a composed config that of Hydra's current job, with this number and folder, until the end."""
    with flag_override(cfg.hydra, ["struct", "readonly"], False):
        cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        if folder is not None:
            cfg.hydra.runtime.output_dir = str(folder.absolute())
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def folder_name(cfg: DictConfig, number: int) -> str:
    """Return the name that hydra.sweep.subdir gives to the folder of the job of this number.

    Args:
        cfg: the job's config, with the hydra node.

    Raises:
        ConfigError: the name cannot be that of a folder in the sweep folder.
    """
    with as_job(cfg, number):
        try:
            name = str(cfg.hydra.sweep.subdir)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"hydra.sweep.subdir: has no value for job {number}: {reason}") from None
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Refuse what cannot name a job folder: records are looked for one level below the sweep folder.

    Raises:
        ConfigError: names hydra.sweep.subdir.
    """
    if "/" in name or not name or name.startswith(".") or name in OURS:
        raise ConfigError(
            f"hydra.sweep.subdir={name}: must be the name of a folder in hydra.sweep.dir, one level, and "
            f"none of {', '.join(sorted(OURS))}; for example run_${{hydra.job.num}}"
        )
    if len(os.fsencode(name)) > 255:
        raise ConfigError(
            f"hydra.sweep.subdir={name[:40]}...: {len(os.fsencode(name))} bytes are too long for a folder; "
            "hydra.job.config.override_dirname.exclude_keys leaves keys out"
        )


def check_names(names: Sequence[str]) -> None:
    """Refuse a sweep in which two jobs would have the same folder.

    Raises:
        ConfigError: names hydra.sweep.subdir and the folder.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(
            f"hydra.sweep.subdir: {twice} would be the folder of several trials; "
            "run_${hydra.job.num} or ${hydra.job.override_dirname} tells them apart"
        )


@dataclass
class Told:
    """Tells hydra.callbacks that a job starts and ends, each once, as `run_job` does."""

    job: Job
    callbacks: Callbacks
    task_function: TaskFunction
    compose: Callable[[], DictConfig]
    number: Callable[[], int]
    has_started: bool = False
    has_ended: bool = False

    def started(self) -> None:
        """Call on_job_start, with the job's config."""
        if not self.has_started:
            self.has_started = True
            cfg = self.compose()
            with as_job(cfg, self.number(), self.job.folder):
                self.callbacks.on_job_start(config=cfg, task_function=self.task_function)

    def ended(self) -> None:
        """Call on_job_end, with the job's config and its result: the objective, or None if it was pruned."""
        if self.has_ended:
            return
        self.has_ended = True
        cfg = self.compose()
        with as_job(cfg, self.number(), self.job.folder):
            words: Any = OmegaConf.to_container(cfg.hydra.overrides.task)
            hydra: Any = deepcopy(HydraConfig.instance().cfg)
            result = JobReturn(
                overrides=words,
                cfg=OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]),
                hydra_cfg=hydra,
                working_dir=os.getcwd(),
                task_name=JobRuntime.instance().get("name"),
            )
            if self.job.state in (JobState.finished, JobState.pruned):
                result.status, result.return_value = JobStatus.COMPLETED, self.job.value
            else:
                result.status = JobStatus.FAILED
                result.return_value = TrialFailed(self.job.error or f"{self.job.folder}: {self.job.state}")
            self.callbacks.on_job_end(config=cfg, job_return=result)
