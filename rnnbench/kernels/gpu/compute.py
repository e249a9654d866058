"""Trains and evaluates a stack on a GPU with the generated kernels, a minibatch as one CUDA graph.

A trial's numbers are bit for bit the same whatever else is in its stack: each program of a kernel computes a
part of one trial, and sums are made in a fixed order.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from rnnbench.config import Config, ConfigError
from rnnbench.kernels import drawing, libraries
from rnnbench.kernels.feed import Feed, Maker
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.data import Made, Order, on_device
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

# Of evaluation. They fix the order of sums, so they depend on sizes of a trial alone.
MOST = 512  # examples of a minibatch
TRIAL = 2**29  # bytes of a trial
ROOM = 2**32  # bytes of the trials that are evaluated at once
BLOCKS = 12  # values of a unit and step that kernels leave in memory, at most


def evaluation_bytes(network: Network, B: int, T: int) -> int:
    """Estimate the bytes of a trial that is evaluated on minibatches of B examples of T steps."""
    width = network.model.hidden_size * network.directions
    return 4 * B * T * (len(network.layers) * width * BLOCKS + 2 * network.outputs)


def at_once(network: Network, count: int, T: int) -> int:
    """Return how many of so many examples of T steps are evaluated at once."""
    most = min(MOST, TRIAL // evaluation_bytes(network, 1, T), count + COLUMNS - 1)
    return max(COLUMNS, most // COLUMNS * COLUMNS)


def evaluated(network: Network, B: int, T: int) -> int:
    """Return how many trials are evaluated at once, at most, on minibatches of B examples of T steps."""
    return max(1, ROOM // evaluation_bytes(network, B, T))


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
        self.measuring: Measuring | None = None
        # A graph that could not be captured is not tried again when the stack has another size.
        self.launches = Launches(self.device, "training")
        self.measured = Launches(self.device, "evaluation")

    def minibatch(
        self, examples: Examples, K: int, B: int, *, dropout: bool = False, training: bool
    ) -> Minibatch:
        """Make the arrays and kernels of a minibatch."""
        return Minibatch(
            self.network, self.task.goal, self.graph, examples, K=K, B=B, carried=self.task.carried,
            dropout=dropout, training=training, precision=IN_TRITON[self.config.fit.precision],
        )  # fmt: skip

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make the stack's GPU the current one for a block: Triton launches kernels there.

        Raises:
            ConfigError: the GPU has less shared memory than the kernels need.
        """
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            try:
                yield
            except OutOfResources as error:
                model = self.config.model
                raise ConfigError(
                    f"model.name={model.name} with model.hidden_size={model.hidden_size}: its kernels need "
                    f"{error.required:,} of {error.name}, and {self.device} has {error.limit:,}; take "
                    "fit.kernel=torch, or a card of the H100's class"
                ) from error

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
        order = index[places].where(places >= 0, -1).flatten()[None]
        K = min(len(parameters), evaluated(self.network, B, self.stored.inputs.shape[1]))
        with self.here():
            if self.measuring is None or self.measuring.minibatch.index.shape != (K, B):
                self.measuring = self.measured.replay = None
                self.measuring = Measuring(self, K, B)
            found = [self.measuring.trials(part, order, poll) for part in parameters.split(K)]
        sums, answered = (torch.cat(parts) for parts in zip(*found, strict=True))
        predictions = torch.zeros(len(parameters), len(index), dtype=torch.int64, device=self.device)
        there = (places >= 0).flatten()
        predictions[:, places.flatten()[there].to(self.device)] = answered[:, there.to(self.device)]
        loss, hits, _, answers = sums.unbind(1)
        return loss / answers, hits / answers, predictions

    def _places(self, index: Tensor) -> tuple[Tensor, int]:
        """Return places in index, (minibatches, B) with -1 where there is no example, and B.

        Examples of like length stand together; windows of a text come in the order of its streams.
        """
        count, T = len(index), self.stored.inputs.shape[1]
        if self.task.carried:
            parts = list(windows(count, self.config.fit.batch_size))
            B = len(parts[0])
        else:
            B = at_once(self.network, count, T)
            order = torch.arange(count)
            if self.task.lengths is not None:
                order = torch.from_numpy(self.task.lengths)[index].argsort(stable=True)
            parts = list(order.split(B))
        rows = [torch.cat([part, part.new_full((B - len(part),), -1)]) for part in parts]
        return torch.stack(rows), B


class Measuring:
    """The arrays of trials that are evaluated, which stay where they are from minibatch to minibatch.

    Args:
        compute: whose trials they are.
        K: trials, at most.
        B: examples of a minibatch.
    """

    def __init__(self, compute: GpuCompute, K: int, B: int) -> None:
        self.launches, self.pace = compute.measured, Pace(compute.device)
        self.minibatch = compute.minibatch(compute.stored, K, B, training=False)
        self.order = Order(1, B, compute.device)
        self.predictions = self.minibatch.index.new_zeros(K, 0, B)

    def trials(self, parameters: Tensor, order: Tensor, poll: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Evaluate trials with parameters (k, P) on order (1, minibatches * B).

        Returns:
            sums (k, 4) as those of a minibatch, predictions (k, minibatches * B).
        """
        minibatch, k = self.minibatch, len(parameters)
        minibatch.parameters[:k].copy_(parameters)
        minibatch.sums.zero_()
        minibatch.fresh.fill_(1)
        if self.order.fill(order):
            self.predictions = minibatch.index.new_zeros(minibatch.K, *self.order.examples.shape[1:])
            self.launches.replay = None
        minibatches = order.shape[1] // minibatch.B
        self.pace.start(poll)
        for _ in range(minibatches):
            self.launches(self._launch)
            self.pace.step(poll)
        return minibatch.sums[:k].clone(), self.predictions[:k, :minibatches].flatten(1).clone()

    def _launch(self) -> None:
        """Enqueue a minibatch."""
        at = self.order.at.clone()
        self.order.take(self.minibatch.index)
        self.minibatch.run()
        self.predictions.index_copy_(1, at, self.minibatch.answers.predictions[:, None])


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
        self.order = Order(K, self.B, compute.device)

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
            if self.order.fill(part):
                self.launches.replay = None
            for index in part.split(self.B, dim=1):
                if noise != NONE:
                    self._draw(noise, index)
                self.launches(self._launch)
                self.pace.step(poll)
        for name, rows in self.rows.items():
            state[name].copy_(rows)
        loss, hits, norm, answers = self.minibatch.sums.unbind(1)
        return torch.stack([loss / answers, hits / answers, norm / examples], 1)

    def _launch(self) -> None:
        """Enqueue a minibatch and the update it makes."""
        minibatch, rows = self.minibatch, self.rows
        self.order.take(minibatch.index)
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
