"""Laws of the cells: they are torch.nn's, stacked; their gradients are right; trials do not mix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import ConfigError, Model, Nonlinearity
from rnnbench.nn.cells import CELLS, make_cell

TORCH = {
    "lstm": (Model("lstm"), torch.nn.LSTM),
    "gru": (Model("gru"), torch.nn.GRU),
    "rnn": (Model("rnn"), torch.nn.RNN),
    "rnn_relu": (
        Model("rnn", nonlinearity=Nonlinearity.relu),
        lambda *sizes: torch.nn.RNN(*sizes, nonlinearity="relu"),
    ),
}


def stacked(kind, K, input_size, hidden, dtype=torch.float64):
    """K torch layers, and the cell with their weights stacked."""
    model, torch_kind = TORCH[kind]
    cell = make_cell(Model(model.name, hidden, nonlinearity=model.nonlinearity))
    layers = [torch_kind(input_size, hidden).to(dtype) for _ in range(K)]
    weights = {
        name: torch.stack([getattr(layer, f"{name}_l0").detach() for layer in layers]).requires_grad_()
        for name in cell.shapes(input_size)
    }
    return cell, layers, weights


@pytest.mark.parametrize("kind", TORCH)
@settings(max_examples=15, deadline=None)
@given(
    K=st.integers(1, 4), T=st.integers(1, 6), input_size=st.integers(1, 5), hidden=st.integers(1, 6),
    B=st.integers(1, 5), reverse=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_torch(kind, K, T, input_size, hidden, B, reverse, seed):
    torch.manual_seed(seed)
    cell, layers, weights = stacked(kind, K, input_size, hidden)
    x = torch.randn(K, T, input_size, B, dtype=torch.float64, requires_grad=True)
    h = cell(x, weights, reverse)
    pull = torch.randn_like(h)
    (h * pull).sum().backward()
    for k, layer in enumerate(layers):
        # torch: (T, B, features), and its reverse direction runs over the flipped sequence
        own = x[k].detach().permute(0, 2, 1).clone().requires_grad_()
        out = layer(own.flip(0) if reverse else own)[0]
        out = out.flip(0) if reverse else out
        (out * pull[k].permute(0, 2, 1)).sum().backward()
        torch.testing.assert_close(h[k], out.permute(0, 2, 1))
        torch.testing.assert_close(x.grad[k], own.grad.permute(0, 2, 1))
        for name, weight in weights.items():
            torch.testing.assert_close(weight.grad[k], getattr(layer, f"{name}_l0").grad)


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_agree_with_finite_differences(kind, reverse):
    torch.manual_seed(0)
    cell, _, weights = stacked(kind, 2, 3, 4)
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    names = list(weights)
    assert torch.autograd.gradcheck(
        lambda x, *w: cell(x, dict(zip(names, w, strict=True)), reverse), (x, *weights.values())
    )


@pytest.mark.parametrize("kind", TORCH)
def test_float32_parity_with_torch(kind):
    torch.manual_seed(1)
    cell, (layer,), weights = stacked(kind, 1, 28, 10, torch.float32)
    x = torch.randn(1, 28, 28, 16)
    out = layer(x[0].permute(0, 2, 1))[0]
    torch.testing.assert_close(cell(x, weights, False)[0], out.permute(0, 2, 1), atol=1e-5, rtol=0)


def test_forget_bias_is_the_sum_of_both_vectors():
    cell = make_cell(Model("lstm", 3, forget_bias=1.5))
    weights = {name: torch.randn(2, *shape) for name, shape in cell.shapes(2).items()}
    before = {name: weight.clone() for name, weight in weights.items()}
    cell.start(weights, torch.Generator())
    total = weights["bias_ih"] + weights["bias_hh"]
    assert (total[:, 3:6] == 1.5).all()
    kept = [0, 1, 2, *range(6, 12)]
    assert all(torch.equal(weights[name][:, kept], before[name][:, kept]) for name in ("bias_ih", "bias_hh"))


def test_an_unknown_cell_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=rf"model.name=foo: must be one of {', '.join(CELLS)}"):
        make_cell(Model("foo"))
