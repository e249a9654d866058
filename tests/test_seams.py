"""What adding a thing costs: each is added here in a temporary folder, by touching just its own files."""

import os
from pathlib import Path

import pytest
from test_paper import PLANNED, runs

import rnnbench
from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import fill
from rnnbench.paper.definition import table_of
from rnnbench.paper.drawing import draw
from rnnbench.paper.files import texts
from rnnbench.paper.verification import verify
from rnnbench.reader import Folders
from tests.test_app import run

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

CAPTION = "From the lowest run to the highest; dot: the {statistic}."


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
    assert "From the lowest run to the highest; dot: the median." in page and 'data-series="2"' in page
    assert verify(out, str(runs), [mine.parent]) == ([], [])
    (mine / "ranges.py").write_text("CAPTION = 1 / 0")
    with pytest.raises(ConfigError, match=r"figures: .*ranges\.py:1: ZeroDivisionError"):
        table_of(how, [mine.parent])
