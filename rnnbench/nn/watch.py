"""Runs a network step by step and keeps what its cells compute on the way: their states and their gates."""

from collections import Counter
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rnnbench.config import ConfigError
from rnnbench.config.places import defined
from rnnbench.nn.cells.cell import NONE, Cell, Noise, State, Weights
from rnnbench.nn.network import Network

ACTIVATIONS = ("sigmoid", "tanh", "exp")  # functions that a gate ends in, as torch names them


class WatchedCell(Cell):
    """Computes what a cell does by its `step` alone, one step after the other, and keeps it.

    Attributes:
        states: the state after each step, in the order of computing, tensors (K, hidden, B) each.
        gates: by name, what each gate was in each step, (K, hidden, B) each.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.model)
        self.cell = cell
        self.states_after: list[State] = []
        self.gates_of: dict[str, list[Tensor]] = {}

    def all_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return self.cell.all_shapes(input_size)

    def __call__(self, x: Tensor, weights: Weights, reverse: bool, noise: Noise = NONE) -> Tensor:
        cell, T = self.cell, x.shape[1]
        layer = cell.layer(x, weights)
        inputs, state = cell.project(x, layer).unbind(2), cell.initial(x, weights)
        outputs = [x] * T
        for t in reversed(range(T)) if reverse else range(T):
            with Activations() as seen:
                after = cell.step(inputs[t], state, layer)
            state = after if cell.model.zoneout is None else cell.zone_out(after, state, None)
            self.states_after.append(state)
            for name, gate in named(cell, seen.found, state[0].shape).items():
                self.gates_of.setdefault(name, []).append(gate)
            outputs[t] = state[0]
        return torch.stack(outputs, 1)


class Activations(TorchDispatchMode):
    """Keeps the sigmoids, tanhs and exponentials that are computed meanwhile, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ACTIVATIONS:
            self.found.append((name, result.detach().clone()))
        return result


def named(cell: Cell, found: list[tuple[str, Tensor]], shape: torch.Size) -> dict[str, Tensor]:
    """Return the gates of a step by name, (K, hidden, B) each, from the activations it has computed.

    Several gates may be one activation of as many blocks of hidden rows; activations of weights alone have
    another shape and are none.
    """
    (K, H, B), blocks = shape, []
    for name, value in found:
        if value.dim() == 3 and (len(value), value.shape[2]) == (K, B) and value.shape[1] % H == 0:
            blocks += [(name, block) for block in value.split(H, 1)]
    if names := cell.activations:
        return {name: block for name, (_, block) in zip(names, blocks, strict=False)}
    seen: Counter[str] = Counter()
    numbered = {}
    for name, block in blocks:
        seen[name] += 1
        numbered[f"{name} {seen[name]}"] = block
    return numbered


def watched(network: Network) -> Network:
    """Return the same network with cells that keep what they compute.

    Raises:
        ConfigError: a cell computes all steps in a function of its own.
    """
    for layer in network.layers:
        for _, cell in layer:
            if type(cell).step is Cell.step:
                raise ConfigError(
                    f"{defined(type(cell))}: computes all steps in a function of its own, so that no step "
                    "can be looked at; define step(self, a, state, layer)"
                )
    copied = copy(network)
    copied.layers = [[(suffix, WatchedCell(cell)) for suffix, cell in layer] for layer in network.layers]
    return copied
