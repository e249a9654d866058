"""Times training on each kind of data, beside a loop of torch.nn over tensors in memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rnnbench.bench.harness import adapting, stack_of, training
from rnnbench.bench.measure import in_turn, spread
from rnnbench.config import Adam, Config, Data, Fit, Kernel, Model, Tracking
from rnnbench.kernels import choose
from rnnbench.kernels.compiled import cores
from rnnbench.nn.cells import Cell, Layer, State, register_cell
from rnnbench.tasks import Goal, Task, load
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.generated import TRAIN, uniforms
from rnnbench.tasks.languages import Language
from rnnbench.tasks.music import KEYS, Music
from rnnbench.tasks.sequences import Images
from rnnbench.tasks.synthetic import Generated
from rnnbench.tasks.text import Text

HIDDEN, BATCH = 32, 32
EXAMPLES = 2048  # in memory; a measurement goes through them once at most


@register_cell("leaky")
class Leaky(Cell):
    """The cell that the README adds, beside a loop of nn.LSTM; its kernel is built as one's own is."""

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,) = state
        return (0.9 * h + 0.1 * layer.recurrent(h, a).tanh(),)


@dataclass
class DataRow:
    """Keeps, for each round, the minibatches of a trial a second, and their ratio to the loop's."""

    data: str
    model: str
    kernel: str
    K: int
    rates: list[float]
    ratios: list[float]

    @property
    def cells(self) -> list[str]:
        """Return the cells of a row of the printed table."""
        return [
            self.data,
            self.model,
            self.kernel,
            str(self.K),
            spread(self.rates, 0),
            spread(self.ratios, 1),
        ]


def data_rows(kinds: Sequence[str], stacks: Sequence[int], rounds: int) -> Iterator[DataRow]:
    """Measure lstm and gru on each kind of data: the loop, a trial on the torch path, stacks, in turn.

    On series, as one's own arrays are, also a cell of one's own.
    Of the loop, with all cores and with one thread, and with symbols as stored one-hot vectors and looked up,
    the fastest counts in each round.
    """
    for kind in kinds:
        data, task = KINDS[kind]()
        for model in ("lstm", "gru", "leaky") if kind == "series" else ("lstm", "gru"):
            ways = (False, True) if task.tokens else (False,)
            loops = [loop(task, model, n, lookup) for n in sorted({cores(), 1}) for lookup in ways]
            config = configured(data, model)
            cases = [(replace(config, fit=replace(config.fit, kernel=Kernel.torch)), 1)]
            cases += [(config, K) for K in stacks if K > 1 or choose(config) is not Kernel.torch]
            figures = in_turn([*loops, *(harness(case, task, K) for case, K in cases)], rounds)
            fastest = [min(each) for each in zip(*figures[: len(loops)], strict=True)]
            yield DataRow(kind, model, "loop", 1, [1 / s for s in fastest], [1.0] * rounds)
            for (case, K), own in zip(cases, figures[len(loops) :], strict=True):
                ratios = [theirs / mine for theirs, mine in zip(fastest, own, strict=True)]
                yield DataRow(kind, model, choose(case).value, K, [1 / s for s in own], ratios)


def configured(data: Data, model: str) -> Config:
    """Return the configuration of one layer on the kernels that are chosen for it."""
    return Config(Model(model, HIDDEN), Adam(), data, Fit(batch_size=BATCH), Tracking())


def harness(config: Config, task: Task, K: int) -> Callable[[], float]:
    """Time training in a stack of K, in seconds a minibatch and trial."""
    stack = stack_of(config, task, K)

    def measure(minibatches: int) -> float:
        parts = [torch.stack([part] * K) for part in orders(task, minibatches)]
        return training(stack, parts) / minibatches / K

    return adapting(measure)


def orders(task: Task, minibatches: int) -> list[Tensor]:
    """Order the examples of so many minibatches, in passes through all examples.

    Windows of a text follow each other; other examples are shuffled.
    """
    passes = []
    while minibatches > 0:
        count = min(minibatches, EXAMPLES // BATCH)
        windows = torch.arange(EXAMPLES).view(BATCH, -1).T.flatten()
        passes.append((windows if task.carried else torch.randperm(EXAMPLES))[: count * BATCH])
        minibatches -= count
    return passes


class Loop(nn.Module):
    """A layer of torch.nn and a linear head; x (B, T, input), or symbols (B, T) that are looked up."""

    def __init__(self, task: Task, model: str) -> None:
        super().__init__()
        self.task = task
        self.rnn = (nn.GRU if model == "gru" else nn.LSTM)(task.input_size, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, task.outputs)
        self.one_hot = torch.eye(task.tokens or 0)

    def forward(self, x: Tensor, y: Tensor, lengths: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Return the loss, and the state after the last step."""
        goal = self.task.goal
        h, state = self.rnn(x if x.dim() == 3 else self.one_hot[x], state)
        if not goal.every_step:
            last = h[:, -1] if lengths is None else h[torch.arange(len(h)), lengths - 1]
            logits = self.head(last)
            pair = functional.cross_entropy if goal is Goal.label else functional.mse_loss
            return pair(logits, y), state
        logits = self.head(h)
        if goal is Goal.labels:
            return functional.cross_entropy(logits.flatten(0, 1), y.flatten()), state
        loss = functional.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(2)
        assert lengths is not None
        counts = (torch.arange(loss.shape[1]) < lengths[:, None]).float()
        return (loss * counts).sum() / counts.sum(), state


def loop(task: Task, model: str, threads: int, lookup: bool) -> Callable[[], float]:
    """Time a loop of torch.nn, in seconds a minibatch.

    Args:
        threads: number of torch's threads.
        lookup: whether symbols are looked up in a table of one-hot vectors, rather than stored as these.
    """
    inputs, targets, lengths = tensors(task, lookup)
    network = Loop(task, model)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)

    def update(index: Tensor, state: Any) -> Any:
        x, y, n = inputs[index], targets[index], None if lengths is None else lengths[index]
        if n is not None and not task.carried:  # padding that no example of the minibatch needs is left out
            T = int(n.max())
            x, y = x[:, :T], y[:, :T] if task.goal.every_step else y
        loss, state = network(x, y, n, state)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()

    def measure(minibatches: int) -> float:
        torch.set_num_threads(threads)
        parts = orders(task, minibatches)
        started = time.perf_counter()
        for part in parts:
            state = None
            for index in part.split(BATCH):
                after = update(index, state)
                state = after if task.carried else None
        return (time.perf_counter() - started) / minibatches

    return adapting(measure)


def tensors(task: Task, lookup: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return inputs, targets and lengths in memory, of a task that makes its examples too."""
    examples: Any = task
    if task.make is not None:
        seeds = np.zeros(EXAMPLES, np.int64)
        examples = task.make(uniforms(seeds, TRAIN, np.arange(EXAMPLES), task.draws))
    inputs, targets = torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets)
    if task.tokens:
        x = inputs.long() if lookup else functional.one_hot(inputs.long(), task.tokens).float()
    else:
        x = (inputs.float() * task.scale - task.mean) / task.std if inputs.dtype == torch.uint8 else inputs
    y = targets.long() if task.goal in (Goal.label, Goal.labels) else targets.float()
    return x, y, None if examples.lengths is None else torch.from_numpy(examples.lengths)


def made_up(
    inputs: NDArray[Any], targets: NDArray[Any], outputs: int, scale: float = 1.0, **facts: Any
) -> Task:
    """Return a task of random examples in memory; the time does not depend on what they show."""
    everything = np.arange(EXAMPLES)
    splits = {"train": everything, "val": everything[:0], "test": everything[:0]}
    return Task(inputs, targets, splits, scale=scale, outputs=outputs, checksum="", details={}, **facts)


def images() -> tuple[Data, Task]:
    """Make rows of bytes, a label at the end."""
    rng = np.random.RandomState(0)
    x = rng.randint(0, 256, (EXAMPLES, 28, 28)).astype(np.uint8)
    return Images("mnist", val_size=0), made_up(x, rng.randint(0, 10, EXAMPLES), 10, 1 / 255)


def series() -> tuple[Data, Task]:
    """Make series of 5 to 20 steps of 6 numbers, a label at the end."""
    rng = np.random.RandomState(0)
    x, y = rng.randn(EXAMPLES, 20, 6).astype(np.float32), rng.randint(0, 4, EXAMPLES)
    return Arrays("npz", path=""), made_up(x, y, 4, lengths=rng.randint(5, 21, EXAMPLES))


def adding() -> tuple[Data, Task]:
    """Load the adding problem: two marked numbers of 50, made as training goes."""
    data = Generated("adding", metric="mse", steps=50, low=-1.0)
    return data, load(data)


def text() -> tuple[Data, Task]:
    """Make a text of 64 symbols in windows of 50, the next symbol at every step, the state carried on."""
    rng = np.random.RandomState(0)
    windows = rng.randint(0, 64, (2, EXAMPLES, 50)).astype(np.int16)
    task = made_up(windows[0], windows[1], 64, goal=Goal.labels, metric="bpc", tokens=64, carried=True)
    return Text("text", metric="bpc", path=""), task


def language() -> tuple[Data, Task]:
    """Load a language: words of 1 to 40 symbols out of 8, made as training goes, a label at the end."""
    data = Language("modular_arithmetic")
    return data, load(data)


def music() -> tuple[Data, Task]:
    """Make pieces of 30 to 60 steps of 88 keys, the keys of the next step at every step."""
    rng = np.random.RandomState(0)
    rolls = (rng.rand(EXAMPLES, 61, KEYS) < 0.05).astype(np.uint8)
    lengths = rng.randint(30, 61, EXAMPLES)
    task = made_up(rolls[:, :-1], rolls[:, 1:], KEYS, goal=Goal.keys, metric="nll", lengths=lengths)
    return Music("jsb_chorales", metric="nll"), task


KINDS = {
    "images": images,
    "series": series,
    "adding": adding,
    "text": text,
    "language": language,
    "music": music,
}
