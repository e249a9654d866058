"""The worker: trains one stack for the process that holds the sweep folder, and may outlive it."""

import os
from pathlib import Path
from typing import cast

from hydra.core.utils import env_override
from omegaconf import OmegaConf

from rnnbench.cluster.stack_file import SentStack
from rnnbench.config import ConfigError
from rnnbench.config.user_code import own_config
from rnnbench.record import abandon, is_job, work
from rnnbench.search.pruning import search_of, watch
from rnnbench.sweep.engine_checks import check_devices, check_engine
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.scheduler import train


def work_on(file: Path) -> None:
    """Train the jobs of a stack that have not ended; the results are in their records.

    A signal (see `rnnbench.system.signals`) leaves each job interrupted, with a snapshot of its last whole
    epoch; a worker that dies leaves an older snapshot. The next worker goes on from these.

    Args:
        file: the stack's file, written by `SentStack.write`.

    Raises:
        ConfigError: this machine does not see the file or the sweep folder, its data or code differ from the
            sender's, or it has no card or memory for the stack.
    """
    if not file.exists():
        raise ConfigError(
            f"hydra.sweep.dir={file.parent.parent}: {os.uname().nodename} does not see {file.name} in it; "
            "give a folder on a disk that every node shares"
        )
    stack = SentStack(file.absolute())
    given = OmegaConf.to_container(OmegaConf.create(stack.content.get("environment", {})), resolve=True)
    with work(stack.folder, stack.content["sweep"], stack.name), env_override(cast(dict[str, str], given)):
        os.chdir(stack.content["cwd"])
        todo = [entry for entry in stack.jobs if not stack.ended(entry)]
        if not todo:
            return
        jobs = []
        for entry in todo:
            config = own_config(entry["config"])
            folder = stack.folder / entry["folder"]
            if identity(config) != entry["trial"]:
                raise ConfigError(
                    f"{folder}: {os.uname().nodename} has other data or other code than the machine that "
                    "sent this trial; its data.root, rnnbench_import and rnnbench must be the same everywhere"
                )
            jobs.append(Job(entry["name"], config, folder, entry["trial"], tags=entry["tags"]))
            if is_job(folder):
                abandon(folder)  # left as running by a worker that died
        check_devices([job.config for job in jobs])
        check_engine([job.config for job in jobs], here=True)
        if search := stack.content["search"]:
            watch(search_of(search["sweeper"]), search["sweep_dir"], Path.cwd(), jobs)
        train(Recorder(), jobs, stack.content["max_stack"])
