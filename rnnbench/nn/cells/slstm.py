"""The sLSTM, as xLSTM has it: an LSTM whose gates are exponential."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rnnbench.nn.cells.cell import Cell, Layer, State


class SLSTM(Cell):
    """LSTM with an exponential input gate and a normaliser (Beck et al. 2024, xLSTM, arXiv 2405.04517).

        z = tanh(W_z x + R_z h- + b_z)
        i = W_i x + R_i h- + b_i           its exponential is the input gate
        f = log s(W_f x + R_f h- + b_f)    the forget gate's logarithm
        o = s(W_o x + R_o h- + b_o)
        m = max(f + m-, i)                 i where n- is 0, at the first step
        c = exp(f + m- - m) * c- + exp(i - m) * z
        n = exp(f + m- - m) * n- + exp(i - m)
        h = o * c / n

    x (input, B); h, c, n, m (hidden, B). m keeps the exponentials below 1; h is the same for any m. The paper
    lets the forget gate be a logistic function or an exponential: this is the first, which their code has
    (github.com/NX-AI/xlstm, xlstm/blocks/slstm/src/vanilla/slstm.py, whose order of gates is i, f, z, o).
    One head: R is a full matrix, theirs has one block for each of several heads.
    Parameters of a layer: 4 hidden (input + hidden + 1).
    """

    name = "slstm"
    gates, states, forget_gate, candidate = 4, 4, 2, 0
    activations = ("exp(f + m- - m)", "exp(i - m)", "z", "o")

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        h, c, n, m = state
        z, i, f, o = layer.recurrent(h, a).split(self.hidden_size, 1)
        kept = logsigmoid(f) + m
        m = torch.where(n == 0, i, torch.maximum(kept, i))
        forget, enter = (kept - m).clamp(max=0).exp(), (i - m).exp()
        c = forget * c + enter * z.tanh()
        n = forget * n + enter
        return o.sigmoid() * c / n, c, n, m
