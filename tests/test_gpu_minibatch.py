"""Laws of a minibatch on a GPU, in Triton's interpreter: loss and gradient are those of the torch path."""

from dataclasses import replace

import pytest
import torch
from conftest import sampled
from test_compiled_tasks import KINDS, configs_of, of
from triton.runtime.interpreter import GridExecutor

from rnnbench.config import Config, Kernel, Model
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu import choice
from rnnbench.kernels.gpu.layer import BYTES, FLOATS, SYMBOLS
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.torch_path import TorchCompute
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal, Task
from rnnbench.train.stack import Stack

STORED = [kind for kind in KINDS if not kind.startswith("made")]
CASES = [("gru", "bidirectional", kind) for kind in STORED] + [
    ("lstm", "several lengths", "own classes at every step"),
    ("lstm", "mean", "words"),
    ("lstm", "all", "text"),
    ("gru", "zoneout", "music"),
    ("rnn", "layer norm", "images"),
]
QUICK = (  # one of each kind of input, and of each cell
    ("gru", "bidirectional", "text"),
    ("lstm", "several lengths", "own classes at every step"),
    ("rnn", "layer norm", "images"),
)


def examples(task: Task) -> Examples:
    """The examples of a task as the kernels read them."""
    kind = SYMBOLS if task.tokens is not None else BYTES if task.inputs.dtype.name == "uint8" else FLOATS
    inputs, targets = (torch.from_numpy(part).contiguous() for part in (task.inputs, task.targets))
    lengths = None if task.lengths is None else torch.from_numpy(task.lengths)
    numbers = inputs.int() if kind == SYMBOLS else inputs
    return Examples(kind, numbers, targets, lengths, task.scale / task.std, -task.mean / task.std)


def minibatch(config: Config, task: Task, K: int, B: int) -> Minibatch:
    graph = libraries.graph(config.model)
    assert isinstance(graph, Graph)
    network = Network(config.model, task.input_size, task.outputs, task.goal.every_step)
    return Minibatch(network, task.goal, graph, examples(task), K=K, B=B, carried=task.carried)


@pytest.mark.parametrize("case", sampled(CASES, QUICK), ids="-".join)
def test_a_minibatch_is_that_of_the_torch_path(case: tuple[str, str, str]) -> None:
    cell, option, kind = case
    task, changes = of(option, kind)
    changes = {
        name: value for name, value in changes.items() if "noise" not in name and "dropout" not in name
    }
    changes.pop("model__zoneout", None)
    configs = configs_of(cell, changes, fit__kernel=Kernel.torch)
    stack = Stack(configs[0], task)
    stack.admit([stack.fresh(config) for config in configs])
    stack.state["clip"].fill_(float("inf"))
    reference = stack.compute
    assert isinstance(reference, TorchCompute)
    index = torch.randint(len(task.inputs), (2, 20), generator=torch.Generator().manual_seed(0))
    gradients = []
    reference.update = lambda state, parameters, gradient: gradients.append(gradient.clone())
    sums, _ = reference.step(stack.state, index, stack._noise())
    ours = minibatch(configs[0], task, 2, 23)
    ours.index[:, :20] = index  # three have no example
    ours.parameters.copy_(stack.state["parameters"])
    ours.run()
    assert torch.allclose(ours.gradient, gradients[0], rtol=1e-5, atol=1e-5 * float(gradients[0].abs().max()))
    assert torch.allclose(ours.sums, sums.double(), rtol=1e-5)
    alone = minibatch(configs[0], task, 1, 23)
    alone.index.copy_(ours.index[1:])
    alone.parameters.copy_(ours.parameters[1:])
    alone.run()
    assert torch.equal(alone.gradient[0], ours.gradient[1])
    assert torch.equal(alone.sums[0], ours.sums[1])


@pytest.mark.parametrize("largest", [choice.ON_CHIP, 0], ids=["on the chip", "tiled"])
def test_where_an_array_begins_does_not_depend_on_the_size_of_the_stack(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton compiles other code for other alignments, which may add up in another order."""
    monkeypatch.setattr(choice, "ON_CHIP", largest)
    model = Model("lstm", hidden_size=3, bidirectional=True, learned_state=True)
    noisy = replace(model, recurrent_dropout=0.2, zoneout=0.5)
    stored = Examples(FLOATS, torch.zeros(9, 2, 3), torch.zeros(9, dtype=torch.int64), torch.full((9,), 2))
    graph = libraries.graph(noisy)
    assert isinstance(graph, Graph)
    launch = GridExecutor.__call__

    def begins(K: int) -> list[int]:
        found: list[int] = []

        def record(self: GridExecutor, *args: object, **named: object) -> None:
            given = [*args, *named.values()]
            found.extend(array.storage_offset() for array in given if isinstance(array, torch.Tensor))
            launch(self, *args, **named)

        monkeypatch.setattr(GridExecutor, "__call__", record)
        whole = Minibatch(Network(noisy, 3, 4), Goal.label, graph, stored, K=K, B=1)
        whole.run()
        return found

    assert begins(1) == begins(2)
