"""Laws of the compiled kernels: they compute what torch does, bit for bit the same whatever runs beside."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config, models, quick_compiler, small_task
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import Adam, AdamW, ConfigError, Kernel, Model, Nonlinearity, RMSprop, Sgd
from rnnbench.kernels import choose, compiled, kernel_name, libraries, make_compute, slower
from rnnbench.kernels.compiled import CompiledCompute, instruction_sets
from rnnbench.nn.cells import Cell, register_cell
from rnnbench.nn.network import to_torch
from rnnbench.tasks import Task
from rnnbench.train.stack import Stack

PACKAGE = Path(__file__).parents[1] / "rnnbench"
COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
SETS = instruction_sets()
needs_kernels = pytest.mark.skipif(not SETS, reason="no compiled kernels: no C compiler was there")
each_set = pytest.mark.parametrize("instructions", SETS or [pytest.param("none", marks=needs_kernels)])

OPTIMISERS = [
    Sgd(lr=0.1, momentum=0.9, weight_decay=0.01),
    Sgd(lr=0.1, momentum=0.5, nesterov=True),
    Adam(lr=0.01, weight_decay=0.01),
    AdamW(lr=0.01),
    RMSprop(lr=0.001, momentum=0.5),
]


def task_of(examples: int, T: int, width: int, classes: int) -> Task:
    """Random bytes, all of them for training; half of them are also the test set."""
    rng = np.random.RandomState(0)
    inputs = rng.randint(0, 256, (examples, T, width)).astype(np.uint8)
    splits = {
        "train": np.arange(examples),
        "val": np.arange(examples),
        "test": np.arange((examples + 1) // 2),
    }
    return Task(
        inputs, rng.randint(0, classes, examples), splits,
        scale=1 / 255, mean=0.3, std=0.6, outputs=classes, checksum="made-up", details={},
    )  # fmt: skip


def evaluated(stack, parameters, split):
    """Loss, accuracy and predictions of parameters (k, P), as the stack's kernel computes them."""
    return stack.compute.evaluate(parameters, stack.splits[split], stack.poll)


def trained(configs, task, compute):
    """The stack after an epoch, and the epoch's metrics."""
    stack = Stack(configs[0], task)
    stack.compute = compute
    stack.admit([stack.fresh(config) for config in configs])
    return stack, next(stack.epochs()).metrics


def torch_path(config, task):
    config.fit.kernel, kernel = Kernel.torch, config.fit.kernel
    compute = make_compute(config, task)
    config.fit.kernel = kernel
    return compute


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_where_a_compiler_is_the_kernels_are_there():
    assert SETS, "build them: pip install -e . or python -m rnnbench.kernels.build"
    assert SETS[-1] == "baseline"


@each_set
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_step_is_that_of_the_torch_path(instructions, data):
    """Outputs, loss, gradient, norm and optimiser, for any shape; tails of vectors, blocks and chunks."""
    model = data.draw(models(40))
    if model.name == "rnn":
        model.nonlinearity = data.draw(st.sampled_from(Nonlinearity))
    model.dropout = 0.4 if model.num_layers > 1 and data.draw(st.booleans()) else 0.0
    optim = data.draw(st.sampled_from(OPTIMISERS))
    B = data.draw(st.sampled_from([1, 2, 15, 16, 17, 40, 64, 65, 150]))
    task = task_of(
        B, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    )
    clip = data.draw(st.sampled_from([None, 0.1, 5.0]))
    configs = [
        make_config(model.name, seed, optim=optim, fit__batch_size=B, fit__clip=clip) for seed in range(2)
    ]
    for config in configs:
        config.model = model
    ours, metrics = trained(configs, task, CompiledCompute(configs[0], task, instructions))
    theirs, expected = trained(configs, task, torch_path(configs[0], task))
    for one, other in zip(metrics, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    # The gradient is compared where it is not rescaled: Adam turns a rounding error of a gradient near
    # 0 into a step of the size of the learning rate.
    if isinstance(optim, Sgd):
        torch.testing.assert_close(ours.state["velocity"], theirs.state["velocity"], atol=2e-6, rtol=2e-5)
        torch.testing.assert_close(ours.state["parameters"], theirs.state["parameters"], atol=1e-6, rtol=1e-5)
    for split in ("train", "test"):
        same = theirs.state["parameters"]
        for one, other in zip(evaluated(ours, same, split), evaluated(theirs, same, split), strict=True):
            torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-5)


@each_set
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "relu"])
def test_gradients_are_those_of_torch_in_float64(kind, instructions):
    """One step of plain SGD at a learning rate of 1 takes exactly the gradient away."""
    model = Model("rnn" if kind == "relu" else kind, 20, 2, bidirectional=True)
    model.nonlinearity = Nonlinearity.relu if kind == "relu" else Nonlinearity.tanh
    task = task_of(70, 9, 11, 5)
    config = make_config(model.name, 3, optim=Sgd(lr=1.0, momentum=0.0), fit__batch_size=70)
    config.model = model
    compute = CompiledCompute(config, task, instructions)
    start = compute.network.start(3)
    stack, metrics = trained([config], task, compute)
    module = to_torch(compute.network, start[0]).double()
    x = (torch.from_numpy(task.inputs).double() / 255 - task.mean) / task.std
    loss = torch.nn.functional.cross_entropy(module(x), torch.from_numpy(task.targets))
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in module.parameters()]
    torch.testing.assert_close(
        (start - stack.state["parameters"])[0].double(), torch.cat(gradients), atol=1e-6, rtol=0
    )
    assert metrics[0]["train/loss"] == pytest.approx(loss.item(), abs=1e-6)


@each_set
@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["lstm", "gru", "rnn"]), optim=st.sampled_from(OPTIMISERS), K=st.integers(2, 7),
    threads=st.integers(1, 5), B=st.sampled_from([3, 64, 130, 200]), dropout=st.sampled_from([0.0, 0.5]),
    seconds=st.sampled_from([1e-9, 10.0]),
)  # fmt: skip
def test_a_trial_is_bit_for_bit_the_same_whatever_the_stack_the_threads_and_the_calls(
    instructions, name, optim, K, threads, B, dropout, seconds
):
    task = task_of(210, 4, 6, 5)
    configs = [
        make_config(name, seed, optim=optim, fit__batch_size=B, model__num_layers=2, model__dropout=dropout)
        for seed in range(K)
    ]
    before, compiled.CALL_SECONDS = compiled.CALL_SECONDS, seconds
    try:
        stack, metrics = trained(configs, task, CompiledCompute(configs[0], task, instructions, threads))
    finally:
        compiled.CALL_SECONDS = before
    together = evaluated(stack, stack.state["parameters"], "test")
    for k in {0, K - 1}:
        alone, own = trained([configs[k]], task, CompiledCompute(configs[k], task, instructions, 1))
        assert own[0] == metrics[k]
        for column, rows in alone.state.items():
            assert torch.equal(rows[0], stack.state[column][k]), column
        for ours, theirs in zip(evaluated(alone, alone.state["parameters"], "test"), together, strict=True):
            assert torch.equal(ours[0], theirs[k])


@each_set
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_large_inputs_give_no_nan(name, instructions):
    task = task_of(20, 5, 3, 4)
    task = Task(task.inputs, task.targets, task.splits, scale=1e4, outputs=4, checksum="made-up", details={})
    config = make_config(name, optim=Sgd(lr=1e-3), fit__batch_size=20)
    stack, metrics = trained([config], task, CompiledCompute(config, task, instructions))
    assert all(np.isfinite(value) for value in metrics[0].values())
    assert stack.state["parameters"].isfinite().all()


@each_set
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_nan_and_inf_are_seen_and_stay_in_their_trial(name, wrong, instructions):
    """The compiler was told nothing that lets it forget them."""
    task = task_of(50, 4, 3, 4)
    config = make_config(name, fit__batch_size=50)
    compute = CompiledCompute(config, task, instructions)
    stack = Stack(config, task)
    stack.compute = compute
    stack.admit([stack.fresh(make_config(name, seed, fit__batch_size=50)) for seed in range(3)])
    head = stack.network.views(stack.state["parameters"])["head.bias"]
    head[1, 0] = wrong
    report = next(stack.epochs())
    finite = [bool(np.isfinite(metrics["train/loss"])) for metrics in report.metrics]
    assert finite == [True, False, True]
    assert [slot.diverged for slot in report.slots] == [False, True, False]
    assert stack.state["parameters"][[0, 2]].isfinite().all()


@needs_kernels
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.02, 0.1, 1.0, 1e30])
def test_tanh_and_cross_entropy_are_accurate_for_inputs_of_any_size(scale):
    """One recurrent unit whose input is the value x, and logits -tanh(x), 0 of classes 0, 1."""
    values = np.arange(256, dtype=np.uint8).reshape(256, 1, 1)
    splits = {"train": np.arange(256), "val": np.arange(0), "test": np.arange(256)}
    task = Task(
        values,
        np.zeros(256, np.int64),
        splits,
        scale=scale,
        mean=127.5 * scale,
        outputs=2,
        checksum="made-up",
        details={},
    )
    compute = CompiledCompute(make_config("rnn", model__hidden_size=1), task)
    parameters = torch.zeros(1, compute.network.count())
    weights = compute.network.views(parameters)
    weights["rnn.weight_ih_l0"][:] = 1.0
    weights["head.weight"][0, 0] = -1.0
    x = torch.from_numpy((values.astype(np.float32) - 127.5) * np.float32(scale)).double()
    for n in (0, 40, 100, 127, 128, 200, 255):
        loss, _, _ = compute.evaluate(parameters, torch.tensor([n]))
        expected = torch.nn.functional.softplus(torch.tanh(x[n])).item()
        assert loss.item() == pytest.approx(expected, abs=3e-7)


@needs_kernels
def test_the_library_leaves_the_arithmetic_of_the_process_alone():
    """Numbers below 1e-38 count as 0 during a call only; gcc's -ffast-math would make that so for ever."""
    tiny = np.array([1e-40], np.float32)
    task = task_of(20, 3, 3, 4)
    config = make_config("lstm", fit__batch_size=20)
    trained([config], task, CompiledCompute(config, task, threads=2))
    assert (tiny * np.float32(0.5) > 0).all()
    assert (torch.from_numpy(tiny) * 0.5 > 0).all()


@needs_kernels
def test_memory_that_cannot_be_had_is_an_error_and_changes_nothing():
    with pytest.raises(MemoryError):
        compiled.check(12)
    task = small_task()
    compute = CompiledCompute(make_config("lstm"), task)
    compute.shape.outputs = 2**40  # more than any machine has
    parameters = torch.zeros(1, compute.network.count())
    with pytest.raises(MemoryError):
        compute.evaluate(parameters, torch.arange(3))


def test_auto_takes_the_compiled_kernels_where_they_serve():
    config = make_config("gru")
    assert choose(config) is (Kernel.compiled if SETS else Kernel.torch)
    assert kernel_name(config) == (f"compiled {SETS[0]}" if SETS else "torch")
    config.fit.device = "cuda"  # kernels are generated for it, too
    assert choose(config) is Kernel.compiled
    config.fit.device, config.fit.kernel = "cpu", Kernel.torch
    assert kernel_name(config) == "torch"
    assert slower(config) is None


@pytest.mark.parametrize("changes", [{"model__name": "mgu"}, {"model__layer_norm": True}])
def test_cudnn_is_refused_without_the_equations(changes):
    config = make_config(fit__kernel=Kernel.cudnn, fit__device="cuda", **changes)
    with pytest.raises(ConfigError, match=r"fit.kernel=cudnn: .*fit.kernel=auto"):
        choose(config)


@register_cell("sorting")
class Sorting(Cell):
    """A step with an operation that has no kernel."""

    def step(self, a, state, layer):
        return (layer.recurrent(state[0], a).tanh().sort(1).values,)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "sorting"}, r"model=sorting: .*test_kernels.py: step uses aten.sort, which has no kernel"),
        ({"optim": Sgd(name="lion")}, "optim=lion updates in Python"),
    ],
)
def test_what_compiled_kernels_do_not_have_trains_on_the_torch_path_and_is_said_in_one_line(changes, words):
    config = make_config(**changes)
    assert choose(config) is Kernel.torch
    assert re.match(f"{words}: training on the slower torch path$", str(slower(config)))
    config.fit.kernel = Kernel.compiled
    with pytest.raises(ConfigError, match=f"fit.kernel=compiled: {words}; take fit.kernel=auto"):
        choose(config)


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    """As installed without a C compiler, by a user for whom nothing was compiled yet."""
    monkeypatch.setattr(libraries, "LIBRARY", tmp_path / "stack.so")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for remembers in (libraries.library, libraries._find):
        remembers.cache_clear()
    yield
    for remembers in (libraries.library, libraries._find):
        remembers.cache_clear()


@pytest.mark.parametrize("where", ["CC", "PATH"])
def test_without_a_compiler_one_line_says_so_and_asking_for_kernels_is_refused(
    where, nothing_built, monkeypatch
):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    if where == "PATH":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", "/nowhere")
    config = make_config("gru")
    assert choose(config) is Kernel.torch
    assert re.match(r"model=gru: no compiled kernels \(.*C compiler.*torch path$", str(slower(config)))
    config.fit.kernel = Kernel.compiled
    with pytest.raises(ConfigError, match=r"fit.kernel=compiled: model=gru: no compiled kernels \(.*; take"):
        choose(config)


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("there", [None, "of another machine"])
def test_what_the_package_lacks_is_compiled_at_first_use(there, nothing_built, capfd):
    """The line on the terminal is shown once; what a compiler that fails says is the reason."""
    if there:
        libraries.LIBRARY.write_text(there)
    config = make_config("gru")
    assert choose(config) is Kernel.compiled
    assert capfd.readouterr().out == "building kernels for model=gru (first use, about 5 s)\n"
    libraries._find.cache_clear()
    assert kernel_name(config).startswith("compiled ")
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_a_compiler_that_fails_is_the_reason(nothing_built, monkeypatch, tmp_path):
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho In file x: >&2\necho error: the disk is full >&2\nexit 1")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    assert "no compiled kernels (error: the disk is full)" in str(slower(make_config("gru")))


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, its library left out; commands that run it."""
    shutil.copytree(PACKAGE, tmp_path / "rnnbench", ignore=shutil.ignore_patterns("__pycache__", "stack.so"))
    shutil.copytree(PACKAGE.parent / "conf", tmp_path / "conf")
    for steps in (tmp_path / "rnnbench/kernels/generator/steps").iterdir():
        if steps.name != "lstm.txt":  # one cell is compiled in a fraction of the time
            steps.unlink()

    compiler = quick_compiler(tmp_path)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONPATH": str(tmp_path)} | compiler | environment
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return run


def test_without_a_compiler_the_command_works_and_says_what_is_missing(copy):
    built = copy("-m", "rnnbench.kernels.build", PATH="/nowhere", CC="no-such-compiler")
    assert built.returncode == 1
    assert built.stderr.startswith("no-such-compiler: ")
    done = copy(
        "-m", "rnnbench", "tracking=none", "fit.epochs=1", "data.train_size=32", CC="no-such-compiler"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no compiled kernels") == 1


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_a_library_of_other_sources_is_not_used(copy, tmp_path):
    assert copy("-m", "rnnbench.kernels.build").returncode == 0
    ask = ("-c", "from rnnbench.kernels.compiled import instruction_sets; print(*instruction_sets())")
    assert copy(*ask).stdout.split()[-1] == "baseline"
    with open(tmp_path / "rnnbench/kernels/native/network.h", "a") as file:
        file.write("// changed\n")
    assert copy(*ask).stdout.split() == []
