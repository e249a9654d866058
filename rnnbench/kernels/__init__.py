"""Chooses what computes a stack: the compiled CPU kernels, the torch path for every cell and device, cuDNN.

`fit.kernel` chooses. `auto` takes the kernels that are generated from a cell's step, in C on the CPU and with
Triton on a graphics card, for every cell whose step can be traced, and the torch path elsewhere. They hand
nothing over to BLAS: on the CPU, at hidden sizes from 128 to 1,024, they were measured to be the faster
(`python -m rnnbench.bench --hidden 128 512 --stacks 1 4` on one's own machine).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from rnnbench.config import Config, ConfigError, Kernel, Precision
from rnnbench.kernels import cudnn, libraries
from rnnbench.kernels.compiled import OPTIMISERS, CompiledCompute, chunks, cores
from rnnbench.kernels.cudnn import CudnnNetwork
from rnnbench.kernels.gpu import cards
from rnnbench.kernels.torch_path import LARGE, TorchCompute
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise
from rnnbench.nn.network import Network
from rnnbench.tasks import Task, has_loss


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


def reason(config: Config) -> str | None:
    """Say in one line why the generated kernels do not compute a trial; None if they do.

    Kernels for the CPU that can be compiled at first use are compiled now.

    Raises:
        ConfigError: the step of a cell of one's own is wrong.
    """
    if has_loss(config.data):
        return f"data={config.data.name} has a loss of its own"
    if config.fit.device != "cpu":
        if getattr(config.data, "class_weights", None) is not None:
            return f"fit.device={config.fit.device}: data.class_weights weighs the loss on the torch path"
        if why := cards.unfit(config.fit.device):
            return f"fit.device={config.fit.device}: {why}"
        step = libraries.graph(config.model)
        return f"model={config.model.name}: {step}" if isinstance(step, str) else None
    if config.optim.name not in OPTIMISERS:
        return f"optim={config.optim.name} updates in Python"
    kernels = libraries.find(config.model)
    return f"model={config.model.name}: {kernels}" if isinstance(kernels, str) else None


# What was measured to be the faster for a trial alone where fit.kernel=fastest, by what its time depends on.
_FASTER: dict[str, Kernel] = {}
_ALONE: set[str] = set()  # the trials that train alone; others of their shape may train together


def _timed(config: Config) -> str:
    """Return what the time of a trial alone on a card depends on."""
    fit = config.fit
    return repr((config.model, config.data, fit.batch_size, fit.device.partition(":")[0], fit.precision))


def measured(config: Config) -> Kernel | None:
    """Return the kernel that was measured to be the faster for a trial alone; None before it was."""
    return _FASTER.get(_timed(config))


def take(config: Config, kernel: Kernel) -> None:
    """Have `choose` take this kernel, in this process, for a trial that trains alone (fit.kernel=fastest)."""
    _FASTER[_timed(config)] = kernel
    _ALONE.add(_trial(config))


def _trial(config: Config) -> str:
    """Return a trial in words, on whichever card it is placed."""
    fit = replace(config.fit, device=config.fit.device.partition(":")[0])
    return repr((config.model, config.optim, config.data, fit, config.seed))


def choose(config: Config) -> Kernel:
    """Choose the kernel that `fit.kernel` asks for: compiled, torch or cudnn.

    `fastest` is for a trial alone what `rnnbench.train.fastest` has measured, and otherwise as `auto`.

    Raises:
        ConfigError: compiled kernels or cuDNN are asked for, and cannot compute the trial.
    """
    kernel = config.fit.kernel
    if kernel is Kernel.fastest:
        faster = measured(config) if _trial(config) in _ALONE else None
        kernel = faster or Kernel.auto
    if kernel is Kernel.cudnn and not cudnn.supports(config):
        raise ConfigError(
            f"fit.kernel=cudnn: torch.nn has no model={config.model.name} for data={config.data.name}, or "
            "not with these options; take fit.kernel=auto"
        )
    if kernel in (Kernel.cudnn, Kernel.torch):
        return kernel
    why = reason(config)
    if why and config.fit.precision is Precision.tf32x3:
        raise ConfigError(
            f"fit.precision=tf32x3: {why}, and the torch path does not have it; take float32 or tf32"
        )
    if why and kernel is Kernel.compiled:
        raise ConfigError(f"fit.kernel=compiled: {why}; take fit.kernel=auto, which trains on the torch path")
    return Kernel.torch if why else Kernel.compiled


def slower(config: Config) -> str | None:
    """Say in one line why a trial trains on the torch path, though nobody asked for that."""
    why = reason(config) if config.fit.kernel in (Kernel.auto, Kernel.fastest) else None
    return f"{why}: training on the slower torch path" if why else None


def cores_used(config: Config, K: int) -> int:
    """Count the cores that a stack of K keeps busy; all for a GPU, which takes one stack at a time."""
    if config.fit.device != "cpu":
        return cores()
    if choose(config) is Kernel.compiled:
        return min(cores(), K * chunks(config.fit.batch_size))
    return 1 if config.model.hidden_size < LARGE else cores()


def make_compute(config: Config, task: Task) -> Compute:
    """Make what trains and evaluates the stack of these trials."""
    kernel = choose(config)
    if kernel is Kernel.compiled and config.fit.device != "cpu":
        # Late: Triton may not be there, and nothing on the CPU needs it.
        from rnnbench.kernels.gpu.compute import GpuCompute

        return GpuCompute(config, task)
    if kernel is Kernel.compiled:
        return CompiledCompute(config, task)
    kind = CudnnNetwork if kernel is Kernel.cudnn else Network
    network = kind(config.model, task.input_size, task.outputs, task.goal.every_step)
    return TorchCompute(config, task, network)


def torch_evaluation(config: Config, task: Task, compute: Compute) -> TorchCompute:
    """Make what evaluates the trials of `compute` with torch, for metrics computed from the logits."""
    return compute if isinstance(compute, TorchCompute) else TorchCompute(config, task, compute.network)


def kernel_name(config: Config) -> str:
    """Name the kernel for the record: of a generated one the instruction set, or the card's architecture."""
    kernel = choose(config)
    if kernel is Kernel.compiled and config.fit.device != "cpu":
        if not cards.count():  # of a trial that was to train elsewhere
            return "triton"
        major, minor = cards.card(config.fit.device).capability
        return f"triton sm_{major}{minor}"
    kernels = libraries.find(config.model) if kernel is Kernel.compiled else None
    return f"compiled {kernels.sets[0]}" if isinstance(kernels, libraries.Kernels) else str(kernel.value)


def on_card(config: Config) -> str:
    """Say on which card and in what precision a stack trains; nothing on the CPU."""
    fit = config.fit
    if fit.device == "cpu":
        return ""
    return f" on {fit.device}, {cards.card(fit.device)}, in {fit.precision.value}"
