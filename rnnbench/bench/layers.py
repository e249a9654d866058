"""Runs the GPU kernels of a layer beside the torch path in float64: on a card, or in Triton's interpreter."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnbench.config import Model
from rnnbench.kernels.gpu.layer import EVERY, HIDDEN, LAST, MEAN, Inputs, Layer, Scan
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.nn.cells import State, make_cell
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
    device: str = "cpu"


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
    if layer.d_summary is not None:  # a head gives no gradient to an example that is not there
        layer.d_summary *= (lengths > 0).unsqueeze(1)
    layer = on_device(layer, case.device)
    assert layer.d_x is not None
    before = layer.d_x.clone() if case.add else torch.zeros_like(layer.d_x)
    return Arrays(layer, x.to(case.device), before)


def on_device(layer: Layer, device: str) -> Layer:
    """Return the layer with its arrays on a device."""
    moved: dict[str, Any] = {
        name: value.to(device)
        for part in (layer, layer.inputs)
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }
    inputs = {name: moved.pop(name) for name in ("data", "index", "dropout") if name in moved}
    return replace(layer, inputs=replace(layer.inputs, **inputs), **moved)


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
    row: dict[str, Any] = {
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
    layer, own = given.layer, slice(case.model.hidden_size, 2 * case.model.hidden_size)
    theirs = expected(case, given)
    run(scan, layer)
    steps, real = _real(case, layer)
    assert layer.d_x is not None
    ours = {
        "outputs": layer.outputs[:, :, own].where(steps, 0.0),
        "summary": layer.summary[:, own].where(real, 0.0),
        "gradient": layer.parts.sum(1),
        "d_x": layer.d_x.where(steps, 0.0),
    }
    if layer.left is not None:
        ours["left"] = layer.left.where(real.unsqueeze(1), 0.0)
    return {name: _difference(ours[name], theirs[name]) for name in theirs}


def expected(case: Case, given: Arrays) -> dict[str, Tensor]:
    """Compute in float64 what the kernels of a layer write, by the torch path; 0 where there is no step."""
    layer, own = given.layer, slice(case.model.hidden_size, 2 * case.model.hidden_size)
    parameters, x = (part.double().requires_grad_() for part in (layer.parameters, given.x))
    h, after = _unrolled(case, layer, parameters, x)
    steps, real = _real(case, layer)
    lengths = layer.lengths.clamp(min=1)
    summary = mean_over(h, lengths) if case.reads == MEAN else last_of(h, lengths)
    h, summary = flipped(h, lengths) if case.reverse else h, summary.where(real, 0.0)
    if layer.d_outputs is not None:
        goal = (h * layer.d_outputs[:, :, own]).where(steps, 0.0).sum()
    else:
        assert layer.d_summary is not None
        goal = (summary * layer.d_summary[:, own]).sum()
    gradient, d_x = torch.autograd.grad(goal, [parameters, x])
    if layer.inputs.dropout is not None:
        d_x = d_x * layer.inputs.dropout
    found = {
        "outputs": h.where(steps, 0.0),
        "gradient": gradient,
        "d_x": (d_x + given.d_x_before).where(steps, 0.0),
    }
    if case.reads != EVERY:
        found["summary"] = summary
    if layer.left is not None and not case.lengths:
        found["left"] = torch.stack(after, 1)
    return {name: part.detach() for name, part in found.items()}


def _unrolled(case: Case, layer: Layer, parameters: Tensor, x: Tensor) -> tuple[Tensor, State]:
    """Run the cell over x, in the order of the layer's steps."""
    cell = make_cell(case.model)
    shapes = cell.all_shapes(case.input)
    weights = {
        name: parameters[:, at : at + math.prod(shapes[name])].view(case.K, *shapes[name])
        for name, at in layer.offsets.items()
    }
    lengths = layer.lengths.clamp(min=1)
    mask, zone = layer.mask, layer.zone
    if zone is not None:  # factors are of a place in time
        zone = 1 - (_turned_zone(zone, lengths) if case.reverse else zone)
    noise = Noise(
        recurrent=None if mask is None else lambda shape, steps=None: mask,
        zoneout=None if zone is None else lambda shape, steps=None: zone,
    )
    state = None if layer.carried is None else tuple(layer.carried.double().unbind(1))
    return cell.unroll(flipped(x, lengths) if case.reverse else x, weights, state, noise, False)


def _real(case: Case, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return where an example has a step, (K, T, 1, B), and where there is one, (K, 1, B)."""
    lengths = layer.lengths.unsqueeze(1)
    steps = torch.arange(case.T, device=lengths.device)[None, :, None] < lengths
    return steps.unsqueeze(2), lengths > 0


def _turned_zone(zone: Tensor, lengths: Tensor) -> Tensor:
    """Give factors of places in time (K, T, states, H, B) in the order of steps of the other direction."""
    K, T, states, H, B = zone.shape
    return flipped(zone.reshape(K, T, states * H, B), lengths).view(zone.shape)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return a relative difference; inf where a number is nan, since max() overlooks nan."""
    difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
    return math.inf if difference.isnan() else float(difference)
