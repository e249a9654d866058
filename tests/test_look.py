"""Laws of looking into a cell: its gates are those of its equations, gradients those of autograd by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_config
from matplotlib.figure import Figure

from rnnbench import tasks
from rnnbench.api import Trained
from rnnbench.config import ConfigError
from rnnbench.look import Count, Look
from rnnbench.nn.cells import CELLS, Cell, make_cell
from rnnbench.nn.network import Network
from rnnbench.nn.watch import WatchedCell, watched
from rnnbench.paper import __main__ as command
from rnnbench.paper.axes import log_axis
from rnnbench.paper.figures import gates as gates_figure
from rnnbench.tasks.counting import Brackets, Counting
from rnnbench.tasks.synthetic import Generated

WORDS = Counting("anbn", metric="nll", longest=3, test_longest=6)


def look(model="lstm", data=None, **changes):
    """A network of random weights beside its data."""
    config = make_config(model, **changes)
    config.data = data or WORDS
    shape = tasks.shape(config.data)
    network = Network(config.model, shape.input_size, shape.outputs, shape.goal.every_step)
    generator = torch.Generator().manual_seed(1)
    parameters = torch.rand(network.count(), generator=generator) * 2 - 1
    return Look(Trained(config, network, parameters, shape.goal, {}))


def layer_of(looked, suffix="_l0"):
    """The weights of a layer as float64 arrays, and the one-hot symbols of the longest test word."""
    weights = looked.trained.network.views(looked.trained.parameters.double()[None])
    found = {name[4:].removesuffix(suffix): w[0].numpy() for name, w in weights.items() if suffix in name}
    n = looked.trained.config.data.test_longest
    return found, np.eye(3)[[2, *[0] * n, *[1] * n]]


def s(a):
    return 1 / (1 + np.exp(-a))


def test_gates_of_lstm_are_those_of_its_equations():
    looked = look("lstm")
    w, x = layer_of(looked)
    h = c = np.zeros(6)
    for t, gates in enumerate(zip(*(looked.gates()[name] for name in "ifgo"), strict=True)):
        a = w["weight_ih"] @ x[t] + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
        i, f, g, o = s(a[:6]), s(a[6:12]), np.tanh(a[12:18]), s(a[18:])
        assert np.allclose(gates, [i, f, g, o], rtol=0, atol=1e-12)
        c = f * c + i * g
        h = o * np.tanh(c)
    assert t == len(x) - 1


def test_gates_of_gru_are_those_of_its_equations():
    looked = look("gru")
    w, x = layer_of(looked)
    h = np.zeros(6)
    for t, gates in enumerate(zip(*(looked.gates()[name] for name in "rzn"), strict=True)):
        a, u = w["weight_ih"] @ x[t] + w["bias_ih"], w["weight_hh"] @ h + w["bias_hh"]
        r, z = s(a[:6] + u[:6]), s(a[6:12] + u[6:12])
        n = np.tanh(a[12:] + r * u[12:])
        assert np.allclose(gates, [r, z, n], rtol=0, atol=1e-12)
        h = (1 - z) * n + z * h
    assert t == len(x) - 1


# The gates of each cell in the order of their rows of the bias, in capitals those that end in tanh.
BLOCKS = {
    "lstm": "ifGo", "gru": "rzN", "gru_v1": "rzN", "mut1": "zr", "mut2": "zrN", "mut3": "zrN", "mgu": "fN",
    "lstm_peephole": "Zifo", "nig": "Zfo", "nfg": "Zio", "nog": "Zif", "niaf": "-ifo", "noaf": "Zifo",
    "cifg": "Zio", "fgr": "Zifo", "mingru": "z", "minlstm": "fi",
    "rglru": "ri", "slstm": "Z--o", "ligru": "z", "ugrnn": "Ng", "intersection": "-Npg",
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_a_gate_has_the_name_of_its_rows(name):
    """With weights of 0 each gate is its function of its bias."""
    cell = make_cell(make_config(name).model)
    shapes = cell.all_shapes(3)
    weights = {key: torch.zeros(1, *shape).double() for key, shape in shapes.items()}
    key = "bias_ih" if "bias_ih" in weights else "bias"
    for number, block in enumerate(weights[key][0].split(6)):
        block.fill_(0.5 + number)
    seen = WatchedCell(cell)
    seen(torch.zeros(1, 1, 3, 2).double(), weights, False)
    for number, gate in enumerate(BLOCKS[name]):
        expected = (np.tanh if gate.isupper() else s)(0.5 + number)
        assert gate == "-" or np.allclose(seen.gates_of[gate.lower()][0], expected), gate


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_runs_step_by_step_as_it_does_at_once(name):
    looked = look(name)
    network, parameters = looked.trained.network, looked.trained.parameters.double()[None]
    x = torch.rand(1, 5, 3, 2).double()
    seen = watched(network)
    assert torch.allclose(seen(network.views(parameters), x), network(network.views(parameters), x))
    (((_, cell),),) = seen.layers
    assert len(cell.states_after) == 5 and all(len(gate) == 5 for gate in cell.gates_of.values())
    assert set(CELLS[name].activations) <= set(cell.gates_of)


class Counted(Cell):
    """A cell of one's own, whose gates have no names."""

    gates = 3

    def step(self, a, state, layer):
        a, b, c = a.split(self.hidden_size, 1)
        return (torch.sigmoid_(a.clone()) * state[0] + torch.special.expit(b) * torch.tanh(c),)


def test_gates_without_names_are_numbered_and_a_cell_without_steps_is_refused():
    looked = look("gru")
    network = looked.trained.network
    network.layers = [[("_l0", Counted(looked.trained.config.model))]]
    seen = WatchedCell(network.layers[0][0][1])
    seen(torch.rand(1, 4, 3, 2), {"weight_ih": torch.rand(1, 18, 3), "bias": torch.rand(1, 18)}, False)
    assert list(seen.gates_of) == ["sigmoid 1", "sigmoid 2", "tanh 1"]
    network.layers = [[("_l0", type("Whole", (Cell,), {})(looked.trained.config.model))]]
    with pytest.raises(ConfigError, match="computes all steps in a function of its own"):
        watched(network)
    assert look("irnn").gates() == {}
    with pytest.raises(ConfigError, match="example=6: must be from 0 to 5"):
        look().gates(6)


def test_a_figure_of_gates_leaves_out_cells_without_gates(monkeypatch):
    cells, figure = ["irnn", "lstm", "indrnn"], Figure()
    monkeypatch.setattr(gates_figure, "looks", lambda _: [(name, (), look(name)) for name in cells])
    sheet = SimpleNamespace(how=SimpleNamespace(example=None), name=lambda row, column: row)
    gates_figure.draw(figure, sheet)
    assert [axes.get_title() for axes in figure.axes] == ["lstm"]
    cells.remove("lstm")
    with pytest.raises(ConfigError, match="kind=gates: irnn, indrnn: has no gates; kind=gradient_flow"):
        gates_figure.draw(Figure(), sheet)


def test_the_ticks_of_a_gradient_within_one_decade_are_plain_numbers():
    axes = Figure().subplots()
    axes.plot([0, 1, 2], [0.12, 0.15, 0.19])
    log_axis(axes, "y")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.12", "0.14", "0.16", "0.19"]
    assert axes.get_xscale() == "linear"


def states_of(looked, x):
    """The states of an LSTM of one layer after each step, as autograd sees them, and the logits."""
    w = {k: v[0] for k, v in looked.trained.network.views(looked.trained.parameters.double()[None]).items()}
    h = c = torch.zeros(6).double()
    states = []
    for x_t in x:
        a = (
            w["rnn.weight_ih_l0"] @ x_t
            + w["rnn.bias_ih_l0"]
            + w["rnn.weight_hh_l0"] @ h
            + w["rnn.bias_hh_l0"]
        )
        i, f, g, o = a.split(6)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append((h, c))
    return states, w["head.weight"] @ h + w["head.bias"]


def test_gradients_are_those_of_autograd_by_hand():
    looked = look("lstm")
    found = looked.gradients()
    assert [len(gradients.state) for gradients in found] == [3, 5, 7, 9, 11, 13]
    for n, gradients in enumerate(found, 1):
        x = torch.eye(3).double()[[2, *[0] * n, *[1] * n]].requires_grad_()
        states, logits = states_of(looked, x)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(2))
        grads = torch.autograd.grad(loss, [part for state in states for part in state] + [x])
        by_step = torch.stack(grads[:-1]).view(len(x), 12).norm(dim=1).flip(0)
        assert np.allclose(gradients.state, by_step, rtol=1e-9, atol=0)
        assert np.allclose(gradients.input, grads[-1].norm(dim=1).flip(0), rtol=1e-9, atol=0)
        above = [lag for lag, norm in enumerate(gradients.input) if norm > 0.01 * max(gradients.input)]
        assert gradients.memory() == max(above)


def test_gradients_before_training_are_those_of_the_first_weights():
    looked = look("gru")
    first = replace(looked.trained, parameters=looked.trained.network.start(0)[0])
    before = Look(first).gradients()
    for ours, theirs in zip(looked.gradients(start=True), before, strict=True):
        assert np.array_equal(ours.state, theirs.state)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": Generated("adding", metric="mse", steps=7)},
        {"model__num_layers": 2},
        {"model__zoneout": 0.1},
    ],
    ids=["answer at the end", "two layers", "zoneout"],
)
def test_the_answer_depends_on_no_step_after_it(changes):
    found = look("gru", **changes).gradients(examples=3)
    assert all(gradients.state.min() > 0 and len(gradients.state) > 2 for gradients in found)


@pytest.mark.parametrize("name", ["anbn", "anbncn", "dyck1"])
def test_the_word_is_that_of_the_language_and_the_unit_that_counts_is_found(name):
    kind = Brackets if name == "dyck1" else Counting
    count = look("lstm", kind(name, metric="nll", longest=3, test_longest=6)).count()
    assert count.letters.tolist() == [*[0] * 6, *[1] * 6, *([2] * 6 if name == "anbncn" else [])]
    assert count.open.tolist()[:12] == [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0] and count.name == "c"
    state = np.random.default_rng(0).normal(size=(12, 4))
    state[:, 2] = 7 - 3 * count.open[:12]
    state[:, 1] = 0  # never changes
    made = Count(count.letters[:12], count.open[:12], state, "c", 3)
    assert made.units()[0] == 2 and made.units()[-1] == 1
    assert look("gru").count(2).name == "h" and look("gru").count(2).state.shape == (4, 6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """LSTM and GRU on words a^n b^n after a few minibatches, two seeds each."""
    from rnnbench.__main__ import main

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "-m model=lstm,gru seed=0,1 data=anbn data.longest=3 data.test_longest=6 model.hidden_size=3"
        words += " fit.epochs=1 fit.steps_per_epoch=2 tracking=none hydra.sweep.dir=sweep"
        patch.setattr(sys, "argv", ["rnnbench", *words.split()])
        main()
    return folder


@pytest.fixture
def paper(trained, monkeypatch, capsys):
    """The command rnnbench.paper in the folder of what was trained: what it prints."""

    def run(*words, code=0):
        monkeypatch.chdir(trained)
        monkeypatch.setattr(sys, "argv", ["rnnbench.paper", *words])
        ended = 0
        try:
            command.main()
        except SystemExit as end:
            ended = end.code
        out, err = capsys.readouterr()
        if isinstance(ended, str):
            ended, err = 1, err + ended
        assert (ended or 0) == code, out + err
        return " ".join((out + err).split())

    return run


TABLE = """
title: Words
sweep: ["model=lstm,gru", "seed=0,1", data=anbn, data.longest=3, data.test_longest=6, model.hidden_size=3,
        fit.epochs=1, fit.steps_per_epoch=2]
metrics: [test/nll]
figures: {gates: {kind: gates, example: 2}, flow: {kind: gradient_flow, start: true}, memory: {kind: memory},
          counter: {kind: counter, n: 5}}
"""


def test_figures_of_weights_are_the_same_twice_and_verified_by_their_digests(trained, paper):
    (trained / "conf/table").mkdir(parents=True)
    (trained / "conf/table/words.yaml").write_text(TABLE)
    words = ("--config-dir=conf", "table=words", "--no-run", "source=sweep")
    paper(*words)
    out = trained / "multirun/paper/words"
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    paper(*words)
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    paper("verify", "multirun/paper/words", "--config-dir=conf")
    kept = json.loads(before["provenance.json"])
    seeds = {trial["job"]: trial["seed"] for trial in kept["trials"]}
    assert len(seeds) == 4 and [seeds[job] for job in kept["weights"]] == [0, 0]
    assert {"example": 2, "kind": "gates"}.items() <= kept["table"]["figures"]["gates"].items()
    assert "n" not in kept["table"]["figures"]["gates"]
    (job,) = [
        file.parent
        for file in trained.glob("sweep/*/result.json")
        if json.loads(file.read_text())["job"] == next(iter(kept["weights"]))
    ]
    content = (job / "weights.pt").read_bytes()
    try:
        (job / "weights.pt").write_bytes(content[:-1])
        assert "provenance.json" in paper("verify", "multirun/paper/words", "--config-dir=conf", code=1)
        (job / "weights.pt").unlink()
        assert '": null' in paper("verify", "multirun/paper/words", "--config-dir=conf", code=1)
        said = paper(*words, code=1)
        assert "figures: gates needs weights.pt of run" in said and "train it again" in said
    finally:
        (job / "weights.pt").write_bytes(content)


def test_one_run_is_looked_at_without_a_table(trained, paper):
    said = paper("look", "sweep/0", "kind=counter", "n=4")
    assert "correlation with the count" in said and "counter.svg" in said
    drawn = next(trained.glob("multirun/paper/*/counter.svg"))
    assert "n = 4" in drawn.read_text() and "lstm" in drawn.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["look", "sweep"], "give a folder and a kind: look FOLDER kind=counter|gates|gradient_flow|memory"),
        (["look", "nowhere", "kind=gates"], "nowhere: is no folder; look takes the folder of a job"),
        (["look", "sweep", "kind=gate"], "kind=gate: must be one of"),
        (["look", "sweep", "kind=gates", "exmple=3"], "exmple: there is no such key; did you mean"),
        (["look", "sweep", "kind=gates", "example=-1"], "example=-1: must be at least 0"),
        (["look", "sweep", "kind=gates", "example=6"], "example=6: must be from 0 to 5, a test example"),
        (["look", "sweep", "kind=counter", "n=0"], "n=0: must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_refused(words, said, paper):
    assert said in paper(*words, code=1)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("counter", "data=digits", "figures.f: counter is drawn of data=anbn|anbncn|dyck1"),
        ("memory", "data=anbn, model.bidirectional=true", "true: reads from both ends"),
        ("gradient_flow", "data=anbn, model.bidirectional=true", "figures.f: model.bidirectional=true"),
    ],
)  # fmt: skip
def test_a_table_whose_trials_do_not_fit_a_figure_is_refused_before_training(
    kind, words, said, trained, paper
):
    (trained / "other/table").mkdir(parents=True, exist_ok=True)
    text = f"title: x\nsweep: [model=gru, {words}]\nmetrics: [test/nll]\nfigures: {{f: {{kind: {kind}}}}}\n"
    (trained / "other/table/t.yaml").write_text(text)
    assert said in paper("--config-dir=other", "table=t", "--dry-run", code=1)
