"""Laws of training on a GPU, in Triton's interpreter: what a stack does there is what it does elsewhere."""

import numpy as np
import pytest
import torch
from conftest import crossed
from test_compiled_tasks import KINDS, OPTIONS, agree, configs_of, of, trained

from rnnbench.config import Adam, Config, Kernel
from rnnbench.kernels import make_compute
from rnnbench.kernels.gpu.compute import GpuCompute
from rnnbench.kernels.gpu.launches import Launches
from rnnbench.tasks import Task
from rnnbench.train.stack import Stack

IN_THE_STEP = ["recurrent dropout", "zoneout", "layer norm"]


@pytest.mark.parametrize("option, kind", crossed([*OPTIONS, *IN_THE_STEP], KINDS))
def test_a_task_trains_as_on_the_torch_path(option: str, kind: str) -> None:
    agree("gru" if option == "all" else "lstm", option, kind, 1, GpuCompute)


def small(seeds: tuple[int, ...] = (0, 1)) -> tuple[Task, list[Config]]:
    """A task and trials with what draws random numbers, and an optimiser with memory."""
    task, changes = of("dropout", "made words")
    task.splits.update({"train": np.arange(15), "val": np.arange(6), "test": np.arange(3)})
    configs = configs_of("gru", changes, seeds)
    for config, rate in zip(configs, (0.4, 0.1, 0.2), strict=False):
        config.model.dropout = rate
        config.optim = Adam(lr=rate / 10)
    return task, configs


def parameters(configs: list[Config], task: Task, epochs: int) -> torch.Tensor:
    return trained(configs, task, GpuCompute(configs[0], task), epochs)[0].state["parameters"]


def test_a_trial_is_bit_for_bit_the_same_whatever_the_stack() -> None:
    task, configs = small((0, 1, 2))
    together = parameters(configs, task, 2)
    for k in (0, 2):
        assert torch.equal(parameters([configs[k]], task, 2)[0], together[k])


def test_a_stack_that_is_stopped_goes_on_to_the_bit_and_on_the_cpu() -> None:
    task, configs = small()
    whole = parameters(configs, task, 2)
    stack, _ = trained(configs, task, GpuCompute(configs[0], task), 1)
    stopped = stack.stop(stack.slots)
    for kernel, tolerance in ((None, 0.0), (Kernel.auto, 1e-5)):
        other = Stack(configs[0], task)
        compute = GpuCompute(configs[0], task) if kernel is None else make_compute(configs[0], task)
        other.compute = other.evaluation.compute = compute
        other.admit(stopped[1:])
        next(other.epochs())
        assert torch.allclose(other.state["parameters"][0], whole[1], rtol=0, atol=tolerance)
        for trial in stopped:
            trial.slot.epoch = 1


class Refused:
    """A capture that fails, as torch's does for launches that wait for the GPU."""

    def __call__(self, launch: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


class Replayed:
    """A capture whose replay is the launches themselves, counted."""

    def __init__(self) -> None:
        self.captured = self.replays = 0

    def __call__(self, launch):  # type: ignore[no-untyped-def]
        self.captured += 1

        def replay() -> None:
            self.replays += 1
            launch()

        return replay


@pytest.mark.parametrize("capture", [Refused, Replayed])
def test_a_minibatch_is_captured_once_and_one_that_cannot_be_is_launched(
    capture, monkeypatch, capsys
) -> None:
    task, configs = small((1,))
    expected = parameters(configs, task, 2)
    made = capture()
    init = Launches.__init__
    monkeypatch.setattr(Launches, "__init__", lambda self, device: init(self, device, made))
    assert torch.equal(parameters(configs, task, 2), expected)
    said = capsys.readouterr()
    if isinstance(made, Refused):
        assert (said.out + said.err).count("no CUDA graph (CUDA error: operation not permitted") == 1
    else:
        assert (made.captured, made.replays) == (1, 3)  # of two epochs of two the first is launched


def test_a_poll_that_raises_leaves_the_stack_as_it_was() -> None:
    task, configs = small((1,))
    stack, _ = trained(configs, task, GpuCompute(configs[0], task), 1)
    before = stack.state["parameters"].clone()

    def stop() -> None:
        raise KeyboardInterrupt

    stack.poll = stop
    with pytest.raises(KeyboardInterrupt):
        next(stack.epochs())
    stack.poll = lambda: None
    assert torch.equal(stack.state["parameters"], before)
    next(stack.epochs())
    assert torch.equal(stack.state["parameters"], parameters(configs, task, 2))
