"""The Legendre memory unit of Voelker, Kajic, Eliasmith 2019."""

from functools import lru_cache

import torch
from torch import Tensor

from rnnbench.config import ConfigError, Model
from rnnbench.nn.cells.cell import Cell, Layer, State, Weights


class LMU(Cell):
    """Legendre memory unit: a memory of the last theta steps of one number (Voelker et al. 2019).

        u = e_x x + e_h h- + e_m m-
        m = A m- + B u
        h = tanh(W_x x + W_h h- + W_m m)

    x (input, B); h (hidden, B); u (1, B); m (order, B) are the coefficients of a polynomial that draws u over
    the last theta steps. A (order, order) and B (order, 1) follow from theta and are not trained, see
    `legendre`. model.order: the hidden size if nothing is said; model.theta: the longest training sequence.
    weight_ih stands for W_x, weight_hh for W_h, weight_m for W_m, and there is no bias, as in their code
    (abr/neurips2019, branch paper, lmu/lmu.py, lines 193 to 202). At the start as there (lines 67 to 72):
    e_x, e_h uniform in +-sqrt(3 / columns), e_m = 0, the W in +-sqrt(6 / (rows + columns)), where they draw
    normal numbers of that deviation. Parameters of a layer:
    hidden (input + hidden + order) + input + hidden + order.
    """

    name = "lmu"
    states = 2
    activations = ("h",)
    options = frozenset({"order", "theta"})

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if model.zoneout is not None and self.order != model.hidden_size:
            raise ConfigError(
                f"model.zoneout={model.zoneout}: needs as many numbers in the memory as hidden units; leave "
                f"model.order={model.order} out"
            )

    @property
    def order(self) -> int:
        """Return how many numbers the memory has."""
        return self.model.order or self.hidden_size

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.hidden_size, self.order

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H, order = self.hidden_size, self.order
        encoders = {"encoder_x": (1, input_size), "encoder_h": (H,), "encoder_m": (order,)}
        return {"weight_ih": (H, input_size), "weight_hh": (H, H), "weight_m": (H, order), **encoders}

    def constants(self) -> Weights:
        A, B = legendre(self.order, self.model.theta or float(self.order))
        return {"A": A, "B": B}

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        H, inputs = self.hidden_size, weights["weight_ih"].shape[-1]
        for name, columns in (("weight_ih", inputs), ("weight_hh", H), ("weight_m", self.order)):
            weights[name] *= (6 * H / (H + columns)) ** 0.5
        weights["encoder_x"] *= (3 * H / inputs) ** 0.5
        weights["encoder_h"] *= 3**0.5
        weights["encoder_m"].zero_()
        super().start(weights, generator)

    def bias(self, weights: Weights) -> Tensor:
        return torch.zeros_like(weights["encoder_h"])

    def project(self, x: Tensor, layer: Layer) -> Tensor:
        """Compute W_x x, and e_x x in as many equal rows as the memory has, (K, hidden + order, T, B)."""
        K, T, width, B = x.shape
        flat = x.transpose(1, 2).reshape(K, width, T * B)
        u = torch.bmm(layer["encoder_x"].expand(K, self.order, width), flat)
        return torch.cat([super().project(x, layer), u.view(K, -1, T, B)], 1)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        h, m = state
        a, u = a.split(self.sizes, 1)
        u = u + (layer["encoder_h"] * h).sum(1, keepdim=True) + (layer["encoder_m"] * m).sum(1, keepdim=True)
        m = torch.baddbmm(layer["B"] * u, layer["A"], m)
        return torch.baddbmm(layer.recurrent(h, a), layer["weight_m"], m).tanh(), m


@lru_cache
def legendre(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return A (order, order) and B (order,) of a memory of theta steps, in float64.

    theta dm/dt = A m + B u is discretised with u constant over a step (zero-order hold), as in keras_lmu
    (layers.py, lines 119 to 126): A_ij = (2 i + 1) (-1 where i < j, else (-1) ** (i - j + 1)),
    B_i = (2 i + 1) (-1) ** i, i and j from 0.
    """
    i = torch.arange(order, dtype=torch.float64)
    scale, sign = (2 * i + 1) / theta, 1 - 2 * (i % 2)
    A = torch.where(i[:, None] < i, -1.0, -sign[:, None] * sign) * scale[:, None]
    whole = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    whole[:order, :order], whole[:order, order] = A, sign * scale
    discrete = torch.linalg.matrix_exp(whole)
    return discrete[:order, :order].clone(), discrete[:order, order].clone()
