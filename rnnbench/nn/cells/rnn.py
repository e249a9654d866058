"""The plain recurrence, as torch.nn.RNN defines it, and with an identity start."""

import math
from typing import Any

import torch
from torch import Tensor

from rnnbench.config import Model, Nonlinearity
from rnnbench.nn.cells.cell import NONE, Layer, Noise, State, TorchCell, Weights


class RNN(TorchCell):
    """Simple recurrence (Elman 1990) with tanh or relu.

        h = tanh(W x + b + R h- + c)

    x (input, B), h (hidden, B). Parameters of a layer: hidden (input + hidden + 2).
    """

    name = "rnn"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.relu = model.nonlinearity is Nonlinearity.relu

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        a = layer.recurrent(state[0], a)
        return (a.relu() if self.relu else a.tanh(),)

    def __call__(self, x: Tensor, weights: Weights, reverse: bool, noise: Noise = NONE) -> Tensor:
        if not self.plain:
            return super().__call__(x, weights, reverse, noise)
        bias = weights["bias_ih"] + weights["bias_hh"]
        h: Tensor = RNNLayer.apply(x, weights["weight_ih"], weights["weight_hh"], bias, self.relu, reverse)
        return h


class IRNN(RNN):
    """The plain recurrence with relu that begins as the identity (Le, Jaitly, Hinton 2015).

        h = relu(W x + b + R h- + c),  at the start R = 1, b = c = 0, W of deviation 0.001

    W is drawn uniformly here, with the deviation of their normal distribution. Parameters of a layer:
    hidden (input + hidden + 2).
    """

    name = "irnn"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.relu = True

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        weights["weight_ih"] *= 0.001 * math.sqrt(3 * self.hidden_size)
        weights["weight_hh"].copy_(torch.eye(self.hidden_size))
        weights["bias_ih"].zero_()
        weights["bias_hh"].zero_()
        super().start(weights, generator)


class RNNLayer(torch.autograd.Function):
    """Computes all steps of one layer, with a hand-written backward pass; buffers are time-major."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, relu: bool, reverse: bool
    ) -> Tensor:
        (K, T, _, B), H = x.shape, w_hh.shape[-1]
        h = x.new_empty(T, K, H, B)
        before = None  # the step before t, in the direction of the recurrence
        for t in reversed(range(T)) if reverse else range(T):
            a = torch.baddbmm(bias.unsqueeze(-1), w_ih, x[:, t], out=h[t])
            if before is not None:
                a.baddbmm_(w_hh, h[before])
            a.relu_() if relu else a.tanh_()
            before = t
        ctx.save_for_backward(x, w_ih, w_hh, h)
        ctx.relu, ctx.reverse = relu, reverse
        return h.transpose(0, 1)  # (K, T, H, B)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h = ctx.saved_tensors
        T, K, H, B = h.shape
        d_x = x.new_empty(T, K, x.shape[2], B) if ctx.needs_input_grad[0] else None
        d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        d_bias = x.new_zeros(K, H)
        d_a = x.new_empty(K, H, B)  # gradient before the nonlinearity
        d_h = x.new_zeros(K, H, B)
        steps = list(range(T) if ctx.reverse else reversed(range(T)))
        for n, t in enumerate(steps):
            d_h += grad_h[:, t]
            if ctx.relu:
                torch.mul(d_h, h[t] > 0, out=d_a)
            else:
                torch.ops.aten.tanh_backward.grad_input(d_h, h[t], grad_input=d_a)
            d_w_ih.baddbmm_(d_a, x[:, t].transpose(1, 2))
            d_bias += d_a.sum(-1)
            if n + 1 < T:
                d_w_hh.baddbmm_(d_a, h[steps[n + 1]].transpose(1, 2))
                torch.bmm(w_hh.transpose(1, 2), d_a, out=d_h)
            if d_x is not None:
                torch.bmm(w_ih.transpose(1, 2), d_a, out=d_x[t])
        return None if d_x is None else d_x.transpose(0, 1), d_w_ih, d_w_hh, d_bias, None, None
