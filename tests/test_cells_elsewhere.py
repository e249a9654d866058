"""Laws of cells that another library has: outputs and gradients are those of torchrecurrent, in float64."""

import pytest
import torch
import torchrecurrent

from rnnbench.config import Model
from rnnbench.nn.cells import make_cell

T, WIDTH, HIDDEN, B = 9, 3, 5, 4
# Of each cell: its class there, the width of x, what it calls our weights, and its options.
CASES = {
    "indrnn": ("IndRNNCell", WIDTH, {"u": "vector_u"}, {"nonlinearity": "relu"}),
    "ligru": ("LiGRUCell", WIDTH, {"weight_hh": "weight_hh"}, {}),
    "ugrnn": ("UGRNNCell", WIDTH, {"weight_hh": "weight_hh"}, {}),
    "cornn": (
        "coRNNCell",
        WIDTH,
        {"weight_hh": "weight_hh", "weight_z": "weight_ch"},
        {"dt": 0.042, "gamma": 2.7, "epsilon": 4.7},
    ),
    "intersection": ("IntersectionRNNCell", HIDDEN, {"weight_hh": "weight_hh"}, {}),
}


def ours_and_theirs(name):
    """A cell with drawn weights, and theirs with the same; the second bias of theirs is 0."""
    kind, width, renamed, options = CASES[name]
    model = Model(name, HIDDEN)
    cell = make_cell(model)
    generator = torch.Generator().manual_seed(1)
    weights = {
        key: torch.randn(1, *shape, dtype=torch.float64, generator=generator) / 2
        for key, shape in cell.shapes(width).items()
    }
    if name == "intersection":  # where the widths are equal, the paper's own x
        weights["weight_ih"][:, -HIDDEN:] = torch.eye(HIDDEN, dtype=torch.float64)
    theirs = getattr(torchrecurrent, kind)(width, HIDDEN, dtype=torch.float64, **options)
    named = {"weight_ih": "weight_ih", "bias": "bias_ih", **renamed}
    for parameter in theirs.parameters():
        parameter.data.zero_()
    for our, their in named.items():
        parameter = getattr(theirs, their)
        parameter.data.copy_(weights[our][0, : len(parameter)])
    return cell, {key: weight.requires_grad_() for key, weight in weights.items()}, theirs, named


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_torchrecurrent(name):
    cell, weights, theirs, named = ours_and_theirs(name)
    x = torch.randn(1, T, CASES[name][1], B, dtype=torch.float64)
    h = cell(x, weights, False)
    state, outputs = None, []
    for t in range(T):
        after = theirs(x[0, t].T, state)
        state = after[1] if name == "intersection" else after
        output = after[0] if isinstance(after, tuple) else after
        outputs.append(output.T)
    torch.testing.assert_close(h[0], torch.stack(outputs))
    pull = torch.randn_like(h)
    (h * pull).sum().backward()
    (torch.stack(outputs) * pull[0]).sum().backward()
    for our, their in named.items():
        gradient = getattr(theirs, their).grad
        torch.testing.assert_close(weights[our].grad[0, : len(gradient)], gradient)
