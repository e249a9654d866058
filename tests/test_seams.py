"""What adding a thing costs: each is added here in a temporary folder, by touching just its own files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from test_paper import PLANNED, runs

import rnnbench
from rnnbench.config import ConfigError, Model
from rnnbench.config.user_code import own_code
from rnnbench.nn.cells import class_of
from rnnbench.paper.aggregate import fill
from rnnbench.paper.definition import table_of
from rnnbench.paper.drawing import draw
from rnnbench.paper.files import texts
from rnnbench.paper.verification import verify
from rnnbench.reader import Folders
from rnnbench.train.stack import Stack, conclude, shape_key
from tests.conftest import make_config, small_task
from tests.test_app import numbers, run

__all__ = ["runs"]  # a fixture

# A storage for studies: one file

STORAGE = '''"""Keeps studies in the memory of this process, under a name."""

from optuna.storages import InMemoryStorage

from rnnbench.search.storages.kind import StorageKind

KEPT = {}


class Shelf(StorageKind):
    scheme = "shelf"
    form = "shelf://NAME"

    def open(self):
        return KEPT.setdefault(self.url, InMemoryStorage())
'''


def test_a_storage_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text(STORAGE)
    run(
        tmp_path,
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.storage=shelf://x", "hydra.sweeper.n_trials=2"),
        *("rnnbench_import=shelf.py", "optim.lr=interval(0.001,0.1)", "data=digits", "tracking=none"),
        *("hydra.sweeper.study_name=kept", "fit.epochs=1", "model.hidden_size=2"),
    )
    done = rnnbench.records(tmp_path / "multirun")
    assert len(done) == 2 and set(done["rnnbench.study"]) == {"kept"}


# A launcher: one file, where Hydra looks for plugins

LAUNCHER = '''"""Trains each stack in a process of its own on this machine."""

import subprocess
import sys

from hydra.core.config_store import ConfigStore

from rnnbench.cluster.base import Lost, RemoteLauncher

TARGET = f"{__name__}.ProcessLauncher"
ConfigStore.instance().store("process", {"_target_": TARGET, "max_stack": 2}, group="hydra/launcher")


class ProcessLauncher(RemoteLauncher):
    place = "processes"

    def __init__(self, max_stack):
        super().__init__(max_stack, retries=0)
        self.processes = {}

    def submit(self, stacks):
        for stack in stacks:
            command = [sys.executable, "-m", "rnnbench.cluster", str(stack.file)]
            self.processes[stack.name] = subprocess.Popen(command)

    def lost(self, stacks):
        ended = {name for name, process in self.processes.items() if process.poll() is not None}
        return {stack.name: Lost("its process has ended") for stack in stacks if stack.name in ended}
'''


def test_a_launcher_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "process.py").write_text(LAUNCHER)
    out, _ = run(
        tmp_path,
        *("-m", "hydra/launcher=process", "model=gru", "seed=0,1", "data=digits", "fit.epochs=1"),
        *("model.hidden_size=2", "tracking=none"),
        env=os.environ,  # a process from nothing: Hydra looks for plugins once
    )
    done = rnnbench.records(tmp_path / "multirun")
    assert list(done["status"]) == ["finished"] * 2 and set(done["seed"]) == {0, 1}
    assert "processes" in out


# A figure of a table: one file

RANGE = '''"""The highest and the lowest run of each row."""

CAPTION = "From the lowest run to the highest, whatever the {statistic} is."


def draw(figure, sheet):
    axes = figure.subplots()
    for row, column, cell in sheet.cells(sheet.metric):
        values = list(cell.values(sheet.metric).values())
        axes.plot([sheet.name(row, column)] * 2, [min(values), max(values)], gid=sheet.series(row))
    axes.set_ylabel(sheet.label(sheet.metric))
'''


def test_a_figure_is_one_file(runs: Path, tmp_path: Path) -> None:
    (mine := tmp_path / "mine" / "figure").mkdir(parents=True)
    (mine / "ranges.py").write_text(RANGE)
    how = {"title": "x", "sweep": ["seed=0"], "metrics": ["test/accuracy"], "statistic": "median",
           "spread": "none", "figures": {"one": {"kind": "ranges"}}}  # fmt: skip
    with pytest.raises(ConfigError, match=r"figures\.one\.kind=ranges: must be one of box"):
        table_of(how)
    filled = fill(table_of(how, [mine.parent]), PLANNED, Folders(runs))
    (out := tmp_path / "out").mkdir()
    assert {file.name for file in draw(filled, Folders(runs), [], out)} == {"one.pdf", "one.svg", "one.png"}
    for file, text in texts(filled, [], out).items():
        (out / file).write_text(text, encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "From the lowest run to the highest, whatever the median is." in page and 'data-series="2"' in page
    assert verify(out, str(runs), [mine.parent]) == ([], [])
    with pytest.raises(ConfigError, match=r"figures\.one\.kind=ranges: must be one of box"):
        verify(out, str(runs))  # a table that others have made imports no file that it names
    (mine / "ranges.py").write_text("CAPTION = 1 / 0")
    with pytest.raises(ConfigError, match=r"figures: .*ranges\.py:1: ZeroDivisionError"):
        table_of(how, [mine.parent])


# A cell, an optimiser: one class each, and one yaml for those that are to have defaults of their own

LEAKY = '''import rnnbench


@rnnbench.register_cell("leaky")
class Leaky(rnnbench.Cell):
    """h = 0.5 h- + 0.5 tanh(W x + R h- + b)"""

    forget_gate = 0

    def step(self, a, state, layer):
        (h,) = state
        return (0.5 * h + 0.5 * layer.recurrent(h, a).tanh(),)
'''

LION = '''import rnnbench
from rnnbench.config.refusals import share


@rnnbench.register_optimiser("lion")
class Lion(rnnbench.Optim):
    """p = p - lr sign(beta1 m + (1 - beta1) g), then m = beta2 m + (1 - beta2) g (Chen et al. 2023)."""

    memory = ("mean",)

    lr: float = 0.002
    beta1: float = 0.9
    beta2: float = 0.99
    signed: bool = True

    def check(self):
        super().check()
        share(("optim.beta1", self.beta1), ("optim.beta2", self.beta2))

    def update(self, state, parameters, gradient):
        beta1, beta2, mean = state["beta1"].float(), state["beta2"].float(), state["mean"]
        step = beta1 * mean + (1 - beta1) * gradient
        parameters -= state["lr"].float() * (step.sign() if self.signed else step)
        mean.mul_(beta2).add_((1 - beta2) * gradient)
'''

SHORT = ["data.train_size=200", "fit.epochs=1", "tracking=none", "model.hidden_size=4"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the file of a cell and that of an optimiser."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaky.py").write_text(LEAKY)
    (tmp_path / "lion.py").write_text(LION)
    return tmp_path


def test_a_cell_of_ones_own_is_chosen_learns_and_has_the_right_gradient(files: Path) -> None:
    words = ("rnnbench_import=leaky.py", "model=leaky", "model.hidden_size=16", "tracking=none")
    result = rnnbench.run(*words, "fit.epochs=5", "optim.lr=0.01", "data=digits")
    assert result["metrics"]["test/accuracy"] > 0.5
    assert result["params"]["model.name"] == "leaky"
    config = own_code(replace(make_config("leaky"), rnnbench_import="leaky.py"))
    cell = class_of(config.model.name)(Model("leaky", 3))
    rng = torch.Generator().manual_seed(0)
    shapes = cell.all_shapes(2)
    weights = [
        torch.randn(2, *s, dtype=torch.float64, generator=rng).requires_grad_() for s in shapes.values()
    ]
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *w: cell(x, dict(zip(shapes, w, strict=True)), False), (x, *weights)
    )


def test_an_optimiser_of_ones_own_is_chosen_and_makes_the_steps_of_a_hand_written_loop(files: Path) -> None:
    """Two trials of one stack, with learning rates and a beta of their own."""
    result = rnnbench.run("rnnbench_import=lion.py", "optim=lion", "optim.beta1=0.8", *SHORT)
    assert result["status"] == "finished"
    params = {key: value for key, value in result["params"].items() if key.startswith("optim.")}
    assert params == {"optim.name": "lion", "optim.lr": 0.002, "optim.weight_decay": 0.0,
                      "optim.beta1": 0.8, "optim.beta2": 0.99, "optim.signed": True}  # fmt: skip
    kind = type(rnnbench.load(result["folder"]).config.optim)
    rates = [(0.01, 0.9), (0.003, 0.5)]
    parameters, gradients = torch.randn(2, 5), torch.randn(20, 2, 5)
    expected = parameters.clone()
    configs = [kind(lr=lr, beta1=beta1) for lr, beta1 in rates]
    hyper = [config.hyperparameters | {"lr": config.lr} for config in configs]
    state = {name: torch.tensor([[h[name]] for h in hyper], dtype=torch.float64) for name in hyper[0]}
    state["mean"] = torch.zeros(2, 5)
    for gradient in gradients:
        configs[0].update(state, parameters, gradient.clone())
    for k, (lr, beta1) in enumerate(rates):
        mean = torch.zeros(5)
        for gradient in gradients[:, k]:
            expected[k] -= lr * torch.sign(beta1 * mean + (1 - beta1) * gradient)
            mean = 0.99 * mean + 0.01 * gradient
    torch.testing.assert_close(parameters, expected)


def test_an_optimiser_of_ones_own_trains_in_a_stack_as_alone(files: Path) -> None:
    optim = own_optimiser()
    configs = [
        make_config("gru", seed, optim=replace(optim, lr=lr, beta1=beta1))
        for seed, lr, beta1 in ((0, 0.01, 0.9), (1, 0.003, 0.5))
    ]
    assert shape_key(configs[0]) == shape_key(configs[1])
    assert shape_key(configs[0]) != shape_key(replace(configs[0], optim=replace(optim, signed=False)))
    together = trained(configs)
    for config, outcome in zip(configs, together, strict=True):
        (alone,) = trained([config])
        assert torch.equal(outcome.weights, alone.weights)


def own_optimiser():
    """The optimiser of lion.py, bound to this file."""
    from rnnbench.sweep.compose import compose_one
    from rnnbench.sweep.launcher import register, task_config

    register()
    return task_config(compose_one(["rnnbench_import=lion.py", "optim=lion"])).optim


def trained(configs):
    stack = Stack(configs[0], small_task())
    stack.admit([stack.fresh(config) for config in configs])
    reports = list(zip(stack.epochs(), range(3), strict=False))
    assert len(reports) == 3
    return conclude(stack, sorted(stack.slots, key=lambda slot: slot.config.seed))


def test_both_go_through_sweeps_searches_and_experiments(files: Path) -> None:
    mine = "rnnbench_import=leaky.py:lion.py"
    run(files, "-m", mine, "model=lstm,leaky", "optim=lion,sgd", "hydra.sweep.dir=s", *SHORT)
    results = [json.loads((files / f"s/{n}/result.json").read_text()) for n in range(4)]
    found = [(r["params"]["model.name"], r["params"]["optim.name"], r["status"]) for r in results]
    assert found == [(m, o, "finished") for m in ("lstm", "leaky") for o in ("lion", "sgd")]
    assert {"rnnbench.import.lion.py", "rnnbench.import.leaky.py"} <= results[0]["tags"].keys()
    run(
        files, "-m", mine, "hydra/sweeper=optuna", "model=choice(lstm,leaky)", "optim=choice(lion,sgd)",
        "hydra.sweeper.n_trials=3", "hydra.sweep.dir=o", *SHORT,
    )  # fmt: skip
    searched = [json.loads(path.read_text()) for path in files.glob("o/*/result.json")]
    assert [result["status"] for result in searched] == ["finished"] * 3
    (files / "conf/experiment").mkdir(parents=True)
    (files / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: leaky\n  - override /optim: lion\n"
        f"{mine.replace('=', ': ')}\noptim:\n  beta1: 0.7\n"
        "model:\n  forget_bias: ${if_forget_gate:${model.name},1}\n"
    )
    run(files, "--config-dir=conf", "experiment=mine", "hydra.run.dir=e/0", *SHORT)
    params = json.loads((files / "e/0/result.json").read_text())["params"]
    assert (params["optim.beta1"], params["model.forget_bias"]) == (0.7, 1.0)


def test_a_yaml_of_ones_own_sets_defaults(files: Path) -> None:
    for group, name, schema, line in (
        ("model", "leaky", "model", "name: leaky\nnum_layers: 2"), ("optim", "lion", "lion", "beta2: 0.5"),
    ):  # fmt: skip
        (files / "conf" / group).mkdir(parents=True)
        (files / "conf" / group / f"{name}.yaml").write_text(
            f"defaults:\n  - /hydra/schema@_here_: {schema}\n{line}\n"
        )
    mine = "rnnbench_import=leaky.py:lion.py"
    run(files, "--config-dir=conf", mine, "model=leaky", "optim=lion", "hydra.run.dir=r/0", *SHORT)
    params = json.loads((files / "r/0/result.json").read_text())["params"]
    assert (params["model.num_layers"], params["optim.beta2"]) == (2, 0.5)


def test_each_version_of_an_optimisers_file_is_a_trial_of_its_own(files: Path) -> None:
    """Two files of one name in a sweep train as each alone, with their own defaults and settings."""
    for name, text in (("one", LION), ("two", LION.replace("0.002", "0.02").replace("signed", "sign"))):
        (files / name).mkdir()
        (files / name / "lion.py").write_text(text)
    words = ["optim=lion", *SHORT]
    run(files, "-m", "rnnbench_import=one/lion.py,two/lion.py", "hydra.sweep.dir=s", *words)
    for n, name in enumerate(("one", "two")):
        result = rnnbench.run(f"rnnbench_import={name}/lion.py", *words, folder=f"alone/{n}")
        assert numbers(files / "alone" / str(n)) == numbers(files / "s" / str(n))
        assert result["params"]["optim.lr"] == (0.002, 0.02)[n]
        assert result["trial"] == json.loads((files / f"s/{n}/result.json").read_text())["trial"]
    trials = {json.loads(path.read_text())["trial"] for path in files.glob("s/*/result.json")}
    assert len(trials) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["optim=lion"], "optim=lion: there is no such option"),
        (
            ["rnnbench_import=lion.py", "optim=lion", "optim.beta1=1"],
            "optim.beta1=1.0: must be at least 0",
        ),
        (["rnnbench_import=lion.py", "optim=lion", "optim.beta3=1"], "did you mean optim.beta1=1"),
        (["rnnbench_import=lion.py", "optim=lino"], "did you mean optim=lion?"),
        (["rnnbench_import=lion.py", "optim.name=lion"], "optim.name=lion: choose with optim=NAME"),
        (["rnnbench_import=lion.py", "optim.beta1=0.5", "optim=sgd"], "it goes with optim=adam"),
        (["rnnbench_import=lion.py", "optim=lion", "fit.kernel=compiled"], "optim=lion updates in Python"),
    ],
)
def test_what_is_wrong_with_an_optimiser_of_ones_own_is_said_by_its_key(files: Path, words, message) -> None:
    with pytest.raises(ConfigError) as refusal:
        rnnbench.run(*words, *SHORT)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "text, message",
    [
        (LION.replace('"lion"', '"adam"'), "rnnbench has an optimiser of that name; choose another"),
        (
            LION.replace("rnnbench.Optim", "object"),
            "must stand above a class that derives from",
        ),
        (LION.replace("def update", "def other"), "has no update(self, state, parameters, gradient)"),
        (LION.replace("beta2", "clip"), "clip in .* has another meaning"),
    ],
)
def test_a_class_that_is_no_optimiser_is_refused(files: Path, text: str, message: str) -> None:
    (files / "lion.py").write_text(text)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        rnnbench.run("rnnbench_import=lion.py", "optim=lion", *SHORT)


def test_a_record_says_which_file_its_optimiser_comes_from(files: Path) -> None:
    folder = rnnbench.run("rnnbench_import=lion.py", "optim=lion", *SHORT)["folder"]
    (files / "lion.py").write_text(LION + "# another")
    assert rnnbench.load(folder).config.optim.name == "lion"  # of the code that was imported
    forgotten = run_python(files, f"import rnnbench; rnnbench.load({folder!r})")
    assert "its optimiser lion comes from lion.py; import that file first" in forgotten
    changed = run_python(files, f"import rnnbench, lion; rnnbench.load({folder!r})")
    assert "its optimiser lion was trained with other code than lion.py" in changed


def run_python(folder: Path, code: str) -> str:
    """What a Python process that fails writes to stderr."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


# A task: one file that owns its settings with their checks, its data, its loss and its metric

RECALL = '''"""Which symbol came first? An answer is asked for after `steps` others."""

from dataclasses import dataclass

import numpy as np

import rnnbench
from rnnbench.config import Data
from rnnbench.config.refusals import at_least
from rnnbench.tasks import Examples, Goal


@dataclass
class Recall(Data):
    steps: int = 4
    symbols: int = 3

    def check(self):
        super().check()
        at_least(2, ("data.symbols", self.symbols))


# Cohen's kappa: agreement beyond what is agreed on by chance
def kappa(counts):
    n = counts.sum((1, 2))
    right = counts.diagonal(dim1=1, dim2=2).sum(1) / n
    chance = (counts.sum(1) * counts.sum(2)).sum(1) / n**2
    return (right - chance) / (1 - chance)


rnnbench.register_metric(
    rnnbench.Metric(
        name="kappa", better="higher", bounds=(-1, 1), digits=4, title="kappa", goals=("label",),
        of_confusion=kappa,
    )
)


@rnnbench.register_task("recall")
class FirstSymbol:
    settings = Recall
    goal, metric = Goal.label, "kappa"

    def __init__(self, data):
        self.steps, self.input_size, self.outputs = data.steps + 1, data.symbols, data.symbols
        self.draws = self.steps

    def make(self, u):
        tokens = np.floor(u * self.outputs).astype(np.int16)
        return Examples(tokens, tokens[:, 0].astype(np.int64))

    def loss(self, logits, y):  # Brier's score: (K, classes, B), (K, B) -> (K, B)
        truth = logits.new_zeros(logits.shape).scatter_(1, y.unsqueeze(1), 1.0)
        return (logits.softmax(1) - truth).square().sum(1)
'''

ENDLESS = ["fit.steps_per_epoch=10", "fit.epochs=2", "tracking=none", "model.hidden_size=8", "optim.lr=0.02"]


@pytest.fixture
def recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recall.py").write_text(RECALL)
    return tmp_path


def test_a_task_of_ones_own_is_chosen_with_its_settings_its_loss_and_its_metric(recall: Path) -> None:
    result = rnnbench.run("rnnbench_import=recall.py", "data=recall", "data.steps=2", *ENDLESS)
    metrics, params = result["metrics"], result["params"]
    given = ("data.name", "data.metric", "data.steps", "data.symbols")
    assert [params[key] for key in given] == ["recall", "kappa", 2, 3]
    assert -1 <= metrics["test/kappa"] <= 1 and 0 <= metrics["test/loss"] <= 2
    assert {"best/val_kappa", "best/val_loss", "test/kappa", "test/loss"} <= metrics.keys()
    again = rnnbench.load(result["folder"])
    assert again.config.data.steps == 2
    assert again.evaluate() == {name: metrics[name] for name in ("test/loss", "test/kappa")}
    for words, message in (
        (["data.symbols=1"], "data.symbols=1: must be a whole number of at least 2"),
        (["data.symbol=4"], "data.symbol=4: there is no key data.symbol; did you mean .*data.symbols=4"),
    ):
        with pytest.raises(ConfigError, match=message):
            rnnbench.run("rnnbench_import=recall.py", "data=recall", *words, *ENDLESS)


def test_a_task_of_ones_own_in_a_search_that_its_metric_judges(recall: Path) -> None:
    """With a yaml of the user's that has its own defaults."""
    (recall / "mine" / "data").mkdir(parents=True)
    (recall / "mine" / "data" / "short.yaml").write_text(
        "defaults:\n  - /hydra/schema@_here_: recall\nname: recall\nmetric: kappa\nsteps: 1\n"
    )
    run(
        recall,
        *("--config-dir", "mine", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "data=short"),
        *("rnnbench_import=recall.py", "optim.lr=interval(0.001,0.1)", "hydra.sweeper.study_name=s"),
        *(word for word in ENDLESS if not word.startswith("optim.lr")),
    )
    done = rnnbench.records(recall / "multirun")
    assert list(done["data.steps"]) == [1, 1] and done["best/val_kappa"].notna().all()
    best = OmegaConf.load(recall / "multirun" / "s" / "optimization_results.yaml")
    assert best.best_value == max(done["best/val_kappa"])


# A metric: one object

ERRORS = """import rnnbench

rnnbench.register_metric(
    rnnbench.Metric(
        name="largest_error", better="lower", goals=("value",),
        sums=lambda logits, y, counts: ((logits - y).abs().pow(20).sum((1, 2)), counts.sum(1)),
        of_sums=lambda powers, examples: powers.pow(1 / 20),  # nearly the largest
    )
)
"""


def test_a_metric_of_ones_own_is_measured_beside_others_and_may_choose(recall: Path) -> None:
    (recall / "errors.py").write_text(ERRORS)
    words = ["rnnbench_import=errors.py", "data=adding", "data.steps=4", "data.metrics=[mae,largest_error]"]
    result = rnnbench.run(*words, "objective=val/largest_error", *ENDLESS)
    metrics = result["metrics"]
    assert {"best/val_largest_error", "test/largest_error", "test/mae", "test/mse"} <= metrics.keys()
    assert metrics["test/mae"] < metrics["test/largest_error"]
    again = rnnbench.load(result["folder"]).evaluate()
    assert again == {name: metrics[name] for name in again} and "test/largest_error" in again
    with pytest.raises(ConfigError, match=r"data.metrics=macro_f1: does not go with data=adding, which has"):
        rnnbench.run("data=adding", "data.metrics=[macro_f1]", *ENDLESS)
