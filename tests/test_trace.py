"""Laws of the trace: the graph of a step computes what autograd does, and each mistake has its message."""

import itertools
import random as python_random
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnnbench.config import ConfigError, Model
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import Graph, parse
from rnnbench.kernels.interpreter import interpret
from rnnbench.kernels.one_step import one_step
from rnnbench.kernels.trace import STEPS, NoKernel, graph_of, stock_models
from rnnbench.nn.cells import Cell, make_cell, register_cell
from rnnbench.nn.cells.lstm import LSTM

H, INPUT, B = 4, 6, 3


def difference(cell: Cell, graph: Graph) -> float:
    """The largest difference between a graph's step and gradient and those of autograd, in float64."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states = range(cell.states)
    shapes = {name: shape for name, shape in cell.all_shapes(INPUT).items() if name != "initial"}
    weights = {name: drawn(1, *shape).requires_grad_() for name, shape in shapes.items()}
    x = drawn(1, 1, INPUT, B).requires_grad_()
    state = tuple(drawn(1, size, B).requires_grad_() for size in cell.sizes)
    d_after = tuple(drawn(1, size, B) for size in cell.sizes)
    mask = drawn(1, H, B) if cell.model.recurrent_dropout else None
    zone = tuple(drawn(1, H, B) for _ in states) if cell.model.zoneout else ()
    constants = {name: value[None] for name, value in cell.constants().items()}
    after = one_step(cell, x, state, weights | constants, mask=mask, zone=zone)
    gradients = torch.autograd.grad(after, [x, *state, *weights.values()], d_after, materialize_grads=True)
    leaves = {"state": state, "d_after": d_after, "mask": () if mask is None else (mask,), "zone": zone}
    step = interpret(
        graph,
        {name: [part[0].detach() for part in parts] for name, parts in leaves.items()},
        {name: weight[0].detach() for name, weight in (weights | constants).items()},
        x[0, 0].detach(),
    )
    pairs = [*zip(step.after, after, strict=True), (step.d_x, gradients[0][0])]
    pairs += zip(step.before, gradients[1 : 1 + cell.states], strict=True)
    pairs += zip(step.gradients.values(), gradients[1 + cell.states :], strict=True)
    return max(float((ours - theirs[0]).detach().abs().max()) for ours, theirs in pairs)


def with_options(model: Model, sizes: tuple[int, ...]) -> list[Model]:
    """A model with each so large combination of the options that its graph depends on, if the cell has it."""
    options: list[dict[str, object]] = [{"layer_norm": True}, {"recurrent_dropout": 0.3}, {"zoneout": 0.2}]
    chosen = [c for n in sizes for c in itertools.combinations(options, n)]
    recurrent = make_cell(model).recurrent
    return [
        Model(**(vars(model) | {"hidden_size": H} | {k: v for each in c for k, v in each.items()}))
        for c in chosen
        if recurrent or not any("recurrent_dropout" in each or "zoneout" in each for each in c)
        if model.order is None or not any("zoneout" in each for each in c)
    ]


MODELS = stock_models() | {
    "mingru positive": Model("mingru", positive=True),
    "minlstm positive": Model("minlstm", positive=True, normalised=True),
}


@cache
def plain_graph(name: str) -> Graph | NoKernel:
    """The graph of a cell without options; the hidden size at which it is traced is not H."""
    return graph_of(MODELS[name])


@pytest.mark.parametrize("sizes", [(0, 3), pytest.param((1, 2), marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_is_the_step_and_its_gradient(name, sizes):
    for model in with_options(MODELS[name], sizes):
        plain = not (model.layer_norm or model.recurrent_dropout or model.zoneout)
        graph = plain_graph(name) if plain else graph_of(model)
        assert isinstance(graph, Graph), graph
        assert difference(make_cell(model), graph) < 1e-11
        assert parse(graph.text()).text() == graph.text()


@pytest.mark.parametrize("name", stock_models())
def test_the_graphs_that_are_installed_are_those_of_the_cells(name):
    graph = plain_graph(name)
    assert isinstance(graph, Graph)
    assert graph.text() == (STEPS / f"{name}.txt").read_text(encoding="utf-8"), (
        "the cells have changed: python -m rnnbench.kernels.trace writes their graphs anew"
    )


def own(step, *, states: int = 1, gates: int = 1, shapes: dict[str, tuple[int, ...]] | None = None) -> Cell:
    """A cell of one's own with this step."""

    class Mine(Cell):
        pass

    def all_of(self, input_size):
        return Cell.shapes(self, input_size) | (shapes or {})

    Mine.step, Mine.states, Mine.gates, Mine.shapes = step, states, gates, all_of
    Mine.__module__ = __name__
    register_cell("mine_of_trace")(Mine)
    return make_cell(Model("mine_of_trace", H))


UNARY = [torch.sigmoid, torch.tanh, torch.relu, torch.sin, torch.neg, torch.abs, torch.square, torch.exp,
         torch.nn.functional.softplus, torch.nn.functional.silu, lambda a: a * 0.5, lambda a: a.clamp(-1, 1),
         lambda a: (a * a + 1).sqrt(), lambda a: 1 / (a * a + 2),
         lambda a: a - a.mean(1, keepdim=True)]  # fmt: skip
BINARY = [torch.add, torch.sub, torch.mul, torch.maximum, lambda a, b: torch.lerp(a, b, 0.3),
          lambda a, b: torch.where(a > b, a, b * 2), lambda a, b: torch.lerp(a, b, a.sigmoid())]  # fmt: skip


@st.composite
def programs(draw):
    """A step as a list of operations, each on earlier values."""
    length, operations = draw(st.integers(1, 6)), []
    for n in range(length):
        kind = draw(st.sampled_from(["unary", "binary", "recurrent", "vector", "square"]))
        first, second = draw(st.integers(0, 3 + n)), draw(st.integers(0, 3 + n))
        function = draw(st.integers(0, 100))
        operations.append((kind, function, first, second))
    return operations


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(programs(), st.integers(1, 2))
def test_a_step_of_any_form_is_traced(program, states):
    def step(self, a, state, layer):
        one, two = a.split(self.hidden_size, 1)
        values = [one, two, state[0], state[-1]]
        for kind, number, first, second in program:
            x, y = values[first], values[second]
            if kind == "unary":
                values.append(UNARY[number % len(UNARY)](x).clamp(-9, 9))
            elif kind == "binary":
                values.append(BINARY[number % len(BINARY)](x, y))
            elif kind == "recurrent":
                values.append(layer.recurrent(x, y, H * (number % 2)))
            elif kind == "vector":
                values.append(x * layer["scale"] + layer["one"])
            else:
                values.append(torch.bmm(layer["square"], x))
        # Every weight is used, so that each has a gradient.
        last = layer.recurrent(values[-1], values[0] + layer["scale"]) + torch.bmm(layer["square"], values[1])
        last = last * layer["one"] + layer.recurrent(values[-1], values[2], H)
        return (last, values[-1] + values[-2])[:states]

    cell = own(step, states=states, gates=2, shapes={"scale": (H,), "one": (1,), "square": (H, H)})
    graph = graph_of(cell.model)
    assert isinstance(graph, Graph), graph
    assert difference(cell, graph) < 1e-9


def test_what_a_step_may_be_made_of_has_a_kernel():
    functions = [
        F.softplus, F.silu, F.gelu, partial(F.gelu, approximate="tanh"), F.elu, F.selu, F.leaky_relu,
        F.hardtanh, F.hardsigmoid, F.hardswish, F.relu6, F.mish, F.softsign, F.logsigmoid, F.softshrink,
        torch.expm1, torch.exp2, lambda a: torch.log1p(a * a), lambda a: torch.log2(a * a + 1),
        lambda a: (a * a + 1) ** -1.5, lambda a: (a * a + 1) ** 0.3, lambda a: 2**a,
        lambda a: a / (a.std(1, keepdim=True, unbiased=False) + a.var(1, keepdim=True)),
        lambda a: F.normalize(a, dim=1), lambda a: F.layer_norm(a.mT, a.shape[1:2]).mT,
        lambda a: a.masked_fill(~(a > 0) | (a > 1), 0.3), lambda a: F.glu(torch.cat([a, a], 1), 1),
    ]  # fmt: skip

    def step(self, a, state, layer):
        spread = state[0].mean(1, keepdim=True).expand_as(a)
        a = layer.recurrent(spread, layer.recurrent(state[0], a))
        a = a + torch.einsum("kij,kjb->kib", layer["weight_hh"], a)
        return (sum(function(a) for function in functions),)

    cell = own(step)
    graph = graph_of(cell.model)
    assert isinstance(graph, Graph), graph
    assert difference(cell, graph) < 1e-4  # erf and hardsigmoid are those of float32


def untraceable(a: Tensor) -> Tensor:
    """What tracing stops at, as a library of someone else's may."""
    if torch._C._len_torch_dispatch_stack():
        raise RuntimeError("not here")
    return a


def test_what_has_no_kernel_is_said_in_one_line():
    steps = {
        "cannot be traced (RuntimeError": lambda self, a, s, layer: (untraceable(layer.recurrent(s[0], a)),),
        "depends on more than the values": lambda self, a, s, layer: (
            layer.recurrent(s[0], a) * s[0].tolist()[0][0][0],
        ),
        "on more than the values of its arguments": lambda self, a, s, layer: (
            layer.recurrent(s[0], a) / a.shape[2],
        ),
        "uses aten.sort, which has no kernel": lambda self, a, s, layer: (
            a.sort(1)[0] + layer.recurrent(s[0], a),
        ),
        "to the power 10, which has no kernel": lambda self, a, s, layer: (
            layer.recurrent(s[0], a).tanh() ** 10,
        ),
        "is no multiple of the hidden size": lambda self, a, s, layer: (
            torch.cat([a[:, :1], layer.recurrent(s[0], a)[:, 1:]], 1),
        ),
        "uses the matrix weight_hh": lambda self, a, s, layer: (
            a + s[0] * layer["weight_hh"].sum(2, keepdim=True),
        ),
    }
    for expected, step in steps.items():
        found = graph_of(own(step).model)
        assert isinstance(found, NoKernel)
        words = "element by element" if "matrix" in expected else expected
        assert words in found.reason and "test_trace.py: step " in found.reason


@pytest.mark.parametrize("name", ["first", "project", "initial"])
def test_a_cell_that_does_more_than_its_step_has_no_kernel(name):
    cell = own(lambda self, a, s, layer: (layer.recurrent(s[0], a),))
    setattr(type(cell), name, lambda self, *arguments: getattr(Cell, name)(self, *arguments))
    found = graph_of(cell.model)
    assert isinstance(found, NoKernel) and "in a function of its own" in found.reason


def test_a_step_may_read_its_model():
    """The graph of a cell of one's own is that of the model which trains, and not of its options alone."""
    own(lambda self, a, s, layer: (layer.recurrent(s[0], a) * self.model.num_layers,))
    texts = {
        libraries._graph(libraries.Step.of(Model("mine_of_trace", H, num_layers=n))).text() for n in (1, 3)
    }
    assert len(texts) == 2


def test_a_subclass_with_a_step_of_its_own_is_computed_by_it():
    class Mine(LSTM):
        def step(self, a, state, layer):
            h, c = super().step(a, state, layer)
            return h * 2, c

    Mine.__module__ = __name__
    register_cell("mine_of_lstm")(Mine)
    cells = [make_cell(Model(name, H)) for name in ("mine_of_lstm", "lstm")]
    weights = {name: torch.rand(1, *shape) for name, shape in cells[0].all_shapes(INPUT).items()}
    x = torch.rand(1, 1, INPUT, B)
    mine, lstm = (cell(x, weights, False) for cell in cells)
    torch.testing.assert_close(mine, 2 * lstm)


def wrong_count(self, a, state, layer):
    h, c = state
    return h, c


def gives_list(self, a, state, layer):
    return [layer.recurrent(state[0], a)]


def wrong_shape(self, a, state, layer):
    return (layer.recurrent(state[0], a)[:, :1],)


def wrong_dtype(self, a, state, layer):
    return (layer.recurrent(state[0], a).double(),)


def in_place(self, a, state, layer):
    return (layer.recurrent(state[0], a.mul_(2)),)


def random(self, a, state, layer):
    return (layer.recurrent(state[0], a) * torch.rand_like(a),)


def random_of_python(self, a, state, layer):
    return (layer.recurrent(state[0], a) * python_random.random(),)


def in_place_unseen(self, a, state, layer):
    state[0].data.mul_(2)
    return (layer.recurrent(state[0], a),)


def mixes(self, a, state, layer):
    return (layer.recurrent(state[0], a) - a.mean(0, keepdim=True),)


def branches(self, a, state, layer):
    return (layer.recurrent(state[0], a if a.sum() > 0 else -a),)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (wrong_count, "raises ValueError: not enough values to unpack"),
        (gives_list, "gave list; expected a tuple of states = 1"),
        (wrong_shape, r"gave a tuple of \[\(2, 1, 3\)\]; expected"),
        (wrong_dtype, "gave torch.float64; expected torch.float32"),
        (in_place, "changes its arguments in place"),
        (in_place_unseen, "changes its arguments in place"),
        (mixes, "gives a trial other numbers beside other trials"),
        (random, "draws random numbers"),
        (random_of_python, "draws random numbers"),
        (branches, "goes on by the values of its tensors"),
    ],
)
def test_a_wrong_step_is_refused_with_its_line(step, message):
    with pytest.raises(ConfigError, match=message) as refused:
        graph_of(own(step).model)
    assert "test_trace.py:" in str(refused.value)
    if step in (wrong_count, branches):
        assert refused.value.__cause__ is not None  # HYDRA_FULL_ERROR=1 shows it, with one's own line
