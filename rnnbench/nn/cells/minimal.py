"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs All We Needed?"): gates that see the input alone.

Their state is h = a * h- + b with a and b known for all steps beforehand, so that no step has to wait for
the one before: `scan` takes of the order of sqrt(T) steps one after the other.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import NONE, Cell, Layer, Noise, State, Weights


class MinGRU(Cell):
    """mingru.

        z = s(W_z x + b_z)
        n = W_n x + b_n           positive: n = g(W_n x + b_n), g(a) = a + 0.5 for a >= 0, s(a) below
        h = (1 - z) * h- + z * n

    x (input, B), h (hidden, B). model.positive=true is the paper's log-space form, whose candidates are
    above 0 so that it can be computed by logarithms; the scan here needs none, and loses no digits to
    them. Parameters of a layer: 2 hidden (input + 1).
    """

    name = "mingru"
    options = frozenset({"positive"})
    gates, recurrent = 2, False
    activations: ClassVar[tuple[str, ...]] = ("z",)

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows = self.gates * self.hidden_size
        return {"weight_ih": (rows, input_size), "bias": (rows,)}

    def unroll(
        self, x: Tensor, weights: Weights, state: State | None, noise: Noise = NONE, reverse: bool = False
    ) -> tuple[Tensor, State]:
        x = x.flip(1) if reverse else x
        inputs = self.project(x, Layer(weights, None, self.model.layer_norm)).transpose(1, 2)
        (before,) = self.initial(x, weights) if state is None else state
        h = self.states_of(inputs.split(self.hidden_size, 2), before)
        return h.flip(1) if reverse else h, (h[:, -1],)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        decay, entering = self.terms(a.split(self.hidden_size, 1))
        return (decay * state[0] + entering,)

    def states_of(self, inputs: tuple[Tensor, ...], before: Tensor) -> Tensor:
        """Return h (K, T, hidden, B) of W x + b, by gate, (K, T, hidden, B) each."""
        return scan(*self.terms(inputs), before)

    def terms(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return what h- is multiplied by, and what is added to that, of W x + b by gate."""
        z, n = inputs
        z = z.sigmoid()
        return 1 - z, z * (g(n) if self.model.positive else n)


class MinLSTM(MinGRU):
    """minlstm.

        f = s(W_f x + b_f)
        i = s(W_i x + b_i)        normalised: f / (f + i) and i / (f + i) in their place
        n = W_n x + b_n           positive: as in minGRU
        h = f * h- + i * n

    Parameters of a layer: 3 hidden (input + 1).
    """

    name = "minlstm"
    options = frozenset({"positive", "normalised"})
    gates, forget_gate = 3, 0
    activations = ("f", "i")

    def terms(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        f, i, n = (inputs[0].sigmoid(), inputs[1].sigmoid(), inputs[2])
        if self.model.normalised:
            f, i = f / (f + i), i / (f + i)
        return f, i * (g(n) if self.model.positive else n)


def g(a: Tensor) -> Tensor:
    """Return a + 0.5 for a >= 0 and s(a) below: positive and continuous."""
    return torch.where(a >= 0, a + 0.5, a.sigmoid())


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
