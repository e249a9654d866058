"""Single runs, each a sweep of one job: `app` trains what Hydra has composed, `run` what Python asks for."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rnnbench import terminal
from rnnbench.config import Config, ConfigError
from rnnbench.config.secrets import check_words
from rnnbench.record import read_result
from rnnbench.sweep.compose import compose_one
from rnnbench.sweep.hydra_jobs import TrialFailed
from rnnbench.sweep.hydra_settings import check_settings
from rnnbench.sweep.job import Job, identity, mean_value
from rnnbench.sweep.launcher import job_folder, job_name, own_folder, refusals, register, task_config
from rnnbench.sweep.stages import open_sweep, preflight, run_jobs


def app(cfg: DictConfig) -> float | None:
    """Train the one job that Hydra composed and return its objective.

    Under a launcher that is not rnnbench's, a job of a search is one suggestion with all its members: the
    objective is then the mean over them, or None if the suggestion was pruned.

    Relative paths in the configuration are relative to the folder of the command; training itself runs in
    the folder that Hydra has changed to (hydra.job.chdir).

    Raises:
        TrialFailed: the job ended without a result; its folder says why.
    """
    hydra = HydraConfig.get()
    multirun = hydra.mode is RunMode.MULTIRUN
    overrides = list(hydra.overrides.task)
    here = Path.cwd()
    with refusals(), chdir(hydra.runtime.cwd):
        folder = _folder(hydra)
        config = task_config(cfg)
        name = job_name(overrides, config)
        # Hydra's own sweeper does not hold the folder, and its launcher may run several jobs at once.
        with open_sweep(folder.parent, config, name, single=not multirun, shared=multirun) as sweep:
            if multirun and _is_suggestion(hydra, folder):
                from rnnbench.search.pruning import turns_in_job  # late: it needs optuna

                turns = turns_in_job(hydra, name, config, folder)
                jobs, each_turn = list(turns.jobs), iter(turns.next, [])
            else:
                jobs = [Job(name, config, folder, identity(config))]
                each_turn = iter([jobs])
            if not multirun:
                _say_fold(config)
            with chdir(here):
                for turn in each_turn:
                    run_jobs(sweep, turn, len(turn))
    failed = [str(job.error) for job in jobs if job.state.is_error]
    if failed:
        raise TrialFailed(failed[0])
    return mean_value(jobs)


def _say_fold(config: Config) -> None:
    """Print which fold a single run trains."""
    if config.data.folds is not None:
        terminal.say(
            f"data.fold={config.data.fold} of {config.data.folds} folds validates; -m trains all folds"
        )


def _is_suggestion(hydra: HydraConf, folder: Path) -> bool:
    """Return True for a job that is a suggestion of a search, False for one that confirms the winner.

    A suggestion's folder is named by the number of the job, which is that of the trial. (The number cannot be
    passed in hydra.sweeper: Hydra 1.4 refuses jobs whose hydra.sweeper differs from the sweep's.)
    """
    return str(hydra.sweeper._target_).endswith(".OptunaSweeper") and folder.name == str(hydra.job.num)


def _folder(hydra: HydraConf) -> Path:
    """Return the job folder; in a sweep it lies in the sweep's folder, whatever hydra.sweep.subdir calls it.

    Raises:
        ConfigError: the job folder lies elsewhere.
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


RUNNING: set[Path] = set()  # the sweep folders that calls of `run` in this process hold
LOCK = Lock()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a sweep folder that another thread trains in."""
    place = folder.resolve()
    with LOCK:
        if place in RUNNING:
            raise ConfigError(f"folder={folder}: another thread trains in it; give each run one of its own")
        RUNNING.add(place)
    try:
        yield
    finally:
        RUNNING.remove(place)


def run(*overrides: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Train one trial as `python -m rnnbench OVERRIDES` would.

    It may be called inside a Hydra application, after hydra.initialize, and from several threads at once.

    Args:
        overrides: as on the command line, `"model=gru", "seed=1"`.
        folder: its job folder if it is a number, else the folder of job 0; by default a new one below
            multirun/.

    Returns:
        what result.json holds (`metrics` by name, `status`: finished or failed, `error`), and its job folder
        as `folder`, which `load` takes.

    Raises:
        ConfigError: the trial cannot be run.
    """
    for word in overrides:
        if not isinstance(word, str):
            raise ConfigError(f"{word!r}: give each override as a text: run('model=gru', 'seed=1')")
        if word.startswith("-"):
            raise ConfigError(f"{word}: is for the command line; run trains one trial: call it for each")
    check_words(overrides)
    register()
    cfg = compose_one(overrides)
    check_settings(cfg, "run")
    for word in cfg.hydra.overrides.hydra:
        if not word.lstrip("+").startswith("hydra.run."):
            raise ConfigError(f"{word}: is for the command line; run trains in this process and as it is")
    config = task_config(cfg)
    if config.dry_run or cfg.hydra.runtime.choices.get("search"):
        key = "dry_run=true" if config.dry_run else "search"
        raise ConfigError(f"{key}: is for the command line (python -m rnnbench ...); run trains one trial")
    preflight([config], Path(folder or cfg.hydra.run.dir))
    folder = job_folder(Path(folder or own_folder(cfg, "run")))
    job = Job(job_name(overrides, config), config, folder, identity(config))
    with _alone(folder.parent), open_sweep(folder.parent, config, job.name, single=True) as sweep:
        _say_fold(config)
        run_jobs(sweep, [job], 1)
    return read_result(folder) | {"folder": str(folder.resolve())}
