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
    activations = ("r", "n", "z")

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
        b_hh = b_hh.unsqueeze(-1)  # (K, 3H, 1)
        gates = torch.matmul(w_ih, x.transpose(0, 1)).add_(b_ih.unsqueeze(-1))  # (T, K, 3H, B)
        r_n = x.new_empty(T, K, H, B)  # R_n h- + c_n
        recurrent = x.new_empty(K, 3 * H, B)  # R h- + c
        h = x.new_empty(T, K, H, B)
        before = None  # the step before t, in the direction of the recurrence
        for t in reversed(range(T)) if reverse else range(T):
            if before is None:
                recurrent.copy_(b_hh.expand_as(recurrent))
            else:
                torch.baddbmm(b_hh, w_hh, h[before], out=recurrent)
            r, z, n = gates[t].split(H, 1)  # after their nonlinearity:
            gates[t, :, : 2 * H].add_(recurrent[:, : 2 * H]).sigmoid_()
            r_n[t] = recurrent[:, 2 * H :]
            n.addcmul_(r, r_n[t]).tanh_()
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
        steps = list(range(T) if ctx.reverse else reversed(range(T)))
        by_u, by_n = factors(gates, r_n, h, steps)
        d_x = x.new_empty(T, K, x.shape[2], B) if ctx.needs_input_grad[0] else None
        d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        sum_u, sum_n = x.new_zeros(K, 3 * H, B), x.new_zeros(K, H, B)  # over time
        d_a = x.new_empty(K, 3 * H, B)  # at r, z, n before their nonlinearity
        blocks = d_a.view(K, 3, H, B)
        d_h = grad_h[:, steps[0]]
        for t, before in zip(steps, [*steps[1:], None], strict=True):
            torch.mul(d_h.unsqueeze(1), by_u[t].view_as(blocks), out=blocks)  # on the recurrent side
            sum_u += d_a
            d_before = d_h  # of the first step, which has none before it: not used
            if before is not None:
                d_w_hh.baddbmm_(d_a, h[before].transpose(1, 2))
                d_before = torch.addcmul(grad_h[:, before], d_h, gates[t, :, H : 2 * H])
                d_before.baddbmm_(w_hh.transpose(1, 2), d_a)
            sum_n += torch.mul(d_h, by_n[t], out=blocks[:, 2])  # r and z are the same on the input side
            d_w_ih.baddbmm_(d_a, x[:, t].transpose(1, 2))
            if d_x is not None:
                torch.bmm(w_ih.transpose(1, 2), d_a, out=d_x[t])
            d_h = d_before
        d_b_ih = torch.cat([sum_u[:, : 2 * H], sum_n], 1).sum(-1)
        d_x = None if d_x is None else d_x.transpose(0, 1)
        return d_x, d_w_ih, d_w_hh, d_b_ih, sum_u.sum(-1), None


def factors(gates: Tensor, r_n: Tensor, h: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
    """Return what the gradient at h is multiplied by, of all steps at once.

    Returns:
        (T, K, 3H, B): the gradient at R h- + c is this times that at h; (T, K, H, B): at W_n x + b_n.
    """
    r, z, n = gates.split(h.shape[2], 2)
    old = torch.zeros_like(h)  # h-
    old[steps[:-1]] = h[steps[1:]]
    by_u = torch.empty_like(gates)
    by_r, by_z, by_nr = by_u.split(h.shape[2], 2)
    aten.sigmoid_backward.grad_input(old.sub_(n), z, grad_input=by_z)
    by_n = aten.tanh_backward(1 - z, n)
    torch.mul(by_n, r, out=by_nr)
    aten.sigmoid_backward.grad_input(by_n * r_n, r, grad_input=by_r)
    return by_u, by_n
