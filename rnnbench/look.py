"""Looks into a trained network: gates and states over the steps of a sequence, gradients back through time.

    look = Look.of("multirun/lr/0")
    look.gates()                  {"f": (T, hidden), ...} over the first of the longest test examples
    look.gradients()[0].state     (lags,) norm of the gradient at the state, by steps before the answer

Computed in float64 from the weights at the best epoch, on the CPU, without what only training has, such as
dropout. A window of a text starts from the state before the first step, not from that of the window before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnbench import tasks
from rnnbench.api import Trained, load
from rnnbench.config import ConfigError
from rnnbench.kernels.batches import Batch, Batches
from rnnbench.kernels.losses import counted, measure
from rnnbench.nn.watch import WatchedCell, watched
from rnnbench.tasks.counting import Counting

Array = NDArray[np.float64]
EXAMPLES = 32  # test examples over which gradients are taken


@dataclass(frozen=True)
class Gradients:
    """Norms of the gradients of the loss of one example's last answer, by lag: steps before that answer."""

    state: Array  # (lags,) at the state after a step: h of all layers, and c where there is one
    input: Array  # (lags,) at the input of a step

    def memory(self) -> int | None:
        """Return the largest lag at which the input's gradient is above 1 % of its largest; None: it is 0."""
        above = np.flatnonzero(self.input > 0.01 * self.input.max())
        return int(above[-1]) if above.size else None


@dataclass(frozen=True)
class Count:
    """Keeps a word a^n b^n (c^n) of a counting language, and the state after each of its symbols."""

    letters: Array  # (steps,) 0 for a, 1 for b, ..., without the # before the word
    open: Array  # (steps,) how many a there were, less how many b
    state: Array  # (steps, hidden) c of the last layer, or h of a cell without c
    name: str  # which of both it is
    longest: int  # the largest n of training

    def units(self) -> list[int]:
        """Return the units in order of how well they follow the count over the a and b, the best first."""
        word = self.letters < 2
        state, wanted = self.state[word], self.open[word]
        state, wanted = state - state.mean(0), wanted - wanted.mean()
        norms = np.sqrt((state**2).sum(0) * (wanted**2).sum())
        alike = np.abs(wanted @ state) / np.where(norms > 0, norms, 1)
        return [int(unit) for unit in np.argsort(-alike, kind="stable")]


@dataclass(frozen=True)
class Look:
    """A trained network beside the data that it was trained on."""

    trained: Trained
    place: str | Path | None = None  # where that data is; see `Trained.evaluate`

    @staticmethod
    def of(run: str | Path, place: str | Path | None = None) -> "Look":
        """Load the network of a run; see `rnnbench.load`.

        Raises:
            ConfigError: there are no weights, or a cell has no `step`.
        """
        return Look(load(run), place)

    @cached_property
    def task(self) -> tasks.Task:
        """The data; read where examples are asked for."""
        return self.trained.task(self.place)

    def gates(self, example: int | None = None) -> dict[str, Array]:
        """Return each gate of the last layer over the steps of a test example, (T, hidden) by name.

        A cell without sigmoids, tanhs and exponentials has none.

        Args:
            example: its number in the test set; None: the first of the longest.

        Raises:
            ConfigError: there is no such example.
        """
        index = self.task.splits["test"]
        lengths = self.task.lengths
        if example is None:
            example = 0 if lengths is None else int(lengths[index].argmax())
        if not 0 <= example < len(index):
            raise ConfigError(f"example={example}: must be from 0 to {len(index) - 1}, a test example")
        batch = self._batch(index[[example]])
        cell = self._run(batch)[-1]
        T = batch.x.shape[1] if batch.lengths is None else int(batch.lengths[0, 0])
        return {name: _steps(parts)[:T] for name, parts in cell.gates_of.items()}

    def gradients(self, *, start: bool = False, examples: int = EXAMPLES) -> list[Gradients]:
        """Return the gradients of test examples, which are spread evenly over the test set.

        Args:
            start: take the weights before training.

        Raises:
            ConfigError: the network reads the sequence from both ends.
        """
        if self.trained.config.model.bidirectional:
            raise ConfigError(
                "model.bidirectional=true: has no gradient back through time, since it reads from both ends"
            )
        index = self.task.splits["test"]
        numbers = np.unique(np.linspace(0, len(index) - 1, examples).round().astype(int))
        batch = self._batch(index[numbers])
        x = batch.x.requires_grad_()
        network = watched(self.trained.network)
        weights = self.trained.parameters.unsqueeze(0)
        if start:
            weights = network.start(self.trained.config.seed)
        logits = network(network.views(weights.double()), x, lengths=batch.lengths)
        loss, last = self._last_loss(logits, batch)
        cells: list[Any] = [cell for layer in network.layers for _, cell in layer]
        states = [part for cell in cells for after in cell.states_after for part in after]
        at_x, *at_states = torch.autograd.grad(loss.sum(), [x, *states], allow_unused=True)
        T, B = x.shape[1], x.shape[3]
        # One that no answer depends on has no gradient: that after the steps that count, for example.
        squares = [torch.zeros(B).double() if d is None else d.square().sum(1)[0] for d in at_states]
        by_layer = torch.stack(squares).view(len(cells), T, -1, B)
        state = by_layer.sum((0, 2)).sqrt().numpy()  # (T, B)
        inputs = at_x.square().sum(2)[0].sqrt().numpy()
        return [
            Gradients(*(part[: end + 1, b][::-1].copy() for part in (state, inputs)))
            for b, end in enumerate(last.tolist())
        ]

    def count(self, n: int | None = None) -> Count:
        """Return the state over the word a^n b^n (c^n) of a counting language.

        Args:
            n: None: twice the largest of training.

        Raises:
            ConfigError: the task has no such words.
        """
        data = self.trained.config.data
        if not isinstance(data, Counting):
            raise ConfigError(f"data.name={data.name}: has no words a^n b^n; take anbn, anbncn or dyck1")
        n = 2 * data.longest if n is None else n
        width = self.trained.network.input_size
        per_n = 2 if data.name == "dyck1" else width - 1
        letters = np.arange(per_n * n) // n
        read = torch.from_numpy(np.concatenate([[width - 1], letters]))  # # stands before a word
        x = torch.nn.functional.one_hot(read, width).double().T[None, :, :, None].transpose(1, 2)
        states = self._run(Batch(_twice(x), x, None))[-1].states_after
        which = 1 if len(states[0]) > 1 else 0
        values = _steps([after[which] for after in states])[1:]
        opened = np.cumsum((letters == 0).astype(float) - (letters == 1))
        return Count(letters.astype(float), opened, values, "hc"[which], data.longest)

    def _batch(self, index: Sequence[int] | NDArray[Any]) -> Batch:
        """Return stored examples in float64, at least two of them; see `_twice`."""
        x, y, lengths = Batches(self.task, torch.device("cpu")).stored(torch.as_tensor(index)[None])
        y = y.double() if y.is_floating_point() else y
        if len(index) > 1:
            return Batch(x.double(), y, lengths)
        return Batch(_twice(x.double()), y, None if lengths is None else _twice(lengths))

    @torch.no_grad()
    def _run(self, batch: Batch) -> list[WatchedCell]:
        """Run the network on a minibatch; return the forward cell of each layer with what it has kept."""
        network = watched(self.trained.network)
        weights = network.views(self.trained.parameters.double().unsqueeze(0))
        network(weights, batch.x, lengths=batch.lengths)
        forward: list[Any] = [layer[0][1] for layer in network.layers]
        return forward

    def _last_loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss (1, B) of the last answer of each example, and the step (B,) that it belongs to."""
        goal, T = self.task.goal, batch.x.shape[1]
        if not goal.every_step:
            loss = measure(goal, logits, batch.y, batch.lengths, self.task.loss, weights=self.task.weights)[0]
            ends = torch.full((loss.shape[1],), T) if batch.lengths is None else batch.lengths[0]
            return loss, ends - 1
        asked = counted(goal, logits, batch.y, batch.lengths)  # (1, T, B)
        last = (asked * torch.arange(1, T + 1).view(1, -1, 1)).argmax(1)  # (1, B)
        places = last.view(1, 1, 1, -1)
        at_last = logits.gather(2, places.expand(-1, logits.shape[1], -1, -1))
        if batch.y.dim() == 3:
            y = batch.y.gather(1, last.unsqueeze(1))
        else:
            y = batch.y.gather(2, places.expand(-1, batch.y.shape[1], -1, -1))
        return measure(goal, at_last, y, None, self.task.loss, weights=self.task.weights)[0], last[0]


def _steps(parts: Sequence[Tensor]) -> Array:
    """Return the values of the first example, (T, hidden), of tensors (1, hidden, B) for each step."""
    values: Array = torch.stack([part[0, :, 0] for part in parts]).numpy()
    return values


def _twice(values: Tensor) -> Tensor:
    """Return one example twice: with one, a weight's column has the shape of a gate (K, hidden, B)."""
    return values.expand(*values.shape[:-1], 2)
