"""The linear recurrent units of Orvieto et al. 2023 (LRU) and De et al. 2024 (RG-LRU, of Griffin).

x (input, B); states and gates (hidden, B); s is the logistic function, * goes by elements.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rnnbench.nn.cells.cell import Cell, Layer, State, Weights
from rnnbench.nn.cells.linear import LinearCell, Vector


def unit(weight: Tensor, hidden_size: int) -> Tensor:
    """Return freshly drawn numbers, uniform in +-1/sqrt(hidden), as uniform in (0, 1)."""
    return ((weight * math.sqrt(hidden_size) + 1) / 2).clamp(1e-6, 1 - 1e-6)


class RGLRU(LinearCell):
    """Real-gated linear recurrent unit (De et al. 2024, Griffin, arXiv 2402.19427).

        r = s(W_r x + b_r)               recurrence gate
        i = s(W_i x + b_i)               input gate
        a = s(L) ** (8 r)
        h = a * h- + sqrt(1 - a ** 2) * i * (W_v x + b_v)

    At the start s(L) ** 2 is uniform from 0.9 ** 2 to 0.999 ** 2, as in their code
    (github.com/google-deepmind/recurrentgemma, recurrentgemma/torch/layers.py). What departs from it: their
    code does not scale the first step's input by sqrt(1 - a ** 2); here all steps are scaled, as in the
    equation. Their x has the width of h, since a linear layer stands before: W_v is that layer, and the gates
    read x itself, with full matrices in place of blocks. Below 2.5e-7, 1 - a ** 2 is taken as that: their
    code bounds the gradient of the root there.
    Parameters of a layer: hidden (3 input + 4).
    """

    name = "rglru"
    gates = 3
    activations = ("r", "a", "i")

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(input_size) | {"decay": (self.hidden_size,)}

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        low, high = 0.9**2, 0.999**2
        radius = (low + (high - low) * unit(weights["decay"], self.hidden_size)).sqrt()
        weights["decay"].copy_(radius.logit())
        super().start(weights, generator)

    def terms(self, inputs: tuple[Tensor, ...], vector: Vector) -> tuple[Tensor, Tensor]:
        r, i, v = inputs
        a = (8 * r.sigmoid() * logsigmoid(vector("decay"))).exp()
        return a, (1 - a * a).clamp(min=2.5e-7).sqrt() * i.sigmoid() * v


class LRU(Cell):
    """Linear recurrent unit: a complex diagonal one (Orvieto et al. 2023, arXiv 2303.06349, appendix A).

        l = exp(-exp(nu) + j exp(theta))
        z = l * z- + exp(gamma) * (B x)
        y = Re(C z) + D x + b

    z is complex, and kept as real and imaginary part. weight_ih stacks the real part of B, its imaginary
    part, and D, which is a full matrix here, since x and y may differ in width; b is not theirs. weight_c has
    the real part of C and minus its imaginary part side by side. At the start l is uniform in the unit disc,
    gamma normalises by sqrt(1 - |l| ** 2), and B, C have their deviations, drawn uniformly.
    Parameters of a layer: hidden (3 input + 2 hidden + 4).
    """

    name = "lru"
    gates, states, recurrent = 3, 3, False

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        vectors = dict.fromkeys(("nu", "theta", "gamma", "bias"), (H,))
        return {"weight_ih": (3 * H, input_size), "weight_c": (H, 2 * H), **vectors}

    def bias(self, weights: Weights) -> Tensor:
        b = weights["bias"]
        return torch.cat([torch.zeros_like(b), torch.zeros_like(b), b], 1)

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        H, inputs = self.hidden_size, weights["weight_ih"].shape[-1]
        size = unit(weights["nu"], H).sqrt()  # |l|: its square is uniform
        weights["nu"].copy_((-size.log()).log())
        weights["theta"].copy_((2 * math.pi * unit(weights["theta"], H)).log())
        weights["gamma"].copy_((1 - size**2).sqrt().log())
        weights["weight_ih"][:, : 2 * H] *= math.sqrt(3 * H / (2 * inputs))
        weights["weight_c"] *= math.sqrt(3)
        super().start(weights, generator)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        _, re, im = state
        b_re, b_im, d = a.split(self.hidden_size, 1)
        size, angle, scale = (-layer["nu"].exp()).exp(), layer["theta"].exp(), layer["gamma"].exp()
        l_re, l_im = size * angle.cos(), size * angle.sin()
        re, im = l_re * re - l_im * im + scale * b_re, l_im * re + l_re * im + scale * b_im
        return torch.baddbmm(d, layer["weight_c"], torch.cat([re, im], 1)), re, im
