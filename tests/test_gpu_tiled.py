"""Laws of the scan in tiles on a GPU: the interpreter runs each layer, the torch path says what is right."""

from dataclasses import replace

import pytest
import torch
from conftest import sampled

from rnnbench.bench.layers import Case, arrays, errors, of_trial, run
from rnnbench.config import Model
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.layer import EVERY, LAST
from rnnbench.kernels.gpu.tiled import TiledScan
from rnnbench.nn.cells import Cell, register_cell
from tests.test_gpu_scan import CASES

H = 35  # two tiles


def scan(case: Case) -> TiledScan:
    graph = libraries.graph(case.model)
    assert isinstance(graph, Graph)
    return TiledScan(graph, case.model.hidden_size)


def larger(case: Case) -> Case:
    return replace(case, model=replace(case.model, hidden_size=H), T=3)


QUICK = ("lstm_peephole",)  # of cells; the cases have lstm and gru
SHORT = ("last, lengths backwards, numbers", "dropout, a learned state")


@pytest.mark.parametrize("name", sampled(libraries.card_models(), QUICK))
def test_a_cell_is_that_of_the_torch_path(name: str) -> None:
    case = Case(replace(libraries.card_models()[name], hidden_size=H), T=3)
    # With two products one after the other in a step, the torch path in float32 is 4e-6 off itself.
    assert max(errors(case, scan(case)).values()) < (3e-5 if name == "lem" else 1e-5)


@pytest.mark.parametrize("name", sampled(CASES, SHORT))
def test_a_layer_is_that_of_the_torch_path(name: str) -> None:
    case = larger(CASES[name])
    assert max(errors(case, scan(case)).values()) < 1e-5


@register_cell("scaled_products")
class ScaledProducts(Cell):
    """A cell of one's own whose products read a state times a number or a vector, or a mean of its rows."""

    gates = 3

    def shapes(self, input_size):
        return super().shapes(input_size) | {"gain": (self.hidden_size,), "one": (1,)}

    def step(self, a, state, layer):
        (h,), size = state, self.hidden_size
        one, two, three = a.split(size, 1)
        mean = h.mean(1, keepdim=True)
        one = layer.recurrent(0.5 * h, one)
        two = layer.recurrent(layer["gain"] * h, two, size)
        three = layer.recurrent(mean.expand_as(h), three, 2 * size)
        return (one.tanh() + two.tanh() * three.tanh() + layer["one"] * mean,)


@pytest.mark.parametrize("reads", [EVERY, LAST])
def test_products_read_numbers_vectors_and_rows(reads: str) -> None:
    case = Case(Model("scaled_products", hidden_size=H), reads, reads == EVERY, lengths=True, T=2, K=1)
    assert max(errors(case, scan(case)).values()) < 1e-5


def test_a_trial_has_the_same_bits_alone() -> None:
    case = larger(replace(CASES["options of a step"], K=2, lengths=True))
    stack = arrays(case, scan(case))
    alone = of_trial(stack, 1)
    run(scan(case), stack.layer)
    run(scan(case), alone)
    assert torch.equal(alone.parts[0], stack.layer.parts[1])
    assert alone.d_x is not None and stack.layer.d_x is not None
    assert torch.equal(alone.d_x.nan_to_num()[0], stack.layer.d_x.nan_to_num()[1])


def test_evaluation_writes_nothing_beyond_a_layer_that_keeps_nothing() -> None:
    """Values that one launch leaves for the next one are not those that are kept for the backward pass."""
    case = Case(replace(libraries.card_models()["gru_v1"], hidden_size=H), T=2)
    kernels = scan(case)
    layer = arrays(case, kernels).layer
    kernels.forward(layer, training=True)
    shape = (case.K, case.T, 0)
    bare = replace(
        layer,
        kept=torch.zeros(*shape, H, case.B),
        kept_rows=torch.zeros(*shape, case.B),
        outputs=torch.full_like(layer.outputs, torch.nan),
        summary=torch.full_like(layer.summary, torch.nan),
    )
    kernels.forward(bare, training=False)
    assert torch.equal(bare.summary[:, H:], layer.summary[:, H:])
