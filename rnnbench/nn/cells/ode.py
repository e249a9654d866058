"""LEM and coRNN: steps of solvers of differential equations (Rusch and Mishra 2021, Rusch et al. 2022).

x (input, B); states (hidden, B); s is the logistic function, * goes by elements.
"""

import math

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import Cell, Layer, State, Weights


def number(given: float | None, own: float) -> Tensor:
    """Return the value of a key, or the cell's own where it is null, as a constant."""
    return torch.tensor([own if given is None else given], dtype=torch.float64)


class LEM(Cell):
    """Long expressive memory: two states with learned time steps (Rusch et al. 2022, arXiv 2110.04744).

        d = t * s(W_d x + R_d y- + b_d)
        e = t * s(W_e x + R_e y- + b_e)
        z = (1 - d) * z- + d * tanh(W_z x + R_z y- + b_z)
        y = (1 - e) * y- + e * tanh(W_y x + Q z + b_y)

    y is the output; t, the largest time step, is model.dt, 1 if nothing is said. weight_z is Q, which
    model.layer_norm and model.recurrent_dropout leave alone. Their code (github.com/tk-rusch/LEM,
    src/psMNIST/network.py) adds a second bias to each row, with R and with Q; here one stands for their sum.
    Parameters of a layer: 4 hidden (input + hidden + 1).
    """

    name = "lem"
    gates, states, candidate = 4, 2, 2
    activations = ("candidate of z", "d / t", "candidate of y", "e / t")
    options = frozenset({"dt"})

    def constants(self) -> Weights:
        return {"dt": number(self.model.dt, 1.0)}

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        return {
            "weight_ih": (4 * H, input_size),
            "weight_hh": (3 * H, H),
            "bias": (4 * H,),
            "weight_z": (H, H),
        }

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (y, z), H = state, self.hidden_size
        gates, a_y = a.split([3 * H, H], 1)
        d, e, a_z = layer.recurrent(y, gates).split(H, 1)
        z = torch.lerp(z, a_z.tanh(), layer["dt"] * d.sigmoid())
        n = torch.baddbmm(a_y, layer["weight_z"], z).tanh()
        return torch.lerp(y, n, layer["dt"] * e.sigmoid()), z


class CoRNN(Cell):
    """Coupled oscillators, damped and driven (Rusch and Mishra 2021, equation 3, explicit in the damping).

        z = z- + t * (tanh(W x + R y- + Q z- + b) - gamma * y- - epsilon * z-)
        y = y- + t * z

    y is the output; t, gamma and epsilon are model.dt, model.gamma and model.epsilon: 0.042, 2.7 and 4.7 if
    nothing is said, as their code has them for sequential MNIST (github.com/tk-rusch/coRNN, sMNIST). weight_z
    is Q, which model.layer_norm and model.recurrent_dropout leave alone. At the start all are uniform in
    +-1/sqrt(input + 2 hidden), as one linear layer of torch. Parameters of a layer:
    hidden (input + 2 hidden + 1).
    """

    name = "cornn"
    states = 2
    activations = ("force",)
    options = frozenset({"dt", "gamma", "epsilon"})

    def constants(self) -> Weights:
        own = {"dt": 0.042, "gamma": 2.7, "epsilon": 4.7}
        return {key: number(getattr(self.model, key), value) for key, value in own.items()}

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(input_size) | {"weight_z": (self.hidden_size, self.hidden_size)}

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        H = self.hidden_size
        scale = math.sqrt(H / (weights["weight_ih"].shape[-1] + 2 * H))
        for name in ("weight_ih", "weight_hh", "weight_z", "bias"):
            weights[name] *= scale
        super().start(weights, generator)

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        y, z = state
        force = torch.baddbmm(layer.recurrent(y, a), layer["weight_z"], z).tanh()
        dt = layer["dt"]
        z = z + dt * (force - layer["gamma"] * y - layer["epsilon"] * z)
        return y + dt * z, z
