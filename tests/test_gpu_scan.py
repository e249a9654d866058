"""Laws of the scans on a GPU: Triton's interpreter runs each layer, and the torch path says what is right."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import sampled

from rnnbench.bench.gpu_check import LAYERS
from rnnbench.bench.layers import Case, arrays, errors, of_trial, run
from rnnbench.config import Model
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.scan import ResidentScan

H = 5
QUICK = ("lstm", "gru_v1", "mut2", "mingru")  # of cells
CASES = {name: replace(case, model=replace(case.model, hidden_size=H)) for name, case in LAYERS.items()}


def scan(model: Model, again: bool = False) -> ResidentScan:
    graph = libraries.graph(model)
    assert isinstance(graph, Graph)
    return ResidentScan(graph, model.hidden_size, again=again)


@pytest.mark.parametrize("name", sampled(libraries.card_models(), QUICK))
def test_a_cell_is_that_of_the_torch_path(name: str) -> None:
    model = replace(libraries.card_models()[name], hidden_size=H)
    assert max(errors(Case(model), scan(model)).values()) < 1e-5


SHORT = {  # of (case, whether its gates are computed again)
    ("mean, lengths, bytes", True),
    ("symbols, a state that is handed on", False),
    ("zoneout backwards", False),
    ("options of a step", False),
}


@pytest.mark.parametrize("each", sampled(product(CASES, [False, True]), SHORT), ids=str)
def test_a_layer_is_that_of_the_torch_path(each: tuple[str, bool]) -> None:
    """`again`: the backward pass computes gates again; else they are kept."""
    name, again = each
    case = CASES[name]
    assert max(errors(case, scan(case.model, again)).values()) < 1e-5


def test_a_trial_has_the_same_bits_alone() -> None:
    case = replace(CASES["options of a step"], K=2, lengths=True)
    kernels = scan(case.model)
    stack = arrays(case, kernels)
    alone = of_trial(stack, 1)
    run(kernels, stack.layer)
    run(kernels, alone)
    assert torch.equal(alone.parts[0], stack.layer.parts[1])
    assert alone.d_x is not None and stack.layer.d_x is not None
    assert torch.equal(alone.d_x.nan_to_num()[0], stack.layer.d_x.nan_to_num()[1])
