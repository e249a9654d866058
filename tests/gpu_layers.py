"""Runs the GPU kernels of a layer beside the torch path, in Triton's interpreter: for tests of each scan."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnbench.config import Model
from rnnbench.kernels.gpu.layer import EVERY, HIDDEN, LAST, MEAN, Inputs, Layer, Scan
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.nn.cells import make_cell
from rnnbench.nn.cells.cell import Noise
from rnnbench.nn.network import flipped, last_of, mean_over


@dataclass(frozen=True)
class Case:
    """What a layer is run with."""

    model: Model
    reads: str = LAST
    reverse: bool = False
    kind: int = HIDDEN
    lengths: bool = False  # whether examples have lengths of their own, and one of the first trial is absent
    dropout: bool = False
    carried: bool = False
    add: bool = False
    K: int = 2
    T: int = 4
    input: int = 3
    B: int = COLUMNS + 2  # two parts, of which one is not full


@dataclass
class Arrays:
    """The numbers of a case, drawn once."""

    layer: Layer
    x: Tensor  # (K, T, input, B), as the cell reads it, dropout included
    d_x_before: Tensor


def arrays(case: Case, scan: Scan) -> Arrays:
    """Draw the numbers of a case, and make the arrays of its layer."""
    K, T, B, H, size = case.K, case.T, case.B, case.model.hidden_size, case.input
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def unset(*shape: int) -> Tensor:
        return torch.full(shape, math.nan)

    cell = make_cell(case.model)
    offsets, at = {}, 2
    for name, shape in cell.all_shapes(size).items():
        offsets[name], at = at, at + math.prod(shape)
    lengths = torch.full((K, B), T)
    if case.lengths:
        lengths = torch.randint(1, T + 1, (K, B), generator=generator)
        lengths[0, -1] = 0
    inputs, x = _inputs(case, generator)
    kept = (unset(K, T, scan.kept, H, B), unset(K, T, scan.kept_rows, B))
    every = case.reads == EVERY
    states, model, width = cell.states, case.model, 2 * H
    layer = Layer(
        inputs, lengths, drawn(K, at + 1), offsets, unset(K, T, width, B), H,
        unset(K, T, max(1, states - 1), H, B), *kept, unset(K, width, B),
        torch.zeros(K, -(-B // COLUMNS), at + 1), reverse=case.reverse, reads=case.reads,
        initial=offsets.get("initial"),
        carried=drawn(K, states, H, B) if case.carried else None,
        fresh=torch.zeros(1, dtype=torch.int32) if case.carried else None,
        left=unset(K, states, H, B) if case.carried else None,
        mask=drawn(K, H, B) if model.recurrent_dropout else None,
        zone=(drawn(K, T, states, H, B) > 0.5).float() if model.zoneout else None,
        d_outputs=drawn(K, T, width, B) if every else None,
        d_summary=None if every else drawn(K, width, B),
        d_x=drawn(K, T, size, B),
        add=case.add,
    )  # fmt: skip
    assert layer.d_x is not None
    return Arrays(layer, x, layer.d_x.clone() if case.add else torch.zeros_like(layer.d_x))


def _inputs(case: Case, generator: torch.Generator) -> tuple[Inputs, Tensor]:
    """Draw the input of a layer, and give it as the cell reads it."""
    K, T, B, size, N = case.K, case.T, case.B, case.input, 7
    index = torch.randint(N, (K, B), generator=generator)
    dropout = torch.randn(K, T, size, B, generator=generator) if case.dropout else None
    match case.kind:
        case 0:  # HIDDEN; then BYTES, FLOATS and SYMBOLS
            data = torch.randn(K, T, size, B, generator=generator)
            x = data
        case 1:
            data = torch.randint(256, (N, T, size), generator=generator).to(torch.uint8)
            x = (data[index].float() / 100 - 0.5).permute(0, 2, 3, 1)
        case 2:
            data = torch.randn(N, T, size, generator=generator)
            x = data[index].permute(0, 2, 3, 1)
        case _:
            data = torch.randint(size, (N, T), generator=generator).to(torch.int32)
            x = torch.nn.functional.one_hot(data.long(), size)[index].permute(0, 2, 3, 1).float()
    inputs = Inputs(case.kind, data, size, index, 1 / 100, -0.5, dropout)
    return inputs, x if dropout is None else x * dropout


def run(scan: Scan, layer: Layer) -> None:
    """Run a layer forward and backward."""
    scan.forward(layer, training=True)
    scan.backward(layer)


def of_trial(arrays: Arrays, k: int) -> Layer:
    """Give the layer of one of the trials alone."""
    layer = arrays.layer
    row = {
        name: value[k : k + 1].clone()
        for name, value in vars(layer).items()
        if isinstance(value, Tensor) and name != "fresh"
    }
    inputs = layer.inputs
    dropout = None if inputs.dropout is None else inputs.dropout[k : k + 1].clone()
    data = inputs.data[k : k + 1].clone() if inputs.kind == HIDDEN else inputs.data
    return replace(layer, inputs=replace(inputs, index=inputs.index[k : k + 1].clone(), dropout=dropout,
                                         data=data), **row)  # fmt: skip


def errors(case: Case, scan: Scan) -> dict[str, float]:
    """Run a layer, and return how far it is from the torch path, relative to the largest number of each."""
    given = arrays(case, scan)
    layer, H = given.layer, case.model.hidden_size
    cell = make_cell(case.model)
    parameters, x = layer.parameters.clone().requires_grad_(), given.x.clone().requires_grad_()
    shapes = cell.all_shapes(case.input)
    weights = {
        name: parameters[:, at : at + math.prod(shapes[name])].view(case.K, *shapes[name])
        for name, at in layer.offsets.items()
    }
    noise = Noise(
        recurrent=None if layer.mask is None else lambda shape, steps=None: layer.mask,
        zoneout=None if layer.zone is None else lambda shape, steps=None: 1 - layer.zone,
    )
    lengths = layer.lengths.clamp(min=1)
    state = None if layer.carried is None else tuple(layer.carried.unbind(1))
    turned = flipped(x, lengths) if case.reverse else x
    if case.reverse and layer.zone is not None:  # factors are of a place in time
        noise = replace(noise, zoneout=lambda shape, steps=None: 1 - _turned_zone(layer.zone, lengths))
    h, after = cell.unroll(turned, weights, state, noise, False)
    real = layer.lengths > 0  # (K, B)
    steps = torch.arange(case.T)[None, :, None] < layer.lengths[:, None, :]  # (K, T, B)
    summary = mean_over(h, lengths) if case.reads == MEAN else last_of(h, lengths)
    if case.reverse:
        h = flipped(h, lengths)
    own = slice(H, 2 * H)
    if case.reads == EVERY:
        assert layer.d_outputs is not None
        goal = (h * layer.d_outputs[:, :, own] * steps[:, :, None]).sum()
    else:
        assert layer.d_summary is not None
        goal = (summary * layer.d_summary[:, own] * real[:, None]).sum()
    gradient, d_x = torch.autograd.grad(goal, [parameters, x])
    if layer.inputs.dropout is not None:
        d_x = d_x * layer.inputs.dropout
    d_x = (d_x + given.d_x_before) * steps[:, :, None]
    if layer.d_summary is not None and case.lengths:  # a head gives no gradient to an absent example
        layer.d_summary *= real[:, None]
    run(scan, layer)
    some = steps[:, :, None]
    found = {
        "outputs": (layer.outputs[:, :, own].where(some, torch.zeros(())), h.where(some, torch.zeros(()))),
        "gradient": (layer.parts.sum(1), gradient),
        "d_x": (layer.d_x.where(some, torch.zeros(())), d_x),
    }
    if case.reads != EVERY:
        found["summary"] = tuple(
            part.where(real[:, None], torch.zeros(())) for part in (layer.summary[:, own], summary)
        )
    if layer.left is not None and not case.lengths:
        found["left"] = (layer.left, torch.stack(after, 1))
    return {name: _difference(ours, theirs.detach()) for name, (ours, theirs) in found.items()}


def _turned_zone(zone: Tensor, lengths: Tensor) -> Tensor:
    """Give factors of places in time (K, T, states, H, B) in the order of steps of the other direction."""
    K, T, states, H, B = zone.shape
    return flipped(zone.reshape(K, T, states * H, B), lengths).view(zone.shape)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
