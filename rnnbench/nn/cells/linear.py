"""Cells whose state is h = a * h- + b, with a and b known for all steps beforehand.

No step has to wait for the one before: `scan` takes of the order of sqrt(T) steps one after the other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import NONE, Cell, Layer, Noise, State, Weights

Vector = Callable[[str], Tensor]  # gives a weight vector, spread as W x is


class LinearCell(Cell):
    """A cell with gates of the input alone; a subclass has `terms`.

    Parameters of a layer: gates hidden (input + 1), if nothing is added in `shapes`.
    """

    recurrent = False

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows = self.gates * self.hidden_size
        return {"weight_ih": (rows, input_size), "bias": (rows,)}

    def terms(self, inputs: tuple[Tensor, ...], vector: Vector) -> tuple[Tensor, Tensor]:
        """Return what h- is multiplied by, and what is added to that, of W x + b by gate."""
        raise NotImplementedError

    def unroll(
        self, x: Tensor, weights: Weights, state: State | None, noise: Noise = NONE, reverse: bool = False
    ) -> tuple[Tensor, State]:
        x = x.flip(1) if reverse else x
        layer = Layer(weights, None, self.model.layer_norm)
        inputs = self.project(x, layer).transpose(1, 2).split(self.hidden_size, 2)  # (K, T, hidden, B) each
        (before,) = self.initial(x, weights) if state is None else state
        h = scan(*self.terms(inputs, lambda name: layer[name].unsqueeze(1)), before)
        return h.flip(1) if reverse else h, (h[:, -1],)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        decay, entering = self.terms(a.split(self.hidden_size, 1), layer.__getitem__)
        return (decay * state[0] + entering,)


def scan(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    """Compute h_t = a_t h_{t-1} + b_t for all t; a, b (K, T, hidden, B), `before` (K, hidden, B) is h_0."""
    h: Tensor = Scan.apply(a, b, before)
    return h


class Scan(torch.autograd.Function):
    """Computes `scan`, and its gradient by the same recurrence backwards, g_t = d_t + a_{t+1} g_{t+1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, before: Tensor) -> Tensor:
        h = recurrence(a, b, before)
        ctx.save_for_backward(a, h, before)
        return h

    @staticmethod
    def backward(ctx: Any, d_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, before = ctx.saved_tensors
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        d_b = recurrence(later, d_h, torch.zeros_like(before), reverse=True)
        d_a = torch.empty_like(a)
        torch.mul(d_b[:, 1:], h[:, :-1], out=d_a[:, 1:])
        torch.mul(d_b[:, 0], before, out=d_a[:, 0])
        return d_a, d_b, a[:, 0] * d_b[:, 0]


def recurrence(a: Tensor, b: Tensor, before: Tensor, reverse: bool = False) -> Tensor:
    """Compute h_t = a_t h_{t-1} + b_t, (K, T, hidden, B); reverse: a_t h_{t+1} + b_t, from `before`.

    Of the order of sqrt(T) steps one after the other. All chunks of about sqrt(T) steps go side by side,
    twice: from 0, for what each chunk does to the state that enters it, then from that very state.
    """
    T = b.shape[1]
    size = max(1, int(T**0.5))
    whole = T // size * size
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    # The steps that fill no chunk come last, one by one.
    first, rest = (
        (slice(T - whole, T), range(T - whole - 1, -1, -1)) if reverse else (slice(whole), range(whole, T))
    )
    a_, b_, h_ = (
        part[:, first].unflatten(1, (-1, size)) for part in (a, b, h)
    )  # (K, chunks, size, hidden, B)
    order = range(size - 1, -1, -1) if reverse else range(size)
    left, decay = torch.zeros_like(b_[:, :, 0]), torch.ones_like(b_[:, :, 0])
    for t in order:
        torch.addcmul(b_[:, :, t], a_[:, :, t], left, out=left)
        decay *= a_[:, :, t]
    enters = torch.empty_like(left)
    chunks = range(left.shape[1])
    for chunk in reversed(chunks) if reverse else chunks:
        enters[:, chunk] = before
        before = torch.addcmul(left[:, chunk], decay[:, chunk], before)
    for t in order:
        torch.addcmul(b_[:, :, t], a_[:, :, t], enters, out=h_[:, :, t])
        enters = h_[:, :, t]
    for t in rest:
        before = torch.addcmul(b[:, t], a[:, t], before, out=h[:, t])
    return h
