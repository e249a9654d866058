"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs All We Needed?"): gates that see the input alone.

Their state is h = a * h- + b with a and b known for all steps beforehand, so that no step has to wait for
the one before: `scan` takes of the order of sqrt(T) steps one after the other, and `log_scan` one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from rnnbench.cells.cell import NONE, Cell, Layer, Noise, State, Weights


class MinGRU(Cell):
    """mingru.

        z = s(W_z x + b_z)
        n = W_n x + b_n           positive: n = g(W_n x + b_n), g(a) = a + 0.5 for a >= 0, s(a) below
        h = (1 - z) * h- + z * n

    x (input, B), h (hidden, B). With model.positive=true the candidates are above 0 and all is computed by
    logarithms, as the paper does for stability. Parameters of a layer: 2 hidden (input + 1).
    """

    gates, recurrent = 2, False

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

    def states_of(self, inputs: tuple[Tensor, ...], before: Tensor) -> Tensor:
        """h (K, T, hidden, B) of W x + b, by gate, (K, T, hidden, B) each."""
        z, n = inputs
        if self.model.positive:
            return log_scan(-softplus(z), logsigmoid(z) + log_g(n), before)
        z = z.sigmoid()
        return scan(1 - z, z * n, before)


class MinLSTM(MinGRU):
    """minlstm.

        f = s(W_f x + b_f)
        i = s(W_i x + b_i)        normalised: f / (f + i) and i / (f + i) in their place
        n = W_n x + b_n           positive: as in minGRU
        h = f * h- + i * n

    Parameters of a layer: 3 hidden (input + 1).
    """

    gates, forget_gate = 3, 0

    def states_of(self, inputs: tuple[Tensor, ...], before: Tensor) -> Tensor:
        f, i, n = inputs
        log_f, log_i = logsigmoid(f), logsigmoid(i)
        if self.model.normalised:
            both = torch.logaddexp(log_f, log_i)
            log_f, log_i = log_f - both, log_i - both
        if self.model.positive:
            return log_scan(log_f, log_i + log_g(n), before)
        return scan(log_f.exp(), log_i.exp() * n, before)


def log_g(a: Tensor) -> Tensor:
    """log g(a), g(a) = a + 0.5 for a >= 0 and s(a) below: above 0, and continuous."""
    return torch.where(a >= 0, (a.clamp(min=0) + 0.5).log(), logsigmoid(a))


def scan(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t for all t; a, b (K, T, hidden, B), `before` (K, hidden, B) is h_0."""
    h: Tensor = Scan.apply(a, torch.cat([b[:, :1] + a[:, :1] * before.unsqueeze(1), b[:, 1:]], 1))
    return h


class Scan(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t from h_0 = 0, all chunks of about sqrt(T) steps side by side.

    Its gradient at b is the same recurrence backwards: g_t = d_t + a_{t+1} g_{t+1}.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = recurrence(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, d_h: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        d_b = recurrence(later.flip(1), d_h.flip(1)).flip(1)
        d_a = torch.cat([torch.zeros_like(h[:, :1]), d_b[:, 1:] * h[:, :-1]], 1)
        return d_a, d_b


def recurrence(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t from 0, (K, T, ...): in two levels of about sqrt(T) steps each.

    First every chunk from a state of 0, all chunks at once; then the state with which each chunk begins;
    then what that state contributes to each of its steps.
    """
    K, T = a.shape[:2]
    size = max(1, int(T**0.5))
    chunks = -(-T // size)
    pad = chunks * size - T
    if pad:
        a, b = (torch.cat([part, part.new_zeros(K, pad, *part.shape[2:])], 1) for part in (a, b))
    a, b = (part.view(K, chunks, size, *part.shape[2:]) for part in (a, b))
    h, decay = b.clone(), a.clone()  # decay: the product of a from the chunk's first step on
    for t in range(1, size):
        h[:, :, t].addcmul_(a[:, :, t], h[:, :, t - 1])
        decay[:, :, t] *= decay[:, :, t - 1]
    for chunk in range(1, chunks):
        h[:, chunk].addcmul_(decay[:, chunk], h[:, chunk - 1, -1:])
    return h.view(K, chunks * size, *h.shape[3:])[:, :T]


def log_scan(log_a: Tensor, log_b: Tensor, before: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t for a and b above 0, by their logarithms (Heinsen 2023).

    log h_t = A_t + log(h_0 + sum_s exp(log b_s - A_s)), A_t the sum of log a up to t.
    """
    summed = log_a.cumsum(1)
    log_h = summed + (log_b - summed).logcumsumexp(1)
    return log_h.exp() + summed.exp() * before.unsqueeze(1)
