"""Laws of training on a GPU, in Triton's interpreter: what a stack does there is what it does elsewhere."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import make_config, small_task
from test_compiled_tasks import KINDS, OPTIONS, agree, configs_of, of, trained
from triton.runtime.errors import OutOfResources

from rnnbench import kernels
from rnnbench.config import Adam, Config, ConfigError, Kernel, Sgd
from rnnbench.kernels import choose, make_compute
from rnnbench.kernels.gpu import compute, data, launches
from rnnbench.kernels.gpu.compute import GpuCompute
from rnnbench.kernels.gpu.launches import Launches, Pace
from rnnbench.kernels.gpu.minibatch import Minibatch
from rnnbench.tasks import Task
from rnnbench.train import fastest
from rnnbench.train.stack import Stack

IN_THE_STEP = ["recurrent dropout", "zoneout", "layer norm"]
SHOWN = {  # each noise, each kind of order; the others are slow
    ("dropout", "music"): "gru",
    ("weight noise", "text"): "lstm",
    ("zoneout", "made words"): "gru",
    ("several lengths", "own numbers at every step"): "gru",
}
CASES = [
    pytest.param(option, kind, SHOWN.get((option, kind), "lstm"), marks=marks)
    for option in [*OPTIONS, *IN_THE_STEP]
    for kind in KINDS
    for marks in [() if (option, kind) in SHOWN else pytest.mark.slow]
]


@pytest.mark.parametrize("option, kind, cell", CASES)
def test_a_task_trains_as_on_the_torch_path(option: str, kind: str, cell: str) -> None:
    agree(cell, option, kind, 1, GpuCompute, few=15)


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


@pytest.fixture(scope="module")
def two_epochs() -> torch.Tensor:
    """The parameters of a trial after two epochs."""
    task, configs = small((1,))
    return parameters(configs, task, 2)


def test_a_trial_is_bit_for_bit_the_same_whatever_the_stack(monkeypatch) -> None:
    """However many trials are evaluated, and however many examples are made, at once."""
    task, configs = small((0, 1, 2))
    stack, metrics = trained(configs, task, GpuCompute(configs[0], task), 1)
    monkeypatch.setattr(compute, "ROOM", 1)
    monkeypatch.setattr(data, "ROOM", 1)
    others = trained(configs[1:], task, GpuCompute(configs[0], task), 1)
    assert torch.equal(others[0].state["parameters"], stack.state["parameters"][1:])
    assert others[1][0] == metrics[0][1:]


def test_predictions_are_each_trials_own_where_not_all_are_evaluated_at_once(monkeypatch) -> None:
    config, task = make_config("gru", model__hidden_size=3), small_task(20)
    ours = GpuCompute(config, task)
    parameters = 3 * torch.randn(4, ours.network.count(), generator=torch.Generator().manual_seed(0))
    index = torch.arange(20)
    loss, _, together = ours.evaluate(parameters, index)
    monkeypatch.setattr(compute, "ROOM", 1)
    one_by_one = ours.evaluate(parameters, index)
    assert torch.equal(one_by_one[0], loss) and torch.equal(one_by_one[2], together)
    assert len(together.unique(dim=0)) > 1


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
    capture, monkeypatch, capsys, two_epochs
) -> None:
    task, configs = small((1,))
    made = capture()
    init = Launches.__init__
    monkeypatch.setattr(Launches, "__init__", lambda self, device, what: init(self, device, what, made))
    assert torch.equal(parameters(configs, task, 2), two_epochs)
    said = capsys.readouterr()
    if isinstance(made, Refused):
        for what in ("training", "evaluation"):
            assert (said.out + said.err).count(f"no CUDA graph of {what} (CUDA error: operation not") == 1
    else:
        # Of two epochs of two minibatches and an evaluation in one the first of each is launched.
        assert (made.captured, made.replays) == (2, 3 + 1)


def test_training_and_evaluation_are_waited_for_each_at_its_own_pace(monkeypatch) -> None:
    """Minibatches of evaluation are larger: as many of them as of training would be waited for too long."""
    task, configs = small((1,))
    config = configs[0]
    monkeypatch.setattr(launches, "SECONDS", 1e9)
    ours = GpuCompute(config, task)
    stack, _ = trained([config], task, ours, 1)
    polled: list[None] = []
    index = torch.from_numpy(task.splits["test"]).repeat(10)  # more at once than in the epoch before
    ours.evaluate(stack.state["parameters"], index, lambda: polled.append(None))
    assert len(polled) == 2  # before the first minibatch and after it


def test_a_poll_that_raises_leaves_the_stack_as_it_was(monkeypatch, two_epochs) -> None:
    task, configs = small((1,))
    stack, _ = trained(configs, task, GpuCompute(configs[0], task), 1)
    before = stack.state["parameters"].clone()

    polls = iter([False, True])

    def stop() -> None:
        if next(polls):  # after the first minibatch
            raise KeyboardInterrupt

    monkeypatch.setattr(launches, "SECONDS", 0.0)
    stack.poll = stop
    with pytest.raises(KeyboardInterrupt):
        next(stack.epochs())
    stack.poll = lambda: None
    assert torch.equal(stack.state["parameters"], before)
    next(stack.epochs())
    assert torch.equal(stack.state["parameters"], two_epochs)


def test_a_poll_comes_after_each_fifth_of_a_second_of_work(monkeypatch) -> None:
    """By a clock of the test: the first minibatch, which compiles kernels, takes long, then each 30 ms."""
    now, polls = [0.0], []
    monkeypatch.setattr(launches.time, "perf_counter", lambda: now[0])
    pace = Pace(torch.device("cpu"))
    pace.start(lambda: None)
    for number in range(30):
        now[0] += 20.0 if number == 0 else 0.03
        pace.step(lambda: polls.append(now[0]))
    assert len(polls) > 4
    assert all(later - one < 0.25 for one, later in pairwise(polls))


class Renewed(Sgd):
    """An optimiser of one's own that puts new tensors in place of the stack's rows."""

    memory = ("mean",)

    def update(self, state, parameters, gradient) -> None:  # type: ignore[no-untyped-def]
        state["mean"] = 0.5 * state["mean"] + gradient
        state["step"] = state["step"] + 1
        parameters -= state["lr"].float() * state["mean"] / state["step"].float()


def test_an_optimiser_of_ones_own_may_renew_the_rows_of_the_stack() -> None:
    task = small_task(20)
    configs = [make_config(optim=Renewed(name="renewed", lr=0.1), seed=seed) for seed in (0, 1)]
    ours, _ = trained(configs, task, GpuCompute(configs[0], task))
    theirs, _ = trained(configs, task, make_compute(configs[0], task))
    for name in ("parameters", "mean", "step"):
        assert torch.allclose(ours.state[name], theirs.state[name], rtol=0, atol=1e-5)


def test_fastest_measures_a_trial_alone_once_and_takes_the_faster(monkeypatch, capsys) -> None:
    """On the CPU, where torch's own layers stand for cuDNN."""
    monkeypatch.setattr(kernels, "_FASTER", {})
    monkeypatch.setattr(kernels, "_ALONE", set())
    task, config = small_task(), make_config(fit__kernel=Kernel.fastest)
    before = choose(config)
    assert before is choose(make_config())
    taken = fastest.settle(config, task)
    assert taken in (before, Kernel.cudnn) and choose(config) is taken
    assert f"fit.kernel=fastest takes {taken.value} (" in capsys.readouterr().out
    assert fastest.settle(config, task) is taken and capsys.readouterr().out == ""
    for kernel in (Kernel.cudnn, before):
        kernels.take(config, kernel)
        assert choose(config) is kernel
        assert type(make_compute(config, task)) is type(make_compute(make_config(fit__kernel=kernel), task))
    others = make_config(seed=1, fit__kernel=Kernel.fastest)  # that may train together
    kernels.take(config, Kernel.cudnn)
    assert choose(config) is Kernel.cudnn and choose(others) is before
    without = make_config("mgu", fit__kernel=Kernel.fastest)  # torch.nn has none
    alone = choose(make_config("mgu"))
    capsys.readouterr()  # that its kernels are built, where nobody has used them
    assert fastest.settle(without, task) is alone and capsys.readouterr().out == ""


def test_kernels_that_need_more_than_a_card_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task, configs = small((1,))

    def refuse(self: Minibatch) -> None:
        raise OutOfResources(122880, 101376, "shared memory")

    monkeypatch.setattr(Minibatch, "run", refuse)
    with pytest.raises(
        ConfigError, match=r"model.name=gru .* need 122,880 of shared memory, .* fit.kernel=torch"
    ):
        parameters(configs, task, 1)
