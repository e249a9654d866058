"""Laws of the compiled kernels on every kind of task: they compute what the torch path does, and a trial's
numbers are bit for bit the same whatever runs beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crossed, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import Kernel, Readout, Sgd
from rnnbench.kernels import compiled, feed, make_compute, reason
from rnnbench.kernels.compiled import CompiledCompute, instruction_sets
from rnnbench.nn.cells import CELLS
from rnnbench.tasks import Examples, Goal, Task
from rnnbench.tasks.generated import TRAIN, uniforms
from rnnbench.train.stack import Stack

SETS = instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason="no compiled kernels: no C compiler was there")

N, T, OUTPUTS, SYMBOLS, WIDTH = 37, 6, 4, 5, 3


def made(u):
    """Examples of floats from uniforms (n, T * WIDTH + 1): numbers at the end."""
    x = u[:, :-1].reshape(-1, T, WIDTH).astype(np.float32)
    return Examples(x, (x.mean((1, 2)) + u[:, -1])[:, None].repeat(OUTPUTS, 1).astype(np.float32))


def made_words(u):
    """Words of 1 to T symbols from uniforms (n, 1 + T): the last one is the class."""
    lengths = 1 + (u[:, 0] * T).astype(np.int64)
    tokens = (u[:, 1:] * (OUTPUTS - 1)).astype(np.int16)
    return Examples(tokens, tokens[np.arange(len(u)), lengths - 1].astype(np.int64), lengths)


def task_of(kind: str, lengths: bool = False, weighted: bool = False) -> Task:
    """A small task of random examples; `lengths`: of several lengths; `weighted`: classes count unequally."""
    rng = np.random.RandomState(1)
    x = {
        "bytes": rng.randint(0, 256, (N, T, WIDTH)).astype(np.uint8),
        "floats": rng.randn(N, T, WIDTH).astype(np.float32),
        "symbols": rng.randint(0, SYMBOLS, (N, T)).astype(np.int16),
        "keys": rng.randint(0, 2, (N, T + 1, OUTPUTS)).astype(np.uint8),
    }
    numbers = rng.randn(N, T, OUTPUTS).astype(np.float32)
    classes = rng.randint(0, OUTPUTS, (N, T))
    some = np.where(np.arange(N)[:, None] * 5 % (3 + np.arange(T)) < 2, classes, -1)
    some[:, 0], some[:, 2] = classes[:, 0], -1  # at the first step all are asked, at the third none
    inputs, targets, goal = {
        "images": (x["bytes"], classes[:, 0], Goal.label),
        "own classes": (x["floats"], classes[:, 0], Goal.label),
        "own classes at every step": (x["floats"], classes, Goal.labels),
        "own classes at some steps": (x["floats"], some, Goal.labels),
        "own numbers": (x["floats"], numbers[:, 0], Goal.value),
        "own numbers at every step": (x["floats"], numbers, Goal.values),
        "words": (x["symbols"], classes[:, 0], Goal.label),
        "music": (x["keys"][:, :-1], x["keys"][:, 1:], Goal.keys),
        "text": (x["symbols"].astype(np.int32), classes, Goal.labels),
        "made numbers": (made(rng.rand(N, T * WIDTH + 1)).inputs, numbers[:, 0], Goal.value),
        "made words": (x["symbols"] % (OUTPUTS - 1), classes[:, 0], Goal.label),
    }[kind]
    task = Task(
        inputs=inputs,
        targets=targets,
        splits={"train": np.arange(N - 2), "val": np.arange(N), "test": np.arange(N // 2)},
        scale=1 / 255 if kind == "images" else 1.0,
        mean=0.3 if kind == "images" else 0.0,
        std=0.6 if kind == "images" else 1.0,
        outputs=OUTPUTS,
        checksum="made-up",
        details={},
        goal=goal,
        tokens=SYMBOLS if inputs.ndim == 2 else None,
        carried=kind == "text",
    )
    if weighted:
        task = replace(task, weights=np.array([0.2, 3.0, 1.0, 0.7]))
    if kind.startswith("made"):
        words = kind == "made words"
        task = replace(task, make=made_words if words else made, draws=1 + T * (1 if words else WIDTH))
        lengths = words
    if kind == "text":  # the last window of each part may be shorter
        return replace(task, lengths=np.where(np.arange(N) % 18 == 17, 2, T))
    return replace(task, lengths=rng.randint(1, T + 1, N)) if lengths else task


KINDS = [
    *("images", "own classes", "own classes at every step", "own numbers", "own numbers at every step"),
    *("own classes at some steps", "words", "music", "text", "made numbers", "made words"),
]
OPTIONS = {
    "plain": {},
    "several lengths": {},
    "bidirectional": {"model__bidirectional": True},
    "two layers": {"model__num_layers": 2},
    "mean": {"model__readout": Readout.mean},
    "learned state": {"model__learned_state": True},
    "dropout": {"model__num_layers": 2, "model__dropout": 0.4},
    "weight noise": {"model__weight_noise": 0.05},
    "all": {
        "model__num_layers": 2,
        "model__bidirectional": True,
        "model__dropout": 0.4,
        "model__learned_state": True,
        "model__weight_noise": 0.05,
    },
}


# Options that change the graph of a step, so that kernels are compiled for them.
IN_THE_STEP = {
    "recurrent dropout": {"model__recurrent_dropout": 0.3},
    "zoneout": {"model__zoneout": 0.2, "model__bidirectional": True},
    "layer norm": {"model__layer_norm": True},
}


def of(option: str, kind: str):
    """The task, and the changes of a configuration, of an option."""
    changes = dict((OPTIONS | IN_THE_STEP).get(option, {}))
    if kind == "text":
        changes.pop("model__bidirectional", None)
    lengths = option in ("several lengths", "mean", "bidirectional", "all", "zoneout")
    return task_of(kind, lengths, option == "class weights"), changes


def configs_of(cell: str, changes: dict, seeds=(0, 1), **more):
    optim = Sgd(lr=0.005, momentum=0.5)
    return [
        make_config(cell, seed, optim=optim, fit__batch_size=10, fit__clip=1.0, **changes, **more)
        for seed in seeds
    ]


def trained(configs, task, compute, epochs=1):
    """The stack after some epochs, and their metrics."""
    stack = Stack(configs[0], task)
    stack.compute = stack.evaluation.compute = compute
    stack.admit([stack.fresh(config) for config in configs])
    found = []
    for report in stack.epochs():
        found.append(report.metrics)
        if len(found) == epochs:
            break
    return stack, found


def torch_path(config, task):
    config.fit.kernel, kernel = Kernel.torch, config.fit.kernel
    compute = make_compute(config, task)
    config.fit.kernel = kernel
    return compute


def agree(cell: str, option: str, kind: str, epochs: int, kernels=CompiledCompute, few=None, **more) -> None:
    """Train on both paths, on so many examples or all; parameters, metrics and evaluations agree."""
    task, changes = of(option, kind)
    task.splits.update({name: index[:few] for name, index in task.splits.items()})
    configs = configs_of(cell, changes | more)
    assert reason(configs[0]) is None
    if kind == "made words":
        task.splits["train"] = np.arange(0)
        for config in configs:
            config.fit.steps_per_epoch = 2 if few else 4
    ours, metrics = trained(configs, task, kernels(configs[0], task), epochs)
    theirs, expected = trained(configs, task, torch_path(configs[0], task), epochs)
    # Where the products hardly vary over their rows, layer_norm divides rounding errors by almost 0.
    norm = 1e-3 if configs[0].model.layer_norm else 1e-5
    for epoch, other in zip(metrics, expected, strict=True):
        for one, two in zip(epoch, other, strict=True):
            assert one.pop("grad_norm") == pytest.approx(two.pop("grad_norm"), rel=norm)
            assert one == pytest.approx(two, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(ours.state["parameters"], theirs.state["parameters"], atol=1e-5, rtol=1e-5)
    for split in ("train", "test"):
        index = theirs.splits[split]
        if len(index):
            one, two = (
                stack.compute.evaluate(theirs.state["parameters"], index, lambda: None)
                for stack in (ours, theirs)
            )
            for part, other in zip(one, two, strict=True):
                torch.testing.assert_close(part.double(), other.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("option, kind", crossed([*OPTIONS], KINDS))
def test_a_task_trains_as_on_the_torch_path(option, kind):
    agree("lstm", option, kind, epochs=2)


def lying(values, how):
    """The same values, stored in another way."""
    if how == "reversed":
        return values[::-1].copy()[::-1]
    if how == "big-endian":
        return values.astype(values.dtype.newbyteorder(">"))
    if how == "double":
        return values.astype(np.float64)
    record = np.zeros(len(values), [("values", values.dtype, values.shape[1:]), ("more", "u1")])
    record["values"] = values  # a field of a packed record: examples are no whole number of floats apart
    return record["values"]


@pytest.mark.parametrize("how", ["packed", "reversed", "big-endian", "double", "overlapping"])
@pytest.mark.parametrize("path", [CompiledCompute, torch_path])
def test_how_an_array_lies_in_memory_changes_nothing(how, path):
    task = task_of("own numbers")
    if how == "overlapping":
        series = task.inputs[:, 0]
        windows = np.lib.stride_tricks.sliding_window_view(series, (T, WIDTH))[:, 0]
        task = replace(task, splits=dict.fromkeys(task.splits, np.arange(len(windows))))
        other = replace(task, inputs=windows, targets=task.targets[: len(windows)])
        task = replace(other, inputs=windows.copy())
    else:
        other = replace(task, inputs=lying(task.inputs, how), targets=lying(task.targets, how))
    configs = configs_of("gru", {})
    one, two = (
        trained(configs, each, path(configs[0], each))[0].state["parameters"] for each in (task, other)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["own classes", "own classes at some steps"])
def test_classes_count_by_their_weights_as_on_the_torch_path(kind):
    agree("gru", "class weights", kind, epochs=2)


@pytest.mark.parametrize("number, cell", [*enumerate(CELLS)])
def test_a_cell_trains_as_on_the_torch_path(number, cell):
    """Each cell, each with an option and a kind of task that others do not have."""
    agree(cell, [*OPTIONS][number % len(OPTIONS)], KINDS[number % len(KINDS)], epochs=2)


@pytest.mark.parametrize(
    "order, option, kind",
    [
        *((1, "all", "own numbers at every step"), (3, "learned state", "text"), (40, "plain", "images")),
        *((40, "bidirectional", "own classes"), (9, "weight noise", "made words")),
        *(
            pytest.param(9, option, "words", marks=pytest.mark.slow)
            for option in IN_THE_STEP
            if option != "zoneout"
        ),
    ],
)
def test_a_memory_of_any_size_trains_as_on_the_torch_path(order, option, kind):
    agree("lmu", option, kind, epochs=2, model__order=order)


@pytest.mark.parametrize("option", IN_THE_STEP)
def test_options_of_a_step_train_as_on_the_torch_path(option):
    for kind in ("own numbers at every step", "made words", "text"):
        agree("gru", option, kind, epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS | IN_THE_STEP)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_with_every_option_trains_on_every_task_as_on_the_torch_path(cell, option):
    if option in IN_THE_STEP and not CELLS[cell].recurrent and option != "layer norm":
        pytest.skip("the cell has no such option")
    # layer_norm of a state near 0 multiplies rounding errors by up to 300 a step, on both paths.
    epochs = 1 if option == "layer norm" else 13  # 4 or 52 updates
    for kind in KINDS:
        agree(cell, option, kind, epochs)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), option=st.sampled_from([*OPTIONS, *IN_THE_STEP]), K=st.integers(2, 5),
    threads=st.integers(1, 4), B=st.sampled_from([3, 35, 70]), seconds=st.sampled_from([1e-9, 10.0]),
    room=st.sampled_from([1, feed.ROOM]),
)  # fmt: skip
def test_a_trial_is_bit_for_bit_the_same_whatever_the_stack_the_threads_and_the_calls(
    kind, option, K, threads, B, seconds, room
):
    task, changes = of(option, kind)
    repeated = np.concatenate([task.splits["train"]] * 3)
    task.splits.update(train=repeated, test=repeated)
    configs = configs_of("gru", changes, seeds=[0, *range(K - 1)])
    for config in configs:
        config.fit.batch_size = B
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "CALL_SECONDS", seconds)
        patch.setattr(compiled, "ROOM", room)
        patch.setattr(feed, "ROOM", room)
        stack, metrics = trained(configs, task, CompiledCompute(configs[0], task, threads=threads))
        index = stack.splits["test"]
        together = stack.compute.evaluate(stack.state["parameters"], index)
    for k in {1, K - 1}:
        alone, own = trained([configs[k]], task, CompiledCompute(configs[k], task, threads=1))
        assert own[0][0] == metrics[0][k]
        for column, rows in alone.state.items():
            assert torch.equal(rows[0], stack.state[column][k]), column
        theirs = alone.compute.evaluate(alone.state["parameters"], index)
        for ours, other in zip(theirs, together, strict=True):
            assert torch.equal(ours[0], other[k])


def test_trials_with_equal_seeds_share_the_examples_that_are_made(monkeypatch):
    """However many trials there are, each example is made once, and it is that of the torch path."""
    task = task_of("made numbers")
    asked = []

    def counting(u):
        asked.append(len(u))
        return made(u)

    configs = configs_of("rnn", {}, seeds=[3, 3, 3, 4])
    compute = CompiledCompute(configs[0], replace(task, make=counting))
    order = torch.arange(20).expand(4, -1)
    examples, places = compute.maker.make(order, torch.tensor([3, 3, 3, 4]))
    assert asked == [2 * 20]
    assert torch.equal(places[0], places[2])
    batch = torch_path(configs[0], task).batches.made(order, torch.tensor([3, 3, 3, 4]))
    for k in range(4):
        assert np.array_equal(examples.inputs[places[k]], batch.x[k].permute(2, 0, 1).numpy())
        assert np.array_equal(examples.targets[places[k]], batch.y[k].T.numpy())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**62), numbers=st.lists(st.integers(0, 2**62), min_size=1, max_size=5))
def test_uniforms_of_the_kernels_are_those_of_the_tasks(seed, numbers):
    compute = CompiledCompute(configs_of("rnn", {})[0], task_of("made numbers"))
    pair = np.full(len(numbers), seed), np.array(numbers)
    assert np.array_equal(compute.maker.uniforms(*pair), uniforms(pair[0], TRAIN, pair[1], 1 + T * WIDTH))
