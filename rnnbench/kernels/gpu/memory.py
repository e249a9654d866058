"""Counts the bytes that a stack takes on a GPU, by making its arrays on torch's device without memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rnnbench.config import Config
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.compute import at_once, evaluated
from rnnbench.kernels.gpu.layer import FLOATS
from rnnbench.kernels.gpu.linear import LinearScan
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.gpu.tiled import TiledScan
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal, Shape

UPDATE = 4  # arrays as large as the parameters that an optimiser's update makes beside its memory


class Made(TorchDispatchMode):
    """Counts the bytes of all tensors that are made in a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(
        self,
        made: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = made(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self.bytes += leaf.untyped_storage().nbytes()
        return result


@dataclass(frozen=True)
class Bytes:
    """The bytes of a stack on a GPU, beside those of the data."""

    trial: int  # that a trial adds: arrays of a minibatch, its rows, the order of an epoch, predictions
    evaluated: int  # arrays of a trial that is evaluated
    at_once: int  # trials that are evaluated at once, at most

    def stack(self, K: int) -> int:
        """Return the bytes of a stack of K trials."""
        return K * self.trial + min(K, self.at_once) * self.evaluated


def minibatch_bytes(
    network: Network, goal: Goal, graph: Graph, T: int, B: int, *,
    carried: bool, dropout: bool = False, training: bool,
) -> int:  # fmt: skip
    """Count the bytes that a trial's minibatch of B examples of T steps takes."""
    inputs = torch.empty(1, T, network.input_size, device="meta")
    lengths = torch.empty(1, dtype=torch.int64, device="meta")
    with Made() as made:
        minibatch = Minibatch(
            network, goal, graph, Examples(FLOATS, inputs, inputs, lengths), K=1, B=B,
            carried=carried, dropout=dropout, training=training,
        )  # fmt: skip
    units = 0  # values of a unit and example beside the layers' arrays
    for scan in minibatch.scans:
        if isinstance(scan, TiledScan):  # of each step; the state before the first one, and gradients
            kept = 0 if training else scan.kept + scan.kept_rows  # which launches hand on all the same
            units += (scan.blocks + kept) * T + 4 * scan.graph.states
        elif isinstance(scan, LinearScan) and not training:  # products with x
            units += scan.places.count * T
    return int(made.bytes) + 4 * B * network.model.hidden_size * units


def count(config: Config, shape: Shape) -> Bytes:
    """Count the bytes of stacks of trials of this shape."""
    graph = libraries.graph(config.model)
    assert isinstance(graph, Graph), graph
    network = Network(config.model, shape.input_size, shape.outputs, shape.goal.every_step)
    longest = max(shape.steps, shape.test_steps or 0)  # stored examples are as long as the longest
    endless, B, examples = shape.train == 0, config.fit.batch_size, max(shape.val, shape.test)
    carried, size = shape.next_step, B if shape.next_step else at_once(network, examples, longest)
    trial = minibatch_bytes(
        network, shape.goal, graph, shape.steps if endless else longest, B,
        carried=carried, dropout=config.model.dropout > 0, training=True,
    )  # fmt: skip
    memory = len(config.optim.memory)
    # The stack's rows and those before the epoch, the graph's own, noise, a copy that is evaluated.
    rows = 2 * (2 + memory) + memory + (2 if config.model.weight_noise else 0) + 1 + UPDATE
    trial += 4 * rows * network.count() + 8 * (shape.train + 3 * examples)
    trial += 4 * B * shape.steps * shape.input_size if endless else 0  # examples that are made
    measured = minibatch_bytes(network, shape.goal, graph, longest, size, carried=carried, training=False)
    return Bytes(trial, measured, evaluated(network, size, longest))
