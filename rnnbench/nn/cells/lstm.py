"""LSTM, as torch.nn.LSTM defines it."""

from typing import Any

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import NONE, Layer, Noise, State, TorchCell, Weights

aten = torch.ops.aten


class LSTM(TorchCell):
    """Long short-term memory with a forget gate and without peepholes (Gers et al. 2000).

        i = s(W_i x + b_i + R_i h- + c_i)      input gate
        f = s(W_f x + b_f + R_f h- + c_f)      forget gate
        g = tanh(W_g x + b_g + R_g h- + c_g)   candidate
        o = s(W_o x + b_o + R_o h- + c_o)      output gate
        c = f * c- + i * g
        h = o * tanh(c)

    x (input, B); h, c and the gates (hidden, B). weight_ih stacks W_i, W_f, W_g, W_o by rows,
    weight_hh the R; the two bias vectors b and c are torch's. Parameters of a layer:
    4 hidden (input + hidden + 2).
    """

    name = "lstm"
    gates, states, forget_gate, candidate = 4, 2, 1, 2
    activations = ("f", "i", "g", "o")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        h, c = state
        i, f, g, o = layer.recurrent(h, a).split(self.hidden_size, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def __call__(self, x: Tensor, weights: Weights, reverse: bool, noise: Noise = NONE) -> Tensor:
        if not self.plain or self.alone(x):
            return super().__call__(x, weights, reverse, noise)
        h: Tensor = LSTMLayer.apply(
            x, weights["weight_ih"], weights["weight_hh"], weights["bias_ih"], weights["bias_hh"], reverse
        )
        return h

    def alone(self, x: Tensor) -> bool:
        """Return whether x is one trial's on the CPU, where torch's own layer is three times as fast."""
        return len(x) == 1 and x.device.type == "cpu"

    def unroll(
        self, x: Tensor, weights: Weights, state: State | None, noise: Noise, reverse: bool
    ) -> tuple[Tensor, State]:
        if not self.plain or not self.alone(x):
            return super().unroll(x, weights, state, noise, reverse)
        steps = (x.flip(1) if reverse else x).squeeze(0).transpose(1, 2)  # (T, B, input)
        zero = x.new_zeros(1, x.shape[3], self.hidden_size)
        before = [part.transpose(1, 2).contiguous() for part in state] if state else [zero, zero]
        own = [weights[name].squeeze(0) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        # has_biases, one layer, no dropout of its own, whether it trains, directions, time first
        h, *after = torch.lstm(steps, before, own, True, 1, 0.0, torch.is_grad_enabled(), False, False)
        h = (h.flip(0) if reverse else h).transpose(1, 2).unsqueeze(0)
        return h, tuple(part.transpose(1, 2) for part in after)


class LSTMLayer(torch.autograd.Function):
    """Computes all steps of one layer, with a hand-written backward pass.

    Time-major buffers, so that a step's slice is contiguous and products write into it in place.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, reverse: bool
    ) -> Tensor:
        (K, T, _, B), H = x.shape, w_hh.shape[-1]
        bias = (b_ih + b_hh).unsqueeze(-1)  # (K, 4H, 1)
        gates = x.new_empty(T, K, 4 * H, B)  # i, f, g, o after their nonlinearity
        c = x.new_empty(T, K, H, B)
        tanh_c = x.new_empty(T, K, H, B)
        h = x.new_empty(T, K, H, B)
        before = None  # the step before t, in the direction of the recurrence
        for t in reversed(range(T)) if reverse else range(T):
            a = torch.baddbmm(bias, w_ih, x[:, t], out=gates[t])
            if before is not None:
                a.baddbmm_(w_hh, h[before])
            i, f, g, o = a.split(H, 1)  # (K, H, B) each
            a[:, : 2 * H].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(i, g, out=c[t])
            if before is not None:
                c[t].addcmul_(f, c[before])
            torch.tanh(c[t], out=tanh_c[t])
            torch.mul(o, tanh_c[t], out=h[t])
            before = t
        ctx.save_for_backward(x, w_ih, w_hh, gates, c, tanh_c, h)
        ctx.reverse = reverse
        return h.transpose(0, 1)  # (K, T, H, B)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, c, tanh_c, h = ctx.saved_tensors
        T, K, H, B = h.shape
        d_x = x.new_empty(T, K, x.shape[2], B) if ctx.needs_input_grad[0] else None
        d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        d_bias = x.new_zeros(K, 4 * H)
        d_a = x.new_empty(K, 4 * H, B)  # gradient at the gates before their nonlinearity
        d_i, d_f, d_g, d_o = d_a.split(H, 1)
        d_c = x.new_zeros(K, H, B)
        d_h, part = torch.empty_like(d_c), torch.empty_like(d_c)
        steps = list(range(T) if ctx.reverse else reversed(range(T)))
        for n, t in enumerate(steps):
            before = steps[n + 1] if n + 1 < T else None
            i, f, g, o = gates[t].split(H, 1)
            if n == 0:
                d_h.copy_(grad_h[:, t])
            else:
                torch.bmm(w_hh.transpose(1, 2), d_a, out=d_h)
                d_h += grad_h[:, t]
            torch.mul(d_h, tanh_c[t], out=part)
            aten.sigmoid_backward.grad_input(part, o, grad_input=d_o)
            torch.mul(d_h, o, out=part)
            d_c += aten.tanh_backward.grad_input(part, tanh_c[t], grad_input=part)
            torch.mul(d_c, g, out=part)
            aten.sigmoid_backward.grad_input(part, i, grad_input=d_i)
            torch.mul(d_c, i, out=part)
            aten.tanh_backward.grad_input(part, g, grad_input=d_g)
            if before is None:
                d_f.zero_()
            else:
                torch.mul(d_c, c[before], out=part)
                aten.sigmoid_backward.grad_input(part, f, grad_input=d_f)
                d_c *= f
                d_w_hh.baddbmm_(d_a, h[before].transpose(1, 2))
            d_w_ih.baddbmm_(d_a, x[:, t].transpose(1, 2))
            d_bias += d_a.sum(-1)
            if d_x is not None:
                torch.bmm(w_ih.transpose(1, 2), d_a, out=d_x[t])
        return None if d_x is None else d_x.transpose(0, 1), d_w_ih, d_w_hh, d_bias, d_bias, None
