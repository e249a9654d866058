"""Computes a minibatch of a stack on a GPU: lengths, layers, head, loss, and the gradient of all parameters.

Every array is made once and stays where it is, and nothing waits for the GPU, so that a CUDA graph can hold
the whole minibatch. What differs from one minibatch to the next is written into `index`, `parameters` and the
arrays of noise before `run`.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rnnbench.config import Readout
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu import sums
from rnnbench.kernels.gpu.choice import scan_for
from rnnbench.kernels.gpu.head import Answers, Head
from rnnbench.kernels.gpu.layer import EVERY, HIDDEN, LAST, MEAN, Inputs, Layer, Scan
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.nn.network import Network, flipped
from rnnbench.tasks import Goal


@dataclass
class Examples:
    """The examples of a task on a GPU."""

    kind: int  # BYTES, FLOATS or SYMBOLS, see rnnbench.kernels.gpu.layer
    inputs: Tensor  # (N, T, input); SYMBOLS: (N, T)
    targets: Tensor  # see rnnbench.kernels.gpu.head.Answers
    lengths: Tensor | None  # (N,) int64; None: all have T steps
    scale: float = 1.0
    shift: float = 0.0


@dataclass
class Drawn:
    """The arrays of noise that a minibatch reads, none where an option is off.

    A level is a layer in one direction. Each has arrays of its own: in one array for all, it would depend on
    the size of the stack where those of a level begin, and Triton compiles other code for other alignments.
    """

    dropout: dict[int, Tensor] = field(default_factory=dict)  # of layer 1, ...: (K, T, width, B) factors
    recurrent: list[Tensor] = field(default_factory=list)  # of each level: (K, hidden, B) factors
    zoneout: list[Tensor] = field(default_factory=list)  # (K, T, states, hidden, B): 1 where a unit stays


class Minibatch:
    """The arrays and the kernels of a minibatch.

    Args:
        network: of the stack.
        goal: of its task.
        graph: of a step of its cell, with the options of its model.
        examples: which a minibatch is of.
        K: trials.
        B: examples of a minibatch, at most.
        carried: whether a minibatch begins with the state that the one before has left.
        dropout: whether there is dropout between layers.
        training: whether there is a gradient; else `run` measures alone.
        precision: of products: ieee, tf32x3 or tf32.

    Attributes:
        index: (K, B) int64, the examples; -1 where there is none.
        parameters: (K, P).
        fresh: (1,) int32, not 0 before the first minibatch of an epoch where the state is carried.
        drawn: noise.
        gradient: (K, P), of the mean loss of an answer.
        norm: (K, 1), of the gradient.
        sums: (K, 4) float64, to which `run` adds loss, right answers, norm times examples, and answers.
        answers: what the head has computed, predictions among it.
    """

    def __init__(
        self, network: Network, goal: Goal, graph: Graph, examples: Examples, *, K: int, B: int,
        carried: bool = False, dropout: bool = False, training: bool = True, precision: str = "ieee",
    ) -> None:  # fmt: skip
        self.network, self.goal, self.examples, self.training = network, goal, examples, training
        self.K, self.B, self.T, self.P = K, B, examples.inputs.shape[1], network.count()
        self.H, self.width = network.model.hidden_size, network.model.hidden_size * network.directions
        self.device = device = examples.inputs.device
        self.index = torch.full((K, B), -1, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(K, B, dtype=torch.int64, device=device)
        self.asked = torch.zeros_like(self.lengths) if goal is Goal.labels else self.lengths
        # A state that is handed on has gone through all steps, whether their answers count or not.
        self.steps = torch.zeros_like(self.lengths) if carried else self.lengths
        self.parameters = self._zeros(self.P)
        self.parts = self._zeros(-(-B // COLUMNS) if training else 0, self.P)
        self.gradient, self.norm = self._zeros(self.P if training else 0), self._zeros(1)
        self.squares = sums.squares(self.gradient)
        self.sums = torch.zeros(K, 4, dtype=torch.float64, device=device)
        self.fresh = torch.ones(1, dtype=torch.int32, device=device)
        self.drawn = self._noise(dropout) if training else Drawn()
        self.scans: list[Scan] = [
            scan_for(graph, self.H, self.width if number else network.input_size, precision)
            for number in range(len(network.layers))
        ]
        levels = len(network.layers) * network.directions if carried else 0
        states = network.layers[0][0][1].states
        self.carried = [self._zeros(states, self.H, B) for _ in range(levels)]
        self.left = [self._zeros(states, self.H, B) for _ in range(levels)]
        self.outputs = [self._zeros(self.T, self.width, B) for _ in network.layers]
        self.summary = self._zeros(self.width, B)
        self._make_head(precision)
        self.d_outputs = [self._zeros(self.T, self.width, B) for _ in range(2)] if training else []
        self.turned: dict[int, Tensor] = {}
        self.layers = [self._directions(number, states) for number in range(len(network.layers))]

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self.K, *shape, device=self.device)

    def _noise(self, dropout: bool) -> Drawn:
        """Make the arrays of noise."""
        model, levels = self.network.model, len(self.network.layers) * self.network.directions
        K, T, H, B, states = self.K, self.T, self.H, self.B, self.network.layers[0][0][1].states
        drawn = Drawn()
        for number in range(1, len(self.network.layers) if dropout else 0):
            drawn.dropout[number] = torch.ones(K, T, self.width, B, device=self.device)
        if model.recurrent_dropout:
            drawn.recurrent = [torch.ones(K, H, B, device=self.device) for _ in range(levels)]
        if model.zoneout:
            drawn.zoneout = [self._zeros(T, states, H, B) for _ in range(levels)]
        return drawn

    def _make_head(self, precision: str) -> None:
        network, at = self.network, offsets(self.network)
        self.head = Head(
            self.goal, network.outputs, self.width,
            weight=at["head.weight"], bias=at["head.bias"], precision=precision,
        )  # fmt: skip
        every = self.goal.every_step
        h = self.outputs[-1] if every else self.summary
        self.answers = Answers(
            h, self.examples.targets, self.index, self.lengths, self.asked, self.parameters,
            **self.head.answers(self.K, self.T if every else 1, self.B, self.device),
            d_h=torch.zeros_like(h) if self.training else None,
            parts=self.parts if self.training else None,
        )  # fmt: skip

    def _directions(self, number: int, states: int) -> list[Layer]:
        """Make the arrays of a layer, for each of its directions."""
        network, scan, at = self.network, self.scans[number], offsets(self.network)
        size = self.width if number else network.input_size
        if number:
            dropout = self.drawn.dropout.get(number)
            inputs = Inputs(HIDDEN, self.outputs[number - 1], size, self.index, dropout=dropout)
        else:
            e = self.examples
            inputs = Inputs(e.kind, e.inputs, size, self.index, e.scale, e.shift)
        top = number == len(network.layers) - 1
        mean = network.model.readout is Readout.mean
        reads = EVERY if self.goal.every_step or not top else MEAN if mean else LAST
        above = self.answers.d_h if top else self.d_outputs[number % 2] if self.training else None
        found = []
        for direction, (suffix, cell) in enumerate(network.layers[number]):
            level = number * network.directions + direction
            names = cell.all_shapes(size)
            own = {name: at[f"rnn.{name}{suffix}"] for name in names}
            kept = (scan.kept, scan.kept_rows) if self.training else (0, 0)
            found.append(Layer(
                inputs, self.steps, self.parameters, own, self.outputs[number], direction * self.H,
                others=self._zeros(self.T, states - 1, self.H, self.B),
                kept=self._zeros(self.T, kept[0], self.H, self.B),
                kept_rows=self._zeros(self.T, kept[1], self.B),
                summary=self.summary, parts=self.parts, reverse=direction == 1, reads=reads,
                initial=own.get("initial"),
                carried=self.carried[level] if self.carried else None,
                fresh=self.fresh if self.carried else None,
                left=self.left[level] if self.carried else None,
                mask=self.drawn.recurrent[level] if self.drawn.recurrent else None,
                zone=self._zone(level, direction == 1),
                zone_rate=network.model.zoneout or 0.0,
                d_outputs=above if reads == EVERY else None,
                d_summary=above if reads != EVERY else None,
                d_x=self.d_outputs[(number - 1) % 2] if number and self.training else None,
                add=direction == 1,
            ))  # fmt: skip
        return found

    def _zone(self, level: int, reverse: bool) -> Tensor | None:
        """Return the factors of zoneout of a level by places in time, as its kernels read them.

        Those of the reverse direction are drawn in the order of its steps where examples have lengths.
        """
        drawn = self.drawn.zoneout
        if not drawn or not (reverse and self.examples.lengths is not None):
            return drawn[level] if drawn else None
        self.turned[level] = torch.zeros_like(drawn[level])
        return self.turned[level]

    def _turn_zones(self) -> None:
        """Write the factors of zoneout of reverse directions at their places in time."""
        for level, zone in self.turned.items():
            flat = self.drawn.zoneout[level].view(self.K, self.T, -1, self.B)
            zone.copy_(flipped(flat, self.lengths).view(zone.shape))

    def run(self) -> None:
        """Compute the minibatch `index` with `parameters`, and its gradient where it is training."""
        self._count_steps()
        self._turn_zones()
        for number, layer in enumerate(self.layers):
            for direction in layer:
                self.scans[number].forward(direction, self.training)
        self.head.forward(self.answers, self.training)
        if self.training:
            self.head.backward(self.answers)
            for number in reversed(range(len(self.layers))):
                for direction in self.layers[number]:
                    self.scans[number].backward(direction)
            sums.gradient_of(self.parts, self.gradient, self.squares)
            sums.norms(self.squares, self.norm)
        sums.totals(
            self.answers.losses, self.answers.hits, self.answers.count, self.index, self.sums,
            self.norm if self.training else None,
        )  # fmt: skip
        for carried, left in zip(self.carried, self.left, strict=True):
            carried.copy_(left)
        self.fresh.zero_()

    def _count_steps(self) -> None:
        """Write the steps of each example, and how many answers it is asked for: 0 where there is none."""
        lengths = self.examples.lengths
        steps = self.T if lengths is None else lengths[self.index.clamp(min=0)]
        self.lengths.copy_(torch.where(self.index >= 0, steps, 0))
        if self.asked is not self.lengths:
            classes = self.examples.targets[self.index.clamp(min=0)]  # (K, B, T)
            step = torch.arange(classes.shape[2], device=self.device)
            self.asked.copy_(((classes >= 0) & (step < self.lengths.unsqueeze(-1))).sum(-1))
        if self.steps is not self.lengths:
            self.steps.copy_(torch.where(self.index >= 0, self.T, 0))


def offsets(network: Network) -> dict[str, int]:
    """Return where each weight begins in a row of a trial's parameters."""
    found, at = {}, 0
    for name, shape in network.shapes.items():
        found[name], at = at, at + math.prod(shape)
    return found
