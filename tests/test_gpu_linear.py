"""Laws of the scan over time of steps that are linear in their state."""

from dataclasses import replace

import pytest
import torch
from conftest import sampled
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnnbench.bench.layers import Case, arrays, errors, of_trial, run
from rnnbench.config import Model
from rnnbench.kernels import libraries
from rnnbench.kernels.generator.graph import LEAVES, Factor, Graph, Product, Value
from rnnbench.kernels.gpu import linear as scans
from rnnbench.kernels.gpu.coefficients import linear
from rnnbench.kernels.gpu.layer import BYTES, EVERY, FLOATS, MEAN, SYMBOLS
from rnnbench.kernels.gpu.linear import LinearScan, fits
from rnnbench.kernels.gpu.scan import COLUMNS, ResidentScan
from rnnbench.kernels.interpreter import interpret
from rnnbench.nn.cells import Cell, register_cell

H = 3
MINGRU, MINLSTM = Model("mingru", hidden_size=H), Model("minlstm", hidden_size=H)


@register_cell("two_memories")
class TwoMemories(Cell):
    """A cell of one's own: one memory with gates, one that decays, a scale that is one number."""

    gates, states = 3, 2

    def shapes(self, input_size):
        return {"weight_ih": (3 * H, input_size), "bias": (3 * H,), "decay": (H,), "scale": (1,)}

    def step(self, a, state, layer):
        f, i, o = a.split(self.hidden_size, 1)
        second = layer["decay"].tanh() * state[1] - layer["scale"] * o
        return torch.where(i > 0, f.sigmoid() * state[0] + i, -state[0]) / (1 + o * o), second


@register_cell("gated_output")
class GatedOutput(Cell):
    """A cell of one's own whose output is not linear in its memory."""

    gates, states = 3, 2

    def shapes(self, input_size):
        return {"weight_ih": (3 * H, input_size), "bias": (3 * H,)}

    def step(self, a, state, layer):
        f, i, o = a.split(self.hidden_size, 1)
        c = f.sigmoid() * state[1] + i
        return o.sigmoid() * c.tanh(), c


GATED = Model("gated_output", hidden_size=H, learned_state=True)
OWN = Model("two_memories", hidden_size=H, zoneout=0.5)
CASES = {
    "mingru, chunks, lengths": Case(MINGRU, T=37, lengths=True, K=1, B=COLUMNS),
    "minlstm, chunks, lengths backwards": Case(MINLSTM, EVERY, True, lengths=True, T=37, K=1, B=COLUMNS),
    "options of minlstm, mean, bytes": Case(
        replace(MINLSTM, normalised=True, positive=True), MEAN, lengths=True, kind=BYTES
    ),
    "layer_norm, a second direction, symbols": Case(
        replace(MINLSTM, layer_norm=True), EVERY, reverse=True, kind=SYMBOLS, add=True
    ),
    "a state that is handed on, numbers": Case(
        replace(MINGRU, learned_state=True), EVERY, kind=FLOATS, carried=True
    ),
    "dropout, a learned state": Case(replace(MINGRU, learned_state=True), lengths=True, dropout=True),
    "a cell of one's own, zoneout": Case(OWN, lengths=True, T=7),
    "an output that is not linear": Case(GATED, EVERY, lengths=True, T=7, carried=True),
    "an output that is not linear, backwards": Case(GATED, reverse=True, lengths=True, K=1),
    "zoneout backwards": Case(OWN, MEAN, reverse=True, lengths=True),
}

QUICK = (
    "minlstm, chunks, lengths backwards",
    "options of minlstm, mean, bytes",
    "layer_norm, a second direction, symbols",
    "a state that is handed on, numbers",
    "an output that is not linear",
    "zoneout backwards",
)


def scan(model: Model) -> LinearScan:
    graph = libraries.graph(model)
    assert isinstance(graph, Graph) and fits(graph, model.hidden_size)
    return LinearScan(graph, model.hidden_size)


@pytest.mark.parametrize("name", sampled(CASES, QUICK))
def test_a_layer_is_that_of_the_torch_path(name: str) -> None:
    case = CASES[name]
    assert max(errors(case, scan(case.model)).values()) < 2e-6


def test_a_trial_has_the_same_bits_alone_and_in_any_stack() -> None:
    case = Case(MINLSTM, EVERY, lengths=True, K=3)
    kernels = scan(case.model)
    stack = arrays(case, kernels)
    alone = of_trial(stack, 1)
    run(kernels, stack.layer)
    run(kernels, alone)
    assert torch.equal(alone.parts[0], stack.layer.parts[1])
    assert alone.d_x is not None and stack.layer.d_x is not None
    for one, all_ in ((alone.d_x, stack.layer.d_x), (alone.outputs, stack.layer.outputs)):
        assert torch.equal(one.nan_to_num()[0], all_.nan_to_num()[1])


def test_a_layer_is_that_of_the_scan_with_weights_in_registers_and_evaluates_as_it_trains() -> None:
    case = Case(MINGRU, EVERY, lengths=True)
    kernels = scan(case.model)
    ours, theirs = arrays(case, kernels).layer, None
    resident = ResidentScan(kernels.graph, H)
    theirs = arrays(case, resident).layer
    run(kernels, ours)
    run(resident, theirs)
    for name in ("outputs", "parts", "d_x"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5, equal_nan=True), name
    trained = ours.outputs.clone()
    evaluated = replace(ours, kept=ours.kept[:, :, :0], outputs=torch.full_like(trained, torch.nan))
    kernels.forward(evaluated, training=False)
    assert torch.equal(evaluated.outputs.nan_to_num(), trained.nan_to_num())


def test_what_a_scan_combines_may_be_combined_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    for combine, count in ((scans.then.fn, 2), (scans.back.fn, 3), (scans.back_and_more.fn, 4)):
        one, two, three = torch.randn(3, count, 50, generator=generator, dtype=torch.float64)
        left, right = combine(*combine(*one, *two), *three), combine(*one, *combine(*two, *three))
        assert torch.allclose(torch.stack(left), torch.stack(right), rtol=1e-12, atol=1e-12)


def test_steps_that_read_their_state_in_products_or_otherwise_than_linearly_are_for_other_scans() -> None:
    graphs = {name: libraries.graph(model) for name, model in libraries.card_models().items()}
    assert {name for name, graph in graphs.items() if linear(graph)} == {"mingru", "minlstm", "rglru"}
    x = Product((3,), (), (Factor("w", (0, 1), None, None),))
    for op, args in (
        ("sigmoid", (1,)),
        ("mul", (1, 1)),
        ("div", (3, 1)),
        ("maximum", (1, 3)),
        ("rows", (1,)),
    ):
        assert linear(step_of([x, Value(4, op, args)], after=4)) is None
    moving = Value(4, "gt", (1, 3))
    assert linear(step_of([x, moving, Value(5, "where", (4, 1, 3))], after=5)) is None
    assert linear(step_of([x, Value(4, "mul", (1, 3)), Value(5, "sigmoid", (2,))], after=4, before=5)) is None


def step_of(nodes: list[Value | Product], after: int, before: int = 2) -> Graph:
    """A step of one state: v0 a vector, v1 the state, v2 the gradient, then these nodes."""
    leaves = [Value(0, "vector", (), "v", 0), Value(1, "state"), Value(2, "d_after")]
    weights: dict[str, tuple[int, int | str | None]] = {"w": (1, "input"), "v": (1, None)}
    return Graph("mine", 1, weights, [*leaves, *nodes], (after,), (before,))


# Forms of a linear operation: m a value that depends on the state or the gradient, f one that does not.
MULTIPLE = ("neg m", "add m m", "sub m m", "mul m f", "mul f m", "div m f", "where f m m")
LINEAR = {"gradient": MULTIPLE, "state": (*MULTIPLE, "add f m", "sub m f", "sub f m", "where f f m")}
OTHER = ("add f f", "mul f f", "sigmoid f", "maximum f f", "gt f f", "where f f f")
ANY = ("mul m m", "div f m", "sigmoid m", "gt m f", "where m f f")
MIXED = ("add m s", "mul m s", "where s m m", "mul f s")  # a gradient's with states


@st.composite
def steps(draw: st.DrawFn) -> tuple[Graph, bool]:
    """Draw a step, and whether it is linear for sure."""
    nodes: list[Value | Product] = [Product((3,), (), (Factor("w", (0, 1), None, None),))]
    free, moving = [0, 3], {"state": [1], "gradient": [2]}
    sure = draw(st.booleans())
    for number in range(4, 4 + draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["free", "state", "gradient"]))
        forms = OTHER if kind == "free" else (*LINEAR[kind], *(() if sure else ANY))
        forms = (*forms, *MIXED) if kind == "gradient" and not sure else forms
        op, *letters = draw(st.sampled_from(forms)).split()
        own = moving.get(kind, free)
        choices = {"f": free, "m": own, "s": moving["state"]}
        args = tuple(draw(st.sampled_from(choices[letter])) for letter in letters)
        nodes.append(Value(number, op, args))
        own.append(number)
    return step_of(nodes, moving["state"][-1], moving["gradient"][-1]), sure


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps())
def test_coefficients_are_those_of_the_step(drawn_step: tuple[Graph, bool]) -> None:
    graph, sure = drawn_step
    found = linear(graph)
    if found is None:
        assert not sure
        return
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights, x = {"w": drawn(H, 2), "v": drawn(H)}, drawn(2, 4)
    (forward,), (backward,) = found.forward, found.backward
    blocks = (forward.slope, forward.rest, backward.slope, backward.rest)
    one, other = ({name: [drawn(H, 4)] for name in LEAVES} for _ in range(2))
    step = interpret(graph, one, weights, x)
    state, gradient = one["state"][0], one["d_after"][0]
    # No state has a part in the first two, and no gradient in the others.
    a, b, _, _ = interpret(replace(found.graph, after=blocks), other, weights, x).after
    _, _, back, more = interpret(
        replace(found.graph, after=blocks), one | {"d_after": other["d_after"]}, weights, x
    ).after
    assert torch.allclose(a * state + b, step.after[0], equal_nan=True)
    assert torch.allclose(back * gradient + more, step.before[0], equal_nan=True)
