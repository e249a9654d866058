"""The plain recurrence, as torch.nn.RNN defines it, with an identity start, and with independent units."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from rnnbench.config import Model, Nonlinearity
from rnnbench.nn.cells.cell import Cell, Layer, State, TorchCell, Weights


class RNN(TorchCell):
    """Simple recurrence (Elman 1990) with tanh or relu.

        h = tanh(W x + b + R h- + c)

    x (input, B), h (hidden, B). Parameters of a layer: hidden (input + hidden + 2).
    """

    name = "rnn"
    activations: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.relu = model.nonlinearity is Nonlinearity.relu

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        a = layer.recurrent(state[0], a)
        return (a.relu() if self.relu else a.tanh(),)


class IRNN(RNN):
    """The plain recurrence with relu that begins as the identity (Le, Jaitly, Hinton 2015).

        h = relu(W x + b + R h- + c),  at the start R = 1, b = c = 0, W of deviation 0.001

    W is drawn uniformly here, with the deviation of their normal distribution. Parameters of a layer:
    hidden (input + hidden + 2).
    """

    name = "irnn"
    activations = ()

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.relu = True

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        weights["weight_ih"] *= 0.001 * math.sqrt(3 * self.hidden_size)
        weights["weight_hh"].copy_(torch.eye(self.hidden_size))
        weights["bias_ih"].zero_()
        weights["bias_hh"].zero_()
        super().start(weights, generator)


class IndRNN(Cell):
    """Independently recurrent network: a unit sees its own past alone (Li et al. 2018, equation 2).

        h = relu(W x + u * h- + b),  at the start u uniform in [0, 1)

    x (input, B); h (hidden, B); u (hidden, 1). relu and the start are those of their code
    (github.com/Sunnydreamrain/IndRNN_pytorch, IndRNN_onlyrecurrent.py), in which W x + b is a layer of its
    own. They bound |u| while training; here nothing does. Parameters of a layer: hidden (input + 2).
    """

    name = "indrnn"
    recurrent = False

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        return {"weight_ih": (H, input_size), "u": (H,), "bias": (H,)}

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        weights["u"].mul_(math.sqrt(self.hidden_size)).add_(1).div_(2)
        super().start(weights, generator)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        return ((a + layer["u"] * state[0]).relu(),)
