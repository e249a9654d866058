"""hydra/launcher=ray: each stack is a task of a Ray cluster, an existing one or one for this sweep alone.

A task takes the path of a stack's file and returns None, so Ray pickles nothing else. A task dies with the
process that sent it: a stack whose process is gone was lost.
"""

import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rnnbench import terminal
from rnnbench.cluster.base import RemoteLauncher, work_on
from rnnbench.cluster.stack_file import Lost, SentStack
from rnnbench.config import ConfigError
from rnnbench.sweep.job import Job
from rnnbench.sweep.launcher import refusals
from rnnbench.system.signals import listen

if TYPE_CHECKING:
    from rnnbench.sweep.session import Sweep

PATIENCE = 5.0  # seconds that a cluster has to answer, and a cancelled task has to end
OBJECTS = 100_000_000  # bytes of the object store in a cluster of our own, which holds nearly nothing


def train_stack(file: str) -> None:
    """Train the stack in this file as a Ray task, which Ray cancels by SIGINT and ends by SIGTERM."""
    with listen():
        work_on(Path(file))


class RayLauncher(RemoteLauncher):
    """Trains each stack as a task of a Ray cluster; its settings are those of `config.Ray`."""

    place = "Ray"

    def __init__(
        self,
        max_stack: int | None,
        retries: int,
        address: str | None,
        num_cpus: float,
        num_gpus: float | None,
    ) -> None:
        super().__init__(max_stack, retries)
        if find_spec("ray") is None:
            raise ConfigError("hydra/launcher=ray: needs Ray: pip install 'rnnbench[ray]'")
        for key, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus), ("retries", retries)):
            if amount is not None and amount < 0:
                raise ConfigError(f"hydra.launcher.{key}={amount:g}: must not be below 0")
        self.address = address
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self.connecting = threading.Lock()
        self.task: Any = None  # Ray's remote function, once connected
        self.sent: dict[str, Any] = {}  # Ray's reference to a stack's task, by the stack's name

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        with refusals():
            if self.address not in (None, "auto"):
                self._knock(str(self.address))

    def _knock(self, address: str) -> None:
        """Refuse an address that does not answer; Ray itself would try for a minute."""
        key = f"hydra.launcher.address={address}"
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise ConfigError(
                f"{key}: must be HOST:PORT of the cluster's head, or auto; null for one of ours"
            )
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except OSError as error:
            raise ConfigError(
                f"{key}: does not answer ({error}); `ray start --head` says the address of a cluster"
            ) from None

    def train(self, sweep: "Sweep", jobs: Sequence[Job], trees: Sequence[dict[str, Any]], first: int) -> None:
        if self.num_gpus == 0 and any(job.config.fit.device != "cpu" for job in jobs):
            raise ConfigError(
                f"hydra.launcher.num_gpus=0: with fit.device={jobs[0].config.fit.device} a stack needs one, "
                "or a share such as 0.5"
            )
        super().train(sweep, jobs, trees, first)

    def submit(self, stacks: Sequence[SentStack]) -> None:
        self._connect(max(map(self.cards, stacks)))
        for stack in stacks:
            task = self.task.options(num_cpus=self.num_cpus, num_gpus=self.cards(stack))
            self.sent[stack.name] = task.remote(str(stack.file.absolute()))

    def cards(self, stack: SentStack) -> float:
        """Return how many cards a stack asks for: what is set, else one where it trains on a card."""
        return float(stack.on_card) if self.num_gpus is None else self.num_gpus

    def lost(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        mine = {self.sent[stack.name]: stack.name for stack in stacks if stack.name in self.sent}
        gone = Lost("was sent by a process that is gone")
        over = {stack.name: gone for stack in stacks if stack.name not in self.sent}
        if mine:
            import ray

            ready, _ = ray.wait(list(mine), num_returns=len(mine), timeout=0)
            over |= {mine[task]: _fate(task) for task in ready}
        return over

    def leave(self, stacks: Sequence[SentStack]) -> None:
        """Cancel the tasks and wait for them: those that merely end with this process write no snapshot."""
        tasks = [self.sent[stack.name] for stack in stacks if stack.name in self.sent]
        if tasks:
            import ray

            for task in tasks:
                ray.cancel(task)  # raises KeyboardInterrupt in the task
            ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE)

    def _connect(self, cards: float) -> None:
        """Connect to the cluster, or start one.

        The kernel kills the processes that Ray starts as soon as the thread that started them ends, and a
        search launches from short-lived threads. So a separate thread connects, and lives as long as this
        process.

        Args:
            cards: that a stack asks for, at most.
        """
        with self.connecting:
            if self.task is not None:
                return
            connected: Future[Any] = Future()

            def stay() -> None:
                try:
                    connected.set_result(self._init(cards))
                except BaseException as error:
                    connected.set_exception(error)
                else:
                    threading.Event().wait()

            threading.Thread(target=stay, daemon=True).start()
            self.task = connected.result()

    def _init(self, cards: float) -> Any:
        """Start Ray, and return the remote function to call for each stack.

        It does not run in the main thread, where Ray would install its own handler of SIGTERM.

        Raises:
            ConfigError: there is no such cluster, or a stack does not fit into the one that was started.
        """
        if self.address is None:  # `import ray` and the processes that it starts read both variables
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # keeps all servers on 127.0.0.1
        import ray
        from ray.exceptions import RayError

        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        here = {"PYTHONPATH": os.pathsep.join(path)}  # workers import the same rnnbench as this process
        here |= {
            name: os.environ[name]
            for name in ("RNNBENCH_DATA", *self.config.hydra.job.env_copy)
            if name in os.environ
        }
        ours: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECTS}
        try:
            ray.init(
                self.address or "local",
                runtime_env={"env_vars": here},
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(ours if self.address is None else {}),
            )
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            if self.address is None:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"hydra.launcher.address={self.address}: Ray cannot connect ({reason}); start the command "
                "on a node of the cluster, with its versions of Ray and Python, and its token"
            ) from None
        self._check_size(ray.nodes(), cards)
        return ray.remote(max_retries=0)(train_stack)

    def _check_size(self, nodes: Sequence[dict[str, Any]], cards: float) -> None:
        """Warn if no node is large enough for a stack: one may join the cluster later.

        Raises:
            ConfigError: the cluster was started for this sweep, so no other node will join it.
        """
        for key, kind, wanted in (("num_cpus", "CPU", self.num_cpus), ("num_gpus", "GPU", cards)):
            most = max(node["Resources"].get(kind, 0) for node in nodes if node["Alive"])
            if wanted > most:
                line = f"hydra.launcher.{key}={wanted:g}: no node has more than {most:g}"
                if self.address is None:
                    raise ConfigError(line)
                terminal.warn(f"{line} now; the stacks wait for one that has")


def _fate(task: Any) -> Lost:
    """Return what became of a task that is over."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        ray.get(task)
    except RayTaskError as error:  # raised by the code that the worker ran, which would raise again
        refused = isinstance(error.cause, ConfigError)
        return Lost(f"stopped: {error.cause if refused else error}", again=False)
    except RayError as error:
        return Lost(f"was lost ({type(error).__name__})")
    return Lost("ended before its trials did")
