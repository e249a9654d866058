"""Laws of code of one's own: the class that trains is that of the file, and the trial knows all its code."""

import importlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_config

import rnnbench
from rnnbench.cluster.stack_file import SentStack
from rnnbench.config import ConfigError, plain, trial_hash, typed
from rnnbench.config.user_code import imported, own_code, recalled
from rnnbench.nn.cells import class_of
from rnnbench.train.stack import shape_key
from tests.test_app import numbers, run

LEAKY = '''import rnnbench
{imports}


@rnnbench.register_cell("leaky")
class Leaky(rnnbench.Cell):
    """h = k h- + (1 - k) tanh(W x + R h- + b)"""

    def step(self, a, state, layer):
        {late}
        return ({keep} * state[0] + (1 - {keep}) * layer.recurrent(state[0], a).tanh(),)
'''


def leaky(keep="0.9", imports="", late="pass"):
    return LEAKY.format(keep=keep, imports=imports, late=late)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def config_of(*files: Path | str, cell: str = "leaky"):
    """A configuration that is bound to these files as a command with `rnnbench_import` would be."""
    return own_code(replace(make_config(cell), rnnbench_import=":".join(map(str, files)) or None))


def hash_of(*files: Path | str, cell: str = "leaky") -> str:
    return trial_hash(config_of(*files, cell=cell), "checksum of the data")


def keep_of(config) -> float:
    """What the class that a configuration is bound to keeps of a state of ones, where the rest is 0."""
    cell, H = class_of(config.model.name)(config.model), config.model.hidden_size
    x, zero = torch.zeros(1, 1, 2, 1), torch.zeros(1, H, 2)
    weights = {"weight_ih": zero, "weight_hh": torch.zeros(1, H, H), "bias": torch.zeros(1, H)}
    return float(cell.carry(x, weights, (torch.ones(1, H, 1),))[1][0][0, 0, 0])


ARGUMENTS = ["model.name=leaky", "data.train_size=100", "fit.epochs=1", "tracking.uri=null"]


def test_trials_of_two_files_in_one_sweep_are_those_of_each_file_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"one/cells.py": leaky("0.9"), "two/cells.py": leaky("0.1"), "slow.py": leaky("0.9")})
    files = "one/cells.py,two/cells.py,slow.py"
    run(tmp_path, "-m", f"rnnbench_import={files}", *ARGUMENTS, "hydra.sweep.dir=s")
    together = [numbers(tmp_path / "s" / str(n)) for n in range(3)]
    for n, file in enumerate(files.split(",")):
        rnnbench.run(f"rnnbench_import={file}", *ARGUMENTS, folder=f"alone/{n}")
        assert numbers(tmp_path / "alone" / str(n)) == together[n]
    assert together[0] == together[2] != together[1]
    trials = [json.loads((tmp_path / f"s/{n}/result.json").read_text())["trial"] for n in range(3)]
    assert len(set(trials)) == 3


def test_a_file_that_imports_nothing_of_ones_own_is_the_trial_that_it_always_was(tmp_path):
    """The hashes are those that the code before helpers had an identity has computed."""
    write(tmp_path, {"slow.py": "import rnnbench\n# no helpers\n" + leaky()})
    assert hash_of(tmp_path / "slow.py") == "97fb1b7d4848dfb7"
    assert hash_of(tmp_path / "slow.py", cell="gru") == "729edbff0eb64a42"
    assert hash_of(cell="gru") == "c8e8e489319d5367"


HELPERS = {
    "beside": {"mine.py": leaky("KEEP", "from helper import KEEP"), "helper.py": "KEEP = 0.9"},
    "of a helper": {
        "mine.py": leaky("helper.KEEP", "import helper"),
        "helper.py": "from deeper import KEEP",
        "deeper.py": "KEEP = 0.9",
    },
    "in a package": {
        "mine.py": leaky("b.KEEP", "from lab.a import b"),
        "lab/__init__.py": "",
        "lab/a/__init__.py": "",
        "lab/a/b.py": "from ..c import KEEP",
        "lab/c.py": "KEEP = 0.9",
    },
    "in a folder without __init__": {
        "mine.py": leaky("b.KEEP", "import lab.b as b"),
        "lab/b.py": "KEEP = 0.9",
    },
    "by its name": {
        "mine.py": leaky("helper.KEEP", "import importlib; helper = importlib.import_module('helper')"),
        "helper.py": "KEEP = 0.9",
    },
    "when it runs": {
        "mine.py": leaky("KEEP", late="from helper import KEEP"),
        "helper.py": "KEEP = 0.9",
    },
    "when a helper runs": {
        "mine.py": leaky("keep()", "from lab import keep"),
        "lab/__init__.py": "def keep():\n    from . import b\n    return b.KEEP",
        "lab/b.py": "KEEP = 0.9",
    },
}


WHERE = [("beside", name) for name in HELPERS] + [
    pytest.param(
        "PYTHONPATH", name, marks=[] if name in ("in a package", "when it runs") else [pytest.mark.slow]
    )
    for name in HELPERS
]


@pytest.mark.parametrize("place, name", WHERE)
def test_every_module_of_ones_own_is_in_the_identity_and_is_read_again(tmp_path, monkeypatch, place, name):
    files = HELPERS[name]
    write(tmp_path / "one", files)
    if place == "PYTHONPATH":
        monkeypatch.syspath_prepend(str(tmp_path / "lib"))
        for name in [name for name in files if name != "mine.py"]:
            (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "one" / name).rename(tmp_path / "lib" / name)
    else:
        write(tmp_path / "elsewhere", files)
        assert hash_of(tmp_path / "elsewhere/mine.py") == hash_of(tmp_path / "one/mine.py")
    home = tmp_path / ("lib" if place == "PYTHONPATH" else "one")
    before, first = dict(sys.modules), config_of(tmp_path / "one/mine.py")
    assert keep_of(first) == pytest.approx(0.9)
    hashes = [trial_hash(first, "x")]
    for name in files:  # of the same length and within the same second, as an editor may write it
        file = (home if name != "mine.py" else tmp_path / "one") / name
        text = file.read_text()
        file.write_text(text.replace("KEEP = 0.9", "KEEP = 0.4") if "KEEP = " in text else text + "#")
        now = config_of(tmp_path / "one/mine.py")
        assert keep_of(now) == pytest.approx(0.4 if "KEEP = " in text else 0.9)
        hashes.append(trial_hash(now, "x"))
        assert shape_key(now) != shape_key(first)  # they never train in one stack
        file.write_text(text)
        assert trial_hash(config_of(tmp_path / "one/mine.py"), "x") == hashes[0]
    assert len(set(hashes)) == len(files) + 1
    assert keep_of(first) == pytest.approx(0.9)  # bound to the class it was made with
    assert {name for name in sys.modules.keys() - before.keys() if "lab" in name or "helper" in name} == set()


def test_what_is_not_imported_and_what_is_installed_is_not_in_the_identity(tmp_path):
    write(tmp_path, {"mine.py": "import json, torch, numpy, yaml\n" + leaky(), "other.py": "x = 1"})
    assert list(imported(config_of(tmp_path / "mine.py"))) == ["mine.py"]
    first = hash_of(tmp_path / "mine.py")
    (tmp_path / "other.py").write_text("x = 2")
    assert hash_of(tmp_path / "mine.py") == first


def test_what_is_no_python_but_found_beside_does_no_harm(tmp_path):
    late = "if False: import old, beside"
    write(tmp_path, {"mine.py": leaky(late=late), "old.py": "print 'two'", "beside.py": "from ... import x"})
    assert sorted(imported(config_of(tmp_path / "mine.py"))) == ["beside", "mine.py", "old"]


def test_a_script_is_known_by_its_file(tmp_path):
    words = ", ".join(map(repr, ARGUMENTS))
    write(
        tmp_path, {"train.py": leaky(imports="import helper") + f"\n\nrnnbench.run({words}, folder='r/0')\n"}
    )
    write(tmp_path, {"helper.py": "x = 1"})
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    tags = json.loads((tmp_path / "r/0/result.json").read_text())["tags"]
    assert {name for name in tags if "import" in name} == {
        "rnnbench.import.train.py",
        "rnnbench.import.helper",
    }


def test_helpers_of_one_name_are_kept_apart(tmp_path):
    mine = leaky("helper.KEEP", "import helper")
    write(tmp_path / "one", {"mine.py": mine, "helper.py": "KEEP = 0.9"})
    write(tmp_path / "two", {"mine.py": mine, "helper.py": "KEEP = 0.4"})
    one, two = (config_of(tmp_path / name / "mine.py") for name in ("one", "two"))
    assert (keep_of(one), keep_of(two)) == (pytest.approx(0.9), pytest.approx(0.4))
    assert trial_hash(one, "x") != trial_hash(two, "x")


def test_what_one_file_adds_to_the_path_is_not_searched_for_another(tmp_path):
    """Two files, each with a folder of helpers of its own, are together what each is alone."""
    append = "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\n"
    at_once = append + "from helper_p import KEEP\n" + leaky("KEEP")
    late = append + leaky("KEEP", late="from helper_p import KEEP")
    path = list(sys.path)
    for n, mine in enumerate((at_once, late)):
        files = []
        for keep in ("0.9", "0.4"):
            home = write(tmp_path / f"{n}{keep}", {"mine.py": mine, "lib/helper_p.py": f"KEEP = {keep}"})
            files.append(config_of(home / "mine.py"))
        assert [keep_of(config) for config in files] == [pytest.approx(0.9), pytest.approx(0.4)]
        assert all("helper_p" in imported(config) for config in files)
        assert trial_hash(files[0], "x") != trial_hash(files[1], "x")
    assert sys.path == path


def test_the_users_own_modules_stay_as_they_are(tmp_path, monkeypatch):
    write(tmp_path, {"mine.py": leaky("helper_u.KEEP", "import helper_u"), "helper_u.py": "KEEP = 0.9"})
    monkeypatch.syspath_prepend(str(tmp_path))
    import helper_u  # type: ignore[import-not-found]

    helper_u.KEEP = 0.2
    assert keep_of(config_of(tmp_path / "mine.py")) == pytest.approx(0.9)
    assert sys.modules["helper_u"] is helper_u


def test_a_module_with_the_name_of_the_standard_librarys_does_not_take_its_place(tmp_path):
    write(tmp_path, {"copy.py": leaky(imports="import random"), "random.py": "raise RuntimeError"})
    import copy

    assert keep_of(config_of(tmp_path / "copy.py")) == pytest.approx(0.9)
    assert sys.modules["copy"] is copy


@pytest.mark.parametrize(
    "one, two, refused",
    [
        (leaky("0.9"), leaky("0.9"), False),
        (leaky("0.9"), leaky("0.4"), True),
        (leaky("0.9"), leaky("0.9").replace("Leaky", "Other"), True),
    ],
)
def test_an_unequal_second_registration_in_one_trials_code_is_refused(tmp_path, one, two, refused):
    write(tmp_path, {"one.py": one, "two.py": two})
    if refused:
        with pytest.raises(ConfigError, match=r"'leaky'.*one\.py:\d+ and .*two\.py:\d+"):
            config_of(tmp_path / "one.py", tmp_path / "two.py")
    else:
        config_of(tmp_path / "one.py", tmp_path / "two.py")
    both = leaky("0.9") + leaky("0.4").partition("\n")[2]
    with pytest.raises(ConfigError, match=r"'leaky'.*both\.py:\d+ and .*both\.py:\d+"):
        config_of(write(tmp_path, {"both.py": both}) / "both.py")


def test_a_helper_that_registers_is_harmless_beside_its_own_file(tmp_path):
    write(tmp_path, {"one.py": leaky(), "two.py": "from one import Leaky"})
    config_of(tmp_path / "one.py", tmp_path / "two.py")


def test_a_worker_sees_the_same_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, HELPERS["in a package"]))
    from rnnbench.sweep.job import Job, identity

    config = config_of("mine.py")
    job = Job("job", config, tmp_path / "0", identity(config))
    stack = SentStack.write(tmp_path, "sweep", [job], max_stack=None, search=None)
    (entry,) = SentStack(stack.file).jobs
    there = own_code(typed(entry["config"]))
    assert identity(there) == entry["trial"]
    assert repr(there.model) == repr(config.model)
    assert plain(there)["model"]["name"] == "leaky"


# Files that cannot be used, and what the message says after the file's name.
UNUSABLE = {
    "import rnnbench\nrnnbench.run('rnnbench_import=mine.py')": "mine.py:2: it trains while it is imported",
    "from .broken import x": "mine.py:1: ImportError: .broken is relative, but",
    "class E(Exception):\n    def __str__(self): 1 / 0\nraise E": "mine.py:3: E: its message cannot be",
    "import sys\nsys.exit()": "mine.py:2: SystemExit",
    "import sys\n\nsys.exit('enough')": "mine.py:3: SystemExit: enough",
    "x = 1\ndef f(:\n": "mine.py:2: SyntaxError: invalid syntax",
    "x = 1\n  y = 2\n": "mine.py:2: IndentationError",
    "\n\nimport nothing_of_the_kind": "mine.py:3: ModuleNotFoundError: No module named 'nothing_of_the_kind'",
    "import broken": "broken.py:2: ZeroDivisionError",
    "import unfinished": "unfinished.py:1: SyntaxError",
    "\nopen('/no/such/file')": "mine.py:2: FileNotFoundError",
    "import rnnbench\n@rnnbench.register_cell('gru')\nclass X(rnnbench.Cell): pass": "mine.py:2: register_",
    "import rnnbench\n@rnnbench.register_cell\nclass X(rnnbench.Cell): pass": "register_cell: needs the name",
    "import rnnbench\n@rnnbench.register_cell('x')\nclass X: pass": "derives from rnnbench.Cell",
    "import rnnbench\n@rnnbench.register_cell('x')\nclass X(rnnbench.Cell): pass": "no step",
    leaky().replace("def step", "gates = 0\n\n    def step"): "gates = 0 in mine.py",
    leaky().replace("def step", "states = 'two'\n\n    def step"): "states = 'two' in mine.py",
    "import rnnbench\n@rnnbench.register_task('x')\nclass X: pass": "make(self, u)",
}


@pytest.mark.parametrize("text, words", UNUSABLE.items(), ids=UNUSABLE.values())
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(write(tmp_path, {"mine.py": text, "broken.py": "\n1 / 0", "unfinished.py": "f("}))
    with pytest.raises(ConfigError) as error:
        config_of("mine.py")
    assert str(error.value).startswith("rnnbench_import=mine.py: ")
    assert words in str(error.value)


def test_a_notebook_is_no_file_of_code(tmp_path):
    write(tmp_path, {"mine.ipynb": '{"cells": []}'})
    with pytest.raises(ConfigError, match="is a notebook; save the cell that registers as a file"):
        config_of(tmp_path / "mine.ipynb")


def test_the_message_of_a_file_that_exits_is_all_and_the_code_is_1(tmp_path):
    write(tmp_path, {"mine.py": "import sys\nsys.exit()"})
    _, err = run(tmp_path, "rnnbench_import=mine.py", "tracking.uri=null", code=1)
    assert err.startswith("error: rnnbench_import=mine.py: mine.py:2: SystemExit") and err.count("\n") == 1
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    from tests.test_app import start

    process = start(tmp_path, "rnnbench_import=mine.py", "tracking.uri=null", env=environment)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" in err and 'mine.py", line 2' in err


# Steps that are wrong, and what the refusal says.
WRONG = {
    "raise RuntimeError('always')": "mine.py:10: Leaky.step raises RuntimeError: always",
    "return state[0]": "mine.py:9: Leaky.step gave Tensor; expected a tuple of states = 1 tensors",
    "return None": "mine.py:9: Leaky.step gave NoneType; expected",
    "return (state[0][:, :2],)": "mine.py:9: Leaky.step gave a tuple of [(2, 2, 3)]; expected",
    "return (*state, *state)": "mine.py:9: Leaky.step gave a tuple of [(2, 6, 3), (2, 6, 3)]; expected",
    "return (1.0,)": "mine.py:9: Leaky.step gave a tuple of [None]; expected",
    "return state": "mine.py:9: Leaky.step: no answer depends on weight_ih, weight_hh, bias; use",
    "a = (state[0] + a).exp_(); a.exp(); return (a.add_(1).log().mul_(2),)": "inplace operation",
    "h, c = state": "mine.py:10: Leaky.step raises ValueError: not enough values to unpack (ex",
}


@pytest.mark.parametrize("line, words", WRONG.items(), ids=WRONG.values())
def test_a_wrong_step_is_refused_with_its_line(tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(write(tmp_path, {"mine.py": leaky(late=line)}))
    with pytest.raises(ConfigError) as refusal:
        rnnbench.run("rnnbench_import=mine.py", *ARGUMENTS, "model.hidden_size=6", folder="r/0")
    assert words in str(refusal.value)
    assert not (tmp_path / "r").exists()


def test_a_step_that_fails_in_training_names_its_line(tmp_path, monkeypatch):
    line = "if a.shape[-1] > 4: raise RuntimeError('in the first epoch')"
    monkeypatch.chdir(write(tmp_path, {"mine.py": leaky(late=line)}))
    words = "rnnbench_import=mine.py", *ARGUMENTS, "fit.kernel=torch"
    result = rnnbench.run(*words, folder="r/0")
    assert result["status"] == "failed"
    assert "mine.py:10: RuntimeError: in the first epoch" in result["error"]
    assert "step was given a (K, gates * hidden, B) = (1, 32, 32) with gates = 1" in result["error"]
    assert "Traceback" in result["traceback"]


def test_a_cell_or_a_task_that_cannot_be_made_is_refused_with_its_line(tmp_path, monkeypatch):
    broken = leaky() + "\n    def shapes(self, input_size):\n        return 1 / 0\n"
    made = leaky() + "\n    def __init__(self, model):\n        raise KeyError('x')\n"
    task = "import rnnbench\n@rnnbench.register_task('t')\nclass T:\n    def __init__(self, data):\n"
    task += "        1 / 0\n    def make(self, u): pass\n"
    bare = task.replace("1 / 0", "pass")
    files = {"shapes.py": broken, "made.py": made, "task.py": task, "bare.py": bare}
    monkeypatch.chdir(write(tmp_path, files))
    for words, message in {
        "rnnbench_import=made.py model.name=leaky": "model.name=leaky: made.py:14: KeyError: 'x'",
        "rnnbench_import=shapes.py model.name=leaky model.budget=500": "shapes.py:14: ZeroDivisionError",
        "rnnbench_import=task.py data=own data.name=t": "data.name=t: task.py:5: ZeroDivisionError",
        "rnnbench_import=bare.py data=own data.name=t": "data.name=t: bare.T lacks steps, input_size",
    }.items():
        with pytest.raises(ConfigError) as error:
            rnnbench.run(*words.split(), "tracking.uri=null", folder="r/0")
        assert message in str(error.value)
    assert not (tmp_path / "r").exists()


def typed_in(text: str, **more: object) -> None:
    """Run a cell of a notebook."""
    exec(compile(text, "<ipython-input-1>", "exec"), {"__name__": "__main__", **more})


def test_a_class_of_a_notebook_is_known_by_its_content():
    def hash_now(text: str, **more: object) -> str:
        typed_in(text, **more)
        config = config_of()
        assert list(imported(config)) == ["__main__.Leaky"]
        return trial_hash(config, "x")

    slow = hash_now(leaky("0.9"))
    bound = config_of()
    assert hash_now("\n\n# moved\n" + leaky("0.9")) == slow
    fast = hash_now(leaky("0.4"))
    assert fast != slow
    assert (keep_of(bound), keep_of(config_of())) == (pytest.approx(0.9), pytest.approx(0.4))
    # What it refers to counts too: numbers, functions and classes of other cells.
    assert hash_now(leaky("keep"), keep=0.9) != hash_now(leaky("keep"), keep=0.4)
    helpers: list[dict[str, object]] = [{}, {}]
    for scope, value in zip(helpers, ("0.9", "0.4"), strict=True):
        exec(f"def keep(): return {value}", scope)
    assert len({hash_now(leaky("keep()"), keep=scope["keep"]) for scope in helpers}) == 2


# Lines before a class of a notebook and how it gets its number, which is V.
HELD = {
    "partial": ("from functools import partial\ndef f(v): return v\nkeep = partial(f, V)", "keep()"),
    "a function in a partial": (
        "from functools import partial\ndef f(v): return V\nkeep = partial(f, 0)",
        "keep()",
    ),
    "cached": ("from functools import lru_cache\n@lru_cache\ndef keep(): return V", "keep()"),
    "attribute": ("class P: pass\np = P(); p.keep = V", "p.keep"),
    "function as attribute": ("class P: pass\np = P(); p.keep = lambda: V", "p.keep()"),
    "bound method": (
        "class P:\n    def keep(self): return self.v\np = P(); p.v = V; keep = p.keep",
        "keep()",
    ),
    "slots": ("class P: __slots__ = ['keep']\np = P(); p.keep = V", "p.keep"),
    "tensor": ("import torch\nkeep = torch.tensor([V], dtype=torch.bfloat16)", "keep"),
    "array": ("import numpy\nkeep = numpy.array([V])", "float(keep[0])"),
    "module": ("import torch\np = torch.nn.Linear(1, 1)\nfor w in p.parameters(): w.data.fill_(V)",
               "p.weight.detach()[0]"),
    "autograd": ("import torch\nclass P(torch.autograd.Function):\n    @staticmethod\n"
                 "    def forward(ctx, x): return x * V\n    @staticmethod\n"
                 "    def backward(ctx, g): return g", "P.apply(torch.tensor(1.0))"),
    "enum": ("from enum import Enum\nclass P(Enum):\n    keep = V", "P.keep.value"),
}  # fmt: skip


@pytest.mark.parametrize("before, keep", HELD.values(), ids=HELD.keys())
def test_whatever_a_class_of_a_notebook_reaches_is_in_its_identity(before, keep):
    def hash_now(value: str) -> tuple[str, float]:
        typed_in(before.replace("V", value) + "\n" + leaky("kept", late=f"kept = {keep}"))
        config = config_of()
        return trial_hash(config, "x"), keep_of(config)

    (slow, most), (fast, little), (again, _) = (hash_now(value) for value in ("0.9", "0.4", "0.9"))
    assert (most, little) == (pytest.approx(0.9, abs=0.01), pytest.approx(0.4, abs=0.01))
    assert slow == again != fast


def test_a_module_is_known_as_it_was_imported_until_it_is_reloaded(tmp_path, monkeypatch):
    """Its file was edited since: what trains is what is in memory."""
    write(
        tmp_path,
        {"mine_r.py": leaky("helper_r.KEEP", "import helper_r"), "helper_r.py": "KEEP = 0.9"},
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import helper_r  # type: ignore[import-not-found]
    import mine_r  # type: ignore[import-not-found]

    def in_a_notebook() -> tuple[str, float]:
        typed_in(leaky("helper_r.KEEP", "import helper_r"))
        return trial_hash(config_of(), "x"), keep_of(config_of())

    first, noted = hash_of(), in_a_notebook()
    (tmp_path / "helper_r.py").write_text("KEEP = 0.44")
    importlib.reload(mine_r)
    assert (hash_of(), keep_of(config_of())) == (first, pytest.approx(0.9))
    assert in_a_notebook() == noted
    importlib.reload(helper_r)
    importlib.reload(mine_r)
    assert hash_of() != first and keep_of(config_of()) == pytest.approx(0.44)
    assert in_a_notebook()[0] != noted[0]


def test_a_module_that_the_user_imports_is_known_like_the_file(tmp_path, monkeypatch):
    write(tmp_path, {"mine_i.py": leaky(), "other_i.py": leaky("0.4")})
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_i  # type: ignore[import-not-found]

    assert mine_i.__name__ in sys.modules
    assert hash_of() == hash_of(tmp_path / "mine_i.py")
    with pytest.raises(ConfigError, match=r"'leaky'.*mine_i\.py:\d+ and .*other_i\.py:\d+"):
        import other_i  # type: ignore[import-not-found]  # noqa: F401


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with an entry point: editable, or not."""

    def install(name: str, editable: bool, text: str) -> Path:
        site, source = tmp_path / f"site_{name}", tmp_path / f"src_{name}"
        home = write(source if editable else site, {f"{name}.py": text})
        write(
            site,
            {
                f"{name}-2.5.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n",
                f"{name}-2.5.dist-info/entry_points.txt": f"[rnnbench]\n{name} = {name}\n",
            },
        )
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.syspath_prepend(str(source))
        return home / f"{name}.py"

    return install


def test_an_installed_package_is_known_by_its_version_an_editable_one_by_its_content(package):
    alone = hash_of(cell="gru")
    package("leaks_a", False, leaky().replace('"leaky"', '"leaky_a"'))
    unbound = replace(make_config("leaky_a"), rnnbench_import=None)
    assert imported(recalled(plain(unbound), {"leaks_a": "2.5"})) == {"leaks_a": "2.5"}
    assert imported(config_of(cell="leaky_a")) == {"leaks_a": "2.5"}
    file = package("leaks_b", True, leaky().replace('"leaky"', '"leaky_b"'))
    first = config_of(cell="leaky_b")
    assert list(imported(first)) == ["leaks_b.py"]
    file.write_text(file.read_text().replace("0.9", "0.4"))
    second = config_of(cell="leaky_b")
    assert trial_hash(first, "x") != trial_hash(second, "x")
    assert (keep_of(first), keep_of(second)) == (pytest.approx(0.9), pytest.approx(0.4))
    assert hash_of(cell="gru") == alone  # which has nothing to do with them


def test_files_are_bound_in_several_threads_at_once(tmp_path):
    files = [write(tmp_path / str(n), HELPERS["when it runs"]) / "mine.py" for n in range(4)]
    for n, file in enumerate(files):
        (file.parent / "helper.py").write_text(f"KEEP = 0.{n + 1}")
    found: dict[int, float] = {}

    def bind(n: int) -> None:
        for _ in range(20):
            found[n] = keep_of(config_of(files[n]))

    threads = [threading.Thread(target=bind, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: pytest.approx((n + 1) / 10) for n in range(4)}
