"""Times stacks on a GPU beside runs of torch.nn (cuDNN) one after the other, data on the card already."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from rnnbench.bench.bound import Card, Load, bound
from rnnbench.bench.harness import BATCH, adapting, image_task, shuffled, stack_of, training, wait
from rnnbench.bench.measure import in_turn, spread
from rnnbench.config import Config, Fit, Model, Precision, Select, Sgd, Tracking
from rnnbench.kernels import kernel_name
from rnnbench.kernels.precision import torch_precision
from rnnbench.nn.network import TorchNetwork
from rnnbench.tasks import Task
from rnnbench.tasks.sequences import Images

EPOCH = 468  # minibatches of a measurement at most: a stack reads its sums back once an epoch


@dataclass
class GpuRow:
    """Keeps, for each round, the seconds of a minibatch of a whole stack and of one run on cuDNN."""

    config: Config
    kernel: str
    K: int
    stack: list[float]
    serial: list[float]
    least: float | None  # seconds of a minibatch of the stack, reckoned; None where the card is not known

    @property
    def times(self) -> list[float]:
        """Return, for each round, how many times as fast as the runs one after the other the stack is."""
        return [self.K * theirs / ours for theirs, ours in zip(self.serial, self.stack, strict=True)]

    @property
    def cells(self) -> list[str]:
        """Return the cells of a row of the printed table."""
        share = "" if self.least is None else f"{self.least / statistics.median(self.stack):.0%}"
        fit, model = self.config.fit, self.config.model
        return [
            *(str(model.hidden_size), model.name, fit.precision.value, self.kernel, str(self.K)),
            *(spread([1e3 * s for s in self.stack], 3), spread([1e3 * s for s in self.serial], 2)),
            *(spread(self.times, 1), share),
        ]


HEADER = [
    *("hidden size", "model", "precision", "kernel", "stack", "ms a minibatch", "cuDNN, ms"),
    *("times cuDNN one after the other", "of the reckoned bound"),
]


def configured(model: Model, device: str, precision: Precision) -> Config:
    """Return the configuration of trials under plain SGD, as the tutorial has it."""
    fit = Fit(batch_size=BATCH, select=Select.test, device=device, precision=precision)
    return Config(model, Sgd(), Images("mnist", val_size=0), fit, Tracking())


def gpu_row(config: Config, task: Task, K: int, rounds: int, card: Card | None) -> GpuRow:
    """Time a stack and one run of torch.nn in turn.

    Raises:
        torch.OutOfMemoryError: the card's memory does not suffice.
    """
    stack = stack_of(config, task, K)
    ours = adapting(lambda count: training(stack, shuffled(K, count)) / count, most=EPOCH)
    stacked, alone = in_turn([ours, serial(config, task)], rounds)
    _, steps, width = task.inputs.shape
    load = Load(config.model, K, width, steps, BATCH, task.outputs)
    least = None if card is None else bound(load, card, config.fit.precision.value).seconds
    return GpuRow(config, kernel_name(config), K, stacked, alone, least)


def gpu_rows(
    configs: Sequence[Config], task: Task, stacks: Sequence[int], rounds: int, card: Card | None
) -> Iterator[GpuRow | str]:
    """Time each stack of each configuration; a line in its place where the memory does not suffice."""
    for config in configs:
        for K in stacks:
            try:
                yield gpu_row(config, task, K, rounds, card)
            except torch.OutOfMemoryError:
                model = config.model
                yield f"{model.name}, hidden size {model.hidden_size}, stack of {K}: memory does not suffice"
            gc.collect()  # of the stack, which refers to itself
            if config.fit.device != "cpu":
                torch.cuda.empty_cache()


def serial(config: Config, task: Task) -> Callable[[], float]:
    """Time a run of torch.nn and torch.optim, in seconds a minibatch; in float32 without TF32."""
    device = torch.device(config.fit.device)
    network = TorchNetwork(config.model, task.input_size, task.outputs).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    x = (torch.from_numpy(task.inputs).to(device).float() * task.scale - task.mean) / task.std
    y = torch.from_numpy(task.targets).to(device)

    def measure(minibatches: int) -> float:
        order = torch.randint(len(x), (minibatches, BATCH), device=device)
        wait(device)
        started = time.perf_counter()
        with torch_precision.of(replace(config.fit, precision=Precision.float32)):
            for index in order:
                loss = criterion(network(x[index]), y[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            wait(device)
        return (time.perf_counter() - started) / minibatches

    return adapting(measure, most=EPOCH)


def pixels(device: str, precision: Precision) -> tuple[list[Config], Task]:
    """Return what 784 steps of one pixel are trained with: an LSTM and a GRU of 130 units."""
    models = [Model(name, 130) for name in ("lstm", "gru")]
    return [configured(model, device, precision) for model in models], image_task(28 * 28)
