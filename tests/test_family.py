"""Laws that every cell keeps: it is its paper's, stacked; gradients are right; options do what they say."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import Model, RecurrentInit
from rnnbench.nn.cells import CELLS, Layer, Noise, make_cell
from rnnbench.nn.cells.linear import scan
from tests.references import REFERENCES, cornn, g, lem, lmu, mingru, minlstm

RECURRENT = [name for name in CELLS if CELLS[name].recurrent]


def drawn(cell, K, input_size, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(K, *shape, generator=rng, dtype=dtype) / 2
        for name, shape in cell.all_shapes(input_size).items()
    }


def one(weights, k):
    return {name: weight[k].numpy() for name, weight in weights.items()}


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=10, deadline=None)
@given(
    K=st.integers(1, 3), T=st.integers(1, 7), width=st.integers(1, 4), H=st.integers(1, 5),
    B=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_stacked_cell_is_its_reference(name, K, T, width, H, B, seed):
    cell = make_cell(Model(name, H))
    weights = drawn(cell, K, width, seed)
    x = torch.randn(K, T, width, B, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    h = cell(x, weights, False)
    for k in range(K):
        for b in range(B):
            expected = REFERENCES[name](one(weights, k), x[k, :, :, b].numpy(), H)
            torch.testing.assert_close(h[k, :, :, b], torch.from_numpy(expected), atol=1e-6, rtol=1e-6)


FORMS = {
    "mingru positive": ({"positive": True}, lambda w, x: mingru(w, x, 4, g)),
    "minlstm positive": ({"positive": True}, lambda w, x: minlstm(w, x, 4, g)),
    "minlstm normalised": ({"normalised": True}, lambda w, x: minlstm(w, x, 4, normalised=True)),
    "minlstm both": ({"positive": True, "normalised": True}, lambda w, x: minlstm(w, x, 4, g, True)),
    "lem dt": ({"dt": 0.3}, lambda w, x: lem(w, x, 4, 0.3)),
    "cornn keys": ({"dt": 0.1, "gamma": 1.5, "epsilon": 2.5}, lambda w, x: cornn(w, x, 4, 0.1, 1.5, 2.5)),
    "lmu theta": ({"theta": 20.0}, lambda w, x: lmu(w, x, 4, 20)),
    "lmu order": ({"order": 7, "theta": 30.0}, lambda w, x: lmu(w, x, 4, 30)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_that_keys_of_a_cell_give_it(form):
    options, reference = FORMS[form]
    cell = make_cell(Model(form.split()[0], 4, **options))
    weights = drawn(cell, 2, 3)
    x = 3 * torch.randn(2, 40, 3, 2, dtype=torch.float64)
    h = cell(x, weights, False)
    expected = torch.from_numpy(reference(one(weights, 1), x[1, :, :, 0].numpy()))
    torch.testing.assert_close(h[1, :, :, 0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "learned_state": True}], ids=str)
def test_gradients_agree_with_finite_differences(name, options):
    cell = make_cell(Model(name, 3, **options))
    weights = {name: weight.requires_grad_() for name, weight in drawn(cell, 2, 2).items()}
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    names = list(weights)
    assert torch.autograd.gradcheck(
        lambda x, *w: cell(x, dict(zip(names, w, strict=True)), False),
        (x, *weights.values()),
        fast_mode=True,  # the Jacobian between two random vectors rather than entry by entry
    )


@pytest.mark.parametrize("name", CELLS)
def test_reverse_is_the_flipped_sequence_flipped(name):
    cell = make_cell(Model(name, 4))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(cell(x, weights, True), cell(x.flip(1), weights, False).flip(1))


@pytest.mark.parametrize("name", CELLS)
@given(cut=st.integers(1, 8))
@settings(max_examples=5, deadline=None)
def test_carrying_the_state_over_a_cut_changes_nothing(name, cut):
    cell = make_cell(Model(name, 4))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 9, 3, 2, dtype=torch.float64)
    first, state = cell.carry(x[:, :cut], weights, None)
    second, _ = cell.carry(x[:, cut:], weights, state)
    torch.testing.assert_close(torch.cat([first, second], 1), cell(x, weights, False))


@pytest.mark.parametrize("name", CELLS)
@given(hidden=st.integers(1, 30), input=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_the_parameter_formula_of_the_docstring_holds(name, hidden, input):
    about = " ".join((CELLS[name].__doc__ or "").split())
    if "As many parameters as vanilla" in about:
        about = " ".join(CELLS["lstm_peephole"].__doc__.split())
    (formula,) = re.findall(r"Parameters of a layer: (.+?)\.(?:\s|$)", about)
    product = re.sub(r"(\d|hidden) (?=\(|hidden|input)", r"\1 * ", formula)
    shapes = make_cell(Model(name, hidden)).shapes(input)
    tensors = sum(torch.zeros(shape).numel() for shape in shapes.values())
    assert tensors == eval(product, {"hidden": hidden, "input": input, "order": hidden})


def test_the_page_of_cells_has_the_parameter_formula_of_each():
    page = (Path(__file__).parents[1] / "rnnbench/docs/cells.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9_, ]+) \| .* \| ([^|]*H[^|]*) \|$", page, re.M)
    formulas = {name: formula for names, formula in rows for name in names.split(", ")}
    assert formulas.keys() == CELLS.keys()
    for name, formula in formulas.items():
        product = re.sub(r"(?<=[\dH]) (?=[(HI])", " * ", formula)
        for H, width, N in ((5, 3, 7), (2, 11, 4)):
            model = Model(name, H, order=N if name == "lmu" else None)
            count = sum(math.prod(shape) for shape in make_cell(model).shapes(width).values())
            assert eval(product, {"H": H, "I": width, "N": N}) == count, name


@pytest.mark.parametrize("name", CELLS)
def test_extremes_give_no_nan_and_a_nan_stays_in_its_trial(name):
    cell = make_cell(Model(name, 4))
    weights = {name: w.requires_grad_() for name, w in drawn(cell, 3, 2, dtype=torch.float32).items()}
    huge = cell(torch.full((3, 5, 2, 2), 1e4), weights, False)
    assert huge.isfinite().all()
    x = torch.randn(3, 4, 2, 5)
    x[1] = torch.nan
    h = cell(x, weights, False)
    h.sum().backward()
    assert h[1].isnan().all()
    for k in (0, 2):
        assert h[k].isfinite().all()
        assert all(weight.grad[k].isfinite().all() for weight in weights.values())


@given(T=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_scan_is_the_loop(T, seed):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 2, T, 3, 2, generator=rng, dtype=torch.float64)
    before = torch.rand(2, 3, 2, generator=rng, dtype=torch.float64)
    h, expected = before, []
    for t in range(T):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    expected = torch.stack(expected, 1)
    torch.testing.assert_close(scan(a, b, before), expected)
    # By logarithms, as the paper has it (Heinsen 2023).
    summed = a.log().cumsum(1)
    logs = summed + (b.log() - summed).logcumsumexp(1)
    torch.testing.assert_close(logs.exp() + summed.exp() * before.unsqueeze(1), expected)


@pytest.mark.parametrize("options", [{}, {"positive": True, "layer_norm": True}], ids=["plain", "options"])
@pytest.mark.parametrize("name", ["mingru", "minlstm", "rglru"])
def test_the_scan_of_a_cell_is_its_steps(name, options):
    options = {key: value for key, value in options.items() if key != "positive" or name != "rglru"}
    cell = make_cell(Model(name, 4, normalised=bool(options) and name == "minlstm", **options))
    weights = {key: torch.randn(2, *shape) for key, shape in cell.all_shapes(3).items()}
    x, state = torch.randn(2, 5, 3, 6), (torch.randn(2, 4, 6),)
    h, last = cell.carry(x, weights, state)
    layer = Layer(weights, None, cell.model.layer_norm)
    for t, a in enumerate(cell.project(x, layer).unbind(2)):
        state = cell.step(a, state, layer)
        torch.testing.assert_close(h[:, t], state[0])
    torch.testing.assert_close(last[0], state[0])


@given(T=st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_the_gradient_of_the_scan(T):
    a, b = torch.rand(2, 1, T, 2, 2, dtype=torch.float64).requires_grad_()
    before = torch.rand(1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scan, (a, b, before))


def test_the_scan_of_a_long_sequence_in_single_precision():
    a = torch.rand(1, 4096, 8, 2).sigmoid()
    b, before = torch.rand(1, 4096, 8, 2), torch.zeros(1, 8, 2)
    exact = scan(a.double(), b.double(), before.double())
    torch.testing.assert_close(scan(a, b, before).double(), exact, rtol=1e-5, atol=1e-5)


def factors(rate, calls):
    """A draw that is counted, of 0 or 1 / (1 - rate)."""

    def draw(shape):
        calls.append(shape)
        return (torch.rand(2, *shape, dtype=torch.float64) >= rate) / (1 - rate)

    return draw


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout_has_one_mask_a_sequence(name):
    cell = make_cell(Model(name, 4, recurrent_dropout=0.5))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    calls = []
    dropped = cell(x, weights, False, Noise(recurrent=factors(0.5, calls)))
    assert calls == [(4, 2)]
    plain = make_cell(Model(name, 4))(x, weights, False)
    torch.testing.assert_close(dropped[:, 0], plain[:, 0])  # nothing to be dropped before the first step
    assert not torch.allclose(dropped, plain)
    ones = cell(x, weights, False, Noise(recurrent=factors(0.0, [])))
    torch.testing.assert_close(ones, plain)
    torch.testing.assert_close(cell(x, weights, False), plain)  # as in evaluation


@pytest.mark.parametrize("name", RECURRENT)
def test_zoneout_keeps_units_and_takes_the_mean_in_evaluation(name):
    cell = make_cell(Model(name, 4, zoneout=0.4))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    kept = cell(x, weights, False, Noise(zoneout=lambda shape: torch.zeros(2, *shape)))
    assert not kept.any()  # every unit stays at the 0 it began with
    free = cell(x, weights, False, Noise(zoneout=lambda shape: torch.ones(2, *shape)))
    plain = make_cell(Model(name, 4))(x, weights, False)
    torch.testing.assert_close(free, plain)
    mean = cell(x[:, :1], weights, False)
    torch.testing.assert_close(mean, 0.6 * plain[:, :1])


@pytest.mark.parametrize("name", CELLS)
def test_a_learned_state_is_where_it_begins(name):
    cell = make_cell(Model(name, 4, learned_state=True))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    state = cell.initial(x, weights)
    assert len(state) == CELLS[name].states
    assert torch.equal(state[0][1, :, 0], weights["initial"][1, :4])
    bare = {key: weight for key, weight in weights.items() if key != "initial"}
    h, _ = make_cell(Model(name, 4)).carry(x, bare, state)
    torch.testing.assert_close(cell(x, weights, False), h)


@pytest.mark.parametrize("name", CELLS)
def test_layer_norm_makes_the_scale_of_the_weights_irrelevant(name):
    cell = make_cell(Model(name, 4, layer_norm=True))
    weights = drawn(cell, 2, 3)
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    products = ("weight_ih", "weight_hh")
    large, larger = (
        {key: weight * (scale if key in products else 1) for key, weight in weights.items()}
        for scale in (100, 1000)
    )  # not quite irrelevant: 1e-5 is added to the variance
    torch.testing.assert_close(cell(x, large, False), cell(x, larger, False), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(cell(x, weights, False), make_cell(Model(name, 4))(x, weights, False))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("init", RecurrentInit)
def test_recurrent_starts(name, init):
    cell = make_cell(Model(name, 5, recurrent_init=init))
    weights = drawn(cell, 2, 3, dtype=torch.float32)
    cell.start(weights, torch.Generator().manual_seed(0))
    for k, block in enumerate(weights["weight_hh"].split(5, 1)):
        for trial in block:
            torch.testing.assert_close(trial @ trial.T, torch.eye(5), atol=1e-5, rtol=0)
            identity = init is RecurrentInit.identity or (
                init is RecurrentInit.orthogonal_identity and k == cell.candidate
            )
            assert torch.equal(trial, torch.eye(5)) == identity


@pytest.mark.parametrize("name", [name for name in CELLS if CELLS[name].forget_gate is not None])
def test_the_forget_gate_begins_open(name):
    """With a large bias on it, and nothing else, the first state is kept."""
    cell = make_cell(Model(name, 4, forget_bias=30.0))
    weights = {key: torch.zeros(1, *shape, dtype=torch.float64) for key, shape in cell.shapes(3).items()}
    cell.start(weights, torch.Generator())
    state = tuple(torch.full((1, 4, 2), 0.3, dtype=torch.float64) for _ in range(cell.states))
    _, after = cell.carry(torch.zeros(1, 50, 3, 2, dtype=torch.float64), weights, state)
    memory = after[1] if cell.states > 1 else after[0]
    torch.testing.assert_close(memory, state[0], atol=1e-6, rtol=0)
