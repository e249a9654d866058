"""Laws of data.folds: a sweep trains each point under every fold, a single run one, and says which."""

from pathlib import Path

import pytest

import rnnbench
from rnnbench.sweep.plan import plan_grid

SMALL = ["data.train_size=64", "fit.epochs=1", "model.hidden_size=2", "tracking=none"]


def planned(*words: str, flags: tuple[str, ...] = ("-m",)) -> list[tuple[object, ...]]:
    """The trials of a grid: cell, seed, fold."""
    trials = plan_grid([*flags, "tracking=none", *words])
    keys = ("model.name", "seed", "data.fold")
    return [tuple(trial["params"][key] for key in keys) for trial in trials]


def test_a_grid_trains_each_point_under_every_fold() -> None:
    points = planned("model=lstm,gru", "seed=0,1", "data.folds=3")
    assert points == [(m, s, k) for m in ("lstm", "gru") for s in (0, 1) for k in (0, 1, 2)]
    assert len({trial["trial"] for trial in plan_grid(["-m", "tracking=none", "data.folds=3"])}) == 3


@pytest.mark.parametrize(
    ("words", "folds"),
    [
        (["data.folds=3", "data.fold=0"], [0]),
        (["data.folds=3", "data.fold=0,2"], [0, 2]),
        (["data.folds=2,3"], [0, 1, 0, 1, 2]),
        (["data.folds=null,2"], [0, 0, 1]),
        (["+hydra.sweeper.params={data.folds:'3',data.fold:'1,2'}"], [1, 2]),
        (["seed=0"], [0]),
    ],
    ids=str,
)
def test_a_grid_trains_only_the_folds_that_are_named(words: list[str], folds: list[int]) -> None:
    assert [fold for _, _, fold in planned(*words)] == folds


def test_folds_in_a_file_are_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "folded.yaml"
    flags = (f"--config-dir={tmp_path}", "-m")
    file.write_text("# @package _global_\ndata:\n  folds: 2\n")
    assert [fold for *_, fold in planned("experiment=folded", flags=flags)] == [0, 1]
    file.write_text("# @package _global_\ndata:\n  folds: 3\n  fold: 2\n")
    assert [fold for *_, fold in planned("experiment=folded", flags=flags)] == [2]


def test_a_single_run_trains_one_fold_and_says_which(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    result = rnnbench.run(*SMALL, "data.folds=3", "data.fold=2", folder="r/0")
    assert (result["params"]["data.folds"], result["params"]["data.fold"]) == (3, 2)
    out = capsys.readouterr().out
    assert "data.fold=2 of 3 folds validates; -m trains all folds" in out
    assert "1 x 1" in (tmp_path / "r" / "comparison.md").read_text()
