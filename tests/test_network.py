"""Laws of the network: torch's own start, torch's own outputs, counts of real tensors."""

import pytest
import torch
from conftest import models
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import Model
from rnnbench.kernels.cudnn import CudnnNetwork
from rnnbench.nn.cells import CELLS
from rnnbench.nn.network import Network, TorchNetwork, to_torch


@settings(max_examples=30, deadline=None)
@given(model=models(6), seed=st.integers(0, 2**31))
def test_start_and_outputs_are_torchs(model, seed):
    network = Network(model, 5, 4)
    flat = network.start(seed)
    torch.manual_seed(seed)
    module = TorchNetwork(model, 5, 4)
    assert network.count() == sum(p.numel() for p in module.parameters()) == flat.shape[1]
    for name, weight in network.views(flat).items():
        assert torch.equal(weight[0], module.state_dict()[name]), name
    x = torch.randn(1, 7, 5, 3)
    torch.testing.assert_close(
        network(network.views(flat), x)[0].T, module(x[0].permute(2, 0, 1)), atol=1e-5, rtol=1e-5
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(to_torch(network, flat[0]).parameters(), module.parameters(), strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(model=models(6))
def test_the_layers_of_torch_give_the_same_logits(model):
    """fit.kernel=cudnn runs torch's own layers; here on the CPU."""
    network, own = Network(model, 5, 4), CudnnNetwork(model, 5, 4)
    weights = network.views(network.start(0))
    x = torch.randn(1, 7, 5, 3)
    torch.testing.assert_close(own(weights, x), network(weights, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "parameters"), [("lstm", 2590), ("gru", 1970)])
def test_the_tutorials_counts(name, parameters):
    network = Network(Model(name, 10, 2), 28, 10)
    assert network.count() == parameters
    assert network.count("rnn") + network.count("head") == parameters
    assert network.count("head") == 110


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": True, "learned_state": True, "bidirectional": True}], ids=str
)
def test_counts_are_those_of_real_tensors(name, options):
    network = Network(Model(name, 7, num_layers=2, **options), 5, 3)
    weights = network.views(network.start(0))
    assert network.count() == sum(weight.numel() for weight in weights.values()) == network.start(0).shape[1]
    assert network.count() == network.count("rnn") + network.count("head")
    assert network.count("head") == 3 * (7 * network.directions + 1)
    assert all(weight.isfinite().all() for weight in weights.values())
