"""The update gate RNN and the intersection RNN of Collins, Sohl-Dickstein, Sussillo 2017 (arXiv 1611.09913).

x (input, B); h and the gates (hidden, B); s is the logistic function, * goes by elements. weight_ih stacks
the W by rows in the order of the equations, weight_hh the R. TensorFlow 1 has both cells
(tensorflow/contrib/rnn/python/ops/rnn_cell.py): it adds 1 to what its gates are functions of.
"""

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import Cell, Layer, State, Weights


class UGRNN(Cell):
    """Update gate RNN: one gate between the old state and a candidate (Collins et al. 2017).

        n = tanh(W_n x + R_n h- + b_n)
        g = s(W_g x + R_g h- + b_g)
        h = g * h- + (1 - g) * n

    With model.forget_bias=1 the gate begins as TensorFlow has it.
    Parameters of a layer: 2 hidden (input + hidden + 1).
    """

    name = "ugrnn"
    gates, forget_gate, candidate = 2, 1, 0
    activations = ("n", "g")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h,), H = state, self.hidden_size
        n, g = layer.recurrent(h, a).split(H, 1)
        return (torch.lerp(n.tanh(), h, g.sigmoid()),)


class IntersectionRNN(Cell):
    """Intersection RNN, +RNN: a gate in depth beside the gate in time (Collins et al. 2017).

        u = relu(W_u x + R_u h- + b_u)     candidate of the output
        n = tanh(W_n x + R_n h- + b_n)     candidate of the state
        p = s(W_p x + R_p h- + b_p)        gate in depth
        g = s(W_g x + R_g h- + b_g)        gate in time
        y = p * (P x) + (1 - p) * u
        h = g * h- + (1 - g) * n

    y is the output, h the state. P brings x to the width of h; the paper writes x itself, which does not fit
    where the widths differ. It is learned. TensorFlow reads P x plus a bias in the gates, too; here they
    read x. Parameters of a layer: hidden (5 input + 4 hidden + 4).
    """

    name = "intersection"
    gates, states, forget_gate, candidate = 5, 2, 3, 1
    activations = ("p", "n", "g")

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        return {"weight_ih": (5 * H, input_size), "weight_hh": (4 * H, H), "bias": (4 * H,)}

    def bias(self, weights: Weights) -> Tensor:
        b = weights["bias"]
        return torch.cat([b, torch.zeros_like(b[:, : self.hidden_size])], 1)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (_, h), H = state, self.hidden_size
        gates, x = a.split([4 * H, H], 1)
        u, n, p, g = layer.recurrent(h, gates).split(H, 1)
        return torch.lerp(u.relu(), x, p.sigmoid()), torch.lerp(n.tanh(), h, g.sigmoid())
