"""Nothing that is read back, from disk or a storage, runs code; servers of ours are for this machine."""

import ast
import json
import os
import pickle
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from omegaconf import OmegaConf

import rnnbench
from rnnbench.config import ConfigError, recorded
from rnnbench.paper.definition import Tuning
from rnnbench.paper.planning import TableSearch, winner
from rnnbench.reader import SearchRecord, open_source
from rnnbench.record.__main__ import sync
from tests.mlflow_store import make_sweep, train
from tests.test_app import QUICK
from tests.test_credentials import app

PACKAGE = Path(__file__).parents[1] / "rnnbench"


# What is read back runs nothing

EVIL = "import pathlib; pathlib.Path(r'{}').write_text('ran')\ndef call(*args): pass\nclass Class: pass\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `evil` that can be imported, and tells if it was; a folder to work in."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(EVIL.format(tmp_path / "ran"))
    monkeypatch.syspath_prepend(tmp_path / "evil")
    path = os.pathsep.join([str(tmp_path / "evil"), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def poison(job: Path) -> None:
    """A record that names code wherever a record has room for a name."""
    result = json.loads((job / "result.json").read_text())
    code = str(job.parents[2] / "evil" / "evil.py")
    result["params"] |= {
        "_target_": "evil.Class", "model._target_": "evil.Class", "rnnbench_import": code,
        "hydra.sweeper.custom_search_space": "evil.call", "model.name": "evil.Class",
    }  # fmt: skip
    result["tags"] |= {"rnnbench.import.evil.py": "0" * 64, "rnnbench.command": f"x rnnbench_import={code}"}
    (job / "result.json").write_text(json.dumps(result))
    config = OmegaConf.load(job / "config.yaml")
    config.rnnbench_import = code
    config.model.name = "evil.Class"
    OmegaConf.save(config, job / "config.yaml")


def test_a_record_that_names_code_imports_nothing(trap: Path, store: str) -> None:

    sweep = make_sweep(trap / "multirun", store, jobs=2)
    for job in (sweep / "0", sweep / "1"):
        poison(job)
        torch.save({"parameters": torch.zeros(1)}, job / "weights.pt")
    assert sync(sweep) == 0
    for source in (sweep, store):
        assert len(rnnbench.records(source)) == 2
        assert len(open_source(str(source)).find(["0" * 16, f"{1:016x}"])) == 2
    with pytest.raises(ConfigError, match="import that file first"):
        rnnbench.load(sweep / "0")
    for more in ({"_target_": "evil.Class"}, {"model": {"_target_": "evil.Class"}}):
        merged = OmegaConf.merge(OmegaConf.load(sweep / "1" / "config.yaml"), more)
        OmegaConf.save(merged, sweep / "1" / "config.yaml")
        with pytest.raises(Exception, match=r"_target_|import that file"):
            rnnbench.load(sweep / "1")


def test_weights_that_would_run_code_are_refused(trap: Path) -> None:

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("import evil",)

    job = train(trap / "multirun", 0).path
    torch.save({"parameters": Evil()}, job / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt: is damaged") as error:
        rnnbench.load(job)
    assert isinstance(error.value.__cause__, pickle.UnpicklingError)


@pytest.mark.parametrize(
    "word",
    [
        "rnnbench_import=evil.py",
        "+hydra.callbacks.x._target_=evil.Class",
        "hydra.callbacks.x._target_=evil.Class",
        "++model._target_=evil.Class",
        "hydra/launcher=evil",
        "--config-dir=evil",
        "-m",
        "~model",
        "tracking.uri=http://evil",
        "data.root=/",
        "optim.lr=${oc.env:PGPASSWORD}",
    ],
)
def test_the_words_of_a_record_set_values_and_nothing_else(word: str) -> None:
    with pytest.raises(ConfigError, match="stands in a record"):
        recorded(["optim.lr=0.1", word], ["seed"])
    assert recorded(["optim.lr=0.1", "model=lstm", word], [word]) == ["optim.lr=0.1", "model=lstm", word]


@pytest.mark.slow
def test_a_winner_whose_record_names_code_is_not_trained_again(trap: Path) -> None:
    """A study's storage is shared: what stands there of the winner is the work of others."""
    words = [
        "-m",
        "hydra/sweeper=optuna",
        "search=rate",
        "hydra.sweeper.n_trials=1",
        "tracking.uri=null",
        *QUICK,
    ]
    words += ["hydra.sweeper.study_name=s", "hydra.sweeper.storage=sqlite:///study.db"]
    app(trap, "rnnbench", *words)
    study = optuna.load_study(study_name="s", storage="sqlite:///study.db")
    (trial,) = study.get_trials()
    overrides = [*trial.user_attrs["record"]["overrides"], f"rnnbench_import={trap.parent}/evil/evil.py"]
    study._storage._backend.engine.dispose()
    with sqlite3.connect("study.db") as tables:
        changed = json.dumps(trial.user_attrs["record"] | {"overrides": overrides})
        tables.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'record'", (changed,))
    done = subprocess.run(
        [sys.executable, "-m", "rnnbench", *words, "hydra.sweeper.confirm=1"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "rnnbench_import" in done.stderr and "not taken over" in done.stderr


# Laws of the source

FILES_OF_CODE = sorted(PACKAGE.rglob("*.py"))
# Calls that can run code, and the files that may make them, each for its reason.
CALLS = {
    "pickle.loads": {
        "sweep/compose.py",
        "sweep/hydra_api.py",
    },  # of what they have pickled themselves, in memory
    "pickle.Unpickler": {"tasks/images.py"},  # its own, which knows arrays only: CIFAR is published so
    "runpy.run_path": {"kernels/install.py"},  # from the source
    "importlib.import_module": {
        "sweep/launcher.py",
        "__init__.py",
        "kernels/build.py",
        "nn/cells/__init__.py",
        "paper/figures/__init__.py",
        "paper/forks.py",
        "search/storages/__init__.py",
        "tasks/__init__.py",
    },  # names in the source
    "hydra.utils.get_method": {"search/plan.py", "search/runner.py"},  # custom_search_space, from the user
    # The text of kernels, which rnnbench writes from a graph of numbers and of the names of weights.
    "exec": {"kernels/gpu/scan.py"},
    "compile": {"kernels/gpu/scan.py"},
}
BANNED = {
    *CALLS, "pickle.load", "cloudpickle.loads", "cloudpickle.load", "joblib.load", "dill.load",
    "marshal.loads", "shelve.open", "eval", "exec", "compile", "__import__", "os.system", "torch.hub.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "numpy.fromfile",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_object",
    "hydra.utils.get_static_method",
}  # fmt: skip


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls and base classes by the full names that the imports of a file give them."""
    tree = ast.parse(file.read_text())
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (a.asname or a.name).split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full(node: ast.expr) -> str:
        first, _, rest = ast.unparse(node).partition(".")
        return f"{names.get(first, first)}{'.' if rest else ''}{rest}"

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield full(node.func), node
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                yield full(base), ast.Call(base, [], [])


def test_nothing_that_is_read_can_run_code() -> None:
    for file in FILES_OF_CODE:
        here = file.relative_to(PACKAGE).as_posix()
        for name, call in calls(file):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name in BANNED:
                assert here in CALLS.get(name, set()), f"{name} in {here}"
            if name == "torch.load":
                assert given["weights_only"] == "True", here
            if name == "numpy.load":
                assert given["allow_pickle"] == "False", here
            if name.startswith("subprocess."):
                assert given.get("shell", "False") == "False", here


def test_the_law_would_see_what_it_forbids(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "import torch as t, pickle\nfrom yaml import load as read\nfrom numpy import load\n"
        "def f(): return t.load('x'), read('x'), load('y'), pickle.load('z'), eval('1')\n"
        "class C(pickle.Unpickler): pass\n"
    )
    assert {name for name, _ in calls(file)} == {
        "torch.load", "yaml.load", "numpy.load", "pickle.load", "eval", "pickle.Unpickler"
    }  # fmt: skip


def test_servers_that_we_start_are_for_this_machine_alone() -> None:
    """No address of ours stands for all interfaces, in the source, the configs or the documentation."""
    root = PACKAGE.parent
    files = [
        *FILES_OF_CODE,
        *root.glob("conf/**/*.yaml"),
        *PACKAGE.glob("docs/*.md"),
        *PACKAGE.glob("docs/*.yaml"),
    ]
    for file in [*files, root / "README.md"]:
        text = file.read_text()
        assert not re.search(r"(?<!\d)0\.0\.0\.0(?!/)", text) or file.name == "compose.yaml", file
    for file in FILES_OF_CODE:
        for name, call in calls(file):
            if name.endswith(("HTTPServer", "run_grpc_proxy_server", "socket.bind", "create_server")):
                assert "127.0.0.1" in ast.unparse(call), f"{name} in {file}"


def test_the_winner_of_a_table_is_vetted() -> None:
    tuned = Tuning(rows=["model=lstm"], search=["search=rate"], trials=1, fresh="1,2")
    own = ["rnnbench_import=mine.py", "model=lstm", "search=rate", "seed=0"]

    def found(*more: str) -> TableSearch:
        told = shlex.join(["python", "-m", "rnnbench", *own, "optim.lr=0.1", *more])
        return TableSearch("model=lstm", "s", own, 1, SearchRecord("s", told, "0", {}, None), 1, "tpe", {})

    assert winner(found(), tuned) == [*own[:3], "optim.lr=0.1", "seed=1,2"]
    mine = "--config-dir=mine"  # which this command has been given as well
    assert winner(found(mine), tuned, [mine]) == winner(found(), tuned)
    for word in ("rnnbench_import=evil.py", "+hydra.callbacks.x._target_=evil.Class", "--config-dir=evil"):
        with pytest.raises(ConfigError, match="stands in a record"):
            winner(found(word), tuned)
