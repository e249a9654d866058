"""Chooses what computes a stack: the compiled CPU kernels, the torch path for every cell and device, cuDNN.

`fit.kernel` chooses. `auto` takes the compiled kernels for the cells that they have, on the CPU, and the
torch path elsewhere. They hand nothing over to BLAS: at hidden sizes from 128 to 1,024 they were
measured to be the faster (`python -m rnnbench.bench --hidden 128 512 --stacks 1 4` on one's own machine).
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rnnbench.config import Config, ConfigError, Kernel
from rnnbench.kernels import compiled, cudnn
from rnnbench.kernels.compiled import CompiledCompute, chunks, cores, instruction_sets, library
from rnnbench.kernels.cudnn import CudnnNetwork
from rnnbench.kernels.torch_path import LARGE, TorchCompute
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise
from rnnbench.nn.network import Network
from rnnbench.tasks import Task


class Compute(Protocol):
    """Defines what the engine asks of a kernel."""

    network: Network

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches, in order (K, examples), each trial's own.

        `poll` is called between minibatches, at least a few times a second where a minibatch allows.

        Returns (K, 3) in float64 means: over the answers, of the loss and of whether they are right, both
        before the update; over the examples, of the gradient's norm before clipping, a minibatch's for each.
        """
        ...

    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean loss (k,), share of right answers (k,), predictions (k, examples) of parameters (k, P).

        `poll` is called as in `train`.
        """
        ...


def choose(config: Config) -> Kernel:
    """Choose the kernel that `fit.kernel` asks for: compiled, torch or cudnn.

    Raises:
        ConfigError: the compiled kernels are asked for and not there, or they or cuDNN do not have the cell.
    """
    fit = config.fit
    if fit.kernel is Kernel.compiled:
        reason = library()
        if isinstance(reason, str):
            raise ConfigError(f"fit.kernel=compiled: {reason}; {REMEDY}, or take fit.kernel=torch")
        if not compiled.supports(config):
            raise ConfigError(
                f"fit.kernel=compiled: they do not have model={config.model.name} on "
                f"data={config.data.name} under optim={config.optim.name}; take fit.kernel=auto"
            )
    if fit.kernel is Kernel.cudnn and not cudnn.supports(config):
        raise ConfigError(
            f"fit.kernel=cudnn: torch.nn has no model={config.model.name} for data={config.data.name}, or "
            "not with these options; take fit.kernel=auto"
        )
    if fit.kernel is not Kernel.auto:
        return fit.kernel
    serve = fit.device == "cpu" and compiled.supports(config) and bool(instruction_sets())
    return Kernel.compiled if serve else Kernel.torch


REMEDY = "with a C compiler, `python -m rnnbench.kernels.build` makes them"


def missing(config: Config) -> str | None:
    """Say what is slower than it need be, if the compiled kernels would serve but are not there."""
    reason, fit = library(), config.fit
    would_serve = fit.kernel is Kernel.auto and fit.device == "cpu" and compiled.supports(config)
    if isinstance(reason, str) and would_serve:
        return f"no compiled kernels ({reason}): training on the slower torch path; {REMEDY}"
    return None


def cores_used(config: Config, K: int) -> int:
    """Count the cores that a stack of K keeps busy; all for a GPU, which takes one stack at a time."""
    if choose(config) is Kernel.compiled:
        return min(cores(), K * chunks(config.fit.batch_size))
    return 1 if config.fit.device == "cpu" and config.model.hidden_size < LARGE else cores()


def make_compute(config: Config, task: Task) -> Compute:
    """Make what trains and evaluates the stack of these trials."""
    kernel = choose(config)
    if kernel is Kernel.compiled and task.loss is None:
        return CompiledCompute(config, task)
    kind = CudnnNetwork if kernel is Kernel.cudnn else Network
    network = kind(config.model, task.input_size, task.outputs, task.goal.every_step)
    return TorchCompute(config, task, network)


def torch_evaluation(config: Config, task: Task, compute: Compute) -> TorchCompute:
    """Make what evaluates the trials of `compute` with torch, for metrics computed from the logits."""
    return compute if isinstance(compute, TorchCompute) else TorchCompute(config, task, compute.network)


def kernel_name(config: Config) -> str:
    """Name the kernel for the record, with the instruction set if it is a compiled one."""
    kernel = choose(config)
    return f"compiled {instruction_sets()[0]}" if kernel is Kernel.compiled else kernel.value
