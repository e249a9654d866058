"""Trains and evaluates a stack on a GPU with the generated kernels, a minibatch as one CUDA graph.

A trial's numbers are bit for bit the same whatever else is in its stack: each program of a kernel computes a
part of one trial, and sums are made in a fixed order.
"""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from rnnbench.config import Config
from rnnbench.kernels import drawing, libraries
from rnnbench.kernels.feed import Feed, Maker
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.data import Made, on_device, put
from rnnbench.kernels.gpu.launches import Launches, Pace
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.kernels.precision import IN_TRITON
from rnnbench.kernels.torch_path import windows
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise
from rnnbench.nn.cells.cell import NONE
from rnnbench.nn.network import Network
from rnnbench.tasks import Task

STEPS = 2**19  # of all examples of a minibatch, in evaluation
MOST = 512  # examples of a minibatch, in evaluation
ROOM = 2**31  # bytes of the trials that are evaluated at once


def at_once(count: int, T: int) -> int:
    """Return how many of so many examples of T steps are evaluated at once."""
    return max(COLUMNS, min(MOST, STEPS // T // COLUMNS * COLUMNS, -(-count // COLUMNS) * COLUMNS))


def evaluated(network: Network, B: int, T: int) -> int:
    """Return how many trials are evaluated at once, at most, on minibatches of B examples of T steps."""
    width = network.model.hidden_size * network.directions
    return max(1, ROOM // (8 * B * T * (len(network.layers) * width + network.outputs)))


class GpuCompute:
    """Trains and evaluates a stack with the generated kernels.

    Args:
        config: of any of the trials.
        task: the data, and what is asked of it.
    """

    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task
        self.device = torch.device(config.fit.device)
        self.network = Network(config.model, task.input_size, task.outputs, task.goal.every_step)
        graph = libraries.graph(config.model)
        assert isinstance(graph, Graph), graph
        self.graph = graph
        self.stored = on_device(Feed(task, task.inputs, task.targets, task.lengths), self.device)
        library = libraries.library()
        own = library if isinstance(library, ctypes.CDLL) else None
        self.maker = Maker(task, own) if task.make else None
        self.training: Training | None = None
        self.measuring: Minibatch | None = None
        self.pace, self.launches = Pace(self.device), Launches(self.device)  # the pace of evaluation

    def minibatch(
        self, examples: Examples, K: int, B: int, *, dropout: bool = False, training: bool
    ) -> Minibatch:
        """Make the arrays and kernels of a minibatch."""
        return Minibatch(
            self.network, self.task.goal, self.graph, examples, K=K, B=B, carried=self.task.carried,
            dropout=dropout, training=training, precision=IN_TRITON[self.config.fit.precision],
        )  # fmt: skip

    def here(self) -> AbstractContextManager[object]:
        """Make the stack's GPU the current one for a block: Triton launches kernels there."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`."""
        form = len(order), noise.dropout is not None, noise.weights is not None
        with self.here():
            if self.training is None or self.training.form != form:
                self.training = self.launches.replay = None  # their memory is given back first
                self.training = Training(self, state, form)
            return self.training.epoch(state, order, noise, poll)

    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, right answers and predictions of parameters (k, P); see `Compute.evaluate`."""
        places, B = self._places(index)
        order = index[places].where(places >= 0, -1).to(self.device)  # (minibatches, B)
        K = min(len(parameters), evaluated(self.network, B, self.stored.inputs.shape[1]))
        with self.here():
            if self.measuring is None or self.measuring.index.shape != (K, B):
                self.measuring, self.pace = None, Pace(self.device)
                self.measuring = self.minibatch(self.stored, K, B, training=False)
            found = [self._measured(part, order, poll) for part in parameters.split(K)]
        sums, answered = (torch.cat(parts) for parts in zip(*found, strict=True))
        predictions = torch.zeros(len(parameters), len(index), dtype=torch.int64, device=self.device)
        there = (places >= 0).flatten()
        predictions[:, places.flatten()[there].to(self.device)] = answered[:, there.to(self.device)]
        loss, hits, _, answers = sums.unbind(1)
        return loss / answers, hits / answers, predictions

    def _measured(self, parameters: Tensor, order: Tensor, poll: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Evaluate as many trials as there is room for, or fewer, on order (minibatches, B).

        Returns:
            sums (k, 4) as those of a minibatch, predictions (k, minibatches * B).
        """
        minibatch, k = self.measuring, len(parameters)
        assert minibatch is not None
        minibatch.parameters[:k].copy_(parameters)
        minibatch.sums.zero_()
        minibatch.fresh.fill_(1)
        predictions = order.new_zeros(k, *order.shape)
        self.pace.start(poll)
        for n, index in enumerate(order):
            minibatch.index.copy_(index.expand(minibatch.K, -1))
            minibatch.run()
            predictions[:, n] = minibatch.answers.predictions[:k]
            self.pace.step(poll)
        return minibatch.sums[:k].clone(), predictions.flatten(1)

    def _places(self, index: Tensor) -> tuple[Tensor, int]:
        """Return places in index, (minibatches, B) with -1 where there is no example, and B.

        Examples of like length stand together; windows of a text come in the order of its streams.
        """
        count, T = len(index), self.stored.inputs.shape[1]
        if self.task.carried:
            parts = list(windows(count, self.config.fit.batch_size))
            B = len(parts[0])
        else:
            B = at_once(count, T)
            order = torch.arange(count)
            if self.task.lengths is not None:
                order = torch.from_numpy(self.task.lengths)[index].argsort(stable=True)
            parts = list(order.split(B))
        rows = [torch.cat([part, part.new_full((B - len(part),), -1)]) for part in parts]
        return torch.stack(rows), B


class Training:
    """The arrays of a stack that trains, which stay where they are from minibatch to minibatch.

    Args:
        compute: whose stack it is.
        state: of the stack, for its names and shapes.
        form: trials, whether there is dropout between layers, whether there is weight noise.
    """

    def __init__(self, compute: GpuCompute, state: optimisers.State, form: tuple[int, bool, bool]) -> None:
        K, dropout, weights = self.form = form
        self.network, self.launches, self.pace = compute.network, compute.launches, Pace(compute.device)
        lengths = compute.task.lengths
        self.lengths = None if lengths is None else torch.from_numpy(lengths)  # of stored examples
        self.optim, self.B = compute.config.optim, compute.config.fit.batch_size
        self.made = None
        if compute.maker is not None:
            self.made = Made(compute.task, compute.maker, K, self.B, compute.device)
        examples = self.made.examples if self.made else compute.stored
        self.minibatch = compute.minibatch(examples, K, self.B, dropout=dropout, training=True)
        self.rows = {name: rows.clone() for name, rows in state.items() if name != "best"}
        if not weights:
            self.rows["parameters"] = self.minibatch.parameters
        self.noise = torch.zeros_like(self.rows["parameters"]) if weights else None
        self.order = torch.zeros(K, 0, self.B, dtype=torch.int64, device=compute.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=compute.device)  # the next minibatch

    def epoch(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial of the stack on its minibatches; see `Compute.train`."""
        for name, rows in self.rows.items():
            rows.copy_(state[name])
        self.minibatch.sums.zero_()
        self.minibatch.fresh.fill_(1)
        examples = order.shape[1]
        seeds = state["seed"][:, 0].cpu()
        self.pace.start(poll)
        for part in order.split(self.B * self.made.minibatches if self.made else examples, dim=1):
            if self.made:  # while the GPU computes what is enqueued
                part = self.made.make(part, seeds)
            self._put_in_order(part)
            for index in part.split(self.B, dim=1):
                if noise != NONE:
                    self._draw(noise, index)
                self.launches(self._launch)
                self.pace.step(poll)
        for name, rows in self.rows.items():
            state[name].copy_(rows)
        loss, hits, norm, answers = self.minibatch.sums.unbind(1)
        return torch.stack([loss / answers, hits / answers, norm / examples], 1)

    def _put_in_order(self, order: Tensor) -> None:
        """Copy the order (K, examples) of the next minibatches to the GPU; -1 fills the last one."""
        K, examples = order.shape
        minibatches = -(-examples // self.B)
        if self.order.shape[1] < minibatches:  # its place changes, and the graph has it
            self.order = self.order.new_zeros(K, minibatches, self.B)
            self.launches.replay = None
        padded = order.new_full((K, minibatches * self.B), -1)
        padded[:, :examples] = order
        put(padded.view(K, minibatches, self.B), self.order[:, :minibatches])
        self.at.zero_()

    def _launch(self) -> None:
        """Enqueue a minibatch and the update it makes."""
        minibatch, rows = self.minibatch, self.rows
        minibatch.index.copy_(self.order.index_select(1, self.at).squeeze(1))
        self.at.add_(1)
        if self.noise is not None:  # the gradient is that of the noisy weights, the clean ones are updated
            torch.add(rows["parameters"], self.noise, out=minibatch.parameters)
        minibatch.run()
        optimisers.scale(minibatch.gradient, minibatch.norm, rows["clip"].float())
        updated = dict(rows)  # an optimiser may put other tensors in place of these
        self.optim.update(updated, rows["parameters"], minibatch.gradient)
        for name, row in rows.items():
            if updated[name] is not row:
                row.copy_(updated[name])

    def _draw(self, noise: Noise, index: Tensor) -> None:
        """Draw the noise of the examples `index` (K, B) of the next minibatch."""
        drawn, lengths = self.minibatch.drawn, self.made.lengths if self.made else self.lengths
        into = {
            "dropout": list(drawn.dropout.values()), "recurrent": drawn.recurrent, "zoneout": drawn.zoneout,
        }  # fmt: skip
        if self.noise is not None:
            into["weights"] = [self.noise]
        steps = torch.full((len(index),), self.minibatch.T)
        if lengths is not None:
            steps = lengths[index].amax(1)
        drawing.draw_minibatch(noise, self.network, into, steps, index.shape[1])
