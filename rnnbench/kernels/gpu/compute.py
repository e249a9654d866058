"""Trains and evaluates a stack on a GPU with the generated kernels, a minibatch as one CUDA graph.

A trial's numbers are bit for bit the same whatever else is in its stack: each program of a kernel computes a
part of one trial, and sums are made in a fixed order.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from rnnbench.config import Config
from rnnbench.kernels import drawing, libraries
from rnnbench.kernels.feed import Feed, Maker
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.data import Made, on_device
from rnnbench.kernels.gpu.launches import Launches, Pace
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.kernels.precision import IN_TRITON
from rnnbench.kernels.torch_path import windows
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal, Task

STEPS = 2**14  # of all examples of a minibatch, in evaluation
MOST = 512  # examples of a minibatch, in evaluation


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
        self.pace = Pace(self.device)

    def minibatch(
        self, examples: Examples, K: int, B: int, *, dropout: bool = False, training: bool
    ) -> Minibatch:
        """Make the arrays and kernels of a minibatch."""
        return Minibatch(
            self.network, self.task.goal, self.graph, examples, K=K, B=B, carried=self.task.carried,
            dropout=dropout, training=training, precision=IN_TRITON[self.config.fit.precision],
        )  # fmt: skip

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`."""
        K, dropout, weights = len(order), noise.dropout is not None, noise.weights is not None
        if self.training is None or self.training.form != (K, dropout, weights):
            self.training = None  # its memory is given back first
            self.training = Training(self, state, (K, dropout, weights))
        return self.training.epoch(state, order, noise, poll)

    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, right answers and predictions of parameters (k, P); see `Compute.evaluate`."""
        k = len(parameters)
        places, B = self._places(index)
        if self.measuring is None or self.measuring.index.shape != (k, B):
            self.measuring = None
            self.measuring = self.minibatch(self.stored, k, B, training=False)
        minibatch = self.measuring
        minibatch.parameters.copy_(parameters)
        minibatch.sums.zero_()
        minibatch.fresh.fill_(1)
        order = index[places].where(places >= 0, -1).to(self.device)  # (minibatches, B)
        predictions = torch.zeros(k, len(index), dtype=torch.int64, device=self.device)

        def launch(n: int) -> None:
            minibatch.index.copy_(order[n].expand(k, -1))
            minibatch.run()
            if self.task.goal is Goal.label:
                there = places[n] >= 0
                predictions[:, places[n][there].to(self.device)] = minibatch.answers.predictions[
                    :, : int(there.sum())
                ]

        self.pace.run(len(order), launch, poll)
        loss, hits, _, answers = minibatch.sums.unbind(1)
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
            B = max(COLUMNS, min(MOST, STEPS // T // COLUMNS * COLUMNS, -(-count // COLUMNS) * COLUMNS))
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
        self.task, self.network, self.pace = compute.task, compute.network, compute.pace
        self.optim, self.B = compute.config.optim, compute.config.fit.batch_size
        self.made = None
        if compute.maker is not None:
            self.made = Made(compute.task, compute.maker, K, self.B, compute.device)
        examples = self.made.examples if self.made else compute.stored
        self.minibatch = compute.minibatch(examples, K, self.B, dropout=dropout, training=True)
        self.names = ["parameters", *self.optim.memory, "step"]  # what an update changes
        self.rows = {name: rows.clone() for name, rows in state.items() if name != "best"}
        if not weights:
            self.rows["parameters"] = self.minibatch.parameters
        self.noise = torch.zeros_like(self.rows["parameters"]) if weights else None
        self.order = torch.zeros(K, 0, self.B, dtype=torch.int64, device=compute.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=compute.device)  # the next minibatch
        self.launches = Launches(compute.device)

    def epoch(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial of the stack on its minibatches; see `Compute.train`."""
        for name, rows in self.rows.items():
            rows.copy_(state[name])
        self.minibatch.sums.zero_()
        self.minibatch.fresh.fill_(1)
        examples = order.shape[1]
        minibatches = -(-examples // self.B)
        at_once = self.made.minibatches if self.made else minibatches
        draws = self._draws(noise)
        for first in range(0, minibatches, at_once):
            part = order[:, first * self.B : (first + at_once) * self.B]
            if self.made:
                part = self.made.make(part, state["seed"][:, 0].cpu())
            self._put_in_order(part)

            def launch(n: int, part: Tensor = part) -> None:
                if draws:
                    self._draw(noise, part[:, n * self.B : (n + 1) * self.B])
                self.launches(self._launch)

            self.pace.run(-(-part.shape[1] // self.B), launch, poll)
        for name in self.names:
            if name in state:
                state[name].copy_(self.rows[name])
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
        self.order[:, :minibatches].copy_(padded.view(K, minibatches, self.B))
        self.at.zero_()

    def _launch(self) -> None:
        """Enqueue a minibatch and the update it makes."""
        minibatch, rows = self.minibatch, self.rows
        minibatch.index.copy_(self.order.index_select(1, self.at).squeeze(1))
        self.at.add_(1)
        if (
            self.noise is not None
        ):  # the gradient is taken at the noisy weights, the update made from the others
            torch.add(rows["parameters"], self.noise, out=minibatch.parameters)
        minibatch.run()
        optimisers.scale(minibatch.gradient, minibatch.norm, rows["clip"].float())
        self.optim.update(rows, rows["parameters"], minibatch.gradient)

    def _draws(self, noise: Noise) -> bool:
        return any(
            each is not None for each in (noise.dropout, noise.recurrent, noise.zoneout, noise.weights)
        )

    def _draw(self, noise: Noise, index: Tensor) -> None:
        """Draw the noise of the examples `index` (K, B) of the next minibatch."""
        drawn, lengths = self.minibatch.drawn, self.minibatch.examples.lengths
        into = {
            "dropout": list(drawn.dropout.values()), "recurrent": drawn.recurrent, "zoneout": drawn.zoneout,
        }  # fmt: skip
        if self.noise is not None:
            into["weights"] = [self.noise]
        T = self.minibatch.T
        steps = torch.full((len(index),), T)
        if lengths is not None:
            steps = lengths.cpu()[index.cpu()].amax(1)
        drawing.draw_minibatch(noise, self.network, into, steps, index.shape[1])
