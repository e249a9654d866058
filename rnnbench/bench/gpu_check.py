"""Checks the generated kernels on a card: they compute what the torch path does, and the same bits always.

Every check is an error beside a limit. The same checks run in Triton's interpreter on a CPU, slowly.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rnnbench.bench.data import KINDS
from rnnbench.bench.layers import Case, arrays, errors, run
from rnnbench.config import Config, Data, Fit, Kernel, Model, Readout, Sgd, Tracking
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu import launches
from rnnbench.kernels.gpu.choice import scan_for
from rnnbench.kernels.gpu.compute import GpuCompute
from rnnbench.kernels.gpu.layer import BYTES, EVERY, FLOATS, MEAN, SYMBOLS
from rnnbench.kernels.gpu.scan import ResidentScan
from rnnbench.kernels.torch_path import TorchCompute
from rnnbench.nn.network import Network
from rnnbench.tasks import Examples, Task
from rnnbench.terminal import say
from rnnbench.train.stack import Stack

FLOAT32, TF32 = 1e-5, 3e-3  # largest errors, relative to the largest number of what is compared
# Where products hardly vary over their rows, layer_norm divides rounding errors by almost 0, on both paths.
NORMED = 1e-3
LARGE = 40  # a hidden size whose weights do not stay on the chip
SIZES = (10, LARGE)
BATCH = 32
# Steps of an example at most, and training examples: whole tasks on a card; the last minibatch is not full.
EXTENT: dict[str, tuple[int | None, int]] = {"cuda": (None, 130), "cpu": (2, 34)}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    limit: float  # the largest error; 0: to the bit
    error: Callable[[], float]


LSTM, GRU = Model("lstm", hidden_size=10), Model("gru", hidden_size=10)
LAYERS = {
    "every step, backwards, a second direction": Case(GRU, EVERY, reverse=True, add=True),
    "mean, lengths, bytes": Case(LSTM, MEAN, lengths=True, kind=BYTES),
    "last, lengths backwards, numbers": Case(GRU, reverse=True, lengths=True, kind=FLOATS),
    "symbols, a state that is handed on": Case(LSTM, EVERY, kind=SYMBOLS, carried=True),
    "dropout, a learned state": Case(replace(LSTM, learned_state=True), lengths=True, dropout=True),
    "options of a step": Case(replace(GRU, layer_norm=True, recurrent_dropout=0.2, zoneout=0.5), EVERY),
    "zoneout backwards": Case(replace(LSTM, zoneout=0.5), MEAN, reverse=True, lengths=True),
}
OPTIONS: dict[str, Model] = {
    "zoneout": replace(LSTM, zoneout=0.2),
    "two layers": replace(LSTM, num_layers=2),
    "bidirectional, mean": replace(GRU, num_layers=2, bidirectional=True, readout=Readout.mean),
    "dropout, weight noise": replace(GRU, num_layers=2, dropout=0.4, weight_noise=0.05),
    "recurrent dropout, learned state": replace(LSTM, recurrent_dropout=0.3, learned_state=True),
    "layer_norm": replace(GRU, layer_norm=True),
    "a large layer": replace(LSTM, hidden_size=LARGE, num_layers=2),
    "a parallel scan": Model("mingru", hidden_size=10),
}


def checks(device: str) -> Iterator[Check]:
    """Generate the checks of a device."""
    yield from cells(device)
    yield from layers(device)
    yield from precisions(device)
    yield from trainings(device)
    yield from bits(device)
    yield from graphs(device)


def cells(device: str) -> Iterator[Check]:
    """Generate checks of every stock cell, in the kernels that it has at each size."""
    for name, model in libraries.card_models().items():
        for size in SIZES:
            case = Case(replace(model, hidden_size=size), lengths=True, device=device)
            yield Check(f"cell {name}, hidden size {size}", FLOAT32, partial(worst, case))


def graph(model: Model) -> Graph:
    """Return the graph of a model's step."""
    found = libraries.graph(model)
    assert isinstance(found, Graph), found
    return found


def worst(case: Case, precision: str = "ieee") -> float:
    """Run a layer, and return the largest of its errors; nan if one is not a number."""
    scan = scan_for(graph(case.model), case.model.hidden_size, case.input, precision)
    return float(torch.tensor(list(errors(case, scan).values())).max())


def layers(device: str) -> Iterator[Check]:
    """Generate checks of a layer's inputs, directions, readouts and options."""
    for name, case in LAYERS.items():
        for size in SIZES:
            own = replace(case, device=device, model=replace(case.model, hidden_size=size))
            yield Check(f"layer, hidden size {size}: {name}", FLOAT32, partial(worst, own))


def precisions(device: str) -> Iterator[Check]:
    """Generate checks of products on tensor cores."""
    for model in (LSTM, GRU):
        for size in SIZES:
            for precision, limit in (("tf32x3", FLOAT32), ("tf32", TF32)):
                case = Case(replace(model, hidden_size=size), device=device)
                yield Check(f"{precision}: {model.name}, hidden size {size}", limit,
                            partial(worst, case, precision))  # fmt: skip


def trainings(device: str) -> Iterator[Check]:
    """Generate checks of training and evaluation beside the torch path: every task, and every option."""
    for kind in KINDS:
        for model in (LSTM, GRU):
            yield Check(f"task {kind}: {model.name}", FLOAT32, partial(apart, kind, model, device))
    for name, model in OPTIONS.items():
        limit = NORMED if model.layer_norm else FLOAT32
        for kind in ("series", "language"):
            yield Check(f"option {name}: {kind}", limit, partial(apart, kind, model, device))


def bits(device: str) -> Iterator[Check]:
    """Generate checks that a trial has the same bits alone, and in each run."""
    for name, model in OPTIONS.items():
        yield Check(f"alone and in a stack: {name}", 0, partial(alone, "series", model, device))
    yield Check("alone and in a stack: text", 0, partial(alone, "text", OPTIONS["zoneout"], device))
    for kind in ("images", "language", "text"):
        yield Check(f"two runs: {kind}", 0, partial(again, kind, LSTM, device))


def graphs(device: str) -> Iterator[Check]:
    """Generate checks that a CUDA graph does what its launches do, to the bit."""
    for kind in ("series", "images", "language", "text"):
        yield Check(f"a CUDA graph and plain launches: {kind}", 0, partial(launched, kind, LSTM, device))


@cache
def small(kind: str, steps: int | None, examples: int) -> tuple[Data, Task]:
    """Return a task with a few examples, and of so many steps at most."""
    data, task = KINDS[kind]()
    endless = task.make is not None and not len(task.splits["train"])
    train = np.arange(0 if endless else examples)
    task = replace(task, splits={"train": train, "val": np.arange(64), "test": np.arange(64)})
    return data, task if steps is None else shortened(task, steps)


def shortened(task: Task, steps: int) -> Task:
    """Return the first steps of a task."""

    def cut(examples: Examples) -> Examples:
        targets = examples.targets[:, :steps] if task.goal.every_step else examples.targets
        lengths = None if examples.lengths is None else examples.lengths.clip(max=steps)
        return Examples(examples.inputs[:, :steps], targets, lengths)

    stored, make = cut(Examples(task.inputs, task.targets, task.lengths)), task.make
    made = None if make is None else lambda uniforms: cut(make(uniforms))
    return replace(task, inputs=stored.inputs, targets=stored.targets, lengths=stored.lengths, make=made)


def configs_of(data: Data, model: Model, device: str, K: int) -> list[Config]:
    """Return the configurations of K trials."""
    fit = Fit(batch_size=BATCH, clip=1.0, device=device, kernel=Kernel.torch, steps_per_epoch=2)
    return [Config(model, Sgd(lr=0.005, momentum=0.5), data, fit, Tracking(), seed) for seed in range(K)]


def trained(configs: list[Config], task: Task, generated: bool = True) -> tuple[Stack, list[Tensor]]:
    """Train for an epoch, and evaluate; return the stack, and all that came out of it."""
    config = configs[0]
    stack = Stack(config, task)
    network = Network(config.model, task.input_size, task.outputs, task.goal.every_step)
    compute = GpuCompute(config, task) if generated else TorchCompute(config, task, network)
    stack.compute = stack.evaluation.compute = compute
    stack.admit([stack.fresh(each) for each in configs])
    report = next(stack.epochs())
    loss, hits, answers = compute.evaluate(stack.state["parameters"], stack.splits["test"])
    metrics = torch.tensor([list(each.values()) for each in report.metrics])
    state = [rows for name, rows in stack.state.items() if name in ("parameters", *config.optim.memory)]
    return stack, [*state, *metrics.unbind(1), loss, hits, answers]


def case(kind: str, model: Model, device: str, K: int = 2) -> tuple[list[Config], Task]:
    """Return configurations and task of a check."""
    data, task = small(kind, *EXTENT[device.split(":")[0]])
    return configs_of(data, model, device, K), task


def apart(kind: str, model: Model, device: str) -> float:
    """Train on both paths; return the largest difference of parameters, metrics and evaluations."""
    configs, task = case(kind, model, device)
    _, ours = trained(configs, task)
    _, theirs = trained(configs, task, generated=False)
    return difference(ours[:-1], theirs[:-1])  # of two classes as likely as each other either may be answered


def alone(kind: str, model: Model, device: str) -> float:
    """Train three trials in a stack, and one of them alone."""
    configs, task = case(kind, model, device, K=3)
    _, together = trained(configs, task)
    _, single = trained(configs[1:2], task)
    return difference([rows[1:2] for rows in together], single)


def again(kind: str, model: Model, device: str) -> float:
    """Train the same trials twice."""
    configs, task = case(kind, model, device)
    return difference(trained(configs, task)[1], trained(configs, task)[1])


def launched(kind: str, model: Model, device: str) -> float:
    """Train with a CUDA graph, and launching kernel by kernel."""
    configs, task = case(kind, model, device)
    stack, replayed = trained(configs, task)
    with patch.object(launches, "CudaGraph", lambda launch, stream: launch):
        _, plain = trained(configs, task)
    compute = stack.compute
    assert isinstance(compute, GpuCompute) and compute.training is not None
    if device != "cpu" and compute.training.launches.replay is None:
        raise RuntimeError("no CUDA graph was made")
    return difference(replayed, plain)


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest number of each; nan if one is not a number."""
    found = []
    for one, other in zip(ours, theirs, strict=True):
        one, other = one.double().cpu(), other.double().cpu()
        found.append((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
    return float(torch.stack(found).max())


def sample(device: str) -> Iterator[Check]:
    """Generate the first check of each kind, which the interpreter runs in a few seconds."""
    for kind in (cells, layers, precisions, trainings, bits, graphs):
        yield next(kind(device))


def report(some: Iterable[Check]) -> int:
    """Run checks, and print a line for each; return how many have failed."""
    started, failed, count = time.perf_counter(), 0, 0
    for check in some:
        count += 1
        try:
            error, why = check.error(), ""
        except Exception as raised:  # a check that cannot be made keeps no other from being made
            error, why = math.nan, f"; {type(raised).__name__}: {str(raised).strip().splitlines()[0]}"
        passed = error <= check.limit
        failed += not passed
        limit = f"at most {check.limit:g}" if check.limit else "to the bit"
        say(f"{'pass' if passed else 'fail'}  {check.name}: {error:.1e}, {limit}{why}")
    say(f"{count - failed} of {count} passed, {failed} failed, in {time.perf_counter() - started:.0f} s")
    return failed


def gates_again(hidden_size: int, device: str) -> tuple[float, float]:
    """Time a layer of 256 lstm that keeps its gates, and one that computes them again; in ms."""
    model = replace(LSTM, hidden_size=hidden_size)
    seconds = []
    for anew in (False, True):
        scan = ResidentScan(graph(model), hidden_size, again=anew)
        layer = arrays(Case(model, K=256, T=28, input=28, B=128, device=device), scan).layer
        rounds = []
        for _ in range(12):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            for _ in range(10):
                run(scan, layer)
            torch.cuda.synchronize(device)
            rounds.append((time.perf_counter() - started) / 10)
        seconds.append(1e3 * sorted(rounds[2:])[5])
    return seconds[0], seconds[1]
