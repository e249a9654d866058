"""hydra/launcher=slurm: each stack is a task of a Slurm array, through submitit.

submitit pickles what it submits and what its tasks return. The returned values are not read here: the results
of a stack are in its records, and squeue says whether its task is over.
"""

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from threading import Lock
from typing import Any

import psutil
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rnnbench import terminal
from rnnbench.cluster.base import RemoteLauncher, work_on
from rnnbench.cluster.stack_file import Lost, SentStack
from rnnbench.config import ConfigError
from rnnbench.record import STACKS
from rnnbench.sweep.launcher import refusals
from rnnbench.system import signals

ASK = 5.0  # seconds between questions to Slurm
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "TIMEOUT"}  # fmt: skip
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # any of these may end a line of a script
FINAL = {"CANCELLED", "DEADLINE", "TIMEOUT"}  # ended by a person or a limit: not sent again


class SlurmLauncher(RemoteLauncher):
    """Sends stacks to Slurm, or to submitit's local executor; its settings are those of `config.Slurm`."""

    def __init__(
        self, max_stack: int | None, retries: int, cluster: str | None, requeue: int, **resources: Any
    ) -> None:
        super().__init__(max_stack, retries)
        if find_spec("submitit") is None:
            raise ConfigError("hydra/launcher=slurm: needs submitit: pip install 'rnnbench[slurm]'")
        if cluster not in ("slurm", "local", None):
            raise ConfigError(f"hydra.launcher.cluster={cluster}: must be slurm, local or null")
        if cluster == "slurm" and which("srun") is None:
            raise ConfigError(
                "hydra.launcher.cluster=slurm: there is no srun here; start from a node of the cluster, or "
                "try hydra.launcher.cluster=local"
            )
        for key, least in (("timeout_min", 1), ("cpus_per_task", 1), ("array_parallelism", 1)):
            if resources[key] < least:
                raise ConfigError(f"hydra.launcher.{key}={resources[key]}: must be at least {least}")
        for key, times in (("requeue", requeue), ("retries", retries)):
            if times < 0:
                raise ConfigError(f"hydra.launcher.{key}={times}: must be at least 0")
        self._check_lines(resources)
        self.place = cluster or ("slurm" if which("srun") else "local")
        self.requeue = requeue
        self.resources = resources
        self.asking = Lock()
        self.asked = float("-inf")  # when squeue was last called, on the monotonic clock
        self.states: dict[tuple[str, str], str] | None = None  # by array name and index; None: unknown
        self.silent = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        folder = Path(config.hydra.sweep.dir).absolute()
        with refusals():
            if CONTROL.search(str(folder)):
                raise ConfigError(f"hydra.sweep.dir={str(folder)!r}: has a control character, which the "
                                  "batch script cannot have in a name; give another folder")  # fmt: skip

    def _check_lines(self, resources: dict[str, Any]) -> None:
        """Refuse values with line breaks: a shell would run the further lines in the batch script.

        Raises:
            ConfigError: names the key and the value.
        """
        more = dict(resources.get("additional_parameters") or {})
        values = [(key, resources.get(key)) for key in ("partition", "account")]
        values += [("setup", line) for line in resources.get("setup") or []]
        values += [(f"additional_parameters.{name}", value) for name, value in more.items()]
        for key, value in values:
            if CONTROL.search(str(value)):
                raise ConfigError(f"hydra.launcher.{key}={str(value)!r}: has a control character; "
                                  "must be a single line")  # fmt: skip
        for name in more:
            if not re.fullmatch(r"[A-Za-z][\w-]*", str(name)):
                raise ConfigError(f"hydra.launcher.additional_parameters: {str(name)!r} is no option of "
                                  "sbatch: must be letters, digits and hyphens")  # fmt: skip

    def submit(self, stacks: Sequence[SentStack]) -> None:
        from submitit.core.utils import FailedJobError

        batch = f"rnnbench-{uuid.uuid4().hex[:12]}"
        for index, stack in enumerate(stacks):  # noted first: if this process dies, the next finds the task
            stack.note(batch=batch, index=str(index) if len(stacks) > 1 else "N/A", job=None)
        executor = self._executor(stacks[0].folder / STACKS / self.place, batch, self.cards(stacks))
        try:
            with executor.batch():
                jobs = [
                    executor.submit(Task(stack.file, self.resources["cpus_per_task"])) for stack in stacks
                ]
        except FailedJobError as error:
            said = [line for line in str(error).splitlines() if line.startswith("sbatch: error: ")]
            raise ConfigError(f"hydra/launcher=slurm: {said[-1] if said else error}") from None
        for stack, job in zip(stacks, jobs, strict=True):
            stack.note(job=job.job_id)
        with self.asking:
            self.asked = float("-inf")  # the last answer of squeue does not cover these stacks

    def cards(self, stacks: Sequence[SentStack]) -> int | None:
        """Return how many cards each task asks for: what is set, else one where a stack trains on a card."""
        given: int | None = self.resources["gpus_per_node"]
        return 1 if given is None and any(stack.on_card for stack in stacks) else given

    def _executor(self, folder: Path, name: str, cards: int | None) -> Any:
        import submitit

        executor = submitit.AutoExecutor(
            folder.absolute(), cluster=self.place, slurm_max_num_timeout=self.requeue
        )
        given = self.resources
        executor.update_parameters(
            name=name,
            timeout_min=given["timeout_min"],
            mem_gb=given["mem_gb"],
            gpus_per_node=cards,
            cpus_per_task=given["cpus_per_task"],
        )
        if self.place == "slurm":
            executor.update_parameters(
                slurm_partition=given["partition"],
                slurm_account=given["account"],
                slurm_array_parallelism=given["array_parallelism"],
                slurm_setup=list(given["setup"]) or None,
                # since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch
                slurm_srun_args=[f"--cpus-per-task={given['cpus_per_task']}"],
                slurm_additional_parameters={"requeue" if self.requeue else "no-requeue": True}
                | dict(given["additional_parameters"]),
            )
        return executor

    def lost(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        if self.place == "local":
            return {stack.name: _why(stack, "has died") for stack in stacks if not _lives(stack)}
        with self.asking:
            if time.monotonic() - self.asked > ASK:
                self.states = self._squeue()
                self.asked = time.monotonic()
            states = self.states
        if states is None:
            return {}
        found = {}
        for stack in stacks:
            state = states.get((stack.task["batch"], stack.task["index"]))
            if state is None:
                found[stack.name] = _why(stack, "is not known to Slurm any more")
            elif state in OVER:
                found[stack.name] = _why(stack, f"has ended as {state}", state not in FINAL)
        return found

    def _squeue(self) -> dict[tuple[str, str], str] | None:
        """Return the states of this user's tasks, recently ended ones included; None if squeue fails."""
        command = ["squeue", "--me", "--states=all", "--array", "--noheader", "--format=%j|%K|%T"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            if not self.silent:
                terminal.warn(f"squeue: {done.stderr.strip()}; asking again until it answers")
            self.silent = True
            return None
        self.silent = False
        states = {}
        for line in done.stdout.splitlines():
            name, index, state = line.rsplit("|", 2)
            states[name, index] = state
        return states

    def leave(self, stacks: Sequence[SentStack]) -> None:
        jobs = sorted({str(stack.task["job"]).partition("_")[0] for stack in stacks if stack.task.get("job")})
        if self.place == "local":
            for stack in stacks:
                if _lives(stack):
                    psutil.Process(int(stack.task["job"])).send_signal(signal.SIGINT)
        elif stacks[0].content["search"]:  # a resumed search runs the suggestion again as a new trial
            subprocess.run(["scancel", *jobs])
        else:
            terminal.say(
                f"{len(stacks)} stacks go on without this command; given again, it waits for them; "
                f"scancel {' '.join(jobs)} stops them"
            )


def _lives(stack: SentStack) -> bool:
    """Return whether the process that submitit's local executor started for a stack is alive."""
    pid = stack.task.get("job")
    try:
        process = psutil.Process(int(pid)) if pid else None
        return (
            process is not None
            and process.status() != psutil.STATUS_ZOMBIE
            and "submitit.local._local" in process.cmdline()
        )
    except psutil.NoSuchProcess:
        return False


def _why(stack: SentStack, state: str, again: bool = True) -> Lost:
    """Return why a task ended: the error in its log, which a second try would meet too, else its state."""
    job = stack.task.get("job")
    log = stack.file.parent / str(stack.task["place"]) / f"{job}_0_log.err"
    said = (
        [
            line
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("error: ")
        ]
        if log.exists()
        else []
    )
    if said:
        return Lost(said[-1].removeprefix("error: "), again=False)
    return Lost(f"{state} ({os.path.relpath(log)})" if log.exists() else state, again)


class Task:
    """The callable that submitit runs on the node: trains one stack.

    Args:
        file: the file of the stack.
        cpus: the number of threads that it may use.
    """

    def __init__(self, file: Path, cpus: int) -> None:
        self.file = file.absolute()
        self.cpus = cpus

    def __call__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = str(self.cpus)
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler
        assert callable(requeue)
        try:
            with refusals(), signals.listen(signal.SIGUSR2):
                work_on(self.file)
        except signals.StopRequest as stopped:  # training has written its snapshots
            if stopped.number == signal.SIGUSR2:
                requeue(stopped.number, None)
            elif os.environ["SUBMITIT_EXECUTOR"] == "slurm":
                _requeue_if_preempted()
            raise SystemExit(128 + stopped.number) from None

    def checkpoint(self) -> Any:
        """Return what submitit calls when the task is requeued: this same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _requeue_if_preempted() -> None:
    """Requeue this task after SIGTERM, in the grace time that Slurm gives before it preempts.

    Slurm still lists the task as running then, and would list it as failed if it only ended. A task that
    Slurm requeues itself, or that was cancelled, is not listed as running, and is left alone.
    """
    from submitit import JobEnvironment

    task = JobEnvironment().job_id  # not $SLURM_JOB_ID, which for an array's last task names the array
    command = ["squeue", "--noheader", "--format=%T", "--jobs", task]
    if subprocess.run(command, capture_output=True, text=True).stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", task])
