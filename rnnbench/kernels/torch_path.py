"""The torch path: any cell on any device, batched products over the stack, gradients by autograd."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rnnbench.config import Config
from rnnbench.kernels.batches import Batch, Batches
from rnnbench.kernels.compiled import cores, threads_asked
from rnnbench.kernels.losses import counted, measure
from rnnbench.kernels.precision import torch_precision
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise, Weights
from rnnbench.nn.cells.cell import NONE
from rnnbench.nn.network import Carried, Network
from rnnbench.tasks import Goal, Task

EVALUATION_BATCH = 250
Sums = Callable[[Any, Any, Any], tuple[Any, ...]]  # see `sums` of rnnbench.config.metrics.Metric
LARGE = 128  # hidden size from which products are worth more than one thread


class TorchCompute:
    """Trains and evaluates a stack with torch."""

    def __init__(self, config: Config, task: Task, network: Network) -> None:
        set_threads(config)
        self.network = network
        self.task = task
        self.device = torch.device(config.fit.device)
        self.batch_size = config.fit.batch_size
        self.batches = Batches(task, self.device)
        self.update = config.optim.update
        self.fit = config.fit

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`."""
        order = order.to(self.device)
        totals = torch.zeros(len(order), 4, dtype=torch.float64, device=self.device)
        carried = None
        with torch_precision.of(self.fit):
            for index in order.split(self.batch_size, dim=1):
                poll()
                part, carried = self.step(state, index, noise, carried)
                totals += part
        loss, hits, norm, answers = totals.unbind(1)
        return torch.stack([loss / answers, hits / answers, norm / order.shape[1]], 1)

    def step(
        self, state: optimisers.State, index: Tensor, noise: Noise, carried: Carried = None
    ) -> tuple[Tensor, Carried]:
        """Update once on the examples index (K, B); return its sums (K, 4) for the epoch, and the state."""
        make = self.task.make is not None
        batch = self.batches.made(index, state["seed"][:, 0]) if make else self.batches.stored(index)
        parameters = state["parameters"]
        if (
            noise.weights
        ):  # the gradient is taken at the noisy weights, and the step is made from the clean ones
            parameters = parameters + noise.weights(parameters.shape[1:])
        weights = {name: view.requires_grad_() for name, view in self.network.views(parameters).items()}
        begins = carried is None
        if self.task.carried:
            logits, carried = self.network.carry(weights, batch.x, carried, noise)
        else:
            logits = self.network(weights, batch.x, noise, batch.lengths)
        loss, hits, answers = measure(
            self.task.goal, logits, batch.y, batch.lengths, self.task.loss, weights=self.task.weights
        )
        count = answers.sum(-1)
        share = count.reciprocal().unsqueeze(-1).expand_as(loss)  # of an example in its trial's mean
        gradient = gradient_of(loss, share, weights, begins)
        norm = optimisers.clip(gradient, state["clip"].float())
        with torch.no_grad():
            self.update(state, state["parameters"], gradient)
        sums = loss.detach().sum(-1), hits.sum(-1), norm.squeeze(-1) * index.shape[1], count
        return torch.stack(sums, 1), carried

    @torch.no_grad()
    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, right answers and predictions of parameters (k, P); see `Compute.evaluate`."""
        k, goal = len(parameters), self.task.goal
        sums = torch.zeros(k, 3, dtype=torch.float64, device=self.device)
        predictions = torch.zeros(k, len(index), dtype=torch.int64, device=self.device)
        with torch_precision.of(self.fit):
            for places, logits, batch in self._outputs(parameters, index, poll):
                measured = measure(
                    goal, logits, batch.y, batch.lengths, self.task.loss, weights=self.task.weights
                )
                sums += torch.stack([part.double().sum(-1) for part in measured], 1)
                if goal is Goal.label:
                    predictions[:, places] = logits.argmax(1)
        loss, hits, answers = sums.unbind(1)
        return loss / answers, hits / answers, predictions

    @torch.no_grad()
    def totals(
        self,
        sums: Mapping[str, Sums],
        parameters: Tensor,
        index: Tensor,
        poll: Callable[[], None] = lambda: None,
    ) -> dict[str, tuple[Tensor, ...]]:
        """Sum over the examples what each of `sums` gives, (k, ...) each, by its name; see `Metric`."""
        totals: dict[str, tuple[Tensor, ...]] = {}
        with torch_precision.of(self.fit):
            for _, logits, batch in self._outputs(parameters, index, poll):
                counts = counted(self.task.goal, logits, batch.y, batch.lengths).double()
                y = batch.y.double() if batch.y.is_floating_point() else batch.y
                for name, summed in sums.items():
                    parts, before = summed(logits.double(), y, counts), totals.get(name)
                    added = parts if before is None else (a + b for a, b in zip(before, parts, strict=True))
                    totals[name] = tuple(added)
        return totals

    def _outputs(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None]
    ) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Generate minibatches of the examples `index`: places in it, logits (k, ...), the minibatch."""
        weights, k = self.network.views(parameters), len(parameters)
        carried = None
        for places in self._parts(index):
            poll()
            x, y, lengths = self.batches.stored(index[places].to(self.device).unsqueeze(0))
            x, y = (t.expand(k, *t.shape[1:]) for t in (x, y))
            lengths = None if lengths is None else lengths.expand(k, -1)
            if self.task.carried:
                carried = cut(carried, len(places))
                logits, carried = self.network.carry(weights, x, carried)
            else:
                logits = self.network(weights, x, NONE, lengths)
            yield places, logits, Batch(x, y, lengths)

    def _parts(self, index: Tensor) -> Iterator[Tensor]:
        """Cut places in index into minibatches: examples of like length together, windows in order."""
        places = torch.arange(len(index))
        if self.task.carried:
            return windows(len(index), self.batch_size)
        if self.task.lengths is not None:
            places = torch.from_numpy(self.task.lengths)[index].argsort(stable=True)
        return iter(places.split(evaluation_batch(self.task.inputs.shape[1])))


def gradient_of(loss: Tensor, share: Tensor, weights: Weights, begins: bool) -> Tensor:
    """Return the gradient (K, P) of the loss (K, B) of examples that count by their share (K, B).

    Args:
        begins: whether the state before the first step is the network's own, not one that was handed on.

    Raises:
        TypeError: the loss does not depend on a weight.
    """
    gradients = torch.autograd.grad(loss, list(weights.values()), share, allow_unused=True)
    found = dict(zip(weights, gradients, strict=True))
    unused = [name for name, part in found.items() if part is None]
    if wrong := [name for name in unused if begins or not name.startswith("rnn.initial_")]:
        raise TypeError(
            f"no answer depends on {', '.join(wrong)}; use them in step, or leave them out of shapes"
        )
    parts = [torch.zeros_like(weights[name]) if part is None else part for name, part in found.items()]
    return torch.cat([part.flatten(1) for part in parts], 1)


def evaluation_batch(steps: int) -> int:
    """Return how many examples are evaluated at once, fewer of those that are very long."""
    return max(1, EVALUATION_BATCH * min(1000, steps) // steps)


def windows(count: int, streams: int) -> Iterator[Tensor]:
    """Order the windows 0..count-1 of one text: the n-th of each stream, for n = 0, 1, ...

    Stream b has the windows b * length and on; the last stream may be shorter than the others, and those
    that would be empty are not there, so a later minibatch may lack the last rows of the one before.
    """
    length = -(-count // streams)
    starts = torch.arange(0, count, length)
    for n in range(length):
        yield (starts + n)[starts + n < count]


def cut(carried: Carried, rows: int) -> Carried:
    """Return the state that a minibatch hands on, for its first rows alone."""
    if carried is None:
        return None
    return [tuple(part[..., :rows] for part in layer) for layer in carried]


def set_threads(config: Config) -> None:
    """Use one thread for small products, all cores for large ones; OMP_NUM_THREADS, if set, decides.

    At hidden size 10 a second thread gains a tenth on an idle machine and loses a factor of ten when
    something else wants its core. And the numbers then do not depend on how many cores there are.
    """
    if threads_asked() is None:
        torch.set_num_threads(cores() if config.model.hidden_size >= LARGE else 1)
