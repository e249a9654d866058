"""The application: what Hydra calls with a composed config, one job at a time."""

from contextlib import chdir
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rnnbench.config import ConfigError
from rnnbench.sweep.hydra_jobs import TrialFailed
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.launcher import job_folder, job_name, refusals, task_config
from rnnbench.sweep.stages import open_sweep, run_jobs


def app(cfg: DictConfig) -> float | None:
    """Train the one job that Hydra composed; its objective.

    A job of a search, under a launcher other than ours, is one suggestion: all its repeats. Its objective
    is their mean, and None if it was pruned.

    What is relative in the configuration is relative to where the command was given; the training itself
    runs where Hydra has put the job (hydra.job.chdir).

    Raises:
        TrialFailed: it ended without a result; its folder says why.
    """
    hydra = HydraConfig.get()
    multirun = hydra.mode is RunMode.MULTIRUN
    overrides = list(hydra.overrides.task)
    here = Path.cwd()
    with refusals(), chdir(hydra.runtime.cwd):
        folder = _folder(hydra)
        config = task_config(cfg)
        name = job_name(overrides, config)
        # Under Hydra's own sweeper nobody holds the folder, and the launcher may run several jobs at once.
        with open_sweep(folder.parent, config, name, single=not multirun, shared=multirun) as sweep:
            if hydra.sweeper.get("trial") is None:
                jobs = [Job(name, config, folder, identity(config))]
            else:
                from rnnbench.search.pruning import jobs_of

                jobs = jobs_of(hydra, name, config, folder)
            with chdir(here):
                run_jobs(sweep, jobs, len(jobs))
    failed = [str(job.error) for job in jobs if job.state.is_error]
    if failed:
        raise TrialFailed(failed[0])
    values = [job.value for job in jobs if job.value is not None]
    return sum(values) / len(jobs) if len(values) == len(jobs) else None


def _folder(hydra: HydraConf) -> Path:
    """The job folder; that of a job of a sweep lies in the sweep's, whatever hydra.sweep.subdir calls it.

    Raises:
        ConfigError: it lies elsewhere.
    """
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode is not RunMode.MULTIRUN:
        return job_folder(folder)
    if folder.parent.resolve() != Path(hydra.sweep.dir).resolve():
        raise ConfigError(
            f"hydra.sweep.subdir={hydra.sweep.subdir}: must be the name of a folder in hydra.sweep.dir, one "
            "level; for example run_${hydra.job.num}"
        )
    return folder
