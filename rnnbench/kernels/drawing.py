"""Draws the random numbers of some minibatches for the compiled kernels, as the torch path draws them."""

import ctypes
from collections.abc import Collection, Mapping, Sequence
from ctypes import c_void_p

import torch
from torch import Tensor

from rnnbench.nn.cells import Noise
from rnnbench.nn.network import Network

NAMES = ("dropout", "recurrent", "zoneout", "weights")  # of Noise


class Drawn(ctypes.Structure):
    """`struct noise` of native/stack.c."""

    _fields_ = [(name, c_void_p) for name in NAMES]


def named(noise: Noise) -> list[str]:
    """Return the names of what is drawn."""
    return [name for name in NAMES if getattr(noise, name) is not None]


def shapes(names: Collection[str], network: Network, T: int, B: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of what is drawn for a trial's minibatch of B examples of T steps, by its name."""
    model, cell = network.model, network.layers[0][0][1]
    levels, H = model.num_layers * network.directions, model.hidden_size
    found = {
        "dropout": (model.num_layers - 1, T, network.directions * H, B),
        "recurrent": (levels, H, B),
        "zoneout": (levels, T, cell.states, H, B),
        "weights": (network.count(),),
    }
    return {name: shape for name, shape in found.items() if name in names and shape[0]}


def draw(noise: Noise, network: Network, steps: Tensor, sizes: list[int], B: int) -> dict[str, Tensor]:
    """Draw what minibatches need, (minibatches, K, ...) by its name.

    Args:
        steps: (K, minibatches), T of each trial's minibatches.
        sizes: examples of each minibatch, B of all but the last.
    """
    (K, minibatches), T = steps.shape, int(steps.max())
    found = {
        name: torch.zeros(minibatches, K, *shape)
        for name, shape in shapes(named(noise), network, T, B).items()
    }
    for n, size in enumerate(sizes if found else []):
        parts = {name: all_[n] for name, all_ in found.items()}
        into = {name: [part] if name == "weights" else part.unbind(1) for name, part in parts.items()}
        draw_minibatch(noise, network, into, steps[:, n], size)
    return found


def draw_minibatch(
    noise: Noise, network: Network, into: Mapping[str, Sequence[Tensor]], steps: Tensor, B: int
) -> None:
    """Draw what a minibatch of B examples needs, in the order in which Network asks for it.

    Args:
        into: by its name, for each layer or level of the network, (K, ...) as in `shapes`; weights: for all.
        steps: (K,), T of each trial's minibatch.
    """
    H, T = network.model.hidden_size, int(steps.max())
    own = None if int(steps.min()) == T else steps
    if noise.weights:
        into["weights"][0].copy_(noise.weights((network.count(),)))
    level = 0
    for number, layer in enumerate(network.layers):
        if number and noise.dropout:
            into["dropout"][number - 1][:, :T, :, :B] = noise.dropout((T, len(layer) * H, B), own)
        for _, cell in layer:
            if noise.recurrent:
                into["recurrent"][level][:, :, :B] = noise.recurrent((H, B))
            if noise.zoneout:
                drawn = noise.zoneout((T, cell.states, H, B), own)
                into["zoneout"][level][:, :T, :, :, :B] = drawn < (network.model.zoneout or 0.0)
            level += 1
