"""The plain recurrence, as torch.nn.RNN defines it, and with an identity start."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from rnnbench.config import Model, Nonlinearity
from rnnbench.nn.cells.cell import Layer, State, TorchCell, Weights


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
