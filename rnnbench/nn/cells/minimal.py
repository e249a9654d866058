"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201).

Their gates see the input alone. In the positive form both, minLSTM normalised, compute what
github.com/lucidrains/minGRU-pytorch does, which has no bias and is not the authors'.
"""

from typing import ClassVar

import torch
from torch import Tensor

from rnnbench.nn.cells.linear import LinearCell, Vector


class MinGRU(LinearCell):
    """minGRU: one gate that sees the input alone (Feng et al. 2024).

        z = s(W_z x + b_z)
        n = W_n x + b_n           positive: n = g(W_n x + b_n), g(a) = a + 0.5 for a >= 0, s(a) below
        h = (1 - z) * h- + z * n

    x (input, B), h (hidden, B). model.positive=true is the paper's log-space form, whose candidates are
    above 0 so that it can be computed by logarithms; the scan here needs none, and loses no digits to
    them. Parameters of a layer: 2 hidden (input + 1).
    """

    name = "mingru"
    options = frozenset({"positive"})
    gates = 2
    activations: ClassVar[tuple[str, ...]] = ("z",)

    def terms(self, inputs: tuple[Tensor, ...], vector: Vector) -> tuple[Tensor, Tensor]:
        z, n = inputs
        z = z.sigmoid()
        return 1 - z, z * (g(n) if self.model.positive else n)


class MinLSTM(MinGRU):
    """minLSTM: a forget gate and an input gate that see the input alone (Feng et al. 2024).

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

    def terms(self, inputs: tuple[Tensor, ...], vector: Vector) -> tuple[Tensor, Tensor]:
        f, i, n = (inputs[0].sigmoid(), inputs[1].sigmoid(), inputs[2])
        if self.model.normalised:
            f, i = f / (f + i), i / (f + i)
        return f, i * (g(n) if self.model.positive else n)


def g(a: Tensor) -> Tensor:
    """Return a + 0.5 for a >= 0 and s(a) below: positive and continuous."""
    return torch.where(a >= 0, a + 0.5, a.sigmoid())
