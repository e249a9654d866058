"""GRU, as torch.nn.GRU defines it."""

from typing import Any

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import NONE, Layer, Noise, State, TorchCell, Weights

aten = torch.ops.aten


class GRU(TorchCell):
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the recurrent product.

        r = s(W_r x + b_r + R_r h- + c_r)             reset gate
        z = s(W_z x + b_z + R_z h- + c_z)             update gate
        n = tanh(W_n x + b_n + r * (R_n h- + c_n))    candidate
        h = (1 - z) * n + z * h-

    x (input, B); h and the gates (hidden, B). weight_ih stacks W_r, W_z, W_n by rows, weight_hh the
    R. Parameters of a layer: 3 hidden (input + hidden + 2).
    """

    name = "gru"
    gates, candidate = 3, 2

    def bias(self, weights: Weights) -> Tensor:
        return weights["bias_ih"]  # the other bias is multiplied by the reset gate

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,) = state
        r, z, n = a.split(self.hidden_size, 1)
        u_r, u_z, u_n = layer.recurrent(h, layer["bias_hh"].expand_as(a)).split(self.hidden_size, 1)
        n = (n + (r + u_r).sigmoid() * u_n).tanh()
        return (torch.lerp(n, h, (z + u_z).sigmoid()),)

    def __call__(self, x: Tensor, weights: Weights, reverse: bool, noise: Noise = NONE) -> Tensor:
        if not self.plain:
            return super().__call__(x, weights, reverse, noise)
        h: Tensor = GRULayer.apply(
            x, weights["weight_ih"], weights["weight_hh"], weights["bias_ih"], weights["bias_hh"], reverse
        )
        return h


class GRULayer(torch.autograd.Function):
    """Computes all steps of one layer, with a hand-written backward pass; buffers are time-major."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, reverse: bool
    ) -> Tensor:
        (K, T, _, B), H = x.shape, w_hh.shape[-1]
        b_ih, b_hh = b_ih.unsqueeze(-1), b_hh.unsqueeze(-1)  # (K, 3H, 1)
        gates = x.new_empty(T, K, 3 * H, B)  # r, z, n after their nonlinearity
        r_n = x.new_empty(T, K, H, B)  # R_n h- + c_n
        recurrent = x.new_empty(K, 3 * H, B)  # R h- + c
        h = x.new_empty(T, K, H, B)
        before = None  # the step before t, in the direction of the recurrence
        for t in reversed(range(T)) if reverse else range(T):
            a = torch.baddbmm(b_ih, w_ih, x[:, t], out=gates[t])
            if before is None:
                recurrent.copy_(b_hh.expand_as(recurrent))
            else:
                torch.baddbmm(b_hh, w_hh, h[before], out=recurrent)
            _, z, n = a.split(H, 1)
            a[:, : 2 * H].add_(recurrent[:, : 2 * H]).sigmoid_()
            r_n[t] = recurrent[:, 2 * H :]
            n.addcmul_(a[:, :H], r_n[t]).tanh_()
            if before is None:
                torch.addcmul(n, z, n, value=-1, out=h[t])
            else:
                torch.lerp(n, h[before], z, out=h[t])
            before = t
        ctx.save_for_backward(x, w_ih, w_hh, gates, r_n, h)
        ctx.reverse = reverse
        return h.transpose(0, 1)  # (K, T, H, B)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, r_n, h = ctx.saved_tensors
        T, K, H, B = h.shape
        d_x = x.new_empty(T, K, x.shape[2], B) if ctx.needs_input_grad[0] else None
        d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        d_b_ih, d_b_hh = x.new_zeros(K, 3 * H), x.new_zeros(K, 3 * H)
        d_a = x.new_empty(K, 3 * H, B)  # at r, z, n before their nonlinearity, on the input side
        d_u = x.new_empty(K, 3 * H, B)  # the same on the recurrent side: r, z alike, n times r
        d_r, d_z, d_n = d_a.split(H, 1)
        d_h = x.new_zeros(K, H, B)
        part, carried = torch.empty_like(d_h), torch.empty_like(d_h)
        steps = list(range(T) if ctx.reverse else reversed(range(T)))
        for m, t in enumerate(steps):
            before = steps[m + 1] if m + 1 < T else None
            r, z, n = gates[t].split(H, 1)
            d_h += grad_h[:, t]
            # h = n + z (h- - n)
            torch.sub(n, h[before], out=part) if before is not None else part.copy_(n)
            part.mul_(d_h).neg_()
            aten.sigmoid_backward.grad_input(part, z, grad_input=d_z)
            torch.mul(d_h, z, out=carried)
            torch.sub(d_h, carried, out=part)  # d_h (1 - z)
            aten.tanh_backward.grad_input(part, n, grad_input=d_n)
            torch.mul(d_n, r_n[t], out=part)
            aten.sigmoid_backward.grad_input(part, r, grad_input=d_r)
            d_u[:, : 2 * H] = d_a[:, : 2 * H]
            torch.mul(d_n, r, out=d_u[:, 2 * H :])
            d_w_ih.baddbmm_(d_a, x[:, t].transpose(1, 2))
            d_b_ih += d_a.sum(-1)
            d_b_hh += d_u.sum(-1)
            if before is not None:
                d_w_hh.baddbmm_(d_u, h[before].transpose(1, 2))
                torch.baddbmm(carried, w_hh.transpose(1, 2), d_u, out=d_h)
            if d_x is not None:
                torch.bmm(w_ih.transpose(1, 2), d_a, out=d_x[t])
        return None if d_x is None else d_x.transpose(0, 1), d_w_ih, d_w_hh, d_b_ih, d_b_hh, None
