"""Cells and tasks of one's own: real commands with a user's file, budgets, and what the records say."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

import rnnbench
from rnnbench.config import Config, Model, Optim
from rnnbench.config.schema import CELL_KEYS
from rnnbench.nn.budget import hidden_size
from rnnbench.nn.cells import CELLS
from rnnbench.nn.network import Network
from rnnbench.sweep import own_options, stages
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.counting import Counting
from rnnbench.tasks.synthetic import Generated
from tests.test_app import run
from tests.test_refusals import command

MINE = '''"""A cell and a task of my own."""

import numpy as np
import rnnbench
from rnnbench.tasks import Examples, Goal


@rnnbench.register_cell("leaky")
class Leaky(rnnbench.Cell):
    """h = 0.9 h- + 0.1 tanh(W x + R h- + b)"""

    def step(self, a, state, layer):
        (h,) = state
        return (0.9 * h + 0.1 * layer.recurrent(h, a).tanh(),)


@rnnbench.register_task("largest")
class Largest:
    """Which of five numbers is the largest? 0.1 0.9 0.3 0.2 0.4 -> 1"""

    goal, metric, steps, input_size, outputs, draws = Goal.label, "accuracy", 5, 1, 5, 5

    def __init__(self, data):
        self.scale = data.options.get("scale", 1.0)

    def make(self, u):
        return Examples(self.scale * u[:, :, None].astype(np.float32), u.argmax(1))
'''


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def test_a_cell_and_a_task_of_ones_own_work_everywhere(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    out, _ = run(
        tmp_path, "-m", "rnnbench_import=mine.py", "model.name=leaky,gru", "model.budget=500", "seed=0,1",
        "data=own", "data.name=largest", "+data.options={scale: 2.0}", "fit.epochs=1",
        "fit.steps_per_epoch=20", "tracking.uri=null", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert "leaky" in out and "gru" in out
    found = results(tmp_path / "s")
    assert len(found) == 4
    for result in found:
        assert result["status"] == "finished"
        assert abs(result["metrics"]["parameters/total"] - 500) < 60
        assert result["params"]["model.budget"] == 500
        digest = hashlib.sha256(MINE.encode()).hexdigest()
        assert result["tags"]["rnnbench.import.mine.py"] == digest
    again, _ = run(
        tmp_path, "-m", "hydra/sweeper=optuna", "rnnbench_import=mine.py", "model=lstm", "model.name=leaky",
        "model.hidden_size=choice(4,8)", "data.train_size=100", "fit.epochs=1", "tracking.uri=null",
        "hydra.sweeper.n_trials=2", "hydra.sweep.dir=o",
    )  # fmt: skip
    assert "trial" in again
    assert all(result["status"] == "finished" for result in results(tmp_path / "o"))


def test_reading_records_imports_nothing(tmp_path):
    (tmp_path / "mine.py").write_text(MINE + "\nopen('imported', 'a').write('x')\n")
    run(tmp_path, "rnnbench_import=mine.py", "model.name=leaky", "data.train_size=100", "fit.epochs=1",
        "tracking.uri=null", "hydra.run.dir=r/0")  # fmt: skip
    assert (tmp_path / "imported").read_text() == "x"
    code = (
        "import rnnbench\n"
        "print(len(rnnbench.records('r')))\n"
        "try: rnnbench.load('r/0')\n"
        "except rnnbench.ConfigError as error: print(error)\n"
        "import mine\n"
        "print(rnnbench.load('r/0').config.model.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "1", done.stderr
    assert "comes from mine.py; import that file first" in lines[1]
    assert lines[2] == "leaky"
    assert (tmp_path / "imported").read_text() == "xx"


def test_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "leaks-2.5.dist-info").mkdir(parents=True)
    (site / "leaks.py").write_text(MINE)
    (site / "leaks-2.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: leaks\nVersion: 2.5\n"
    )
    (site / "leaks-2.5.dist-info" / "entry_points.txt").write_text("[rnnbench]\nleaks = leaks\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    words = [
        "model.name=leaky",
        "data.train_size=100",
        "fit.epochs=1",
        "tracking.uri=null",
        "hydra.run.dir=r/0",
    ]
    # Started anew, since a forked process has read its PYTHONPATH already.
    subprocess.run([sys.executable, "-m", "rnnbench", *words], cwd=tmp_path, check=True, capture_output=True)
    tags = json.loads((tmp_path / "r/0/result.json").read_text())["tags"]
    assert tags["rnnbench.import.leaks"] == "2.5"


def test_another_file_is_another_trial(tmp_path):
    arguments = ["rnnbench_import=mine.py", "model.name=leaky", "data.train_size=100", "fit.epochs=1"]
    arguments += ["tracking.uri=null"]
    trials = []
    for n, text in enumerate((MINE, MINE.replace("0.9 * h", "0.8 * h"))):
        (tmp_path / "mine.py").write_text(text)
        run(tmp_path, *arguments, f"hydra.run.dir=r/{n}")
        trials.append(json.loads((tmp_path / f"r/{n}/result.json").read_text())["trial"])
    assert trials[0] != trials[1]


@pytest.mark.parametrize(
    "text, words",
    [
        ("import nothing_of_the_kind", ["rnnbench_import=mine.py", "nothing_of_the_kind"]),
        (
            "import rnnbench\n@rnnbench.register_cell('gru')\nclass X(rnnbench.Cell): pass",
            ["'gru'", "another"],
        ),
        ("import rnnbench\n@rnnbench.register_task('mnist')\nclass X: pass", ["'mnist'", "another"]),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    done = command(["rnnbench_import=mine.py"], tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]


@rnnbench.register_cell("window")
class Window(rnnbench.Cell):
    options = frozenset({"theta"})

    def step(self, a, state, layer):
        return (layer.recurrent(state[0], a) / self.model.theta,)


@pytest.mark.parametrize("name", ["lmu", "window"])
def test_a_window_that_is_not_given_is_the_longest_training_sequence(name, tmp_path, monkeypatch):
    monkeypatch.setitem(own_options.CELLS, "window", Window)
    y, lengths = np.array([0, 1] * 4), np.array([3, 5, 4, 2, 5, 6, 2, 3])
    arrays = {"x_test": np.ones((2, 9, 1)), "y_test": y[:2], "lengths_test": np.array([9, 1])}
    np.savez(tmp_path / "own.npz", x_train=np.ones((8, 9, 1)), y_train=y, lengths_train=lengths, **arrays)
    optim, model = Optim("sgd"), Model(name)
    for data, steps in (
        (Generated("adding", "mse", steps=17), 17),
        (Counting("anbn", "nll", longest=6, test_longest=50), 13),  # begin, a to the 6, b to the 6
        (Arrays("npz", path=str(tmp_path / "own.npz"), val_size=2), 6),
    ):
        assert stages.sized(Config(model, optim, data)).model == replace(model, theta=steps)
        given = Config(replace(model, theta=5.0), optim, data)
        assert stages.sized(given) is given
    plain = Config(Model("lstm"), optim, Arrays("npz", path="none.npz"))
    assert stages.sized(plain) is plain  # no data is read for it


def test_the_keys_of_some_cells_are_declared_without_torch():
    declared = {name: {key for key, names in CELL_KEYS.items() if name in names} for name in CELLS}
    assert declared == {name: kind.options for name, kind in CELLS.items()}
    assert CELL_KEYS.keys() <= {field.name for field in fields(Model)}


# The checks at the end of PROTOCOLS.md.
@pytest.mark.parametrize(
    "name, budget, width, expected",
    [
        *(("rnn", 20_000, 28, 123), ("gru", 20_000, 28, 67), ("lstm", 20_000, 28, 56)),
        *(("rnn", 70_000, 1, 258), ("gru", 70_000, 1, 150), ("lstm", 70_000, 1, 130)),
    ],
)
def test_budgets_by_hand(name, budget, width, expected):
    assert hidden_size(Model(name, budget=budget), width, 10) == expected


def test_the_tutorials_counts():
    for name, count in (("lstm", 2590), ("gru", 1970)):
        assert Network(Model(name, 10, num_layers=2), 28, 10).count() == count


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("budget", [300, 5_000, 77_777])
def test_no_other_hidden_size_is_nearer(layers, budget):
    for name in ("lstm_peephole", "fgr", "mut1", "minlstm"):
        model = Model(name, num_layers=layers, bidirectional=layers == 3, budget=budget)
        least = Network(Model(name, 1, layers, layers == 3), 4, 2).count()
        if least > budget:
            continue
        H = hidden_size(model, 4, 2)
        away = [
            abs(Network(Model(name, near, layers, layers == 3), 4, 2).count() - budget)
            for near in (max(1, H - 1), H, H + 1)
        ]
        assert away[1] == min(away)
