"""Gated units with fewer gates than an LSTM: the GRU as first written, MUT1 to 3, MGU, JANET, Li-GRU.

x (input, B); h and the gates (hidden, B); s is the logistic function, * goes by elements. weight_ih stacks
the W by rows in the order of the equations, weight_hh the R.
"""

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import Cell, Layer, State


class GRUv1(Cell):
    """gru_v1: the reset gate before the recurrent product (Cho et al. 2014; Chung et al. 2014, eq. 8-11).

        r = s(W_r x + R_r h- + b_r)
        z = s(W_z x + R_z h- + b_z)
        n = tanh(W_n x + R_n (r * h-) + b_n)
        h = (1 - z) * h- + z * n

    Parameters of a layer: 3 hidden (input + hidden + 1).
    """

    name = "gru_v1"
    gates, candidate = 3, 2
    activations = ("r", "z", "n")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        gates, n = a.split([2 * H, H], 1)
        r, z = layer.recurrent(h, gates).sigmoid().split(H, 1)
        n = layer.recurrent(r * h, n, 2 * H).tanh()
        return (torch.lerp(h, n, z),)


class MUT1(Cell):
    """The first of the three best found by mutation (Jozefowicz, Zaremba, Sutskever 2015).

        z = s(W_z x + b_z)
        r = s(W_r x + R_r h- + b_r)
        n = tanh(R_n (r * h-) + tanh(P x) + b_n)
        h = n * z + h- * (1 - z)

    P brings x to the width of h; the paper writes x itself, which does not fit where the widths differ. It
    is learned. Parameters of a layer: hidden (3 input + 2 hidden + 3).
    """

    name = "mut1"
    gates, candidate = 3, 1
    activations = ("r", "tanh(P x)", "n", "z")

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        # b_n is apart, since it stands outside of the tanh of P x.
        return {"weight_ih": (3 * H, input_size), "weight_hh": (2 * H, H), "bias": (2 * H,), "bias_n": (H,)}

    def bias(self, weights: dict[str, Tensor]) -> Tensor:
        return torch.cat([weights["bias"], torch.zeros_like(weights["bias_n"])], 1)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        z, r, p = a.split(H, 1)
        r = layer.recurrent(h, r).sigmoid()
        n = layer.recurrent(r * h, p.tanh() + layer["bias_n"], H).tanh()
        return (torch.lerp(h, n, z.sigmoid()),)


class MUT2(Cell):
    """The second of the three best found by mutation (Jozefowicz, Zaremba, Sutskever 2015).

        z = s(W_z x + R_z h- + b_z)
        r = s(P x + R_r h- + b_r)
        n = tanh(R_n (r * h-) + W_n x + b_n)
        h = n * z + h- * (1 - z)

    P as in MUT1. Parameters of a layer: 3 hidden (input + hidden + 1).
    """

    name = "mut2"
    gates, candidate = 3, 2
    activations = ("z", "r", "n")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        gates, n = a.split([2 * H, H], 1)
        z, r = layer.recurrent(h, gates).sigmoid().split(H, 1)
        n = layer.recurrent(r * h, n, 2 * H).tanh()
        return (torch.lerp(h, n, z),)


class MUT3(Cell):
    """The third of the three best found by mutation (Jozefowicz, Zaremba, Sutskever 2015).

        z = s(W_z x + R_z tanh(h-) + b_z)
        r = s(W_r x + R_r h- + b_r)
        n = tanh(R_n (r * h-) + W_n x + b_n)
        h = n * z + h- * (1 - z)

    Parameters of a layer: 3 hidden (input + hidden + 1).
    """

    name = "mut3"
    gates, candidate = 3, 2
    activations = ("tanh(h-)", "z", "r", "n")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        z, r, n = a.split(H, 1)
        z = layer.recurrent(h.tanh(), z).sigmoid()
        r = layer.recurrent(h, r, H).sigmoid()
        n = layer.recurrent(r * h, n, 2 * H).tanh()
        return (torch.lerp(h, n, z),)


class MGU(Cell):
    """Minimal gated unit: one gate both forgets and resets (Zhou et al. 2016, equations 7a-7c).

        f = s(W_f x + R_f h- + b_f)
        n = tanh(W_n x + R_n (f * h-) + b_n)
        h = (1 - f) * h- + f * n

    Their forget gate forgets where it is 1, so a forget bias has no meaning here. Parameters of a layer:
    2 hidden (input + hidden + 1).
    """

    name = "mgu"
    gates, candidate = 2, 1
    activations = ("f", "n")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        f, n = a.split(H, 1)
        f = layer.recurrent(h, f).sigmoid()
        n = layer.recurrent(f * h, n, H).tanh()
        return (torch.lerp(h, n, f),)


class JANET(Cell):
    """Just another network: an LSTM's forget gate alone (van der Westhuizen and Lasenby 2018).

        q = W_f x + R_f h- + b_f
        n = tanh(W_n x + R_n h- + b_n)
        h = s(q) * h- + (1 - s(q - beta)) * n

    with beta = 1, as in their experiments: a little more is let in than is forgotten. Parameters of a
    layer: 2 hidden (input + hidden + 1).
    """

    name = "janet"
    gates, forget_gate, candidate = 2, 0, 1
    activations = ("s(q)", "1 - s(q - beta)", "n")
    BETA = 1.0

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        q, n = layer.recurrent(h, a).split(H, 1)
        return (q.sigmoid() * h + (self.BETA - q).sigmoid() * n.tanh(),)


class LiGRU(Cell):
    """Light GRU: no reset gate, and relu (Ravanelli et al. 2018, arXiv 1803.10225).

        z = s(W_z x + R_z h- + b_z)
        n = relu(W_n x + R_n h- + b_n)
        h = z * h- + (1 - z) * n

    As in their code (github.com/mravanelli/pytorch-kaldi, neural_networks.py, liGRU) without batch
    normalisation: with it, W x is normalised over the minibatch in place of the bias; here there is
    model.layer_norm, which normalises R h- too.
    Parameters of a layer: 2 hidden (input + hidden + 1).
    """

    name = "ligru"
    gates, forget_gate, candidate = 2, 0, 1
    activations = ("z",)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        z, n = layer.recurrent(h, a).split(H, 1)
        return (torch.lerp(n.relu(), h, z.sigmoid()),)
