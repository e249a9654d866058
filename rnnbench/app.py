"""The application: what Hydra calls with a composed config, one job at a time."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rnnbench.launch import TrialFailed, job_folder, job_name, open_sweep, refusals, run_jobs, task_config


def app(cfg: DictConfig) -> float | None:
    """Train the one job that Hydra composed; its objective.

    A job of a search, under a launcher other than ours, is one suggestion: all its repeats. Its objective
    is their mean, and None if it was pruned.

    Raises:
        TrialFailed: it ended without a result; its folder says why.
    """
    from rnnbench.ledger import Job

    hydra = HydraConfig.get()
    folder = job_folder(Path(hydra.runtime.output_dir))
    multirun = hydra.mode is RunMode.MULTIRUN
    overrides = list(hydra.overrides.task)
    with refusals():
        config = task_config(cfg)
        name = job_name(overrides, config)
        # Under Hydra's own sweeper nobody holds the folder, and the launcher may run several jobs at once.
        with open_sweep(folder.parent, config, name, single=not multirun, shared=multirun) as sweep:
            if hydra.sweeper.get("trial") is None:
                jobs = [Job(name, config, folder)]
            else:
                from rnnbench.sweep.worker import jobs_of

                jobs = jobs_of(hydra, name, config, folder)
            run_jobs(sweep, jobs, len(jobs))
    failed = [job.error for job in jobs if job.error is not None]
    if failed:
        raise TrialFailed(failed[0])
    values = [job.value for job in jobs if job.value is not None]
    return sum(values) / len(jobs) if len(values) == len(jobs) else None
